#include "core/heap.h"
#include "core/uring/uring.h"

/* Of one io_send_word(), until its completion. */
struct word {
    struct sock sock;
    uint32_t size;
    char bytes[IO_WORD_MAX];
};

void io_send_word(struct sock s, struct slice bytes)
{
    struct shard_private *p = door_self();
    struct ring *r = socket_ring(p, s);
    struct io_uring_sqe *sqe;
    struct word *w;
    uint32_t index;

    ASSERT(bytes.size > 0 && bytes.size <= IO_WORD_MAX);
    if (r->slots[s.slot].shut)
        return;
    w = heap_alloc(p->shard->heap, sizeof *w);
    w->sock = s;
    w->size = (uint32_t)bytes.size;
    memcpy(w->bytes, bytes.data, bytes.size);
    index = op_new(&p->ops, w, OP_WORD, r->index, s.slot);
    sqe = ring_sqe(p, r);
    io_uring_prep_write(sqe, (int)s.slot, w->bytes, w->size, 0);
    sqe->rw_flags = RWF_NOWAIT;
    sqe->flags |= IOSQE_FIXED_FILE;
    sqe->user_data = op_user_data(op_at(&p->ops, index), index);
}

void word_completed(struct shard_private *p, uint32_t index, int32_t res)
{
    struct word *w = op_at(&p->ops, index)->owner;
    struct ring *r = p->rings[w->sock.ring];
    const struct slot *slot = &r->slots[w->sock.slot];

    op_free(&p->ops, index);
    if (res != (int32_t)w->size && slot->generation == w->sock.generation && !slot->shut) {
        struct io_uring_sqe *sqe = ring_sqe(p, r);

        io_uring_prep_shutdown(sqe, (int)w->sock.slot,
                               SHUT_RDWR); /* In the kernel: its owner may be anybody by now. */
        sqe->flags |= IOSQE_FIXED_FILE;
        op_submit_ignored(sqe);
    }
    heap_free(p->shard->heap, w);
}
