/* core/fiber.h -- work in flight: stackful fibers of one shard, straight-line C that suspends.
 *
 * Stacks are FIBER_STACK_SIZE bytes (four times that under sanitizers) out of one mapping a shard, with a guard
 * page each; the pool is bounded. A library call that needs more goes through core_call(). No lock, errno or
 * library error queue may be held over a suspension. No fiber waits for bytes of a client: a connection is a
 * record, and starts a fiber when a whole piece of work is there.
 *
 * Cancellation: fiber_cancel() makes the suspension point that the fiber is at (or its next one) return
 * -ECANCELED, once it is safe: an operation in flight on the fiber's buffers is cancelled and waited for first.
 * Between fiber_mask() and fiber_unmask() nothing is cancelled: from log append to reply, and in cleanup. */
#pragma once
#include "core/base.h"
#include "core/list.h"

#define FIBER_STACK_SIZE (32 * 1024)
#define FIBER_COUNT_MAX  1024 /* A shard. */

struct shard;
struct fiber;

enum run_class {
    RUN_INTERACTIVE, /* Wakes, notifications, acknowledgements, commands with small answers. */
    RUN_BULK,        /* FETCH of bodies, SEARCH, COPY, recovery: a bounded share of each turn of the loop. */
};

/* Starts `run(arg)` on a fiber of the current shard; it runs from the loop, never inside this call.
 * `name` is a literal, for logs and traces. NULL: all fibers are busy; queue the work, and ask again when one
 * ends (fiber_when_free). The pointer dies when run() returns. */
MUST_CHECK struct fiber *fiber_start(const char *name, enum run_class class, void (*run)(void *arg),
                                     void *arg);

/* Calls `free_done` once, from the loop, when a fiber can be started. `w` is queued first in, first out. */
struct fiber_waiter {
    struct list link;
    void (*free_done)(struct fiber_waiter *w);
};
void fiber_when_free(struct fiber_waiter *w);
void fiber_when_free_cancel(struct fiber_waiter *w);

/* The running fiber, or NULL on the loop's own stack. */
struct fiber *fiber_self(void);
const char *fiber_name(const struct fiber *f);
void fiber_set_class(enum run_class class); /* Of the running fiber, from its next turn on. */

/* Lets others run. Long computations call it by work units: see fiber_work(). 0 or -ECANCELED. */
int fiber_yield(void);
/* Counts work units (bytes scanned; a message visited counts 64); yields after FIBER_WORK_QUANTUM of them.
 * 0 or -ECANCELED. After it returns a caller holds no pointer into anything that others may change. */
#define FIBER_WORK_QUANTUM 262144
int fiber_work(uint32_t units);

/* Suspends until fiber_wake(). 0, or -ECANCELED (nobody will then wake it; take the fiber off your list).
 * The base of every waiting primitive; most code wants a fiber_queue. */
int fiber_suspend(void);
/* Makes a suspended fiber runnable with this result. From the same shard only. At most one wake a suspend. */
void fiber_wake(struct fiber *f, int result);

void fiber_cancel(struct fiber *f);
void fiber_mask(void);
void fiber_unmask(void);
/* 0, or -ECANCELED when this fiber was cancelled and is not masked. Does not suspend. */
int fiber_cancelled(void);

int fiber_sleep_ms(uint32_t ms);

/* First in, first out. */
struct fiber_queue {
    struct list waiters;
};
void fiber_queue_init(struct fiber_queue *q);
/* Suspends until woken: the waker's result, -ECANCELED, or -ETIMEDOUT (timeout_ms 0: none). */
int fiber_queue_wait(struct fiber_queue *q, uint32_t timeout_ms);
/* Number of fibers woken. */
unsigned fiber_queue_wake_one(struct fiber_queue *q, int result);
unsigned fiber_queue_wake_all(struct fiber_queue *q, int result);

/* A turn: one fiber at a time, in order of asking (not a lock: only fibers of this shard, and it suspends). */
struct turn {
    struct fiber_queue queue;
    struct fiber *holder;
};
void turn_init(struct turn *t);
MUST_CHECK int turn_take(struct turn *t); /* 0 or -ECANCELED. */
void turn_give(struct turn *t);

/* Runs fn(arg) on the shard's one big native stack, for libraries that need a deep stack (TLS handshakes,
 * zlib, printf of floats). fn never suspends. On the loop's own stack it is a plain call. */
void core_call(void (*fn)(void *arg), void *arg);

/* Suspends this fiber while fn(arg) runs on a helper thread: password hashes, anything that blocks. Helpers are
 * few and their queue is bounded: -EAGAIN when it is full. fn may touch nothing but arg. Never cancelled half-way:
 * 0 after fn has run. In the simulator fn runs in line, after a simulated time. */
MUST_CHECK int helper_call(void (*fn)(void *arg), void *arg);
