#include "roles/proxy/subscription.h"
#include "core/io.h"
#include "core/map.h"
#include "net/link/link.h"
#include "roles/words/feed.h"

#define RETRY_MIN_MS  200 /* Between a lost stream and the next try, plus a jitter of as much. */
#define BUCKETS_FIRST 64
#define NONE          UINT32_MAX
#define WALK_STEPS    4096 /* Of one turn. */
#define WALK_PAUSE_MS 1

/* WAITING -> ASKED -> AT -> LEAVING -> free. When its feed has been lost since (another age), all are WAITING. */
enum subscription_state {
    WAITING, /* The backend does not know of it. */
    ASKED,   /* It was told, and has not answered. */
    AT,      /* It says where the account stands. */
    LEAVING, /* It was told to forget; what it has said before may still be on its way. */
};

/* The stream for a partition. */
struct feed {
    struct subscriptions *table;
    struct link_stream *stream; /* NULL: lost; `retry` runs. */
    struct timer retry;
    uint32_t age;   /* Counts losses. */
    uint32_t count; /* Subscriptions. */
    uint16_t partition;
    bool ready;
    struct link_frame *frame; /* What is being written for the backend. */
    uint32_t frame_size;
};

/* ---- Records by index and by name ---------------------------------------------------------------------- */

static struct subscription *at_index(const struct subscriptions *t, uint32_t index)
{
    return &t->chunks[index / SUBSCRIPTION_CHUNK][index % SUBSCRIPTION_CHUNK];
}

static struct slice user_of(const struct subscription *sub)
{
    const char *name = sub->user;

    if (sub->user_size > sizeof sub->user)
        memcpy(&name, sub->user, sizeof name);
    return slice_of(name, sub->user_size);
}

static void user_set(struct subscriptions *t, struct subscription *sub, struct slice user)
{
    char *name = sub->user;

    ASSERT(user.size > 0 && user.size <= USER_SIZE_MAX);
    if (user.size > sizeof sub->user) {
        name = heap_alloc(t->heap, user.size);
        memcpy(sub->user, &name, sizeof name);
    }
    memcpy(name, user.data, user.size);
    sub->user_size = (uint8_t)user.size;
}

static void chunk_add(struct subscriptions *t)
{
    struct subscription **chunks = heap_alloc(t->heap, (t->chunk_count + 1) * sizeof *chunks);
    struct subscription *chunk = heap_zalloc(t->heap, SUBSCRIPTION_CHUNK * sizeof *chunk);
    uint32_t first = t->chunk_count * SUBSCRIPTION_CHUNK;

    for (uint32_t i = 0; i < t->chunk_count; i++)
        chunks[i] = t->chunks[i];
    chunks[t->chunk_count++] = chunk;
    heap_free(t->heap, t->chunks);
    t->chunks = chunks;
    for (uint32_t i = SUBSCRIPTION_CHUNK; i-- > 0;) {
        chunk[i].next = t->free;
        t->free = first + i;
    }
}

static void buckets_grow(struct subscriptions *t)
{
    uint32_t count = t->bucket_count * 2;
    uint32_t *bigger = heap_try_alloc(t->heap, count * sizeof *bigger);

    if (bigger == NULL)
        return; /* Longer chains, no error. */
    memset(bigger, 0xff, count * sizeof *bigger);
    for (uint32_t b = 0; b < t->bucket_count; b++) {
        for (uint32_t i = t->buckets[b], next; i != NONE; i = next) {
            struct subscription *sub = at_index(t, i);

            next = sub->next;
            sub->next = bigger[sub->hash & (count - 1)];
            bigger[sub->hash & (count - 1)] = i;
        }
    }
    heap_free(t->heap, t->buckets);
    t->buckets = bigger;
    t->bucket_count = count;
}

static uint32_t index_find(const struct subscriptions *t, struct slice user, uint32_t hash)
{
    uint32_t i = t->buckets[hash & (t->bucket_count - 1)];

    while (i != NONE && (at_index(t, i)->hash != hash || !slice_eq(user_of(at_index(t, i)), user)))
        i = at_index(t, i)->next;
    return i;
}

static uint32_t index_new(struct subscriptions *t, struct slice user, uint32_t hash)
{
    struct subscription *sub;
    uint32_t i, *bucket;

    if (t->free == NONE)
        chunk_add(t);
    if (t->count >= t->bucket_count)
        buckets_grow(t);
    i = t->free;
    sub = at_index(t, i);
    t->free = sub->next;
    t->end = MAX(t->end, i + 1);
    t->count++;
    bucket = &t->buckets[hash & (t->bucket_count - 1)];
    *sub = (struct subscription){.hash = hash, .next = *bucket};
    user_set(t, sub, user);
    *bucket = i;
    return i;
}

static void index_free(struct subscriptions *t, uint32_t index)
{
    struct subscription *sub = at_index(t, index);
    uint32_t *at = &t->buckets[sub->hash & (t->bucket_count - 1)];

    while (*at != index)
        at = &at_index(t, *at)->next;
    *at = sub->next;
    if (sub->user_size > sizeof sub->user)
        heap_free(t->heap, (void *)(uintptr_t)user_of(sub).data);
    *sub = (struct subscription){.next = t->free};
    t->free = index;
    t->count--;
}

/* ---- Feeds --------------------------------------------------------------------------------------------- */

static void walk_in(struct subscriptions *t, uint32_t ms)
{
    t->walk_left = t->end;
    if (!timer_armed(&t->walk))
        timer_set(&t->walk, ms);
}

static uint32_t retry_ms(void)
{
    return RETRY_MIN_MS + (uint32_t)(random_u64() % RETRY_MIN_MS);
}

/* All that it has said is void. */
static void feed_lost(struct feed *f)
{
    f->stream = NULL;
    f->ready = false;
    f->age++;
    if (f->frame != NULL)
        link_frame_release(f->frame);
    f->frame = NULL;
    timer_set(&f->retry, retry_ms());
}

static enum subscription_state state_of(const struct feed *f, const struct subscription *sub)
{
    return sub->age == f->age ? (enum subscription_state)sub->state : WAITING;
}

static void feed_flush(struct feed *f)
{
    if (f->frame == NULL)
        return;
    link_send(f->stream, f->frame, f->frame_size, 0);
    f->frame = NULL;
}

/* False: not now; it is asked again when there is credit. */
static bool feed_say(struct feed *f, const struct feed_item *item)
{
    if (f->frame != NULL && f->frame_size + FEED_ITEM_SIZE_MAX > f->frame->capacity)
        feed_flush(f);
    if (!f->ready || link_credit(f->stream) <= 0)
        return false;
    if (f->frame == NULL) {
        f->frame = link_frame_new(FEED_HEADER_SIZE + 2 * FEED_ITEM_SIZE_MAX);
        f->frame_size = (uint32_t)feed_begin(f->frame->payload);
    }
    f->frame_size += (uint32_t)feed_item_encode(item, f->frame->payload + f->frame_size);
    return true;
}

static void feed_drop(struct feed *f)
{
    struct subscriptions *t = f->table;

    timer_cancel(&f->retry);
    if (f->frame != NULL)
        link_frame_release(f->frame);
    if (f->stream != NULL)
        link_stream_reset(f->stream);
    t->feeds[f->partition] = NULL;
    heap_free(t->heap, f);
}

/* Brings the backend's view of it one step nearer to what its subscribers want. The record may be gone afterwards. */
static void step(struct subscriptions *t, uint32_t index)
{
    struct subscription *sub = at_index(t, index);
    struct feed *f = t->feeds[sub->partition];
    struct feed_item item = {.cookie = index, .user = user_of(sub)};
    enum subscription_state state = state_of(f, sub);

    if (sub == t->telling)
        return;
    if (state == WAITING && sub->first == NULL) {
        index_free(t, index);
        if (--f->count == 0)
            feed_drop(f);
    } else if (state == WAITING) {
        item.kind = FEED_WATCH;
        item.ticket = *sub->first->ticket;
        if (!feed_say(f, &item))
            return;
        sub->state = ASKED;
        sub->age = f->age;
    } else if (state != LEAVING && sub->first == NULL) {
        item.kind = FEED_LEAVE;
        if (feed_say(f, &item))
            sub->state = LEAVING;
    }
}

/* The same, and it leaves at once. */
static void step_now(struct subscriptions *t, uint32_t index)
{
    uint16_t partition = at_index(t, index)->partition;

    step(t, index);
    if (t->feeds[partition] != NULL)
        feed_flush(t->feeds[partition]);
}

/* ---- What a backend says ------------------------------------------------------------------------------- */

/* `news` NULL: the ticket has expired. */
static void tell(struct subscriptions *t, uint32_t index, const struct subscription_news *news)
{
    struct subscription *sub = at_index(t, index);

    t->telling = sub;
    for (struct subscriber *s = sub->first, *next; s != NULL; s = next) {
        next = s->next;
        if (news == NULL)
            s->expired(s);
        else
            s->at(s, news);
    }
    t->telling = NULL;
    if (sub->first == NULL)
        step_now(t, index);
}

static void on_item(struct feed *f, const struct feed_item *item)
{
    struct subscriptions *t = f->table;
    struct subscription *sub;

    if (item->kind == FEED_READY) {
        f->ready = true;
        walk_in(t, 0);
        return;
    }
    if (item->cookie / SUBSCRIPTION_CHUNK >= t->chunk_count)
        return;
    sub = at_index(t, item->cookie);
    if (sub->user_size == 0 || sub->partition != f->partition || sub->age != f->age || sub->state == WAITING)
        return;
    if (item->kind == FEED_GONE) {
        sub->state = WAITING;
        step_now(t, item->cookie);
    } else if (item->kind == FEED_EXPIRED && sub->state != LEAVING) {
        sub->state = WAITING; /* Until it was renewed; if that fails, again. */
        walk_in(t, retry_ms());
        tell(t, item->cookie, NULL);
    } else if (item->kind == FEED_AT && sub->state != LEAVING) {
        struct subscription_news news = {sub->state == AT ? sub->modseq : 0, item->modseq, item->mailbox_id};

        sub->state = AT;
        sub->modseq = item->modseq;
        tell(t, item->cookie, &news);
    }
}

static void on_frame(struct link_stream *stream, struct link_frame *frame)
{
    struct feed *f = stream->owner;
    struct subscriptions *t = f->table;
    uint16_t partition = f->partition;
    struct slice in = link_frame_data(frame);
    struct feed_item item;

    if (frame->header.type == LINK_END) {
        feed_lost(f);
    } else if (feed_open(&in)) {
        /* With its last subscription the feed goes. */
        while (t->feeds[partition] == f && feed_item_decode(&in, &item))
            on_item(f, &item);
    }
    link_frame_release(frame);
}

static void on_credit(struct link_stream *stream)
{
    struct feed *f = stream->owner;

    walk_in(f->table, WALK_PAUSE_MS);
}

static void on_lost(struct link_stream *stream)
{
    feed_lost(stream->owner);
}

static const struct link_stream_ops feed_ops = {on_frame, on_credit, on_lost};

static void on_retry(struct timer *timer)
{
    struct feed *f = CONTAINER_OF(timer, struct feed, retry);
    char head[FEED_HEAD_SIZE];

    feed_head_encode(f->partition, head);
    f->stream = link_open(route_backend(f->table->route, f->partition, false), LINK_SUBSCRIBE,
                          slice_of(head, sizeof head), slice_of(NULL, 0), false, &feed_ops, f);
    if (f->stream == NULL)
        timer_set(&f->retry, retry_ms());
}

static struct feed *feed_get(struct subscriptions *t, uint16_t partition)
{
    struct feed *f = t->feeds[partition];

    if (f != NULL)
        return f;
    f = heap_zalloc(t->heap, sizeof *f);
    f->table = t;
    f->partition = partition;
    timer_init(&f->retry, on_retry);
    t->feeds[partition] = f;
    on_retry(&f->retry);
    return f;
}

/* ---- The walk ------------------------------------------------------------------------------------------ */

/* Everything that is not as it should be, once round, from where it rested: after a backend's restart that is all of
 * its accounts. */
static void on_walk(struct timer *timer)
{
    struct subscriptions *t = CONTAINER_OF(timer, struct subscriptions, walk);

    for (uint32_t i = 0; i < WALK_STEPS && t->walk_left > 0; i++, t->walk_left--) {
        t->walk_at = t->walk_at + 1 < t->end ? t->walk_at + 1 : 0;
        if (at_index(t, t->walk_at)->user_size > 0)
            step(t, t->walk_at);
    }
    for (uint32_t i = 0; i < PARTITION_COUNT; i++) {
        if (t->feeds[i] != NULL && t->feeds[i]->stream != NULL)
            feed_flush(t->feeds[i]);
    }
    if (t->walk_left > 0)
        timer_set(&t->walk, WALK_PAUSE_MS);
}

/* ---- Subscribers --------------------------------------------------------------------------------------- */

void subscriptions_init(struct subscriptions *t, struct heap *h, const struct route *route)
{
    *t = (struct subscriptions){
        .heap = h, .secret = random_u64(), .route = route, .free = NONE, .bucket_count = BUCKETS_FIRST};
    t->buckets = heap_alloc(h, BUCKETS_FIRST * sizeof *t->buckets);
    memset(t->buckets, 0xff, BUCKETS_FIRST * sizeof *t->buckets);
    timer_init(&t->walk, on_walk);
}

void subscriptions_fini(struct subscriptions *t)
{
    for (uint32_t i = 0; i < t->end; i++) {
        ASSERT(at_index(t, i)->first == NULL);
        if (at_index(t, i)->user_size > 0)
            index_free(t, i);
    }
    for (uint32_t i = 0; i < PARTITION_COUNT; i++) {
        if (t->feeds[i] != NULL)
            feed_drop(t->feeds[i]);
    }
    timer_cancel(&t->walk);
    for (uint32_t i = 0; i < t->chunk_count; i++)
        heap_free(t->heap, t->chunks[i]);
    heap_free(t->heap, t->chunks);
    heap_free(t->heap, t->buckets);
}

static void attach(struct subscription *sub, struct subscriber *s)
{
    s->next = sub->first;
    s->at_place = &sub->first;
    if (s->next != NULL)
        s->next->at_place = &s->next;
    sub->first = s;
}

static void detach(struct subscriber *s)
{
    *s->at_place = s->next;
    if (s->next != NULL)
        s->next->at_place = s->at_place;
}

void subscriber_add(struct subscriptions *t, struct subscriber *s, struct slice user)
{
    uint32_t hash = (uint32_t)map_hash(user, t->secret), index = index_find(t, user, hash);

    ASSERT(!s->subscribed);
    if (index == NONE) {
        struct feed *f = feed_get(t, s->partition % PARTITION_COUNT);

        index = index_new(t, user, hash);
        at_index(t, index)->partition = f->partition;
        at_index(t, index)->age = f->age;
        f->count++;
    }
    s->index = index;
    s->subscribed = true;
    attach(at_index(t, index), s);
    step_now(t, index);
}

void subscriber_remove(struct subscriptions *t, struct subscriber *s)
{
    if (!s->subscribed)
        return;
    s->subscribed = false;
    detach(s);
    if (at_index(t, s->index)->first == NULL)
        step_now(t, s->index);
}

void subscriber_renewed(struct subscriptions *t, struct subscriber *s)
{
    if (!s->subscribed)
        return;
    detach(s); /* To the front: its ticket is the one that is shown. */
    attach(at_index(t, s->index), s);
    step_now(t, s->index);
}

uint64_t subscriber_at(const struct subscriptions *t, const struct subscriber *s)
{
    const struct subscription *sub;

    if (!s->subscribed)
        return 0;
    sub = at_index(t, s->index);
    return state_of(t->feeds[sub->partition], sub) == AT ? sub->modseq : 0;
}
