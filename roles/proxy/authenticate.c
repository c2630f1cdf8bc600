/* roles/proxy/authenticate.c -- who the client is, asked of a director. One that is away is waited for, LOGIN_WAIT_MS at most: it starts
 * again sooner than that. A password that arrived there and has no answer is waited for as long as the link lives. */
#include "core/io.h"
#include "core/metrics.h"
#include "roles/proxy/session.h"

#define LOGIN_FAILED  "[AUTHENTICATIONFAILED] Authentication failed"
#define LOGIN_LATER   "[UNAVAILABLE] Cannot check the login now, try again later"
#define LOGIN_WAIT_MS 5000
#define AGAIN_MS      100 /* Before the second try, plus a jitter of as much; twice that before the next. */
#define TRIES_MAX     4   /* Of which each doubles it. */

struct login_question { /* Wiped when it is freed. */
    struct session *session;
    struct timer again; /* The next try, or the end of the waiting. */
    uint64_t until_ms;
    unsigned tries;
    struct slice user; /* In head. */
    size_t size;
    char head[HEAD_SIZE_SMALL];
};

void session_login_drop(struct session *s)
{
    struct login_question *q = s->question;

    if (q == NULL)
        return;
    s->question = NULL;
    timer_cancel(&q->again);
    bytes_wipe(q->head, q->size);
    heap_free(s->proxy->heap, q);
}

/* ---- The answer ---------------------------------------------------------------------------------------- */

void session_login_refuse(struct session *s)
{
    enum login_result result = s->login.result;

    session_reply(s, "NO", result == LOGIN_UNAVAILABLE ? LOGIN_LATER : LOGIN_FAILED);
    s->bad_count += result != LOGIN_UNAVAILABLE;
    if (s->bad_count >= s->proxy->limits.bad_prelogin) {
        session_bye(s, "Too many failed logins");
        return;
    }
    session_deadline(s, s->proxy->limits.login_timeout_ms);
    session_ready(s);
}

static void login_fail(struct session *s, enum login_result result, uint32_t delay_ms)
{
    session_login_drop(s);
    s->login = (struct login_reply){.result = result};
    if (delay_ms == 0) {
        session_login_refuse(s);
        return;
    }
    session_busy(s, SESSION_DELAY);
    session_deadline(s, delay_ms);
}

static void login_accept(struct session *s, const struct login_reply *reply)
{
    ASSERT(reply->user.size > 0 && reply->user.size <= sizeof s->user);
    memcpy(s->user, reply->user.data, reply->user.size);
    s->user_size = (uint8_t)reply->user.size;
    s->partition = reply->partition;
    s->ticket = reply->ticket;
    if (revoked_is(s->proxy, session_user(s), &s->ticket)) { /* While his password was being checked. */
        s->user_size = 0;
        login_fail(s, LOGIN_UNAVAILABLE, 0);
        return;
    }
    session_login_drop(s);
    conn_carries_secrets(&s->conn, false);
    s->bad_count = 0;
    s->proxy->shard->metrics->sessions++;
    imap_framer_set_limits(&s->framer, &imap_framer_session);
    conn_write(&s->conn, session_tag(s));
    session_write(s, " OK [CAPABILITY ");
    session_capability(s);
    session_write(s, "] Logged in\r\n");
    session_ready(s);
}

/* ---- The question -------------------------------------------------------------------------------------- */

static void login_later(struct session *s)
{
    struct login_question *q = s->question;
    uint32_t pause_ms = AGAIN_MS << MIN(q->tries, TRIES_MAX);
    uint64_t now = time_ms();

    q->tries++;
    pause_ms += (uint32_t)(random_u64() % pause_ms);
    if (now >= q->until_ms)
        login_fail(s, LOGIN_UNAVAILABLE, 0);
    else
        timer_set(&q->again, (uint32_t)MIN(pause_ms, q->until_ms - now));
}

static void on_frame(struct link_stream *stream, struct link_frame *f)
{
    struct session *s = stream->owner;
    struct login_reply reply;

    if (f->header.type == LINK_END) {
        s->stream = NULL;
        session_timed(s);
        if (!login_reply_decode(link_frame_head(f), &reply))
            login_fail(s, LOGIN_UNAVAILABLE, 0);
        else if (reply.result == LOGIN_OK)
            login_accept(s, &reply);
        else
            login_fail(s, reply.result, reply.delay_ms);
    }
    link_frame_release(f);
}

static void on_credit(struct link_stream *stream)
{
}

static void on_lost(struct link_stream *stream)
{
    struct session *s = stream->owner;

    s->stream = NULL;
    login_later(s);
}

static const struct link_stream_ops login_ops = {on_frame, on_credit, on_lost};

static void login_open(struct session *s)
{
    struct login_question *q = s->question;
    uint64_t now = time_ms();
    struct link_target director;

    if (q->tries > 0 && now >= q->until_ms) {
        login_fail(s, LOGIN_UNAVAILABLE, 0);
        return;
    }
    director = route_director(&s->proxy->route, q->user);
    if (q->tries > 0 && !route_again(&s->proxy->route, director)) {
        login_fail(s, LOGIN_UNAVAILABLE, 0);
        return;
    }
    if (q->tries == 0)
        route_asked(director);
    s->stream =
        link_open(director, LINK_LOGIN, slice_of(q->head, q->size), slice_of(NULL, 0), true, &login_ops, s);
    if (s->stream == NULL)
        login_later(s);
    else
        timer_set(&q->again, (uint32_t)(q->until_ms - now));
}

static void on_again(struct timer *t)
{
    struct login_question *q = CONTAINER_OF(t, struct login_question, again);
    struct session *s = q->session;
    struct link_stream *stream = s->stream;

    if (stream == NULL) {
        login_open(s);
    } else if (!link_stream_sent(stream)) {
        s->stream = NULL;
        link_stream_reset(stream);
        login_fail(s, LOGIN_UNAVAILABLE, 0);
    }
}

void session_login_ask(struct session *s, struct slice user, struct slice password)
{
    struct login_request request = {.secure = session_secure(s), .user = user, .password = password}, kept;
    struct login_question *q;
    bool whole;

    session_busy(s, SESSION_LOGIN);
    session_time(s, METRIC_COMMAND_LOGIN);
    if (user.size == 0 || user.size > USER_SIZE_MAX || password.size == 0 ||
        password.size > PASSWORD_SIZE_MAX) {
        login_fail(s, LOGIN_REFUSED, 0);
        return;
    }
    ASSERT(s->question == NULL);
    q = heap_zalloc(s->proxy->heap, sizeof *q);
    q->session = s;
    q->until_ms = time_ms() + LOGIN_WAIT_MS;
    q->size = login_request_encode(&request, q->head);
    whole = login_request_decode(slice_of(q->head, q->size), &kept);
    ASSERT(whole);
    q->user = kept.user;
    timer_init(&q->again, on_again);
    s->question = q;
    login_open(s);
}
