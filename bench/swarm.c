/* bench/swarm.c -- `sessions`: what idle sessions cost, as many as the machine holds. Processes of their own hold the
 * clients, since descriptors are counted by the process; this one measures.
 *
 * User memory: PSS of the server's processes, by layer. Kernel memory: what the whole machine's grew by, both ends of each
 * connection: slabs, page tables, stacks, per-CPU data, and TCP's own pages. Before and after. Slabs that others have left are used
 * again, so that figure may be too low; what --server-group says is charged to the server, object by object. */
#include "bench/bench.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_COUNT_MAX 18000 /* Descriptors of one process, and some to spare. */
#define CHILDREN_MAX    256
#define PACE            24 /* Connections on their way at once, all processes together: Dovecot hibernates no faster. */
#define SETTLE_US       5e6   /* Until the server has put them to rest. */
#define QUIET_LIMIT_US  120e6 /* Without one more that is ready. */
#define REPORT_US       200e3

struct report { /* From a child. */
    uint32_t ready, lost;
};

struct child {
    pid_t pid;
    int to, from; /* Its end of `to` closes: it ends. */
    unsigned count;
    struct report report;
};

struct swarm {
    struct bench *bench;
    struct child children[CHILDREN_MAX];
    unsigned child_count;
    uint64_t user_before[LAYERS_MAX], user_after[LAYERS_MAX];
    struct kernel_memory kernel_before, kernel_after;
    double group_before, group_after;               /* The server's own part of it. */
    double heap_before, heap_after, sleeping_after; /* As ours says; -1: it was not asked. */
    uint64_t clients_before, clients_after;         /* Their user memory, KiB. */
    double cpu_start[LAYERS_MAX], cpu_open[LAYERS_MAX], cpu_idle[LAYERS_MAX];
    double open_us, idle_us;
};

/* ---- A child ------------------------------------------------------------------------------------------- */

static void report_send(const struct bench *b, int to)
{
    struct report r = {b->ready, (uint32_t)b->errors};

    if (write(to, &r, sizeof r) != sizeof r)
        exit(0); /* Nobody measures any more. */
}

/* The parent has gone, or has seen enough. */
static bool child_over(int from)
{
    char byte;

    return read(from, &byte, 1) == 0;
}

NORETURN static void child_run(struct bench *b, unsigned first, unsigned count, unsigned pace, int from,
                               int to)
{
    struct options *o = &b->options;
    unsigned begun = 0;
    double report_us = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    o->connections = count;
    loop_init(&b->loop, o->host, o->port, o->tls, o->resume);
    if (o->destinations > 1) { /* 127.0.0.1, 127.0.0.2, ... */
        uint32_t address = ntohl(b->loop.server.sin_addr.s_addr) + first / CHILD_COUNT_MAX;

        b->loop.server.sin_addr.s_addr = htonl(address);
    }
    while (!child_over(from)) {
        for (; begun < count && begun < b->ready + b->errors + pace; begun++)
            bench_connect(b, begun, first + begun);
        loop_run(&b->loop, begun < count ? 10 : 200);
        bench_rest(b);
        if (clock_us() - report_us < REPORT_US)
            continue;
        report_us = clock_us();
        report_send(b, to);
    }
    exit(0);
}

static void child_start(struct swarm *s, unsigned first, unsigned count, unsigned pace)
{
    struct child *c = &s->children[s->child_count++];
    int down[2], up[2];

    c->count = count;
    if (pipe2(down, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(up, O_CLOEXEC | O_NONBLOCK) < 0 ||
        (c->pid = fork()) < 0) {
        perror("trireme-bench: a process for clients");
        exit(71);
    }
    if (c->pid == 0) {
        for (unsigned i = 0; i + 1 < s->child_count; i++) { /* Else it would keep its brothers alive. */
            close(s->children[i].to);
            close(s->children[i].from);
        }
        close(down[1]);
        close(up[0]);
        child_run(s->bench, first, count, pace, down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    c->to = down[1];
    c->from = up[0];
}

/* ---- The measuring process ----------------------------------------------------------------------------- */

static struct report reports_read(struct swarm *s)
{
    struct report sum = {0};

    for (unsigned i = 0; i < s->child_count; i++) {
        struct child *c = &s->children[i];
        struct report r;
        ssize_t size;

        while ((size = read(c->from, &r, sizeof r)) == sizeof r)
            c->report = r;
        if (size == 0)
            c->report.lost = c->count; /* It has died. */
        sum.ready += c->report.ready;
        sum.lost += c->report.lost;
    }
    return sum;
}

static uint64_t clients_kib(const struct swarm *s)
{
    struct server clients = {0};
    uint64_t sum = 0;

    for (unsigned i = 0; i < s->child_count; i++) {
        clients.roots[0].pid = s->children[i].pid;
        clients.count = 1;
        sum += server_rss_kib(&clients, true);
    }
    return sum;
}

/* Until all are there, or no more come. */
static struct report wait_all(struct swarm *s, unsigned count)
{
    double since = clock_us();
    struct report r = {0}, last = {0};

    while (r.ready < count && clock_us() - since < QUIET_LIMIT_US) {
        usleep((useconds_t)REPORT_US);
        r = reports_read(s);
        if (r.ready != last.ready)
            since = clock_us();
        if (r.ready + r.lost >= count)
            break;
        last = r;
    }
    return r;
}

static double sum_of(const struct server *s, const double *after, const double *before)
{
    double sum = 0;

    for (unsigned i = 0; i < s->count; i++)
        sum += after[i] - before[i];
    return sum;
}

static void print_user(const struct swarm *s, unsigned count)
{
    const struct server *server = &s->bench->options.server;
    double sum = 0;

    for (unsigned i = 0; i < server->count; i++)
        sum += ((double)s->user_after[i] - (double)s->user_before[i]) * 1024 / count;
    printf("\"user_bytes_per_session\": %.0f, ", sum);
    for (unsigned i = 0; server->count > 1 && i < server->count; i++)
        printf("\"user_bytes_per_session_%s\": %.0f, ", server->roots[i].layer,
               ((double)s->user_after[i] - (double)s->user_before[i]) * 1024 / count);
    for (unsigned i = 0; i < server->count; i++)
        printf("\"pss_kib_before_%s\": %llu, \"pss_kib_%s\": %llu, ", server->roots[i].layer,
               (unsigned long long)s->user_before[i], server->roots[i].layer,
               (unsigned long long)s->user_after[i]);
    if (s->sleeping_after >= 0)
        printf("\"heap_bytes_per_session\": %.0f, \"sleeping_bytes_per_session\": %.0f, ",
               (s->heap_after - s->heap_before) / count, s->sleeping_after / count);
}

static void print_kernel(const struct swarm *s, unsigned count)
{
    const struct kernel_memory *a = &s->kernel_after, *b = &s->kernel_before;
#define EACH(member) ((double)a->member - (double)b->member) * 1024 / count
    printf(
        "\"kernel_bytes_per_session\": %.0f, \"kernel_slab_bytes\": %.0f, \"kernel_page_table_bytes\": %.0f, "
        "\"kernel_stack_bytes\": %.0f, \"kernel_percpu_bytes\": %.0f, \"kernel_tcp_bytes\": %.0f, ",
        EACH(slab_kib) + EACH(page_tables_kib) + EACH(stacks_kib) + EACH(percpu_kib) + EACH(tcp_kib),
        EACH(slab_kib), EACH(page_tables_kib), EACH(stacks_kib), EACH(percpu_kib), EACH(tcp_kib));
    printf("\"machine_bytes_per_session\": %.0f, ",
           ((double)b->available_kib - (double)a->available_kib) * 1024 / count);
#undef EACH
    if (s->bench->options.group != NULL)
        printf("\"server_kernel_bytes_per_session\": %.0f, \"server_kernel_kib_before\": %.0f, "
               "\"server_kernel_kib\": %.0f, ",
               (s->group_after - s->group_before) / count, s->group_before / 1024, s->group_after / 1024);
    printf("\"client_user_bytes_per_session\": %.0f, ",
           ((double)s->clients_after - (double)s->clients_before) * 1024 / count);
}

static void print(const struct swarm *s, const struct report *opened, const struct report *kept)
{
    const struct bench *b = s->bench;
    const struct server *server = &b->options.server;
    unsigned count = MAX(opened->ready, 1u);

    bench_print_head(b);
    printf("\"transport\": \"socket\", \"ready\": %u, ", opened->ready);
    print_user(s, count);
    print_kernel(s, count);
    if (server->count > 0)
        printf("\"open_cpu_us_per_session\": %.1f, \"idle_cpu_us_per_session_s\": %.4f, ",
               sum_of(server, s->cpu_open, s->cpu_start) / count,
               sum_of(server, s->cpu_idle, s->cpu_open) / count / (s->idle_us / 1e6));
    printf("\"seconds\": %.1f, \"idle_seconds\": %.1f, \"errors\": %u}\n", s->open_us / 1e6, s->idle_us / 1e6,
           kept->lost);
}

/* What the kernel has for the server alone. */
static double group_bytes(const struct swarm *s)
{
    const char *group = s->bench->options.group;

    return group != NULL ? group_kernel_bytes(group) : 0;
}

static void swarm_start(struct swarm *s)
{
    unsigned pace = s->bench->options.pace > 0 ? s->bench->options.pace : PACE;
    unsigned count = s->bench->options.connections,
             children = (count + CHILD_COUNT_MAX - 1) / CHILD_COUNT_MAX;

    s->bench->options.destinations = children;
    fflush(stdout);
    for (unsigned first = 0; first < count; first += CHILD_COUNT_MAX)
        child_start(s, first, MIN(CHILD_COUNT_MAX, count - first), MAX(pace / children, 1u));
}

void swarm_close(struct swarm *s)
{
    if (s == NULL)
        return;
    for (unsigned i = 0; i < s->child_count; i++)
        close(s->children[i].to);
    for (unsigned i = 0; i < s->child_count; i++)
        waitpid(s->children[i].pid, NULL, 0);
}

struct swarm *swarm_open(struct bench *b)
{
    static struct swarm swarm;
    struct report opened;

    swarm.bench = b;
    swarm_start(&swarm);
    opened = wait_all(&swarm, b->options.connections);
    if (opened.ready == b->options.connections) {
        bench_pause(SETTLE_US);
        return &swarm;
    }
    fprintf(stderr, "trireme-bench: only %u of %u sessions became ready\n", opened.ready,
            b->options.connections);
    swarm_close(&swarm);
    return NULL;
}

int swarm_run(struct bench *b)
{
    static struct swarm swarm;
    struct swarm *s = &swarm;
    const struct server *server = &b->options.server;
    struct report opened, kept;
    double start;

    if (b->options.connections > CHILDREN_MAX * CHILD_COUNT_MAX) {
        fprintf(stderr, "trireme-bench: at most %u sessions\n", CHILDREN_MAX * CHILD_COUNT_MAX);
        return 64;
    }
    s->bench = b;
    server_rss_layers(server, true, s->user_before);
    kernel_memory_read(&s->kernel_before);
    s->heap_before = server_metric(server, "trireme_heap_bytes");
    s->group_before = group_bytes(s);
    server_cpu_us(server, s->cpu_start);
    start = clock_us();
    swarm_start(s);
    s->clients_before = clients_kib(s);
    opened = wait_all(s, b->options.connections);
    s->open_us = clock_us() - start;
    usleep((useconds_t)SETTLE_US);
    server_cpu_us(server, s->cpu_open);
    server_rss_layers(server, true, s->user_after);
    kernel_memory_read(&s->kernel_after);
    s->heap_after = server_metric(server, "trireme_heap_bytes");
    s->sleeping_after = server_metric(server, "trireme_sleeping_bytes");
    s->group_after = group_bytes(s);
    s->clients_after = clients_kib(s);
    start = clock_us();
    usleep((useconds_t)(b->options.seconds * 1e6));
    s->idle_us = clock_us() - start;
    server_cpu_us(server, s->cpu_idle);
    kept = reports_read(s);
    print(s, &opened, &kept);
    swarm_close(s);
    return opened.ready < b->options.connections || kept.lost > 0;
}
