/* roles/proxy/forward.c -- commands that a backend executes: the request goes out as a link stream with the
 * session's token; the answer's bytes go to the client as they are (answer.c), the new token stays here. */
#include "core/metrics.h"
#include "roles/proxy/session.h"
#include "roles/words/timing.h"

#define UNAVAILABLE "[UNAVAILABLE] Temporary failure, try again later"

/* ---- The answer ---------------------------------------------------------------------------------------- */

void session_run_failed(struct session *s)
{
    s->stream = NULL;
    difference_leave(s);
    session_status_drop(s);
    session_answer_drop(s);
    session_request_drop(s);
    s->proxy->shard->metrics->commands_unavailable++;
    if (s->answered) { /* In the middle of a line or of a literal, perhaps: not even a BYE would be read as one. */
        session_close(s);
        return;
    }
    if (s->state == SESSION_IDLE) { /* Where no NO can stand. */
        session_bye(s, UNAVAILABLE);
        return;
    }
    if (s->state ==
        SESSION_LITERAL) { /* Nothing was committed; the client hears of it when it has sent the rest. */
        conn_resume(&s->conn);
        return;
    }
    if (s->state == SESSION_ASK)
        imap_framer_literal_refuse(&s->framer);
    session_reply(s, "NO", UNAVAILABLE);
    session_ready(s);
}

static void append_asked(struct session *s)
{
    imap_framer_literal_take(&s->framer);
    if (s->literal_sync)
        session_write(s, "+ OK\r\n");
    if (s->request != NULL)
        s->request->streamed = true;
    session_enter(s, SESSION_LITERAL);
    session_deadline(s, s->proxy->limits.session_idle_ms);
    conn_resume(&s->conn);
}

/* What a STATUS says is kept, until the user has changed something: his OK may be here before the notice of it. */
static void answer_heard(struct session *s, const struct link_frame *f)
{
    uint32_t user = RECORD_NONE;

    session_status_heard(s, f);
    if (s->changes && f->header.type == LINK_END)
        user = users_find(&s->proxy->users, session_user(s));
    if (user != RECORD_NONE)
        statuses_forget(&s->proxy->statuses, user);
}

static void on_frame(struct link_stream *stream, struct link_frame *f)
{
    struct session *s = stream->owner;

    if (f->header.type == LINK_DATA && s->state == SESSION_ASK && f->header.size == 0) {
        link_frame_release(f);
        append_asked(s);
    } else {
        answer_heard(s, f);
        session_answer_add(s, f);
    }
}

static void on_credit(struct link_stream *stream)
{
    struct session *s = stream->owner;

    if (s->state == SESSION_LITERAL)
        conn_resume(&s->conn);
}

static void on_lost(struct link_stream *stream)
{
    struct session *s = stream->owner;

    s->stream = NULL;
    difference_leave(s);
    session_status_drop(s);
    if (stream->why == LINK_LOST_ELSEWHERE)
        route_referred(&s->proxy->route, &stream->referral);
    if (!session_request_lost(s, stream->why)) {
        if (stream->why == LINK_LOST_TICKET) /* Of this process: is he to log in again? */
            session_renew(s);
        session_run_failed(s);
        return;
    }
    session_answer_drop(s);
    if (s->state == SESSION_IDLE && s->idle_done)
        session_idle_synced(s); /* He is told at his next command. */
}

static const struct link_stream_ops run_ops = {on_frame, on_credit, on_lost};

/* ---- The request --------------------------------------------------------------------------------------- */

static void send_data(struct session *s, struct slice data, bool last)
{
    do {
        size_t size = MIN(data.size, LINK_PAYLOAD_MAX);
        struct link_frame *f = link_frame_new(size);

        if (size > 0)
            memcpy(f->payload, data.data, size);
        data = slice_from(data, size);
        link_send(s->stream, f, size, last && data.size == 0 ? LINK_LAST : 0);
    } while (data.size > 0);
}

static bool request_open(struct session *s, struct link_target backend, enum link_kind kind,
                         struct slice text, bool last, struct imap_request *request)
{
    char head[HEAD_SIZE_SMALL];
    size_t size;

    request->token = s->token;
    request->ticket = s->ticket;
    request->user = session_user(s);
    put_u64(request->operation_id, s->nonce);
    put_u64(request->operation_id + 8, s->operation);
    size = imap_request_encode(request, head);
    if (text.size <= LINK_PAYLOAD_MAX - size) {
        s->stream = link_open(backend, kind, slice_of(head, size), text, last, &run_ops, s);
    } else {
        s->stream = link_open(backend, kind, slice_of(head, size), slice_of(NULL, 0), false, &run_ops, s);
        if (s->stream != NULL)
            send_data(s, text, last);
    }
    return s->stream != NULL;
}

bool session_request_open(struct session *s)
{
    const struct request *r = s->request;
    bool outcome = r->streamed && s->state == SESSION_RUN;
    struct imap_request request = {.more_follows = r->more_follows, .outcome = outcome, .again = r->unknown};
    struct link_target backend = route_backend(&s->proxy->route, session_place(s), r->bulk);

    return request_open(s, backend, r->kind, slice_of(r->text, r->size), r->last || outcome, &request);
}

static bool may_change(const struct session *s, const struct imap_command *command)
{
    bool read_only = (s->token.flags & TOKEN_READ_ONLY) != 0;

    return command == NULL || imap_command_has(command, IMAP_HAS_MUTATES) ||
           (imap_command_has(command, IMAP_HAS_MAY_MUTATE) && !read_only);
}

/* In memory nothing is kept: what serves there ends together with this process. */
static void ask(struct session *s, enum link_kind kind, struct slice text, bool last, bool more_follows,
                const struct imap_command *command)
{
    struct link_target backend = route_backend(&s->proxy->route, session_place(s), false);
    struct imap_request request = {.more_follows = more_follows};

    s->operation++;
    s->answered = false;
    s->changes = kind == LINK_IMAP && may_change(s, command);
    if (backend.shard == NULL)
        session_request_keep(s, kind, text, last, more_follows, command);
    else if (!request_open(s, backend, kind, text, last, &request))
        session_run_failed(s);
}

void session_forward(struct session *s, const struct imap_frame *frame, bool more_follows)
{
    bool streamed = frame->kind == IMAP_FRAME_LITERAL;

    session_time(s, imap_command_metric(frame->command));
    s->literal_sync = frame->literal_sync;
    session_busy(s, streamed ? SESSION_ASK : SESSION_RUN);
    ask(s, LINK_IMAP, frame->text, !streamed, more_follows, frame->command);
}

void session_sync_alone(struct session *s)
{
    ask(s, LINK_SYNC, slice_of(NULL, 0), true, false, NULL);
}

void session_sync(struct session *s)
{
    session_time(s, METRIC_COMMAND_SYNC);
    if (!difference_join(s))
        session_sync_alone(s);
}

/* ---- APPEND's literals --------------------------------------------------------------------------------- */

bool session_append_credit(const struct session *s)
{
    return s->stream == NULL || link_credit(s->stream) > 0;
}

/* The command was answered before its literal ended, or lost its backend: what still comes of it is dropped. */
static void append_drain(struct session *s, const struct imap_frame *frame)
{
    if (frame->kind == IMAP_FRAME_DATA)
        return;
    if (frame->kind == IMAP_FRAME_LITERAL)
        imap_framer_literal_refuse(&s->framer);
    session_busy(s, SESSION_RUN);
    if (list_empty(&s->answer)) {
        session_reply(s, "NO", UNAVAILABLE);
        session_ready(s);
    } else {
        session_answer_show(s);
    }
}

void session_append_more(struct session *s, const struct imap_frame *frame)
{
    if (s->stream == NULL) {
        append_drain(s, frame);
        return;
    }
    send_data(s, frame->text, frame->kind == IMAP_FRAME_END);
    session_deadline(s, s->proxy->limits.session_idle_ms);
    if (frame->kind == IMAP_FRAME_LITERAL) {
        s->literal_sync = frame->literal_sync;
        session_busy(s, SESSION_ASK);
    } else if (frame->kind == IMAP_FRAME_END) {
        session_time(s, METRIC_COMMAND_APPEND); /* The client's own time to send it does not count. */
        session_busy(s, SESSION_RUN);
    }
}

void session_abandon(struct session *s)
{
    struct link_stream *stream = s->stream;

    s->stream = NULL;
    difference_leave(s);
    session_status_drop(s);
    session_answer_drop(s);
    session_request_drop(s);
    if (stream != NULL)
        link_stream_reset(stream);
}
