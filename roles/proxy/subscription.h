/* roles/proxy/subscription.h -- where the accounts of this core's sessions stand. A proxy core subscribes once for each
 * user, however many sessions he has, on one stream for each partition (roles/words/feed.h), and for each user who is placed alone.
 *
 * Level-triggered: the backend says 'at n', and whoever stands below n asks for the difference. While the stream is lost,
 * or the ticket expired, nothing is known (subscriber_at() is 0) until the backend has said it anew; that it does at
 * once, so nothing is ever missed. New subscriptions and repeated ones are paced by the stream's credit.
 *
 * Owner:  one shard. A subscription lives from its first subscriber, awake (a session) or asleep (sleepers.c), until the
 *         backend has let go of it after the last; it is a part of its user's record, whose number names it.
 * Memory: that, and a struct audience for each user who has somebody awake. */
#pragma once
#include "core/map.h"
#include "core/shard.h"
#include "roles/proxy/route.h"
#include "roles/proxy/users.h"

struct subscription_news { /* The account has moved. */
    uint64_t before;       /* Where it stood; 0: that was not known. */
    uint64_t at;           /* Where it stands. */
    uint64_t mailbox_id;   /* All that has changed in between is in this one; 0: look at all. */
};

struct subscriber { /* Embedded in a session. Private, but for what is set before subscriber_add(). */
    struct subscriber *next, **at_place;
    uint32_t user; /* Number of his record. To be read while `subscribed`. */
    bool subscribed;
    const struct ticket *ticket; /* The session's: the backend is asked by that of a living one. */
    /* From the loop; may remove the subscriber. */
    void (*at)(struct subscriber *s, const struct subscription_news *news);
    /* The ticket is not valid any more; when it has another, subscriber_renewed(). May remove the subscriber. */
    void (*expired)(struct subscriber *s);
};

struct feed;
struct proxy;

struct subscriptions { /* Private. */
    struct heap *heap;
    struct proxy *proxy;
    struct map audiences;
    uint32_t walk_at, walk_left; /* The walk that asks for what is not subscribed; walk_left 0: it rests. */
    struct timer walk;
    uint32_t telling; /* A user who must not go away meanwhile. */
    struct feed *feeds[ROUTE_PLACES];
};

void subscriptions_init(struct subscriptions *t, struct proxy *p);
void subscriptions_fini(struct subscriptions *t); /* No subscriber is left. */

/* `user`: the number of his record, which lives until the subscriber is removed, and longer if it is needed. */
void subscriber_add(struct subscriptions *t, struct subscriber *s, uint32_t user);
void subscriber_remove(struct subscriptions *t, struct subscriber *s); /* Allowed when not subscribed. */
/* Its ticket is another one. */
void subscriber_renewed(struct subscriptions *t, struct subscriber *s);
/* Where the account stands; 0: not known now. A change that was acknowledged to anybody before this call may be missing
 * from it only for as long as its notice is on its way. */
uint64_t subscriber_at(const struct subscriptions *t, const struct subscriber *s);

/* The users of that hash (users_hash()) may be at another place now, or their place at another backend. From the loop, and not out of a
 * callback of subscribers. */
void subscriptions_moved(struct subscriptions *t, uint64_t user);

/* The same for sleepers.c. The first who watches has come, or somebody has who shows another ticket; the last one is gone. */
void subscription_watch(struct subscriptions *t, uint32_t user);
void subscription_leave(struct subscriptions *t, uint32_t user);
uint64_t subscription_at(const struct subscriptions *t, uint32_t user);
