/* Sessions. The handshake is calls of BoringSSL between two memory buffers. At its end the secrets are taken from the
 * library, which is then let go: the record layer serves the connection from its first byte of data on. */
#include "net/tls_boring.h"
#include "core/shard.h"
#include "core/text.h"
#include <openssl/err.h>
#include <openssl/x509v3.h>

/* ---- Memory -------------------------------------------------------------------------------------------- */

bool tls_shard_acquire(void)
{
    struct shard *s = shard_self();
    struct tls_shard *shared = tls_shard();

    if (shared == NULL) {
        shared = heap_try_map_secret(s->heap, sizeof *shared);
        if (shared == NULL)
            return false;
        slab_init_secret(&shared->sessions, s->heap, sizeof(struct tls), UINT32_MAX);
        s->slot[SLOT_TLS] = shared;
    }
    shared->references++;
    return true;
}

void tls_shard_release(void)
{
    struct shard *s = shard_self();
    struct tls_shard *shared = tls_shard();

    ASSERT(shared != NULL && shared->references > 0);
    if (--shared->references > 0)
        return;
    slab_fini(&shared->sessions);
    s->slot[SLOT_TLS] = NULL;
    heap_unmap_secret(s->heap, shared);
}

static struct tls *session_alloc(void)
{
    struct tls *t;

    if (!tls_shard_acquire())
        return NULL;
    t = slab_take(&tls_shard()->sessions);
    if (t == NULL)
        tls_shard_release();
    else
        t->error = "";
    return t;
}

static void handshake_free(struct tls_handshake *h)
{
    if (h == NULL)
        return;
    SSL_free(h->ssl); /* Its bytes are overwritten as they are freed. */
    OPENSSL_free(h->ticket);
    tls_context_release(h->context);
    heap_free(shard_self()->heap, h);
}

void tls_free(struct tls *t)
{
    if (t == NULL)
        return;
    handshake_free(t->handshake);
    tls_record_fini(&t->record);
    tls_output_fini(&t->partial);
    heap_free(shard_self()->heap, t->server_name);
    heap_free(shard_self()->heap, t->peer);
    slab_give(&tls_shard()->sessions, t);
    tls_shard_release();
}

/* ---- Handshakes ---------------------------------------------------------------------------------------- */

/* False: no memory; what is there goes with t. */
static bool handshake_begin(struct tls *t, struct tls_context *c, struct slice alpn)
{
    struct tls_handshake *h = heap_try_alloc(shard_self()->heap, sizeof *h);
    BIO *bio;

    if (h == NULL)
        return false;
    *h = (struct tls_handshake){.context = c, .alpn = alpn};
    c->references++;
    t->handshake = h;
    ERR_clear_error();
    h->ssl = SSL_new(c->pairs[0].ssl);
    bio = BIO_new(c->bio);
    if (h->ssl == NULL || bio == NULL || !SSL_set_app_data(h->ssl, t)) {
        ERR_clear_error();
        BIO_free(bio);
        return false;
    }
    BIO_set_data(bio, h);
    BIO_set_init(bio, 1);
    SSL_set_bio(h->ssl, bio, bio);
    if (c->asks_tickets)
        SSL_set_shed_handshake_config(h->ssl, 1); /* A quarter of a live session's memory. */
    return true;
}

static struct tls *session_new(struct tls_context *c, struct slice alpn)
{
    struct tls *t = session_alloc();

    if (t != NULL && !handshake_begin(t, c, alpn)) {
        tls_free(t);
        return NULL;
    }
    return t;
}

struct tls *tls_accept(struct tls_context *c, struct slice alpn)
{
    struct tls *t;

    ASSERT(c->server);
    t = session_new(c, alpn);
    if (t != NULL)
        SSL_set_accept_state(t->handshake->ssl);
    return t;
}

/* What the certificate must say, and what the server is asked for: an address is no server name (RFC 6066 3). */
static bool expect_name(SSL *ssl, struct slice name)
{
    char text[TLS_NAME_MAX + 1];

    if (name.size == 0)
        return true;
    if (name.size > TLS_NAME_MAX || slice_find(name, '\0') < name.size)
        return false;
    memcpy(text, name.data, name.size);
    text[name.size] = '\0';
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), text))
        return true;
    ERR_clear_error();
    return X509_VERIFY_PARAM_set1_host(SSL_get0_param(ssl), text, name.size) &&
           SSL_set_tlsext_host_name(ssl, text);
}

static bool offer_alpn(SSL *ssl, struct slice alpn)
{
    uint8_t list[256];

    if (alpn.size == 0)
        return true;
    if (alpn.size > 255)
        return false;
    list[0] = (uint8_t)alpn.size;
    memcpy(list + 1, alpn.data, alpn.size);
    return SSL_set_alpn_protos(ssl, list, (unsigned)alpn.size + 1) == 0; /* 0 is its success. */
}

struct tls *tls_connect(struct tls_context *c, struct slice name, struct slice alpn, struct slice ticket)
{
    struct tls *t;

    ASSERT(!c->server);
    t = session_new(c, alpn);
    if (t == NULL)
        return NULL;
    SSL_set_connect_state(t->handshake->ssl);
    if (!expect_name(t->handshake->ssl, name) || !offer_alpn(t->handshake->ssl, alpn)) {
        tls_free(t);
        return NULL;
    }
    if (ticket.size > 0) {
        SSL_SESSION *session =
            SSL_SESSION_from_bytes((const uint8_t *)ticket.data, ticket.size, c->pairs[0].ssl);

        if (session != NULL)
            SSL_set_session(t->handshake->ssl, session);
        SSL_SESSION_free(session);
    }
    ERR_clear_error();
    return t;
}

static enum tls_event failed(struct tls *t, const char *why)
{
    t->error = why;
    t->state = TLS_CLOSED;
    return TLS_FAILED;
}

static enum tls_event library_failed(struct tls *t)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    ERR_clear_error();
    return failed(t, reason != NULL ? reason : "TLS failed");
}

/* ---- The end of the handshake -------------------------------------------------------------------------- */

/* "LABEL random secret", in hexadecimal digits. Nothing of it is kept but the secret. */
void tls_on_secret(const SSL *ssl, const char *line)
{
    struct tls *t = tls_of(ssl);
    struct slice text = slice_str(line), label = slice_first(text, slice_find(text, ' '));
    struct tls_direction *d;
    uint8_t *secret;

    if (slice_eq(label, SLICE("CLIENT_TRAFFIC_SECRET_0")))
        d = SSL_is_server(ssl) ? &t->record.read : &t->record.write;
    else if (slice_eq(label, SLICE("SERVER_TRAFFIC_SECRET_0")))
        d = SSL_is_server(ssl) ? &t->record.write : &t->record.read;
    else
        return;
    text = slice_from(text, label.size + 1);
    text = slice_from(text, slice_find(text, ' ') + 1);
    ASSERT(text.size <= 2 * sizeof d->secret);
    secret = d->secret;
    for (size_t i = 0; i + 1 < text.size; i += 2)
        *secret++ = (uint8_t)(hex_value(text.data[i]) << 4 | hex_value(text.data[i + 1]));
}

/* TLS 1.2: keys and salts, the client's before the server's. */
static bool take_key_block(struct tls *t, const SSL *ssl)
{
    struct tls_record *r = &t->record;
    struct tls_direction *client = SSL_is_server(ssl) ? &r->read : &r->write;
    struct tls_direction *server = SSL_is_server(ssl) ? &r->write : &r->read;
    size_t key = r->suite->key_size, salt = r->suite->salt_size, size = 2 * (key + salt);
    uint8_t block[2 * TLS_SECRET_MAX];
    bool good = SSL_get_key_block_len(ssl) == size && SSL_generate_key_block(ssl, block, size);

    if (good) {
        memcpy(client->secret, block, key);
        memcpy(server->secret, block + key, key);
        memcpy(client->secret + key, block + 2 * key, salt);
        memcpy(server->secret + key, block + 2 * key + salt, salt);
    }
    bytes_wipe(block, sizeof block);
    return good;
}

static bool take_facts(struct tls *t, const SSL *ssl)
{
    struct heap *heap = shard_self()->heap;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    struct tls_identity identity;

    t->resumed = SSL_session_reused(ssl);
    if (name != NULL) {
        t->server_name = heap_try_alloc(heap, strlen(name) + 1);
        if (t->server_name == NULL)
            return false;
        memcpy(t->server_name, name, strlen(name) + 1);
    }
    if (tls_certificate_read(ssl, &identity)) {
        t->peer = heap_try_alloc(heap, sizeof identity);
        if (t->peer == NULL)
            return false;
        *t->peer = identity;
    }
    return true;
}

/* The library reads not a byte beyond the record that it needs, so nothing of the connection is left in it. */
static enum tls_event take_over(struct tls *t)
{
    struct tls_record *r = &t->record;
    SSL *ssl = t->handshake->ssl;

    /* A server's tickets wait for its first write: this is it. */
    if (SSL_is_server(ssl) && SSL_write(ssl, "", 0) < 0)
        return library_failed(t);
    r->suite = tls_suite_find(SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(ssl)));
    if (r->suite == NULL || r->suite->tls13 != (SSL_version(ssl) == TLS1_3_VERSION) || SSL_has_pending(ssl))
        return failed(t, "TLS cannot be taken over");
    if (!r->suite->tls13 && !take_key_block(t, ssl))
        return library_failed(t);
    if (!take_facts(t, ssl))
        return failed(t, "no memory");
    r->read.sequence = SSL_get_read_sequence(ssl);
    r->write.sequence = SSL_get_write_sequence(ssl);
    handshake_free(t->handshake);
    t->handshake = NULL;
    ERR_clear_error();
    t->state = TLS_OPEN;
    return TLS_SECURED;
}

/* What the library leaves on the stack, as deep as a handshake goes: keys are among it. */
#define STACK_LEFT 16384
__attribute__((noinline)) static void stack_wipe(size_t left)
{
    char below[1024];

    if (left > sizeof below)
        stack_wipe(left - sizeof below);
    bytes_wipe(below, sizeof below);
}

static enum tls_event shake(struct tls *t)
{
    SSL *ssl = t->handshake->ssl;
    int rc = SSL_do_handshake(ssl);

    stack_wipe(STACK_LEFT);

    if (rc != 1)
        return SSL_get_error(ssl, rc) == SSL_ERROR_WANT_READ ? TLS_WAIT : library_failed(t);
    if (!t->handshake->context->asks_tickets)
        return take_over(t);
    t->state = TLS_OPEN;
    return TLS_SECURED;
}

/* ---- While the library serves -------------------------------------------------------------------------- */

static enum tls_event library_read(struct tls *t, struct slice *plain_out)
{
    char *plain = tls_shard()->plain;
    int rc = SSL_read(t->handshake->ssl, plain, TLS_RECORD_MAX);

    if (rc > 0) {
        *plain_out = slice_of(plain, (size_t)rc);
        return TLS_DATA;
    }
    switch (SSL_get_error(t->handshake->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        return TLS_WAIT;
    case SSL_ERROR_ZERO_RETURN:
        return TLS_ENDED;
    default:
        return library_failed(t);
    }
}

static enum tls_event library_feed(struct tls *t, struct slice *in, struct slice *plain_out,
                                   struct tls_output *out)
{
    enum tls_event event;

    t->handshake->in = in;
    t->handshake->out = out;
    ERR_clear_error();
    event = t->state == TLS_HANDSHAKING ? shake(t) : library_read(t, plain_out);
    if (t->handshake != NULL) {
        t->handshake->in = NULL;
        t->handshake->out = NULL;
    }
    return event;
}

static void library_write(struct tls *t, struct slice plain, struct tls_output *out)
{
    struct slice nothing = SLICE("");

    t->handshake->in = &nothing;
    t->handshake->out = out;
    ERR_clear_error();
    if (plain.size == 0)
        SSL_shutdown(t->handshake->ssl);
    else if (SSL_write(t->handshake->ssl, plain.data, (int)plain.size) != (int)plain.size)
        library_failed(t);
    ERR_clear_error();
    t->handshake->in = NULL;
    t->handshake->out = NULL;
}

/* ---- Records ------------------------------------------------------------------------------------------- */

/* The record that begins *in, where it lies, if all of it is there: it mostly is. */
static enum tls_event record_in_place(struct tls *t, struct slice *in, struct slice *record_out,
                                      struct tls_output *out)
{
    size_t size;

    if (in->size < TLS_HEADER_SIZE)
        return TLS_WAIT;
    size = tls_record_size(&t->record, in->data, &t->error, out);
    if (size == 0)
        return TLS_FAILED;
    if (in->size < size)
        return TLS_WAIT;
    *record_out = slice_first(*in, size);
    *in = slice_from(*in, size);
    return TLS_DATA;
}

/* TLS_DATA: one whole record, off the front of *in; TLS_WAIT: *in is taken, and a part of one is in t->partial. */
static enum tls_event record_gather(struct tls *t, struct slice *in, struct slice *record_out,
                                    struct tls_output *out)
{
    struct tls_output *p = &t->partial;

    if (p->size == 0) {
        enum tls_event event = record_in_place(t, in, record_out, out);

        if (event != TLS_WAIT)
            return event;
    }
    for (;;) {
        size_t want = TLS_HEADER_SIZE, take;

        if (p->size >= TLS_HEADER_SIZE) {
            want = tls_record_size(&t->record, p->data, &t->error, out);
            if (want == 0)
                return TLS_FAILED;
            if (p->size == want)
                break;
        }
        take = MIN(want - p->size, in->size);
        if (take == 0)
            return TLS_WAIT;
        tls_output_append(p, slice_first(*in, take));
        *in = slice_from(*in, take);
    }
    *record_out = slice_of(p->data, p->size);
    return TLS_DATA;
}

static enum tls_event record_feed(struct tls *t, struct slice *in, struct slice *plain_out,
                                  struct tls_output *out)
{
    enum tls_event event = TLS_WAIT;

    while (event == TLS_WAIT) {
        struct slice record;

        event = record_gather(t, in, &record, out);
        if (event == TLS_WAIT)
            break;
        if (event == TLS_DATA) {
            event = tls_record_open(&t->record, record, plain_out, &t->error, out);
            tls_output_fini(&t->partial);
        }
    }
    if (event == TLS_FAILED)
        t->state = TLS_CLOSED;
    return event;
}

/* ---- The interface ------------------------------------------------------------------------------------- */

enum tls_event tls_feed(struct tls *t, struct slice *in, struct slice *plain_out, struct tls_output *out)
{
    enum tls_event event;

    if (t->state == TLS_CLOSED && t->error[0] != '\0')
        return TLS_FAILED;
    if (t->peer_ended)
        return TLS_ENDED;
    event = t->handshake != NULL ? library_feed(t, in, plain_out, out) : record_feed(t, in, plain_out, out);
    t->peer_ended = event == TLS_ENDED;
    return event;
}

void tls_seal(struct tls *t, struct slice plain, struct tls_output *out)
{
    ASSERT(plain.size > 0 && plain.size <= TLS_RECORD_MAX);
    if (t->state != TLS_OPEN)
        return;
    if (t->handshake != NULL)
        library_write(t, plain, out);
    else if (!tls_record_seal(&t->record, plain, out))
        failed(t, "TLS 1.2 key is worn out");
}

void tls_close_notify(struct tls *t, struct tls_output *out)
{
    if (t->state != TLS_OPEN)
        return;
    t->state = TLS_CLOSED;
    if (t->handshake != NULL)
        library_write(t, slice_of(NULL, 0), out);
    else
        tls_record_alert(&t->record, false, 0, out);
}

size_t tls_held(const struct tls *t)
{
    return t->partial.capacity;
}

enum tls_state tls_state(const struct tls *t)
{
    return t->state;
}

size_t tls_pack_part(struct tls *t, void *out, char *part, size_t part_max, size_t *part_size_out)
{
    const struct tls_output *p = &t->partial;
    size_t size;

    if (t->state != TLS_OPEN || t->handshake != NULL || t->peer_ended || p->size > part_max ||
        !tls_record_rests(&t->record))
        return 0;
    *part_size_out = p->size;
    if (p->size > 0)
        memcpy(part, p->data, p->size);
    size = tls_record_pack(&t->record, t->resumed, out);
    tls_free(t);
    return size;
}

size_t tls_pack(struct tls *t, void *out)
{
    size_t none;

    return tls_pack_part(t, out, NULL, 0, &none);
}

struct tls *tls_unpack(const void *in, size_t size)
{
    struct tls *t = session_alloc();

    if (t != NULL && !tls_record_unpack(&t->record, &t->resumed, in, size)) {
        tls_free(t);
        return NULL;
    }
    if (t != NULL)
        t->state = TLS_OPEN;
    return t;
}

size_t tls_packed_next(const void *in, size_t size, void *out, size_t *overhead_out)
{
    struct tls_record r;
    bool flag, good = tls_record_unpack(&r, &flag, in, size) && tls_record_steady(&r);

    if (good) {
        *overhead_out = tls_record_overhead(&r);
        r.write.sequence++;
    }
    size = good ? tls_record_pack(&r, flag, out) : 0;
    bytes_wipe(&r, sizeof r);
    return size;
}

void tls_packed_seal(const void *in, size_t size, struct slice plain, struct tls_output *out)
{
    struct tls_record r;
    bool flag, good = tls_record_unpack(&r, &flag, in, size);

    ASSERT(good && tls_record_steady(&r));
    tls_record_put(&r, TLS_APPLICATION_DATA, plain, out);
    tls_record_fini(&r);
    bytes_wipe(&r, sizeof r);
}

/* ---- What is known of a session ------------------------------------------------------------------------ */

const char *tls_version(const struct tls *t)
{
    if (t->handshake != NULL)
        return SSL_get_version(t->handshake->ssl);
    return t->record.suite->tls13 ? "TLSv1.3" : "TLSv1.2";
}

const char *tls_cipher(const struct tls *t)
{
    const SSL_CIPHER *cipher;

    if (t->handshake == NULL)
        return t->record.suite->name;
    cipher = SSL_get_current_cipher(t->handshake->ssl);
    return cipher != NULL ? SSL_CIPHER_standard_name(cipher) : "";
}

bool tls_resumed(const struct tls *t)
{
    return t->handshake != NULL ? SSL_session_reused(t->handshake->ssl) : t->resumed;
}

struct slice tls_server_name(const struct tls *t)
{
    return slice_str(t->server_name != NULL ? t->server_name : "");
}

bool tls_peer(const struct tls *t, struct tls_identity *identity_out)
{
    if (t->peer == NULL)
        return false;
    *identity_out = *t->peer;
    return true;
}

const char *tls_error(const struct tls *t)
{
    return t->error;
}

struct slice tls_ticket(const struct tls *t)
{
    return t->handshake != NULL ? slice_of(t->handshake->ticket, t->handshake->ticket_size)
                                : slice_of(NULL, 0);
}
