#include "roles/proxy/handshakes.h"
#include "core/map.h"
#include "core/metrics.h"

static struct handshake *first_of(const struct list *l)
{
    return CONTAINER_OF(l->next, struct handshake, link);
}

static struct handshake *last_of(const struct list *l)
{
    return CONTAINER_OF(l->prev, struct handshake, link);
}

static struct handshake_crowd *crowd_of(struct handshakes *h, const struct net_addr *peer)
{
    return &h->crowds[map_hash(net_addr_subscriber(peer), h->secret) % HANDSHAKE_CROWDS];
}

/* ---- Waiting ------------------------------------------------------------------------------------------- */

static void wait_begin(struct handshakes *h, struct handshake *one)
{
    if (list_empty(&one->crowd->waiting)) {
        list_push_back(&h->turns, &one->crowd->turn);
        one->crowd->oldest = false;
    }
    one->stage = HANDSHAKE_WAITING;
    list_push_front(&one->crowd->waiting, &one->link);
}

static void wait_end(struct handshake *one)
{
    list_remove(&one->link);
    if (list_empty(&one->crowd->waiting))
        list_remove(&one->crowd->turn);
}

/* Whose turn it is. */
static struct handshake_crowd *crowd_next(const struct handshakes *h)
{
    return CONTAINER_OF(h->turns.next, struct handshake_crowd, turn);
}

static struct handshake *wait_next(struct handshakes *h)
{
    struct handshake_crowd *crowd = crowd_next(h);
    struct handshake *one = crowd->oldest ? last_of(&crowd->waiting) : first_of(&crowd->waiting);

    crowd->oldest = !crowd->oldest;
    wait_end(one);
    if (!list_empty(&crowd->waiting)) {
        list_remove(&crowd->turn);
        list_push_back(&h->turns, &crowd->turn);
    }
    return one;
}

/* ---- Under way ----------------------------------------------------------------------------------------- */

static void begin(struct handshakes *h, struct handshake *one)
{
    one->stage = HANDSHAKE_SHAKING;
    one->since_ms = time_ms();
    list_push_back(&one->crowd->shaking, &one->link);
    list_push_back(&h->shaking, &one->all);
    one->crowd->count++;
    h->count++;
    if (++h->recent >= h->max) { /* What was longer ago counts half as much. */
        h->recent /= 2;
        h->recent_done /= 2;
    }
    if (h->begun++ == 0)
        timer_set(&h->timer, 0); /* The next turn begins to count anew. */
    one->ops->begin(one);
}

/* The one that has more than its share, and more than those whose turn it is. NULL: there is none. */
static struct handshake_crowd *crowd_greedy(struct handshakes *h)
{
    struct handshake_crowd *most = &h->crowds[0];

    for (unsigned i = 1; i < HANDSHAKE_CROWDS; i++) {
        if (h->crowds[i].count > most->count)
            most = &h->crowds[i];
    }
    return most->count * HANDSHAKE_SHARE > h->max && most->count > crowd_next(h)->count + 1 ? most : NULL;
}

static void give_way(struct handshake *one)
{
    shard_self()->metrics->handshakes_cut++;
    one->ops->give_way(one);
    ASSERT(one->stage == HANDSHAKE_NONE);
}

static uint64_t grace_ms(const struct handshakes *h)
{
    bool honest = h->recent_done * HANDSHAKE_GOOD_PART >= h->recent;

    return honest ? HANDSHAKE_GRACE_BUSY_MS : HANDSHAKE_GRACE_MS;
}

/* Somebody, if he has had his time; else the timer is set for when the first of them will have. */
static bool gives_way(struct handshakes *h)
{
    struct handshake_crowd *greedy = crowd_greedy(h);
    struct handshake *one = CONTAINER_OF(h->shaking.next, struct handshake, all);
    uint64_t now_ms = time_ms(), due_ms = one->since_ms + grace_ms(h);

    if (greedy != NULL && first_of(&greedy->shaking)->since_ms + HANDSHAKE_GRACE_LEAST_MS < due_ms) {
        one = first_of(&greedy->shaking);
        due_ms = one->since_ms + HANDSHAKE_GRACE_LEAST_MS;
    }
    if (due_ms > now_ms) {
        timer_set(&h->timer, (uint32_t)(due_ms - now_ms));
        return false;
    }
    give_way(one);
    return true;
}

static void on_timer(struct timer *t)
{
    struct handshakes *h = CONTAINER_OF(t, struct handshakes, timer);

    h->begun = 0;
    while (!list_empty(&h->turns) && h->begun < HANDSHAKES_A_TURN) {
        if (h->count < h->max)
            begin(h, wait_next(h));
        else if (!gives_way(h))
            break;
    }
}

/* ---- From outside -------------------------------------------------------------------------------------- */

void handshakes_init(struct handshakes *h, uint64_t max, uint64_t secret)
{
    list_init(&h->shaking);
    list_init(&h->turns);
    for (unsigned i = 0; i < HANDSHAKE_CROWDS; i++) {
        list_init(&h->crowds[i].waiting);
        list_init(&h->crowds[i].shaking);
        list_init(&h->crowds[i].turn);
    }
    h->max = max;
    h->secret = secret;
    timer_init(&h->timer, on_timer);
}

void handshakes_fini(struct handshakes *h)
{
    timer_cancel(&h->timer);
}

void handshake_ask(struct handshakes *h, struct handshake *one, const struct net_addr *peer,
                   const struct handshake_ops *ops)
{
    ASSERT(one->stage == HANDSHAKE_NONE);
    one->ops = ops;
    one->crowd = crowd_of(h, peer);
    if (list_empty(&h->turns) && h->count < h->max && h->begun < HANDSHAKES_A_TURN) {
        begin(h, one);
        return;
    }
    wait_begin(h, one);
    timer_set(&h->timer, 0); /* Not here: it may end sessions. */
}

void handshake_done(struct handshakes *h, struct handshake *one)
{
    h->recent_done++;
    handshake_leave(h, one);
}

void handshake_leave(struct handshakes *h, struct handshake *one)
{
    if (one->stage == HANDSHAKE_WAITING) {
        wait_end(one);
    } else if (one->stage == HANDSHAKE_SHAKING) {
        list_remove(&one->link);
        list_remove(&one->all);
        one->crowd->count--;
        h->count--;
        if (!list_empty(&h->turns))
            timer_set(&h->timer, 0);
    }
    one->stage = HANDSHAKE_NONE;
}
