#include "net/conn.h"
#include "core/heap.h"
#include "core/metrics.h"
#include "net/conn_output.h"
#include "net/deflate.h"
#include <errno.h>
#include <poll.h>

/* What happens is noted in the record's fields; conn_work() then does, in a fixed order, all that they ask
 * for. It runs after every completion, timer and message, and calls from outside send a message for it. So no
 * callback ever finds the record half-way, and what a turn wrote leaves together. */

enum conn_phase {
    PHASE_PLAIN,
    PHASE_TLS_WAIT, /* The reply to STARTTLS must leave, and no read be in flight; input is thrown away. */
    PHASE_TLS,      /* Shaking hands, or secured. */
    PHASE_HELLO,    /* Before it: a ClientHello arrives, or waits for conn_accept_tls(). */
};

_Static_assert(TLS_PACKED_MAX <= UINT8_MAX, "its size fits a byte");

#define INPUT_GROW_SIZE 2048
#define HELLO_GROW_SIZE 64
#define INFLATE_TURN    65536 /* Bytes that a turn makes of what is compressed: a little can become a lot. */
#define QUIET_SEND_MAX                                                                                       \
    4096 /* Of one send whose success may be told late: it keeps a block for so long, and no owner waits for less. */
#define RECEIVE_FULL    16384 /* What one buffer of the ring takes: more may be waiting. */
#define RECEIVE_MUCH    4096  /* After a receive that was not bound to that: the next may bring much again. */
#define CONN_BULK_LEAST (64 * 1024) /* Room that a receive gets. */

static void conn_work(struct conn *c);
static bool output_drained(const struct conn *c);

static struct heap *heap(void)
{
    return shard_self()->heap;
}

/* Has conn_work() run soon. */
static void conn_post(struct conn *c)
{
    if (c->working || c->posted)
        return;
    c->posted = true;
    shard_send(shard_self(), &c->work);
}

static void conn_end(struct conn *c, int why)
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

static bool tls_open(const struct conn *c)
{
    return c->phase == PHASE_TLS && tls_state(c->tls) == TLS_OPEN;
}

static bool conn_reads(const struct conn *c)
{
    return !c->ended && !c->closing;
}

/* May the owner be given what has come? Also what came before the peer's end, until he is told of that. */
static bool conn_gives(const struct conn *c)
{
    return !c->closing && (!c->ended || (c->ended_why == 0 && !c->ended_told));
}

/* ---- Input --------------------------------------------------------------------------------------------- */

static void input_drop(struct conn *c)
{
    if (c->input != NULL && c->secret)
        bytes_wipe(c->input, c->input_capacity);
    heap_free(heap(), c->input);
    c->input = NULL;
    c->input_size = c->input_capacity = 0;
    c->offer = false;
}

static void input_keep(struct conn *c, struct slice bytes)
{
    size_t need = c->input_size + bytes.size;

    if (bytes.size == 0)
        return;
    if (need > c->input_capacity) {
        uint32_t capacity = (uint32_t)(need + (c->phase == PHASE_HELLO ? HELLO_GROW_SIZE : INPUT_GROW_SIZE));
        char *input = heap_alloc(heap(), capacity);

        if (c->input != NULL) {
            memcpy(input, c->input, c->input_size);
            if (c->secret)
                bytes_wipe(c->input, c->input_size);
            heap_free(heap(), c->input);
        }
        c->input = input;
        c->input_capacity = capacity;
    }
    memcpy(c->input + c->input_size, bytes.data, bytes.size);
    c->input_size = (uint32_t)need;
}

/* The owner takes what he can of `in`; what is left of it. */
static struct slice input_give(struct conn *c, struct slice in)
{
    size_t taken = c->ops->data(c, in);

    ASSERT(taken <= in.size);
    if (!conn_gives(c))
        return slice_of(NULL, 0);
    in = slice_from(in, taken);
    if (conn_turns(c)) { /* Compression begins here. */
        c->inflating = true;
        inflater_add(c->inflater, in);
        return slice_of(NULL, 0);
    }
    if (taken == 0 && in.size >= c->input_max && !c->paused)
        conn_end(c, -EMSGSIZE);
    return in;
}

static void input_offer(struct conn *c)
{
    struct slice rest;

    c->offer = false;
    if (c->paused || c->input_size == 0 || c->phase == PHASE_HELLO || !conn_gives(c))
        return;
    rest = input_give(c, slice_of(c->input, c->input_size));
    if (rest.size == 0 || !conn_gives(c)) {
        bool offer = c->offer; /* Asked for by what has just run. */

        input_drop(c);
        c->offer = offer;
        return;
    }
    memmove(c->input, rest.data, rest.size);
    if (c->secret)
        bytes_wipe(c->input + rest.size, c->input_size - rest.size);
    c->input_size = (uint32_t)rest.size;
}

/* Plaintext came. Straight to the owner if nothing is kept before it. */
static void input_arrived(struct conn *c, struct slice in)
{
    if (!c->paused && c->input_size == 0) {
        input_keep(c, input_give(c, in));
        return;
    }
    input_keep(c, in);
    input_offer(c);
}

/* Of the peer, deciphered. */
static void plain_arrived(struct conn *c, struct slice in)
{
    if (c->inflating)
        inflater_add(c->inflater, in);
    else
        input_arrived(c, in);
}

/* Some of what came compressed. Until all of it was looked at nothing more is received. */
static void input_inflate(struct conn *c)
{
    struct slice plain = {0};
    int rc = 0;

    for (size_t size = 0; size < INFLATE_TURN && !c->paused && conn_gives(c); size += plain.size) {
        rc = inflater_next(c->inflater, &plain);
        if (rc < 0)
            conn_end(c, rc);
        if (rc < 0 || plain.size == 0)
            return;
        input_arrived(c, plain);
    }
    if (!c->paused)
        c->offer = true; /* On with it, after the others. */
}

static void tls_secured(struct conn *c)
{
    struct metrics *m = shard_self()->metrics;

    m->tls_handshakes++;
    m->tls_resumed += tls_resumed(c->tls);
    if (c->ops->secured != NULL)
        c->ops->secured(c);
}

static void tls_arrived(struct conn *c, struct slice in)
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
            plain_arrived(c, plain);
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

static void hello_arrived(struct conn *c, struct slice in)
{
    if (c->input_size + in.size > TLS_HELLO_MAX) {
        hello_look(c, TLS_HELLO_BAD);
        return;
    }
    input_keep(c, in);
    hello_look(c, tls_hello(slice_of(c->input, c->input_size)));
    if (!c->hello)
        c->active = false; /* Whoever says it by pieces takes his time. */
}

static void bytes_arrived(struct conn *c, struct slice in)
{
    c->bytes_in += in.size;
    shard_self()->metrics->bytes_in += in.size;
    c->quiet = false;
    if (!conn_reads(c) || (c->phase == PHASE_TLS_WAIT && !c->tls_behind))
        return;
    if (c->phase == PHASE_TLS_WAIT)
        input_keep(c, in);
    else if (c->phase == PHASE_HELLO)
        hello_arrived(c, in);
    else if (c->phase == PHASE_TLS)
        tls_arrived(c, in);
    else
        plain_arrived(c, in);
}

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
        bytes_arrived(c, op->data);
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

static void space_drop(struct conn *c)
{
    struct conn_space *s = c->space;

    c->space = NULL;
    if (s == NULL)
        return;
    s->receiving = false;
    if (s->held == 0)
        heap_free(heap(), s);
}

/* Room for a receive: behind what others hold, or else the front again, which the processor's caches know. */
static struct slice space_room(struct conn *c)
{
    if (c->space != NULL && c->space->held > 0 && c->space->used > CONN_BULK_SIZE - CONN_BULK_LEAST)
        space_drop(c);
    if (c->space == NULL) {
        c->space = heap_alloc(heap(), sizeof *c->space + CONN_BULK_SIZE);
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
        heap_free(heap(), s);
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

static void read_cancel(struct conn *c)
{
    if (!c->read_op.in_flight || c->read_cancelled)
        return;
    c->read_cancelled = true;
    io_cancel(&c->read_op);
}

/* Its last words were said, and the peer may not have read them. */
static bool lingers(const struct conn *c)
{
    return c->closing && c->linger > 0 && !c->broken;
}

/* A close whose last bytes do not leave at once reads on, into nothing: unread input would turn them into a reset. While paused one
 * receive more is kept, so that a peer who goes meanwhile is noticed. */
static bool read_wanted(const struct conn *c)
{
    if ((c->ended && !lingers(c)) || c->phase == PHASE_TLS_WAIT || (c->hello && !c->closing))
        return false;
    if (!c->closing && c->inflating && inflater_pending(c->inflater) > 0)
        return false;
    if (c->closing)
        return lingers(c) || (c->close_reads && !c->broken && !output_drained(c));
    return !c->paused || c->input_size == 0;
}

static void recv_begin(struct conn *c)
{
    struct slice room;

    c->read_op.done = recv_done;
    if (!c->bulk || !c->much) {
        space_drop(c);
        io_recv(c->sock, &c->read_op);
        return;
    }
    room = space_room(c);
    io_recv_into(c->sock, &c->read_op, (char *)(uintptr_t)room.data, room.size);
}

static void read_arm(struct conn *c)
{
    if (c->read_op.in_flight) {
        if (c->read_op.done == recv_done && !c->active)
            read_cancel(c);
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

/* ---- Output -------------------------------------------------------------------------------------------- */

static struct conn_output *output_of(struct conn *c)
{
    if (c->output == NULL) {
        c->output = conn_output_new(heap());
        c->output->secret = c->secret;
    }
    return c->output;
}

/* Not while a send is in flight. */
static void output_free(struct conn *c)
{
    conn_output_free(c->output);
    c->output = NULL;
}

/* False: nothing that is written now will leave. */
static bool output_admits(struct conn *c, size_t size)
{
    if (c->broken || c->closing || (c->phase != PHASE_PLAIN && !tls_open(c)))
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

/* Nothing written is left on this side of the kernel. */
static bool output_drained(const struct conn *c)
{
    return !c->send_op.in_flight && c->sealed.size == 0 && conn_queued(c) == 0;
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
    uint32_t window = heap_admits(heap()) ? CONN_SEAL_WINDOW : TLS_RECORD_MAX;

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
    if (c->output != NULL && tls_open(c)) {
        seal_pieces(c);
        if (!tls_open(c))
            conn_end(c, -EPIPE);
    }
    if (c->output != NULL && !tls_open(c))
        output_free(c); /* The handshake or the session failed: only the alert leaves. */
    if (c->closing && unsealed(c) == 0)
        tls_close_notify(c->tls, &c->sealed);
}

static void send_done(struct io_op *op);

/* All that is written leaves with it, there is no loan to be given back, and its owner reads on: it is the end of an answer.
 * The timer asks after it at the latest. */
static bool send_is_quiet(const struct conn *c, size_t size)
{
    return c->active && timer_armed(&c->timer) && !c->paused && !c->closing && !c->ended &&
           size <= QUIET_SEND_MAX && c->sealed.size == 0 && unsealed(c) == 0 &&
           (c->phase == PHASE_PLAIN || tls_open(c));
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
        output_free(c);
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

/* An idle connection keeps nothing. */
static void output_rest(struct conn *c)
{
    if (c->active)
        return;
    if (!c->send_op.in_flight && conn_queued(c) == 0)
        output_free(c);
    if (c->sealed.size == 0)
        tls_output_fini(&c->sealed);
}

/* ---- TLS ----------------------------------------------------------------------------------------------- */

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

/* What is kept is the beginning of the peer's TLS. */
static void tls_enter(struct conn *c)
{
    struct slice early = slice_of(c->input, c->input_size);

    c->phase = PHASE_TLS;
    c->input = NULL;
    input_drop(c);
    tls_arrived(c, early); /* Without any a client begins; for a server it changes nothing. */
    heap_free(heap(), (void *)(uintptr_t)early.data);
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

static void tls_wait_over(struct conn *c)
{
    if (c->phase != PHASE_TLS_WAIT || (c->tls == NULL && !c->awaits_hello) || c->aborting)
        return;
    if (!c->tls_behind)
        input_drop(c); /* What came behind STARTTLS. */
    read_cancel(c);
    if (c->read_op.in_flight || !output_drained(c))
        return;
    if (!c->awaits_hello) {
        tls_enter(c);
        return;
    }
    c->phase = PHASE_HELLO;
    if (c->input_size > 0)
        hello_look(c, tls_hello(slice_of(c->input, c->input_size)));
}

/* ---- Compression --------------------------------------------------------------------------------------- */

bool conn_start_deflate(struct conn *c)
{
    ASSERT(c->working && c->inflater == NULL);
    c->inflater = inflater_new(heap());
    c->clear_size = (uint32_t)unsealed(c);
    return c->inflater != NULL;
}

/* ---- Ending -------------------------------------------------------------------------------------------- */

static void linger_on(struct conn *c)
{
    c->linger = c->quiet && output_drained(c) ? 0 : c->linger - 1;
    c->quiet = true;
    c->close_reads = true;
    timer_set(&c->timer, c->linger > 0 ? CONN_LINGER_QUIET_MS : CONN_CLOSE_MS - CONN_LINGER_MS);
}

static void timer_fired(struct timer *t)
{
    struct conn *c = CONTAINER_OF(t, struct conn, timer);

    c->working = true;
    if (lingers(c)) {
        linger_on(c);
    } else if (c->closing && !c->close_reads) {
        c->close_reads = true;
        timer_set(&c->timer, CONN_CLOSE_MS - CONN_CLOSE_AT_ONCE_MS);
    } else if (c->closing) {
        c->aborting = c->broken = true;
    } else if (c->end_awaited) {
        c->gone = output_drained(c);
        if (!c->gone)
            timer_set(&c->timer, CONN_GONE_MS);
    } else if (!c->quiet) {
        c->quiet = true;
        timer_set(&c->timer, CONN_QUIET_MS);
    } else {
        c->active = false;
    }
    conn_work(c);
}

void conn_close(struct conn *c)
{
    if (c->closing)
        return;
    c->closing = true;
    c->close_reads = c->full; /* More may have come than was read. */
    c->quiet = true;
    if (lingers(c))
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

/* All that must leave has left, or cannot. Ends the operations in flight, then the record. */
static bool close_finished(struct conn *c)
{
    if (!c->closing || lingers(c) || (!c->broken && !output_drained(c)))
        return false;
    if (c->read_op.in_flight || c->send_op.in_flight) {
        if (c->send_op.in_flight && !c->shut)
            io_shutdown(c->sock);
        c->shut = true;
        read_cancel(c);
        return false;
    }
    return !c->posted; /* The message is on its way here: it will find us. */
}

static void close_finish(struct conn *c)
{
    c->working = true; /* For good: what is released now may still call, and is not heard. */
    timer_cancel(&c->timer);
    input_drop(c);
    space_drop(c);
    output_free(c);
    tls_output_fini(&c->sealed);
    tls_free(c->tls);
    c->tls = NULL;
    inflater_free(c->inflater);
    c->inflater = NULL;
    io_close(c->sock);
    c->sock = SOCK_NONE;
    c->ops->closed(c);
}

/* ---- The order of work --------------------------------------------------------------------------------- */

static void tell_sent(struct conn *c)
{
    if (!c->sent)
        return;
    c->sent = false;
    if (c->ops->sent != NULL && !c->closing)
        c->ops->sent(c);
}

/* A peer who has closed his side while his request is worked on may wait for the answer still. Has he been told nothing of it for
 * CONN_GONE_MS he is taken for gone: to one who is, the first bytes would have brought an error back. */
static bool end_waits(const struct conn *c)
{
    return c->ended_why == 0 && !c->gone && (c->paused || c->offer);
}

static bool end_due(const struct conn *c)
{
    return c->ended && !c->ended_told && !c->closing && !end_waits(c);
}

static void tell_ended(struct conn *c)
{
    if (c->ended && !c->ended_told && !c->closing && end_waits(c) && !c->end_awaited) {
        c->end_awaited = true;
        c->active = false; /* There is nothing to receive: what was written gives its memory back. */
        timer_set(&c->timer, CONN_GONE_MS);
    }
    if (!end_due(c))
        return;
    c->ended_told = true;
    input_drop(c);
    c->ops->ended(c, c->ended_why);
}

static bool conn_at_rest(const struct conn *c)
{
    return c->read_op.in_flight && c->read_op.done == poll_done && !c->read_cancelled && !c->active &&
           !c->paused && !c->posted && c->input_size <= CONN_PACKED_INPUT_MAX && !c->offer &&
           c->output == NULL && c->sealed.data == NULL && !c->ended && !c->broken && !c->closing &&
           (c->phase == PHASE_PLAIN || (c->phase == PHASE_HELLO && !c->hello) || tls_open(c)) &&
           (c->inflater == NULL || inflater_rests(c->inflater));
}

static void conn_work(struct conn *c)
{
    c->working = true;
    tell_sent(c);
    if (c->offer)
        input_offer(c);
    if (c->inflating)
        input_inflate(c);
    tls_wait_over(c);
    hello_over(c);
    tell_ended(c);
    output_flush(c);
    output_rest(c);
    read_arm(c);
    c->working = false;
    if (close_finished(c))
        close_finish(c);
    else if (c->offer || end_due(c))
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

void conn_receive_bulk(struct conn *c)
{
    c->bulk = true;
}

/* ---- Sleep --------------------------------------------------------------------------------------------- */

bool conn_sleep(struct conn *c, struct conn_packed *out)
{
    size_t tls_size = 0;

    ASSERT(conn_at_rest(c) && !c->working);
    if (c->tls != NULL) {
        tls_size = tls_pack(c->tls, out->tls);
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
    out->input_size = (uint8_t)c->input_size;
    if (c->input_size > 0) {
        memcpy(out->input, c->input, c->input_size);
        bytes_wipe(c->input, c->input_size);
    }
    input_drop(c);
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
    c->inflater = inflater_unpack(heap(), in->history);
    c->inflating = c->inflater != NULL;
    return c->inflating;
}

void conn_wake(struct conn *c, const struct conn_packed *in, bool fired, uint32_t input_max,
               const struct conn_ops *ops)
{
    conn_set(c, in->sock, &in->peer, input_max, ops);
    c->bytes_in = in->bytes_in;
    c->bytes_out = in->bytes_out;
    input_keep(c, slice_of(in->input, in->input_size));
    if (!tls_wakes(c, in) || !deflate_wakes(c, in)) {
        conn_end(c, -ENOMEM);
        conn_post(c);
        return;
    }
    c->active = fired;
    read_arm(c); /* At once: a poll takes the watch's place, so that nothing else hears of the socket. */
}

void conn_pause(struct conn *c)
{
    c->paused = true;
}

void conn_resume(struct conn *c)
{
    c->paused = false;
    c->offer = true;
    conn_post(c);
}

void conn_rest(struct conn *c)
{
    c->active = false;
    conn_post(c);
}
