/* core/scheduler_state.h -- the insides of a shard's scheduler, for the files of core/ that together make it:
 * shard.c, fiber.c, timer.c, trace.c. Doors include core/scheduler.h only. */
#pragma once
#include "core/sanitizer.h"
#include "core/scheduler.h"
#include "core/timer.h"
#include "core/trace.h"

#define FIBER_GUARD_SIZE  4096
#define FIBER_STACK_PITCH ((size_t)FIBER_STACK_SIZE * SANITIZER_STACK_FACTOR + FIBER_GUARD_SIZE)

enum fiber_state { FIBER_FREE, FIBER_RUNNABLE, FIBER_RUNNING, FIBER_SUSPENDED };

struct fiber {
    struct list link;      /* Free list or run queue. */
    struct list wait_link; /* fiber_queue. */
    struct timer timer;    /* Sleep, or the time-out of a fiber_queue. */
    int timer_result;
    int result; /* Of the suspension that it is in. */
    void *sp;
    char *stack; /* Lowest byte above the guard. */
    const char *name;
    void (*run)(void *arg);
    void *arg;
    void (*call)(void *arg); /* core_call() under way: the loop runs it and comes back. */
    void *call_arg;
    void (*cancel)(void *arg); /* fiber_suspend_operation(). */
    void *cancel_arg;
    unsigned mask_depth;
    enum run_class class;
    enum fiber_state state;
    bool cancelled, cancel_sent, in_operation;
    void *fake_stack; /* AddressSanitizer's. */
    void *tsan;       /* ThreadSanitizer's. */
};

struct fiber_pool {
    struct fiber *fibers;
    char *mapping; /* FIBER_COUNT_MAX stacks, each above its guard page. */
    struct list free;
    struct list run[2]; /* By run_class. */
    struct list waiters;
    struct fiber *running;
    void *loop_sp;
    unsigned used_count;
    unsigned fresh_count; /* fibers[fresh_count] and later were never used, and are on no list. */
    uint32_t work;        /* Work units of the running fiber since it was resumed. */
    uint32_t end_count;   /* Picks the ends at which the whole stack is scanned. */
    /* Sanitizers' view of the stack that the loop runs on. */
    void *loop_fake_stack, *loop_tsan;
    const void *loop_stack;
    size_t loop_stack_size;
};

struct scheduler {
    struct fiber_pool pool;
    struct timer_wheel wheel;
    struct shard_message *inbox, **inbox_end;
    uint64_t turn;
    struct trace_ring trace;
};

static inline void scheduler_trace(struct scheduler *c, const char *what, uint64_t a, uint64_t b)
{
    c->trace.entries[c->trace.next++ % TRACE_COUNT] = (struct trace_entry){what, c->turn, a, b};
}

MUST_CHECK int fiber_pool_init(struct fiber_pool *p);
void fiber_pool_fini(struct fiber_pool *p);
/* Runs interactive fibers until none is runnable or *budget reaches 0. */
void fiber_pool_run_interactive(struct shard *s, unsigned *budget);
/* Runs bulk fibers for one quantum of work. */
void fiber_pool_run_bulk(struct shard *s);
/* Calls waiters while there are free fibers. */
void fiber_pool_call_waiters(struct fiber_pool *p);
bool fiber_pool_runnable(const struct fiber_pool *p);
size_t fiber_pool_high_water(const struct fiber_pool *p);
