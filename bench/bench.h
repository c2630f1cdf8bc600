/* bench/bench.h -- one benchmark: workers, each a connection that repeats one operation, and what was
 * measured. */
#pragma once
#include "bench/client.h"
#include "bench/measure.h"

struct bench;
struct worker;

struct operation {
    const char *name;
    const char *help;
    bool lmtp;                      /* Speaks LMTP, on --lmtp-port; otherwise IMAP. */
    bool reconnect;                 /* One operation is a connection: login. */
    bool idle;                      /* Opens sessions and measures memory instead of operations. */
    bool bulk;                      /* What counts is bytes, not operations. */
    unsigned messages, size;        /* Defaults of --messages (in INBOX before it starts) and --size. */
    void (*send)(struct worker *w); /* Writes one request whose tag is "x"; NULL for reconnect and idle. */
};

extern const struct operation operations[];
extern const size_t operation_count;

struct options {
    const struct operation *operation;
    const char *host, *password;
    unsigned port, lmtp_port, users, connections, messages, size;
    double seconds;
    bool tls, resume;
    struct server server;
};

enum worker_phase {
    WORKER_GREETING,
    WORKER_LOGIN,
    WORKER_STATUS,
    WORKER_FILL,
    WORKER_SELECT,
    WORKER_READY,
    WORKER_RUN,
    WORKER_LOGOUT
};

struct worker {
    struct client client;
    struct bench *bench;
    unsigned index, user;
    enum worker_phase phase;
    unsigned exists, filled, expected; /* Of a fill: messages there, asked for, answers due. */
    unsigned lmtp_step;
    uint64_t random, sequence;
    double started_us;
};

struct bench {
    struct options options;
    struct loop loop;
    struct worker *workers;
    char *message; /* options.size bytes, CRLF lines. */
    unsigned ready;
    bool running, measuring, filling;
    uint64_t operations, errors;
    char first_error[256];
    struct latencies latencies;
};

uint64_t worker_random(struct worker *w, uint64_t below);
/* Connects all workers, brings them to WORKER_READY, then measures and prints one line of JSON. Exit status.
 */
int bench_run(struct bench *b);
