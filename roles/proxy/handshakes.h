/* roles/proxy/handshakes.h -- which TLS handshakes of clients a shard begins, and which give way. Only whole ClientHellos ask. At most
 * `max` are under way, a share of limits.handshakes; at most HANDSHAKES_A_TURN begin in a turn of the loop, so that whoever comes
 * meanwhile is known before more is spent on those who are here.
 *
 * Who waits: addresses take turns, and of one address the newest and the oldest. So a client who comes while thousands stand still
 * stands neither behind those from elsewhere nor behind those of his own address; and who came first of thousands, and so
 * has them all before him, is not their last.
 * Who gives way while others wait: the oldest of the address that has most, if that is more than 1/HANDSHAKE_SHARE of all and
 * somebody else waits, after HANDSHAKE_GRACE_LEAST_MS; the oldest of all after HANDSHAKE_GRACE_MS, or, while a good part of those who
 * begin also end theirs, HANDSHAKE_GRACE_BUSY_MS: then the clients are honest, many, and slow.
 * Addresses (of IPv6: networks of 64 bits) are told apart by a keyed hash, as HANDSHAKE_CROWDS at most.
 *
 * Owner:  a proxy; one shard.
 * Memory: who waits is its session and at most TLS_HELLO_MAX bytes; who shakes hands some 10 KiB of the process's heap. */
#pragma once
#include "core/io.h"
#include "core/list.h"
#include "core/timer.h"

#define HANDSHAKES_A_TURN        4   /* Some 0.8 ms. */
#define HANDSHAKE_GRACE_MS       500 /* A round trip of a client who is far away, by a poor network. */
#define HANDSHAKE_GRACE_LEAST_MS 200 /* ... to another continent. */
#define HANDSHAKE_GRACE_BUSY_MS  2000
#define HANDSHAKE_GOOD_PART      4 /* One of so many. */
#define HANDSHAKE_SHARE          4
#define HANDSHAKE_CROWDS         256

struct handshake;

struct handshake_ops {
    /* conn_accept_tls() is due. Ends nobody. */
    void (*begin)(struct handshake *one);
    /* Ends the connection: handshake_leave() before it returns. */
    void (*give_way)(struct handshake *one);
};

struct handshake_crowd { /* Of an address. */
    struct list waiting; /* The newest first. */
    struct list shaking; /* The oldest first. */
    struct list turn;    /* In handshakes.turns while somebody waits. */
    uint64_t count;      /* Of shaking. */
    bool oldest;         /* Of waiting, the oldest is next. */
};

struct handshakes {
    struct list shaking; /* The oldest first. */
    struct list turns;   /* Crowds in which somebody waits. */
    struct handshake_crowd crowds[HANDSHAKE_CROWDS];
    uint64_t count, max;
    uint64_t recent, recent_done; /* That began of late, and of them, about, came to a good end. */
    uint64_t secret;              /* Of the hash. */
    unsigned begun;               /* In this turn. */
    struct timer timer;
};

/* Of a session. Zeroed is none. */
struct handshake {
    const struct handshake_ops *ops;
    struct handshake_crowd *crowd;
    struct list link; /* waiting or shaking of its crowd. */
    struct list all;  /* handshakes.shaking */
    uint8_t stage;    /* enum handshake_stage */
    uint64_t since_ms;
};
enum handshake_stage { HANDSHAKE_NONE, HANDSHAKE_WAITING, HANDSHAKE_SHAKING };

/* `secret`: of the hash. */
void handshakes_init(struct handshakes *h, uint64_t max, uint64_t secret);
void handshakes_fini(struct handshakes *h);
/* Its ClientHello is there: ops->begin(), now or when it is its turn. */
void handshake_ask(struct handshakes *h, struct handshake *one, const struct net_addr *peer,
                   const struct handshake_ops *ops);
/* Secured. */
void handshake_done(struct handshakes *h, struct handshake *one);
/* Gone. Allowed when there is none. */
void handshake_leave(struct handshakes *h, struct handshake *one);
