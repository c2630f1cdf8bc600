/* bench/sim/main.c -- trireme-bench-sim: what `trireme-bench sessions --transport sim` runs. One JSON object a line.
 * Exit status: 0; 1: somebody was not told of his mail, a session was lost, or a bound does not hold; 64, 70. */
#include "bench/sim/sessions.h"
#include "core/metrics.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Read by jemalloc: no huge pages, whose halves would be resident and used by nobody. */
extern const char *malloc_conf;
const char *malloc_conf = "thp:never,metadata_thp:disabled";

#define NOTIFY_S     60
#define KEEP_ALIVE_S 240 /* Two of 2 minutes. */
#define ACTIVE_STEP  1000
#define ACTIVE_S     60
#define SUM_PERCENT  2.0
#define SUM_BYTES    (12.0 * 1048576) /* What the allocator counts and has not touched. */
#define MANY         1000000          /* Fewer sessions do not make little of what is there once. */

static double clock_s(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- What a phase costs -------------------------------------------------------------------------------- */

struct cost {
    double cpu_s[PART_COUNT], process_s, wall_s;
};

static struct cost cost_now(const struct sessions *b)
{
    struct cost c = {.process_s = clock_s(CLOCK_PROCESS_CPUTIME_ID), .wall_s = clock_s(CLOCK_MONOTONIC)};

    for (unsigned r = 0; r < PART_COUNT; r++)
        c.cpu_s[r] = (double)sim_node_cpu_ns(b->nodes[r]) / 1e9;
    return c;
}

static struct cost cost_since(const struct sessions *b, const struct cost *begin)
{
    struct cost c = cost_now(b);

    for (unsigned r = 0; r < PART_COUNT; r++)
        c.cpu_s[r] -= begin->cpu_s[r];
    c.process_s -= begin->process_s;
    c.wall_s -= begin->wall_s;
    return c;
}

static double cost_servers(const struct cost *c)
{
    return c->cpu_s[PROXY] + c->cpu_s[DIRECTOR] + c->cpu_s[BACKEND];
}

/* CPU of the servers for each of `count`, us. */
static void cost_print(const struct cost *c, const char *what, uint64_t count)
{
    double each = 1e6 / (double)MAX(count, 1u);

    printf("\"cpu_us_per_%s\": %.2f, \"cpu_us_per_%s_proxy\": %.2f, \"cpu_us_per_%s_director\": %.2f, "
           "\"cpu_us_per_%s_backend\": %.2f, \"cpu_us_clients\": %.2f, \"cpu_us_simulator\": %.2f, "
           "\"seconds\": %.1f",
           what, cost_servers(c) * each, what, c->cpu_s[PROXY] * each, what, c->cpu_s[DIRECTOR] * each, what,
           c->cpu_s[BACKEND] * each, c->cpu_s[CLIENTS] * each,
           (c->process_s - cost_servers(c) - c->cpu_s[CLIENTS]) * each, c->wall_s);
}

static void head(const struct sessions *b, const char *phase)
{
    printf(
        "{\"name\": \"sessions\", \"transport\": \"sim\", \"phase\": \"%s\", \"count\": %u, \"users\": %u, ",
        phase, b->options.count, b->options.users);
}

static double mib(uint64_t bytes)
{
    return (double)bytes / 1048576;
}

/* ---- Memory -------------------------------------------------------------------------------------------- */

static uint64_t total(const struct memory *m, enum part r)
{
    return m->resident[r] + m->stacks[r];
}

static double each(const struct sessions *b, uint64_t after, uint64_t before)
{
    return ((double)after - (double)before) / b->options.count;
}

/* What the sessions have added; each server's bounded caches apart. Bytes a session. */
static double print_user(const struct sessions *b, const struct memory *m, const struct memory *before)
{
    double proxy = each(b, total(m, PROXY), total(before, PROXY));
    double director = each(b, total(m, DIRECTOR), total(before, DIRECTOR));
    double backend =
        each(b, total(m, BACKEND) - m->account_cache, total(before, BACKEND) - before->account_cache);

    printf("\"user_bytes_per_session\": %.1f, \"user_bytes_per_session_proxy\": %.1f, "
           "\"user_bytes_per_session_director\": %.2f, \"user_bytes_per_session_backend\": %.1f, ",
           proxy + director + backend, proxy, director, backend);
    printf("\"mib_fixed_proxy\": %.1f, \"mib_fixed_director\": %.1f, \"mib_fixed_backend\": %.1f, "
           "\"mib_backend_account_cache\": %.1f, ",
           mib(total(before, PROXY)), mib(total(before, DIRECTOR)), mib(total(before, BACKEND)),
           mib(m->account_cache));
    return proxy + director + backend;
}

/* Whatever the number of sessions: what each of them has of the tables. */
static double print_parts(const struct sessions *b, const struct memory *m, const struct memory *before)
{
    uint64_t known = m->records + m->users + m->user_table;
    double parts = each(b, known, 0) + each(b, m->account_table, before->account_table);

    printf("\"parts_bytes_per_session\": %.1f, \"record\": %.1f, \"tls\": %.1f, \"record_slack\": %.1f, "
           "\"user\": %.1f, \"user_table\": %.1f, \"timers\": 0, \"proxy_rest\": %.1f, ",
           parts, each(b, m->record_used, 0), each(b, m->record_tls, 0),
           each(b, m->records, m->record_used + m->record_tls), each(b, m->users, 0),
           each(b, m->user_table, 0), each(b, total(m, PROXY) - known, total(before, PROXY)));
    printf("\"backend_account_table\": %.1f, \"backend_rest\": %.1f, \"accounts\": %llu, ",
           each(b, m->account_table, before->account_table),
           each(b, total(m, BACKEND) - m->account_table - m->account_cache,
                total(before, BACKEND) - before->account_table - before->account_cache),
           (unsigned long long)m->account_count);
    return parts;
}

/* Every page of the process, by whose it is. */
static double print_process(const struct sessions *b, const struct memory *m)
{
    static const char *const names[PART_COUNT] = {"proxy", "director", "backend", "clients"};
    double difference = 100.0 * ((double)m->sum - (double)m->rss) / (double)m->rss;

    for (unsigned r = 0; r < PART_COUNT; r++)
        printf("\"mib_%s\": %.1f, \"mib_%s_used\": %.1f, \"mib_%s_stacks\": %.1f, ", names[r],
               mib(m->resident[r]), names[r], mib(m->heaps[r]), names[r], mib(m->stacks[r]));
    printf(
        "\"mib_simulated_network\": %.1f, \"mib_simulated_disks\": %.1f, \"mib_client_tls_and_rest\": %.1f, "
        "\"mib_rest_slack\": %.1f, \"mib_program\": %.1f, \"mib_sum\": %.1f, \"mib_rss\": %.1f, "
        "\"sum_difference_percent\": %.2f, ",
        mib(m->network), mib(m->disks), mib(m->other), mib(m->other_slack), mib(m->program), mib(m->sum),
        mib(m->rss), difference);
    printf("\"kernel_bytes_per_session\": %.1f, \"client_bytes_per_session\": %.1f}\n",
           each(b, m->network, 0), each(b, total(m, CLIENTS) + m->other, 0));
    return difference;
}

/* Do the bounds hold? */
static bool phase_memory(struct sessions *b, const struct memory *before, double bytes_max)
{
    double bytes, parts, difference, bound;
    struct memory m;

    memory_measure(b, &m);
    head(b, "memory");
    bytes = print_user(b, &m, before);
    parts = print_parts(b, &m, before);
    difference = print_process(b, &m);
    if (bytes_max == 0)
        return true;
    bound = MAX(SUM_PERCENT, 100 * SUM_BYTES / (double)m.rss);
    return (b->options.count < MANY ? parts : bytes) <= bytes_max && difference <= bound &&
           difference >= -bound;
}

/* ---- Mail ---------------------------------------------------------------------------------------------- */

static void mail_choose(struct sessions *b)
{
    const struct options *o = &b->options;
    unsigned step = o->users / o->mails;

    b->mail_users = calloc(o->mails, sizeof *b->mail_users);
    ASSERT(b->mail_users != NULL);
    for (unsigned i = 0; i < o->mails; i++) /* One of each stretch. */
        b->mail_users[i] = i * step + (unsigned)sim_below(b->world, step);
}

static unsigned sessions_of(const struct options *o, unsigned user)
{
    return user < o->count ? (o->count - user - 1) / o->users + 1 : 0;
}

static uint64_t expected(const struct sessions *b)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < b->options.mails; i++)
        sum += sessions_of(&b->options, b->mail_users[i]);
    return sum;
}

static bool all_notified(void *arg)
{
    const struct sessions *b = arg;

    return b->notified >= expected(b);
}

/* Sessions that have not heard. */
static uint64_t unheard(const struct sessions *b)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < b->options.mails; i++)
        for (unsigned index = b->mail_users[i]; index < b->options.count; index += b->options.users)
            count += b->clients[index].exists == 0;
    return count;
}

static bool phase_mail(struct sessions *b)
{
    struct cost begin, c;
    uint64_t due, missed;
    bool ok;

    mail_choose(b);
    due = expected(b);
    b->opens = true;
    begin = cost_now(b);
    ok = lmtp_deliver(b);
    if (b->notified < due)
        world_run(b, NOTIFY_S, all_notified);
    c = cost_since(b, &begin);
    b->opens = false;
    missed = unheard(b);
    head(b, "mail");
    printf("\"messages\": %u, \"notifications\": %llu, \"due\": %llu, \"missed\": %llu, \"broken_records\": "
           "%llu, "
           "\"notifications_per_cpu_s\": %.0f, ",
           b->options.mails, (unsigned long long)b->notified, (unsigned long long)due,
           (unsigned long long)missed, (unsigned long long)b->broken, (double)b->notified / cost_servers(&c));
    cost_print(&c, "notification", b->notified);
    printf("}\n");
    return ok && missed == 0 && b->broken == 0;
}

/* ---- Keep-alives, commands ----------------------------------------------------------------------------- */

static bool phase_keep_alive(struct sessions *b)
{
    struct cost begin = cost_now(b), c;
    uint64_t records = b->records;
    double silence_s;

    clients_listen(b);
    world_run(b, KEEP_ALIVE_S, NULL);
    silence_s = clients_silence_s(b);
    c = cost_since(b, &begin);
    records = b->records - records;
    head(b, "keep-alive");
    printf("\"simulated_s\": %u, \"keep_alives\": %llu, \"mean_interval_s\": %.1f, \"longest_silence_s\": "
           "%.1f, \"cpu_percent\": %.2f, ",
           KEEP_ALIVE_S, (unsigned long long)records,
           (double)KEEP_ALIVE_S * b->options.count / (double)MAX(records, 1u), silence_s,
           100 * cost_servers(&c) / KEEP_ALIVE_S);
    cost_print(&c, "keep_alive", records);
    printf("}\n");
    return records > 0;
}

struct speak {
    struct sessions *bench;
    unsigned next, end;
};

/* Those who were asked to speak have been answered. */
static bool some_answered(void *arg)
{
    const struct sessions *b = arg;

    return b->answers >= b->asked;
}

static void speak_some(void *arg)
{
    struct speak *s = arg;
    unsigned step = s->bench->options.count / s->bench->options.active;

    for (; s->next < s->end; s->next++)
        client_speak(s->bench, s->next * step);
}

static bool phase_active(struct sessions *b)
{
    struct speak s = {.bench = b};
    struct cost begin = cost_now(b), c;
    bool ok = true;

    b->opens = true;
    while (s.next < b->options.active && ok) {
        b->asked = s.end = MIN(s.next + ACTIVE_STEP, b->options.active);
        sim_call(b->shards[CLIENTS], speak_some, &s);
        ok = world_run(b, ACTIVE_S, some_answered);
    }
    c = cost_since(b, &begin);
    b->opens = false;
    head(b, "active");
    printf("\"active\": %u, \"answered\": %llu, \"broken_records\": %llu, ", b->options.active,
           (unsigned long long)b->answers, (unsigned long long)b->broken);
    cost_print(&c, "command", b->answers * CLIENT_COMMANDS);
    printf("}\n");
    return ok && b->broken == 0;
}

/* ---- The run ------------------------------------------------------------------------------------------- */

static bool phase_open(struct sessions *b)
{
    struct cost begin = cost_now(b), c;
    bool ok = real_open(b);

    c = cost_since(b, &begin);
    head(b, "handshakes");
    printf("\"handshakes\": %u, \"failed\": %u, ", b->real_ready, b->real_failed);
    cost_print(&c, "handshake", b->real_ready);
    printf("}\n");
    return ok;
}

static bool phase_make(struct sessions *b)
{
    struct cost begin, c;
    bool ok;

    world_run(b, 3, NULL); /* Who has begun to idle goes to sleep. */
    begin = cost_now(b);
    ok = make_all(b);
    c = cost_since(b, &begin);
    head(b, "make");
    printf("\"made\": %u, \"simulated_s\": %.1f, ", b->made, (double)sim_now_ns(b->world) / SIM_S);
    cost_print(&c, "session", b->made);
    printf("}\n");
    fflush(stdout);
    return ok;
}

static int trouble(struct sessions *b, const char *what)
{
    fflush(stdout);
    fprintf(stderr, "trireme-bench: %s%s%s\n", what, b->trouble != NULL ? ": " : "",
            b->trouble != NULL ? b->trouble : "");
    return 1;
}

static int run(struct sessions *b, double bytes_max)
{
    struct memory before;
    bool bounded;

    if (!world_start(b))
        return trouble(b, "the nodes do not start");
    memory_measure(b, &before);
    if (!phase_open(b))
        return trouble(b, "the handshakes fail");
    if (!phase_make(b))
        return trouble(b, "the sessions cannot be made");
    bounded = phase_memory(b, &before, bytes_max);
    fflush(stdout);
    if (!phase_mail(b))
        return trouble(b, "mail does not reach everybody who idles");
    fflush(stdout);
    if (!phase_keep_alive(b))
        return trouble(b, "no keep-alives come");
    fflush(stdout);
    if (!phase_active(b))
        return trouble(b, "not everybody is answered");
    if (b->lost > 0)
        return trouble(b, "sessions were lost");
    if (!bounded)
        return trouble(b,
                       "more bytes a session than --bytes-max, or parts that do not add up to the process");
    return 0;
}

static void usage(FILE *to)
{
    fprintf(to,
            "Usage: trireme-bench sessions --transport sim [--count N] [--users N] [--handshakes N]\n"
            "           [--messages N] [--seed N] [--bytes-max N] [--json]\n\n"
            "N sessions (10,000,000) of --users users (4 of 10) idle in one process; the first --handshakes\n"
            "(1 of 100, at most 100,000) by real handshakes. --messages (10,000) users get mail.\n");
}

static unsigned number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*text == '\0' || *end != '\0' || value > 100000000) {
        fprintf(stderr, "trireme-bench: '%s' is not a number up to 100000000\n", text);
        exit(64);
    }
    return (unsigned)value;
}

enum {
    OPT_COUNT = 256,
    OPT_USERS,
    OPT_HANDSHAKES,
    OPT_MESSAGES,
    OPT_SEED,
    OPT_BYTES_MAX,
    OPT_JSON,
    OPT_HELP
};

static const struct option long_options[] = {
    {"count", 1, NULL, OPT_COUNT},
    {"users", 1, NULL, OPT_USERS},
    {"handshakes", 1, NULL, OPT_HANDSHAKES},
    {"messages", 1, NULL, OPT_MESSAGES},
    {"seed", 1, NULL, OPT_SEED},
    {"bytes-max", 1, NULL, OPT_BYTES_MAX},
    {"json", 0, NULL, OPT_JSON},
    {"help", 0, NULL, OPT_HELP},
    {0},
};

static bool options_read(int argc, char **argv, struct options *o, double *bytes_max)
{
    for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        if (option == OPT_COUNT)
            o->count = number(optarg);
        else if (option == OPT_USERS)
            o->users = number(optarg);
        else if (option == OPT_HANDSHAKES)
            o->handshakes = number(optarg);
        else if (option == OPT_MESSAGES)
            o->mails = number(optarg);
        else if (option == OPT_SEED)
            o->seed = number(optarg);
        else if (option == OPT_BYTES_MAX)
            *bytes_max = number(optarg);
        else if (option != OPT_JSON)
            return false;
    }
    o->users = o->users > 0 ? o->users : MAX(o->count * 4ull / 10, 1u);
    o->users = MIN(o->users, o->count);
    o->handshakes = o->handshakes > 0 ? o->handshakes : MIN(MAX(o->count / 100, 1u), 100000u);
    o->handshakes = MIN(o->handshakes, o->count);
    o->mails = MIN(o->mails > 0 ? o->mails : 10000, o->users);
    o->active = MAX(o->count / 100, 1u);
    return optind == argc && o->count > 0;
}

int main(int argc, char **argv)
{
    static struct sessions bench = {.options = {.count = 10000000, .seed = 1}};
    double bytes_max = 0;
    int rc;

    if (!options_read(argc, argv, &bench.options, &bytes_max)) {
        usage(stderr);
        return 64;
    }
    rc = run(&bench, bytes_max);
    fflush(stdout);
    return rc;
}
