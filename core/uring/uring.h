/* core/uring/uring.h -- the insides of the real door: one main ring a shard, table rings for more sockets
 * than one table of direct descriptors holds, and operations named by {index, generation} in user_data, never
 * by a pointer.
 *
 * Main ring: DEFER_TASKRUN, so that completions are made when we ask for them, in batches. Table rings are
 * made when the tables before them are full. The main ring polls their descriptors; that poll is not told of
 * work which a DEFER_TASKRUN ring keeps for later (measured on 6.18), so table rings are COOP_TASKRUN: their
 * completions are made while the thread waits in the main ring.
 *
 * A node that says what its rings may do (node_options.ring_rights) makes all that it will ever have before its first shard:
 * disabled, with a list of allowed operations that cannot be changed any more; the shard that uses one enables it, and then
 * alone may submit to it. After that nobody in the process can make another ring (core/sandbox.h).
 *
 * Receive buffers belong to the shard and are lent to its rings, a few at a time, hottest first.
 * Owner:  the shard's thread, apart from `shared`. */
#pragma once
#include "core/io.h"
#include "core/node.h"
#include "core/scheduler.h"
#include "core/uring/uring_compat.h"
#include <stdatomic.h>

#define RING_COUNT_MAX      1024
#define RING_TABLE_SIZE_MAX 65536 /* Slots of one table; RLIMIT_NOFILE where that is less. */
#define RING_SPARES_MAX     64    /* Table rings that a restricted shard prepares. */
#define RING_SQ_MAIN        1024
#define RING_SQ_TABLE       256
#define RING_LISTENER       UINT16_MAX /* struct sock.ring: its slot is a plain descriptor, of use to all rings. */
#define FILE_SLOTS_MAX      1024       /* Of the main table, kept free for files. */
#define RECV_BUFFER_SIZE    16384
#define RECV_BUFFER_COUNT   1024
#define RECV_LENT_MAIN      64 /* Buffers that a ring keeps lent to the kernel: powers of two. */
#define RECV_LENT_TABLE     16
#define RECV_GROUP          1
#define OP_CHUNK_COUNT      4096
#define OP_CHUNKS_MAX       4096 /* 16 million operations in flight. */
#define IOWQ_WORKERS_MAX    2    /* Bounded and unbounded kernel workers of a shard, on the shard's CPU. */
#define HELPER_QUEUE_MAX    256

enum op_kind {
    OP_FREE,
    OP_ACCEPT,
    OP_CONNECT_SOCKET, /* First half of io_connect: the socket is on its way into the table. */
    OP_CONNECT,
    OP_POLL, /* The slot knows its index: see poll.c. */
    OP_RECV,
    OP_RECV_INTO,  /* Until it completes io_op.data is the whole space. */
    OP_SEND,       /* One piece: what is left of it is in io_op.data. */
    OP_SEND_QUIET, /* The kernel says nothing when all of it went out at once: see quiet.c. */
    OP_SENDV,      /* A vector: io_op.data.data is its struct send. */
    OP_FILE,
    OP_WORD, /* io_send_word(): word.c */
    OP_PASS, /* A step of passing.c; `slot` says which. */
    OP_FAIL, /* Nothing was asked of the kernel: completes with the error in `slot`. */
};

#define OP_GENERATION_MAX (UINT32_MAX >> 2) /* The bits above it in user_data say UD_POLL and UD_QUIET. */
#define QUIET_MAX         RING_SQ_MAIN /* Quiet sends of which nothing is known yet: no more than a turn submits. */

struct op {
    void *owner; /* struct io_op; or struct file_wait for OP_FILE, pass_wait for OP_PASS. Free: unused. */
    uint32_t generation;
    uint32_t slot; /* Free: next free index. */
    uint64_t
        quiet_to; /* OP_RECV: its completion is behind all that there is to say of quiet sends before that number. */
    uint16_t ring; /* OP_SEND_QUIET: the number after its own. */
    uint8_t kind;
    bool cancelled : 1;
    bool proves : 1; /* OP_RECV: quiet_to holds. */
    bool told : 1;   /* OP_SEND_QUIET: it has a completion, so not all went well. */
};

struct op_table {
    struct op *chunks[OP_CHUNKS_MAX];
    uint32_t count;     /* Places made so far. */
    uint32_t free_head; /* UINT32_MAX: none. */
    uint32_t used_count;
};

enum slot_poller { POLLER_NONE, POLLER_OP, POLLER_WATCH };

struct slot {
    uint16_t generation;
    bool readable : 1;   /* The next receive will find bytes: do not poll first. */
    bool shut : 1;       /* io_shutdown() was called. */
    bool poll_armed : 1; /* The kernel has a poll of it. */
    uint8_t poller;      /* enum slot_poller: who is told when that completes: */
    uint32_t poller_id;  /* the operation's index, or the watch's cookie. */
};

_Static_assert(sizeof(struct slot) == 8, "what a socket costs at least");

struct ring {
    struct io_uring uring;
    uint16_t index;
    bool poll_armed; /* A table ring's descriptor is polled by the main ring. */
    bool on_ready;   /* Has completions, and is in door.ready. */
    bool on_dirty;   /* Has submissions, and is in door.dirty. */
    struct slot *slots;
    uint32_t slot_count;
    uint32_t socket_limit, socket_count; /* Counts accepts in flight as well. */
    struct io_uring_buf_ring *lent;
    uint32_t lent_max, lent_count;
};

/* Written by other threads. */
struct door_shared {
    _Alignas(64) _Atomic(struct shard_message *) inbox; /* Newest first. */
    _Alignas(64) _Atomic(struct helper_job *) helped;   /* Newest first. */
    _Alignas(64) atomic_bool sleeping; /* In the ring's wait: an inbox that fills needs a wake. */
    atomic_uint command;               /* node.c's: enum node_command bits not yet seen. */
};

/* All that a shard of a restricted process will ever have, still disabled. */
struct ring_set {
    struct ring *main; /* NULL: taken. */
    struct ring *spares[RING_SPARES_MAX];
    unsigned spare_count;
};

struct shard_private {
    struct shard *shard;
    struct process *process;
    int cpu; /* Where the kernel's workers are pinned; -1: nowhere. */
    struct ring *rings[RING_COUNT_MAX];
    unsigned ring_count;
    struct ring_set *set; /* NULL: rings are made as needed. */
    unsigned ring_hint;   /* Rings before it have no free place for a socket. */
    uint16_t dirty[RING_COUNT_MAX], ready[RING_COUNT_MAX];
    unsigned dirty_count, ready_count;
    struct op_table ops;
    uint64_t quiet[QUIET_MAX]; /* user_data of quiet sends, in the order of submission. */
    unsigned quiet_count;
    uint64_t quiet_begin;    /* The number of quiet[0]; they are numbered from the first one on. */
    uint64_t quiet_asked_to; /* Those before it are known soon. */
    char *buffers;           /* RECV_BUFFER_COUNT of RECV_BUFFER_SIZE. */
    uint16_t free_buffers[RECV_BUFFER_COUNT]; /* A stack. */
    unsigned free_buffer_count;
    void (*watch_fired)(uint32_t cookie, int32_t res);
    uint64_t now_ns;
    uint64_t alarm_ns; /* When the kernel makes a turn by itself; UINT64_MAX: it does not. */
    struct __kernel_timespec alarm;
    int event_fd;
    uint64_t event_value;
    uint32_t random_left;
    uint8_t random[512];
    struct door_shared shared;
};

/* One a process: node.c makes it, node->owner points to it. */
#define LOCK_COUNT_MAX 16
struct process {
    int data_fd; /* Directory that relative paths begin at. */
    unsigned ring_rights;
    struct ring_set *ring_sets; /* One a shard; NULL: rings are not restricted. */
    struct node_listener *listeners;
    unsigned listener_count;
    struct helper_pool *helpers;
    int lock_fds[LOCK_COUNT_MAX]; /* dir_lock(): held until the node ends, or dir_unlock_all(). */
    atomic_uint lock_count;
};

static inline struct shard_private *door_self(void)
{
    struct shard *s = shard_self();

    ASSERT(s != NULL);
    return s->private;
}

/* ---- loop.c: a door's life ----------------------------------------------------------------------------- */

/* On the thread that will run it. `cpu` >= 0 pins the kernel's workers. 0 or -errno. */
MUST_CHECK int door_init(struct shard *s, struct process *process, int cpu);
/* On the same thread: ends what is in flight, so that the kernel writes into no memory of ours any more.
 * Other threads may still send to the shard until door_free(). */
void door_close(struct shard *s);
void door_free(struct shard *s);
/* Turns until node_on_command() says so. */
void door_run(struct shard *s);
/* From any thread: makes the shard's loop call node_on_command(). */
void door_command(struct shard *s, unsigned bits);
/* node.c's. False: leave the loop. */
bool node_on_command(struct shard *s, unsigned bits);

/* ---- ring.c -------------------------------------------------------------------------------------------- */

/* The main ring, or one more table ring, ready for use: a new one or, in a restricted process, a spare. */
MUST_CHECK int ring_create(struct shard_private *p, bool main);
/* The memory of an ended process's rings counts against its user's limit until the kernel has taken them down, some moments later: a
 * server that starts again waits for what its predecessor had. False: *patience_ms, at first RING_PATIENCE_MS, is used up. */
#define RING_PATIENCE_MS 2000
bool ring_patient(unsigned *patience_ms);
/* Makes the process's rings, for so many sockets a shard. On the first thread, with whatever rights it has: what it has no right to
 * lock in memory counts against a limit, and so the spares may be fewer; *sockets_out says for how many they are. 0 or -errno. */
MUST_CHECK int ring_sets_make(struct process *process, unsigned shard_count, uint64_t sockets_max,
                              uint64_t *sockets_out);
void ring_sets_free(struct process *process, unsigned shard_count);
void ring_close(struct ring *r);
void ring_free(struct ring *r);
/* An empty submission on the ring; submits what is queued when there is no room. Never NULL. */
struct io_uring_sqe *ring_sqe(struct shard_private *p, struct ring *r);
/* Makes room for `count` submissions that must go in together. */
void ring_reserve(struct shard_private *p, struct ring *r, unsigned count);
/* Does the kernel keep completions back until it is entered? */
bool ring_has_work(const struct ring *r);
/* A ring with a free place for a socket, which it now counts; makes rings as needed. NULL: none. */
struct ring *ring_for_socket(struct shard_private *p);
void ring_socket_gone(struct shard_private *p, struct ring *r);

/* user_data of completions that belong to no operation: generation 0. */
enum { UD_IGNORE, UD_WAKE, UD_EVENT, UD_TABLE, UD_ALARM, UD_QUIET_PROOF, UD_QUIET_REFUSED };
static inline uint64_t user_data_special(unsigned what, unsigned ring)
{
    return what | (uint64_t)ring << 8;
}

/* user_data of a poll: it belongs to the slot, not to an operation. */
#define UD_POLL (UINT64_C(1) << 63)
static inline uint64_t user_data_poll(const struct ring *r, uint32_t slot)
{
    return UD_POLL | (uint64_t)r->index << 48 | (uint64_t)r->slots[slot].generation << 32 | slot;
}

/* user_data of a send that completes only if something is wrong: told apart without a look at its operation. */
#define UD_QUIET (UINT64_C(1) << 62)

/* ---- op.c ---------------------------------------------------------------------------------------------- */

/* An index, with the ring, slot and kind filled in. */
uint32_t op_new(struct op_table *t, void *owner, enum op_kind kind, uint16_t ring, uint32_t slot);
struct op *op_at(struct op_table *t, uint32_t index);
void op_free(struct op_table *t, uint32_t index);
static inline uint64_t op_user_data(const struct op *o, uint32_t index)
{
    return (o->kind == OP_SEND_QUIET ? UD_QUIET : 0) | (uint64_t)o->generation << 32 | index;
}

/* ---- socket.c, file.c: what completions do ------------------------------------------------------------- */

struct ring *socket_ring(struct shard_private *p, struct sock s);
/* Takes a place for the operation; ends it. */
void op_begin(struct shard_private *p, struct io_op *op, enum op_kind kind, struct ring *r, uint32_t slot);
void op_finish(struct shard_private *p, struct io_op *op, int32_t res);
/* Completes from the loop, not in here, though nothing is asked of the kernel. */
void op_complete_later(struct shard_private *p, struct io_op *op, int res);
/* Nobody is told how it went. */
void op_submit_ignored(struct io_uring_sqe *sqe);
/* Those of every TCP socket. 0 or -errno. */
int socket_options(int fd);
/* Fills `space`; the size of what is in there. */
unsigned net_addr_to_sockaddr(const struct net_addr *a, char space[32]);
void socket_completed(struct shard_private *p, uint32_t index, int32_t res, uint32_t flags);
void file_completed(struct shard_private *p, uint32_t index, int32_t res);
void word_completed(struct shard_private *p, uint32_t index, int32_t res); /* word.c */
void pass_completed(struct shard_private *p, uint32_t index, int32_t res);
/* What the kernel has just put into a slot. */
struct sock sock_new(struct ring *r, uint32_t slot);

/* ---- poll.c -------------------------------------------------------------------------------------------- */

void poll_completed(struct shard_private *p, uint64_t user_data, int32_t res);
/* Nothing may hear of it any more: what it was for is given back. */
void poll_reaped_away(struct shard_private *p, uint64_t user_data);
/* Before the slot is closed: the kernel's poll would keep the socket open. */
void poll_cancel(struct shard_private *p, struct ring *r, uint32_t slot);

/* ---- quiet.c ------------------------------------------------------------------------------------------- */

/* Submits, on the main ring. False: it must be an ordinary send. */
MUST_CHECK bool quiet_send(struct shard_private *p, struct sock s, struct io_op *op, struct slice data);
static inline uint64_t quiet_end(const struct shard_private *p)
{
    return p->quiet_begin + p->quiet_count;
}
/* `o` was asked for on the main ring, and will complete out of the kernel's queue of work. */
static inline void quiet_prove(const struct shard_private *p, struct op *o)
{
    o->quiet_to = quiet_end(p);
    o->proves = true;
}
/* Before the main ring's completions are looked at: those of which the kernel has nothing to say are done. */
void quiet_settle(struct shard_private *p);
/* Somebody waits for it: if it is a quiet send, it is told soon. */
void quiet_await(struct shard_private *p, const struct op *o);
/* Has all of them told soon. */
void quiet_ask(struct shard_private *p);
/* Nobody may hear of them any more. */
void quiet_reaped_away(struct shard_private *p);

/* ---- buffers.c ----------------------------------------------------------------------------------------- */

MUST_CHECK int buffers_init(struct shard_private *p);
void buffers_fini(struct shard_private *p);
MUST_CHECK int buffers_attach(struct ring *r, uint32_t lent_max);
void buffers_detach(struct ring *r);
/* Tops up what the ring may fill. Number of buffers that it now has. */
unsigned buffers_lend(struct shard_private *p, struct ring *r);
static inline char *buffer_at(struct shard_private *p, uint16_t id)
{
    return p->buffers + (size_t)id * RECV_BUFFER_SIZE;
}

/* ---- helper.c ------------------------------------------------------------------------------------------ */

/* Threads inherit the caller's CPU affinity. NULL: not possible; errno. */
struct helper_pool *helper_pool_new(unsigned thread_count);
/* No job may be under way or queued. */
void helper_pool_free(struct helper_pool *pool);
/* Wakes the fibers whose jobs are done. */
void helper_collect(struct shard_private *p);
