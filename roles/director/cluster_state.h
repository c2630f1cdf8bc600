/* roles/director/cluster_state.h -- what the files of the director's cluster share. Private to roles/director/.
 *
 *     cluster.c           the fiber that changes it; every shard's copy; answers; start and stop
 *     cluster_file.c      what is on the disk
 *     cluster_table.c     the partitions: dealt once, and settled with what backends say
 *     cluster_exceptions.c  users who are placed alone
 *     cluster_members.c   backends: what they are told
 *     cluster_readers.c   proxy cores: what they are told */
#pragma once
#include "core/config.h"
#include "core/fiber.h"
#include "core/heap.h"
#include "core/list.h"
#include "core/timer.h"
#include "net/link/link.h"
#include "roles/director/cluster.h"
#include "roles/director/renewal.h"
#include "roles/director/tls_keys.h"
#include "roles/director/user_name.h"
#include "roles/exceptions.h"
#include "roles/revocations.h"

#define CLUSTER_RETRY_MS                                                                                     \
    200 /* Until a backend's stream is opened again, plus a jitter of as much; until what could not be written is. */

struct cluster_view { /* What every shard has a copy of. */
    bool ready;
    uint8_t secret[PARTITION_SECRET_SIZE];
    struct renewal renewal;
    uint16_t owners[PARTITION_COUNT];
    struct ticket_key keys[CLUSTER_NODES_MAX]; /* By node: the newest. */
    struct revocations revoked;
    uint64_t revoked_saved;       /* Those up to this generation are on the disk. */
    struct exceptions exceptions; /* By the table's nodes. */
};

struct told {      /* Of the revocations: */
    bool all;      /* Nothing so far, */
    uint64_t sent; /* else all up to that generation. */
};

struct member { /* A backend of the configuration. */
    struct cluster *cluster;
    struct link_target target; /* Its link, or this process. */
    struct link_stream *stream;
    struct timer retry;
    struct net_addr addr;
    uint64_t weight, dealt; /* Its share; partitions that it got, while they are dealt. */
    struct member_state state;
    char name[LINK_NODE_NAME_MAX + 1];
    bool known; /* It has said its name and its state. */
    bool news;  /* ... since the fiber looked. */
    bool grant_due;
    bool placed_due;   /* It is to hear of users who are placed alone. */
    uint16_t features; /* Its level. */
    bool places;       /* It has answered that: it is not of the release before. */
    bool answered;     /* ... since the fiber looked. */
    struct member_answer answer;
    struct told revoked;
    int node; /* In the table; -1: none. */
    struct ticket_key keys[2];
};

struct reader { /* A proxy core that wants the table. */
    struct list link;
    struct link_stream *stream;
    uint64_t version;       /* That it has, */
    uint32_t tls_keys_sent; /* and of these. */
    bool hears;             /* Of revocations: it is not of the release before. */
    bool named;             /* It has the secret of their users' hash. */
    struct told revoked;
    uint64_t exceptions_version; /* That it has. */
    uint16_t features;           /* That it was told; `featured`: anything. */
    bool featured;
};

/* A user who is placed alone, or is to be; at his place in struct exceptions. name_size 0: free. */
struct placement {
    uint64_t since; /* Version of the table at which `to` was written down. */
    uint16_t at, to;
    uint8_t name_size;
    char name[USER_NAME_MAX];
};

struct cluster {
    struct cluster_view view;
    /* Shard 0: */
    struct shard *shard;
    uint8_t id[CLUSTER_ID_SIZE], key[CLUSTER_KEY_SIZE];
    struct cluster_table table; /* node_count 0: not dealt. */
    struct member *members;
    size_t member_count;
    struct slab readers;
    struct list reader_list;
    struct fiber_queue wake, ended;
    uint64_t rotate_ms; /* When keys of tickets are made anew, */
    uint32_t rotate_every_ms;
    uint32_t renewal_steps; /* and after how many of these times the renewal key is. */
    struct tls_keys tls_keys;
    uint16_t features[CLUSTER_NODES_MAX]; /* Feature level of each node of the table, as it said last. */
    struct placement *placements;         /* EXCEPTIONS_MAX; NULL: nobody so far. */
    uint64_t dealt_version;               /* Of the table, when where partitions are changed last, */
    uint64_t exceptions_version;          /* and when where such users are did. */
    bool changed, placed, featured;       /* What is to be written. */
    bool deal;                            /* The operator has said so. */
    bool revoked;                         /* Somebody was, since the file was written. */
    bool aged;                            /* The renewal key has. */
    bool due, working, running, stopping;
};
static inline struct cluster *cluster_self(void)
{
    return shard_self()->slot[SLOT_CLUSTER];
}

/* There is something to be written, or told. */
static inline void cluster_wake(struct cluster *c)
{
    c->due = true;
    fiber_queue_wake_all(&c->wake, 0);
}

/* ---- cluster_file.c: fibers; 0 or -errno after a line in the log ----------------------------------------- */

MUST_CHECK int cluster_file_load(struct cluster *c);
MUST_CHECK int cluster_file_save(struct cluster *c);

/* ---- cluster_table.c ------------------------------------------------------------------------------------- */

/* What backends have said of themselves. True: the table has changed. */
MUST_CHECK bool cluster_table_settle(struct cluster *c);
/* The lowest feature level of backends. */
uint16_t cluster_features(const struct cluster *c);
/* Two backends have one name. */
bool cluster_names_twice(const struct cluster *c);

/* ---- cluster_exceptions.c -------------------------------------------------------------------------------- */

/* As bytes of the file. False: they are not what was written. */
size_t cluster_exceptions_size(const struct cluster *c);
void cluster_exceptions_write(const struct cluster *c, char *out);
MUST_CHECK bool cluster_exceptions_read(struct cluster *c, struct slice in);
/* The file is being written, with the table's present version; it was not. */
void cluster_exceptions_saving(struct cluster *c);
void cluster_exceptions_not_saved(struct cluster *c, uint64_t version);
/* Into c->view. */
void cluster_exceptions_view(struct cluster *c);
/* What backends have answered; sets c->placed. */
void cluster_exceptions_settle(struct cluster *c);
/* To a backend, to a proxy core: what it has not heard. */
void cluster_exceptions_tell(struct cluster *c, struct member *m);
void cluster_exceptions_send(const struct cluster *c, struct reader *l);
struct control_route;
void cluster_exceptions_route(const struct cluster *c, struct control_route *route);

/* ---- cluster_members.c ----------------------------------------------------------------------------------- */

/* `backends`, and this process if it is one too. 0 or -errno. */
MUST_CHECK int cluster_members_start(struct cluster *c, bool backend_here);
void cluster_members_stop(struct cluster *c);
/* Each gets new keys of tickets. */
void cluster_members_rotate(struct cluster *c);
/* To each what it has not heard. */
void cluster_members_send(struct cluster *c);
uint32_t cluster_members_known(const struct cluster *c);
uint32_t cluster_members_up(const struct cluster *c);

/* ---- cluster_readers.c ----------------------------------------------------------------------------------- */

link_serve_fn cluster_readers_serve;
void cluster_readers_send(struct cluster *c);
void cluster_readers_stop(struct cluster *c);
/* Revocations that he has not heard of, each frame behind `header` bytes that say CLUSTER_PIECE_REVOKED. False: there was no room.
 * Nobody hears of one that is not on the disk: after a crash its generation would be another's. */
bool cluster_revoked_send(const struct cluster *c, struct link_stream *s, size_t header, struct told *told);
