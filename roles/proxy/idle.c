/* roles/proxy/idle.c -- IDLE (RFC 2177), NOOP and CHECK: the backend is asked for a difference only when the account has
 * moved past what this client has been shown, or when nobody knows.
 *
 * A NOOP that the proxy answers waits until the messages are delivered that are in this shard's queue, if there are any:
 * notices of changes that were acknowledged before the NOOP came are among them, and count. */
#include "core/metrics.h"
#include "roles/proxy/keep_alive.h"
#include "roles/proxy/session.h"
#include "roles/words/timing.h"
#include <stdio.h>

/* What the client has been shown of the account is complete up to here. */
static uint64_t shown(const struct token *t)
{
    return MIN(MIN(t->appends, t->expunges), t->flag_changes);
}

bool session_is_behind(const struct token *t, uint64_t known, uint64_t at)
{
    return t->mailbox_id != 0 && at != 0 && at != known && at > shown(t);
}

bool session_is_spared(const struct token *t, uint64_t known, const struct subscription_news *news)
{
    return news->before != 0 && news->mailbox_id != 0 && news->mailbox_id != t->mailbox_id &&
           !session_is_behind(t, known, news->before);
}

/* One request a session: it is looked at again when that has come back. */
bool session_idle_look(struct session *s)
{
    uint64_t at = subscriber_at(&s->proxy->subscriptions, &s->subscriber);

    if (session_asks(s) || s->request != NULL || !session_is_behind(&s->token, s->known, at))
        return false;
    s->known = at;
    session_sync(s);
    return true;
}

static void on_at(struct subscriber *subscriber, const struct subscription_news *news)
{
    struct session *s = CONTAINER_OF(subscriber, struct session, subscriber);

    if (s->state != SESSION_IDLE || s->idle_done)
        return;
    if (session_is_spared(&s->token, s->known, news))
        s->known = news->at;
    else
        (void)session_idle_look(s);
}

static void on_expired(struct subscriber *subscriber)
{
    session_renew(CONTAINER_OF(subscriber, struct session, subscriber));
}

void session_watch_by(struct session *s, uint32_t user)
{
    s->subscriber.at = on_at;
    s->subscriber.expired = on_expired;
    s->subscriber.ticket = &s->ticket;
    subscriber_add(&s->proxy->subscriptions, &s->subscriber, user);
}

bool session_watch(struct session *s)
{
    uint32_t user;

    if (s->subscriber.subscribed)
        return true;
    user = users_get(&s->proxy->users, session_user(s), session_place(s));
    if (user != RECORD_NONE)
        session_watch_by(s, user);
    return user != RECORD_NONE;
}

/* ---- NOOP, CHECK --------------------------------------------------------------------------------------- */

static bool unchanged(const struct session *s)
{
    uint64_t at = subscriber_at(&s->proxy->subscriptions, &s->subscriber);

    return s->token.mailbox_id == 0 || (at != 0 && at <= shown(&s->token));
}

static void noop_reply(struct session *s)
{
    s->proxy->shard->metrics->commands++;
    session_timed(s);
    session_reply(s, "OK", s->noop_check ? "Check completed." : "NOOP completed.");
    session_deadline(s, s->proxy->limits.session_idle_ms);
}

bool session_noop_begin(struct session *s, const struct imap_frame *frame, bool more_follows)
{
    if (s->token.mailbox_id != 0 && !session_watch(s))
        return false;
    if (!unchanged(s))
        return false;
    session_time(s, imap_command_metric(frame->command));
    s->noop_check = frame->command->id == IMAP_CHECK;
    s->noop_more_follows = more_follows;
    if (shard_heard_all() && !s->proxy->stopping) {
        noop_reply(s);
        session_command_done(s);
        return true;
    }
    session_busy(s, SESSION_NOOP);
    session_deadline(s, 0);
    return true;
}

static void noop_forward(struct session *s)
{
    char text[IMAP_TAG_SIZE_MAX + 16];
    struct imap_frame frame = {.kind = IMAP_FRAME_WHOLE,
                               .command = imap_command_by_id(s->noop_check ? IMAP_CHECK : IMAP_NOOP)};
    int size =
        snprintf(text, sizeof text, "%.*s %s\r\n", s->tag_size, s->tag, s->noop_check ? "CHECK" : "NOOP");

    frame.text = slice_of(text, (size_t)size);
    session_forward(s, &frame, s->noop_more_follows);
}

void session_noop(struct session *s)
{
    if (!unchanged(s)) {
        noop_forward(s);
        return;
    }
    noop_reply(s);
    session_ready(s);
}

/* ---- IDLE ---------------------------------------------------------------------------------------------- */

static void idle_done(struct session *s)
{
    session_request_drop(s);
    session_reply(s, "OK", "Idle completed");
    session_ready(s);
}

static uint64_t keep_alive_ms(const struct session *s)
{
    return keep_alive_wait_ms(s->proxy, session_user(s), &s->conn.peer);
}

void session_idle_begin(struct session *s)
{
    if (!session_watch(s)) {
        session_reply(s, "NO", "[UNAVAILABLE] Out of memory, try again later");
        session_ready(s);
        return;
    }
    session_enter(s, SESSION_IDLE);
    s->idle_done = false;
    s->known = 0;
    session_write(s, "+ idling\r\n");
    session_deadline(s, keep_alive_ms(s));
    conn_rest(&s->conn);
    if (!unchanged(s))
        session_sync(s);
}

void session_idle_line(struct session *s, struct slice line)
{
    if (!slice_eq_nocase(line, SLICE("DONE"))) {
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
    } else if (!session_idle_look(s)) {
        conn_rest(&s->conn);
    }
}

void session_idle_rest(struct session *s)
{
    if (s->state == SESSION_IDLE)
        conn_rest(&s->conn);
}

void session_idle_keep_alive(struct session *s)
{
    if (!session_asks(s)) /* Else it might come to stand within a line. */
        conn_write(&s->conn, keep_alive_text);
    session_deadline(s, keep_alive_ms(s));
}
