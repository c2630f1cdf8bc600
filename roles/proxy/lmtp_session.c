#include "roles/proxy/lmtp_session.h"
#include "core/io.h"
#include "core/log.h"
#include "core/mail/date.h"
#include "core/metrics.h"
#include "roles/proxy/forwarded.h"
#include "roles/proxy/lmtp_transaction.h"
#include "roles/words/request.h"
#include <errno.h>

#define ERRORS_MAX             20
#define TRANSACTION_MEMORY_MAX (1024 * 1024)   /* Addresses, those that were refused too. */
#define IDLE_MS                (5 * 60 * 1000) /* RFC 5321 4.5.3.2: what a client may take between commands. */
#define HANDSHAKE_MS           60000
/* A backend's time to answer after the last byte: then 451, and the others go on. */
#define REPLIES_MS 60000
#define INPUT_MAX  (LMTP_LINE_MAX + 1)

/* ---- Replies ------------------------------------------------------------------------------------------- */

static void reply_to(struct lmtp_session *l, enum lmtp_reply_id id, struct slice who)
{
    char line[WRITER_NEED_MAX * 2];
    struct writer w;

    writer_fixed(&w, line, sizeof line);
    lmtp_reply_write(&w, id, who);
    conn_write(&l->conn, slice_of(line, writer_used(&w)));
}

static void reply(struct lmtp_session *l, enum lmtp_reply_id id)
{
    reply_to(l, id, slice_of(NULL, 0));
}

static struct slice host_name(const struct lmtp_session *l)
{
    return slice_str(l->proxy->node_name);
}

static void greet(struct lmtp_session *l)
{
    char line[WRITER_NEED_MAX * 2];
    struct writer w;

    writer_fixed(&w, line, sizeof line);
    lmtp_greeting_write(&w, host_name(l));
    conn_write(&l->conn, slice_of(line, writer_used(&w)));
}

static void lmtp_close(struct lmtp_session *l, const char *why)
{
    char peer[NET_ADDR_TEXT_MAX], client[FORWARDED_LOG_MAX];

    if (l->state == LMTP_AT_CLOSING)
        return;
    transaction_reset(l);
    timer_cancel(&l->timer);
    handshake_leave(&l->proxy->handshakes, &l->handshake);
    l->state = LMTP_AT_CLOSING;
    log_event(LOG_INFO, "lmtp session ended", "sid=%llx peer=%s messages=%llu in=%llu why=%s%s",
              (unsigned long long)l->id, net_addr_format(&l->conn.peer, peer),
              (unsigned long long)l->messages, (unsigned long long)l->conn.bytes_in, why,
              forwarded_log(l->client_sid, client));
    conn_close(&l->conn);
}

void lmtp_bye(struct lmtp_session *l, enum lmtp_reply_id id)
{
    if (l->state == LMTP_AT_CLOSING)
        return;
    reply(l, id);
    conn_linger(&l->conn);
    lmtp_close(l, "ended_by_server");
}

void lmtp_kick(struct lmtp_session *l)
{
    bool silent = l->state == LMTP_AT_PROXY_HEADER || l->state == LMTP_AT_HANDSHAKE;

    if (l->state == LMTP_AT_CLOSING || l->kicked)
        return;
    l->proxy->shard->metrics->kicked++;
    l->kicked = true;
    if (l->state == LMTP_AT_REPLIES)
        return;
    if (!silent) {
        reply(l, LMTP_REPLY_KICKED);
        conn_linger(&l->conn);
    }
    lmtp_close(l, "kicked");
}

static void reply_error(struct lmtp_session *l, enum lmtp_reply_id id)
{
    reply(l, id);
    if (++l->errors >= ERRORS_MAX)
        lmtp_bye(l, LMTP_REPLY_TOO_MANY_ERRORS);
}

/* ---- Commands ------------------------------------------------------------------------------------------ */

/* For Received: printable ASCII only, since a client may say anything. */
void lmtp_helo_keep(struct lmtp_session *l, struct slice domain)
{
    size_t size = MIN(domain.size, sizeof l->helo - 1);

    for (size_t i = 0; i < size; i++)
        l->helo[i] = domain.data[i] > ' ' && domain.data[i] < 0x7f ? domain.data[i] : '?';
    l->helo[size] = '\0';
}

/* Not inlined: its lines would be in everybody's frame. */
__attribute__((noinline)) static void on_lhlo(struct lmtp_session *l, const struct lmtp_command *c)
{
    char lines[WRITER_NEED_MAX * 3];
    struct writer w;

    transaction_reset(l);
    l->greeted = true;
    if (!l->helo_forwarded)
        lmtp_helo_keep(l, c->domain);
    writer_fixed(&w, lines, sizeof lines);
    lmtp_lhlo_write(&w, host_name(l), l->proxy->limits.message_size,
                    l->proxy->tls != NULL && l->conn.tls == NULL, l->forwards);
    conn_write(&l->conn, slice_of(lines, writer_used(&w)));
}

static void on_mail(struct lmtp_session *l, const struct lmtp_command *c)
{
    if (!l->greeted) {
        reply_error(l, LMTP_REPLY_NEEDS_LHLO);
    } else if (l->in_mail) {
        reply_error(l, LMTP_REPLY_BAD_SEQUENCE);
    } else if (l->proxy->sleepers.frozen) { /* An upgrade waits for those that have begun. */
        lmtp_bye(l, LMTP_REPLY_SHUTTING_DOWN);
    } else if (c->size > l->proxy->limits.message_size) {
        reply(l, LMTP_REPLY_TOO_LARGE);
    } else if (!heap_admits(l->proxy->heap)) {
        reply(l, LMTP_REPLY_UNAVAILABLE);
    } else {
        transaction_begin(l, c);
        reply(l, LMTP_REPLY_SENDER_OK);
    }
}

static void on_rcpt(struct lmtp_session *l, const struct lmtp_command *c)
{
    if (!l->in_mail || l->streaming)
        reply_error(l, LMTP_REPLY_BAD_SEQUENCE);
    else if (l->recipient_count >= l->proxy->limits.recipients || l->arena.used > TRANSACTION_MEMORY_MAX)
        reply_to(l, LMTP_REPLY_TOO_MANY_RECIPIENTS, c->path.text);
    else
        transaction_lookup(l, &c->path);
}

static void on_data_command(struct lmtp_session *l)
{
    if (!l->in_mail || l->streaming) {
        reply_error(l, LMTP_REPLY_BAD_SEQUENCE);
    } else if (l->recipient_count == 0) {
        reply_error(l, LMTP_REPLY_NO_RECIPIENTS);
    } else {
        reply(l, LMTP_REPLY_START_DATA);
        lmtp_body_start_data(&l->body);
        l->chunked = false;
        transaction_stream(l);
        l->state = LMTP_AT_BODY;
    }
}

/* The chunk follows whatever is said of it. */
static void on_bdat(struct lmtp_session *l, const struct lmtp_command *c)
{
    l->chunked = true;
    l->last_chunk = c->last;
    l->refused = !l->in_mail               ? LMTP_REPLY_BAD_SEQUENCE
                 : l->recipient_count == 0 ? LMTP_REPLY_NO_RECIPIENTS
                                           : LMTP_REPLY_COUNT;
    if (l->refused == LMTP_REPLY_COUNT && !l->streaming)
        transaction_stream(l);
    lmtp_body_start_chunk(&l->body, c->size);
    l->state = LMTP_AT_BODY;
}

static void on_starttls(struct lmtp_session *l)
{
    if (l->proxy->tls == NULL || l->conn.tls != NULL) {
        reply_error(l, l->conn.tls != NULL ? LMTP_REPLY_BAD_SEQUENCE : LMTP_REPLY_NO_TLS);
        return;
    }
    transaction_reset(l);
    l->greeted = false; /* RFC 3207 4.2: nothing said in clear is remembered. */
    reply(l, LMTP_REPLY_START_TLS);
    l->state = LMTP_AT_HANDSHAKE;
    timer_set(&l->timer, HANDSHAKE_MS);
    conn_await_hello(&l->conn, false);
}

/* Then everything begins again, with the greeting. */
static void on_xclient(struct lmtp_session *l, const struct lmtp_command *c)
{
    if (!l->forwards) {
        reply_error(l, LMTP_REPLY_XCLIENT_REFUSED);
    } else if (l->in_mail) {
        reply_error(l, LMTP_REPLY_BAD_SEQUENCE);
    } else if (!forwarded_by_xclient(l, c->arguments)) {
        reply_error(l, LMTP_REPLY_BAD_ARGUMENT);
    } else {
        l->greeted = false;
        greet(l);
    }
}

static void on_command(struct lmtp_session *l, const struct lmtp_command *c)
{
    switch (c->verb) {
    case LMTP_LHLO:
        on_lhlo(l, c);
        break;
    case LMTP_MAIL:
        on_mail(l, c);
        break;
    case LMTP_RCPT:
        on_rcpt(l, c);
        break;
    case LMTP_DATA:
        on_data_command(l);
        break;
    case LMTP_BDAT:
        on_bdat(l, c);
        break;
    case LMTP_RSET:
        transaction_reset(l);
        reply(l, LMTP_REPLY_OK);
        break;
    case LMTP_NOOP:
        reply(l, LMTP_REPLY_OK);
        break;
    case LMTP_QUIT:
        reply(l, LMTP_REPLY_BYE);
        lmtp_close(l, "quit");
        break;
    case LMTP_VRFY:
        reply(l, LMTP_REPLY_VRFY);
        break;
    case LMTP_HELP:
        reply(l, LMTP_REPLY_HELP);
        break;
    case LMTP_STARTTLS:
        on_starttls(l);
        break;
    case LMTP_XCLIENT:
        on_xclient(l, c);
        break;
    case LMTP_BAD:
        reply_error(l, c->error);
        if (c->lost)
            lmtp_close(l, "lost_synchronisation");
        break;
    }
}

/* ---- Input --------------------------------------------------------------------------------------------- */

void lmtp_ready(struct lmtp_session *l)
{
    if (l->state == LMTP_AT_CLOSING)
        return;
    if (l->proxy->stopping && !l->in_mail) {
        lmtp_bye(l, LMTP_REPLY_SHUTTING_DOWN);
        return;
    }
    if (l->kicked) {
        reply(l, LMTP_REPLY_KICKED);
        lmtp_close(l, "kicked");
        return;
    }
    l->state = LMTP_AT_COMMAND;
    timer_set(&l->timer, IDLE_MS);
    conn_resume(&l->conn);
}

static void body_ended(struct lmtp_session *l)
{
    if (l->chunked && l->refused != LMTP_REPLY_COUNT) {
        l->state = LMTP_AT_COMMAND;
        reply_error(l, l->refused);
    } else if (l->chunked && !l->last_chunk) {
        l->state = LMTP_AT_COMMAND;
        reply(l, LMTP_REPLY_CHUNK_OK);
    } else {
        l->state = LMTP_AT_REPLIES;
        l->began_ns = time_ns();
        conn_pause(&l->conn);
        timer_set(&l->timer, REPLIES_MS);
        transaction_finish(l);
    }
}

/* Feeds the message to the recipients' streams. False: it waits for more bytes, or for credit. */
static bool on_body(struct lmtp_session *l, struct slice *in)
{
    struct slice piece;

    /* Without more bytes all that can come is the end, which needs none, and nobody would offer it again. */
    if (in->size > 0 && !transaction_credit(l)) {
        conn_pause(&l->conn);
        return false;
    }
    switch (lmtp_body_feed(&l->body, in, &piece)) {
    case LMTP_BODY_MORE:
        return false;
    case LMTP_BODY_PIECE:
        if (!l->chunked || l->refused == LMTP_REPLY_COUNT)
            transaction_data(l, piece);
        return true;
    case LMTP_BODY_END:
        body_ended(l);
        return true;
    }
    return false;
}

/* The client is known: here his own bytes begin. */
static void lmtp_begin(struct lmtp_session *l)
{
    l->state = LMTP_AT_COMMAND;
    if (!proxy_lmtp_allowed(l->proxy, &l->conn.peer)) {
        l->proxy->shard->metrics->accepts_shed++;
        reply(l, LMTP_REPLY_NOT_FROM_THERE);
        lmtp_close(l, "not_in_lmtp.from");
        return;
    }
    l->forwards = forwarded_from(l->proxy, &l->conn.peer);
    timer_set(&l->timer, IDLE_MS);
    greet(l);
}

static size_t on_proxy_header(struct lmtp_session *l, struct slice in)
{
    size_t size = 0;

    switch (proxy_take_header(l->proxy, &l->conn, in, &size)) {
    case PROXY_HEADER_MORE:
        break;
    case PROXY_HEADER_BAD:
        lmtp_close(l, "bad_proxy_header");
        break;
    case PROXY_HEADER_WHOLE:
        lmtp_begin(l);
        break;
    }
    return size;
}

static size_t on_data(struct conn *c, struct slice in)
{
    struct lmtp_session *l = CONTAINER_OF(c, struct lmtp_session, conn);
    struct slice rest = in;
    bool more = true;

    if (l->state == LMTP_AT_PROXY_HEADER) {
        rest = slice_from(rest, on_proxy_header(l, rest));
        if (l->state != LMTP_AT_COMMAND)
            return in.size - rest.size;
    }
    timer_set(&l->timer, IDLE_MS);
    while (more && (l->state == LMTP_AT_COMMAND || l->state == LMTP_AT_BODY)) {
        struct lmtp_command command;

        if (l->state == LMTP_AT_BODY) {
            more = on_body(l, &rest);
            continue;
        }
        more = lmtp_parser_next(&l->parser, &rest, &command) == LMTP_COMMAND;
        if (more)
            on_command(l, &command);
    }
    return in.size - rest.size;
}

/* ---- Life ---------------------------------------------------------------------------------------------- */

static void on_timer(struct timer *t)
{
    struct lmtp_session *l = CONTAINER_OF(t, struct lmtp_session, timer);

    if (l->state == LMTP_AT_REPLIES) {
        transaction_timeout(l);
    } else if (l->state == LMTP_AT_PROXY_HEADER) {
        l->proxy->shard->metrics->proxy_headers_bad++;
        lmtp_close(l, "no_proxy_header");
    } else {
        lmtp_bye(l, LMTP_REPLY_TIMEOUT);
    }
}

static void handshake_begin(struct handshake *one)
{
    struct lmtp_session *l = CONTAINER_OF(one, struct lmtp_session, handshake);

    conn_accept_tls(&l->conn, l->proxy->tls, SLICE("lmtp"));
}

static void handshake_give_way(struct handshake *one)
{
    struct lmtp_session *l = CONTAINER_OF(one, struct lmtp_session, handshake);

    lmtp_close(l, "handshake_gave_way");
    conn_abort(&l->conn);
}

static const struct handshake_ops handshake_ops = {handshake_begin, handshake_give_way};

static void on_hello(struct conn *c)
{
    struct lmtp_session *l = CONTAINER_OF(c, struct lmtp_session, conn);

    handshake_ask(&l->proxy->handshakes, &l->handshake, &c->peer, &handshake_ops);
}

static void on_secured(struct conn *c)
{
    struct lmtp_session *l = CONTAINER_OF(c, struct lmtp_session, conn);

    handshake_done(&l->proxy->handshakes, &l->handshake);
    lmtp_parser_init(&l->parser);
    lmtp_ready(l);
}

static void on_ended(struct conn *c, int why)
{
    struct lmtp_session *l = CONTAINER_OF(c, struct lmtp_session, conn);

    if (why == -EMSGSIZE)
        lmtp_bye(l, LMTP_REPLY_LINE_TOO_LONG);
    else
        lmtp_close(l, why == 0 ? "client_closed" : log_error(why));
}

static void on_closed(struct conn *c)
{
    struct lmtp_session *l = CONTAINER_OF(c, struct lmtp_session, conn);
    struct proxy *p = l->proxy;

    p->shard->metrics->connections--;
    p->connections--;
    proxy_walks_leave(p, &l->link);
    heap_free(p->heap, l->client_sid);
    heap_free(p->heap, l->recipients);
    arena_fini(&l->arena);
    list_remove(&l->link);
    slab_give(&p->lmtp_sessions, l);
}

static const struct conn_ops lmtp_conn_ops = {
    .data = on_data,
    .hello = on_hello,
    .secured = on_secured,
    .ended = on_ended,
    .closed = on_closed,
};

void lmtp_accept(struct proxy *p, struct sock sock, const struct net_addr *peer)
{
    struct lmtp_session *l = slab_take(&p->lmtp_sessions);

    if (l == NULL) {
        io_close(sock);
        proxy_turned_away(p);
        return;
    }
    l->proxy = p;
    l->id = ++p->next_id;
    arena_init(&l->arena, p->heap);
    timer_init(&l->timer, on_timer);
    timer_init(&l->silence, transaction_silence);
    lmtp_parser_init(&l->parser);
    list_push_back(&p->lmtp_list, &l->link);
    p->connections++;
    p->shard->metrics->connections++;
    conn_init(&l->conn, sock, peer, INPUT_MAX, &lmtp_conn_ops);
    if (!proxy_admits(p)) {
        proxy_turned_away(p);
        lmtp_bye(l, LMTP_REPLY_BUSY);
    } else if (proxy_header_due(p, peer)) {
        timer_set(&l->timer, (uint32_t)MIN(p->limits.login_timeout_ms, UINT32_MAX));
    } else {
        lmtp_begin(l);
    }
}
