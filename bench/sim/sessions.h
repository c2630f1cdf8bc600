/* bench/sim/sessions.h -- `trireme-bench sessions --transport sim`: millions of sessions in one process. A proxy, a director
 * and a backend, each a node of the simulator with one shard, with the real roles, link, store and TLS library; clients
 * are a fourth node. Time is simulated; since TLS draws its own randomness a run is not replayed.
 *
 *     world.c    nodes and their start
 *     real.c     sessions by real handshakes: connect, TLS, LOGIN, SELECT, IDLE, with the library's own client
 *     make.c     the rest: their accounts at the backend, their tickets by the director, and the record that the
 *                proxy's sleepers_add() packs of each, with TLS secrets of its own
 *     client.c   all clients once they idle: counts what comes, opens the records, and speaks
 *     lmtp.c     mail through the proxy
 *     memory.c, store.c   where the bytes are
 *
 * Owner:  the program; one at a time.
 * Memory: clients are in their shard's heap; TLS of those with real handshakes is the library's, in the process's. */
#pragma once
#include "core/sim/sim.h"
#include <openssl/ssl.h>

enum part { PROXY, DIRECTOR, BACKEND, CLIENTS, PART_COUNT };

struct options {
    unsigned count;      /* Sessions. */
    unsigned users;      /* Session i is of user i % users. */
    unsigned handshakes; /* The first so many are real. */
    unsigned mails;
    unsigned active; /* Sessions that speak. */
    uint64_t seed;
};

struct client {
    struct sock sock;
    uint32_t heard;          /* When something came last, 0.1 s. */
    uint16_t received, sent; /* TLS records, of a made session. */
    uint8_t exists;          /* How often it was told of new mail. */
    bool lost;
    bool answered; /* What it asked last. */
};

struct receiver;
struct sender;

struct sessions {
    struct options options;
    struct sim_world *world;
    struct sim_counters counters;
    struct config *configs[PART_COUNT];
    struct sim_node *nodes[PART_COUNT];
    struct shard *shards[PART_COUNT];
    bool dealt; /* The cluster's partitions. */
    struct net_addr imaps, lmtp;

    struct client *clients;
    SSL_CTX *tls;
    BIO_METHOD *bio;
    SSL **real; /* The first options.handshakes clients'. */
    unsigned real_next, real_ready, real_failed;
    struct receiver *receivers; /* Free ones. */
    struct sender *senders;
    bool opens; /* Records of made sessions are decrypted, not only counted. */
    uint64_t records, bytes, notified, lost, broken, answers, asked;
    uint32_t silence_max; /* 0.1 s. */
    const char *trouble;  /* Of the first client that had any. */

    unsigned made;
    uint64_t server_sequence, client_sequence; /* TLS records that a session has behind it when it is made. */

    unsigned *mail_users; /* options.mails of them, all different. */
    unsigned mails_sent, mails_failed, mail_next;
};

static inline struct sessions *sessions_self(void)
{
    return shard_self()->node->owner;
}

static inline size_t user_name(unsigned user, char out[16])
{
    char digits[12];
    size_t size = 0, count = 0;

    do {
        digits[count++] = (char)('0' + user % 10);
        user /= 10;
    } while (user > 0);
    out[size++] = 'u';
    while (count > 0)
        out[size++] = digits[--count];
    return size;
}

/* ---- world.c ------------------------------------------------------------------------------------------- */

#define PASSWORD "secret"

/* Starts everything. False: something did not; the log says what. */
MUST_CHECK bool world_start(struct sessions *b);
void world_end(struct sessions *b);
/* Runs until until() says so, at most so long. */
bool world_run(struct sessions *b, uint64_t seconds, bool (*until)(void *arg)); /* NULL: all of it. */

/* ---- real.c -------------------------------------------------------------------------------------------- */

MUST_CHECK bool real_open(struct sessions *b);
/* Bytes from the proxy for a client with a library's session: plaintext that came of it, at most `capacity`. */
size_t real_feed(struct sessions *b, unsigned index, struct slice in, char *plain, size_t capacity);
/* Seals; the ciphertext is in *out, which lives until the next call. */
struct slice real_seal(struct sessions *b, unsigned index, struct slice plain);

/* ---- make.c -------------------------------------------------------------------------------------------- */

MUST_CHECK bool make_all(struct sessions *b);
/* The TLS secret of a made session: 32 bytes. */
void make_secret(unsigned index, bool of_server, uint8_t out[32]);

/* ---- client.c ------------------------------------------------------------------------------------------ */

void clients_start(struct sessions *b); /* On their shard, once. */
/* The client idles now. */
void client_idle(struct sessions *b, unsigned index);
/* The longest silence of anybody is measured from now on; until now. */
void clients_listen(struct sessions *b);
double clients_silence_s(struct sessions *b);
void client_lost(struct sessions *b, unsigned index, const char *why);
/* It ends its IDLE, looks, and idles again: CLIENT_COMMANDS commands. */
void client_speak(struct sessions *b, unsigned index);
#define CLIENT_COMMANDS 4

/* ---- lmtp.c -------------------------------------------------------------------------------------------- */

/* To all of mail_users, one message each. */
MUST_CHECK bool lmtp_deliver(struct sessions *b);

/* ---- wire.c: a client's connection on a fiber ----------------------------------------------------------- */

struct wire {
    struct sock sock;
    struct io_op recv, send;
    struct fiber *fiber;
    size_t size;
    char data[8192];
};

MUST_CHECK int wire_connect(struct wire *w, const struct net_addr *to);
MUST_CHECK int wire_send(struct wire *w, struct slice bytes);
/* Receives more behind data[size]. 0, or -errno. */
MUST_CHECK int wire_receive(struct wire *w);
void wire_close(struct wire *w);

/* ---- memory.c ------------------------------------------------------------------------------------------ */

struct memory { /* Bytes. */
    uint64_t rss;
    uint64_t heaps[PART_COUNT];    /* In use, slack of size classes included. */
    uint64_t resident[PART_COUNT]; /* Their pages. */
    uint64_t stacks[PART_COUNT];
    uint64_t network, disks, other, other_slack, program;
    uint64_t sum;
    /* Of the proxy's heap: */
    uint64_t record_used, record_tls, records, record_slack, users, user_slack, user_table;
    /* Of the backend's: */
    uint64_t account_table, account_count, account_cache;
};

/* Forgets the accounts that the backend's store has in memory, for once. */
void memory_measure(struct sessions *b, struct memory *out);
/* On the backend; `arg`: struct memory. */
void memory_store_measure(void *arg);
