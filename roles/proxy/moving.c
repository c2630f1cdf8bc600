#include "roles/proxy/moving.h"
#include "core/io.h"
#include "roles/proxy/lmtp_session.h"
#include "roles/proxy/session.h"

#define LONG_RUN_NS UINT64_C(500000000)

static bool runs(const struct session *s)
{
    return s->state == SESSION_RUN || s->state == SESSION_ASK || s->state == SESSION_LITERAL;
}

unsigned proxy_long_runners(const struct proxy *p)
{
    uint64_t now_ns = time_ns();
    unsigned count = 0;

    list_each(it, &p->session_list)
    {
        const struct session *s = CONTAINER_OF(it, struct session, link);

        count += runs(s) && now_ns - s->began_ns > LONG_RUN_NS;
    }
    list_each(it, &p->lmtp_list)
    {
        const struct lmtp_session *l = CONTAINER_OF(it, struct lmtp_session, link);

        count += l->in_mail && now_ns - l->mail_ns > LONG_RUN_NS;
    }
    return count;
}

void proxy_freeze(struct proxy *p)
{
    for (unsigned i = 0; i < p->listener_count; i++)
        listener_hold(&p->listeners[i]);
    sleepers_freeze(&p->sleepers);
}

void proxy_thaw(struct proxy *p)
{
    sleepers_thaw(&p->sleepers);
    for (unsigned i = 0; i < p->listener_count; i++)
        listener_go_on(&p->listeners[i]);
}

/* A session that has not come to rest: is it its client's turn? */
static bool is_theirs(const struct session *s)
{
    if (conn_queued(&s->conn) > 0) /* To read. */
        return true;
    switch ((enum session_state)s->state) {
    case SESSION_PROXY_HEADER:
    case SESSION_HANDSHAKE:
    case SESSION_COMMAND:
    case SESSION_SASL:
    case SESSION_IDLE:
        return !session_asks(s) && s->request == NULL && s->renewal == NULL;
    case SESSION_LITERAL:
        return session_append_credit(s);
    case SESSION_LOGIN:
    case SESSION_DELAY:
    case SESSION_RUN:
    case SESSION_ASK:
    case SESSION_NOOP:
    case SESSION_CLOSING:
        break;
    }
    return false;
}

struct proxy_unrest proxy_unrest(struct proxy *p)
{
    struct proxy_unrest u = {0};

    for (unsigned i = 0; i < p->listener_count; i++)
        u.count += !listener_held(&p->listeners[i]);
    list_each_safe(it, &p->session_list)
    {
        struct session *s = CONTAINER_OF(it, struct session, link);

        if (s->state == SESSION_CLOSING)
            continue;
        u.count++;
        if (is_theirs(s)) {
            u.theirs++;
            u.moved += s->conn.bytes_in + s->conn.bytes_out;
        }
        conn_rest(&s->conn);
    }
    list_each(it, &p->lmtp_list)
    {
        const struct lmtp_session *l = CONTAINER_OF(it, struct lmtp_session, link);

        u.count += l->state != LMTP_AT_CLOSING && l->in_mail;
    }
    return u;
}

unsigned proxy_cut(struct proxy *p)
{
    unsigned count = 0;

    list_each_safe(it, &p->session_list)
    {
        struct session *s = CONTAINER_OF(it, struct session, link);

        count += s->state != SESSION_CLOSING;
        session_bye(s, "[UNAVAILABLE] Server is being replaced");
        conn_abort(&s->conn);
    }
    list_each_safe(it, &p->lmtp_list)
    {
        struct lmtp_session *l = CONTAINER_OF(it, struct lmtp_session, link);

        count += l->state != LMTP_AT_CLOSING && l->in_mail;
        lmtp_bye(l, LMTP_REPLY_SHUTTING_DOWN); /* An MTA comes again; its connection holds no state. */
    }
    return count;
}
