/* roles/proxy/revoked.h -- ends the sessions of who was kicked or disabled, has another password, or is gone: awake and asleep, whether
 * or not they have anything under way.
 *
 * A director says whose tickets are not valid any more (roles/revocations.h): each as it happens, and those that were missed when its
 * stream is there again. Users are named by a keyed hash. Of those who sleep, only the sessions of these users are looked at; those who
 * are awake are walked over in steps, and whoever falls asleep meanwhile is looked at then.
 *
 * When a director forgets some of too many (its floor), whoever's ticket is older than that logs in again: with all roles in the process
 * at once, elsewhere at the next command, which the backend refuses.
 *
 * Owner: one shard's proxy; embedded in it. */
#pragma once
#include "core/shard.h"
#include "roles/words/cluster.h"

struct session;
struct ticket;

struct revoked {               /* Private. */
    struct revocations *known; /* NULL: nobody's. */
    uint64_t done, until; /* Up to this generation all is done; the walk that runs is for those up to that. */
    struct list *at;      /* Of the sessions that are awake; NULL: no walk. */
    uint32_t sleeper;     /* Of a walk over all who sleep. */
    struct timer step;
};

struct proxy;

void revoked_init(struct proxy *p);
void revoked_fini(struct proxy *p);

/* Of a director of a cluster, behind the secret by which it names users: a part of those who are revoked. */
void revoked_take(struct proxy *p, const struct member_revoked *piece);
/* Up to which generation they came. */
uint64_t revoked_generation(const struct proxy *p);
/* Of the director in a process with all roles: all of them. */
void revoked_take_all(struct proxy *p, const struct revocations *all);

/* Is a ticket older than what was done to its user? */
bool revoked_is(const struct proxy *p, struct slice user, const struct ticket *ticket);
/* A session is not among those who are awake any more: no walk must stand on it. */
void revoked_leave(struct proxy *p, const struct list *link);
