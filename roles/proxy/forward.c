/* roles/proxy/forward.c -- commands that a backend executes: the request goes out as a link stream with the
 * session's token; the answer's bytes go to the client as they are (answer.c), the new token stays here. */
#include "core/metrics.h"
#include "roles/proxy/session.h"
#include "roles/words/timing.h"

#define UNAVAILABLE "[UNAVAILABLE] Temporary failure, try again later"

/* ---- The answer
 * -------------------------------------------------------------------------------------------- */

void session_run_failed(struct session *s)
{
    s->stream = NULL;
    session_answer_drop(s);
    s->proxy->shard->metrics->commands_unavailable++;
    if (s->state == SESSION_ASK)
        imap_framer_literal_refuse(&s->framer);
    if (s->answered) { /* In the middle of a line or of a literal, perhaps: not even a BYE would be read as one. */
        session_close(s);
        return;
    }
    if (s->state == SESSION_IDLE || s->state == SESSION_LITERAL) { /* Where no NO can stand. */
        session_bye(s, UNAVAILABLE);
        return;
    }
    session_reply(s, "NO", UNAVAILABLE);
    session_ready(s);
}

static void append_asked(struct session *s)
{
    imap_framer_literal_take(&s->framer);
    if (s->literal_sync)
        session_write(s, "+ OK\r\n");
    session_enter(s, SESSION_LITERAL);
    session_deadline(s, s->proxy->limits.session_idle_ms);
    conn_resume(&s->conn);
}

static void on_frame(struct link_stream *stream, struct link_frame *f)
{
    struct session *s = stream->owner;

    if (f->header.type == LINK_DATA && s->state == SESSION_ASK && f->header.size == 0) {
        link_frame_release(f);
        append_asked(s);
    } else {
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
    session_run_failed(stream->owner);
}

static const struct link_stream_ops run_ops = {on_frame, on_credit, on_lost};

/* ---- The request
 * ------------------------------------------------------------------------------------------- */

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

static struct link_stream *request_open(struct session *s, enum link_kind kind, struct slice text, bool last,
                                        bool more_follows)
{
    struct imap_request request = {.token = s->token, .more_follows = more_follows, .user = session_user(s)};
    char head[HEAD_SIZE_SMALL];
    size_t size;

    s->operation++;
    put_u64(request.operation_id, s->nonce);
    put_u64(request.operation_id + 8, s->operation);
    size = imap_request_encode(&request, head);
    s->answered = false;
    if (text.size <= LINK_PAYLOAD_MAX - size)
        return link_open(s->backend, kind, slice_of(head, size), text, last, &run_ops, s);
    s->stream = link_open(s->backend, kind, slice_of(head, size), slice_of(NULL, 0), false, &run_ops, s);
    if (s->stream != NULL)
        send_data(s, text, last);
    return s->stream;
}

void session_forward(struct session *s, const struct imap_frame *frame, bool more_follows)
{
    bool streamed = frame->kind == IMAP_FRAME_LITERAL;

    session_time(s, imap_command_metric(frame->command));
    s->literal_sync = frame->literal_sync;
    session_busy(s, streamed ? SESSION_ASK : SESSION_RUN);
    s->stream = request_open(s, LINK_IMAP, frame->text, !streamed, more_follows);
    if (s->stream == NULL)
        session_run_failed(s);
}

void session_sync(struct session *s)
{
    session_time(s, METRIC_COMMAND_SYNC);
    s->stream = request_open(s, LINK_SYNC, slice_of(NULL, 0), true, false);
    if (s->stream == NULL)
        session_run_failed(s);
}

/* ---- APPEND's literals
 * --------------------------------------------------------------------------------------- */

bool session_append_credit(const struct session *s)
{
    return s->stream == NULL || link_credit(s->stream) > 0;
}

/* The command was answered before its literal ended: what still comes of it is dropped. */
static void append_drain(struct session *s, const struct imap_frame *frame)
{
    if (frame->kind == IMAP_FRAME_DATA)
        return;
    if (frame->kind == IMAP_FRAME_LITERAL)
        imap_framer_literal_refuse(&s->framer);
    session_busy(s, SESSION_RUN);
    session_answer_show(s);
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
    session_answer_drop(s);
    if (stream != NULL)
        link_stream_reset(stream);
}
