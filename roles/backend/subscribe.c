/* roles/backend/subscribe.c -- who wants to hear of changes: a feed is the stream of one proxy core for one partition
 * (roles/words/feed.h). A subscription is an entry of 12 bytes in its feed's table, by the hash of the account, and holds no
 * account in memory. A feed whose reader lags is cut: he asks anew, and is told where everything stands. */
#include "roles/backend/backend.h"
#include "roles/backend/member.h"
#include "roles/words/feed.h"
#include "storage/store.h"

#define ENTRIES_MIN 8

struct entry {
    uint32_t low, high; /* store_account_hash(); 0, 0: free. */
    uint32_t cookie;
};

struct feed {
    struct list link; /* In subscriptions->feeds[partition]. */
    struct link_stream *stream;
    uint16_t partition;
    bool wired; /* Came from another process: each subscription needs a ticket. */
    char proxy[LINK_NODE_NAME_MAX + 1];
    struct entry *entries; /* Open addressing, at most five of six places taken. */
    uint32_t capacity, count;
    struct link_frame *frame; /* What is being written for the proxy. */
    uint32_t frame_size;
};

struct subscriptions {
    uint32_t count;
    uint64_t revoked; /* Revocations up to this generation have ended their subscriptions. */
    struct list feeds[STORE_PARTITION_COUNT];
};

/* ---- The table of a feed: linear probing, the hash's upper half says where from -------------------------- */

static uint32_t home_of(const struct feed *f, uint32_t high)
{
    return (uint32_t)((uint64_t)high * f->capacity >> 32);
}

static uint32_t after(const struct feed *f, uint32_t i)
{
    return i + 1 < f->capacity ? i + 1 : 0;
}

static bool entry_free(const struct entry *e)
{
    return e->low == 0 && e->high == 0;
}

static void entry_put(struct feed *f, const struct entry *e)
{
    uint32_t i = home_of(f, e->high);

    while (!entry_free(&f->entries[i]))
        i = after(f, i);
    f->entries[i] = *e;
    f->count++;
}

static bool entries_grow(struct backend *b, struct feed *f)
{
    uint32_t old_capacity = f->capacity;
    struct entry *old = f->entries;
    size_t size = MAX(old_capacity, ENTRIES_MIN) * sizeof *old;
    struct entry *bigger;

    do
        size = heap_step(size);
    while (size / sizeof *old <= old_capacity);
    bigger = heap_try_alloc(b->heap, size);
    if (bigger == NULL)
        return false;
    memset(bigger, 0, size);
    f->entries = bigger;
    f->capacity = (uint32_t)(size / sizeof *old);
    f->count = 0;
    for (uint32_t i = 0; i < old_capacity; i++) {
        if (!entry_free(&old[i]))
            entry_put(f, &old[i]);
    }
    heap_free(b->heap, old);
    return true;
}

static struct entry entry_of(uint64_t account, uint32_t cookie)
{
    account = MAX(account, 1u);
    return (struct entry){(uint32_t)account, (uint32_t)(account >> 32), cookie};
}

/* The first entry of that account from place *at on; false: there is none. Begin with home_of(). */
static bool entry_find(const struct feed *f, const struct entry *key, uint32_t *at)
{
    for (; f->capacity > 0 && !entry_free(&f->entries[*at]); *at = after(f, *at)) {
        if (f->entries[*at].low == key->low && f->entries[*at].high == key->high)
            return true;
    }
    return false;
}

/* What comes behind moves up, so that no search stops short of it. */
static void entry_drop(struct feed *f, uint32_t hole)
{
    for (uint32_t i = after(f, hole); !entry_free(&f->entries[i]); i = after(f, i)) {
        uint32_t home = home_of(f, f->entries[i].high);
        bool between = hole <= i ? home > hole && home <= i : home > hole || home <= i;

        if (between)
            continue;
        f->entries[hole] = f->entries[i];
        hole = i;
    }
    f->entries[hole] = (struct entry){0};
    f->count--;
}

/* ---- Words to the proxy -------------------------------------------------------------------------------- */

static void feed_flush(struct feed *f)
{
    if (f->frame == NULL)
        return;
    link_send(f->stream, f->frame, f->frame_size, 0);
    f->frame = NULL;
}

static void feed_say(struct feed *f, const struct feed_item *item)
{
    if (f->frame != NULL && f->frame_size + FEED_ITEM_SIZE_MAX > f->frame->capacity)
        feed_flush(f);
    if (f->frame == NULL) {
        f->frame = link_frame_new(FEED_HEADER_SIZE + 2 * FEED_ITEM_SIZE_MAX);
        f->frame_size = (uint32_t)feed_begin(f->frame->payload);
    }
    f->frame_size += (uint32_t)feed_item_encode(item, f->frame->payload + f->frame_size);
}

/* Its stream is gone, or goes with it. */
static void feed_free(struct backend *b, struct feed *f)
{
    b->subscriptions->count -= f->count;
    list_remove(&f->link);
    if (f->frame != NULL)
        link_frame_release(f->frame);
    heap_free(b->heap, f->entries);
    heap_free(b->heap, f);
}

static void feed_cut(struct backend *b, struct feed *f)
{
    struct link_stream *stream = f->stream;

    feed_free(b, f);
    link_stream_reset(stream);
}

/* What was said leaves, unless its reader has lost the thread. */
static void feed_told(struct backend *b, struct feed *f)
{
    if (f->frame != NULL && link_credit(f->stream) <= 0)
        feed_cut(b, f);
    else
        feed_flush(f);
}

/* ---- Changes ------------------------------------------------------------------------------------------- */

static void account_changed(unsigned partition, uint64_t account, const struct store_change *change,
                            void *arg)
{
    struct backend *b = arg;
    struct entry key = entry_of(account, 0);
    struct feed_item item = {.kind = FEED_AT, .modseq = change->modseq};

    if (change->mailbox_count == 1 && !change->all_mailboxes)
        item.mailbox_id = change->mailboxes[0];
    list_each_safe(it, &b->subscriptions->feeds[partition])
    {
        struct feed *f = CONTAINER_OF(it, struct feed, link);

        for (uint32_t at = home_of(f, key.high); entry_find(f, &key, &at); at = after(f, at)) {
            item.cookie = f->entries[at].cookie;
            feed_say(f, &item);
        }
        feed_told(b, f);
    }
}

/* ---- What a proxy says --------------------------------------------------------------------------------- */

/* False: no memory, or no more may be. */
static bool entry_add(struct backend *b, struct feed *f, const struct entry *e)
{
    if (b->subscriptions->count >= BACKEND_SUBSCRIPTIONS_MAX)
        return false;
    if ((f->count + 1) * 6 > f->capacity * 5 && !entries_grow(b, f))
        return false;
    entry_put(f, e);
    b->subscriptions->count++;
    return true;
}

static bool entry_remove(struct backend *b, struct feed *f, const struct entry *e)
{
    for (uint32_t at = home_of(f, e->high); entry_find(f, e, &at); at = after(f, at)) {
        if (f->entries[at].cookie == e->cookie) {
            entry_drop(f, at);
            b->subscriptions->count--;
            return true;
        }
    }
    return false;
}

/* Registered before the number is read, so no change falls between. */
static bool on_watch(struct backend *b, struct feed *f, const struct feed_item *in)
{
    struct feed_item item = {.kind = FEED_AT, .cookie = in->cookie};
    struct entry e = entry_of(store_account_hash(b->store, in->user), in->cookie);
    struct member_claim claim = member_claim(&in->ticket, in->user);
    enum link_lost why;

    if (f->wired ? !member_ticket_good(f->proxy, f->partition, &in->ticket, TICKET_SESSION, in->user, &why)
                 : !member_serves(in->user) || member_claim_revoked(&claim)) {
        item.kind = FEED_EXPIRED;
    } else {
        (void)entry_remove(b, f, &e); /* Asked again: with a newer ticket. */
        if (!entry_add(b, f, &e))
            return false;
        item.modseq = store_user_modseq(b->store, in->user);
    }
    feed_say(f, &item);
    return true;
}

static bool on_item(struct backend *b, struct feed *f, const struct feed_item *in)
{
    struct feed_item item = {.kind = FEED_GONE, .cookie = in->cookie};
    struct entry e;

    switch (in->kind) {
    case FEED_WATCH:
        return in->user.size > 0 && on_watch(b, f, in);
    case FEED_LEAVE:
        e = entry_of(store_account_hash(b->store, in->user), in->cookie);
        (void)entry_remove(b, f, &e);
        feed_say(f, &item);
        return true;
    default:
        return false;
    }
}

static void on_frame(struct link_stream *stream, struct link_frame *frame)
{
    struct backend *b = backend_self();
    struct feed *f = stream->owner;
    struct slice in = link_frame_data(frame);
    bool good = feed_open(&in);
    struct feed_item item;

    while (good && feed_item_decode(&in, &item))
        good = on_item(b, f, &item);
    good = good && in.size == 0;
    link_frame_release(frame);
    if (good)
        feed_told(b, f);
    else
        feed_cut(b, f);
}

static void on_credit(struct link_stream *stream)
{
}

static void on_lost(struct link_stream *stream)
{
    feed_free(backend_self(), stream->owner);
}

static const struct link_stream_ops feed_ops = {on_frame, on_credit, on_lost};

void subscribe_serve(struct link_stream *stream, struct link_frame *open)
{
    const struct feed_item ready = {.kind = FEED_READY};
    struct backend *b = backend_self();
    struct link_node from;
    uint16_t partition;
    struct feed *f;

    if (b->stopping || !feed_head_decode(link_frame_head(open), &partition) ||
        partition >= STORE_PARTITION_COUNT) {
        link_stream_refuse(stream, LINK_LOST_REFUSED);
        link_frame_release(open);
        return;
    }
    f = heap_zalloc(b->heap, sizeof *f);
    f->stream = stream;
    f->partition = partition;
    f->wired = link_frame_origin(open, &from);
    if (f->wired)
        memcpy(f->proxy, from.name, sizeof f->proxy);
    stream->ops = &feed_ops;
    stream->owner = f;
    list_push_back(&b->subscriptions->feeds[partition], &f->link);
    link_frame_release(open);
    feed_say(f, &ready);
    feed_flush(f);
}

/* ---- Revocations --------------------------------------------------------------------------------------- */

static void expire(struct backend *b, struct feed *f, uint32_t at)
{
    const struct feed_item item = {.kind = FEED_EXPIRED, .cookie = f->entries[at].cookie};

    feed_say(f, &item);
    entry_drop(f, at);
    b->subscriptions->count--;
}

static void feed_expire_user(struct backend *b, struct feed *f, uint64_t account)
{
    struct entry key = entry_of(account, 0);
    uint32_t at = home_of(f, key.high);

    while (entry_find(f, &key, &at))
        expire(b, f, at);
}

/* `all`: some of the revocations since the last time are not known any more. */
static void feed_expire(struct backend *b, struct feed *f, const struct revocations *r, bool all)
{
    for (uint32_t i = revocations_after(r, b->subscriptions->revoked); !all && i < r->count; i++)
        feed_expire_user(b, f, r->entries[i].user);
    for (uint32_t at = 0; all && at < f->capacity;) {
        if (entry_free(&f->entries[at]))
            at++;
        else
            expire(b, f, at);
    }
    feed_told(b, f);
}

void subscribe_end_revoked(struct backend *b)
{
    const struct revocations *r = member_revocations();
    struct subscriptions *s = b->subscriptions;

    if (r == NULL || r->generation == s->revoked)
        return;
    for (unsigned partition = 0; partition < STORE_PARTITION_COUNT; partition++) {
        list_each_safe(it, &s->feeds[partition])
        {
            struct feed *f = CONTAINER_OF(it, struct feed, link);

            feed_expire(b, f, r, r->floor > s->revoked);
        }
    }
    s->revoked = r->generation;
}

/* ---- Start and stop ------------------------------------------------------------------------------------ */

void subscribe_start(struct backend *b)
{
    const struct revocations *r = member_revocations();

    b->subscriptions = heap_zalloc(b->heap, sizeof *b->subscriptions);
    b->subscriptions->revoked = r != NULL ? r->generation : 0;
    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++)
        list_init(&b->subscriptions->feeds[i]);
    store_watch(b->store, account_changed, b);
}

void subscribe_stop(struct backend *b)
{
    store_watch(b->store, NULL, NULL);
    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++) {
        list_each_safe(it, &b->subscriptions->feeds[i])
        {
            feed_cut(b, CONTAINER_OF(it, struct feed, link));
        }
    }
}
