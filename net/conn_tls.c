#include "net/conn_private.h"

/* ---- Shaking hands, and secured ------------------------------------------------------------------------ */

static void tls_secured(struct conn *c)
{
    struct metrics *m = shard_self()->metrics;

    m->tls_handshakes++;
    m->tls_resumed += tls_resumed(c->tls);
    if (c->ops->secured != NULL)
        c->ops->secured(c);
}

void conn_tls_arrived(struct conn *c, struct slice in)
{
    struct slice plain;

    while (conn_reads(c)) {
        bool shaking = tls_state(c->tls) == TLS_HANDSHAKING;

        switch (tls_feed(c->tls, &in, &plain, &c->sealed)) {
        case TLS_WAIT:
            return;
        case TLS_SECURED:
            tls_secured(c);
            break;
        case TLS_DATA:
            conn_plain_arrived(c, plain);
            break;
        case TLS_ENDED:
            conn_end(c, 0);
            return;
        case TLS_FAILED:
            shard_self()->metrics->tls_failed += shaking;
            conn_end(c, -EPROTO);
            return;
        }
    }
}

/* What is kept is the beginning of the peer's TLS. */
static void tls_enter(struct conn *c)
{
    struct slice early = slice_of(c->input, c->input_size);

    c->phase = PHASE_TLS;
    c->input = NULL;
    conn_input_drop(c);
    conn_tls_arrived(c, early); /* Without any a client begins; for a server it changes nothing. */
    heap_free(conn_heap(), (void *)(uintptr_t)early.data);
}

/* ---- The client's hello -------------------------------------------------------------------------------- */

/* Is all of the client's hello there? */
static void hello_look(struct conn *c, enum tls_hello found)
{
    c->hello = found == TLS_HELLO_WHOLE;
    if (found != TLS_HELLO_BAD)
        return;
    shard_self()->metrics->tls_failed++;
    tls_hello_refuse(&c->sealed);
    conn_end(c, -EPROTO);
}

void conn_hello_arrived(struct conn *c, struct slice in)
{
    if (c->input_size + in.size > TLS_HELLO_MAX) {
        hello_look(c, TLS_HELLO_BAD);
        return;
    }
    conn_input_keep(c, in);
    hello_look(c, tls_hello(slice_of(c->input, c->input_size)));
    if (!c->hello)
        c->active = false; /* Whoever says it by pieces takes his time. */
}

void conn_await_hello(struct conn *c, bool behind)
{
    ASSERT(c->phase == PHASE_PLAIN && c->ops->hello != NULL);
    c->phase = PHASE_TLS_WAIT;
    c->tls_behind = behind;
    c->awaits_hello = true;
    conn_post(c);
}

void conn_accept_tls(struct conn *c, struct tls_context *context, struct slice alpn)
{
    ASSERT(c->phase == PHASE_HELLO && c->hello && c->tls == NULL);
    c->tls = tls_accept(context, alpn);
    if (c->tls == NULL)
        conn_end(c, -ENOMEM);
    conn_post(c);
}

static void hello_over(struct conn *c)
{
    if (!c->hello || c->ended || c->closing)
        return;
    if (!c->hello_told) {
        c->hello_told = true;
        c->ops->hello(c);
    }
    if (c->tls == NULL || c->closing)
        return;
    c->hello = false;
    tls_enter(c);
}

/* ---- Starting ------------------------------------------------------------------------------------------ */

static void tls_begin(struct conn *c, struct tls *tls)
{
    ASSERT(c->phase == PHASE_PLAIN);
    c->phase = PHASE_TLS_WAIT;
    c->tls = tls;
    if (tls == NULL)
        conn_end(c, -ENOMEM);
    conn_post(c);
}

void conn_start_tls(struct conn *c, struct tls_context *context, struct slice alpn)
{
    tls_begin(c, tls_accept(context, alpn));
}

void conn_start_tls_behind(struct conn *c, struct tls_context *context, struct slice alpn)
{
    c->tls_behind = true;
    conn_start_tls(c, context, alpn);
}

void conn_start_tls_client(struct conn *c, struct tls_context *context, struct slice name, struct slice alpn,
                           struct slice ticket)
{
    tls_begin(c, tls_connect(context, name, alpn, ticket));
}

static void tls_wait_over(struct conn *c)
{
    if (c->phase != PHASE_TLS_WAIT || (c->tls == NULL && !c->awaits_hello) || c->aborting)
        return;
    if (!c->tls_behind)
        conn_input_drop(c); /* What came behind STARTTLS. */
    conn_receive_cancel(c);
    if (c->read_op.in_flight || !conn_send_drained(c))
        return;
    if (!c->awaits_hello) {
        tls_enter(c);
        return;
    }
    c->phase = PHASE_HELLO;
    if (c->input_size > 0)
        hello_look(c, tls_hello(slice_of(c->input, c->input_size)));
}

void conn_tls_step(struct conn *c)
{
    tls_wait_over(c);
    hello_over(c);
}
