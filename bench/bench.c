#include "bench/bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define WARM_UP_US       500000.0
#define PREPARE_LIMIT_US 600e6 /* Filling mailboxes included. */
#define FILL_PIPELINE    32    /* APPENDs in flight a connection, non-synchronising. */

/* xorshift: the same requests in every run. */
uint64_t worker_random(struct worker *w, uint64_t below)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random % below;
}

static void worker_event(struct client *c, enum client_event event);

static void worker_error(struct worker *w, struct slice line)
{
    struct bench *b = w->bench;

    if (b->errors++ == 0)
        snprintf(b->first_error, sizeof b->first_error, "%.*s", (int)MIN(line.size, 200), line.data);
}

static void worker_connect(struct worker *w)
{
    w->phase = WORKER_GREETING;
    client_connect(&w->client, &w->bench->loop, worker_event, w);
}

static void operation_start(struct worker *w)
{
    w->phase = WORKER_RUN;
    w->started_us = clock_us();
    if (w->bench->options.operation->reconnect) {
        worker_connect(w);
        return;
    }
    w->lmtp_step = 0;
    w->bench->options.operation->send(w);
    client_flush(&w->client);
}

static void operation_done(struct worker *w, bool ok, struct slice line)
{
    struct bench *b = w->bench;

    if (!ok)
        worker_error(w, line);
    if (b->measuring) {
        b->operations++;
        latency_add(&b->latencies, clock_us() - w->started_us);
    }
    w->due_us = clock_us() + b->options.operation->pause_us;
    if (b->running && b->options.operation->pause_us == 0)
        operation_start(w);
    else
        w->phase = WORKER_READY;
}

static void rests_later(struct worker *w)
{
    if (w->rests)
        return;
    w->rests = true;
    w->rests_next = w->bench->resting;
    w->bench->resting = w;
}

static void worker_ready(struct worker *w)
{
    w->phase = WORKER_READY;
    w->bench->ready++;
    rests_later(w);
}

void bench_connect(struct bench *b, unsigned index, unsigned user)
{
    b->workers[index].user = user % b->options.users;
    worker_connect(&b->workers[index]);
}

void bench_rest(struct bench *b)
{
    for (; b->resting != NULL; b->resting = b->resting->rests_next) {
        b->resting->rests = false;
        client_rest(&b->resting->client);
    }
}

void bench_pause(double us)
{
    usleep((useconds_t)us);
}

/* ---- Filling ------------------------------------------------------------------------------------------- */

static void fill_more(struct worker *w)
{
    struct bench *b = w->bench;

    while (w->expected < FILL_PIPELINE && w->filled < b->options.messages) {
        client_printf(&w->client, "f APPEND INBOX {%u+}\r\n", b->options.size);
        client_write(&w->client, b->message, b->options.size);
        client_write(&w->client, "\r\n", 2);
        w->filled++;
        w->expected++;
    }
    if (w->expected == 0) {
        w->phase = WORKER_SELECT;
        client_printf(&w->client, "s SELECT INBOX\r\n");
    }
    client_flush(&w->client);
}

/* `* STATUS INBOX (MESSAGES 17)` */
static unsigned status_messages(struct slice line)
{
    const char *at = memmem(line.data, line.size, "MESSAGES ", 9);

    return at != NULL ? (unsigned)strtoul(at + 9, NULL, 10) : 0;
}

/* ---- Answers ------------------------------------------------------------------------------------------- */

bool answer_is(struct slice line, const char *tag)
{
    return line.size > 2 && line.data[0] == tag[0] && line.data[1] == ' ';
}

bool answer_ok(struct slice line)
{
    return slice_starts_nocase(slice_from(line, 2), SLICE("OK"));
}

static void after_login(struct worker *w)
{
    struct options *o = &w->bench->options;

    if (o->operation->reconnect) {
        w->phase = WORKER_LOGOUT;
        client_printf(&w->client, "x LOGOUT\r\n");
    } else if (o->messages > 0 && w->bench->filling) {
        w->phase = WORKER_STATUS;
        client_printf(&w->client, "s STATUS INBOX (MESSAGES)\r\n");
    } else {
        w->phase = WORKER_SELECT;
        client_printf(&w->client, "s SELECT INBOX\r\n");
    }
    client_flush(&w->client);
}

static void on_imap_line(struct worker *w, struct slice line)
{
    struct client *c = &w->client;

    switch (w->phase) {
    case WORKER_GREETING:
        w->phase = WORKER_LOGIN;
        client_printf(c, "l LOGIN u%u %s\r\n", w->user, w->bench->options.password);
        client_flush(c);
        break;
    case WORKER_LOGIN:
        if (answer_is(line, "l") && answer_ok(line))
            after_login(w);
        else if (answer_is(line, "l"))
            worker_error(w, line);
        break;
    case WORKER_STATUS:
        if (line.data[0] == '*') {
            w->filled = status_messages(line);
        } else if (answer_is(line, "s")) {
            w->phase = WORKER_FILL;
            fill_more(w);
        }
        break;
    case WORKER_FILL:
        if (answer_is(line, "f")) {
            if (!answer_ok(line))
                worker_error(w, line);
            w->expected--;
            fill_more(w);
        }
        break;
    case WORKER_SELECT:
        if (line.size > 9 && line.data[0] == '*' && memcmp(line.data + line.size - 7, " EXISTS", 7) == 0)
            w->exists = (unsigned)strtoul(line.data + 2, NULL, 10);
        if (line.size > 0 && line.data[0] == '+')
            worker_ready(w);
        if (answer_is(line, "s") && w->bench->options.operation->idle) {
            client_printf(c, "i IDLE\r\n");
            client_flush(c);
        } else if (answer_is(line, "s")) {
            worker_ready(w);
        }
        break;
    case WORKER_RUN:
        if (answer_is(line, "x"))
            operation_done(w, answer_ok(line), line);
        break;
    case WORKER_READY:
        if (w->bench->options.operation->line == NULL)
            break;
        w->bench->options.operation->line(w, line);
        rests_later(w);
        break;
    case WORKER_LOGOUT:
        break;
    }
}

static void on_lmtp_line(struct worker *w, struct slice line)
{
    struct client *c = &w->client;
    bool last = line.size >= 4 && line.data[3] == ' ';

    if (!last)
        return;
    if (w->phase == WORKER_GREETING) {
        w->phase = WORKER_LOGIN;
        client_printf(c, "LHLO bench.example.org\r\n");
    } else if (w->phase == WORKER_LOGIN) {
        worker_ready(w);
    } else if (w->phase == WORKER_RUN) {
        w->lmtp_step++;
        if (line.data[0] != (w->lmtp_step == 3 ? '3' : '2')) {
            worker_error(w, line);
            if (w->lmtp_step == 3) /* No body wanted: on to the next. */
                operation_done(w, true, line);
        } else if (w->lmtp_step == 3) {
            client_write(c, w->bench->message, w->bench->options.size);
            client_write(c, ".\r\n", 3);
        } else if (w->lmtp_step == 4) {
            operation_done(w, true, line);
        }
    }
    client_flush(c);
}

static void worker_event(struct client *c, enum client_event event)
{
    struct worker *w = c->owner;
    struct bench *b = w->bench;

    if (event == CLIENT_CONNECTED && b->options.bare) {
        worker_ready(w);
    } else if (event == CLIENT_LINE && b->options.operation->lmtp) {
        on_lmtp_line(w, c->line);
    } else if (event == CLIENT_LINE) {
        on_imap_line(w, c->line);
    } else if (event == CLIENT_LITERAL) {
        return;
    } else if (event == CLIENT_CLOSED && b->options.operation->reconnect) {
        operation_done(w, w->phase == WORKER_LOGOUT && c->error == 0, SLICE("connection closed"));
    } else if (event == CLIENT_CLOSED) {
        worker_error(w, SLICE("connection closed"));
    }
}

/* ---- Runs ---------------------------------------------------------------------------------------------- */

/* Whose pause is over goes on. */
static void pauses_end(struct bench *b)
{
    double now = clock_us();

    for (unsigned i = 0; b->running && i < b->options.connections; i++) {
        if (b->workers[i].phase == WORKER_READY && b->workers[i].due_us <= now)
            operation_start(&b->workers[i]);
    }
}

void bench_run_for(struct bench *b, double us)
{
    bool pauses = b->options.operation->pause_us > 0;
    double end = clock_us() + us;

    while (clock_us() < end) {
        if (pauses)
            pauses_end(b);
        loop_run(&b->loop, pauses ? 1 : 10);
    }
}

static bool wait_ready(struct bench *b, unsigned count)
{
    double limit = clock_us() + PREPARE_LIMIT_US;

    while (b->ready < count && clock_us() < limit && b->errors == 0)
        loop_run(&b->loop, 100);
    if (b->ready == count)
        return true;
    fprintf(stderr, "trireme-bench: only %u of %u connections became ready: %s\n", b->ready, count,
            b->first_error);
    return false;
}

char *bench_message(const struct bench *b)
{
    unsigned size = b->options.size;
    char *m = malloc((size_t)size + 256);
    size_t at = (size_t)sprintf(
        m, "From: Bench <bench@example.org>\r\nTo: User <u0@example.org>\r\nSubject: A message "
           "of the benchmark\r\nDate: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: "
           "<bench@example.org>\r\n\r\n");

    while (at < size) {
        size_t line = MIN(72, size - at);

        memset(m + at, 'a' + (int)(at % 26), line);
        at += line;
        if (line >= 2)
            memcpy(m + at - 2, "\r\n", 2);
    }
    if (size >= 2)
        memcpy(m + size - 2, "\r\n", 2);
    return m;
}

void bench_print_head(const struct bench *b)
{
    const struct options *o = &b->options;

    printf("{\"name\": \"%s\", \"server\": \"%s:%u\", \"connections\": %u, \"users\": %u, \"tls\": %s, ",
           o->operation->name, o->host, o->operation->lmtp ? o->lmtp_port : o->port, o->connections, o->users,
           o->tls ? "true" : "false");
    if (o->messages > 0)
        printf("\"messages\": %u, ", o->messages);
    if (o->size > 0)
        printf("\"size\": %u, ", o->size);
    if (o->tls)
        printf("\"handshakes\": %llu, \"resumed\": %llu, ", (unsigned long long)b->loop.handshakes,
               (unsigned long long)b->loop.resumed);
}

void bench_print_cpu(const struct bench *b, const double *before, const double *after)
{
    const struct server *s = &b->options.server;
    double sum = 0, ops = (double)MAX(b->operations, 1);

    for (unsigned i = 0; i < s->count; i++)
        sum += (after[i] - before[i]) / ops;
    printf("\"server_cpu_us_per_op\": %.2f, ", sum);
    for (unsigned i = 0; s->count > 1 && i < s->count; i++)
        printf("\"server_cpu_us_per_op_%s\": %.2f, ", s->roots[i].layer, (after[i] - before[i]) / ops);
    printf("\"server_rss_kib\": %llu, ", (unsigned long long)server_rss_kib(s, false));
}

static uint64_t bytes_received(const struct bench *b)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < b->options.connections; i++)
        sum += b->workers[i].client.bytes_in;
    return sum;
}

static void print_bulk(const struct bench *b, const double *before, const double *after, double gb,
                       double seconds)
{
    const struct server *s = &b->options.server;
    double sum = 0;

    for (unsigned i = 0; i < s->count; i++)
        sum += (after[i] - before[i]) / 1e3;
    if (s->count > 0)
        printf("\"server_cpu_ms_per_gb\": %.1f, ", sum / gb);
    for (unsigned i = 0; s->count > 1 && i < s->count; i++)
        printf("\"server_cpu_ms_per_gb_%s\": %.1f, ", s->roots[i].layer, (after[i] - before[i]) / 1e3 / gb);
    printf("\"gb\": %.3f, \"gb_per_s\": %.3f, ", gb, gb / seconds);
}

void bench_start(struct bench *b)
{
    b->running = true;
    for (unsigned i = 0; i < b->options.connections; i++)
        operation_start(&b->workers[i]);
}

void bench_measure(struct bench *b)
{
    double start;

    b->operations = 0;
    b->latencies = (struct latencies){0};
    bench_start(b);
    bench_run_for(b, WARM_UP_US);
    server_cpu_us(&b->options.server, b->cpu_before);
    b->measuring = true;
    b->measured_bytes = bytes_received(b);
    start = clock_us();
    bench_run_for(b, b->options.seconds * 1e6);
    b->measuring = false;
    b->measured_bytes = bytes_received(b) - b->measured_bytes;
    b->measured_us = clock_us() - start;
    server_cpu_us(&b->options.server, b->cpu_after);
    b->running = false;
}

static int measure_operations(struct bench *b)
{
    double start;

    bench_measure(b);
    start = b->measured_us;
    bench_print_head(b);
    if (b->options.server.count > 0)
        bench_print_cpu(b, b->cpu_before, b->cpu_after);
    if (b->options.operation->bulk)
        print_bulk(b, b->cpu_before, b->cpu_after, (double)b->measured_bytes / 1e9, start / 1e6);
    printf("\"ops\": %llu, \"seconds\": %.2f, \"ops_per_s\": %.1f, \"p50_us\": %.0f, \"p99_us\": %.0f, "
           "\"errors\": %llu}\n",
           (unsigned long long)b->operations, start / 1e6, (double)b->operations * 1e6 / start,
           latency_quantile(&b->latencies, 0.5), latency_quantile(&b->latencies, 0.99),
           (unsigned long long)b->errors);
    if (b->errors > 0)
        fprintf(stderr, "trireme-bench: first error: %s\n", b->first_error);
    return b->errors > 0 || b->operations == 0;
}

/* Each mailbox is filled by one connection; then all are opened. */
bool bench_prepare(struct bench *b)
{
    struct options *o = &b->options;
    unsigned fillers = MIN(o->users, o->connections);

    if (o->operation->reconnect)
        return true;
    if (o->messages > 0) {
        b->filling = true;
        for (unsigned i = 0; i < fillers; i++)
            worker_connect(&b->workers[i]);
        if (!wait_ready(b, fillers))
            return false;
        for (unsigned i = 0; i < fillers; i++)
            client_close(&b->workers[i].client);
        b->filling = false;
        b->ready = 0;
    }
    for (unsigned i = 0; i < o->connections; i++)
        worker_connect(&b->workers[i]);
    return wait_ready(b, o->connections);
}

int bench_run(struct bench *b)
{
    struct options *o = &b->options;

    b->message = bench_message(b);
    loop_init(&b->loop, o->host, o->operation->lmtp ? o->lmtp_port : o->port, o->tls && !o->operation->lmtp,
              o->resume);
    b->workers = calloc(o->connections, sizeof *b->workers);
    for (unsigned i = 0; i < o->connections; i++)
        b->workers[i] = (struct worker){.client.fd = -1,
                                        .bench = b,
                                        .index = i,
                                        .user = i % o->users,
                                        .random = 0x9e3779b97f4a7c15ull * (i + 1)};
    if (o->operation->run != NULL)
        return o->operation->run(b);
    return bench_prepare(b) ? measure_operations(b) : 1;
}
