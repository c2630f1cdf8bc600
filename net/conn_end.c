#include "net/conn_private.h"

/* ---- The peer's end ------------------------------------------------------------------------------------ */

void conn_end(struct conn *c, int why)
{
    if (why < 0 && why != -EPROTO && why != -EMSGSIZE)
        c->broken = true;
    if (why != -EMSGSIZE)
        c->linger = 0;
    if (c->ended)
        return;
    c->ended = true;
    c->ended_why = why;
}

/* A peer who has closed his side while his request is worked on may wait for the answer still. Has he been told nothing of it for
 * CONN_GONE_MS he is taken for gone: to one who is, the first bytes would have brought an error back. */
static bool end_waits(const struct conn *c)
{
    return c->ended_why == 0 && !c->gone && (c->paused || c->offer);
}

bool conn_end_due(const struct conn *c)
{
    return c->ended && !c->ended_told && !c->closing && !end_waits(c);
}

void conn_end_step(struct conn *c)
{
    if (c->ended && !c->ended_told && !c->closing && end_waits(c) && !c->end_awaited) {
        c->end_awaited = true;
        c->active = false; /* There is nothing to receive: what was written gives its memory back. */
        timer_set(&c->timer, CONN_GONE_MS);
    }
    if (!conn_end_due(c))
        return;
    c->ended_told = true;
    conn_input_drop(c);
    c->ops->ended(c, c->ended_why);
}

/* ---- The owner's close --------------------------------------------------------------------------------- */

bool conn_lingers(const struct conn *c)
{
    return c->closing && c->linger > 0 && !c->broken;
}

static void linger_on(struct conn *c)
{
    c->linger = c->quiet && conn_send_drained(c) ? 0 : c->linger - 1;
    c->quiet = true;
    c->close_reads = true;
    timer_set(&c->timer, c->linger > 0 ? CONN_LINGER_QUIET_MS : CONN_CLOSE_MS - CONN_LINGER_MS);
}

void conn_end_timed(struct conn *c)
{
    if (conn_lingers(c)) {
        linger_on(c);
    } else if (c->closing && !c->close_reads) {
        c->close_reads = true;
        timer_set(&c->timer, CONN_CLOSE_MS - CONN_CLOSE_AT_ONCE_MS);
    } else if (c->closing) {
        c->aborting = c->broken = true;
    } else {
        c->gone = conn_send_drained(c);
        if (!c->gone)
            timer_set(&c->timer, CONN_GONE_MS);
    }
}

void conn_close(struct conn *c)
{
    if (c->closing)
        return;
    c->closing = true;
    c->close_reads = c->full; /* More may have come than was read. */
    c->quiet = true;
    if (conn_lingers(c))
        timer_set(&c->timer, CONN_LINGER_QUIET_MS);
    else
        timer_set(&c->timer, c->close_reads ? CONN_CLOSE_MS : CONN_CLOSE_AT_ONCE_MS);
    conn_post(c);
}

void conn_linger(struct conn *c)
{
    if (!c->ended || c->ended_why == -EMSGSIZE)
        c->linger = CONN_LINGER_MS / CONN_LINGER_QUIET_MS;
}

void conn_abort(struct conn *c)
{
    c->closing = c->aborting = c->broken = true;
    conn_post(c);
}

/* All that must leave has left, or cannot, and nothing is in flight any more. */
static bool close_finished(struct conn *c)
{
    if (conn_lingers(c) || (!c->broken && !conn_send_drained(c)))
        return false;
    if (c->read_op.in_flight || c->send_op.in_flight) {
        if (c->send_op.in_flight && !c->shut)
            io_shutdown(c->sock);
        c->shut = true;
        conn_receive_cancel(c);
        return false;
    }
    return !c->posted; /* The message is on its way here: it will find us. */
}

bool conn_end_finish(struct conn *c)
{
    if (!close_finished(c))
        return false;
    c->working = true; /* For good: what is released now may still call, and is not heard. */
    timer_cancel(&c->timer);
    conn_input_drop(c);
    conn_receive_drop(c);
    conn_send_drop(c);
    tls_output_fini(&c->sealed);
    tls_free(c->tls);
    c->tls = NULL;
    inflater_free(c->inflater);
    c->inflater = NULL;
    io_close(c->sock);
    c->sock = SOCK_NONE;
    c->ops->closed(c);
    return true;
}
