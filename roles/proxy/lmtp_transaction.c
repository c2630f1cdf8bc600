#include "roles/proxy/lmtp_transaction.h"
#include "core/io.h"
#include "core/log.h"
#include "core/mail/date.h"
#include "core/metrics.h"
#include "roles/words/request.h"
#include <stdio.h>

#define RECEIVED_MAX        1024
#define AGAIN_MS            100  /* Before an outcome is asked for, plus a jitter of as much; */
#define SCARCE_MS           2000 /* when its link's budget is used up. */
#define OUTCOME_ADDRESS_MAX 320  /* Of an address, in the answer. */
#define SILENCE_MS          10000 /* A backend that gives no credit for so long is cut off: the others go on. */

static void reply_to(struct lmtp_session *l, enum lmtp_reply_id id, struct slice who)
{
    char line[WRITER_NEED_MAX * 2];
    struct writer w;

    writer_fixed(&w, line, sizeof line);
    lmtp_reply_write(&w, id, who);
    conn_write(&l->conn, slice_of(line, writer_used(&w)));
}

static char *arena_text(struct arena *a, struct slice s)
{
    char *text = arena_alloc(a, s.size + 1);

    if (s.size > 0)
        memcpy(text, s.data, s.size);
    text[s.size] = '\0';
    return text;
}

void transaction_begin(struct lmtp_session *l, const struct lmtp_command *mail)
{
    l->in_mail = true;
    l->mail_ns = time_ns();
    l->smtputf8 = mail->smtputf8;
    l->return_path = arena_text(&l->arena, mail->path.text);
    l->received = 0;
    l->too_large = false;
}

void transaction_reset(struct lmtp_session *l)
{
    if (l->lookup != NULL)
        link_stream_reset(l->lookup);
    for (uint32_t i = 0; i < l->recipient_count; i++) {
        timer_cancel(&l->recipients[i].again);
        if (l->recipients[i].stream != NULL)
            link_stream_reset(l->recipients[i].stream);
    }
    timer_cancel(&l->silence);
    l->lookup = NULL;
    l->recipient_count = l->pending = 0;
    l->in_mail = l->streaming = false;
    arena_reset(&l->arena);
}

/* ---- RCPT ---------------------------------------------------------------------------------------------- */

static void lookup_answered(struct lmtp_session *l, const struct login_reply *answer)
{
    struct lmtp_recipient *r = &l->recipients[l->recipient_count];
    struct slice address = slice_str(r->address);

    l->lookup = NULL;
    if ((answer->result == LOGIN_OK || answer->result == LOGIN_DISABLED) &&
        route_known(route_backend(&l->proxy->route,
                                  route_place(&l->proxy->route, answer->partition, answer->user), true))) {
        r->user = arena_text(&l->arena, answer->user);
        r->partition = answer->partition;
        r->ticket = answer->ticket;
        l->recipient_count++;
        reply_to(l, LMTP_REPLY_RECIPIENT_OK, address);
    } else {
        reply_to(l, answer->result == LOGIN_REFUSED ? LMTP_REPLY_NO_SUCH_USER : LMTP_REPLY_UNAVAILABLE,
                 address);
    }
    lmtp_ready(l);
}

static void on_lookup_frame(struct link_stream *stream, struct link_frame *f)
{
    struct lmtp_session *l = stream->owner;
    struct login_reply answer;

    if (f->header.type == LINK_END) {
        if (!login_reply_decode(link_frame_head(f), &answer))
            answer = (struct login_reply){.result = LOGIN_UNAVAILABLE};
        lookup_answered(l, &answer);
    }
    link_frame_release(f);
}

static void on_no_credit(struct link_stream *stream)
{
}

static void on_lookup_lost(struct link_stream *stream)
{
    const struct login_reply answer = {.result = LOGIN_UNAVAILABLE};

    lookup_answered(stream->owner, &answer);
}

static const struct link_stream_ops lookup_ops = {on_lookup_frame, on_no_credit, on_lookup_lost};

static void on_again(struct timer *t);

static void recipients_reserve(struct lmtp_session *l)
{
    if (l->recipients == NULL)
        l->recipients = heap_zalloc(l->proxy->heap, l->proxy->limits.recipients * sizeof *l->recipients);
}

void transaction_lookup(struct lmtp_session *l, const struct lmtp_path *path)
{
    struct login_request request = {.lookup = true};
    struct slice user, folder, name;
    struct lmtp_recipient *r;
    char head[HEAD_SIZE_SMALL];

    recipients_reserve(l);
    r = &l->recipients[l->recipient_count];
    lmtp_split_detail(path->local, '+', &user, &folder);
    *r = (struct lmtp_recipient){.session = l};
    timer_init(&r->again, on_again);
    r->address = arena_text(&l->arena, path->text);
    r->folder = arena_text(&l->arena, folder);
    name =
        slice_str(arena_printf(&l->arena, "%.*s%s%.*s", (int)user.size, user.data,
                               path->domain.size > 0 ? "@" : "", (int)path->domain.size, path->domain.data));
    if (name.size > USER_SIZE_MAX) {
        reply_to(l, LMTP_REPLY_NO_SUCH_USER, path->text);
        return;
    }
    request.user = name;
    l->state = LMTP_AT_LOOKUP;
    conn_pause(&l->conn);
    l->lookup = link_open(route_director(&l->proxy->route, name), LINK_LOOKUP,
                          slice_of(head, login_request_encode(&request, head)), slice_of(NULL, 0), true,
                          &lookup_ops, l);
    if (l->lookup == NULL) {
        const struct login_reply answer = {.result = LOGIN_UNAVAILABLE};

        lookup_answered(l, &answer);
    }
}

/* ---- Answers ------------------------------------------------------------------------------------------- */

static void recipient_answer(struct lmtp_recipient *r, unsigned code, struct slice text)
{
    size_t size = MIN(text.size, sizeof r->text - 1);

    ASSERT(r->code == 0);
    r->code = (uint16_t)code;
    if (size > 0)
        memcpy(r->text, text.data, size);
    r->text[size] = '\0';
    r->stream = NULL;
    timer_cancel(&r->again);
    r->session->pending--;
}

static void replies_write(struct lmtp_session *l)
{
    struct metrics *metrics = l->proxy->shard->metrics;

    if (l->state != LMTP_AT_REPLIES || l->pending > 0)
        return;
    for (uint32_t i = 0; i < l->recipient_count; i++) {
        struct lmtp_recipient *r = &l->recipients[i];
        char line[LMTP_REPLY_TEXT_MAX + 16];
        int size;

        if (l->too_large)
            size = snprintf(line, sizeof line, "552 5.3.4 Message too large\r\n");
        else
            size = snprintf(line, sizeof line, "%u %s\r\n", r->code, r->text);
        conn_write(&l->conn, slice_of(line, (size_t)size));
        metrics->deliveries += !l->too_large && r->code == 250;
        metrics->deliveries_deferred += !l->too_large && r->code / 100 == 4;
    }
    metric_elapsed(&metrics->command_time[METRIC_COMMAND_DELIVER], l->began_ns, time_ns());
    l->messages++;
    transaction_reset(l);
    lmtp_ready(l);
}

static void on_deliver_frame(struct link_stream *stream, struct link_frame *f)
{
    struct lmtp_recipient *r = stream->owner;
    struct lmtp_session *l = r->session;
    struct deliver_reply answer;

    if (f->header.type == LINK_END) {
        if (deliver_reply_decode(link_frame_head(f), &answer))
            recipient_answer(r, answer.code, answer.text);
        else
            recipient_answer(r, 451, SLICE("4.3.0 Temporary failure, try again later"));
    }
    link_frame_release(f);
    if (r->code != 0 && l->state == LMTP_AT_BODY)
        conn_resume(&l->conn); /* It may have been the one that had no credit. */
    replies_write(l);
}

static void on_deliver_credit(struct link_stream *stream)
{
    struct lmtp_recipient *r = stream->owner;

    if (r->session->state == LMTP_AT_BODY)
        conn_resume(&r->session->conn);
}

/* The whole message had left: it may be there. A backend that says 'nothing was done' of a question knows no more. */
static bool outcome_open(const struct lmtp_recipient *r, enum link_lost why)
{
    return r->session->state == LMTP_AT_REPLIES && (why == LINK_LOST_UNKNOWN || r->asked) &&
           !r->session->too_large;
}

static void on_deliver_lost(struct link_stream *stream)
{
    struct lmtp_recipient *r = stream->owner;
    struct lmtp_session *l = r->session;

    r->stream = NULL;
    if (stream->why == LINK_LOST_ELSEWHERE)
        route_referred(&l->proxy->route, &stream->referral);
    if (outcome_open(r, stream->why)) {
        timer_set(&r->again, AGAIN_MS + (uint32_t)(random_u64() % AGAIN_MS));
        return;
    }
    recipient_answer(r, 451, SLICE("4.3.0 Temporary failure, try again later"));
    if (l->state == LMTP_AT_BODY)
        conn_resume(&l->conn);
    replies_write(l);
}

static const struct link_stream_ops deliver_ops = {on_deliver_frame, on_deliver_credit, on_deliver_lost};

/* ---- The message --------------------------------------------------------------------------------------- */

/* RFC 5321 4.4, one field for each recipient, since only one is named in it. */
static size_t received_write(const struct lmtp_session *l, const struct lmtp_recipient *r,
                             char field[RECEIVED_MAX])
{
    struct mail_date now = {.utc_s = time_wall()};
    char peer[NET_ADDR_TEXT_MAX];
    struct writer w;

    net_addr_format(&l->conn.peer, peer);
    *strrchr(peer, ':') = '\0';
    writer_fixed(&w, field, RECEIVED_MAX);
    writer_printf(&w, "Received: from %.120s (%s%s%s)\r\n", l->helo[0] != '\0' ? l->helo : "unknown",
                  peer[0] == '[' ? "" : "[", peer, peer[0] == '[' ? "" : "]");
    writer_printf(&w, "\tby %.120s with %sLMTP%s id %llx.%llx\r\n", l->proxy->node_name,
                  l->smtputf8 ? "UTF8" : "", l->conn.tls != NULL ? "S" : "", (unsigned long long)l->id,
                  (unsigned long long)l->messages);
    writer_printf(&w, "\tfor <%.320s>; ", r->address);
    date_write_rfc5322(&w, now);
    writer_text(&w, "\r\n");
    return writer_used(&w);
}

static struct link_target recipient_backend(const struct lmtp_recipient *r)
{
    const struct route *route = &r->session->proxy->route;

    return route_backend(route, route_place(route, r->partition, slice_str(r->user)), true);
}

static struct link_stream *recipient_open(struct lmtp_recipient *r, struct deliver_request *request,
                                          char *head)
{
    memcpy(request->operation_id, r->operation_id, sizeof r->operation_id);
    request->ticket = r->ticket;
    request->user = slice_str(r->user);
    return link_open(recipient_backend(r), LINK_DELIVER,
                     slice_of(head, deliver_request_encode(request, head)), slice_of(NULL, 0),
                     request->outcome, &deliver_ops, r);
}

static void recipient_stream(struct lmtp_session *l, struct lmtp_recipient *r)
{
    struct deliver_request request = {
        .folder = slice_str(r->folder),
        .return_path = slice_str(l->return_path),
        .recipient = slice_str(r->address),
    };
    char *head = arena_alloc(&l->arena, HEAD_SIZE_MAX), field[RECEIVED_MAX];

    random_bytes(r->operation_id, sizeof r->operation_id);
    request.received = slice_of(field, received_write(l, r, field));
    route_asked(recipient_backend(r));
    r->stream = recipient_open(r, &request, head);
    l->pending++;
    if (r->stream == NULL)
        recipient_answer(r, 451, SLICE("4.3.0 Temporary failure, try again later"));
}

/* Asks what became of it; the deadline of all replies ends the asking. */
static void on_again(struct timer *t)
{
    struct lmtp_recipient *r = CONTAINER_OF(t, struct lmtp_recipient, again);
    struct deliver_request request = {.outcome = true, .recipient = slice_str(r->address)};
    char head[HEAD_SIZE_SMALL];

    if (!r->waited && !route_again(&r->session->proxy->route, recipient_backend(r))) {
        r->waited = true;
        timer_set(&r->again, SCARCE_MS + (uint32_t)(random_u64() % SCARCE_MS));
        return;
    }
    r->waited = false;
    r->session->proxy->shard->metrics->commands_again++;
    r->asked = true;
    request.recipient = slice_first(request.recipient, MIN(request.recipient.size, OUTCOME_ADDRESS_MAX));
    r->stream = recipient_open(r, &request, head);
    if (r->stream == NULL)
        timer_set(&r->again, AGAIN_MS);
}

static void recipient_cut(struct lmtp_recipient *r, struct slice why)
{
    link_stream_reset(r->stream);
    recipient_answer(r, 451, why);
}

void transaction_silence(struct timer *t)
{
    struct lmtp_session *l = CONTAINER_OF(t, struct lmtp_session, silence);

    for (uint32_t i = 0; i < l->recipient_count; i++) {
        struct lmtp_recipient *r = &l->recipients[i];

        if (r->stream != NULL && link_credit(r->stream) <= 0) {
            log_event(LOG_WARN, "backend takes no mail", "sid=%llx user=%s hint=recipient_deferred",
                      (unsigned long long)l->id, log_quote(slice_str(r->user)));
            recipient_cut(r, SLICE("4.4.2 Mailbox does not answer, try again later"));
        }
    }
    if (l->state == LMTP_AT_BODY)
        conn_resume(&l->conn);
}

void transaction_stream(struct lmtp_session *l)
{
    l->streaming = true;
    for (uint32_t i = 0; i < l->recipient_count; i++)
        recipient_stream(l, &l->recipients[i]);
}

bool transaction_credit(struct lmtp_session *l)
{
    for (uint32_t i = 0; l->streaming && i < l->recipient_count; i++) {
        if (l->recipients[i].stream != NULL && link_credit(l->recipients[i].stream) <= 0) {
            if (!timer_armed(&l->silence))
                timer_set(&l->silence, SILENCE_MS);
            return false;
        }
    }
    return true;
}

static void recipient_send(struct lmtp_recipient *r, struct slice data, unsigned flags)
{
    do {
        size_t size = MIN(data.size, LINK_PAYLOAD_MAX);
        struct link_frame *f = link_frame_new(size);

        if (size > 0)
            memcpy(f->payload, data.data, size);
        data = slice_from(data, size);
        link_send(r->stream, f, size, data.size == 0 ? flags : 0);
    } while (data.size > 0);
}

/* Nothing of a message that is too large is delivered to anyone. */
static void too_large(struct lmtp_session *l)
{
    l->too_large = true;
    for (uint32_t i = 0; i < l->recipient_count; i++) {
        struct lmtp_recipient *r = &l->recipients[i];

        if (r->stream != NULL)
            recipient_cut(r, SLICE("4.3.0 Not delivered"));
    }
}

void transaction_data(struct lmtp_session *l, struct slice piece)
{
    timer_cancel(&l->silence);
    l->received += piece.size;
    if (l->received > l->proxy->limits.message_size && !l->too_large)
        too_large(l);
    for (uint32_t i = 0; i < l->recipient_count; i++) {
        if (l->recipients[i].stream != NULL)
            recipient_send(&l->recipients[i], piece, 0);
    }
}

void transaction_finish(struct lmtp_session *l)
{
    timer_cancel(&l->silence);
    for (uint32_t i = 0; i < l->recipient_count; i++) {
        if (l->recipients[i].stream != NULL)
            recipient_send(&l->recipients[i], slice_of(NULL, 0), LINK_LAST);
    }
    replies_write(l);
}

void transaction_timeout(struct lmtp_session *l)
{
    for (uint32_t i = 0; i < l->recipient_count; i++) {
        struct lmtp_recipient *r = &l->recipients[i];

        if (r->stream != NULL)
            recipient_cut(r, SLICE("4.4.2 Mailbox does not answer, try again later"));
        else if (timer_armed(&r->again))
            recipient_answer(r, 451, SLICE("4.4.2 Mailbox does not answer, try again later"));
    }
    replies_write(l);
}
