#include "roles/proxy/subscription.h"
#include "core/io.h"
#include "net/link/link.h"
#include "roles/proxy/proxy.h"
#include "roles/words/feed.h"

#define RETRY_MIN_MS  200  /* Between a lost stream and the next try, plus a jitter of as much. */
#define WALK_STEPS    4096 /* Of one turn. */
#define WALK_PAUSE_MS 1

/* NONE -> WAITING -> ASKED -> AT -> LEAVING -> NONE. When its feed has been lost since (another age), all are WAITING. */
enum subscription_state {
    NONE,    /* Nobody subscribes. */
    WAITING, /* The backend does not know of it. */
    ASKED,   /* It was told, and has not answered. */
    AT,      /* It says where the account stands. */
    LEAVING, /* It was told to forget; what it has said before may still be on its way. */
};

/* Those who are awake. */
struct audience {
    struct map_node node; /* By the user's number. */
    struct subscriber *first;
};

/* The stream for a partition, or for one user who is placed alone. */
struct feed {
    struct subscriptions *table;
    struct link_stream *stream; /* NULL: lost; `retry` runs. */
    struct timer retry;
    uint32_t age;   /* Counts losses. */
    uint32_t count; /* Subscriptions. */
    uint16_t place;
    bool ready;
    struct link_frame *frame; /* What is being written for the backend. */
    uint32_t frame_size;
};

static struct user *user_of(const struct subscriptions *t, uint32_t id)
{
    return user_at(&t->proxy->users, id);
}

/* NULL: nobody is awake. */
static struct audience *audience_of(const struct subscriptions *t, uint32_t user)
{
    struct map_node *node = map_first(&t->audiences, user);

    return node != NULL ? CONTAINER_OF(node, struct audience, node) : NULL;
}

static bool wanted(const struct subscriptions *t, uint32_t user)
{
    return user_of(t, user)->watch_count > 0 || audience_of(t, user) != NULL;
}

/* ---- Feeds --------------------------------------------------------------------------------------------- */

static void walk_in(struct subscriptions *t, uint32_t ms)
{
    t->walk_left = records_end(&t->proxy->users.records);
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

static enum subscription_state state_of(const struct feed *f, const struct user *u)
{
    return u->age == f->age ? (enum subscription_state)u->state : WAITING;
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
    t->feeds[f->place] = NULL;
    heap_free(t->heap, f);
}

/* What the backend is asked by: that of a living session. Somebody wants it. */
static struct ticket ticket_of(const struct subscriptions *t, uint32_t user)
{
    const struct audience *a = audience_of(t, user);

    return a != NULL ? *a->first->ticket : sleepers_ticket(&t->proxy->sleepers, user);
}

/* Brings the backend's view of it one step nearer to what its subscribers want. The record may be gone afterwards. */
static void step(struct subscriptions *t, uint32_t user)
{
    struct user *u = user_of(t, user);
    struct feed *f = t->feeds[u->place];
    struct feed_item item = {.cookie = user, .user = user_name_of(u)};
    enum subscription_state state;

    if (user == t->telling || u->state == NONE)
        return;
    state = state_of(f, u);
    if (state == WAITING && !wanted(t, user)) {
        u->state = NONE;
        statuses_forget(&t->proxy->statuses, user);
        users_release(&t->proxy->users, user);
        if (--f->count == 0)
            feed_drop(f);
    } else if (state == WAITING) {
        item.kind = FEED_WATCH;
        item.ticket = ticket_of(t, user);
        if (!feed_say(f, &item))
            return;
        u->state = ASKED;
        u->age = f->age;
    } else if (state != LEAVING && !wanted(t, user)) {
        item.kind = FEED_LEAVE;
        if (feed_say(f, &item))
            u->state = LEAVING;
    }
}

/* The same, and it leaves at once. */
static void step_now(struct subscriptions *t, uint32_t user)
{
    uint16_t place = user_of(t, user)->place;

    step(t, user);
    if (t->feeds[place] != NULL)
        feed_flush(t->feeds[place]);
}

/* ---- What a backend says ------------------------------------------------------------------------------- */

/* `news` NULL: the ticket has expired. */
static void tell(struct subscriptions *t, uint32_t user, const struct subscription_news *news)
{
    const struct audience *a = audience_of(t, user);

    t->telling = user;
    for (struct subscriber *s = a != NULL ? a->first : NULL, *next; s != NULL; s = next) {
        next = s->next;
        if (news == NULL)
            s->expired(s);
        else
            s->at(s, news);
    }
    if (user_of(t, user)->watch_count > 0)
        sleepers_tell(&t->proxy->sleepers, user, news);
    t->telling = RECORD_NONE;
    if (!wanted(t, user))
        step_now(t, user);
}

static void on_item(struct feed *f, const struct feed_item *item)
{
    struct subscriptions *t = f->table;
    struct user *u;

    if (item->kind == FEED_READY) {
        f->ready = true;
        walk_in(t, 0);
        return;
    }
    if (!records_has(&t->proxy->users.records, item->cookie))
        return;
    u = user_of(t, item->cookie);
    if (u->place != f->place || u->age != f->age || u->state == NONE || u->state == WAITING)
        return;
    if (item->kind == FEED_GONE) {
        u->state = WAITING;
        step_now(t, item->cookie);
    } else if (item->kind == FEED_EXPIRED && u->state != LEAVING) {
        u->state = WAITING; /* Until it was renewed; if that fails, again. */
        walk_in(t, retry_ms());
        tell(t, item->cookie, NULL);
    } else if (item->kind == FEED_AT && u->state != LEAVING) {
        struct subscription_news news = {u->state == AT ? u->modseq : 0, item->modseq, item->mailbox_id};

        u->state = AT;
        u->modseq = item->modseq;
        tell(t, item->cookie, &news);
    }
}

static void on_frame(struct link_stream *stream, struct link_frame *frame)
{
    struct feed *f = stream->owner;
    struct subscriptions *t = f->table;
    uint16_t place = f->place;
    struct slice in = link_frame_data(frame);
    struct feed_item item;

    if (frame->header.type == LINK_END) {
        feed_lost(f);
    } else if (feed_open(&in)) {
        /* With its last subscription the feed goes. */
        while (t->feeds[place] == f && feed_item_decode(&in, &item))
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
    struct feed *f = stream->owner;

    if (stream->why == LINK_LOST_ELSEWHERE)
        route_referred(&f->table->proxy->route, &stream->referral);
    feed_lost(f);
}

static const struct link_stream_ops feed_ops = {on_frame, on_credit, on_lost};

static void on_retry(struct timer *timer)
{
    struct feed *f = CONTAINER_OF(timer, struct feed, retry);
    const struct route *route = &f->table->proxy->route;
    char head[FEED_HEAD_SIZE];

    feed_head_encode(route_partition(route, f->place), head);
    f->stream = link_open(route_backend(route, f->place, false), LINK_SUBSCRIBE, slice_of(head, sizeof head),
                          slice_of(NULL, 0), false, &feed_ops, f);
    if (f->stream == NULL)
        timer_set(&f->retry, retry_ms());
}

static struct feed *feed_get(struct subscriptions *t, uint16_t place)
{
    struct feed *f = t->feeds[place];

    if (f != NULL)
        return f;
    f = heap_zalloc(t->heap, sizeof *f);
    f->table = t;
    f->place = place;
    timer_init(&f->retry, on_retry);
    t->feeds[place] = f;
    on_retry(&f->retry);
    return f;
}

/* Whoever is asked from here on, what was asked elsewhere is void: nothing that comes of it may be taken for this. */
static void user_moved(struct subscriptions *t, uint32_t id)
{
    struct user *u = user_of(t, id);
    uint16_t partition = users_partition(&t->proxy->users, user_name_of(u));
    uint16_t place = route_place(&t->proxy->route, partition, user_name_of(u));
    struct feed *f = t->feeds[u->place];

    statuses_forget(&t->proxy->statuses, id);
    if (u->state != NONE) {
        struct link_stream *stream = f->stream;

        if (stream != NULL) {
            feed_lost(f);
            link_stream_reset(stream);
        }
        if (--f->count == 0)
            feed_drop(f);
        f = feed_get(t, place);
        f->count++;
        u->state = WAITING;
        u->age = f->age;
    }
    u->place = place;
}

void subscriptions_moved(struct subscriptions *t, uint64_t user)
{
    struct users *users = &t->proxy->users;

    for (uint32_t id = users_named(users, user, RECORD_NONE); id != RECORD_NONE;
         id = users_named(users, user, id))
        user_moved(t, id);
    walk_in(t, 0);
}

/* ---- The walk ------------------------------------------------------------------------------------------ */

/* Everything that is not as it should be, once round, from where it rested: after a backend's restart that is all of
 * its accounts. */
static void on_walk(struct timer *timer)
{
    struct subscriptions *t = CONTAINER_OF(timer, struct subscriptions, walk);
    const struct records *users = &t->proxy->users.records;

    for (uint32_t i = 0; i < WALK_STEPS && t->walk_left > 0; i++) {
        uint32_t id = records_next(users, t->walk_at);
        uint32_t end = id != RECORD_NONE ? id + 1 : records_end(users);

        t->walk_left -= MIN(end - t->walk_at, t->walk_left);
        t->walk_at = id != RECORD_NONE ? end : 0;
        if (id != RECORD_NONE)
            step(t, id);
    }
    for (uint32_t i = 0; i < ROUTE_PLACES; i++) {
        if (t->feeds[i] != NULL && t->feeds[i]->stream != NULL)
            feed_flush(t->feeds[i]);
    }
    if (t->walk_left > 0)
        timer_set(&t->walk, WALK_PAUSE_MS);
}

/* ---- Subscribers --------------------------------------------------------------------------------------- */

void subscriptions_init(struct subscriptions *t, struct proxy *p)
{
    *t = (struct subscriptions){.heap = p->heap, .proxy = p, .telling = RECORD_NONE};
    map_init(&t->audiences, p->heap);
    timer_init(&t->walk, on_walk);
}

void subscriptions_fini(struct subscriptions *t)
{
    ASSERT(t->audiences.count == 0);
    for (uint32_t i = 0; i < ROUTE_PLACES; i++) {
        if (t->feeds[i] != NULL)
            feed_drop(t->feeds[i]);
    }
    timer_cancel(&t->walk);
    map_fini(&t->audiences);
}

static void attach(struct subscriptions *t, struct subscriber *s)
{
    struct audience *a = audience_of(t, s->user);

    if (a == NULL) {
        a = heap_zalloc(t->heap, sizeof *a);
        map_insert(&t->audiences, &a->node, s->user);
    }
    s->next = a->first;
    s->at_place = &a->first;
    if (s->next != NULL)
        s->next->at_place = &s->next;
    a->first = s;
}

static void detach(struct subscriptions *t, struct subscriber *s)
{
    struct audience *a = audience_of(t, s->user);

    *s->at_place = s->next;
    if (s->next != NULL)
        s->next->at_place = s->at_place;
    if (a->first != NULL)
        return;
    map_remove(&t->audiences, &a->node);
    heap_free(t->heap, a);
}

void subscription_watch(struct subscriptions *t, uint32_t user)
{
    struct user *u = user_of(t, user);

    if (u->state == NONE) {
        struct feed *f = feed_get(t, u->place);

        u->state = WAITING;
        u->age = f->age;
        f->count++;
    }
    step_now(t, user);
}

void subscription_leave(struct subscriptions *t, uint32_t user)
{
    if (!wanted(t, user))
        step_now(t, user);
}

uint64_t subscription_at(const struct subscriptions *t, uint32_t user)
{
    const struct user *u = user_of(t, user);

    return u->state == AT && state_of(t->feeds[u->place], u) == AT ? u->modseq : 0;
}

void subscriber_add(struct subscriptions *t, struct subscriber *s, uint32_t user)
{
    ASSERT(!s->subscribed);
    s->user = user;
    s->subscribed = true;
    attach(t, s);
    subscription_watch(t, user);
}

void subscriber_remove(struct subscriptions *t, struct subscriber *s)
{
    if (!s->subscribed)
        return;
    s->subscribed = false;
    detach(t, s);
    subscription_leave(t, s->user);
}

void subscriber_renewed(struct subscriptions *t, struct subscriber *s)
{
    if (!s->subscribed)
        return;
    detach(t, s); /* To the front: its ticket is the one that is shown. */
    attach(t, s);
    step_now(t, s->user);
}

uint64_t subscriber_at(const struct subscriptions *t, const struct subscriber *s)
{
    return s->subscribed ? subscription_at(t, s->user) : 0;
}
