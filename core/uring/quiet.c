#include "core/uring/uring.h"

/* A send that nobody waits for must not end the wait that is submitted together with it, else each answer costs a second
 * system call. So the kernel is told to be silent about success (IOSQE_CQE_SKIP_SUCCESS, for which a short write is none) and
 * to try only once (RWF_NOWAIT): when it has taken the submission, the send is over.
 *
 * How it went is known a little later. What went wrong has a completion; a refusal to wait makes that out of work which the
 * kernel keeps in a queue, first in, first out. So there is none if the ring's flags say that nothing is in that queue (they
 * may say that there is something when there is not), or once something has passed it behind the send: a receive that was
 * armed later and waited, or a message to the ring itself, which is sent when an owner cannot wait any longer. */

bool quiet_send(struct shard_private *p, struct sock s, struct io_op *op, struct slice data)
{
    struct ring *r = socket_ring(p, s);
    struct io_uring_sqe *sqe;

    if (r->index != 0 || r->slots[s.slot].shut || data.size > INT32_MAX || p->quiet_count == QUIET_MAX)
        return false;
    op->data = data;
    op->res = 0; /* Bytes sent so far. */
    op_begin(p, op, OP_SEND_QUIET, r, s.slot);
    sqe = ring_sqe(p, r);
    io_uring_prep_write(sqe, (int)s.slot, data.data, (unsigned)data.size, 0);
    sqe->rw_flags = RWF_NOWAIT;
    sqe->flags |= IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = op_user_data(op_at(&p->ops, op->index), op->index);
    p->quiet[p->quiet_count++] = sqe->user_data;
    op_at(&p->ops, op->index)->quiet_to = quiet_end(p);
    return true;
}

void quiet_ask(struct shard_private *p)
{
    struct io_uring_sqe *sqe = ring_sqe(p, p->rings[0]);

    p->quiet_asked_to = quiet_end(p);
    io_uring_prep_msg_ring(sqe, p->rings[0]->uring.ring_fd, (uint32_t)p->quiet_asked_to,
                           user_data_special(UD_QUIET_PROOF, 0), 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = user_data_special(UD_QUIET_REFUSED, 0);
}

void quiet_await(struct shard_private *p, const struct op *o)
{
    if (o->kind == OP_SEND_QUIET && o->quiet_to > p->quiet_asked_to)
        quiet_ask(p);
}

void io_send_awaited(struct io_op *op)
{
    struct shard_private *p = door_self();

    if (op->in_flight)
        quiet_await(p, op_at(&p->ops, op->index));
}

/* NULL: it is no quiet send any more. */
static struct op *quiet_at(struct shard_private *p, unsigned i)
{
    uint32_t index = (uint32_t)p->quiet[i];
    struct op *o = op_at(&p->ops, index);

    return op_user_data(o, index) == p->quiet[i] ? o : NULL;
}

/* Up to which of them does this completion prove something? */
static uint64_t quiet_proof(struct shard_private *p, const struct io_uring_cqe *cqe)
{
    struct op *o;

    if (cqe->user_data == user_data_special(UD_QUIET_PROOF, 0))
        return p->quiet_begin + (uint32_t)cqe->res - (uint32_t)p->quiet_begin;
    if (cqe->user_data >> 32 == 0 || (cqe->user_data & UD_POLL) != 0)
        return 0;
    o = op_at(&p->ops, (uint32_t)cqe->user_data);
    o->told = o->kind == OP_SEND_QUIET;
    return o->proves && cqe->res >= 0 ? o->quiet_to : 0; /* An error may come without waiting. */
}

void quiet_settle(struct shard_private *p)
{
    struct ring *r = p->rings[0];
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    uint64_t to = p->quiet_begin;

    if (p->quiet_count == 0)
        return;
    if (io_uring_sq_ready(&r->uring) == 0 && !ring_has_work(r))
        to = quiet_end(p);
    io_uring_for_each_cqe(&r->uring, head, cqe) to = MAX(to, quiet_proof(p, cqe));
    for (; p->quiet_begin + count < to; count++) {
        struct op *o = quiet_at(p, count);
        struct io_op *op;
        int32_t sent;

        if (o == NULL || o->told) /* Its completion is looked at later. */
            continue;
        op = o->owner;
        sent = (int32_t)op->data.size;
        op->data = slice_of(NULL, 0);
        op_finish(p, op, sent);
    }
    p->quiet_begin = to;
    p->quiet_count -= count; /* What those who were told have sent since is behind them. */
    memmove(p->quiet, p->quiet + count, p->quiet_count * sizeof p->quiet[0]);
}

void quiet_reaped_away(struct shard_private *p)
{
    if (io_uring_sq_ready(&p->rings[0]->uring) > 0 || ring_has_work(p->rings[0]))
        return;
    for (unsigned i = 0; i < p->quiet_count; i++) {
        if (quiet_at(p, i) != NULL)
            op_free(&p->ops, (uint32_t)p->quiet[i]);
    }
    p->quiet_count = 0;
}
