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
    bool idle;                      /* Opens sessions that idle. */
    bool bulk;                      /* What counts is bytes, not operations. */
    unsigned messages, size;        /* Defaults of --messages (in INBOX before it starts) and --size. */
    unsigned connections;           /* Default of --connections; 0: 16. */
    unsigned pause_us;              /* Between two operations of a connection. */
    void (*send)(struct worker *w); /* Writes one request whose tag is "x"; NULL for reconnect and idle. */
    void (*line)(struct worker *w, struct slice line); /* Comes to one that idles. May be NULL. */
    int (*run)(struct bench *b);                       /* Measures in its own way. */
};

extern const struct operation operations[];
extern const size_t operation_count;

struct options {
    const struct operation *operation;
    const char *host, *password;
    const char *mix; /* Of `hostile`: this one alone. */
    unsigned port, lmtp_port, users, connections, messages, size, stuck;
    unsigned port2;        /* Where those of a flood come back to; 0: to `port`. */
    unsigned addresses;    /* That hostile connections come from; 0: as all others. */
    double rate;           /* Mails a second. */
    unsigned pace;         /* Sessions on their way at once; 0: few enough for Dovecot to hibernate them. */
    const char *group;     /* Directory of the server's memory cgroup. NULL: it has none of its own. */
    unsigned destinations; /* Addresses to connect to, from `host` on; 0: one. */
    double seconds;
    bool tls, resume;
    bool bare; /* Connects, and says nothing. */
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
    struct worker *rests_next;
    bool rests; /* Is in bench.resting. */
    unsigned index, user;
    enum worker_phase phase;
    unsigned exists, filled, expected; /* Of a fill: messages there, asked for, answers due. */
    unsigned lmtp_step;
    uint64_t random, sequence;
    double started_us, due_us;
};

struct bench {
    struct options options;
    struct loop loop;
    struct worker *workers;
    char *message; /* options.size bytes, CRLF lines. */
    unsigned ready;
    struct worker *resting; /* Ready, or told something, since the last bench_rest(). */
    bool running, measuring, filling;
    uint64_t operations, errors;
    char first_error[256];
    struct latencies latencies;
    double measured_us, cpu_before[LAYERS_MAX], cpu_after[LAYERS_MAX];
    uint64_t measured_bytes;
};

uint64_t worker_random(struct worker *w, uint64_t below);
/* Connects all workers, brings them to WORKER_READY, then measures and prints one line of JSON. Exit status. */
int bench_run(struct bench *b);

/* ---- For operations that measure in their own way ------------------------------------------------------ */

/* A message of options.size bytes. */
char *bench_message(const struct bench *b);
/* Fills the mailboxes and brings all workers to WORKER_READY. */
bool bench_prepare(struct bench *b);
void bench_run_for(struct bench *b, double us);
/* All workers repeat the operation for options.seconds: b->operations, latencies, measured_*, cpu_*. */
void bench_measure(struct bench *b);
void bench_print_head(const struct bench *b);
/* CPU time an operation, by layer. */
void bench_print_cpu(const struct bench *b, const double *before, const double *after);
/* Begins the connection of worker `index`, of that user. */
void bench_connect(struct bench *b, unsigned index, unsigned user);
/* Buffers of those who are ready go. */
void bench_rest(struct bench *b);
bool answer_is(struct slice line, const char *tag); /* The tagged line. */
bool answer_ok(struct slice line);

void bench_pause(double us);

/* options.connections idle sessions in processes of their own, which end with swarm_close() (NULL is allowed). NULL: not all
 * became ready; it has been said. */
struct swarm *swarm_open(struct bench *b);
void swarm_close(struct swarm *s);

int swarm_run(struct bench *b); /* swarm.c */
int wake_run(struct bench *b);  /* wake.c */
/* All workers begin with the operation, and go on with it while the loop runs. */
void bench_start(struct bench *b);
int upgrade_run(struct bench *b); /* upgrade.c */
int hostile_run(struct bench *b);
int flood_run(struct bench *b); /* flood.c */
void wake_line(struct worker *w, struct slice line);
int bare_run(struct bench *b);         /* bare.c */
int relay_run(struct bench *b);        /* relay.c */
int slow_readers_run(struct bench *b); /* slow_readers.c */
void slow_readers_send(struct worker *w);
