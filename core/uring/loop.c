#include "core/metrics.h"
#include "core/sanitizer.h"
#include "core/trace.h"
#include "core/uring/uring.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define STALL_NS         10000000
#define FINI_WAIT_MS_MAX 2000
#define REAP_BATCH       64
#define REAP_ROUNDS_MAX  64 /* Of one ring in one turn. */

/* ---- Wakes from outside -------------------------------------------------------------------------------- */

static void event_arm(struct shard_private *p)
{
    struct io_uring_sqe *sqe = ring_sqe(p, p->rings[0]);

    io_uring_prep_read(sqe, p->event_fd, &p->event_value, sizeof p->event_value, 0);
    sqe->user_data = user_data_special(UD_EVENT, 0);
}

void door_command(struct shard *s, unsigned bits)
{
    uint64_t one = 1;

    atomic_fetch_or(&s->private->shared.command, bits);
    if (write(s->private->event_fd, &one, sizeof one) < 0)
        ASSERT(errno == EAGAIN);
}

/* Onto the receiver's list, and a wake when it sleeps: by a message between rings, submitted with the rest of
 * this turn. The receiver looks at the list once more after it said that it sleeps, so no message waits
 * unseen. */
void door_shard_send(struct shard *to, struct shard_message *m)
{
    struct shard_private *p = door_self();
    struct door_shared *shared = &to->private->shared;
    struct shard_message *newest = atomic_load_explicit(&shared->inbox, memory_order_relaxed);

    tsan_release(m);
    do
        m->next = newest;
    while (!atomic_compare_exchange_weak(&shared->inbox, &newest, m));
    if (atomic_load(&shared->sleeping) && atomic_exchange(&shared->sleeping, false)) {
        struct io_uring_sqe *sqe = ring_sqe(p, p->rings[0]);

        io_uring_prep_msg_ring(sqe, to->private->rings[0]->uring.ring_fd, 0, user_data_special(UD_WAKE, 0),
                               0);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
        sqe->user_data = user_data_special(UD_IGNORE, 0);
    }
}

bool door_inbox_empty(struct shard *s)
{
    return atomic_load(&s->private->shared.inbox) == NULL;
}

static void inbox_collect(struct shard_private *p)
{
    struct shard_message *newest, *next, *oldest = NULL;

    if (atomic_load_explicit(&p->shared.inbox, memory_order_relaxed) == NULL)
        return;
    for (newest = atomic_exchange(&p->shared.inbox, NULL); newest != NULL; newest = next) {
        tsan_acquire(newest);
        next = newest->next;
        newest->next = oldest;
        oldest = newest;
    }
    for (; oldest != NULL; oldest = next) {
        next = oldest->next;
        scheduler_deliver(p->shard, oldest);
    }
}

static void check_submit(int rc)
{
    /* What is transient leaves the submissions queued, and the next turn tries again. */
    ASSERT(rc >= 0 || rc == -ETIME || rc == -EINTR || rc == -EBUSY || rc == -EAGAIN || rc == -ENOMEM);
}

/* ---- Completions --------------------------------------------------------------------------------------- */

static void table_poll_arm(struct shard_private *p, struct ring *r)
{
    struct io_uring_sqe *sqe = ring_sqe(p, p->rings[0]);

    io_uring_prep_poll_add(sqe, r->uring.ring_fd, POLLIN);
    sqe->user_data = user_data_special(UD_TABLE, r->index);
    r->poll_armed = true;
}

static void special_completed(struct shard_private *p, uint64_t user_data)
{
    struct ring *r;

    switch (user_data & 0xff) {
    case UD_EVENT:
        event_arm(p);
        break;
    case UD_ALARM:
        p->alarm_ns = UINT64_MAX;
        break;
    case UD_QUIET_REFUSED:
        quiet_ask(p);
        break;
    case UD_TABLE:
        r = p->rings[user_data >> 8];
        r->poll_armed = false;
        p->ready[p->ready_count++] = r->index;
        break;
    default: /* UD_WAKE: the inbox is looked at every turn. UD_IGNORE: a cancellation that came too late. */
        break;
    }
}

static void completed(struct shard_private *p, uint64_t user_data, int32_t res, uint32_t flags)
{
    uint32_t index = (uint32_t)user_data;
    struct op *o;

    if (user_data >> 32 == 0) {
        special_completed(p, user_data);
        return;
    }
    if ((user_data & UD_POLL) != 0) {
        trace("poll completed", user_data, (uint64_t)(int64_t)res);
        poll_completed(p, user_data, res);
        return;
    }
    o = op_at(&p->ops, index);
    ASSERT(op_user_data(o, index) == user_data && o->kind != OP_FREE); /* Each completes once. */
    trace(o->kind == OP_FILE ? "file completed" : "socket completed", user_data, (uint64_t)(int64_t)res);
    if (o->kind == OP_FILE)
        file_completed(p, index, res);
    else if (o->kind == OP_PASS)
        pass_completed(p, index, res);
    else if (o->kind == OP_WORD)
        word_completed(p, index, res);
    else
        socket_completed(p, index, res, flags);
}

/* Copies completions out before it acts on them: an action may submit, and so move the queue. */
static void reap(struct shard_private *p, struct ring *r)
{
    struct {
        uint64_t user_data;
        int32_t res;
        uint32_t flags;
    } batch[REAP_BATCH];
    unsigned count, head;

    for (unsigned round = 0; round < REAP_ROUNDS_MAX; round++) {
        struct io_uring_cqe *cqe;

        count = 0;
        io_uring_for_each_cqe(&r->uring, head, cqe)
        {
            batch[count].user_data = cqe->user_data;
            batch[count].res = cqe->res;
            batch[count].flags = cqe->flags;
            if (++count == REAP_BATCH)
                break;
        }
        if (count == 0)
            break;
        io_uring_cq_advance(&r->uring, count);
        for (unsigned i = 0; i < count; i++)
            completed(p, batch[i].user_data, batch[i].res, batch[i].flags);
    }
    buffers_lend(p, r);
}

static void reap_all(struct shard_private *p)
{
    quiet_settle(p);
    reap(p, p->rings[0]);
    while (p->ready_count > 0)
        reap(p, p->rings[p->ready[--p->ready_count]]);
}

/* ---- Submitting and waiting ---------------------------------------------------------------------------- */

/* Table rings: what was queued for them; and a poll of each, so that its completions end the wait. */
static void submit_tables(struct shard_private *p)
{
    unsigned count = p->dirty_count;

    for (unsigned i = 0; i < count; i++) {
        struct ring *r = p->rings[p->dirty[i]];

        r->on_dirty = false;
        check_submit(io_uring_submit(&r->uring));
        if (io_uring_sq_ready(&r->uring) > 0) { /* Transient: once more after the next turn. */
            r->on_dirty = true;
            p->dirty[p->dirty_count++] = r->index;
        }
    }
    memmove(p->dirty, p->dirty + count, (p->dirty_count - count) * sizeof p->dirty[0]);
    p->dirty_count -= count;
    for (unsigned i = 1; i < p->ring_count; i++) {
        if (!p->rings[i]->poll_armed)
            table_poll_arm(p, p->rings[i]);
    }
}

static void submit_only(struct shard_private *p)
{
    struct ring *r = p->rings[0];

    if (io_uring_sq_ready(&r->uring) > 0 || ring_has_work(r))
        check_submit(io_uring_submit_and_get_events(&r->uring));
}

static struct __kernel_timespec timespec_of(uint64_t ns)
{
    return (struct __kernel_timespec){.tv_sec = (int64_t)(ns / 1000000000),
                                      .tv_nsec = (long long)(ns % 1000000000)};
}

/* A wait with an end of its own sets a timer of the kernel and takes it away again, at some 0.4 us. So one alarm is left
 * standing over many waits: it comes early when what it was set for has moved, which makes one turn for nothing. */
static void alarm_set(struct shard_private *p, uint64_t at_ns)
{
    struct io_uring_sqe *sqe = ring_sqe(p, p->rings[0]);

    p->alarm = timespec_of(at_ns); /* The kernel reads it when it takes the submission. */
    io_uring_prep_timeout(sqe, &p->alarm, 0, IORING_TIMEOUT_ABS);
    sqe->user_data = user_data_special(UD_ALARM, 0);
    p->alarm_ns = at_ns;
}

static void submit_and_wait(struct shard_private *p, uint64_t next_ns)
{
    struct io_uring *ring = &p->rings[0]->uring;
    struct __kernel_timespec ts;
    struct io_uring_cqe *cqe;

    if (next_ns != UINT64_MAX && p->alarm_ns == UINT64_MAX)
        alarm_set(p, next_ns);
    if (next_ns >= p->alarm_ns) {
        check_submit(io_uring_submit_and_wait(ring, 1));
        return;
    }
    ts = timespec_of(next_ns - p->now_ns); /* Sooner than the alarm. */
    check_submit(io_uring_submit_and_wait_timeout(ring, &cqe, 1, &ts, NULL));
}

static void wait_for_work(struct shard_private *p, bool runnable)
{
    uint64_t next_ms = scheduler_next_ms(p->shard);
    uint64_t next_ns = next_ms < UINT64_MAX / 1000000 ? next_ms * 1000000 : UINT64_MAX;
    struct door_shared *shared = &p->shared;

    submit_tables(p);
    if (runnable || next_ns <= p->now_ns) {
        submit_only(p);
        return;
    }
    atomic_store(&shared->sleeping, true);
    if (atomic_load(&shared->inbox) != NULL)
        submit_only(p);
    else
        submit_and_wait(p, next_ns);
    atomic_store_explicit(&shared->sleeping, false, memory_order_relaxed);
}

static void clock_update(struct shard_private *p, bool waited)
{
    struct timespec ts;
    uint64_t now_ns;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    now_ns = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
    if (!waited && now_ns - p->now_ns > STALL_NS)
        p->shard->metrics->loop_stalls++;
    p->now_ns = now_ns;
}

void door_run(struct shard *s)
{
    struct shard_private *p = s->private;
    bool runnable = false, running = true;

    while (running) {
        clock_update(p, !runnable);
        scheduler_enter(s);
        if (UNLIKELY(atomic_load_explicit(&p->shared.command, memory_order_relaxed) != 0))
            running = node_on_command(s, atomic_exchange(&p->shared.command, 0));
        reap_all(p);
        inbox_collect(p);
        helper_collect(p);
        runnable = scheduler_turn(s);
        scheduler_leave();
        if (running)
            wait_for_work(p, runnable);
    }
}

/* ---- Beginning and end --------------------------------------------------------------------------------- */

int door_init(struct shard *s, struct process *process, int cpu)
{
    struct shard_private *p = aligned_alloc(_Alignof(struct shard_private), sizeof *p);
    int rc;

    if (p == NULL)
        return -ENOMEM;
    memset(p, 0, sizeof *p);
    p->shard = s;
    p->process = process;
    p->cpu = cpu;
    p->set = process->ring_sets != NULL ? &process->ring_sets[s->index] : NULL;
    p->ops.free_head = UINT32_MAX;
    p->alarm_ns = UINT64_MAX;
    p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->private = p;
    rc = p->event_fd < 0 ? -errno : buffers_init(p);
    if (rc == 0)
        rc = ring_create(p, true);
    if (rc < 0) {
        door_free(s);
        return rc;
    }
    event_arm(p);
    clock_update(p, true);
    return 0;
}

static void reap_away(struct shard_private *p, struct ring *r)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;

    (void)io_uring_submit_and_get_events(&r->uring);
    io_uring_for_each_cqe(&r->uring, head, cqe)
    {
        if ((cqe->user_data & UD_POLL) != 0)
            poll_reaped_away(p, cqe->user_data);
        else if (cqe->user_data >> 32 != 0)
            op_free(&p->ops, (uint32_t)cqe->user_data);
        count++;
    }
    io_uring_cq_advance(&r->uring, count);
}

static void cancel_everything(struct shard_private *p)
{
    struct timespec pause = {.tv_nsec = 1000000};

    for (unsigned ms = 0; ms < FINI_WAIT_MS_MAX; ms++) {
        for (unsigned i = 0; i < p->ring_count; i++) {
            struct io_uring_sync_cancel_reg all = {.flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL,
                                                   .timeout = {0, 1000000}};

            reap_away(p, p->rings[i]);
            (void)io_uring_register_sync_cancel(&p->rings[i]->uring, &all);
            reap_away(p, p->rings[i]);
        }
        quiet_reaped_away(p);
        if (p->ops.used_count == 0)
            break;
        nanosleep(&pause, NULL);
    }
}

void door_close(struct shard *s)
{
    struct shard_private *p = s->private;

    cancel_everything(p);
    for (unsigned i = 0; i < p->ring_count; i++)
        ring_close(p->rings[i]);
}

void door_free(struct shard *s)
{
    struct shard_private *p = s->private;

    for (unsigned i = 0; i < p->ring_count; i++)
        ring_free(p->rings[i]);
    buffers_fini(p);
    for (unsigned i = 0; i < p->ops.count / OP_CHUNK_COUNT; i++)
        free(p->ops.chunks[i]);
    if (p->event_fd >= 0)
        close(p->event_fd);
    bytes_wipe(p->random, sizeof p->random);
    free(p);
    s->private = NULL;
}
