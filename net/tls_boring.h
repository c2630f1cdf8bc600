/* net/tls_boring.h -- what the two files of the BoringSSL half share. Private to them. */
#pragma once
#include "net/tls.h"
#include <openssl/ssl.h>

struct tls_context {
    uint32_t references; /* The creator's, and one a session. */
    bool server, has_previous;
    BIO_METHOD *bio; /* Moves bytes between SSL and the call that is under way. */
    unsigned pair_count;
    struct tls_named {
        char name[TLS_NAME_MAX + 1];
        SSL_CTX *ssl;
    } * pairs;
    uint8_t ticket_key[TLS_TICKET_KEY_SIZE], ticket_key_previous[TLS_TICKET_KEY_SIZE];
    char plain[TLS_RECORD_MAX]; /* Of the last call. */
};

struct tls {
    struct tls_context *context;
    SSL *ssl;
    uint8_t state; /* enum tls_state */
    bool peer_ended;
    struct slice alpn;
    struct slice *in;       /* During a call. */
    struct tls_output *out; /* During a call. */
    const char *error;
    uint8_t *ticket; /* A client's; SSL's memory. */
    size_t ticket_size;
};

/* The index of SSL's application data: BoringSSL keeps 0 for SSL_set_app_data(). */
static inline struct tls *tls_of(const SSL *ssl)
{
    return SSL_get_app_data(ssl);
}
