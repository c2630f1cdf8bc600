/* roles/proxy/subscription.h -- where the accounts of this core's sessions stand. A proxy core subscribes once for each
 * user, however many sessions he has, on one stream for each partition (roles/words/feed.h).
 *
 * Level-triggered: the backend says 'at n', and whoever stands below n asks for the difference. While the stream is lost,
 * or the ticket expired, nothing is known (subscriber_at() is 0) until the backend has said it anew; that it does at
 * once, so nothing is ever missed. New subscriptions and repeated ones are paced by the stream's credit.
 *
 * Owner:  one shard. A struct subscription lives from its first subscriber until the backend has let go of it after the
 *         last; its index (32 bits) names it for that time.
 * Memory: SUBSCRIPTION_SIZE bytes a user. */
#pragma once
#include "core/shard.h"
#include "roles/proxy/route.h"
#include "roles/words/request.h"

struct subscription {         /* Private, but for user and user_size. */
    struct subscriber *first; /* NULL: none; it is on its way out. */
    uint64_t modseq;          /* Where the account stands, if the state is AT. */
    uint32_t next;            /* In its bucket, or in the list of the free. */
    uint32_t hash;            /* Of the name; its low bits say which bucket. */
    uint32_t age;             /* Of the feed, when the backend was asked last. */
    uint16_t partition;
    uint8_t state;     /* enum subscription_state */
    uint8_t user_size; /* 0: free. */
    char user[24];     /* The name, if it fits; else its first bytes are a pointer to it. */
};
#define SUBSCRIPTION_SIZE  56
#define SUBSCRIPTION_CHUNK 4096 /* Of them in an allocation. */
_Static_assert(sizeof(struct subscription) == SUBSCRIPTION_SIZE, "there are millions of them");

struct subscription_news { /* The account has moved. */
    uint64_t before;       /* Where it stood; 0: that was not known. */
    uint64_t at;           /* Where it stands. */
    uint64_t mailbox_id;   /* All that has changed in between is in this one; 0: look at all. */
};

struct subscriber { /* Embedded in a session. Private, but for what is set before subscriber_add(). */
    struct subscriber *next, **at_place;
    uint32_t index; /* Of its subscription. */
    bool subscribed;
    uint16_t partition;          /* Of the account. */
    const struct ticket *ticket; /* The session's: the backend is asked by that of a living one. */
    /* From the loop; may remove the subscriber. */
    void (*at)(struct subscriber *s, const struct subscription_news *news);
    /* The ticket is not valid any more; when it has another, subscriber_renewed(). May remove the subscriber. */
    void (*expired)(struct subscriber *s);
};

struct feed;

struct subscriptions { /* Private. */
    struct heap *heap;
    const struct route *route;
    uint64_t secret;
    struct subscription **chunks;
    uint32_t chunk_count, free, count;
    uint32_t end; /* All that was ever used is below it. */
    uint32_t *buckets;
    uint32_t bucket_count;
    uint32_t walk_at, walk_left; /* The walk that asks for what is not subscribed; walk_left 0: it rests. */
    struct timer walk;
    const struct subscription *telling; /* Must not go away meanwhile. */
    struct feed *feeds[PARTITION_COUNT];
};

void subscriptions_init(struct subscriptions *t, struct heap *h, const struct route *route);
void subscriptions_fini(struct subscriptions *t); /* No subscriber is left. */

/* Of a user whose name is `user`. */
void subscriber_add(struct subscriptions *t, struct subscriber *s, struct slice user);
void subscriber_remove(struct subscriptions *t, struct subscriber *s); /* Allowed when not subscribed. */
/* Its ticket is another one. */
void subscriber_renewed(struct subscriptions *t, struct subscriber *s);
/* Where the account stands; 0: not known now. A change that was acknowledged to anybody before this call may be missing
 * from it only for as long as its notice is on its way. */
uint64_t subscriber_at(const struct subscriptions *t, const struct subscriber *s);
