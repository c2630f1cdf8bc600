/* roles/proxy/route.h -- whom a shard of the proxy asks: which director, and which node and shard has a partition.
 *
 * With all roles in the process both are shards of it. Otherwise directors come from the configuration, and the table of partitions
 * from whichever of them answers; it stays in use while none does. A process that is a backend, too, asks itself in memory.
 * Owner:  one shard; in struct proxy. */
#pragma once
#include "core/shard.h"
#include "net/link/link.h"
#include "roles/proxy/budget.h"
#include "roles/words/cluster.h"

#define ROUTE_DIRECTORS_MAX 16

struct route_director {
    struct budget budget; /* First: a peer's owner is its budget. */
    struct route *route;
    struct link_target target;
    struct link_stream *table; /* LINK_TABLE */
    struct timer retry;
    char *bytes; /* Of a table that arrives. */
    size_t size, got;
};

/* Where a user's mail is asked for: his partition, or a place of his own behind all partitions, if he is placed alone. */
#define ROUTE_PLACES (PARTITION_COUNT + EXCEPTIONS_MAX)

struct route {
    struct shard *shard;
    struct heap *heap;
    bool alone; /* All roles are here. */
    bool backend_here, stopping;
    unsigned director_count;
    int features;      /* Lowest feature level of backends; negative: no director has said so far. */
    uint64_t asked_ms; /* When a referral made it ask directors last. */
    uint64_t away_ms;  /* When the last director that was up went. */
    struct route_director directors[ROUTE_DIRECTORS_MAX];
    struct cluster_table *table;                /* NULL: none came so far. */
    uint64_t exceptions_version;                /* Of the table, */
    struct exceptions *exceptions;              /* by its nodes. NULL: none came so far, */
    struct exceptions *exceptions_coming;       /* or not all of it. */
    struct link_peer *peers[CLUSTER_NODES_MAX]; /* By node of the table; NULL: this process. */
    unsigned budget_count;
    struct budget budgets[CLUSTER_NODES_MAX]; /* Of the peers, as they were dialled. */
};

MUST_CHECK int route_start(struct route *r, struct shard *s);
void route_stop(struct route *r);

/* Who knows this user. One that is up, if any is. */
struct link_target route_director(struct route *r, struct slice user);
static inline bool route_known(struct link_target t)
{
    return t.shard != NULL || t.peer != NULL;
}

/* Why nobody who comes now could log in, or mail be taken: words for the operator. NULL: nothing is in the way. A director may be away
 * for as long as a login waits for it. */
const char *route_lacks(const struct route *r);

/* What is asked of a director or a backend counts; may it be asked again? False: its link's budget is used up, and it goes without, or
 * waits. What cannot leave now costs nothing. */
void route_asked(struct link_target to);
MUST_CHECK bool route_again(struct route *r, struct link_target to);

/* Feature level of what sessions that log in now may be promised. */
static inline uint16_t route_features(const struct route *r)
{
    return r->features > 0 ? (uint16_t)r->features : 0;
}

/* A backend says that it does not serve what this core has asked there. If it knows of something newer, a director is asked anew, now and
 * then. */
void route_referred(struct route *r, const struct link_referral *referral);

/* A user's place. `partition`: as a director says it, or as it came from elsewhere. */
uint16_t route_place(const struct route *r, uint16_t partition, struct slice user);
/* Who has this place; nowhere, before the first table. `bulk`: much will move. */
struct link_target route_backend(const struct route *r, uint16_t place, bool bulk);
/* Of the users there: what a backend calls it. */
uint16_t route_partition(const struct route *r, uint16_t place);
