/* Contexts: certificates, names, tickets, protocols. */
#include "core/fiber.h"
#include "core/io.h"
#include "core/shard.h"
#include "net/tls_boring.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <stdio.h>

/* TLS 1.2 with forward secrecy and an AEAD, the smallest keys first. (TLS 1.3's three suites cannot be
 * ordered: the client's first choice among AES-GCM is taken.) */
#define CIPHERS_TLS12                                                                                        \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"               \
    "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"

/* ---- Errors -------------------------------------------------------------------------------------------- */

static int fail(char error[TLS_ERROR_MAX], struct slice name, const char *what)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    snprintf(error, TLS_ERROR_MAX, "%.*s%s%s%s%s", (int)MIN(name.size, 100), name.size > 0 ? name.data : "",
             name.size > 0 ? ": " : "", what, reason != NULL ? ": " : "", reason != NULL ? reason : "");
    ERR_clear_error();
    return -EINVAL;
}

/* ---- PEM ----------------------------------------------------------------------------------------------- */

static int no_password(char *buffer, int size, int writing, void *arg)
{
    return 0;
}

static bool use_certificates(SSL_CTX *ssl, BIO *pem)
{
    X509 *x = PEM_read_bio_X509(pem, NULL, no_password, NULL);
    bool good = x != NULL && SSL_CTX_use_certificate(ssl, x);

    X509_free(x);
    while (good && (x = PEM_read_bio_X509(pem, NULL, no_password, NULL)) != NULL) {
        good = SSL_CTX_add1_chain_cert(ssl, x);
        X509_free(x);
    }
    if (good)
        ERR_clear_error(); /* The end of the file is an error to it. */
    return good;
}

static bool use_key(SSL_CTX *ssl, BIO *pem)
{
    EVP_PKEY *key = PEM_read_bio_PrivateKey(pem, NULL, no_password, NULL);
    bool good = key != NULL && SSL_CTX_use_PrivateKey(ssl, key);

    EVP_PKEY_free(key);
    return good;
}

static bool with_pem(SSL_CTX *ssl, struct slice text, bool (*use)(SSL_CTX *ssl, BIO *pem))
{
    BIO *pem = text.size > 0 && text.size < INT32_MAX ? BIO_new_mem_buf(text.data, (int)text.size) : NULL;
    bool good = pem != NULL && use(ssl, pem);

    BIO_free(pem);
    return good;
}

static bool use_authorities(SSL_CTX *ssl, BIO *pem)
{
    unsigned count = 0;
    bool good = true;
    X509 *x;

    while (good && (x = PEM_read_bio_X509(pem, NULL, no_password, NULL)) != NULL) {
        good = X509_STORE_add_cert(SSL_CTX_get_cert_store(ssl), x);
        X509_free(x);
        count++;
    }
    if (good)
        ERR_clear_error();
    return good && count > 0;
}

/* ---- Tickets ------------------------------------------------------------------------------------------- */

static bool ticket_key_use(const uint8_t key[TLS_TICKET_KEY_SIZE], const uint8_t *iv, EVP_CIPHER_CTX *cipher,
                           HMAC_CTX *mac, int encrypt)
{
    return HMAC_Init_ex(mac, key + 16, 16, EVP_sha256(), NULL) &&
           EVP_CipherInit_ex(cipher, EVP_aes_128_cbc(), NULL, key + 32, iv, encrypt);
}

/* RFC 5077 4: the name says which key. 1: use it; 2: use it, and give the client a new ticket; 0: none. */
static int on_ticket_key(SSL *ssl, uint8_t *name, uint8_t *iv, EVP_CIPHER_CTX *cipher, HMAC_CTX *mac,
                         int encrypt)
{
    const struct tls_ticket_keys *keys = &tls_of(ssl)->handshake->context->ticket_keys;

    if (encrypt) {
        memcpy(name, keys->keys[0], 16);
        random_bytes(iv, 16);
        return ticket_key_use(keys->keys[0], iv, cipher, mac, 1) ? 1 : -1;
    }
    for (unsigned i = 0; i < keys->count; i++) {
        if (memcmp(name, keys->keys[i], 16) == 0)
            return !ticket_key_use(keys->keys[i], iv, cipher, mac, 0) ? -1 : i == 0 ? 1 : 2;
    }
    return 0;
}

void tls_context_set_ticket_keys(struct tls_context *c, const struct tls_ticket_keys *keys)
{
    ASSERT(keys->count > 0);
    c->ticket_keys = *keys;
}

/* TLS 1.2 sends tickets in the clear and keeps a session's secrets as long as their key: none. */
static int on_version(SSL *ssl, void *arg)
{
    if (SSL_version(ssl) < TLS1_3_VERSION)
        SSL_set_options(ssl, SSL_OP_NO_TICKET);
    return 1;
}

/* A client's: keeps the newest. */
static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls_handshake *t = tls_of(ssl)->handshake;
    uint8_t *bytes;
    size_t size;

    if (!SSL_SESSION_to_bytes(session, &bytes, &size)) {
        ERR_clear_error();
        return 0;
    }
    if (size > TLS_TICKET_MAX) {
        OPENSSL_free(bytes);
        return 0;
    }
    OPENSSL_free(t->ticket);
    t->ticket = bytes;
    t->ticket_size = size;
    return 0;
}

/* ---- Names and protocols ------------------------------------------------------------------------------- */

/* "*.example.org" stands for one label (RFC 6125 6.4.3). */
static bool name_matches(struct slice pattern, struct slice name)
{
    if (!slice_starts_nocase(pattern, SLICE("*.")))
        return slice_eq_nocase(pattern, name);
    return slice_eq_nocase(slice_from(pattern, 1), slice_from(name, slice_find(name, '.')));
}

static int on_server_name(SSL *ssl, int *alert, void *arg)
{
    struct tls_context *c = tls_of(ssl)->handshake->context;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

    for (unsigned i = 0; name != NULL && i < c->pair_count; i++) {
        if (c->pairs[i].name[0] != '\0' && name_matches(slice_str(c->pairs[i].name), slice_str(name))) {
            SSL_set_SSL_CTX(ssl, c->pairs[i].ssl);
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_NOACK; /* The default certificate: old clients name nothing, or an address. */
}

static int on_alpn(SSL *ssl, const uint8_t **out, uint8_t *out_size, const uint8_t *in, unsigned in_size,
                   void *arg)
{
    struct slice ours = tls_of(ssl)->handshake->alpn;

    for (unsigned at = 0; at < in_size;
         at += 1u + in[at]) { /* The list is well-formed: the library saw to it. */
        if (slice_eq(slice_of(in + at + 1, in[at]), ours)) {
            *out = in + at + 1;
            *out_size = in[at];
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* ---- Creation ------------------------------------------------------------------------------------------ */

static bool common_settings(SSL_CTX *ssl)
{
    SSL_CTX_set_keylog_callback(ssl, tls_on_secret);
    return SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION) &&
           SSL_CTX_set_max_proto_version(ssl, TLS1_3_VERSION) &&
           SSL_CTX_set_strict_cipher_list(ssl, CIPHERS_TLS12);
}

bool tls_pair_check(const struct tls_pair *pair, bool *of_key, char error[TLS_ERROR_MAX])
{
    SSL_CTX *ssl = SSL_CTX_new(TLS_method());
    const char *what = NULL;

    ERR_clear_error();
    *of_key = false;
    if (ssl == NULL) {
        what = "TLS cannot be set up";
    } else if (!with_pem(ssl, pair->cert, use_certificates)) {
        what = "not a certificate in PEM";
    } else if (!with_pem(ssl, pair->key, use_key) || !SSL_CTX_check_private_key(ssl)) {
        what = "not the certificate's private key in PEM";
        *of_key = true;
    }
    if (what != NULL)
        (void)fail(error, slice_of(NULL, 0), what);
    SSL_CTX_free(ssl);
    return what == NULL;
}

static SSL_CTX *server_ssl(const struct tls_pair *pair, char error[TLS_ERROR_MAX])
{
    SSL_CTX *ssl = SSL_CTX_new(TLS_method());
    const char *what = NULL;

    if (ssl == NULL || !common_settings(ssl))
        what = "TLS cannot be set up";
    else if (!with_pem(ssl, pair->cert, use_certificates))
        what = "not a certificate in PEM";
    else if (!with_pem(ssl, pair->key, use_key) || !SSL_CTX_check_private_key(ssl))
        what = "not the certificate's private key in PEM";
    if (what != NULL) {
        fail(error, pair->name, what);
        SSL_CTX_free(ssl);
        return NULL;
    }
    SSL_CTX_set_options(ssl, SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_cert_cb(ssl, on_version, NULL);
    SSL_CTX_set_tlsext_ticket_key_cb(ssl, on_ticket_key);
    SSL_CTX_set_tlsext_servername_callback(ssl, on_server_name);
    SSL_CTX_set_alpn_select_cb(ssl, on_alpn, NULL);
    return ssl;
}

static int bio_read(BIO *bio, char *out, int size)
{
    struct tls_handshake *t = BIO_get_data(bio);
    size_t take = MIN(t->in->size, (size_t)MAX(size, 0));

    BIO_clear_retry_flags(bio);
    if (take == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(out, t->in->data, take);
    *t->in = slice_from(*t->in, take);
    return (int)take;
}

static int bio_write(BIO *bio, const char *in, int size)
{
    struct tls_handshake *t = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    tls_output_append(t->out, slice_of(in, (size_t)MAX(size, 0)));
    return size;
}

static long bio_control(BIO *bio, int command, long number, void *arg)
{
    return command == BIO_CTRL_FLUSH;
}

/* NULL: no memory. */
static struct tls_context *context_new(unsigned count, char error[TLS_ERROR_MAX])
{
    struct heap *h = shard_self()->heap;
    struct tls_context *c;

    if (!tls_shard_acquire()) {
        snprintf(error, TLS_ERROR_MAX, "no memory for TLS");
        return NULL;
    }
    c = heap_try_map_secret(h, sizeof *c); /* Keys of tickets are in it. */
    if (c == NULL) {
        tls_shard_release();
        snprintf(error, TLS_ERROR_MAX, "no memory for TLS");
        return NULL;
    }
    c->references = 1;
    c->pairs = heap_zalloc(h, count * sizeof *c->pairs);
    c->bio = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "trireme");
    ASSERT(c->bio != NULL);
    BIO_meth_set_read(c->bio, bio_read);
    BIO_meth_set_write(c->bio, bio_write);
    BIO_meth_set_ctrl(c->bio, bio_control);
    return c;
}

static int64_t certificate_expiry(X509 *cert)
{
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    int days, seconds;
    bool good = epoch != NULL && ASN1_TIME_diff(&days, &seconds, epoch, X509_get0_notAfter(cert));

    ASN1_TIME_free(epoch);
    return good ? days * INT64_C(86400) + seconds : 0;
}

int64_t tls_context_expiry(const struct tls_context *c)
{
    int64_t first = 0;

    for (unsigned i = 0; i < c->pair_count; i++) {
        X509 *cert = SSL_CTX_get0_certificate(c->pairs[i].ssl);
        int64_t at = cert != NULL ? certificate_expiry(cert) : 0;

        if (at > 0 && (first == 0 || at < first))
            first = at;
    }
    return first;
}

void tls_context_release(struct tls_context *c)
{
    struct heap *h = shard_self()->heap;

    if (c == NULL || --c->references > 0)
        return;
    for (unsigned i = 0; i < c->pair_count; i++)
        SSL_CTX_free(c->pairs[i].ssl);
    BIO_meth_free(c->bio);
    heap_free(h, c->pairs);
    heap_unmap_secret(h, c);
    tls_shard_release();
}

struct creation { /* Arguments of a call that needs a deep stack. */
    const struct tls_pair *pairs;
    unsigned count;
    struct slice ca;
    struct tls_context *context;
    char *error;
    int result;
};

static void create_server(void *arg)
{
    struct creation *call = arg;
    struct tls_context *c = call->context;

    ERR_clear_error();
    for (unsigned i = 0; i < call->count; i++) {
        const struct tls_pair *pair = &call->pairs[i];
        SSL_CTX *ssl = NULL;

        if (pair->name.size > TLS_NAME_MAX || slice_find(pair->name, '\0') < pair->name.size)
            fail(call->error, pair->name, "not a host name");
        else
            ssl = server_ssl(pair, call->error);
        if (ssl == NULL) {
            call->result = -EINVAL;
            return;
        }
        memcpy(c->pairs[i].name, pair->name.size > 0 ? pair->name.data : "", pair->name.size);
        c->pairs[i].ssl = ssl;
        c->pair_count++;
    }
}

static int created(const struct creation *call, struct tls_context **context_out)
{
    if (call->result < 0)
        tls_context_release(call->context);
    else
        *context_out = call->context;
    return call->result;
}

int tls_context_create(const struct tls_pair *pairs, unsigned count,
                       const struct tls_ticket_keys *ticket_keys, struct tls_context **context_out,
                       char error[TLS_ERROR_MAX])
{
    struct creation call = {.pairs = pairs, .count = count, .error = error};

    ASSERT(count > 0);
    call.context = context_new(count, error);
    if (call.context == NULL)
        return -ENOMEM;
    call.context->server = true;
    tls_context_set_ticket_keys(call.context, ticket_keys);
    core_call(create_server, &call);
    return created(&call, context_out);
}

static void create_client(void *arg)
{
    struct creation *call = arg;
    SSL_CTX *ssl = SSL_CTX_new(TLS_method());

    ERR_clear_error();
    if (ssl == NULL || !common_settings(ssl)) {
        call->result = fail(call->error, SLICE(""), "TLS cannot be set up");
    } else if (call->ca.size > 0 && !with_pem(ssl, call->ca, use_authorities)) {
        call->result = fail(call->error, SLICE(""), "no certificate of an authority in PEM");
    } else {
        SSL_CTX_set_verify(ssl, call->ca.size > 0 ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
        SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(ssl, on_new_session);
        call->context->asks_tickets = true;
        call->context->pairs[0].ssl = ssl;
        call->context->pair_count = 1;
        return;
    }
    SSL_CTX_free(ssl);
}

int tls_context_create_client(struct slice ca, struct tls_context **context_out, char error[TLS_ERROR_MAX])
{
    struct creation call = {.ca = ca, .error = error};

    call.context = context_new(1, error);
    if (call.context == NULL)
        return -ENOMEM;
    core_call(create_client, &call);
    return created(&call, context_out);
}

/* ---- Between nodes ------------------------------------------------------------------------------------- */

static void create_node(void *arg)
{
    struct creation *call = arg;
    SSL_CTX *ssl = SSL_CTX_new(TLS_method());
    const char *what = NULL;

    ERR_clear_error();
    if (ssl == NULL || !common_settings(ssl))
        what = "TLS cannot be set up";
    else if (!with_pem(ssl, call->pairs->cert, use_certificates))
        what = "not a certificate in PEM";
    else if (!with_pem(ssl, call->pairs->key, use_key) || !SSL_CTX_check_private_key(ssl))
        what = "not the certificate's private key in PEM";
    else if (!with_pem(ssl, call->ca, use_authorities))
        what = "no certificate of an authority in PEM";
    if (what != NULL) {
        call->result = fail(call->error, call->pairs->name, what);
        SSL_CTX_free(ssl);
        return;
    }
    SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    if (call->context->server)
        SSL_CTX_set_alpn_select_cb(ssl, on_alpn, NULL);
    call->context->pairs[0].ssl = ssl;
    call->context->pair_count = 1;
}

int tls_context_create_node(const struct tls_pair *pair, struct slice ca, bool server,
                            struct tls_context **context_out, char error[TLS_ERROR_MAX])
{
    struct creation call = {.pairs = pair, .count = 1, .ca = ca, .error = error};

    call.context = context_new(1, error);
    if (call.context == NULL)
        return -ENOMEM;
    call.context->server = server;
    core_call(create_node, &call);
    return created(&call, context_out);
}

/* Text of a part of the subject. False: it is too long, or has a NUL in it. */
static bool subject_text(const X509_NAME *subject, int at, char *out, size_t size_max)
{
    uint8_t *text;
    int size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    bool good = size > 0 && (size_t)size <= size_max && memchr(text, '\0', (size_t)size) == NULL;

    if (good) {
        memcpy(out, text, (size_t)size);
        out[size] = '\0';
    }
    if (size >= 0)
        OPENSSL_free(text);
    return good;
}

static bool subject_read(const X509_NAME *subject, struct tls_identity *out)
{
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);

    out->unit_count = 0;
    if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0 ||
        !subject_text(subject, at, out->name, TLS_NAME_MAX))
        return false;
    for (at = -1; (at = X509_NAME_get_index_by_NID(subject, NID_organizationalUnitName, at)) >= 0;) {
        if (out->unit_count == TLS_UNITS_MAX ||
            !subject_text(subject, at, out->units[out->unit_count], TLS_UNIT_MAX))
            return false;
        out->unit_count++;
    }
    return true;
}

bool tls_certificate_read(const SSL *ssl, struct tls_identity *identity_out)
{
    X509 *x = SSL_get_peer_certificate(ssl);
    bool good = x != NULL && subject_read(X509_get_subject_name(x), identity_out);

    X509_free(x);
    ERR_clear_error();
    return good;
}
