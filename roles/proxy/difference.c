#include "roles/proxy/difference.h"
#include "core/io.h"
#include "core/metrics.h"
#include "roles/proxy/session.h"
#include "roles/ticket.h"

#define SHARED_SIZE_MAX LINK_PAYLOAD_MAX /* Of an answer that is kept for others. */

_Static_assert(sizeof(struct token) == 64, "tokens are compared as bytes: there is no padding");

static struct session *session_of(struct map_node *node)
{
    return CONTAINER_OF(node, struct session, difference.node);
}

static struct session *follower_of(struct list *place)
{
    return CONTAINER_OF(place, struct session, difference.followers);
}

_Static_assert(sizeof(struct token) == TOKEN_SIZE - 1, "no padding: tokens are hashed and compared as bytes");

static uint64_t hash_of(const struct session *s)
{
    uint64_t of_user = map_hash(session_user(s), s->proxy->differences.secret);

    return map_hash(slice_of((const char *)&s->token, sizeof s->token), of_user);
}

static bool alike(const struct session *a, const struct session *b)
{
    return memcmp(&a->token, &b->token, sizeof a->token) == 0 &&
           ticket_generation(&a->ticket) == ticket_generation(&b->ticket) &&
           slice_eq(session_user(a), session_user(b));
}

static void follow(struct session *s, struct session *leader)
{
    s->difference.leader = leader;
    list_push_back(&leader->difference.followers, &s->difference.followers);
    s->known = leader->known; /* The answer may be no newer than that. */
    s->answered = false;
    s->proxy->shard->metrics->differences_shared++;
}

bool difference_join(struct session *s)
{
    struct map *open = &s->proxy->differences.open;
    struct difference *d = &s->difference;
    uint64_t hash = hash_of(s);

    ASSERT(d->leader == NULL && s->state == SESSION_IDLE);
    for (struct map_node *n = map_first(open, hash); n != NULL; n = map_next(n)) {
        if (alike(s, session_of(n))) {
            follow(s, session_of(n));
            return true;
        }
    }
    d->leader = s;
    d->open = true;
    d->size = 0;
    list_init(&d->followers);
    list_init(&d->frames);
    map_insert(open, &d->node, hash);
    return false;
}

static void shut(struct session *leader)
{
    if (leader->difference.open)
        map_remove(&leader->proxy->differences.open, &leader->difference.node);
    leader->difference.open = false;
}

static void frames_drop(struct difference *d)
{
    for (struct list *it; (it = list_pop_front(&d->frames)) != NULL;)
        link_frame_release(CONTAINER_OF(it, struct link_frame, link));
}

/* ---- The answer ---------------------------------------------------------------------------------------- */

static struct link_frame *frame_copy(const struct link_frame *f)
{
    struct link_frame *copy = link_frame_new(f->header.size);

    copy->header = f->header;
    memcpy(copy->payload, f->payload, f->header.size);
    return copy;
}

static void give(struct session *s, struct list *frames, const struct link_frame *end)
{
    list_each(it, frames)
    {
        session_answer_add(s, frame_copy(CONTAINER_OF(it, struct link_frame, link)));
        if (s->state == SESSION_CLOSING) /* It was not understood. */
            return;
    }
    session_answer_add(s, frame_copy(end));
}

static void give_all(struct session *leader, const struct link_frame *end)
{
    struct difference *d = &leader->difference;

    d->leader = NULL;
    for (struct list *it; (it = list_pop_front(&d->followers)) != NULL;) {
        struct session *s = follower_of(it);

        s->difference.leader = NULL;
        give(s, &d->frames, end);
    }
    frames_drop(d);
}

void difference_came(struct session *s, const struct link_frame *f)
{
    struct difference *d = &s->difference;

    if (d->leader != s)
        return;
    shut(s);
    if (f->header.type == LINK_END) {
        give_all(s, f);
        return;
    }
    d->size += f->header.size;
    if (d->size > SHARED_SIZE_MAX || list_empty(&d->followers)) {
        difference_leave(s);
        return;
    }
    list_push_back(&d->frames, &frame_copy(f)->link);
}

/* ---- Leaving ------------------------------------------------------------------------------------------- */

static void disband(struct session *leader)
{
    struct difference *d = &leader->difference;

    shut(leader);
    d->leader = NULL;
    frames_drop(d);
    for (struct list *it; (it = list_pop_front(&d->followers)) != NULL;) {
        struct session *s = follower_of(it);

        s->difference.leader = NULL;
        if (s->idle_done)
            session_idle_synced(s); /* It is told at its next command. */
        else
            session_sync_alone(s);
    }
}

void difference_leave(struct session *s)
{
    if (s->difference.leader == s)
        disband(s);
    else if (s->difference.leader != NULL)
        list_remove(&s->difference.followers);
    s->difference.leader = NULL;
}

void differences_init(struct differences *t, struct heap *h)
{
    map_init(&t->open, h);
    t->secret = random_u64();
}

void differences_fini(struct differences *t)
{
    map_fini(&t->open);
}
