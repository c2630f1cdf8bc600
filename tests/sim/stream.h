/* tests/sim/stream.h -- a connection as a virtual client uses it: a fiber that connects, sends, and waits for
 * lines. Owner:  one fiber, embedded. Memory: the shard's heap; bounded by STREAM_SIZE_MAX. Errors: -errno of
 * the door; -ETIMEDOUT after the time given; -EMSGSIZE; -ECONNRESET also for an orderly end. */
#pragma once
#include "core/fiber.h"
#include "core/io.h"
#include "core/shard.h"

#define STREAM_SIZE_MAX (4 * 1024 * 1024)

struct stream {
    struct sock sock;
    struct io_op recv, send;
    struct timer timer;
    struct fiber *fiber;
    struct io_op *waiting;
    bool timed_out;
    char *data; /* Received: [at, size). */
    size_t at, size, capacity;
    uint32_t timeout_ms;
};

/* A stream that is not connected. */
void stream_init(struct stream *s, uint32_t timeout_ms);
MUST_CHECK int stream_connect(struct stream *s, const struct net_addr *to);
MUST_CHECK int stream_send(struct stream *s, struct slice bytes);
/* The next line without CRLF; lives until the next call. */
MUST_CHECK int stream_line(struct stream *s, struct slice *line_out);
/* The next `size` bytes; live until the next call. */
MUST_CHECK int stream_bytes(struct stream *s, size_t size, struct slice *bytes_out);
/* Waits until something is there to be read. 0, or -ETIMEDOUT and the stream goes on. */
MUST_CHECK int stream_wait(struct stream *s, uint32_t timeout_ms);
/* Allowed when not connected. */
void stream_close(struct stream *s);
