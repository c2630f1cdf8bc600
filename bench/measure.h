/* bench/measure.h -- what an operation costs: latencies, and CPU time and memory of the server's processes.
 * CPU comes from /proc/PID/stat (utime + stime, threads included) of each named process and all its
 * descendants, those that ended in between included (cutime + cstime); its unit is a clock tick, so measure
 * for seconds. */
#pragma once
#include "core/base.h"

#define LAYERS_MAX 8

struct server {          /* --server-pids [LAYER=]PID,... */
    unsigned admin_port; /* Of ours: of /metrics, on this host. 0: it is not asked. */
    unsigned count;
    struct {
        char layer[32]; /* "server" when not named. */
        int pid;
    } roots[LAYERS_MAX];
};

MUST_CHECK bool server_parse(struct server *s, const char *text);
/* CPU so far, by root. */
void server_cpu_us(const struct server *s, double cpu_us_out[LAYERS_MAX]);
uint64_t server_rss_kib(const struct server *s, bool pss);
/* By root. */
void server_rss_layers(const struct server *s, bool pss, uint64_t kib_out[LAYERS_MAX]);
/* Of the whole machine, KiB. */
struct kernel_memory {
    uint64_t slab_kib, page_tables_kib, stacks_kib, percpu_kib, tcp_kib, available_kib;
};
void kernel_memory_read(struct kernel_memory *m);
/* Its value in /metrics, summed over the labels; -1: not asked, or no answer. */
double server_metric(const struct server *s, const char *name);
/* What the machine's TCP sockets take of the kernel's memory. */
uint64_t tcp_memory_kib(void);
/* Kernel memory charged to a memory cgroup, version 1 or 2, TCP's included: object by object, so what others have left in a slab
 * does not count, and neither do the clients, who are outside of it. */
double group_kernel_bytes(const char *directory);

/* Latencies in a histogram of 2 % buckets, 1 us to 100 s. */
#define LATENCY_BUCKETS 1024
struct latencies {
    uint64_t count, buckets[LATENCY_BUCKETS];
};
void latency_add(struct latencies *l, double us);
double latency_quantile(const struct latencies *l, double q); /* us; 0 when empty. */

double clock_us(void);
