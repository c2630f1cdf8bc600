/* core/scheduler.h -- what the two doors share: the life of a shard, its turn, its fibers, timers and
 * messages. Private to core/: only the files of core itself, core/uring/ and core/sim/ include it.
 *
 * A door drives each shard so, on whatever thread it likes (the simulator runs all shards on one):
 *
 *     s = shard_create(node, index, name, budget);  s->private = the door's own half
 *     forever:
 *         scheduler_enter(s)               shard_self() is s from here on
 *         deliver what completed           op->done(op), fiber_wake(), scheduler_deliver()
 *         runnable = scheduler_turn(s)     messages, timers, interactive fibers, a quantum of bulk fibers
 *         scheduler_leave()
 *         submit; wait, unless runnable, until scheduler_next_ms(s) or a completion
 *
 * What a door provides, apart from all of core/io.h: door_shard_send(), and helper_call() of core/fiber.h.
 * core_call() is common: it switches to the stack that called scheduler_turn(), so that stack must be big.
 *
 * Memory: everything of a shard hangs on its struct shard, and its heap. shard_drop() gives it all back with
 * no cleanup code run: the fibers' stacks, timers and messages vanish, as in a crash. A door frees s->private
 * first. */
#pragma once
#include "core/fiber.h"
#include "core/shard.h"

/* ---- Shards -------------------------------------------------------------------------------------------- */

/* With heap (of `budget` bytes, 0: none), metrics, trace ring, timers, fibers. Sets neither
 * node->shards[index] nor s->private. The clock is not read. NULL: no memory. */
MUST_CHECK struct shard *shard_create(struct node *node, unsigned index, uint64_t budget);
/* Not while one of its fibers runs. shard_self() may be NULL or another. */
void shard_drop(struct shard *s);

void scheduler_enter(struct shard *s); /* Not nested. */
void scheduler_leave(void);

/* One turn, between enter and leave. True: something is runnable now; take another turn without waiting. */
MUST_CHECK bool scheduler_turn(struct shard *s);
/* time_ms() at which the next timer needs a turn (never later than its deadline, sometimes earlier, for the
 * wheel's own work), UINT64_MAX without timers. */
uint64_t scheduler_next_ms(const struct shard *s);
/* Fibers that have been started and have not ended. */
unsigned scheduler_fiber_count(const struct shard *s);
/* Deepest use of any fiber stack so far, in bytes: scans, for tests and rare reports. */
size_t scheduler_stack_high_water(const struct shard *s);

/* ---- Messages ------------------------------------------------------------------------------------------ */

/* shard_send() to another shard ends here, on the sending shard; m->from is set. The door carries m over,
 * wakes the receiver, and there calls scheduler_deliver(), in order of sending for each pair of shards. */
void door_shard_send(struct shard *to, struct shard_message *m);
/* Has all that was sent to s been queued? Called on s's own thread. */
bool door_inbox_empty(struct shard *s);
/* Queues m for the message phase of s's next turn. Called on s's own thread; s need not be entered. */
void scheduler_deliver(struct shard *s, struct shard_message *m);

/* ---- Suspension on an operation of the door ------------------------------------------------------------ */

/* For file operations and the like, whose buffers the world still uses: suspends the running fiber until
 * fiber_wake(f, result), and returns that result. Cancelling the fiber meanwhile calls cancel(arg) once, from
 * the canceller, to hurry the operation; the fiber goes on waiting for its wake. cancel NULL: cannot be
 * hurried. Call fiber_cancelled() first where an already cancelled fiber should not begin. */
int fiber_suspend_operation(void (*cancel)(void *arg), void *arg);
