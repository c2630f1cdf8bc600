/* roles/proxy/idle.c -- IDLE (RFC 2177): the proxy holds it, the backend is asked for a difference only when
 * the account has moved past what this client has been shown. */
#include "roles/proxy/session.h"

static void on_at(struct subscriber *subscriber, uint64_t modseq)
{
    struct session *s = CONTAINER_OF(subscriber, struct session, subscriber);

    if (modseq == s->known || s->token.mailbox_id == 0)
        return;
    s->known = modseq;
    if (session_asks(s) || s->request != NULL)
        s->idle_again = true; /* One request a session; ask again when it has come back. */
    else if (modseq > s->token.expunges)
        session_sync(s);
}

static void on_expired(struct subscriber *subscriber)
{
    session_renew(CONTAINER_OF(subscriber, struct session, subscriber));
}

static void idle_done(struct session *s)
{
    session_request_drop(s);
    session_idle_end(s);
    session_reply(s, "OK", "Idle completed");
    session_ready(s);
}

void session_idle_begin(struct session *s)
{
    session_enter(s, SESSION_IDLE);
    s->idle_done = s->idle_again = false;
    s->known = 0;
    s->subscriber.at = on_at;
    s->subscriber.expired = on_expired;
    session_write(s, "+ idling\r\n");
    session_deadline(s, s->proxy->limits.idle_keep_alive_ms);
    s->subscriber.partition = s->partition;
    s->subscriber.ticket = &s->ticket;
    subscriber_add(&s->proxy->subscriptions, &s->subscriber, session_user(s));
    conn_rest(&s->conn);
    if (s->token.mailbox_id != 0)
        session_sync(s);
}

void session_idle_line(struct session *s, struct slice line)
{
    if (!slice_eq_nocase(line, SLICE("DONE"))) {
        session_idle_end(s);
        if (!session_asks(s)) {
            session_request_drop(s);
            session_bad(s, "Expected DONE");
            session_ready(s);
        } else {
            session_bye(s, "Expected DONE");
        }
        return;
    }
    if (!session_asks(s)) {
        idle_done(s);
        return;
    }
    s->idle_done = true; /* What is on its way is shown first: it renumbers. */
    conn_pause(&s->conn);
}

void session_idle_synced(struct session *s)
{
    if (s->idle_done) {
        idle_done(s);
    } else if (s->idle_again) {
        s->idle_again = false;
        session_sync(s);
    } else {
        conn_rest(&s->conn);
    }
}

void session_idle_keep_alive(struct session *s)
{
    if (!session_asks(s)) /* Else it might come to stand within a line. */
        session_write(s, "* OK Still here\r\n");
    session_deadline(s, s->proxy->limits.idle_keep_alive_ms);
}

void session_idle_end(struct session *s)
{
    subscriber_remove(&s->proxy->subscriptions, &s->subscriber);
}
