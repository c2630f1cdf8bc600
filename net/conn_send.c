#include "net/conn_private.h"

/* Bytes of one send whose success may be told late: it keeps a block for so long, and no owner waits for less. */
#define QUIET_SEND_MAX 4096

static void send_done(struct io_op *op);

/* ---- Writing ------------------------------------------------------------------------------------------- */

static struct conn_output *output_of(struct conn *c)
{
    if (c->output == NULL) {
        c->output = conn_output_new(conn_heap());
        c->output->secret = c->secret;
    }
    return c->output;
}

void conn_send_drop(struct conn *c)
{
    conn_output_free(c->output);
    c->output = NULL;
}

/* False: nothing that is written now will leave. */
static bool output_admits(struct conn *c, size_t size)
{
    if (c->broken || c->closing || (c->phase != PHASE_PLAIN && !conn_secured(c)))
        return false;
    if (conn_queued(c) + size <= CONN_QUEUED_MAX)
        return true;
    conn_end(c, -ENOBUFS);
    conn_post(c);
    return false;
}

void conn_write(struct conn *c, struct slice data)
{
    if (data.size == 0 || !output_admits(c, data.size))
        return;
    conn_output_write(output_of(c), data);
    conn_post(c);
}

void conn_write_loan(struct conn *c, struct slice data, void (*release)(void *arg), void *arg)
{
    if (!output_admits(c, data.size))
        data.size = 0; /* Only to be given back, from the loop. */
    conn_output_lend(output_of(c), data, release, arg);
    conn_post(c);
}

size_t conn_queued(const struct conn *c)
{
    return c->output != NULL ? c->output->queued : 0;
}

/* Plaintext that is neither sealed nor in flight. */
static size_t unsealed(const struct conn *c)
{
    return c->output != NULL ? c->output->queued - c->output->sending : 0;
}

bool conn_send_drained(const struct conn *c)
{
    return !c->send_op.in_flight && c->sealed.size == 0 && conn_queued(c) == 0;
}

/* ---- Compression --------------------------------------------------------------------------------------- */

bool conn_start_deflate(struct conn *c)
{
    ASSERT(c->working && c->inflater == NULL);
    c->inflater = inflater_new(conn_heap());
    c->clear_size = (uint32_t)unsealed(c);
    return c->inflater != NULL;
}

/* What was written before compression began leaves as it is. */
static size_t clear_part(struct conn *c, size_t size)
{
    return c->inflater != NULL ? MIN(size, c->clear_size) : size;
}

static void clear_left(struct conn *c, size_t size)
{
    if (c->inflater != NULL)
        c->clear_size -= (uint32_t)size;
}

/* Appends what is written, compressed, up to `window` bytes of it. */
static void deflate_pieces(struct conn *c, uint32_t window, struct tls_output *to)
{
    struct conn_output *out = c->output;

    while (out->queued > out->sending && out->sending < window) {
        uint32_t size = MIN(out->first->size, window - out->sending);
        bool last = out->sending + size == MIN(out->queued, window);

        deflate_append(slice_of(out->first->data, size), last, to);
        out->sending += size;
        conn_output_consume(out, size);
    }
}

/* ---- Sealing ------------------------------------------------------------------------------------------- */

static void seal_deflated(struct conn *c, uint32_t window)
{
    struct tls_output packed = {0};
    struct slice rest;

    deflate_pieces(c, window, &packed);
    for (rest = slice_of(packed.data, packed.size); rest.size > 0;) {
        struct slice record = slice_first(rest, MIN(rest.size, TLS_RECORD_MAX));

        tls_seal(c->tls, record, &c->sealed);
        rest = slice_from(rest, record.size);
    }
    tls_output_fini(&packed);
}

static void seal_pieces(struct conn *c)
{
    struct conn_output *out = c->output;

    /* Sealed bytes are nobody's window any more: short of memory a record at a time must do. */
    uint32_t window = heap_admits(conn_heap()) ? CONN_SEAL_WINDOW : TLS_RECORD_MAX;

    if (c->inflater != NULL && c->clear_size == 0) {
        seal_deflated(c, window);
        return;
    }
    while (out->queued > out->sending && out->sending < window && clear_part(c, 1) > 0) {
        size_t size = clear_part(c, MIN(out->first->size, TLS_RECORD_MAX));

        if (size > 0)
            tls_seal(c->tls, slice_of(out->first->data, size), &c->sealed);
        clear_left(c, size);
        out->sending += (uint32_t)size;
        conn_output_consume(out, size);
    }
}

/* Seals what is written; what is ready to send is c->sealed. */
static void output_seal(struct conn *c)
{
    if (c->output != NULL && conn_secured(c)) {
        seal_pieces(c);
        if (!conn_secured(c))
            conn_end(c, -EPIPE);
    }
    if (c->output != NULL && !conn_secured(c))
        conn_send_drop(c); /* The handshake or the session failed: only the alert leaves. */
    if (c->closing && unsealed(c) == 0)
        tls_close_notify(c->tls, &c->sealed);
}

/* ---- Sending ------------------------------------------------------------------------------------------- */

/* All that is written leaves with it, there is no loan to be given back, and its owner reads on: it is the end of an answer.
 * The timer asks after it at the latest. */
static bool send_is_quiet(const struct conn *c, size_t size)
{
    return c->active && timer_armed(&c->timer) && !c->paused && !c->closing && !c->ended &&
           size <= QUIET_SEND_MAX && c->sealed.size == 0 && unsealed(c) == 0 &&
           (c->phase == PHASE_PLAIN || conn_secured(c));
}

/* The vector that is in c->output. */
static void send_begin(struct conn *c, unsigned count, bool lent)
{
    const struct iovec *vector = c->output->vector;

    c->send_op.done = send_done;
    if (count == 1 && !lent && send_is_quiet(c, vector->iov_len))
        io_send_quiet(c->sock, &c->send_op, vector, 1);
    else
        io_send(c->sock, &c->send_op, vector, count);
}

static void send_cipher(struct conn *c)
{
    struct conn_output *out = output_of(c);

    out->cipher = c->sealed;
    c->sealed = (struct tls_output){0};
    out->vector[0] = (struct iovec){out->cipher.data, out->cipher.size};
    out->vector_count = 0;
    send_begin(c, 1, false);
}

static void send_pieces(struct conn *c)
{
    struct conn_output *out = c->output;
    unsigned count = 0;

    conn_output_trim(out);
    if (c->inflater != NULL && c->clear_size == 0 && out->queued > 0) {
        deflate_pieces(c, CONN_SEAL_WINDOW, &c->sealed);
        send_cipher(c);
        return;
    }
    for (struct conn_piece *p = out->first;
         p != NULL && count < CONN_VECTOR_MAX && out->sending < CONN_SEND_MAX; p = p->next) {
        size_t size = clear_part(c, p->size);

        out->vector[count++] = (struct iovec){(void *)p->data, size};
        out->sending += (uint32_t)size;
        clear_left(c, size);
        if (size < p->size)
            break;
    }
    if (out->sending == 0)
        return;
    out->vector_count = count;
    send_begin(c, count, out->first->release != NULL);
}

static void output_flush(struct conn *c)
{
    if (c->send_op.in_flight) {
        if (unsealed(c) > 0 || c->sealed.size > 0 || c->closing || !c->active || c->phase == PHASE_TLS_WAIT)
            io_send_awaited(&c->send_op);
        return;
    }
    if (c->broken) {
        conn_send_drop(c);
        tls_output_fini(&c->sealed);
        return;
    }
    if (c->phase == PHASE_TLS) {
        output_seal(c);
        if (c->sealed.size > 0)
            send_cipher(c);
        return;
    }
    if (c->phase == PHASE_HELLO) {
        if (c->sealed.size > 0)
            send_cipher(c);
        return;
    }
    if (c->phase == PHASE_TLS_WAIT && c->read_op.in_flight)
        return; /* A read that began before the reply left must not see what comes after it. */
    if (c->output != NULL)
        send_pieces(c);
}

/* An idle connection keeps nothing. */
static void output_rest(struct conn *c)
{
    if (c->active)
        return;
    if (!c->send_op.in_flight && conn_queued(c) == 0)
        conn_send_drop(c);
    if (c->sealed.size == 0)
        tls_output_fini(&c->sealed);
}

void conn_send_step(struct conn *c)
{
    output_flush(c);
    output_rest(c);
}

/* Its buffer is the next to be filled. */
static void cipher_sent(struct conn *c)
{
    struct tls_output *cipher = &c->output->cipher;

    cipher->size = 0;
    if (c->sealed.data == NULL)
        c->sealed = *cipher;
    else
        tls_output_fini(cipher);
    *cipher = (struct tls_output){0};
}

static void send_done(struct io_op *op)
{
    struct conn *c = CONTAINER_OF(op, struct conn, send_op);
    struct conn_output *out = c->output;

    c->working = true;
    for (unsigned i = 0; i < out->vector_count; i++)
        conn_output_consume(out, out->vector[i].iov_len);
    out->queued -= out->sending;
    c->sent = out->sending > 0;
    out->sending = 0;
    cipher_sent(c);
    if (op->res < 0) {
        conn_end(c, op->res);
    } else {
        c->bytes_out += (uint32_t)op->res;
        shard_self()->metrics->bytes_out += (uint32_t)op->res;
    }
    if (c->end_awaited && !c->closing)
        timer_set(&c->timer, CONN_GONE_MS);
    conn_work(c);
}
