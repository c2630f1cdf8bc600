/* core/node.h -- a process of shards on the real door: threads, signals, start and stop.
 * Owner:  the process's first thread, which calls node_run() and waits in it; it is no shard.
 * Memory: the node and all of its shards live from node_run()'s begin to its end. */
#pragma once
#include "core/io.h"
#include "core/shard.h"

#define NODE_ERROR_MAX 512

/* A listening socket that was made for this process. */
struct node_listener {
    struct net_addr addr; /* AF_UNIX: the one for io_listen_unix(), which listens already. Else bound only. */
    unsigned shard;
    int fd;
    bool taken; /* By io_listen(), whose it is from then on. */
};

/* What a restricted node's rings may be used for besides sockets that were accepted and messages among themselves. */
enum node_ring_rights {
    NODE_RING_RESTRICTED = 1,
    NODE_RING_FILES = 2,
    NODE_RING_CONNECT = 4,
};

struct node_options {
    const struct config *config; /* For node->config. */
    const struct given *given;   /* For node->given. */
    const struct node_ops *ops;
    void *owner;          /* For node->owner. */
    const char *data;     /* Directory that relative paths begin at; NULL: where the process is. */
    const unsigned *cpus; /* One shard a CPU, pinned there. NULL: shard_count shards, not pinned. */
    unsigned shard_count;
    unsigned helper_count; /* Threads for helper_call(), on the shards' CPUs. */
    uint64_t memory;       /* Budget of all heaps together, in equal shares; 0: none. */
    unsigned ring_rights;  /* enum node_ring_rights; 0: rings are not restricted, and made as needed. */
    uint64_t sockets_max;  /* Of a shard: restricted rings are all made before the start. */
    struct node_listener *listeners; /* May be empty. Lives as long as the node. */
    unsigned listener_count;
    pid_t signals_from; /* Signals of others are ignored; 0: of anybody. */
    /* On the first thread, each may be NULL, an error ends the node and has been told: before there is another thread,
     * with what the node itself needs to open opened; and when there are all threads and rings, before start(). */
    int (*confine)(void *arg);
    int (*seal)(void *arg);
    uint32_t stop_timeout_ms; /* How long stop() may take on the shards; then they are dropped. 0: 30 s. */
    /* All shards have started. On the first thread. May be NULL. */
    void (*ready)(struct node *node, void *arg);
    /* SIGHUP, and node_reload(): on a fiber of shard 0. May be NULL. */
    void (*reload)(struct shard *s);
    /* node_hand_over(): the same. */
    void (*hand_over)(struct shard *s);
    /* On the first thread, whenever `control_fd` can be read, from before start() to the end of stop(). May be NULL. */
    void (*control)(struct node *node, void *arg);
    int control_fd;
    void *arg; /* Of confine(), seal(), ready(), control(). */
};

/* Runs until SIGTERM, SIGINT or node_stop(), then stops gracefully; a second of these signals ends the
 * waiting for stop(). 0, or -errno: then *error_out says what could not be done, in one line; it is empty
 * when start() failed, which has logged why. Blocks the signals that it handles in the calling thread. */
MUST_CHECK int node_run(const struct node_options *options, char error_out[NODE_ERROR_MAX]);

/* From any thread, any number of times. */
void node_stop(struct node *node);
void node_reload(struct node *node);
void node_hand_over(struct node *node);

/* Can io_uring do here what we need? 0, or -errno and a line that says how to allow it. */
MUST_CHECK int node_check_kernel(char error_out[NODE_ERROR_MAX]);

/* Before node_run(): may this process listen there, alone? -EADDRINUSE: another one does. The shards' own listeners
 * share the port among them, and would share it with a stranger in silence, each getting some of the clients. */
MUST_CHECK int node_check_listen(const struct net_addr *addr);
/* A descriptor for node_options.listeners, or -errno. `shared`: others that say so may listen there, too. Nobody is
 * answered before node_listen(). */
MUST_CHECK int node_bind(const struct net_addr *addr, bool shared);
MUST_CHECK int node_listen(int fd);
/* As io_listen_unix(): `path` is absolute, or below the directory `data_fd`; it listens already. */
MUST_CHECK int node_listen_unix(int data_fd, const char *path);
