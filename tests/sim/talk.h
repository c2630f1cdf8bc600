/* tests/sim/talk.h -- a connection as a virtual client uses it: a fiber that connects, sends, and waits for
 * lines.
 * Owner:  one fiber, embedded.
 * Memory: the shard's heap; bounded by TALK_SIZE_MAX.
 * Errors: -errno of the door; -ETIMEDOUT after the time given; -EMSGSIZE; -ECONNRESET also for an orderly
 *         end. */
#pragma once
#include "core/fiber.h"
#include "core/io.h"
#include "core/shard.h"

#define TALK_SIZE_MAX (4 * 1024 * 1024)

struct talk {
    struct sock sock;
    struct io_op recv, send;
    struct timer timer;
    struct fiber *fiber;
    struct io_op *waiting;
    bool timed_out;
    char *data; /* Received: [at, size). */
    size_t at, size, capacity;
    uint32_t timeout_ms, limit_ms, waited_ms;
    bool (*peer_gone)(const struct talk *s); /* Is there nobody any more who could answer? May be NULL. */
    uint64_t heard_ns;                       /* When something came, since its owner set it to 0. */
};

/* For whoever looks for a mistake: every line goes to standard error, too. */
extern bool talk_shown;

/* Not connected. */
void talk_init(struct talk *s, uint32_t timeout_ms);
MUST_CHECK int talk_connect(struct talk *s, const struct net_addr *to);
MUST_CHECK int talk_send(struct talk *s, struct slice bytes);
/* The next line without CRLF; lives until the next call. */
MUST_CHECK int talk_line(struct talk *s, struct slice *line_out);
/* The next `size` bytes; live until the next call. */
MUST_CHECK int talk_bytes(struct talk *s, size_t size, struct slice *bytes_out);
/* Waits until something is there to be read. 0, or -ETIMEDOUT and the connection goes on. */
MUST_CHECK int talk_wait(struct talk *s, uint32_t timeout_ms);
/* Allowed when not connected. */
void talk_close(struct talk *s);
/* The same, and what was sent and has not arrived never will. */
void talk_abort(struct talk *s);
