#include "roles/proxy/handshakes.h"
#include "core/io.h"
#include "core/metrics.h"
#include "roles/proxy/session.h"

static struct session *session_first(const struct list *l)
{
    return CONTAINER_OF(l->next, struct session, handshake.link);
}

static void begin(struct handshakes *h, struct session *s)
{
    if (s->handshake.stage == HANDSHAKE_WAITING)
        list_remove(&s->handshake.link);
    s->handshake.stage = HANDSHAKE_SHAKING;
    s->handshake.since_ms = time_ms();
    list_push_back(&h->shaking, &s->handshake.link);
    h->count++;
    conn_accept_tls(&s->conn, s->proxy->tls, SLICE("imap"));
}

/* The oldest, if it has had its time; else the timer is set for when it will have. */
static bool gives_way(struct handshakes *h)
{
    struct session *oldest = session_first(&h->shaking);
    uint64_t due_ms = oldest->handshake.since_ms + HANDSHAKE_GRACE_MS, now_ms = time_ms();

    if (due_ms > now_ms) {
        timer_set(&h->timer, (uint32_t)(due_ms - now_ms));
        return false;
    }
    oldest->proxy->shard->metrics->handshakes_cut++;
    session_cut(oldest, "handshake_gave_way");
    return true;
}

static void turn(struct handshakes *h)
{
    while (!list_empty(&h->waiting)) {
        if (h->count < h->max)
            begin(h, session_first(&h->waiting));
        else if (!gives_way(h))
            break;
    }
}

static void on_timer(struct timer *t)
{
    turn(CONTAINER_OF(t, struct handshakes, timer));
}

void handshakes_init(struct handshakes *h, uint64_t max)
{
    list_init(&h->shaking);
    list_init(&h->waiting);
    h->max = max;
    timer_init(&h->timer, on_timer);
}

void handshakes_fini(struct handshakes *h)
{
    timer_cancel(&h->timer);
}

void handshake_ask(struct session *s)
{
    struct handshakes *h = &s->proxy->handshakes;

    if (h->count < h->max) {
        begin(h, s);
        return;
    }
    s->handshake.stage = HANDSHAKE_WAITING;
    list_push_front(&h->waiting, &s->handshake.link);
    if (!timer_armed(&h->timer)) /* Not here: it may end sessions. */
        timer_set(&h->timer, 0);
}

void handshake_leave(struct session *s)
{
    struct handshakes *h = &s->proxy->handshakes;

    if (s->handshake.stage == HANDSHAKE_NONE)
        return;
    list_remove(&s->handshake.link);
    h->count -= s->handshake.stage == HANDSHAKE_SHAKING;
    s->handshake.stage = HANDSHAKE_NONE;
    if (!list_empty(&h->waiting))
        timer_set(&h->timer, 0);
}
