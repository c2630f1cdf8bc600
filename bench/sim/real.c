/* bench/sim/real.c -- sessions by real handshakes: BoringSSL's client over simulated sockets, then LOGIN, SELECT, IDLE. */
#include "bench/sim/sessions.h"
#include "core/fiber.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define FIBERS      64 /* Handshakes at a time. */
#define OPEN_S      3600
#define CIPHER_SIZE (32 * 1024)
#define LINE_SIZE   8192

/* What the library reads and writes during a call; calls do not suspend, so there is one. */
static struct transfer {
    struct slice in;
    size_t out_size;
    char out[CIPHER_SIZE];
} transfer;

static int bio_read(BIO *bio, char *out, int size)
{
    size_t take = MIN(transfer.in.size, (size_t)MAX(size, 0));

    BIO_clear_retry_flags(bio);
    if (take == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(out, transfer.in.data, take);
    transfer.in = slice_from(transfer.in, take);
    return (int)take;
}

static int bio_write(BIO *bio, const char *in, int size)
{
    BIO_clear_retry_flags(bio);
    ASSERT(size >= 0 && transfer.out_size + (size_t)size <= sizeof transfer.out);
    memcpy(transfer.out + transfer.out_size, in, (size_t)size);
    transfer.out_size += (size_t)size;
    return size;
}

static long bio_control(BIO *bio, int command, long number, void *arg)
{
    return command == BIO_CTRL_FLUSH;
}

static SSL *ssl_new(struct sessions *b)
{
    SSL *ssl = SSL_new(b->tls);
    BIO *bio = BIO_new(b->bio);

    ASSERT(ssl != NULL && bio != NULL);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_shed_handshake_config(ssl, 1);
    SSL_set_connect_state(ssl);
    return ssl;
}

struct ssl_call { /* On the core's big stack. */
    SSL *ssl;
    struct slice in, write;
    char *plain;
    size_t plain_size, capacity;
    bool secured, failed;
};

static bool ssl_waits(SSL *ssl, int rc)
{
    return SSL_get_error(ssl, rc) == SSL_ERROR_WANT_READ;
}

/* Takes all of `in`, writes `write` once it can; what came out is plain[0, plain_size). */
static void ssl_step(void *arg)
{
    struct ssl_call *c = arg;
    int rc;

    transfer.in = c->in;
    transfer.out_size = 0;
    c->plain_size = 0;
    rc = SSL_do_handshake(c->ssl);
    c->secured = rc == 1;
    c->failed = rc != 1 && !ssl_waits(c->ssl, rc);
    if (!c->secured)
        return;
    if (c->write.size > 0 && SSL_write(c->ssl, c->write.data, (int)c->write.size) != (int)c->write.size)
        c->failed = true;
    while (c->plain_size < c->capacity) {
        rc = SSL_read(c->ssl, c->plain + c->plain_size, (int)(c->capacity - c->plain_size));
        if (rc <= 0)
            break;
        c->plain_size += (size_t)rc;
    }
    c->failed = c->failed || (rc <= 0 && !ssl_waits(c->ssl, rc)) || transfer.in.size > 0;
}

size_t real_feed(struct sessions *b, unsigned index, struct slice in, char *plain, size_t capacity)
{
    struct ssl_call c = {.ssl = b->real[index], .in = in, .plain = plain, .capacity = capacity};

    ssl_step(&c);
    if (c.failed)
        client_lost(b, index, "TLS of a real session");
    return c.plain_size;
}

struct slice real_seal(struct sessions *b, unsigned index, struct slice plain)
{
    char none[1];
    struct ssl_call c = {.ssl = b->real[index], .write = plain, .plain = none};

    ssl_step(&c);
    return slice_of(transfer.out, transfer.out_size);
}

/* ---- One session, on a fiber --------------------------------------------------------------------------- */

struct opening {
    struct wire wire;
    char line[LINE_SIZE], out[CIPHER_SIZE];
    size_t line_size;
};

/* One exchange with the library: what has arrived, and `write`. */
static int opening_step(struct opening *o, SSL *ssl, struct slice write, bool *secured)
{
    struct ssl_call c = {.ssl = ssl,
                         .in = slice_of(o->wire.data, o->wire.size),
                         .write = write,
                         .plain = o->line + o->line_size,
                         .capacity = sizeof o->line - o->line_size};
    size_t size;

    core_call(ssl_step, &c);
    o->wire.size = 0;
    o->line_size += c.plain_size;
    *secured = c.secured;
    if (c.failed)
        return -EPROTO;
    size = transfer.out_size;
    memcpy(o->out, transfer.out, size);
    return size > 0 ? wire_send(&o->wire, slice_of(o->out, size)) : 0;
}

static int handshake(struct opening *o, SSL *ssl)
{
    bool secured = false;
    int rc = opening_step(o, ssl, slice_of(NULL, 0), &secured);

    while (rc == 0 && !secured) {
        rc = wire_receive(&o->wire);
        if (rc == 0)
            rc = opening_step(o, ssl, slice_of(NULL, 0), &secured);
    }
    return rc;
}

/* Says `command` and waits until `end` has come. */
static int ask(struct opening *o, SSL *ssl, const char *command, const char *end)
{
    bool secured;
    int rc = 0;

    if (command[0] != '\0') {
        o->line_size = 0;
        rc = opening_step(o, ssl, slice_str(command), &secured);
    }
    while (rc == 0 && memmem(o->line, o->line_size, end, strlen(end)) == NULL) {
        rc = wire_receive(&o->wire);
        if (rc == 0)
            rc = opening_step(o, ssl, slice_of(NULL, 0), &secured);
    }
    return rc;
}

static int open_one(struct sessions *b, struct opening *o, unsigned index)
{
    char user[16], login[64];
    int rc = wire_connect(&o->wire, &b->imaps);
    SSL *ssl = ssl_new(b);

    o->line_size = 0;
    snprintf(login, sizeof login, "a001 LOGIN %.*s " PASSWORD "\r\n",
             (int)user_name(index % b->options.users, user), user);
    if (rc == 0)
        rc = handshake(o, ssl);
    if (rc == 0)
        rc = ask(o, ssl, "", "* OK");
    if (rc == 0)
        rc = ask(o, ssl, login, "a001 OK");
    if (rc == 0)
        rc = ask(o, ssl, "a002 SELECT INBOX\r\n", "a002 OK");
    if (rc == 0)
        rc = ask(o, ssl, "a003 IDLE\r\n", "+ idling\r\n");
    if (rc < 0) {
        SSL_free(ssl);
        wire_close(&o->wire);
        return rc;
    }
    b->real[index] = ssl;
    b->clients[index] = (struct client){.sock = o->wire.sock};
    client_idle(b, index);
    return 0;
}

static void opener_run(void *arg)
{
    struct sessions *b = arg;
    struct opening *o = heap_alloc(shard_self()->heap, sizeof *o);

    while (b->real_next < b->options.handshakes) {
        unsigned index = b->real_next++;
        int rc = open_one(b, o, index);

        if (rc < 0) {
            b->real_failed++;
            client_lost(b, index, strerror(-rc));
        }
        b->real_ready++;
    }
    heap_free(shard_self()->heap, o);
}

static void openers_start(void *arg)
{
    for (unsigned i = 0; i < FIBERS; i++)
        ASSERT(fiber_start("opener", RUN_INTERACTIVE, opener_run, arg) != NULL);
}

static bool all_open(void *arg)
{
    const struct sessions *b = arg;

    return b->real_ready == b->options.handshakes;
}

bool real_open(struct sessions *b)
{
    b->tls = SSL_CTX_new(TLS_method());
    b->bio = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "simulated");
    b->real = calloc(b->options.handshakes, sizeof(SSL *));
    if (b->tls == NULL || b->bio == NULL || b->real == NULL)
        return false;
    BIO_meth_set_read(b->bio, bio_read);
    BIO_meth_set_write(b->bio, bio_write);
    BIO_meth_set_ctrl(b->bio, bio_control);
    SSL_CTX_set_session_cache_mode(b->tls, SSL_SESS_CACHE_OFF);
    sim_call(b->shards[CLIENTS], openers_start, b);
    return world_run(b, OPEN_S, all_open) && b->real_failed == 0;
}
