/* roles/proxy/handshakes.h -- how many TLS handshakes of IMAP clients a shard has under way: a share of limits.handshakes. Only whole ClientHellos
 * ask. Over the limit they wait, and the newest is next, so that a client who comes while thousands stand still does not stand
 * behind them; and the oldest handshake, once it has had HANDSHAKE_GRACE_MS, gives way.
 *
 * Owner:  a proxy; one shard.
 * Memory: who waits is its session and at most TLS_HELLO_MAX bytes; who shakes hands some 12 KiB of the process's heap. */
#pragma once
#include "core/list.h"
#include "core/timer.h"

#define HANDSHAKE_GRACE_MS 500 /* A round trip of a client who is far away. */

struct session;

struct handshakes {
    struct list shaking; /* The oldest first. */
    struct list waiting; /* The newest first. */
    uint64_t count, max;
    struct timer timer;
};

/* Of a session. Zeroed is none. */
struct handshake {
    struct list link;
    uint8_t stage; /* enum handshake_stage */
    uint64_t since_ms;
};
enum handshake_stage { HANDSHAKE_NONE, HANDSHAKE_WAITING, HANDSHAKE_SHAKING };

void handshakes_init(struct handshakes *h, uint64_t max);
void handshakes_fini(struct handshakes *h);
/* Its ClientHello is there: conn_accept_tls(), now or when there is room. */
void handshake_ask(struct session *s);
/* Secured, or gone. Allowed when there is none. */
void handshake_leave(struct session *s);
