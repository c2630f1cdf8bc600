/* Sessions. Everything is a call of BoringSSL between two memory buffers. */
#include "net/tls_boring.h"
#include "core/shard.h"
#include <openssl/err.h>
#include <openssl/x509v3.h>

static struct tls *session_new(struct tls_context *c, struct slice alpn)
{
    struct tls *t = heap_try_alloc(shard_self()->heap, sizeof *t);
    BIO *bio;

    if (t == NULL)
        return NULL;
    *t = (struct tls){.context = c, .state = TLS_HANDSHAKING, .alpn = alpn, .error = ""};
    ERR_clear_error();
    t->ssl = SSL_new(c->pairs[0].ssl);
    bio = BIO_new(c->bio);
    if (t->ssl == NULL || bio == NULL || !SSL_set_app_data(t->ssl, t)) {
        ERR_clear_error();
        BIO_free(bio);
        SSL_free(t->ssl);
        heap_free(shard_self()->heap, t);
        return NULL;
    }
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
    SSL_set_shed_handshake_config(t->ssl, 1); /* A quarter of a live session's memory. */
    c->references++;
    return t;
}

struct tls *tls_accept(struct tls_context *c, struct slice alpn)
{
    struct tls *t;

    ASSERT(c->server);
    t = session_new(c, alpn);
    if (t != NULL)
        SSL_set_accept_state(t->ssl);
    return t;
}

/* What the certificate must say, and what the server is asked for: an address is no server name (RFC 6066 3).
 */
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
    SSL_set_connect_state(t->ssl);
    if (!expect_name(t->ssl, name) || !offer_alpn(t->ssl, alpn)) {
        tls_free(t);
        return NULL;
    }
    if (ticket.size > 0) {
        SSL_SESSION *session =
            SSL_SESSION_from_bytes((const uint8_t *)ticket.data, ticket.size, c->pairs[0].ssl);

        if (session != NULL)
            SSL_set_session(t->ssl, session);
        SSL_SESSION_free(session);
    }
    ERR_clear_error();
    return t;
}

void tls_free(struct tls *t)
{
    if (t == NULL)
        return;
    SSL_free(t->ssl); /* Its bytes are overwritten as they are freed. */
    OPENSSL_free(t->ticket);
    tls_context_release(t->context);
    heap_free(shard_self()->heap, t);
}

/* A session of the library cannot be packed: none is ever at rest. */
size_t tls_pack(struct tls *t, void *out)
{
    return 0;
}

struct tls *tls_unpack(const void *in, size_t size)
{
    return NULL;
}

static enum tls_event failed(struct tls *t)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    t->error = reason != NULL ? reason : "TLS failed";
    t->state = TLS_CLOSED;
    ERR_clear_error();
    return TLS_FAILED;
}

static enum tls_event shake(struct tls *t)
{
    int rc = SSL_do_handshake(t->ssl);

    if (rc == 1) {
        t->state = TLS_OPEN;
        return TLS_SECURED;
    }
    return SSL_get_error(t->ssl, rc) == SSL_ERROR_WANT_READ ? TLS_WAIT : failed(t);
}

static enum tls_event read_record(struct tls *t, struct slice *plain_out)
{
    int rc = SSL_read(t->ssl, t->context->plain, sizeof t->context->plain);

    if (rc > 0) {
        *plain_out = slice_of(t->context->plain, (size_t)rc);
        return TLS_DATA;
    }
    switch (SSL_get_error(t->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        return TLS_WAIT;
    case SSL_ERROR_ZERO_RETURN:
        t->peer_ended = true;
        return TLS_ENDED;
    default:
        return failed(t);
    }
}

enum tls_event tls_feed(struct tls *t, struct slice *in, struct slice *plain_out, struct tls_output *out)
{
    enum tls_event event;

    if (t->state == TLS_CLOSED && t->error[0] != '\0')
        return TLS_FAILED;
    if (t->peer_ended)
        return TLS_ENDED;
    t->in = in;
    t->out = out;
    ERR_clear_error();
    event = t->state == TLS_HANDSHAKING ? shake(t) : read_record(t, plain_out);
    t->in = NULL;
    t->out = NULL;
    return event;
}

void tls_seal(struct tls *t, struct slice plain, struct tls_output *out)
{
    struct slice nothing = SLICE("");

    ASSERT(plain.size > 0 && plain.size <= TLS_RECORD_MAX);
    if (t->state != TLS_OPEN)
        return;
    t->in = &nothing;
    t->out = out;
    ERR_clear_error();
    if (SSL_write(t->ssl, plain.data, (int)plain.size) != (int)plain.size)
        failed(t);
    t->in = NULL;
    t->out = NULL;
}

void tls_close_notify(struct tls *t, struct tls_output *out)
{
    struct slice nothing = SLICE("");

    if (t->state != TLS_OPEN)
        return;
    t->state = TLS_CLOSED;
    t->in = &nothing;
    t->out = out;
    ERR_clear_error();
    SSL_shutdown(t->ssl);
    ERR_clear_error();
    t->in = NULL;
    t->out = NULL;
}

enum tls_state tls_state(const struct tls *t)
{
    return t->state;
}

const char *tls_version(const struct tls *t)
{
    return SSL_get_version(t->ssl);
}

const char *tls_cipher(const struct tls *t)
{
    const SSL_CIPHER *cipher = SSL_get_current_cipher(t->ssl);

    return cipher != NULL ? SSL_CIPHER_standard_name(cipher) : "";
}

bool tls_resumed(const struct tls *t)
{
    return SSL_session_reused(t->ssl);
}

struct slice tls_server_name(const struct tls *t)
{
    const char *name = SSL_get_servername(t->ssl, TLSEXT_NAMETYPE_host_name);

    return slice_str(name != NULL ? name : "");
}

const char *tls_error(const struct tls *t)
{
    return t->error;
}

struct slice tls_ticket(const struct tls *t)
{
    return slice_of(t->ticket, t->ticket_size);
}
