/* net/tls_boring.h -- what the two files of the BoringSSL half share. Private to them. */
#pragma once
#include "net/tls_record.h"
#include <openssl/ssl.h>

struct tls_context {
    uint32_t references; /* The creator's, and one a session. */
    bool server;
    bool asks_tickets; /* Of a client: they come behind the handshake, for the library's eyes. */
    BIO_METHOD *bio;   /* Moves bytes between SSL and the call that is under way. */
    unsigned pair_count;
    struct tls_named {
        char name[TLS_NAME_MAX + 1];
        SSL_CTX *ssl;
    } * pairs;
    struct tls_ticket_keys ticket_keys; /* Of a server of clients. */
};

/* A session while the library serves it: to the end of the handshake, or to its own end if it asks for tickets. */
struct tls_handshake {
    struct tls_context *context;
    SSL *ssl;
    struct slice alpn;
    struct slice *in;       /* During a call. */
    struct tls_output *out; /* During a call. */
    uint8_t *ticket;        /* A client's; the library's memory. */
    size_t ticket_size;
};

struct tls {       /* In the shard's secret slab. */
    uint8_t state; /* enum tls_state */
    bool resumed, peer_ended;
    const char *error;
    struct tls_handshake *handshake; /* NULL: `record` serves. */
    struct tls_record record;        /* Its secrets come during the handshake. */
    struct tls_output partial;       /* Of the record that is arriving. */
    char *server_name;               /* NULL: none. */
    struct tls_identity *peer;       /* NULL: none, or not between nodes. */
};

/* What the shard's sessions share is there from the first context or session to the last. False: no memory. */
MUST_CHECK bool tls_shard_acquire(void);
void tls_shard_release(void);

/* TLS 1.3: the library tells the secrets of the connection. */
void tls_on_secret(const SSL *ssl, const char *line);
/* Who shows the certificate, as tls_peer(). */
bool tls_certificate_read(const SSL *ssl, struct tls_identity *identity_out);

/* The index of SSL's application data: BoringSSL keeps 0 for SSL_set_app_data(). */
static inline struct tls *tls_of(const SSL *ssl)
{
    return SSL_get_app_data(ssl);
}
