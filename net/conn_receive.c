#include "net/conn_private.h"

#define RECEIVE_FULL 16384 /* What one buffer of the ring takes: more may be waiting. */
#define RECEIVE_MUCH 4096  /* After a receive that was not bound to that: the next may bring much again. */
#define ROOM_LEAST   (64 * 1024) /* Room that a receive gets. */

/* ---- Memory of large receives -------------------------------------------------------------------------- */

void conn_receive_drop(struct conn *c)
{
    struct conn_space *s = c->space;

    c->space = NULL;
    if (s == NULL)
        return;
    s->receiving = false;
    if (s->held == 0)
        heap_free(conn_heap(), s);
}

/* Room for a receive: behind what others hold, or else the front again, which the processor's caches know. */
static struct slice space_room(struct conn *c)
{
    if (c->space != NULL && c->space->held > 0 && c->space->used > CONN_BULK_SIZE - ROOM_LEAST)
        conn_receive_drop(c);
    if (c->space == NULL) {
        c->space = heap_alloc(conn_heap(), sizeof *c->space + CONN_BULK_SIZE);
        *c->space = (struct conn_space){.receiving = true};
    }
    if (c->space->held == 0)
        c->space->used = 0;
    return slice_of(c->space->bytes + c->space->used, CONN_BULK_SIZE - c->space->used);
}

struct conn_space *conn_hold(struct conn *c, struct slice in)
{
    struct conn_space *s = c->space;

    if (s == NULL || c->wipes || in.data < s->bytes || in.data + in.size > s->bytes + s->used)
        return NULL;
    s->held++;
    return s;
}

void conn_space_release(struct conn_space *s)
{
    ASSERT(s->held > 0);
    s->held--;
    if (s->held == 0 && !s->receiving)
        heap_free(conn_heap(), s);
}

/* ---- Poll and receive ---------------------------------------------------------------------------------- */

static void recv_done(struct io_op *op)
{
    struct conn *c = CONTAINER_OF(op, struct conn, read_op);

    c->working = true;
    c->read_cancelled = false;
    c->full = op->res >= RECEIVE_FULL;
    c->much = op->res >= (op->recv_owned ? RECEIVE_FULL : RECEIVE_MUCH);
    if (c->space != NULL && !op->recv_owned && op->res > 0)
        c->space->used += (uint32_t)op->res;
    if (op->res > 0) {
        c->wipes = c->secret; /* That may end with these very bytes. */
        conn_bytes_arrived(c, op->data);
        if (c->wipes)
            bytes_wipe((void *)(uintptr_t)op->data.data, op->data.size);
        if (op->recv_owned)
            io_recv_release(op);
    } else if (op->res == -ENOBUFS) {
        c->active = false; /* The poll fires at once, a turn later, when buffers are back. */
    } else if (op->res != -ECANCELED) {
        conn_end(c, op->res);
    }
    conn_work(c);
}

static void poll_done(struct io_op *op)
{
    struct conn *c = CONTAINER_OF(op, struct conn, read_op);

    c->working = true;
    c->read_cancelled = false;
    if (op->res >= 0)
        c->active = true; /* A receive finds the bytes, the end or the error. */
    else if (op->res != -ECANCELED)
        conn_end(c, op->res);
    conn_work(c);
}

bool conn_receive_polls(const struct conn *c)
{
    return c->read_op.in_flight && c->read_op.done == poll_done && !c->read_cancelled;
}

void conn_receive_cancel(struct conn *c)
{
    if (!c->read_op.in_flight || c->read_cancelled)
        return;
    c->read_cancelled = true;
    io_cancel(&c->read_op);
}

/* A close whose last bytes do not leave at once reads on, into nothing: unread input would turn them into a reset. While paused one
 * receive more is kept, so that a peer who goes meanwhile is noticed. */
static bool read_wanted(const struct conn *c)
{
    if ((c->ended && !conn_lingers(c)) || c->phase == PHASE_TLS_WAIT || (c->hello && !c->closing))
        return false;
    if (!c->closing && c->inflating && inflater_pending(c->inflater) > 0)
        return false;
    if (c->closing)
        return conn_lingers(c) || (c->close_reads && !c->broken && !conn_send_drained(c));
    return !c->paused || c->input_size == 0;
}

static void recv_begin(struct conn *c)
{
    struct slice room;

    c->read_op.done = recv_done;
    if (!c->bulk || !c->much) {
        conn_receive_drop(c);
        io_recv(c->sock, &c->read_op);
        return;
    }
    room = space_room(c);
    io_recv_into(c->sock, &c->read_op, (char *)(uintptr_t)room.data, room.size);
}

void conn_receive_step(struct conn *c)
{
    if (c->read_op.in_flight) {
        if (c->read_op.done == recv_done && !c->active)
            conn_receive_cancel(c);
        return;
    }
    if (!read_wanted(c))
        return;
    if (!c->active) {
        c->read_op.done = poll_done;
        io_poll(c->sock, &c->read_op);
        return;
    }
    if (!timer_armed(&c->timer)) { /* Armed when closing. */
        c->quiet = true;
        timer_set(&c->timer, CONN_QUIET_MS);
    }
    recv_begin(c);
}

void conn_receive_bulk(struct conn *c)
{
    c->bulk = true;
}

void conn_rest_soon(struct conn *c, uint32_t ms)
{
    if (c->closing || c->end_awaited)
        return;
    c->soon = c->quiet = true;
    timer_set(&c->timer, ms);
}

void conn_rest(struct conn *c)
{
    c->active = false;
    conn_post(c);
}
