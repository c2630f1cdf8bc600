/* core/sim/world.h -- the insides of the simulator, shared by its files only. */
#pragma once
#include "core/scheduler.h"
#include "core/sim/disk.h"
#include "core/sim/random.h"
#include "core/sim/sim.h"

/* ---- Events ------------------------------------------------------------------------------------------- */

struct sim_event {
    uint64_t at_ns, order;
    void (*fire)(struct sim_event *e);
    size_t place; /* In the heap, from 1; 0: not scheduled. */
};

void sim_event_set(struct sim_event *e, uint64_t at_ns); /* Sets, or moves. */
void sim_event_after(struct sim_event *e, uint64_t delay_ns);
void sim_event_cancel(struct sim_event *e);
static inline bool sim_event_armed(const struct sim_event *e)
{
    return e->place != 0;
}

/* ---- The world ---------------------------------------------------------------------------------------- */

struct sim_link { /* One direction between two nodes. */
    uint64_t latency_ns;
    uint32_t factor;
    unsigned changes;
    unsigned strikes; /* Resets, connections that are half open, slowness that begins or ends. */
    bool cut;
};

/* A strike, as it is counted. */
struct sim_hit {
    enum sim_fault fault;
    int site;            /* -1: none, not counted. */
    uint32_t nodes;      /* Who was struck. */
    uint64_t connection; /* The only one that it strikes; 0: all. */
};

/* A fault that waits until an operation of one kind is outstanding, so that rare ones are met, too. */
struct sim_aim {
    enum sim_fault fault;
    unsigned site;
    bool set, at_disk;
    unsigned kind;
    unsigned calls; /* at_disk: strikes after so many calls of the disk, else some time after it began. */
    struct sim_node *node; /* Whose disk fails. */
    struct sim_event strike;
};

struct sim_nemesis {
    struct sim_nemesis_options options;
    struct sim_event strike;
    struct list lasting; /* Faults that end by themselves. */
    uint32_t forbidden;
    uint32_t kinds_seen; /* Operations that have begun, in this world. */
    bool active;
    struct sim_aim aims[SIM_SITES_MAX][SIM_FAULT_COUNT];
};

struct sim_world {
    uint64_t seed, now_ns, hash, order;
    struct sim_random random, scenario_random, nemesis_random;
    struct sim_event **heap; /* From 1. */
    size_t event_count, event_capacity;
    struct sim_node *nodes[SIM_NODES_MAX];
    unsigned node_count;
    struct sim_link links[SIM_NODES_MAX][SIM_NODES_MAX];
    struct list connections, listeners, operations, timers;
    struct list lasting; /* Of faults. */
    const struct sim_site *sites;
    unsigned site_count;
    uint64_t next_connection;
    bool smooth; /* The network cuts nothing. */
    bool counts_cpu;
    uint16_t next_port;
    struct sim_counters *counters;
    uint32_t met[SIM_SITES_MAX][SIM_FAULT_COUNT][SIM_OPERATIONS_MAX]; /* In this world. */
    struct sim_node *helper_node;                                     /* Whose helper thread runs now. */
    uint64_t struck_ns; /* The last strike, or the end of what lasted. */
    struct sim_nemesis nemesis;
    char *violations[SIM_VIOLATIONS_MAX];
    unsigned violation_count;
    int trace_fd, story_fd;
};

/* The one that exists: the door's functions have no argument to find it by. */
struct sim_world *sim_world_current(void);

/* A call or a completion. */
enum sim_trace_kind {
    TRACE_TURN,
    TRACE_LISTEN,
    TRACE_ACCEPT,
    TRACE_CONNECT,
    TRACE_POLL,
    TRACE_RECV,
    TRACE_SEND,
    TRACE_SHUTDOWN,
    TRACE_CLOSE,
    TRACE_CANCEL,
    TRACE_DONE,
    TRACE_FILE,
    TRACE_FILE_DONE,
    TRACE_RANDOM,
    TRACE_HELPER,
    TRACE_MESSAGE,
    TRACE_NODE,
    TRACE_FAULT,
    TRACE_KIND_COUNT
};
void sim_trace(enum sim_trace_kind kind, unsigned node, unsigned shard, uint64_t a, uint64_t b, uint64_t c);
void sim_trace_shard(enum sim_trace_kind kind, uint64_t a, uint64_t b,
                     uint64_t c); /* Of the current shard. */

/* One line of the story. */
void sim_tell(struct sim_world *w, const char *format, ...) PRINTF_LIKE(2, 3);

/* A fault of a node. */
struct sim_hit sim_hit_node(const struct sim_node *n, enum sim_fault fault);
/* Of what goes from `a` to `b`, or both ways. */
struct sim_hit sim_hit_pair(const struct sim_node *a, const struct sim_node *b, bool both,
                            enum sim_fault fault);
void sim_strike(struct sim_world *w, const struct sim_hit *hit);
/* The same, of what was outstanding before: a mask of sim_outstanding_kinds(). */
void sim_strike_kinds(struct sim_world *w, const struct sim_hit *hit, uint32_t kinds);
/* It has begun, and the connection that it came by is whole: both ends know it, and no fault has broken it. */
bool sim_outstanding(const struct sim_world *w, const struct sim_operation *o);
/* Those that it would meet. */
uint32_t sim_outstanding_kinds(const struct sim_world *w, const struct sim_hit *hit);
/* Does the operation take part in what is struck? */
bool sim_takes_part(const struct sim_operation *o, uint32_t nodes);
void sim_lasting_begin(struct sim_world *w, const struct sim_hit *hit);
void sim_lasting_end(struct sim_world *w, const struct sim_hit *hit); /* The same fault of the same nodes. */

/* ---- Nodes and shards --------------------------------------------------------------------------------- */

#define SIM_SOCKETS_DEFAULT  4096 /* A shard. */
#define SIM_FILES_MAX        1024
#define SIM_RECV_BUFFERS_MAX 256
#define SIM_RECV_SIZE        16384
#define SIM_HELPERS          2
#define SIM_HELPER_QUEUE_MAX 64

/* Something that a shard learns in its next turn. */
struct sim_done {
    struct list link;
    void (*run)(struct sim_done *d);
};

struct sim_socket;
struct sim_op;

struct sim_open_file {
    struct sim_inode *inode; /* NULL: free. */
    int flags;
    uint64_t flush_end_ns; /* Flushes of one file end in the order in which they began. */
    bool flush_failed;
};

struct shard_private {
    struct shard *shard;
    struct sim_node *node;
    struct sim_event turn;
    struct list done;
    bool begun, start_returned;
    struct sim_socket *sockets;
    uint32_t *free_sockets, free_socket_count, socket_count;
    struct sim_op **ops;
    uint32_t op_count, op_capacity;
    struct list free_ops;
    void (*watch_fired)(uint32_t cookie, int32_t res);
    struct recv_buffer *buffers[SIM_RECV_BUFFERS_MAX];
    unsigned buffers_out;
    struct sim_open_file *files; /* SIM_FILES_MAX */
    struct list file_calls, helper_calls, messages;
    uint64_t message_ns[SIM_SHARDS_MAX]; /* When the last message to each shard arrives. */
};

struct sim_node {
    struct sim_world *world;
    unsigned id;
    struct sim_node_options options;
    struct net_addr address;
    struct sim_random random;
    struct sim_disk disk;
    struct node node;
    struct shard *shards[SIM_SHARDS_MAX];
    bool up, powered, stopping, frozen;
    unsigned ready_count, stopped_count, lives;
    int error;
    struct sim_event end, restart, doom;
    enum sim_fault doom_fault; /* SIM_KILL or SIM_POWER ... */
    unsigned doom_calls;       /* ... after so many file operations more; 0: none. */
    uint64_t clock_offset_ns;  /* Of the monotonic clock: each boot another. */
    int64_t wall_offset_ms;
    uint64_t helper_free_ns[SIM_HELPERS];
    unsigned helper_calls;
    struct list locks;
    unsigned errors_armed[3]; /* Reads, writes, flushes. */
    uint32_t disk_factor;
    bool disk_is_full;
    unsigned disk_faults, clock_jumps;
    unsigned changes; /* Of up and frozen. */
    uint64_t cpu_ns;
};

static inline struct shard_private *sim_private(void)
{
    struct shard *s = shard_self();

    ASSERT(s != NULL);
    return s->private;
}

/* Makes the shard take a turn, soon. */
void sim_shard_wake(struct shard_private *p);
void sim_shard_done(struct shard_private *p, struct sim_done *d);
/* The same, in the next turn that there is for another reason. */
void sim_shard_done_quiet(struct shard_private *p, struct sim_done *d);
/* A file operation was done, and wrote so many bytes: the hour of the node's death may be now. */
void sim_nemesis_file(struct sim_node *n, size_t written);
/* The power fails, most likely so that the disk shows `outcome`: SIM_POWER (any), SIM_LOST, SIM_TORN,
 * SIM_REORDERED. */
void sim_node_power_toward(struct sim_node *n, enum sim_fault outcome);
void sim_node_free(struct sim_node *n);
void sim_node_restart_after(struct sim_node *n, uint64_t delay_ns);

/* core/sim/fault.c */
void sim_nemesis_see(struct sim_world *w, const struct sim_operation *o); /* It begins. */
/* The fault of this node's disk waits for an operation, and none of its kind is outstanding. */
bool sim_aim_waits(const struct sim_node *n, enum sim_fault fault);
/* It has struck. */
void sim_aim_struck(struct sim_node *n, enum sim_fault fault);
/* The node's disk is aimed to be full, just now. */
bool sim_aim_fills(const struct sim_node *n);
/* It has struck: it is full, for a while. */
void sim_aim_filled(struct sim_node *n);
void sim_nemesis_fini(struct sim_world *w);

/* core/sim/net.c, and net_op.c, net_connection.c */
/* A connection between `a` and `b`, or of any two nodes (NULL), both ends alive: this one if it is, else any. False: there
 * is none. */
bool sim_reset(struct sim_world *w, const struct sim_node *a, const struct sim_node *b, uint64_t connection);
bool sim_half_open(struct sim_world *w, const struct sim_node *a, const struct sim_node *b,
                   uint64_t connection);
bool sim_net_lives(const struct sim_world *w, uint64_t connection);
void sim_net_shard_init(struct shard_private *p);
/* The process is gone. `silent`: the host too, so nobody is told. */
void sim_net_shard_fini(struct shard_private *p, bool silent);
void sim_net_node_returned(struct sim_node *n); /* The host answers again. */
void sim_net_links_changed(struct sim_world *w);
void sim_net_fini(struct sim_world *w);
uint64_t sim_net_connection(struct shard_private *p, struct sock s);
uint64_t sim_net_memory(const struct sim_world *w);

/* core/sim/file.c */
void sim_file_shard_init(struct shard_private *p);
void sim_file_shard_fini(struct shard_private *p);
void sim_file_node_down(struct sim_node *n);
