#include "core/uring/uring.h"
#include <errno.h>
#include <poll.h>

/* The kernel's poll belongs to the slot and names it in user_data; who hears of it is written in the slot, and may
 * change while the poll is armed: an operation of a connection that is awake, the cookie of one that sleeps. */

static void poll_arm(struct shard_private *p, struct ring *r, uint32_t slot)
{
    struct io_uring_sqe *sqe;

    if (r->slots[slot].poll_armed)
        return;
    r->slots[slot].poll_armed = true;
    sqe = ring_sqe(p, r);
    io_uring_prep_poll_add(sqe, (int)slot, POLLIN | POLLRDHUP);
    sqe->flags |= IOSQE_FIXED_FILE;
    sqe->user_data = user_data_poll(r, slot);
}

void io_poll(struct sock s, struct io_op *op)
{
    struct shard_private *p = door_self();
    struct ring *r = socket_ring(p, s);
    struct slot *slot = &r->slots[s.slot];

    ASSERT(slot->poller != POLLER_OP);
    if (slot->shut) {
        op_complete_later(p, op, -ECANCELED);
        return;
    }
    op_begin(p, op, OP_POLL, r, s.slot);
    slot->poller = POLLER_OP;
    slot->poller_id = op->index;
    poll_arm(p, r, s.slot);
}

void io_watch(struct sock s, uint32_t cookie)
{
    struct shard_private *p = door_self();
    struct ring *r = socket_ring(p, s);
    struct slot *slot = &r->slots[s.slot];

    ASSERT(!slot->shut && p->watch_fired != NULL);
    if (slot->poller == POLLER_OP) {
        struct io_op *op = op_at(&p->ops, slot->poller_id)->owner;

        ASSERT(!op_at(&p->ops, slot->poller_id)->cancelled);
        op_free(&p->ops, slot->poller_id);
        op->in_flight = false;
    }
    slot->poller = POLLER_WATCH;
    slot->poller_id = cookie;
    poll_arm(p, r, s.slot);
}

void io_watch_with(void (*fired)(uint32_t cookie, int32_t res))
{
    door_self()->watch_fired = fired;
}

void poll_cancel(struct shard_private *p, struct ring *r, uint32_t slot)
{
    struct io_uring_sqe *sqe;

    if (!r->slots[slot].poll_armed)
        return;
    sqe = ring_sqe(p, r);
    io_uring_prep_cancel64(sqe, user_data_poll(r, slot), 0);
    op_submit_ignored(sqe);
}

/* The slot of a poll that has ended, and who is to hear of it. NULL: the socket was closed. */
static struct slot *poll_ended(struct shard_private *p, uint64_t user_data, enum slot_poller *poller_out)
{
    struct ring *r = p->rings[user_data >> 48 & (RING_COUNT_MAX - 1)];
    struct slot *slot = &r->slots[(uint32_t)user_data];

    if (slot->generation != (uint16_t)(user_data >> 32))
        return NULL;
    *poller_out = slot->poller;
    slot->poll_armed = false;
    slot->poller = POLLER_NONE;
    return slot;
}

void poll_completed(struct shard_private *p, uint64_t user_data, int32_t res)
{
    enum slot_poller poller;
    struct slot *slot = poll_ended(p, user_data, &poller);

    if (slot == NULL)
        return;
    if (res > 0)
        slot->readable = true;
    if (poller == POLLER_OP)
        op_finish(p, op_at(&p->ops, slot->poller_id)->owner, res);
    else if (poller == POLLER_WATCH)
        p->watch_fired(slot->poller_id, res);
}

void poll_reaped_away(struct shard_private *p, uint64_t user_data)
{
    enum slot_poller poller;
    struct slot *slot = poll_ended(p, user_data, &poller);

    if (slot != NULL && poller == POLLER_OP)
        op_free(&p->ops, slot->poller_id);
}
