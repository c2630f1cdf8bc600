/* roles/words/cluster.h -- what the nodes of a cluster say to each other about it: the director's table of partitions, and
 * a backend's place in it. Little-endian, each begins with a version byte; a decoder takes any bytes. The table is also
 * what the director keeps on its disk. */
#pragma once
#include "core/io.h"
#include "net/link/link.h"
#include "net/tls.h"
#include "roles/exceptions.h"
#include "roles/revocations.h"
#include "roles/words/place.h"
#include "roles/words/request.h"

#define CLUSTER_VERSION   1
#define CLUSTER_NODES_MAX 256
#define CLUSTER_ID_SIZE   16
#define CLUSTER_KEY_SIZE  32
#define PARTITION_NOWHERE UINT16_MAX

/* ---- The table: director -> proxy ------------------------------------------------------------------------ */

struct cluster_node {
    char name[LINK_NODE_NAME_MAX + 1];
    struct net_addr addr;
    uint8_t store_id
        [CLUSTER_ID_SIZE]; /* Of its data directory, the partitions' home; zero: it has not said so far. */
};

struct cluster_table {
    uint64_t version; /* Grows with every change. */
    uint16_t node_count;
    struct cluster_node nodes[CLUSTER_NODES_MAX];
    uint16_t owners[PARTITION_COUNT]; /* Index of the node, or PARTITION_NOWHERE. */
};

#define CLUSTER_TABLE_SIZE_MAX (64 + CLUSTER_NODES_MAX * 128 + PARTITION_COUNT * 2)
/* `out`: CLUSTER_TABLE_SIZE_MAX bytes. */
size_t cluster_table_encode(const struct cluster_table *t, char *out);
MUST_CHECK bool cluster_table_decode(struct slice in, struct cluster_table *out);

/* LINK_TABLE: the OPEN says up to which generation the proxy has heard of revocations (one of the release before says nothing, and hears
 * of none); each table comes in pieces, one a DATA frame, in order: total size 4, offset 4, bytes. */
#define CLUSTER_TABLE_HEAD_SIZE 9
#define CLUSTER_PIECE_HEADER    8
#define CLUSTER_PIECE_MAX       8192
static inline void cluster_table_head_encode(uint64_t revoked, char out[CLUSTER_TABLE_HEAD_SIZE])
{
    out[0] = CLUSTER_VERSION;
    put_u64(out + 1, revoked);
}
MUST_CHECK static inline bool cluster_table_head_decode(struct slice in, uint64_t *revoked_out)
{
    if (in.size != CLUSTER_TABLE_HEAD_SIZE || in.data[0] != CLUSTER_VERSION)
        return false;
    *revoked_out = get_u64(in.data + 1);
    return true;
}
/* What is no part of a table, by its total size: the keys under which all proxies make TLS tickets, so that a session resumes at any of
 * them; the secret of the hash that names users (partition_user()), from which nothing but these names follows; and, behind it, whose
 * tickets are not valid any more (struct member_revoked). */
#define CLUSTER_PIECE_TLS_KEYS 0
#define CLUSTER_PIECE_EXCEPTIONS                                                                             \
    (UINT32_MAX - 2) /* struct cluster_exceptions; a proxy of the release before passes over it. */
#define CLUSTER_PIECE_FEATURES                                                                               \
    (UINT32_MAX - 3) /* version 1, level 2: the lowest feature level of backends. Likewise. */
#define CLUSTER_PIECE_REVOKED     UINT32_MAX
#define CLUSTER_PIECE_SECRET      (UINT32_MAX - 1)
#define CLUSTER_TLS_KEYS_SIZE_MAX (2 + TLS_TICKET_KEYS_MAX * TLS_TICKET_KEY_SIZE)
size_t cluster_tls_keys_encode(const struct tls_ticket_keys *k, char out[CLUSTER_TLS_KEYS_SIZE_MAX]);
MUST_CHECK bool cluster_tls_keys_decode(struct slice in, struct tls_ticket_keys *out);

#define CLUSTER_FEATURES_SIZE 3
static inline void cluster_features_encode(uint16_t level, char out[CLUSTER_FEATURES_SIZE])
{
    out[0] = CLUSTER_VERSION;
    put_u16(out + 1, level);
}
MUST_CHECK static inline bool cluster_features_decode(struct slice in, uint16_t *level_out)
{
    if (in.size != CLUSTER_FEATURES_SIZE || in.data[0] != CLUSTER_VERSION)
        return false;
    *level_out = get_u16(in.data + 1);
    return true;
}

/* Users who are placed alone: all there are, in pieces, behind the secret by which they are named and the table whose nodes they refer to. */
#define CLUSTER_EXCEPTIONS_MAX      500
#define CLUSTER_EXCEPTIONS_SIZE_MAX (16 + CLUSTER_EXCEPTIONS_MAX * 14)
struct cluster_exceptions {
    uint64_t version; /* Of the table. */
    bool first, last;
    uint16_t count;
    struct {
        uint16_t place; /* Index in struct exceptions: the user's own for as long as he is an exception. */
        struct exception exception;
    } entries[CLUSTER_EXCEPTIONS_MAX];
};
size_t cluster_exceptions_encode(const struct cluster_exceptions *e, char out[CLUSTER_EXCEPTIONS_SIZE_MAX]);
MUST_CHECK bool cluster_exceptions_decode(struct slice in, struct cluster_exceptions *out);

/* ---- Membership: director <-> backend -------------------------------------------------------------------- */

/* LINK_MEMBER. The director opens it (no head); the backend says how it stands, then and when it has joined; a grant follows
 * each time, and whenever something of it has changed. */
struct member_state {
    uint8_t cluster_id[CLUSTER_ID_SIZE]; /* Zero: of none. */
    uint8_t store_id
        [CLUSTER_ID_SIZE]; /* Of its data directory; made anew at each start until it is of a cluster. */
};

struct ticket_key {
    uint32_t id; /* 0: none. */
    uint8_t key[CLUSTER_KEY_SIZE];
};

struct member_grant {
    uint8_t cluster_id[CLUSTER_ID_SIZE];
    uint8_t cluster_key[CLUSTER_KEY_SIZE]; /* Of the hash that makes a partition of a user's name. */
    uint64_t table_version;
    bool first;                              /* A new data directory becomes a home by this grant. */
    uint8_t partitions[PARTITION_COUNT / 8]; /* Those that are at home there. */
    struct ticket_key ticket_keys[2];        /* The newest first. */
};

#define MEMBER_SIZE_MAX 1024
size_t member_state_encode(const struct member_state *s, char out[MEMBER_SIZE_MAX]);
MUST_CHECK bool member_state_decode(struct slice in, struct member_state *out);
size_t member_grant_encode(const struct member_grant *g, char out[MEMBER_SIZE_MAX]);
MUST_CHECK bool member_grant_decode(struct slice in, struct member_grant *out);

/* Whose tickets are not valid any more: beside the grants, all of them before the first grant of a stream and new ones as they come,
 * in pieces. */
#define MEMBER_REVOKED_MAX      500
#define MEMBER_REVOKED_SIZE_MAX (16 + MEMBER_REVOKED_MAX * REVOCATION_SIZE)
struct member_revoked {
    bool all;  /* The first piece of all that there are: what was known before is void. */
    bool last; /* The last piece: from here on they count. */
    uint64_t floor;
    uint16_t count;
    struct revocation entries[MEMBER_REVOKED_MAX]; /* Of growing generations. */
};
size_t member_revoked_encode(const struct member_revoked *r, char out[MEMBER_REVOKED_SIZE_MAX]);
MUST_CHECK bool member_revoked_decode(struct slice in, struct member_revoked *out);

/* Users who are placed alone, as far as this backend is concerned: all of them, in pieces, behind each grant and after each change. HERE: he is
 * served, against the hash. AWAY: he is not, though his partition is at home here or he was HERE; whoever is asked to let go of a user who has an
 * account here refuses. The backend makes it durable, then answers; who is not mentioned is where the hash says. */
#define MEMBER_PLACED_MAX      32
#define MEMBER_PLACED_SIZE_MAX (16 + MEMBER_PLACED_MAX * (3 + USER_SIZE_MAX))
struct member_placed {
    uint64_t version; /* Of the table. A backend takes none that is older than what it has. */
    bool first, last;
    uint16_t count;
    struct {
        enum exception_here here;
        struct slice user; /* Canonical; points into the input. */
    } entries[MEMBER_PLACED_MAX];
};
size_t member_placed_encode(const struct member_placed *p, char out[MEMBER_PLACED_SIZE_MAX]);
MUST_CHECK bool member_placed_decode(struct slice in, struct member_placed *out);

#define MEMBER_REFUSED_MAX 16
struct member_answer { /* All up to that version is durable, but for those whom he did not let go of. */
    uint64_t version;
    uint8_t refused_count;
    uint64_t refused[MEMBER_REFUSED_MAX]; /* partition_user() */
};
size_t member_answer_encode(const struct member_answer *a, char out[MEMBER_SIZE_MAX]);
MUST_CHECK bool member_answer_decode(struct slice in, struct member_answer *out);

static inline bool partition_bit(const uint8_t bits[PARTITION_COUNT / 8], unsigned partition)
{
    return (bits[partition / 8] >> partition % 8 & 1) != 0;
}

/* ---- Partitions ------------------------------------------------------------------------------------------ */

/* The hash that the store uses, too: `secret` is made of the cluster key once. */
#define PARTITION_SECRET_SIZE 192
void partition_secret(const uint8_t cluster_key[CLUSTER_KEY_SIZE], uint8_t secret[PARTITION_SECRET_SIZE]);
unsigned partition_of(const uint8_t secret[PARTITION_SECRET_SIZE], struct slice user);
/* The same hash's other half: the user himself. */
uint64_t partition_user(const uint8_t secret[PARTITION_SECRET_SIZE], struct slice user);
