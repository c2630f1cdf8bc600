#include "net/conn_private.h"

_Static_assert(TLS_PACKED_MAX <= UINT8_MAX, "its size fits a byte");

void conn_post(struct conn *c)
{
    if (c->working || c->posted)
        return;
    c->posted = true;
    shard_send(shard_self(), &c->work);
}

static void tell_sent(struct conn *c)
{
    if (!c->sent)
        return;
    c->sent = false;
    if (c->ops->sent != NULL && !c->closing)
        c->ops->sent(c);
}

/* So much of a message is kept that a record may keep it. */
static bool packable(const struct conn *c)
{
    if (c->phase == PHASE_HELLO)
        return !c->hello;
    return c->input_size <= CONN_PACKED_INPUT_MAX && (c->phase == PHASE_PLAIN || conn_secured(c));
}

static bool conn_at_rest(const struct conn *c)
{
    return !c->active && conn_receive_polls(c) && !c->paused && !c->posted && !c->offer &&
           c->output == NULL && c->sealed.data == NULL && !c->ended && !c->broken && !c->closing &&
           packable(c) && (c->inflater == NULL || inflater_rests(c->inflater));
}

size_t conn_held(const struct conn *c)
{
    return c->input_capacity + (c->tls != NULL ? tls_held(c->tls) : 0);
}

static void tell_held(struct conn *c)
{
    size_t held = conn_held(c);

    if (held == c->held)
        return;
    c->held = (uint32_t)held;
    if (c->ops->held != NULL && !c->closing)
        c->ops->held(c);
}

void conn_work(struct conn *c)
{
    c->working = true;
    tell_sent(c);
    conn_input_step(c);
    conn_tls_step(c);
    conn_end_step(c);
    conn_send_step(c);
    conn_receive_step(c);
    tell_held(c);
    c->working = false;
    if (c->closing && conn_end_finish(c))
        return;
    if (c->offer || conn_end_due(c))
        conn_post(c); /* A callback asked for more after its step was over. */
    else if (c->ops->rested != NULL && conn_at_rest(c))
        c->ops->rested(c);
}

static void work_delivered(struct shard_message *m)
{
    struct conn *c = CONTAINER_OF(m, struct conn, work);

    c->posted = false;
    conn_work(c);
}

static void timer_fired(struct timer *t)
{
    struct conn *c = CONTAINER_OF(t, struct conn, timer);

    c->working = true;
    if (c->closing || c->end_awaited) {
        conn_end_timed(c);
    } else if (!c->quiet) {
        c->quiet = true;
        timer_set(&c->timer, CONN_QUIET_MS);
    } else {
        c->active = false;
    }
    conn_work(c);
}

static void conn_set(struct conn *c, struct sock sock, const struct net_addr *peer, uint32_t input_max,
                     const struct conn_ops *ops)
{
    memset(c, 0, sizeof *c);
    c->ops = ops;
    c->sock = sock;
    c->peer = *peer;
    c->input_max = input_max;
    c->active = true; /* Who has connected will speak. */
    c->work.deliver = work_delivered;
    timer_init(&c->timer, timer_fired);
}

void conn_init(struct conn *c, struct sock sock, const struct net_addr *peer, uint32_t input_max,
               const struct conn_ops *ops)
{
    conn_set(c, sock, peer, input_max, ops);
    conn_post(c);
}

void conn_carries_secrets(struct conn *c, bool secret)
{
    c->secret = secret;
    if (c->output != NULL)
        c->output->secret = secret;
}

/* ---- Sleep --------------------------------------------------------------------------------------------- */

static void input_pack(struct conn *c, struct conn_packed *out)
{
    out->hello = NULL;
    out->input_size = 0;
    if (c->input_size > CONN_PACKED_INPUT_MAX) {
        out->hello = c->input;
        out->hello_size = (uint16_t)c->input_size;
        c->input = NULL;
    } else if (c->input_size > 0) {
        out->input_size = (uint8_t)c->input_size;
        memcpy(out->input, c->input, c->input_size);
        bytes_wipe(c->input, c->input_size);
    }
    conn_input_drop(c);
}

static void input_wakes(struct conn *c, const struct conn_packed *in)
{
    struct slice input = slice_of(in->input, in->input_size);

    if (in->input_sealed) /* Of no whole record: nobody hears of it. */
        conn_tls_arrived(c, input);
    else
        conn_input_keep(c, input);
    if (in->hello == NULL)
        return;
    c->input = in->hello;
    c->input_size = c->input_capacity = in->hello_size;
}

bool conn_sleep(struct conn *c, struct conn_packed *out)
{
    size_t tls_size = 0, part_max = c->input_size > 0 ? 0 : CONN_PACKED_SEALED_MAX, part_size = 0;

    ASSERT(conn_at_rest(c) && !c->working);
    if (c->tls != NULL) {
        tls_size = tls_pack_part(c->tls, out->tls, out->input, part_max, &part_size);
        if (tls_size == 0)
            return false;
    }
    ASSERT(tls_size <= TLS_PACKED_MAX);
    c->tls = NULL;
    out->awaits_hello = c->phase == PHASE_HELLO;
    out->history = NULL;
    if (c->inflater != NULL)
        out->history = inflater_pack(c->inflater);
    c->inflater = NULL;
    timer_cancel(&c->timer);
    input_pack(c, out);
    out->input_sealed = part_size > 0;
    if (part_size > 0)
        out->input_size = (uint8_t)part_size;
    out->sock = c->sock;
    out->peer = c->peer;
    out->bytes_in = c->bytes_in;
    out->bytes_out = c->bytes_out;
    out->tls_size = (uint8_t)tls_size;
    return true;
}

static bool tls_wakes(struct conn *c, const struct conn_packed *in)
{
    if (in->awaits_hello) {
        c->awaits_hello = true;
        c->phase = PHASE_HELLO;
    }
    if (in->tls_size == 0)
        return true;
    c->tls = tls_unpack(in->tls, in->tls_size);
    if (c->tls != NULL)
        c->phase = PHASE_TLS;
    return c->tls != NULL;
}

static bool deflate_wakes(struct conn *c, const struct conn_packed *in)
{
    if (in->history == NULL)
        return true;
    c->inflater = inflater_unpack(conn_heap(), in->history);
    c->inflating = c->inflater != NULL;
    return c->inflating;
}

void conn_wake(struct conn *c, const struct conn_packed *in, bool fired, uint32_t input_max,
               const struct conn_ops *ops)
{
    bool awake;

    conn_set(c, in->sock, &in->peer, input_max, ops);
    c->bytes_in = in->bytes_in;
    c->bytes_out = in->bytes_out;
    awake = tls_wakes(c, in) && deflate_wakes(c, in);
    if (!awake) {
        conn_end(c, -ENOMEM);
        conn_post(c);
        return;
    }
    input_wakes(c, in);
    c->active = fired;
    /* At once: a poll takes the watch's place, so that nothing else hears of the socket. */
    conn_receive_step(c);
}
