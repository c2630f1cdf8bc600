#include "core/metrics.h"
#include "core/uring/uring.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define HELPER_THREADS_MAX 64

struct helper_job { /* On the stack of the fiber that waits for it. */
    struct helper_job *next;
    void (*fn)(void *arg);
    void *arg;
    struct shard *shard;
    struct fiber *fiber;
};

struct helper_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct helper_job *first, **last;
    unsigned queued_count;
    bool ending;
    unsigned thread_count;
    pthread_t threads[HELPER_THREADS_MAX];
};

static void job_done(struct helper_job *job)
{
    struct door_shared *shared = &job->shard->private->shared;
    int event_fd = job->shard->private->event_fd;
    struct helper_job *newest = atomic_load_explicit(&shared->helped, memory_order_relaxed);
    uint64_t one = 1;

    do
        job->next = newest;
    while (!atomic_compare_exchange_weak(&shared->helped, &newest, job));
    /* The one that found the list empty tells the shard; from here on the job is the shard's. */
    if (newest == NULL && write(event_fd, &one, sizeof one) < 0)
        ASSERT(errno == EAGAIN); /* The counter is full: then there is an event already. */
}

static void *helper_main(void *arg)
{
    struct helper_pool *pool = arg;

    pthread_setname_np(pthread_self(), "helper");
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct helper_job *job = pool->first;

        if (job == NULL) {
            if (pool->ending)
                break;
            pthread_cond_wait(&pool->wake, &pool->lock);
            continue;
        }
        pool->first = job->next;
        if (pool->first == NULL)
            pool->last = &pool->first;
        pool->queued_count--;
        pthread_mutex_unlock(&pool->lock);
        job->fn(job->arg);
        job_done(job);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

struct helper_pool *helper_pool_new(unsigned thread_count)
{
    struct helper_pool *pool = calloc(1, sizeof *pool);
    int rc;

    if (pool == NULL)
        return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->last = &pool->first;
    thread_count = MAX(1u, MIN(thread_count, (unsigned)HELPER_THREADS_MAX));
    while (pool->thread_count < thread_count) {
        rc = pthread_create(&pool->threads[pool->thread_count], NULL, helper_main, pool);
        if (rc != 0) {
            helper_pool_free(pool);
            errno = rc;
            return NULL;
        }
        pool->thread_count++;
    }
    return pool;
}

void helper_pool_free(struct helper_pool *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->ending = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

int helper_call(void (*fn)(void *arg), void *arg)
{
    struct shard_private *p = door_self();
    struct helper_pool *pool = p->process->helpers;
    struct helper_job job = {.fn = fn, .arg = arg, .shard = p->shard, .fiber = fiber_self()};
    bool full;

    if (fiber_cancelled() < 0)
        return -ECANCELED;
    pthread_mutex_lock(&pool->lock);
    full = pool->queued_count == HELPER_QUEUE_MAX;
    if (!full) {
        *pool->last = &job;
        pool->last = &job.next;
        pool->queued_count++;
        pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
    if (full)
        return -EAGAIN;
    p->shard->metrics->helper_calls++;
    return fiber_suspend_operation(NULL, NULL);
}

void helper_collect(struct shard_private *p)
{
    struct helper_job *newest, *next, *oldest = NULL;

    if (atomic_load_explicit(&p->shared.helped, memory_order_relaxed) == NULL)
        return;
    for (newest = atomic_exchange(&p->shared.helped, NULL); newest != NULL; newest = next) {
        next = newest->next;
        newest->next = oldest;
        oldest = newest;
    }
    for (; oldest != NULL; oldest = next) {
        next = oldest->next; /* The fiber's stack goes on when it is woken. */
        fiber_wake(oldest->fiber, 0);
    }
}
