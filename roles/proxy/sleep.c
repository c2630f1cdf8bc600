/* roles/proxy/sleep.c -- a session goes to sleep when nothing is under way, and wakes as if it had not slept.
 *
 * What keeps it awake: a request or its answer, the renewal of its ticket, a SASL exchange, a handshake, a login and its
 * delay, a command whose beginning was acted upon or is longer than CONN_PACKED_INPUT_MAX, an operator's walk. */
#include "core/io.h"
#include "core/metrics.h"
#include "roles/proxy/forwarded.h"
#include "roles/proxy/session.h"

_Static_assert(FORWARDED_SESSION_MAX <= PACKED_CLIENT_SID_MAX, "it is kept whole");

static bool session_sleeps(const struct session *s)
{
    bool waits = s->state == SESSION_COMMAND || s->state == SESSION_PROXY_HEADER ||
                 s->state == SESSION_HANDSHAKE || (s->state == SESSION_IDLE && !s->idle_done);

    return waits && !session_asks(s) && s->request == NULL && s->renewal == NULL && s->sasl == NULL &&
           imap_framer_restarts(&s->framer) && !s->proxy->stopping;
}

static enum packed_state packed_state_of(const struct session *s)
{
    if (s->state == SESSION_IDLE)
        return PACKED_IDLE;
    if (s->state == SESSION_HANDSHAKE) /* At rest: its ClientHello has not come. */
        return PACKED_HANDSHAKE;
    return s->state == SESSION_COMMAND ? PACKED_COMMAND : PACKED_PROXY_HEADER;
}

static void session_pack(const struct session *s, struct packed *p)
{
    p->state = packed_state_of(s);
    p->tls_first = s->tls_first;
    p->near = s->near;
    p->forwards = s->forwards;
    p->bad_count = s->bad_count;
    p->client_sid_size = s->client_sid != NULL ? (uint8_t)strlen(s->client_sid) : 0;
    if (p->client_sid_size > 0)
        memcpy(p->client_sid, s->client_sid, p->client_sid_size);
    if (s->state == SESSION_IDLE) {
        p->tag_size = s->tag_size;
        memcpy(p->tag, s->tag, s->tag_size);
        p->known = s->known;
    }
    p->watches = s->subscriber.subscribed;
    p->partition = s->partition;
    p->features = s->user_size > 0 ? s->features : LINK_FEATURES_UNSAID;
    p->id = s->id;
    p->nonce = s->nonce;
    p->operation = s->operation;
    p->commands = s->commands;
    p->token = s->token;
    p->ticket = s->ticket;
}

static void session_sleep(struct session *s, struct packed *packed)
{
    struct proxy *p = s->proxy;
    uint64_t deadline_ms = s->timer.deadline_ms;
    uint32_t user;

    ASSERT(timer_armed(&s->timer));
    session_pack(s, packed);
    user = s->subscriber.subscribed ? s->subscriber.user
                                    : users_get(&p->users, session_user(s), session_place(s));
    (void)sleepers_add(&p->sleepers, packed, user, deadline_ms);
    /* Behind it, so that the user's subscription has somebody all the time. */
    subscriber_remove(&p->subscriptions, &s->subscriber);
    timer_cancel(&s->timer);
    session_begun_over(s);
    p->shard->metrics->session_states[s->counted]--;
    p->shard->metrics->session_states[METRIC_SESSION_ASLEEP]++;
    proxy_walks_leave(p, &s->link);
    list_remove(&s->link);
    bytes_wipe(&s->ticket, sizeof s->ticket);
    heap_free(p->heap, s->client_sid);
    slab_give(&p->sessions, s);
}

/* Does somebody look at all sessions now? */
static bool walked(const struct proxy *p)
{
    return p->walk.until_ms != 0 && time_ms() < p->walk.until_ms;
}

void session_rested(struct session *s)
{
    struct proxy *p = s->proxy;
    struct packed packed;

    if (!session_sleeps(s))
        return;
    if (s->user_size > 0 && revoked_is(p, session_user(s), &s->ticket)) { /* The walk might miss him. */
        session_kick(s);
        return;
    }
    if (walked(p) && !p->sleepers.frozen) {
        s->drowsy = true;
        return;
    }
    if (!sleepers_reserve(&p->sleepers))
        return;
    memset(&packed, 0, sizeof packed);
    if (conn_sleep(&s->conn, &packed.conn))
        session_sleep(s, &packed);
    bytes_wipe(&packed, sizeof packed);
}

struct session *session_wake(struct proxy *p, const struct packed *packed, uint32_t user,
                             uint64_t deadline_ms, bool fired)
{
    static const uint8_t states[] = {[PACKED_PROXY_HEADER] = SESSION_PROXY_HEADER,
                                     [PACKED_COMMAND] = SESSION_COMMAND,
                                     [PACKED_IDLE] = SESSION_IDLE,
                                     [PACKED_HANDSHAKE] = SESSION_HANDSHAKE};
    struct session *s = session_new(p);
    uint64_t now_ms = time_ms();

    if (s == NULL)
        return NULL;
    s->tls_first = packed->tls_first;
    s->near = packed->near;
    s->forwards = packed->forwards;
    s->bad_count = packed->bad_count;
    if (packed->client_sid_size > 0) {
        s->client_sid = heap_zalloc(p->heap, FORWARDED_SESSION_MAX + 1);
        memcpy(s->client_sid, packed->client_sid, packed->client_sid_size);
    }
    s->tag_size = packed->tag_size;
    memcpy(s->tag, packed->tag, packed->tag_size);
    s->known = packed->known;
    s->partition = packed->partition;
    s->features = user != RECORD_NONE ? (uint8_t)MIN(packed->features, FEATURE_LEVEL) : 0;
    s->id = packed->id;
    s->nonce = packed->nonce;
    s->operation = packed->operation;
    s->commands = packed->commands;
    s->token = packed->token;
    s->ticket = packed->ticket;
    if (user != RECORD_NONE) {
        struct slice name = user_name_of(user_at(&p->users, user));

        s->user_size = (uint8_t)name.size;
        memcpy(s->user, name.data, name.size);
    }
    imap_framer_init(&s->framer, s->user_size > 0 ? &imap_framer_session : &imap_framer_prelogin);
    s->counted = METRIC_SESSION_ASLEEP;
    session_deadline(s, deadline_ms > now_ms ? deadline_ms - now_ms : 0);
    session_enter(s, states[packed->state]);
    if (packed->watches)
        session_watch_by(s, user);
    conn_wake(&s->conn, &packed->conn, fired, SESSION_INPUT_MAX, &session_conn_ops);
    return s;
}

void session_command_done(struct session *s)
{
    if (s->proxy->sleep_after != SLEEP_AFTER_IDLE || s->proxy->sleepers.frozen)
        conn_rest(&s->conn);
}

void session_input_done(struct session *s)
{
    if (s->proxy->sleep_after == SLEEP_AFTER_RECORD ||
        (s->proxy->sleep_after == SLEEP_AFTER_COMMAND && s->state == SESSION_COMMAND &&
         imap_framer_idle(&s->framer)))
        conn_rest(&s->conn);
}
