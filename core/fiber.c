#include "core/context.h"
#include "core/metrics.h"
#include "core/sanitizer.h"
#include "core/scheduler_state.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13: a guard page without a mapping of its own. */
#endif

#define STACK_SIZE ((size_t)FIBER_STACK_SIZE * SANITIZER_STACK_FACTOR)
/* A stack that was used deeper than this gives its pages back when its fiber ends. */
#define STACK_KEEP_SIZE (16 * 1024)
/* Who went deeper than STACK_KEEP_SIZE left something in the first bytes below it: frames are <= 2 KiB each. */
#define STACK_WINDOW_SIZE 2304
/* Every so many ends the whole stack is looked at, for the metric. A power of two. */
#define STACK_SAMPLE_ENDS 1024
/* Fibers that the bulk queue may run in one turn, while they stay under FIBER_WORK_QUANTUM together. */
#define BULK_RUNS_MAX 4

static struct fiber_pool *pool_self(void)
{
    struct shard *s = shard_self();

    ASSERT(s != NULL);
    return &s->scheduler->pool;
}

/* ---- Stacks -------------------------------------------------------------------------------------------- */

int fiber_pool_init(struct fiber_pool *p)
{
    memset(p, 0, sizeof *p);
    list_init(&p->free);
    list_init(&p->run[RUN_INTERACTIVE]);
    list_init(&p->run[RUN_BULK]);
    list_init(&p->waiters);
    p->fibers = calloc(FIBER_COUNT_MAX, sizeof *p->fibers);
    p->mapping = mmap(NULL, FIBER_COUNT_MAX * FIBER_STACK_PITCH, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p->fibers == NULL || p->mapping == MAP_FAILED) {
        free(p->fibers);
        if (p->mapping != MAP_FAILED)
            munmap(p->mapping, FIBER_COUNT_MAX * FIBER_STACK_PITCH);
        return -ENOMEM;
    }
    /* A huge page would back 64 stacks at once; without the call they only cost more memory. */
    (void)madvise(p->mapping, FIBER_COUNT_MAX * FIBER_STACK_PITCH, MADV_NOHUGEPAGE);
    return 0;
}

void fiber_pool_fini(struct fiber_pool *p)
{
    for (unsigned i = 0; i < p->fresh_count; i++) {
        if (p->fibers[i].tsan != NULL)
            tsan_fiber_destroy(p->fibers[i].tsan);
    }
    asan_unpoison(p->mapping, FIBER_COUNT_MAX * FIBER_STACK_PITCH);
    munmap(p->mapping, FIBER_COUNT_MAX * FIBER_STACK_PITCH);
    free(p->fibers);
}

static int stack_guard(char *guard)
{
    if (madvise(guard, FIBER_GUARD_SIZE, MADV_GUARD_INSTALL) == 0)
        return 0;
    return mprotect(guard, FIBER_GUARD_SIZE, PROT_NONE) == 0 ? 0 : -errno;
}

#if SANITIZER_STACK_FACTOR == 1
/* Bytes used: stacks start zeroed, so the deepest byte that is not zero is where it went. */
static size_t stack_depth(const char *stack)
{
    const uint64_t *word = (const uint64_t *)(const void *)stack;
    size_t i = 0;

    while (i < STACK_SIZE / sizeof *word && word[i] == 0)
        i++;
    return STACK_SIZE - i * sizeof *word;
}

static bool stack_went_deep(const char *stack)
{
    const char *mark = stack + STACK_SIZE - STACK_KEEP_SIZE;
    const uint64_t *word = (const uint64_t *)(const void *)(mark - STACK_WINDOW_SIZE);
    uint64_t seen = 0;

    for (size_t i = 0; i < STACK_WINDOW_SIZE / sizeof *word; i++)
        seen |= word[i];
    return seen != 0;
}

/* After an end: keeps the metric, and gives memory back. */
static void stack_rest(struct shard *s, struct fiber_pool *p, struct fiber *f)
{
    bool deep = stack_went_deep(f->stack);

    if (deep || p->end_count++ % STACK_SAMPLE_ENDS == 0) {
        size_t depth = stack_depth(f->stack);

        s->metrics->fiber_stack_high_water = MAX(s->metrics->fiber_stack_high_water, depth);
    }
    if (deep) /* Zeroes too, so that the next use is measured anew. */
        (void)madvise(f->stack, STACK_SIZE, MADV_DONTNEED);
}

size_t fiber_pool_high_water(const struct fiber_pool *p)
{
    size_t high = 0;

    for (unsigned i = 0; i < p->fresh_count; i++) {
        size_t depth = stack_depth(p->fibers[i].stack);

        high = MAX(high, depth);
    }
    return high;
}
#else /* Red zones may not be read, and the depth is not the real program's. */
static void stack_rest(struct shard *s, struct fiber_pool *p, struct fiber *f)
{
}

size_t fiber_pool_high_water(const struct fiber_pool *p)
{
    return 0;
}
#endif

/* ---- Switching ----------------------------------------------------------------------------------------- */

static void to_loop(struct fiber_pool *p, struct fiber *f, bool ending)
{
    asan_switch_start(ending ? NULL : &f->fake_stack, p->loop_stack, p->loop_stack_size);
    tsan_fiber_switch_to(p->loop_tsan);
    context_switch(&f->sp, p->loop_sp, NULL);
    asan_switch_finish(f->fake_stack, &p->loop_stack, &p->loop_stack_size);
}

static void fiber_entry(void *value)
{
    struct fiber *f = value;
    struct fiber_pool *p = pool_self();

    asan_switch_finish(NULL, &p->loop_stack, &p->loop_stack_size);
    f->run(f->arg);
    ASSERT(f->mask_depth == 0);
    f->state = FIBER_FREE;
    to_loop(p, f, true);
    ASSERT(!"an ended fiber was resumed");
}

static void fiber_timer_fired(struct timer *t)
{
    struct fiber *f = CONTAINER_OF(t, struct fiber, timer);

    list_remove(&f->wait_link);
    fiber_wake(f, f->timer_result);
}

static struct fiber *fiber_take(struct fiber_pool *p)
{
    struct list *node = list_pop_front(&p->free);
    struct fiber *f;

    if (node != NULL)
        return CONTAINER_OF(node, struct fiber, link);
    if (p->fresh_count == FIBER_COUNT_MAX)
        return NULL;
    f = &p->fibers[p->fresh_count];
    f->stack = p->mapping + p->fresh_count * FIBER_STACK_PITCH + FIBER_GUARD_SIZE;
    if (stack_guard(f->stack - FIBER_GUARD_SIZE) < 0) /* Out of mappings: as if the pool were smaller. */
        return NULL;
    p->fresh_count++;
    list_init(&f->link);
    list_init(&f->wait_link);
    timer_init(&f->timer, fiber_timer_fired);
    f->tsan = tsan_fiber_create();
    return f;
}

struct fiber *fiber_start(const char *name, enum run_class class, void (*run)(void *arg), void *arg)
{
    struct shard *s = shard_self();
    struct fiber_pool *p = pool_self();
    struct fiber *f = fiber_take(p);

    if (f == NULL) {
        s->metrics->fiber_refused++;
        return NULL;
    }
    s->metrics->fiber_starts++;
    s->metrics->fibers = ++p->used_count;
    f->name = name;
    f->run = run;
    f->arg = arg;
    f->class = class;
    f->state = FIBER_RUNNABLE;
    f->result = 0;
    f->cancelled = false;
    f->fake_stack = NULL;
    asan_unpoison(f->stack, STACK_SIZE);
    f->sp = context_init(f->stack + STACK_SIZE, fiber_entry);
    list_push_back(&p->run[class], &f->link);
    return f;
}

static void fiber_ended(struct shard *s, struct fiber_pool *p, struct fiber *f)
{
    stack_rest(s, p, f);
    s->metrics->fibers = --p->used_count;
    list_push_front(&p->free, &f->link); /* The warmest stack is used next. */
}

/* Resumes f until it suspends, yields or ends. Runs what it asks for by core_call() on the way. */
static void fiber_resume(struct shard *s, struct fiber_pool *p, struct fiber *f)
{
    ASSERT(p->running == NULL && f->state == FIBER_RUNNABLE);
    scheduler_trace(s->scheduler, f->name, (uint64_t)(f - p->fibers), (uint64_t)(int64_t)f->result);
    p->work = 0;
    p->loop_tsan = tsan_fiber_current();
    f->state = FIBER_RUNNING;
    for (;;) {
        p->running = f;
        asan_switch_start(&p->loop_fake_stack, f->stack, STACK_SIZE);
        tsan_fiber_switch_to(f->tsan);
        context_switch(&p->loop_sp, f->sp, f);
        asan_switch_finish(p->loop_fake_stack, NULL, NULL);
        p->running = NULL;
        if (LIKELY(f->call == NULL))
            break;
        f->call(f->call_arg);
        f->call = NULL;
    }
    if (f->state == FIBER_FREE)
        fiber_ended(s, p, f);
}

void fiber_pool_run_interactive(struct shard *s, unsigned *budget)
{
    struct fiber_pool *p = &s->scheduler->pool;
    struct list *node;

    while (*budget > 0 && (node = list_pop_front(&p->run[RUN_INTERACTIVE])) != NULL) {
        fiber_resume(s, p, CONTAINER_OF(node, struct fiber, link));
        (*budget)--;
    }
}

void fiber_pool_run_bulk(struct shard *s)
{
    struct fiber_pool *p = &s->scheduler->pool;
    struct list *node;
    uint64_t work = 0;

    for (unsigned i = 0; i < BULK_RUNS_MAX && work < FIBER_WORK_QUANTUM; i++) {
        node = list_pop_front(&p->run[RUN_BULK]);
        if (node == NULL)
            return;
        fiber_resume(s, p, CONTAINER_OF(node, struct fiber, link));
        work += p->work;
    }
}

bool fiber_pool_runnable(const struct fiber_pool *p)
{
    return !list_empty(&p->run[RUN_INTERACTIVE]) || !list_empty(&p->run[RUN_BULK]) ||
           (!list_empty(&p->waiters) && p->used_count < FIBER_COUNT_MAX);
}

/* ---- Waiting for a free fiber -------------------------------------------------------------------------- */

void fiber_when_free(struct fiber_waiter *w)
{
    list_push_back(&pool_self()->waiters, &w->link);
}

void fiber_when_free_cancel(struct fiber_waiter *w)
{
    list_remove(&w->link);
}

void fiber_pool_call_waiters(struct fiber_pool *p)
{
    struct list batch, *node;

    if (list_empty(&p->waiters))
        return;
    list_move(&p->waiters, &batch); /* Not those who queue again meanwhile: once a turn is enough. */
    while (p->used_count < FIBER_COUNT_MAX && (node = list_pop_front(&batch)) != NULL) {
        struct fiber_waiter *w = CONTAINER_OF(node, struct fiber_waiter, link);

        w->free_done(w);
    }
    while (!list_empty(&batch)) {
        node = batch.prev;
        list_remove(node);
        list_push_front(&p->waiters, node);
    }
}

/* ---- The running fiber --------------------------------------------------------------------------------- */

struct fiber *fiber_self(void)
{
    struct shard *s = shard_self();

    return s != NULL ? s->scheduler->pool.running : NULL;
}

static struct fiber *running(struct fiber_pool *p)
{
    ASSERT(p->running != NULL); /* Suspending belongs on a fiber, not on the loop's stack. */
    return p->running;
}

const char *fiber_name(const struct fiber *f)
{
    return f->name;
}

void fiber_set_class(enum run_class class)
{
    running(pool_self())->class = class;
}

static bool is_cancelled(const struct fiber *f)
{
    return f->cancelled && f->mask_depth == 0;
}

int fiber_cancelled(void)
{
    return is_cancelled(running(pool_self())) ? -ECANCELED : 0;
}

void fiber_mask(void)
{
    running(pool_self())->mask_depth++;
}

void fiber_unmask(void)
{
    struct fiber *f = running(pool_self());

    ASSERT(f->mask_depth > 0);
    f->mask_depth--;
}

static int suspend(struct fiber_pool *p, struct fiber *f)
{
    f->state = FIBER_SUSPENDED;
    to_loop(p, f, false);
    return f->result;
}

int fiber_suspend(void)
{
    struct fiber_pool *p = pool_self();
    struct fiber *f = running(p);

    return is_cancelled(f) ? -ECANCELED : suspend(p, f);
}

int fiber_suspend_operation(void (*cancel)(void *arg), void *arg)
{
    struct fiber_pool *p = pool_self();
    struct fiber *f = running(p);
    int result;

    f->in_operation = true;
    f->cancel_sent = false;
    f->cancel = cancel;
    f->cancel_arg = arg;
    result = suspend(p, f);
    f->in_operation = false;
    return result;
}

int fiber_yield(void)
{
    struct fiber_pool *p = pool_self();
    struct fiber *f = running(p);

    if (is_cancelled(f))
        return -ECANCELED;
    f->state = FIBER_RUNNABLE;
    f->result = 0;
    list_push_back(&p->run[f->class], &f->link);
    to_loop(p, f, false);
    return is_cancelled(f) ? -ECANCELED : 0;
}

int fiber_work(uint32_t units)
{
    struct fiber_pool *p = pool_self();

    p->work += MIN(units, UINT32_MAX - p->work);
    return p->work < FIBER_WORK_QUANTUM ? 0 : fiber_yield();
}

void fiber_wake(struct fiber *f, int result)
{
    struct fiber_pool *p = pool_self();

    ASSERT(f >= p->fibers && f < p->fibers + FIBER_COUNT_MAX); /* Not another shard's. */
    if (f->state == FIBER_RUNNABLE) {
        /* Cancelled, but it has not run yet and could not take itself off its waker's list: the wake counts. */
        ASSERT(f->cancelled && f->result == -ECANCELED);
        f->result = result;
        return;
    }
    ASSERT(f->state == FIBER_SUSPENDED);
    f->state = FIBER_RUNNABLE;
    f->result = result;
    list_push_back(&p->run[f->class], &f->link);
}

void fiber_cancel(struct fiber *f)
{
    f->cancelled = true;
    if (f->state != FIBER_SUSPENDED || f->mask_depth > 0)
        return;
    if (!f->in_operation) {
        list_remove(&f->wait_link);
        timer_cancel(&f->timer);
        fiber_wake(f, -ECANCELED);
    } else if (!f->cancel_sent && f->cancel != NULL) {
        f->cancel_sent = true;
        f->cancel(f->cancel_arg);
    }
}

int fiber_sleep_ms(uint32_t ms)
{
    struct fiber_pool *p = pool_self();
    struct fiber *f = running(p);

    if (is_cancelled(f))
        return -ECANCELED;
    f->timer_result = 0;
    timer_set(&f->timer, ms);
    return suspend(p, f);
}

void core_call(void (*fn)(void *arg), void *arg)
{
    struct fiber *f = fiber_self();

    if (f == NULL) {
        fn(arg);
        return;
    }
    f->call = fn;
    f->call_arg = arg;
    to_loop(pool_self(), f, false);
}

/* ---- Queues and turns ---------------------------------------------------------------------------------- */

void fiber_queue_init(struct fiber_queue *q)
{
    list_init(&q->waiters);
}

int fiber_queue_wait(struct fiber_queue *q, uint32_t timeout_ms)
{
    struct fiber_pool *p = pool_self();
    struct fiber *f = running(p);

    if (is_cancelled(f))
        return -ECANCELED;
    list_push_back(&q->waiters, &f->wait_link);
    if (timeout_ms > 0) {
        f->timer_result = -ETIMEDOUT;
        timer_set(&f->timer, timeout_ms);
    }
    return suspend(p, f);
}

static struct fiber *queue_pop(struct fiber_queue *q)
{
    struct list *node = list_pop_front(&q->waiters);
    struct fiber *f;

    if (node == NULL)
        return NULL;
    f = CONTAINER_OF(node, struct fiber, wait_link);
    timer_cancel(&f->timer);
    return f;
}

unsigned fiber_queue_wake_one(struct fiber_queue *q, int result)
{
    struct fiber *f = queue_pop(q);

    if (f == NULL)
        return 0;
    fiber_wake(f, result);
    return 1;
}

unsigned fiber_queue_wake_all(struct fiber_queue *q, int result)
{
    unsigned count = 0;

    while (fiber_queue_wake_one(q, result) > 0)
        count++;
    return count;
}

void turn_init(struct turn *t)
{
    fiber_queue_init(&t->queue);
    t->holder = NULL;
}

int turn_take(struct turn *t)
{
    struct fiber *f = running(pool_self());

    if (is_cancelled(f))
        return -ECANCELED;
    ASSERT(t->holder != f);
    if (t->holder != NULL)
        return fiber_queue_wait(&t->queue, 0); /* turn_give() makes us the holder before it wakes us. */
    t->holder = f;
    return 0;
}

void turn_give(struct turn *t)
{
    ASSERT(t->holder != NULL && t->holder == fiber_self());
    t->holder = queue_pop(&t->queue);
    if (t->holder != NULL)
        fiber_wake(t->holder, 0);
}
