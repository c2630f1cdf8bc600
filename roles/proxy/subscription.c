#include "roles/proxy/subscription.h"
#include "core/io.h"
#include "net/link/link.h"
#include "roles/words/request.h"

#define RETRY_MIN_MS 200 /* Between a lost stream and the next try, plus a jitter of as much. */

struct subscription {
    struct map_node node;
    struct subscriptions *table;
    struct list subscribers;
    struct link_stream *stream; /* NULL: lost; `retry` runs. */
    struct timer retry;
    struct timer soon; /* Tells a newcomer what is already known. */
    uint64_t modseq;   /* Last notice; 0: none on this stream. */
    uint8_t user_size;
    char user[];
};

static void subscription_open(struct subscription *sub);

static void subscribers_tell(struct subscription *sub)
{
    list_each_safe(it, &sub->subscribers)
    {
        struct subscriber *s = CONTAINER_OF(it, struct subscriber, link);

        s->at(s, sub->modseq);
    }
}

static void on_soon(struct timer *t)
{
    struct subscription *sub = CONTAINER_OF(t, struct subscription, soon);

    if (sub->modseq != 0)
        subscribers_tell(sub);
}

static void on_notice(struct link_stream *stream, struct link_frame *f)
{
    struct subscription *sub = stream->owner;
    bool ended = f->header.type == LINK_END;
    struct subscribe_notice notice;

    if (!ended && subscribe_notice_decode(link_frame_data(f), &notice)) {
        sub->modseq = notice.modseq;
        timer_set(&sub->soon, 0); /* From the loop: a subscriber's removal may end this subscription. */
    }
    link_frame_release(f);
    if (ended) {
        sub->stream = NULL;
        timer_set(&sub->retry, RETRY_MIN_MS + (uint32_t)(random_u64() % RETRY_MIN_MS));
    }
}

static void on_credit(struct link_stream *stream)
{
}

static void on_lost(struct link_stream *stream)
{
    struct subscription *sub = stream->owner;

    sub->stream = NULL;
    sub->modseq = 0;
    if (stream->why == LINK_LOST_TICKET) {
        list_each_safe(it, &sub->subscribers)
        {
            struct subscriber *s = CONTAINER_OF(it, struct subscriber, link);

            s->expired(s);
        }
    }
    timer_set(&sub->retry, RETRY_MIN_MS + (uint32_t)(random_u64() % RETRY_MIN_MS));
}

static const struct link_stream_ops subscription_ops = {on_notice, on_credit, on_lost};

static void on_retry(struct timer *t)
{
    subscription_open(CONTAINER_OF(t, struct subscription, retry));
}

static void subscription_open(struct subscription *sub)
{
    const struct subscriber *first = CONTAINER_OF(sub->subscribers.next, struct subscriber, link);
    struct link_target backend = route_backend(sub->table->route, first->partition, false);
    struct subscribe_request request = {
        .known = 0, .ticket = *first->ticket, .user = slice_of(sub->user, sub->user_size)};
    char head[HEAD_SIZE_SMALL];
    size_t size = subscribe_request_encode(&request, head);

    sub->modseq = 0;
    sub->stream = link_open(backend, LINK_SUBSCRIBE, slice_of(head, size), slice_of(NULL, 0), true,
                            &subscription_ops, sub);
    if (sub->stream == NULL)
        timer_set(&sub->retry, RETRY_MIN_MS + (uint32_t)(random_u64() % RETRY_MIN_MS));
}

static struct subscription *subscription_find(struct subscriptions *t, struct slice user, uint64_t hash)
{
    for (struct map_node *n = map_first(&t->by_user, hash); n != NULL; n = map_next(n)) {
        struct subscription *sub = CONTAINER_OF(n, struct subscription, node);

        if (slice_eq(slice_of(sub->user, sub->user_size), user))
            return sub;
    }
    return NULL;
}

static struct subscription *subscription_new(struct subscriptions *t, struct slice user)
{
    struct subscription *sub = heap_zalloc(t->heap, sizeof *sub + user.size);

    ASSERT(user.size <= USER_SIZE_MAX);
    sub->table = t;
    sub->user_size = (uint8_t)user.size;
    memcpy(sub->user, user.data, user.size);
    list_init(&sub->subscribers);
    timer_init(&sub->retry, on_retry);
    timer_init(&sub->soon, on_soon);
    return sub;
}

static void subscription_free(struct subscription *sub)
{
    timer_cancel(&sub->retry);
    timer_cancel(&sub->soon);
    if (sub->stream != NULL)
        link_stream_reset(sub->stream);
    map_remove(&sub->table->by_user, &sub->node);
    heap_free(sub->table->heap, sub);
}

void subscriptions_init(struct subscriptions *t, struct heap *h, const struct route *route)
{
    *t = (struct subscriptions){.heap = h, .secret = random_u64(), .route = route};
    map_init(&t->by_user, h);
}

void subscriptions_fini(struct subscriptions *t)
{
    ASSERT(t->by_user.count == 0);
    map_fini(&t->by_user);
}

void subscriber_add(struct subscriptions *t, struct subscriber *s, struct slice user)
{
    uint64_t hash = map_hash(user, t->secret);
    struct subscription *sub = subscription_find(t, user, hash);

    ASSERT(s->subscription == NULL);
    if (sub == NULL) {
        sub = subscription_new(t, user);
        map_insert(&t->by_user, &sub->node, hash);
    }
    s->subscription = sub;
    list_push_back(&sub->subscribers, &s->link);
    if (sub->stream == NULL && !timer_armed(&sub->retry))
        subscription_open(sub);
    if (sub->modseq != 0)
        timer_set(&sub->soon, 0);
}

void subscriber_remove(struct subscriptions *t, struct subscriber *s)
{
    struct subscription *sub = s->subscription;

    if (sub == NULL)
        return;
    list_remove(&s->link);
    s->subscription = NULL;
    if (list_empty(&sub->subscribers))
        subscription_free(sub);
}
