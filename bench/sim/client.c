/* bench/sim/client.c -- clients that idle: a watch, and 16 bytes. What comes is TLS records: of those with a library's
 * session opened by it, of made ones counted, and while it matters opened, too, with the secrets that the proxy's records
 * were made with. */
#include "bench/sim/sessions.h"
#include "net/tls_boring.h"

#define SPACE 4096

struct receiver { /* Of a client to whom something has come. */
    struct io_op op;
    struct receiver *next;
    unsigned index;
    char space[SPACE];
};

struct sender {
    struct io_op op;
    struct sender *next;
    struct iovec vector;
    char space[SPACE];
};

void client_lost(struct sessions *b, unsigned index, const char *why)
{
    b->clients[index].lost = true;
    b->lost++;
    if (b->trouble == NULL)
        b->trouble = why;
}

/* ---- Silence ------------------------------------------------------------------------------------------- */

static uint32_t now_ds(const struct sessions *b)
{
    return (uint32_t)(sim_now_ns(b->world) / (SIM_S / 10));
}

static void heard(struct sessions *b, struct client *c)
{
    uint32_t now = now_ds(b);

    b->silence_max = MAX(b->silence_max, now - c->heard);
    c->heard = now;
}

void clients_listen(struct sessions *b)
{
    for (unsigned i = 0; i < b->options.count; i++)
        heard(b, &b->clients[i]);
    b->silence_max = 0;
}

double clients_silence_s(struct sessions *b)
{
    for (unsigned i = 0; i < b->options.count; i++)
        heard(b, &b->clients[i]);
    return b->silence_max / 10.0;
}

/* ---- What has come ------------------------------------------------------------------------------------- */

/* An answer or a notice is whole within a record or two. */
static void plain_come(struct sessions *b, unsigned index, struct slice plain)
{
    struct client *c = &b->clients[index];

    if (memmem(plain.data, plain.size, " EXISTS\r\n", 9) != NULL && plain.data[0] == '*') {
        c->exists += c->exists < UINT8_MAX;
        b->notified++;
    }
    if (!c->answered && memmem(plain.data, plain.size, "+ idling\r\n", 10) != NULL) {
        c->answered = true;
        b->answers++;
    }
}

static void record_open(struct sessions *b, unsigned index, struct slice bytes)
{
    struct tls_record r = {.suite = &tls_suites[0],
                           .read.sequence = b->server_sequence + b->clients[index].received};
    struct tls_output alerts = {0};
    struct slice plain;
    const char *why;

    make_secret(index, true, r.read.secret);
    if (tls_record_open(&r, bytes, &plain, &why, &alerts) == TLS_DATA)
        plain_come(b, index, plain);
    else
        b->broken++;
    tls_output_fini(&alerts);
    tls_record_fini(&r);
}

static void made_come(struct sessions *b, unsigned index, struct slice in)
{
    while (in.size > 0) {
        size_t size = in.size >= 5 ? 5 + ((size_t)(uint8_t)in.data[3] << 8 | (uint8_t)in.data[4]) : 5;

        if (size > in.size) {
            client_lost(b, index, "a record in pieces");
            return;
        }
        if (b->opens)
            record_open(b, index, slice_first(in, size));
        b->clients[index].received++;
        b->records++;
        in = slice_from(in, size);
    }
}

static void real_come(struct sessions *b, unsigned index, struct slice in)
{
    char plain[1024];
    size_t size = real_feed(b, index, in, plain, sizeof plain);

    b->records++;
    if (size > 0)
        plain_come(b, index, slice_of(plain, size));
}

static void receive_done(struct io_op *op)
{
    struct receiver *r = CONTAINER_OF(op, struct receiver, op);
    struct sessions *b = sessions_self();

    if (op->res > 0) {
        heard(b, &b->clients[r->index]);
        b->bytes += (uint64_t)op->res;
        if (r->index < b->options.handshakes)
            real_come(b, r->index, op->data);
        else
            made_come(b, r->index, op->data);
    }
    if (op->res <= 0)
        client_lost(b, r->index, "the proxy has closed");
    else if (!b->clients[r->index].lost)
        io_watch(b->clients[r->index].sock, r->index);
    r->next = b->receivers;
    b->receivers = r;
}

static void on_fired(uint32_t index, int32_t res)
{
    struct sessions *b = sessions_self();
    struct receiver *r = b->receivers;

    if (r != NULL)
        b->receivers = r->next;
    else
        r = heap_alloc(shard_self()->heap, sizeof *r);
    r->op = (struct io_op){.done = receive_done};
    r->index = index;
    io_recv_into(b->clients[index].sock, &r->op, r->space, sizeof r->space);
}

/* ---- What is said -------------------------------------------------------------------------------------- */

static void send_done(struct io_op *op)
{
    struct sender *s = CONTAINER_OF(op, struct sender, op);
    struct sessions *b = sessions_self();

    s->next = b->senders;
    b->senders = s;
}

static size_t made_seal(struct sessions *b, unsigned index, struct slice plain, char *out)
{
    struct tls_record r = {.suite = &tls_suites[0],
                           .write.sequence = b->client_sequence + b->clients[index].sent};
    struct tls_output sealed = {0};
    size_t size;

    make_secret(index, false, r.write.secret);
    ASSERT(tls_record_seal(&r, plain, &sealed) && sealed.size <= SPACE);
    b->clients[index].sent++;
    memcpy(out, sealed.data, sealed.size);
    size = sealed.size;
    tls_output_fini(&sealed);
    tls_record_fini(&r);
    return size;
}

void client_speak(struct sessions *b, unsigned index)
{
    struct slice text = SLICE("DONE\r\nb001 NOOP\r\nb002 UID FETCH 1:* (FLAGS)\r\na003 IDLE\r\n");
    struct sender *s = b->senders;

    if (s != NULL)
        b->senders = s->next;
    else
        s = heap_alloc(shard_self()->heap, sizeof *s);
    s->op = (struct io_op){.done = send_done};
    b->clients[index].answered = false;
    s->vector.iov_base = s->space;
    if (index < b->options.handshakes) {
        struct slice sealed = real_seal(b, index, text);

        ASSERT(sealed.size <= sizeof s->space);
        memcpy(s->space, sealed.data, sealed.size);
        s->vector.iov_len = sealed.size;
    } else {
        s->vector.iov_len = made_seal(b, index, text, s->space);
    }
    io_send(b->clients[index].sock, &s->op, &s->vector, 1);
}

/* ---- Life ---------------------------------------------------------------------------------------------- */

void client_idle(struct sessions *b, unsigned index)
{
    io_watch(b->clients[index].sock, index);
}

void clients_start(struct sessions *b)
{
    ASSERT(tls_shard_acquire());
    b->clients = heap_zalloc(shard_self()->heap, (size_t)b->options.count * sizeof *b->clients);
    io_watch_with(on_fired);
}
