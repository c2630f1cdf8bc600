/* tests/sim/main.c -- trireme-sim: runs scenarios, one world a seed, and says what happened.
 *
 *     trireme-sim [--seed N [--seeds COUNT]] [--scenario NAME] [--keep-going] [--trace] [--talk]
 *                 [--verbose] [--without FAULT]...
 *
 * --trace shows every call through the door, --talk what clients say and hear, --verbose the server's log.
 *
 * One line a seed: scenario, seed, simulated time, faults, operations, hash, violations. Then a table of
 * faults against operations, summed over the seeds. Exit status: 0; 1 after a violation; 64 for wrong usage.
 */
#include "core/log.h"
#include "tests/sim/scenario.h"
#include "tests/sim/talk.h"
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Read by jemalloc: thousands of worlds, each with its arenas, and the address space of all of them would be kept. */
extern const char *malloc_conf;
const char *malloc_conf = "retain:false";

#define NAME_WIDTH 20 /* Of the table's first column. */

struct settings {
    uint64_t seed, seed_count;
    const char *scenario;
    uint32_t without; /* Faults. */
    bool trace, verbose, keep_going;
};

static struct {
    struct sim_world *world;
    const char *scenario;
} running;

/* A failed assertion or a wild pointer inside of a run: the seed must not be lost. */
static void on_fatal(int signal_number)
{
    char text[256];
    int size = snprintf(text, sizeof text, "trireme-sim: signal %d in scenario=%s seed=%llu at %llu ns\n",
                        signal_number, running.scenario != NULL ? running.scenario : "-",
                        running.world != NULL ? (unsigned long long)sim_seed(running.world) : 0,
                        running.world != NULL ? (unsigned long long)sim_now_ns(running.world) : 0);

    if (write(STDERR_FILENO, text, (size_t)size) < 0)
        _exit(1);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void catch_fatal(void)
{
    static char stack[64 * 1024];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = on_fatal, .sa_flags = SA_ONSTACK | SA_NODEFER};
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE};

    sigaltstack(&alternate, NULL);
    for (size_t k = 0; k < ARRAY_COUNT(signals); k++)
        sigaction(signals[k], &action, NULL);
}

static unsigned operation_count(const struct scenario *s)
{
    unsigned count = 0;

    while (s->operations[count] != NULL)
        count++;
    return count;
}

/* "stop", or "stop of proxy" where sites are told apart. */
static void print_row(const struct sim_counters *c, unsigned site, unsigned fault, unsigned count)
{
    const struct sim_site *s = &c->sites[site];
    char name[64];

    if (!(s->faults >> fault & 1))
        return;
    snprintf(name, sizeof name, "%s%s%s", sim_fault_name((enum sim_fault)fault), s->name != NULL ? " " : "",
             s->name != NULL ? s->name : "");
    printf("\n%-*s %8llu", NAME_WIDTH, name, (unsigned long long)c->struck[site][fault]);
    for (unsigned o = 0; o < count; o++)
        printf(" %7llu", (unsigned long long)c->met[site][fault][o]);
}

static void print_table(const struct scenario *s, const struct sim_counters *c)
{
    unsigned count = operation_count(s);

    printf("\n%-*s %8s", NAME_WIDTH, s->name, "struck");
    for (unsigned o = 0; o < count; o++)
        printf(" %7s", s->operations[o]);
    printf("\n%-*s %8s", NAME_WIDTH, "operations", "");
    for (unsigned o = 0; o < count; o++)
        printf(" %7llu", (unsigned long long)c->operations[o]);
    for (unsigned f = 0; f < SIM_FAULT_COUNT; f++)
        for (unsigned k = 0; k < c->site_count; k++)
            print_row(c, k, f, count);
    printf("\n");
}

/* Operations and strikes, all together. */
static uint64_t operations_sum(const struct sim_counters *c)
{
    uint64_t sum = 0;

    for (unsigned o = 0; o < SIM_OPERATIONS_MAX; o++)
        sum += c->operations[o];
    return sum;
}

static uint64_t struck_sum(const struct sim_counters *c)
{
    uint64_t sum = 0;

    for (unsigned s = 0; s < SIM_SITES_MAX; s++)
        for (unsigned f = 0; f < SIM_FAULT_COUNT; f++)
            sum += c->struck[s][f];
    return sum;
}

/* Number of violations. */
static unsigned run_seed(const struct scenario *s, uint64_t seed, const struct settings *set,
                         struct sim_counters *sum)
{
    uint64_t operations = operations_sum(sum), faults = struck_sum(sum);
    struct sim_world *w = sim_world_new(seed, sum);
    unsigned violations;

    running.world = w;
    running.scenario = s->name;
    sim_forbid(w, set->without);
    if (set->trace)
        sim_trace_to(w, STDERR_FILENO);
    if (talk_shown)
        sim_story_to(w, STDERR_FILENO);
    s->run(w);
    violations = sim_violation_count(w);
    operations = operations_sum(sum) - operations;
    faults = struck_sum(sum) - faults;
    printf("scenario=%s seed=%llu simulated=%.1fs faults=%llu operations=%llu hash=%016llx violations=%u\n",
           s->name, (unsigned long long)seed, (double)sim_now_ns(w) / 1e9, (unsigned long long)faults,
           (unsigned long long)operations, (unsigned long long)sim_hash(w), violations);
    for (unsigned k = 0; k < violations; k++)
        printf("  violation at %.6fs: %s\n", (double)sim_now_ns(w) / 1e9, sim_violation_text(w, k));
    fflush(stdout);
    running.world = NULL;
    sim_world_free(w);
    return violations;
}

static unsigned run_scenario(const struct scenario *s, const struct settings *set)
{
    static struct sim_counters sum;
    struct timespec start, end;
    unsigned violations = 0;
    uint64_t done = 0;
    double seconds;

    memset(&sum, 0, sizeof sum);
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (done < set->seed_count && (violations == 0 || set->keep_going))
        violations += run_seed(s, set->seed + done++, set, &sum);
    clock_gettime(CLOCK_MONOTONIC, &end);
    seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    print_table(s, &sum);
    printf("%s: %llu seeds, %llu events, %.0f s simulated in %.1f s (%.0f seeds a minute), %u violations\n",
           s->name, (unsigned long long)done, (unsigned long long)sum.events, (double)sum.simulated_ns / 1e9,
           seconds, (double)done * 60 / seconds, violations);
    return violations;
}

static int usage(FILE *to)
{
    fprintf(
        to,
        "usage: trireme-sim [--seed N] [--seeds COUNT] [--scenario NAME] [--keep-going] [--trace] [--talk] "
        "[--verbose] [--without FAULT]...\n");
    for (unsigned k = 0; scenarios[k] != NULL; k++)
        fprintf(to, "    %-14s %s\n", scenarios[k]->name, scenarios[k]->help);
    return to == stderr ? 64 : 0;
}

static bool fault_named(const char *text, uint32_t *mask)
{
    for (unsigned f = 0; f < SIM_FAULT_COUNT; f++) {
        if (strcmp(text, sim_fault_name((enum sim_fault)f)) == 0) {
            *mask |= 1u << f;
            return true;
        }
    }
    return false;
}

static bool number(const char *text, uint64_t *value_out)
{
    return slice_to_u64(slice_str(text), UINT64_MAX, value_out);
}

/* -1: go on; else the exit status. */
static int read_arguments(int argc, char **argv, struct settings *set)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},     {"seeds", required_argument, NULL, 'n'},
        {"scenario", required_argument, NULL, 'c'}, {"without", required_argument, NULL, 'x'},
        {"trace", no_argument, NULL, 't'},          {"verbose", no_argument, NULL, 'v'},
        {"keep-going", no_argument, NULL, 'k'},     {"talk", no_argument, NULL, 'w'},
        {"help", no_argument, NULL, 'h'},           {0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        bool ok = true;

        if (option == 's')
            ok = number(optarg, &set->seed);
        else if (option == 'n')
            ok = number(optarg, &set->seed_count);
        else if (option == 'c')
            set->scenario = optarg;
        else if (option == 'x')
            ok = fault_named(optarg, &set->without);
        else if (option == 't')
            set->trace = true;
        else if (option == 'v')
            set->verbose = true;
        else if (option == 'k')
            set->keep_going = true;
        else if (option == 'w')
            talk_shown = true;
        else if (option == 'h')
            return usage(stdout);
        else
            ok = false;
        if (!ok)
            return usage(stderr);
    }
    return optind == argc ? -1 : usage(stderr);
}

int main(int argc, char **argv)
{
    struct settings set = {.seed = 1, .seed_count = 1};
    int status = read_arguments(argc, argv, &set);
    unsigned violations = 0, ran = 0;

    if (status >= 0)
        return status;
    catch_fatal();
    /* Faults are the purpose here: what the nodes say about them is for whoever asks. */
    log_set_level(set.verbose ? LOG_DEBUG : (enum log_level)(LOG_ERROR + 1));
    for (unsigned k = 0; scenarios[k] != NULL; k++) {
        bool chosen =
            set.scenario != NULL ? strcmp(scenarios[k]->name, set.scenario) == 0 : !scenarios[k]->broken;

        if (!chosen)
            continue;
        ran++;
        violations += run_scenario(scenarios[k], &set);
    }
    if (ran == 0)
        return usage(stderr);
    return violations > 0;
}
