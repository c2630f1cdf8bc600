/* bench/client.h -- connections of a load generator: one thread, epoll, plain text or TLS, and an IMAP or
 * LMTP reader that knows where an answer ends.
 * Owner:  one program, one loop.
 * Memory: malloc; a client keeps its buffers for its life.
 * Bounds: a client has one request in flight; its input buffer grows to the longest line only, since literals
 *         are skipped as they pass. */
#pragma once
#include "core/base.h"
#include <netinet/in.h>
#include <openssl/ssl.h>

struct client;

struct loop {
    int epoll;
    SSL_CTX *tls;         /* NULL: plain text. */
    SSL_SESSION *session; /* Newest ticket seen on any connection; for --resume. */
    bool resume;
    bool own_sessions; /* Each client resumes its own session, not the newest of all. */
    uint64_t resumed, handshakes;
    struct sockaddr_in server; /* Of new connections. */
};

enum client_event {
    CLIENT_CONNECTED, /* TLS included. */
    CLIENT_LINE,      /* client->line is one line of the answer, without CRLF and without its literals. */
    CLIENT_LITERAL,   /* Some of a literal has passed: client->line. */
    CLIENT_CLOSED,    /* The server closed, or an error (client->error is errno, 0 for a clean end). */
};

struct client {
    struct loop *loop;
    int fd;
    SSL *ssl;
    SSL_SESSION *session; /* Its own: loop.own_sessions. Kept over client_close() and client_free(). */
    bool connected, want_write;
    bool stalled; /* client_stall() */
    int error;
    char *in, *out;
    size_t in_size, in_capacity, out_size, out_at, out_capacity;
    uint64_t literal; /* Bytes of a literal still to be skipped. */
    uint64_t bytes_in;
    int receive_size; /* SO_RCVBUF of the next client_connect(); 0: the kernel's own. */
    struct slice line;
    void (*event)(struct client *c, enum client_event event);
    void *owner;
};

void loop_init(struct loop *l, const char *host, unsigned port, bool tls, bool resume);
/* Delivers events for at most timeout_ms. */
void loop_run(struct loop *l, int timeout_ms);

void client_connect(struct client *c, struct loop *l, void (*event)(struct client *, enum client_event),
                    void *owner);
void client_write(struct client *c, const void *data, size_t size); /* Queued; leaves at client_flush(). */
void client_printf(struct client *c, const char *format, ...) PRINTF_LIKE(2, 3);
void client_flush(struct client *c);
/* Its buffers go, if they are empty; what comes makes new ones. */
void client_rest(struct client *c);
/* Reads no more. The connection stays. */
void client_stall(struct client *c);
/* No event follows. Buffers stay for the next client_connect(). */
void client_close(struct client *c);
void client_free(struct client *c);
