/* bench/slow_readers.c -- what clients that stop reading in the middle of a large body cost those who work: first the
 * workers alone, then the same beside --stuck others who have stopped. */
#include "bench/bench.h"
#include <stdio.h>
#include <stdlib.h>

#define SMALL_SIZE     20480 /* Of the messages that workers fetch. */
#define LARGE_USERS    16    /* Who have a large message; all who are stuck share them. */
#define STOP_AT        32768 /* Bytes of it that are read. */
#define RECEIVE_SIZE   65536 /* SO_RCVBUF of those who are stuck: their memory, not the server's. */
#define STUCK_PACE     50    /* On their way at once. */
#define STUCK_LIMIT_US 300e6 /* For all of them to be stuck. */
#define SETTLE_US      2e6
#define SAMPLE_US      250000.0

struct stuck {
    struct client client;
    struct slow_readers *run;
    unsigned user;
    bool fills; /* Makes its user's large message. */
    bool greeted, done;
};

struct slow_readers {
    struct bench *bench;
    struct stuck *stuck;
    char *large;
    unsigned large_size, done, lost;
    uint64_t peak_kib[LAYERS_MAX], tcp_kib;
};

void slow_readers_send(struct worker *w)
{
    switch (w->sequence++ % 4) {
    case 0:
        client_printf(&w->client, "x FETCH 1:* (UID FLAGS)\r\n");
        break;
    case 2:
        client_printf(&w->client, "x FETCH %u BODY.PEEK[]\r\n", 1 + (unsigned)worker_random(w, w->exists));
        break;
    default:
        client_printf(&w->client, "x NOOP\r\n");
    }
}

static void stuck_done(struct stuck *s)
{
    s->done = true;
    s->run->done++;
}

/* Tags are the steps: l(ogin), c(reate), m(essages), a(ppend); s(elect), f(etch). */
static void stuck_line(struct stuck *s, struct slice line)
{
    struct slow_readers *run = s->run;
    struct client *c = &s->client;

    if (!s->greeted) {
        s->greeted = true;
        client_printf(c, "l LOGIN u%u %s\r\n", s->user, run->bench->options.password);
    } else if (answer_is(line, "l") && answer_ok(line)) {
        client_printf(c, s->fills ? "c CREATE Large\r\n" : "s EXAMINE Large\r\n");
    } else if (answer_is(line, "c")) { /* It may be there. */
        client_printf(c, "m STATUS Large (MESSAGES)\r\n");
    } else if (answer_is(line, "m") && !s->done) {
        client_printf(c, "a APPEND Large {%u+}\r\n", run->large_size);
        client_write(c, run->large, run->large_size);
        client_write(c, "\r\n", 2);
    } else if (slice_eq(line, SLICE("* STATUS Large (MESSAGES 1)")) ||
               (answer_is(line, "a") && answer_ok(line))) {
        stuck_done(s);
    } else if (answer_is(line, "s") && answer_ok(line)) {
        client_printf(c, "f FETCH 1 BODY.PEEK[]\r\n");
    } else if (line.size > 0 && line.data[0] != '*') {
        run->lost++;
        fprintf(stderr, "trireme-bench: %.*s\n", (int)MIN(line.size, 200), line.data);
    }
    client_flush(c);
}

static void stuck_event(struct client *c, enum client_event event)
{
    struct stuck *s = c->owner;

    if (event == CLIENT_CLOSED) {
        s->run->lost++;
    } else if (event == CLIENT_LINE) {
        stuck_line(s, c->line);
    } else if (event == CLIENT_LITERAL && !s->done && c->bytes_in >= STOP_AT) {
        client_stall(c);
        stuck_done(s);
    }
}

/* Connects `count` of them, some at a time, and waits until they are done. */
static bool stuck_all(struct slow_readers *run, unsigned count, unsigned pace, bool fill)
{
    struct bench *b = run->bench;
    double limit = clock_us() + STUCK_LIMIT_US;
    unsigned begun = 0;

    run->done = 0;
    while (run->done < count && run->lost == 0 && clock_us() < limit) {
        for (; begun < count && begun < run->done + pace; begun++) {
            struct stuck *s = &run->stuck[begun];

            *s = (struct stuck){.client = {.fd = -1, .receive_size = fill ? 0 : RECEIVE_SIZE},
                                .run = run,
                                .user = begun % MIN(b->options.users, LARGE_USERS),
                                .fills = fill};
            client_connect(&s->client, &b->loop, stuck_event, s);
        }
        loop_run(&b->loop, 10);
    }
    if (run->done == count && run->lost == 0)
        return true;
    fprintf(stderr, "trireme-bench: %u of %u are %s, %u were cut off\n", run->done, count,
            fill ? "filled" : "stuck", run->lost);
    return false;
}

static bool large_fill(struct slow_readers *run)
{
    unsigned count = MIN(run->bench->options.users, LARGE_USERS);
    bool filled = stuck_all(run, count, 1, true);

    for (unsigned i = 0; i < count; i++)
        client_free(&run->stuck[i].client);
    return filled;
}

static void sample(struct slow_readers *run)
{
    uint64_t kib[LAYERS_MAX];

    server_rss_layers(&run->bench->options.server, true, kib);
    for (unsigned i = 0; i < run->bench->options.server.count; i++)
        run->peak_kib[i] = MAX(run->peak_kib[i], kib[i]);
    run->tcp_kib = MAX(run->tcp_kib, tcp_memory_kib());
}

static void print_memory(const struct slow_readers *run, uint64_t tcp_before_kib)
{
    const struct server *s = &run->bench->options.server;
    uint64_t sum = 0;

    for (unsigned i = 0; i < s->count; i++)
        sum += run->peak_kib[i];
    printf("\"server_pss_peak_kib\": %llu, ", (unsigned long long)sum);
    for (unsigned i = 0; s->count > 1 && i < s->count; i++)
        printf("\"server_pss_peak_kib_%s\": %llu, ", s->roots[i].layer, (unsigned long long)run->peak_kib[i]);
    printf("\"server_rss_kib\": %llu, \"tcp_kib_before\": %llu, \"tcp_peak_kib\": %llu, ",
           (unsigned long long)server_rss_kib(s, false), (unsigned long long)tcp_before_kib,
           (unsigned long long)run->tcp_kib);
}

struct figures {
    uint64_t operations;
    double p50_us, p99_us;
};

static struct figures workers_measure(struct bench *b)
{
    bench_measure(b);
    return (struct figures){b->operations, latency_quantile(&b->latencies, 0.5),
                            latency_quantile(&b->latencies, 0.99)};
}

static int measure(struct slow_readers *run)
{
    struct bench *b = run->bench;
    struct figures without = workers_measure(b), with;
    uint64_t tcp_before_kib = tcp_memory_kib();

    bench_run_for(b, SAMPLE_US); /* The last answers. */
    if (!stuck_all(run, b->options.stuck, STUCK_PACE, false))
        return 1;
    sample(run);
    bench_run_for(b, SETTLE_US);
    sample(run);
    with = workers_measure(b);
    sample(run);
    bench_print_head(b);
    printf("\"stuck\": %u, \"stuck_size\": %u, ", b->options.stuck, run->large_size);
    print_memory(run, tcp_before_kib);
    printf("\"ops\": %llu, \"seconds\": %.2f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"ops_without\": %llu, "
           "\"p50_us_without\": %.0f, \"p99_us_without\": %.0f, \"p99_ratio\": %.2f, \"errors\": %llu}\n",
           (unsigned long long)with.operations, b->measured_us / 1e6, with.p50_us, with.p99_us,
           (unsigned long long)without.operations, without.p50_us, without.p99_us,
           with.p99_us / MAX(without.p99_us, 1), (unsigned long long)(b->errors + run->lost));
    if (b->errors > 0)
        fprintf(stderr, "trireme-bench: first error: %s\n", b->first_error);
    return b->errors + run->lost > 0 || with.operations == 0;
}

int slow_readers_run(struct bench *b)
{
    struct slow_readers run = {.bench = b, .large_size = b->options.size, .large = b->message};

    b->options.size = SMALL_SIZE;
    b->message = bench_message(b);
    run.stuck = calloc(MAX(b->options.stuck, LARGE_USERS), sizeof *run.stuck);
    if (!bench_prepare(b) || !large_fill(&run))
        return 1;
    return measure(&run);
}
