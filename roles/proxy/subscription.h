/* roles/proxy/subscription.h -- who wants to hear of changes: one stream to the backend for each account on a
 * proxy core, however many sessions idle on it. Level-triggered: the backend says 'at n', and a subscriber
 * that stands below n asks for the difference. A lost stream is opened again after a jittered pause, and
 * until its first notice nothing is known; that notice comes at once, so nothing is ever missed.
 * Owner:  one shard; struct subscriber is embedded in a session. */
#pragma once
#include "core/list.h"
#include "core/map.h"
#include "core/shard.h"
#include "roles/proxy/route.h"
#include "roles/words/request.h"

struct subscription;

struct subscriber {
    struct list link;
    struct subscription *subscription; /* NULL: not subscribed. */
    uint16_t partition;                /* Of the account. */
    const struct ticket *ticket;       /* The session's: the stream is opened with that of a living one. */
    /* The account stands at modseq. Called from the loop; must not add or remove subscribers. */
    void (*at)(struct subscriber *s, uint64_t modseq);
    /* Its ticket is not valid any more. The same holds. */
    void (*expired)(struct subscriber *s);
};

struct subscriptions {
    struct heap *heap;
    struct map by_user;
    uint64_t secret;
    const struct route *route;
};

void subscriptions_init(struct subscriptions *t, struct heap *h, const struct route *route);
void subscriptions_fini(struct subscriptions *t); /* No subscriber is left. */

/* If the account's position is already known, at() is called soon with it. */
void subscriber_add(struct subscriptions *t, struct subscriber *s, struct slice user);
void subscriber_remove(struct subscriptions *t, struct subscriber *s); /* Allowed when not subscribed. */
