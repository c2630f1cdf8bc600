/* bench/flood.c -- `flood`: --connections clients that hold a TLS ticket each lose their connections and come back at once, to
 * --port2 (another proxy) if it is given. Processes of their own hold them; this one counts.
 *
 * First all log in at --port, some at a time. Then, on one word, all connect, resume, and log in: a login's time counts from
 * that word. Who is refused or cut off has failed, and does not try again. */
#include "bench/bench.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_COUNT_MAX 10000
#define CHILDREN_MAX    16
#define PACE            32    /* Logging in at once the first time, all processes together. */
#define LIMIT_US        120e6 /* Without one more that is in. */

struct part { /* What a process tells. */
    struct latencies latencies;
    uint64_t in, lost; /* Of the first time, then of the second. */
    uint64_t in_again, lost_again, resumed, handshakes;
    double last_us;
};

struct flood_shared {
    double word_us; /* 0: not yet. */
    struct part parts[CHILDREN_MAX];
};

static struct flood_shared *shared;

struct guest {
    struct client client;
    struct flood_child *child;
    unsigned user;
    bool greeted, in, again;
};

struct flood_child {
    struct bench *bench;
    struct part *part;
    struct guest *guests;
    unsigned count;
};

/* ---- A process of clients ------------------------------------------------------------------------------ */

static void guest_in(struct guest *g)
{
    struct part *part = g->child->part;
    double now = clock_us();

    g->in = true;
    if (!g->again) {
        part->in++;
        return;
    }
    part->in_again++;
    part->last_us = now;
    latency_add(&part->latencies, now - shared->word_us);
}

static void guest_lost(const struct guest *g)
{
    g->child->part->lost += !g->again;
    g->child->part->lost_again += g->again && !g->in;
}

static void guest_refused(struct guest *g)
{
    client_close(&g->client);
    guest_lost(g);
}

static void guest_event(struct client *c, enum client_event event)
{
    struct guest *g = c->owner;

    if (event == CLIENT_CLOSED) {
        guest_lost(g);
        return;
    }
    if (event != CLIENT_LINE)
        return;
    if (!g->greeted) {
        g->greeted = true;
        client_printf(c, "l LOGIN u%u %s\r\n", g->user, g->child->bench->options.password);
        client_flush(c);
    } else if (!g->in && answer_is(c->line, "l")) {
        if (answer_ok(c->line))
            guest_in(g);
        else
            guest_refused(g);
    }
}

static void guest_connect(struct flood_child *f, unsigned index, bool again)
{
    struct guest *g = &f->guests[index];

    g->greeted = g->in = false;
    g->again = again;
    client_connect(&g->client, &f->bench->loop, guest_event, g);
}

/* All who have ever been in come back. */
static void return_all(struct flood_child *f)
{
    struct loop *l = &f->bench->loop;
    unsigned port2 = f->bench->options.port2;

    for (unsigned i = 0; i < f->count; i++)
        client_free(&f->guests[i].client);
    l->server.sin_port = htons((uint16_t)(port2 > 0 ? port2 : f->bench->options.port));
    l->handshakes = l->resumed = 0;
    while (*(volatile double *)&shared->word_us > clock_us())
        bench_pause(1000);
    for (unsigned i = 0; i < f->count; i++) {
        guest_connect(f, i, true);
        if (i % 64 == 63)
            loop_run(l, 0);
    }
}

NORETURN static void child_run(struct bench *b, unsigned first, unsigned count, unsigned pace,
                               struct part *part)
{
    struct flood_child f = {
        .bench = b, .part = part, .count = count, .guests = calloc(count, sizeof *f.guests)};
    unsigned begun = 0;
    bool returned = false;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    loop_init(&b->loop, b->options.host, b->options.port, b->options.tls, true);
    b->loop.own_sessions = true;
    for (unsigned i = 0; i < count; i++)
        f.guests[i] = (struct guest){.client.fd = -1, .child = &f, .user = (first + i) % b->options.users};
    for (;;) {
        for (; begun < count && begun < part->in + part->lost + pace; begun++)
            guest_connect(&f, begun, false);
        if (!returned && *(volatile double *)&shared->word_us > 0) {
            returned = true;
            return_all(&f);
        }
        loop_run(&b->loop, 10);
        part->handshakes = b->loop.handshakes;
        part->resumed = b->loop.resumed;
    }
}

/* ---- The measuring process ----------------------------------------------------------------------------- */

struct sums {
    struct part all;
    double last_us;
};

static void sum(struct sums *out)
{
    *out = (struct sums){0};
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        const struct part *p = &shared->parts[i];

        out->all.in += p->in;
        out->all.lost += p->lost;
        out->all.in_again += p->in_again;
        out->all.lost_again += p->lost_again;
        out->all.resumed += p->resumed;
        out->all.handshakes += p->handshakes;
        out->all.latencies.count += p->latencies.count;
        for (unsigned k = 0; k < LATENCY_BUCKETS; k++)
            out->all.latencies.buckets[k] += p->latencies.buckets[k];
        out->last_us = MAX(out->last_us, p->last_us);
    }
}

/* Until all are in or lost, the first time or again, or no more come. */
static void wait_in(struct sums *sums, unsigned count, bool again)
{
    double since = clock_us();
    uint64_t last = 0, done = 0;

    while (done < count && clock_us() - since < LIMIT_US) {
        bench_pause(20e3);
        if (waitpid(-1, NULL, WNOHANG) > 0) {
            fprintf(stderr, "trireme-bench: a process of clients has died\n");
            exit(70);
        }
        sum(sums);
        done = again ? sums->all.in_again + sums->all.lost_again : sums->all.in + sums->all.lost;
        if (done != last)
            since = clock_us();
        last = done;
    }
}

static void print(struct bench *b, const struct sums *s, double start, const double *before,
                  const double *after, double asked)
{
    double us = MAX(s->last_us - start, 1);

    b->operations = s->all.in_again;
    b->loop.handshakes = s->all.handshakes;
    b->loop.resumed = s->all.resumed;
    bench_print_head(b);
    if (b->options.server.count > 0)
        bench_print_cpu(b, before, after);
    if (asked >= 0)
        printf("\"passdb_lookups\": %.0f, ", asked);
    printf("\"ops\": %llu, \"seconds\": %.2f, \"ops_per_s\": %.1f, \"p50_us\": %.0f, \"p99_us\": %.0f, "
           "\"errors\": %llu}\n",
           (unsigned long long)s->all.in_again, us / 1e6, (double)s->all.in_again * 1e6 / us,
           latency_quantile(&s->all.latencies, 0.5), latency_quantile(&s->all.latencies, 0.99),
           (unsigned long long)(b->options.connections - s->all.in_again));
}

static int measure(struct bench *b)
{
    double before[LAYERS_MAX], after[LAYERS_MAX], start, asked, lookups;
    static struct sums sums;

    wait_in(&sums, b->options.connections, false);
    if (sums.all.in < b->options.connections) {
        fprintf(stderr, "trireme-bench: only %llu of %u clients could log in\n",
                (unsigned long long)sums.all.in, b->options.connections);
        return 1;
    }
    lookups = server_metric(&b->options.server, "trireme_passdb_lookups_total");
    bench_pause(1e6);
    server_cpu_us(&b->options.server, before);
    start = clock_us() + 2e6; /* All have let go by then. */
    *(volatile double *)&shared->word_us = start;
    wait_in(&sums, b->options.connections, true);
    server_cpu_us(&b->options.server, after);
    asked = server_metric(&b->options.server, "trireme_passdb_lookups_total");
    print(b, &sums, start, before, after, asked < 0 || lookups < 0 ? -1 : asked - lookups);
    return sums.all.in_again < b->options.connections;
}

int flood_run(struct bench *b)
{
    unsigned count = b->options.connections, children = (count + CHILD_COUNT_MAX - 1) / CHILD_COUNT_MAX;
    pid_t pids[CHILDREN_MAX] = {0};
    int status;

    if (children > CHILDREN_MAX)
        return 64;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < children; i++) {
        unsigned first = i * CHILD_COUNT_MAX;

        pids[i] = fork();
        if (pids[i] == 0)
            child_run(b, first, MIN(CHILD_COUNT_MAX, count - first), MAX(PACE / children, 1u),
                      &shared->parts[i]);
    }
    status = measure(b);
    for (unsigned i = 0; i < children; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    return status;
}
