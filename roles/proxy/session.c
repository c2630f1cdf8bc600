#include "roles/proxy/session.h"
#include "core/io.h"
#include "core/log.h"
#include "core/metrics.h"
#include "roles/proxy/forwarded.h"
#include "roles/ticket.h"
#include "roles/words/control.h"
#include <errno.h>
#include <stdio.h>

#define GREETED_MS      250 /* For a client's first word, */
#define GREETED_MANY_MS 20  /* with so many awake before their login: */
#define GREETED_AWAKE   128

#define STATE_BIT(s) (1u << SESSION_##s)
/* States in which bytes of the client are looked at. */
#define STATES_READING (STATE_BIT(COMMAND) | STATE_BIT(SASL) | STATE_BIT(LITERAL) | STATE_BIT(IDLE))

static bool session_reads(const struct session *s)
{
    /* After DONE nothing is read before the answer. */
    return ((1u << s->state) & STATES_READING) != 0 && !(s->state == SESSION_IDLE && s->idle_done);
}

bool session_secure(const struct session *s)
{
    return s->conn.tls != NULL || s->near;
}

void session_deadline(struct session *s, uint64_t ms)
{
    timer_set(&s->timer, (uint32_t)MIN(ms, UINT32_MAX));
}

/* ---- Replies ------------------------------------------------------------------------------------------- */

void session_write(struct session *s, const char *text)
{
    conn_write(&s->conn, slice_str(text));
}

void session_reply(struct session *s, const char *word, const char *text)
{
    conn_write(&s->conn, s->tag_size > 0 ? session_tag(s) : SLICE("*"));
    session_write(s, " ");
    session_write(s, word);
    session_write(s, " ");
    session_write(s, text);
    session_write(s, "\r\n");
}

/* In the middle of a line or of a literal, perhaps. */
static bool answering(const struct session *s)
{
    return s->answered && (s->request != NULL || session_asks(s));
}

void session_bye(struct session *s, const char *text)
{
    if (s->state == SESSION_CLOSING)
        return;
    if (answering(s)) {
        session_close(s);
        return;
    }
    session_write(s, "* BYE ");
    session_write(s, text);
    session_write(s, "\r\n");
    conn_linger(&s->conn);
    session_close(s);
}

void session_bad(struct session *s, const char *text)
{
    uint64_t max = s->user_size > 0 ? s->proxy->limits.bad_session : s->proxy->limits.bad_prelogin;

    session_reply(s, "BAD", text);
    if (++s->bad_count >= max)
        session_bye(s, "Too many bad commands");
}

/* ---- States -------------------------------------------------------------------------------------------- */

static enum metric_session_state session_counts_as(const struct session *s)
{
    switch ((enum session_state)s->state) {
    case SESSION_PROXY_HEADER:
        return METRIC_SESSION_PROXY_HEADER;
    case SESSION_HANDSHAKE:
        return METRIC_SESSION_HANDSHAKE;
    case SESSION_COMMAND:
        return s->user_size > 0 ? METRIC_SESSION_COMMAND : METRIC_SESSION_LOGIN;
    case SESSION_SASL:
    case SESSION_LOGIN:
    case SESSION_DELAY:
        return METRIC_SESSION_LOGIN;
    case SESSION_RUN:
    case SESSION_NOOP:
    case SESSION_ASK:
        return METRIC_SESSION_RUNNING;
    case SESSION_LITERAL:
        return METRIC_SESSION_LITERAL;
    case SESSION_IDLE:
        return METRIC_SESSION_IDLE;
    case SESSION_CLOSING:
        break;
    }
    return METRIC_SESSION_CLOSING;
}

void session_enter(struct session *s, enum session_state state)
{
    uint64_t *states = s->proxy->shard->metrics->session_states;

    s->state = (uint8_t)state;
    states[s->counted]--;
    s->counted = (uint8_t)session_counts_as(s);
    states[s->counted]++;
    if (s->user_size == 0 || s->begun_size > 0)
        session_begun(s);
}

void session_time(struct session *s, unsigned command)
{
    s->timed = (uint8_t)command;
    s->began_ns = time_ns();
}

void session_timed(const struct session *s)
{
    metric_elapsed(&s->proxy->shard->metrics->command_time[s->timed], s->began_ns, time_ns());
}

void session_busy(struct session *s, enum session_state state)
{
    session_enter(s, state);
    conn_pause(&s->conn);
}

void session_ready(struct session *s)
{
    if (s->state == SESSION_CLOSING)
        return;
    if (s->proxy->stopping) { /* A client that pipelines would keep the process for the whole of its grace. */
        session_bye(s, "[UNAVAILABLE] Server shutting down");
        return;
    }
    session_enter(s, SESSION_COMMAND);
    if (s->user_size > 0)
        session_deadline(s, s->proxy->limits.session_idle_ms);
    conn_resume(&s->conn);
    session_command_done(s);
}

/* A client that does not read his answers is not read from. */
static bool output_full(const struct session *s)
{
    return conn_queued(&s->conn) >= SESSION_OUTPUT_MAX;
}

static void on_sent(struct conn *c)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);

    session_answer_show(s);
    if (conn_paused(c) && session_reads(s) && !output_full(s))
        conn_resume(c);
}

/* A long answer or a long literal is no silence, as long as bytes move. */
static bool session_moved(struct session *s)
{
    uint64_t moved = s->conn.bytes_in + s->conn.bytes_out;
    bool busy = s->state == SESSION_RUN || s->state == SESSION_LITERAL || s->state == SESSION_ASK;

    if (!busy || moved == s->moved)
        return false;
    s->moved = moved;
    session_deadline(s, s->proxy->limits.session_idle_ms);
    return true;
}

static void on_timer(struct timer *t)
{
    struct session *s = CONTAINER_OF(t, struct session, timer);

    if (session_moved(s))
        return;

    switch (s->state) {
    case SESSION_DELAY:
        session_login_refuse(s);
        break;
    case SESSION_IDLE:
        session_idle_keep_alive(s);
        break;
    case SESSION_NOOP:
        session_noop(s);
        break;
    case SESSION_CLOSING:
        break;
    case SESSION_PROXY_HEADER:
        s->proxy->shard->metrics->proxy_headers_bad++;
        session_close(s);
        break;
    case SESSION_HANDSHAKE:
        session_close(s);
        break;
    default:
        session_bye(s,
                    s->user_size > 0 ? "Disconnected for inactivity" : "Disconnected: not logged in in time");
    }
}

/* ---- Input --------------------------------------------------------------------------------------------- */

static void take_tag(struct session *s, const struct imap_frame *frame)
{
    ASSERT(frame->tag.size <= sizeof s->tag);
    memcpy(s->tag, frame->tag.data, frame->tag.size);
    s->tag_size = (uint8_t)frame->tag.size;
}

static unsigned session_state_bit(const struct session *s)
{
    if (s->user_size == 0)
        return IMAP_IN_NONE;
    return s->token.mailbox_id != 0 ? IMAP_IN_SELECTED : IMAP_IN_DESELECTED;
}

/* Nothing stands behind the word: what does not is the backend's to refuse. */
static bool is_noop(const struct imap_frame *frame)
{
    return frame->command != NULL && (frame->command->id == IMAP_NOOP || frame->command->id == IMAP_CHECK) &&
           frame->text.size <= frame->tag.size + 1 + frame->name.size + 2;
}

/* Has the proxy answered it, since it knows what the backend would say? */
static bool known_here(struct session *s, const struct imap_frame *frame, bool more_follows)
{
    if (is_noop(frame))
        return session_noop_begin(s, frame, more_follows);
    return frame->command != NULL && frame->command->id == IMAP_STATUS && session_status_begin(s, frame);
}

/* A whole command, or an APPEND up to its first literal. */
static void on_command(struct session *s, const struct imap_frame *frame, bool more_follows)
{
    const struct imap_command *command = frame->command;
    bool streamed = frame->kind == IMAP_FRAME_LITERAL;

    take_tag(s, frame);
    s->commands++;
    if (command == NULL && s->user_size == 0) {
        session_bad(s, "Unknown command, or not before login");
    } else if (command != NULL && (command->states & session_state_bit(s)) == 0) {
        if (streamed)
            imap_framer_literal_refuse(&s->framer);
        session_bad(s, s->user_size == 0 ? "Log in first" : "Not in this state");
    } else if (command != NULL &&
               (imap_command_has(command, IMAP_HAS_LOCAL) || command->id == IMAP_CAPABILITY ||
                (command->id == IMAP_NOOP && s->user_size == 0) ||
                (command->id == IMAP_ENABLE && s->token.mailbox_id == 0))) {
        session_local(s, command, frame->text);
    } else if (!known_here(s, frame, more_follows)) {
        session_forward(s, frame, more_follows);
    }
}

static void on_frame_event(struct session *s, const struct imap_frame *frame, bool more_follows)
{
    switch (frame->kind) {
    case IMAP_FRAME_MORE:
        break;
    case IMAP_FRAME_CONTINUE:
        session_write(s, "+ OK\r\n");
        break;
    case IMAP_FRAME_WHOLE:
        on_command(s, frame, more_follows);
        break;
    case IMAP_FRAME_LITERAL:
        if (s->state == SESSION_LITERAL)
            session_append_more(s, frame);
        else
            on_command(s, frame, more_follows);
        break;
    case IMAP_FRAME_DATA:
    case IMAP_FRAME_END:
        session_append_more(s, frame);
        break;
    case IMAP_FRAME_BAD:
        if (s->state != SESSION_LITERAL) /* Behind a literal the frame has none: it is the APPEND's. */
            take_tag(s, frame);
        session_abandon(s); /* In the middle of an APPEND: nothing of it was committed. */
        session_bad(s, frame->too_big ? "[TOOBIG] Command too large" : frame->reason);
        if (s->state == SESSION_LITERAL)
            session_ready(s);
        break;
    case IMAP_FRAME_TOO_BIG:
        session_bye(s, "[TOOBIG] Command too large");
        break;
    }
}

/* One plain line: of a SASL exchange, or DONE. Returns what was consumed. */
static size_t on_plain_line(struct session *s, struct slice in, bool *more_out)
{
    struct imap_frame frame;

    imap_framer_line(&s->framer, in, s->state == SESSION_SASL ? IMAP_SASL_LINE_MAX : IMAP_TAG_SIZE_MAX,
                     &frame);
    if (frame.kind == IMAP_FRAME_WHOLE) {
        if (s->state == SESSION_SASL)
            session_sasl_line(s, frame.text);
        else
            session_idle_line(s, frame.text);
    } else if (frame.kind != IMAP_FRAME_MORE) {
        session_bye(s, "[TOOBIG] Line too long or malformed");
    }
    *more_out = frame.kind == IMAP_FRAME_MORE;
    return frame.consumed;
}

static size_t on_proxy_header(struct session *s, struct slice in);

static size_t on_data(struct conn *c, struct slice in)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);
    size_t taken = 0;
    bool more = false;

    if (s->state == SESSION_PROXY_HEADER) {
        taken = on_proxy_header(s, in);
        if (s->state == SESSION_PROXY_HEADER)
            return taken;
    }
    while (!more && session_reads(s) && !conn_turns(c)) {
        struct slice rest = slice_from(in, taken);
        struct imap_frame frame;

        if (output_full(s)) {
            conn_pause(c);
            break;
        }
        if (s->state == SESSION_SASL || s->state == SESSION_IDLE) {
            taken += on_plain_line(s, rest, &more);
            continue;
        }
        if (s->state == SESSION_LITERAL && !session_append_credit(s)) {
            conn_pause(c);
            break;
        }
        imap_framer_next(&s->framer, rest, &frame);
        on_frame_event(s, &frame, frame.consumed < rest.size);
        taken += frame.consumed;
        more = frame.kind == IMAP_FRAME_MORE;
    }
    session_input_done(s);
    return taken;
}

/* ---- Life ---------------------------------------------------------------------------------------------- */

/* He was greeted. Who answers does so before he sleeps, unless they are many, or far away: to wake him would cost a fifth of a login in
 * plain text. So those who are awake for nothing are few. */
static void session_rest_soon(struct session *s)
{
    bool many = s->proxy->shard->metrics->session_states[METRIC_SESSION_LOGIN] > GREETED_AWAKE;

    conn_rest_soon(&s->conn, many ? GREETED_MANY_MS : GREETED_MS);
}

/* Where the client's own bytes begin: TLS, or a greeting. */
static void session_begin(struct session *s)
{
    s->near = net_addr_is_loopback(&s->conn.peer);
    s->forwards = forwarded_from(s->proxy, &s->conn.peer);
    if (s->tls_first) {
        session_enter(s, SESSION_HANDSHAKE);
        conn_await_hello(&s->conn, true);
        conn_rest(&s->conn); /* Until he speaks he is worth no more than a sleeper. */
    } else {
        session_greet(s);
        session_enter(s, SESSION_COMMAND);
        session_rest_soon(s);
    }
}

static void log_end(const struct session *s, const char *why)
{
    char peer[NET_ADDR_TEXT_MAX], client[FORWARDED_LOG_MAX];

    log_event(LOG_INFO, "session ended",
              "sid=%llx user=%s peer=%s tls=%s commands=%llu in=%llu out=%llu why=%s%s",
              (unsigned long long)s->id, log_quote(session_user(s)), net_addr_format(&s->conn.peer, peer),
              s->conn.tls != NULL ? tls_version(s->conn.tls) : "none", (unsigned long long)s->commands,
              (unsigned long long)s->conn.bytes_in, (unsigned long long)s->conn.bytes_out, why,
              forwarded_log(s->client_sid, client));
}

/* What the session holds elsewhere. */
static void session_let_go(struct session *s)
{
    timer_cancel(&s->timer);
    session_begun_over(s);
    handshake_leave(&s->proxy->handshakes, &s->handshake);
    subscriber_remove(&s->proxy->subscriptions, &s->subscriber);
    session_abandon(s);
    if (s->renewal != NULL)
        link_stream_reset(s->renewal);
    s->renewal = NULL;
    session_sasl_end(s);
    session_login_drop(s);
}

static void session_close_for(struct session *s, const char *why)
{
    if (s->state == SESSION_CLOSING)
        return;
    session_let_go(s);
    session_enter(s, SESSION_CLOSING);
    log_end(s, why);
    conn_close(&s->conn);
}

void session_close(struct session *s)
{
    session_close_for(s, "closed");
}

void session_cut(struct session *s, const char *why)
{
    session_close_for(s, why);
    conn_abort(&s->conn);
}

void session_kick(struct session *s)
{
    bool silent = s->state == SESSION_PROXY_HEADER || s->state == SESSION_HANDSHAKE || answering(s);

    if (s->state == SESSION_CLOSING)
        return;
    s->proxy->shard->metrics->kicked++;
    if (!silent) {
        session_write(s, "* BYE Disconnected by the operator\r\n");
        conn_linger(&s->conn);
    }
    session_close_for(s, "kicked");
    if (silent) /* The rest of an answer that will not be whole: it would wait for a reader. */
        conn_abort(&s->conn);
}

static size_t on_proxy_header(struct session *s, struct slice in)
{
    size_t size = 0;

    switch (proxy_take_header(s->proxy, &s->conn, in, &size)) {
    case PROXY_HEADER_MORE:
        break;
    case PROXY_HEADER_BAD:
        session_close_for(s, "bad_proxy_header");
        break;
    case PROXY_HEADER_WHOLE:
        session_begin(s);
        break;
    }
    return size;
}

static void on_ended(struct conn *c, int why)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);
    const char *text = why == 0 ? "client_closed" : log_error(why);

    if (s->state == SESSION_CLOSING)
        return;
    if (why == -EMSGSIZE) {
        session_bye(s, "[TOOBIG] Command too large");
        return;
    }
    if (why == -EPROTO && c->tls != NULL)
        text = log_quote(slice_str(tls_error(c->tls)));
    session_let_go(s);
    session_enter(s, SESSION_CLOSING);
    log_end(s, text);
    conn_close(c); /* A TLS alert may still be waiting to leave. */
}

static void on_closed(struct conn *c)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);
    struct proxy *p = s->proxy;

    heap_free(p->heap, s->client_sid);
    p->shard->metrics->session_states[s->counted]--;
    p->shard->metrics->connections--;
    p->shard->metrics->sessions -= s->user_size > 0;
    p->connections--;
    proxy_walks_leave(p, &s->link);
    list_remove(&s->link);
    slab_give(&p->sessions, s);
}

static void handshake_begin(struct handshake *one)
{
    struct session *s = CONTAINER_OF(one, struct session, handshake);

    conn_accept_tls(&s->conn, s->proxy->tls, SLICE("imap"));
}

static void handshake_give_way(struct handshake *one)
{
    session_cut(CONTAINER_OF(one, struct session, handshake), "handshake_gave_way");
}

static const struct handshake_ops handshake_ops = {handshake_begin, handshake_give_way};

static void on_hello(struct conn *c)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);

    handshake_ask(&s->proxy->handshakes, &s->handshake, &c->peer, &handshake_ops);
}

static void on_secured(struct conn *c)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);
    bool implicit = s->commands == 0;

    handshake_done(&s->proxy->handshakes, &s->handshake);
    if (implicit) /* Implicit TLS: the greeting is still due. */
        session_greet(s);
    session_ready(s);
    session_rest_soon(s);
}

static void on_held(struct conn *c)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);

    if (s->user_size == 0)
        session_begun(s);
}

static void on_rested(struct conn *c)
{
    session_rested(CONTAINER_OF(c, struct session, conn));
}

const struct conn_ops session_conn_ops = {
    .data = on_data,
    .sent = on_sent,
    .hello = on_hello,
    .secured = on_secured,
    .ended = on_ended,
    .closed = on_closed,
    .rested = on_rested,
    .held = on_held,
};

struct session *session_new(struct proxy *p)
{
    struct session *s = slab_take(&p->sessions);

    if (s == NULL)
        return NULL;
    s->proxy = p;
    list_init(&s->answer);
    timer_init(&s->timer, on_timer);
    list_push_back(&p->session_list, &s->link);
    return s;
}

void session_accept(struct proxy *p, struct sock sock, const struct net_addr *peer, bool tls)
{
    struct session *s = session_new(p);

    if (s == NULL) { /* Many are being turned away: nothing to say it with. */
        io_close(sock);
        proxy_turned_away(p);
        return;
    }
    s->tls_first = tls;
    s->counted = METRIC_SESSION_LOGIN;
    p->shard->metrics->session_states[s->counted]++;
    s->id = ++p->next_id;
    s->nonce = packed_nonce(&p->process, s->id);
    imap_framer_init(&s->framer, &imap_framer_prelogin);
    p->connections++;
    p->shard->metrics->connections++;
    conn_init(&s->conn, sock, peer, SESSION_INPUT_MAX, &session_conn_ops);
    conn_carries_secrets(&s->conn, true);
    if (!proxy_admits(p)) {
        proxy_turned_away(p);
        session_bye(s, "[UNAVAILABLE] Too busy, try again later");
        return;
    }
    session_deadline(s, p->limits.login_timeout_ms);
    if (proxy_header_due(p, peer))
        session_enter(s, SESSION_PROXY_HEADER);
    else
        session_begin(s);
}
