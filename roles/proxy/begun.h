/* roles/proxy/begun.h -- what clients have begun before they are logged in, and not finished: half a command or record of TLS, a SASL
 * exchange, what comes behind a command that is not answered. Who has begun nothing is a record asleep; of these each keeps what
 * he has sent, up to some 18 KiB.
 *
 * All together keep BEGUN_BYTES_MAX of the process's memory: above it whoever has begun first goes. A login that waits for a director is
 * not among them, nor is a handshake (handshakes.h).
 *
 * Owner: one shard's proxy; embedded in it. */
#pragma once
#include "core/list.h"

#define BEGUN_BYTES_MAX (16 * 1024 * 1024) /* Some 1,300 of the largest, 4,000 SASL exchanges. */
#define BEGUN_SHARE_MIN (1024 * 1024)      /* Of a shard. */

struct session;

struct begun {
    struct list first; /* The oldest first. */
    uint64_t bytes, bytes_max;
};

void begun_init(struct begun *b, unsigned shard_count);
/* Its state or what is kept of it has changed. May end other sessions, never this one. */
void session_begun(struct session *s);
/* The same after something was given back: ends nobody. */
void session_begun_less(struct session *s);
/* It goes, or to sleep. Allowed when it has begun nothing. */
void session_begun_over(struct session *s);
