/* core/shard.h -- a core is a machine: one pinned thread with its rings, memory, timers, fibers and queue.
 *
 * A node is one process (in the simulator: one simulated process) of `shard_count` shards. Shards share nothing;
 * they send each other messages. The loop of a shard, each turn:
 *
 *     completions -> messages of other shards -> timers -> interactive fibers -> a quantum of bulk fibers
 *     -> submit and wait (not at all while something is runnable) */
#pragma once
#include "core/base.h"
#include "core/heap.h"
#include "core/list.h"

struct config;
struct given;
struct metrics;
struct shard;
struct scheduler;     /* The half common to both doors: fibers, timers, messages (core/scheduler.h). */
struct shard_private; /* The door's own half: rings, or the simulator's. */

enum shard_slot {           /* What roles, the store and TLS hang on a shard. */
                  SLOT_TLS, /* Of net/tls.h. */
                  SLOT_DEFLATE,
                  SLOT_STORE,
                  SLOT_PROXY,
                  SLOT_CHEST,
                  SLOT_DIRECTOR,
                  SLOT_PASSDB,
                  SLOT_BACKEND,
                  SLOT_LINK,
                  SLOT_CLUSTER,
                  SLOT_MEMBER,
                  SLOT_LINKS,
                  SLOT_OTHER,
                  SLOT_CONTROL,
                  SLOT_ADMIN,
                  SLOT_COUNT
};

struct node {
    const struct config *config; /* Read-only after start. */
    struct shard **shards;
    unsigned shard_count;
    const struct given *given; /* NULL: none. */
    const struct node_ops *ops;
    void *owner; /* Of whoever runs the node. */
    bool stopping;
};

struct shard {
    struct node *node;
    unsigned index; /* 0 .. shard_count - 1. */
    struct heap *heap;
    struct metrics *metrics;
    void *slot[SLOT_COUNT];
    struct scheduler *scheduler;
    struct shard_private *private;
};

/* What a process does on each shard. start() runs on a fiber, on all shards at once; an error ends the node with
 * that error (it has logged why). stop() runs on a fiber after all shards were told to stop. */
struct node_ops {
    int (*start)(struct shard *s);
    void (*stop)(struct shard *s);
    /* The operator wants another executable; on shard 0. NULL: this process has nobody who could start it. */
    void (*upgrade)(struct shard *s);
};

/* The shard that runs now. Set by the scheduler; NULL outside of one (start of the process, helper threads). */
struct shard *shard_self(void);

/* ---- Messages between shards --------------------------------------------------------------------------- */

/* Embedded in what is sent. Bounded by whoever sends: count what you have out. */
struct shard_message {
    struct shard_message *next;
    struct shard *from;
    /* Runs on the receiver's loop (not a fiber), in order of sending. */
    void (*deliver)(struct shard_message *m);
};

/* Takes m until it is delivered, and what then happens to it is the receiver's business: memory goes home to the
 * shard that made it, so most receivers send it back with another deliver(). To itself is allowed, and is
 * delivered from the loop too. */
void shard_send(struct shard *to, struct shard_message *m);
/* Is there nothing that was sent to the current shard before now, and is not delivered yet? */
bool shard_heard_all(void);

/* ---- Timers -------------------------------------------------------------------------------------------- */

/* A hashed hierarchical wheel, 1 ms resolution, O(1) to set and cancel, good for ten million of them. */
struct timer {
    struct list link;
    uint64_t deadline_ms; /* time_ms() */
    void (*fire)(struct timer *t);
};

void timer_init(struct timer *t, void (*fire)(struct timer *t));
/* Sets or moves it. Fires once, from the loop, never early. */
void timer_set(struct timer *t, uint32_t delay_ms);
void timer_cancel(struct timer *t); /* Allowed when not set. */
static inline bool timer_armed(const struct timer *t)
{
    return list_linked(&t->link);
}
