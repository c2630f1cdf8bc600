#include "core/uring/uring.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

static int ring_setup(struct ring *r, bool main)
{
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_CQSIZE |
                                              IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG};
    unsigned sq = main ? RING_SQ_MAIN : RING_SQ_TABLE;

    params.flags |= main ? IORING_SETUP_DEFER_TASKRUN : IORING_SETUP_COOP_TASKRUN;
    params.cq_entries = sq * 8;
    return io_uring_queue_init_params(sq, &r->uring, &params);
}

static int ring_table(struct ring *r, bool main)
{
    struct rlimit limit;
    uint32_t count = RING_TABLE_SIZE_MAX;
    int rc;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < count)
        count = (uint32_t)limit.rlim_cur;
    rc = io_uring_register_files_sparse(&r->uring, count);
    if (rc < 0)
        return rc;
    r->slots = calloc(count, sizeof *r->slots);
    r->slot_count = count;
    r->socket_limit = main ? count - MIN(FILE_SLOTS_MAX, count / 2) : count;
    return r->slots != NULL ? 0 : -ENOMEM;
}

int ring_create(struct shard_private *p, bool main)
{
    struct ring *r;
    int rc;

    if (p->ring_count == RING_COUNT_MAX)
        return -ENFILE;
    r = calloc(1, sizeof *r);
    if (r == NULL)
        return -ENOMEM;
    r->index = (uint16_t)p->ring_count;
    rc = ring_setup(r, main);
    if (rc < 0) {
        free(r);
        return rc;
    }
    (void)io_uring_register_ring_fd(&r->uring); /* Saves looking the descriptor up, where the kernel can. */
    rc = ring_table(r, main);
    if (rc == 0)
        rc = buffers_attach(r, main ? RECV_LENT_MAIN : RECV_LENT_TABLE);
    if (rc < 0) {
        ring_close(r);
        ring_free(r);
        return rc;
    }
    p->rings[p->ring_count++] = r;
    buffers_lend(p, r);
    return 0;
}

void ring_close(struct ring *r)
{
    io_uring_queue_exit(&r->uring);
}

void ring_free(struct ring *r)
{
    buffers_detach(r);
    free(r->slots);
    free(r);
}

static void ring_mark(struct shard_private *p, struct ring *r)
{
    if (r->index == 0 || r->on_dirty) /* The main ring is submitted every turn. */
        return;
    r->on_dirty = true;
    p->dirty[p->dirty_count++] = r->index;
}

void ring_reserve(struct shard_private *p, struct ring *r, unsigned count)
{
    /* A submission can fail for want of memory or of room for completions; both pass. */
    for (unsigned i = 0; io_uring_sq_space_left(&r->uring) < count; i++) {
        ASSERT(i < 1000);
        (void)io_uring_submit_and_get_events(&r->uring);
    }
    ring_mark(p, r);
}

struct io_uring_sqe *ring_sqe(struct shard_private *p, struct ring *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

    if (UNLIKELY(sqe == NULL)) {
        ring_reserve(p, r, 1);
        sqe = io_uring_get_sqe(&r->uring);
    }
    ring_mark(p, r);
    return sqe;
}

struct ring *ring_for_socket(struct shard_private *p)
{
    for (;; p->ring_hint++) {
        struct ring *r;

        if (p->ring_hint == p->ring_count && ring_create(p, false) < 0)
            return NULL;
        r = p->rings[p->ring_hint];
        if (r->socket_count < r->socket_limit) {
            r->socket_count++;
            return r;
        }
    }
}

void ring_socket_gone(struct shard_private *p, struct ring *r)
{
    ASSERT(r->socket_count > 0);
    r->socket_count--;
    p->ring_hint = MIN(p->ring_hint, r->index);
}
