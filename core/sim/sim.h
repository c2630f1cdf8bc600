/* core/sim/sim.h -- a world from a seed: nodes, their networks and disks, time, and what goes wrong.
 *
 * The second implementation of the one door (core/io.h, helper_call()). Every node is a process with its
 * shards, all on the calling thread; an event heap ordered by simulated time says who runs next, and a CPU
 * takes no time. Everything that chance decides comes from the seed, so the same seed gives the same run, and
 * the same hash over all calls through the door and their completions.
 *
 * - network: connections of bounded windows, cut into segments anywhere, delayed, reset, half open, partitioned
 * - disks: core/sim/disk.h
 * - nodes: killed or cut from power at any event, started again on what their disk kept
 * - clients: a node like any other, that no fault kills
 *
 * Owner:  the program; one world at a time.
 * Memory: malloc, all given back by sim_world_free().
 * Errors: what a scenario finds wrong it tells by sim_violation(); the run goes on until it is asked. */
#pragma once
#include "core/io.h"
#include "core/list.h"
#include "core/shard.h"

#define SIM_NODES_MAX      16
#define SIM_SHARDS_MAX     8
#define SIM_OPERATIONS_MAX 24
#define SIM_VIOLATIONS_MAX 8
#define SIM_US             1000ull
#define SIM_MS             1000000ull
#define SIM_S              1000000000ull

struct sim_world;
struct sim_node;

/* ---- Faults and operations, counted ------------------------------------------------------------------- */

#define SIM_FAULTS(X)                                                                                        \
    X(KILL, "kill")               /* The process dies; the page cache stays. */                              \
    X(POWER, "power")             /* The host stops; unsynced writes and names are lost, in part or all. */  \
    X(LOST, "lost write")         /* Of a power failure: an unsynced sector did not survive. */              \
    X(TORN, "torn write")         /* Of a power failure: part of one write survived. */                      \
    X(REORDERED, "reordered")     /* Of a power failure: a later write survived an earlier one. */           \
    X(STOP, "stop")               /* SIGSTOP, for a while: nothing of the process runs. */                   \
    X(RESET, "reset")             /* A connection is reset. */                                               \
    X(HALF_OPEN, "half-open")     /* A connection's bytes vanish from now on. */                             \
    X(PARTITION, "partition")     /* One direction, or both, between two nodes. */                           \
    X(DELAY, "delay")             /* Slow network between two nodes. */                                      \
    X(READ_ERROR, "read error")   /* EIO. */                                                                 \
    X(WRITE_ERROR, "write error") /* EIO. */                                                                 \
    X(FLUSH_ERROR, "flush error") /* EIO, and what was not synced is lost. */                                \
    X(FULL, "disk full")          /* ENOSPC. */                                                              \
    X(ROT, "rot")                 /* A flipped bit in a durable sector. */                                   \
    X(SLOW_DISK, "slow disk")                                                                                \
    X(CLOCK, "clock") /* The wall clock jumps. */

enum sim_fault {
#define X(name, text) SIM_##name,
    SIM_FAULTS(X)
#undef X
        SIM_FAULT_COUNT
};

/* Where faults strike, and are counted apart: a kind of nodes; for what strikes between two nodes, a pair of kinds. */
struct sim_site {
    const char *name;
    uint32_t faults; /* Mask of 1u << SIM_*: those that strike here. */
    uint8_t from;    /* Kinds of nodes (struct sim_node_options). */
    uint8_t to;      /* Between two: bytes from `from` to `to`, */
    bool both;       /* or in both directions. */
};

#define SIM_SITES_MAX 12

/* Sums, over as many worlds as the owner likes. A fault meets an operation when it strikes while one of that
 * kind is outstanding (begun and not answered, on a connection that is whole), or lasts while one begins; and the nodes that it
 * strikes take part in the operation. It strikes when it really happens: an error when a call gets it, a torn write when a power
 * failure has kept a part of one; what a power failure did to the disk meets what was outstanding just before. */
struct sim_counters {
    const struct sim_site *sites; /* Of the last world. */
    unsigned site_count;
    uint64_t struck[SIM_SITES_MAX][SIM_FAULT_COUNT];
    uint64_t operations[SIM_OPERATIONS_MAX];
    uint64_t met[SIM_SITES_MAX][SIM_FAULT_COUNT][SIM_OPERATIONS_MAX];
    uint64_t events, simulated_ns;
};

const char *sim_fault_name(enum sim_fault fault);

/* What a client is doing, from its first byte to the answer. Embedded in the client. */
struct sim_operation {
    struct list link;
    unsigned kind;
    uint64_t connection; /* Whose faults strike it; 0: none. */
    uint32_t nodes;      /* Who takes part in it: a mask of sim_node_bit(); 0: all. */
};

/* `sock`: of the current shard, or SOCK_NONE. */
void sim_operation_begin(struct sim_operation *o, unsigned kind, struct sock sock);
void sim_operation_begin_at(struct sim_operation *o, unsigned kind, struct sock sock, uint32_t nodes);
void sim_operation_end(struct sim_operation *o);

/* Before io_close(): a socket of the current shard ends by a reset, and what it has sent and has not arrived
 * is lost. */
void sim_abort(struct sock sock);

/* ---- The world ---------------------------------------------------------------------------------------- */

struct sim_world *sim_world_new(uint64_t seed, struct sim_counters *counters);
void sim_world_free(struct sim_world *w);
uint64_t sim_now_ns(const struct sim_world *w);
uint64_t sim_seed(const struct sim_world *w);
/* Chained XXH64 over every call and completion so far. */
uint64_t sim_hash(const struct sim_world *w);
/* Writes every call and completion to `fd`; -1: none. */
void sim_trace_to(struct sim_world *w, int fd);
/* Faults, starts and ends of nodes only. */
void sim_story_to(struct sim_world *w, int fd);
/* Numbers for the scenario itself: a stream apart. */
uint64_t sim_below(struct sim_world *w, uint64_t bound);
uint64_t sim_range(struct sim_world *w, uint64_t low, uint64_t high);

/* Runs until `time_ns`, or until until(arg) is true after some event (NULL: never), or a violation. True:
 * until() said so. */
bool sim_run(struct sim_world *w, uint64_t time_ns, bool (*until)(void *arg), void *arg);
/* Calls fire(arg) once, outside of every shard. */
void sim_after(struct sim_world *w, uint64_t delay_ns, void (*fire)(void *arg), void *arg);
/* Calls call(arg) at once as the shard's own loop would, outside of every event; then the shard gets a turn. */
void sim_call(struct shard *s, void (*call)(void *arg), void *arg);

/* Something that was promised does not hold. May be called from anywhere. */
void sim_violation(struct sim_world *w, const char *format, ...) PRINTF_LIKE(2, 3);
unsigned sim_violation_count(const struct sim_world *w);
const char *sim_violation_text(const struct sim_world *w, unsigned index);

/* ---- Nodes -------------------------------------------------------------------------------------------- */

struct sim_node_options {
    const char *name; /* Literal, or outlives the world. */
    const char *ip;   /* "127.0.0.1": unique. Wildcard listeners of the node are found there. */
    unsigned shard_count;
    const struct node_ops *ops;
    const struct config *config; /* Outlives the world. */
    const struct given *given;   /* The same; NULL: none. */
    void *owner;                 /* struct node's. */
    uint64_t memory;             /* Budget of each shard; 0: none. */
    uint32_t socket_count;       /* Of each shard; 0: 4,096. */
    bool client;                 /* Never struck by faults. */
    uint8_t kind;                /* Of struct sim_site. */
};

struct sim_node *sim_node_new(struct sim_world *w, const struct sim_node_options *options);
struct sim_node *sim_node_of(const struct shard *s);
struct sim_world *sim_world_of(const struct shard *s);
/* Puts a durable file onto the node's disk. */
void sim_node_put_file(struct sim_node *n, const char *path, struct slice content);

void sim_node_start(struct sim_node *n);
void sim_node_kill(struct sim_node *n);  /* kill -9. */
void sim_node_power(struct sim_node *n); /* The cable. Start gives it power again. */
/* SIGSTOP, SIGCONT. Its sockets and what it has asked of the kernel go on, and so do its clocks. */
void sim_node_freeze(struct sim_node *n);
void sim_node_thaw(struct sim_node *n); /* Allowed when it runs. */
bool sim_node_frozen(const struct sim_node *n);
/* `fault` SIM_KILL or SIM_POWER: strikes when so many file operations more have been done, between two steps
 * of what the node is doing just then. */
void sim_node_doom(struct sim_node *n, enum sim_fault fault, unsigned file_operations);
/* Asks stop() of every shard, and ends the process when all have returned. */
void sim_node_stop(struct sim_node *n);
bool sim_node_up(const struct sim_node *n);
/* Every start() has returned 0, in this life. */
bool sim_node_ready(const struct sim_node *n);
/* The first error of a start() in the last life; 0: none. A node that did not start is down. */
int sim_node_error(const struct sim_node *n);
/* Disk errors and rot that ever struck. */
unsigned sim_node_disk_faults(const struct sim_node *n);
unsigned sim_node_clock_jumps(const struct sim_node *n); /* Ever. */
unsigned sim_node_lives(const struct sim_node *n);
uint32_t sim_node_bit(const struct sim_node *n);

/* ---- Many, measured ------------------------------------------------------------------------------------ */

/* Connections made from now on have whole windows, and what one send brings arrives as one. */
void sim_smooth_network(struct sim_world *w);
/* A connection at once, as if a shard had connected and another had accepted: each end is its shard's own. `peer`: of the
 * end at `from`. False: one of them has no socket left. */
MUST_CHECK bool sim_join(struct shard *from, struct shard *to, struct sock *from_out, struct sock *to_out,
                         struct net_addr *peer_out);
/* Counts from now on what CPU the turns of each node take, the simulated kernel's work in their calls included. */
void sim_count_cpu(struct sim_world *w);
uint64_t sim_node_cpu_ns(const struct sim_node *n);
struct sim_memory { /* Bytes of the simulator's own. */
    uint64_t network, disks;
};
void sim_memory(const struct sim_world *w, struct sim_memory *out);

/* ---- Faults by hand ----------------------------------------------------------------------------------- */

void sim_partition(struct sim_node *a, struct sim_node *b, bool both);
bool sim_partitioned(const struct sim_node *from, const struct sim_node *to);
/* How often anything of it has changed: whether `to` runs, and whether bytes pass between the two. */
unsigned sim_reach_changes(const struct sim_node *from, const struct sim_node *to);
void sim_heal(struct sim_node *a, struct sim_node *b);
void sim_slow_network(struct sim_node *a, struct sim_node *b, uint32_t factor); /* 1: as it was. */
bool sim_slowed(const struct sim_node *a, const struct sim_node *b);
/* How often connections between the two were reset or left half open, and slowness has begun or ended. */
unsigned sim_link_strikes(const struct sim_node *a, const struct sim_node *b);
/* The next `count` reads, writes or flushes of the node fail. SIM_READ_ERROR, SIM_WRITE_ERROR,
 * SIM_FLUSH_ERROR. */
void sim_disk_errors(struct sim_node *n, enum sim_fault fault, unsigned count);
void sim_disk_full(struct sim_node *n, bool full);
void sim_disk_slow(struct sim_node *n, uint32_t factor);
bool sim_rot(struct sim_node *n);
void sim_clock_jump(struct sim_node *n, int64_t by_ms);

/* ---- Faults by chance --------------------------------------------------------------------------------- */

struct sim_nemesis_options {
    uint32_t faults; /* Mask of 1u << SIM_*: what may strike. */
    /* Where; NULL: anywhere, between servers and clients too, all counted as one. */
    const struct sim_site *sites;
    unsigned site_count;
    uint64_t mean_ns;    /* Between two strikes. */
    uint64_t until_ns;   /* The last one; all heals and restarts happen after it too. */
    uint64_t restart_ns; /* A node that is down stays so for up to this long. */
};

/* One a world. Strikes nodes that are no clients, restarts what it or a failed start brought down. Two strikes of
 * three are aimed: they wait for an operation of the kind that their fault has met least there in this world. */
void sim_nemesis_start(struct sim_world *w, const struct sim_nemesis_options *options);
/* Never by chance, in this world. Before sim_nemesis_start(). */
void sim_forbid(struct sim_world *w, uint32_t faults);
/* No fault lasts or will come, every node is up and ready. */
bool sim_calm(const struct sim_world *w);
/* Since when no fault has struck and none lasts; UINT64_MAX: one lasts now. */
uint64_t sim_quiet_since_ns(const struct sim_world *w);
