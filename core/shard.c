#include "core/shard.h"
#include "core/io.h"
#include "core/metrics.h"
#include "core/scheduler_state.h"
#include <stdlib.h>

/* Fibers that run before the bulk queue and the door get their turn again. */
#define INTERACTIVE_RUNS_MAX 256
/* Messages to oneself and the fibers that they wake go back and forth so often within a turn. */
#define ROUNDS_MAX 8

static _Thread_local struct shard *current;

struct shard *shard_self(void)
{
    return current;
}

void scheduler_enter(struct shard *s)
{
    ASSERT(current == NULL && s != NULL);
    current = s;
}

void scheduler_leave(void)
{
    ASSERT(current != NULL && current->scheduler->pool.running == NULL);
    current = NULL;
}

struct shard *shard_create(struct node *node, unsigned index, uint64_t budget)
{
    struct shard *s = calloc(1, sizeof *s);
    struct scheduler *c = calloc(1, sizeof *c);
    struct metrics *metrics = calloc(1, sizeof *metrics);
    struct heap *heap = heap_create("shard", budget);

    if (s == NULL || c == NULL || metrics == NULL || heap == NULL || fiber_pool_init(&c->pool) < 0) {
        heap_destroy(heap);
        free(metrics);
        free(c);
        free(s);
        return NULL;
    }
    wheel_init(&c->wheel);
    c->inbox_end = &c->inbox;
    s->node = node;
    s->index = index;
    s->heap = heap;
    s->metrics = metrics;
    s->metrics->heap_budget_bytes = budget;
    s->scheduler = c;
    return s;
}

void shard_drop(struct shard *s)
{
    ASSERT(s->scheduler->pool.running == NULL);
    fiber_pool_fini(&s->scheduler->pool);
    heap_destroy(s->heap);
    free(s->metrics);
    free(s->scheduler);
    free(s);
}

/* ---- Messages ------------------------------------------------------------------------------------------ */

void shard_send(struct shard *to, struct shard_message *m)
{
    m->from = current;
    if (to == current)
        scheduler_deliver(to, m);
    else
        door_shard_send(to, m);
}

bool shard_heard_all(void)
{
    return current->scheduler->inbox == NULL && door_inbox_empty(current);
}

void scheduler_deliver(struct shard *s, struct shard_message *m)
{
    struct scheduler *c = s->scheduler;

    m->next = NULL;
    *c->inbox_end = m;
    c->inbox_end = &m->next;
}

/* Those that are there now; what they send to this shard itself waits for the next round. */
static void deliver_inbox(struct scheduler *c)
{
    struct shard_message *m = c->inbox, *next;

    c->inbox = NULL;
    c->inbox_end = &c->inbox;
    for (; m != NULL; m = next) {
        next = m->next;
        m->deliver(m);
    }
}

/* ---- The turn ------------------------------------------------------------------------------------------ */

bool scheduler_turn(struct shard *s)
{
    struct scheduler *c = s->scheduler;
    unsigned budget = INTERACTIVE_RUNS_MAX;

    ASSERT(current == s);
    c->turn++;
    s->metrics->loop_turns++;
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        deliver_inbox(c);
        /* Behind the messages that were there before what the completions of this turn have set for now. */
        if (round == 0)
            wheel_advance(&c->wheel, time_ms());
        fiber_pool_run_interactive(s, &budget);
        if (c->inbox == NULL)
            break;
    }
    fiber_pool_run_bulk(s);
    fiber_pool_call_waiters(&c->pool);
    s->metrics->heap_bytes = heap_used(s->heap);
    return c->inbox != NULL || fiber_pool_runnable(&c->pool) || !list_empty(&c->wheel.due);
}

uint64_t scheduler_next_ms(const struct shard *s)
{
    return wheel_next_ms(&s->scheduler->wheel);
}

unsigned scheduler_fiber_count(const struct shard *s)
{
    return s->scheduler->pool.used_count;
}

size_t scheduler_stack_high_water(const struct shard *s)
{
    return fiber_pool_high_water(&s->scheduler->pool);
}
