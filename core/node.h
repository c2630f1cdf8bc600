/* core/node.h -- a process of shards on the real door: threads, signals, start and stop.
 * Owner:  the process's first thread, which calls node_run() and waits in it; it is no shard.
 * Memory: the node and all of its shards live from node_run()'s begin to its end. */
#pragma once
#include "core/shard.h"

#define NODE_ERROR_MAX 512

struct node_options {
    const struct config *config; /* For node->config. */
    const struct node_ops *ops;
    void *owner;          /* For node->owner. */
    const char *data;     /* Directory that relative paths begin at; NULL: where the process is. */
    const unsigned *cpus; /* One shard a CPU, pinned there. NULL: shard_count shards, not pinned. */
    unsigned shard_count;
    unsigned helper_count;    /* Threads for helper_call(), on the shards' CPUs. */
    uint64_t memory;          /* Budget of all heaps together, in equal shares; 0: none. */
    uint32_t stop_timeout_ms; /* How long stop() may take on the shards; then they are dropped. 0: 30 s. */
    /* All shards have started. On the first thread. May be NULL. */
    void (*ready)(struct node *node, void *arg);
    /* SIGHUP, and node_reload(): on a fiber of shard 0. May be NULL. */
    void (*reload)(struct shard *s);
    void *arg; /* Of ready(). */
};

/* Runs until SIGTERM, SIGINT or node_stop(), then stops gracefully; a second of these signals ends the
 * waiting for stop(). 0, or -errno: then *error_out says what could not be done, in one line; it is empty
 * when start() failed, which has logged why. Blocks the signals that it handles in the calling thread. */
MUST_CHECK int node_run(const struct node_options *options, char error_out[NODE_ERROR_MAX]);

/* From any thread, any number of times. */
void node_stop(struct node *node);
void node_reload(struct node *node);

/* Can io_uring do here what we need? 0, or -errno and a line that says how to allow it. */
MUST_CHECK int node_check_kernel(char error_out[NODE_ERROR_MAX]);

struct net_addr;
/* Before node_run(): may this process listen there, alone? -EADDRINUSE: another one does. The shards' own listeners
 * share the port among them, and would share it with a stranger in silence, each getting some of the clients. */
MUST_CHECK int node_check_listen(const struct net_addr *addr);
