/* roles/proxy/answer.c -- what a backend answers, on its way to the client: no faster than he reads.
 *
 * Frames wait in s->answer and leave in order while less than SESSION_OUTPUT_MAX bytes wait in the connection.
 * What renumbers the client's view (HOLD) leaves only when the END is there, whose token stands for it, and the
 * token counts from the moment at which the END is written: if the backend dies before, the client has seen
 * neither. */
#include "core/log.h"
#include "core/metrics.h"
#include "roles/proxy/session.h"
#include "roles/words/expunge_run.h"
#include <stdio.h>

#define COPY_MAX 1024 /* Up to this size data is copied: it leaves in one piece with what surrounds it. */

static struct link_frame *first_frame(const struct session *s)
{
    return CONTAINER_OF(s->answer.next, struct link_frame, link);
}

static bool may_leave(const struct session *s)
{
    if (list_empty(&s->answer) || s->state == SESSION_CLOSING || conn_queued(&s->conn) >= SESSION_OUTPUT_MAX)
        return false;
    if (s->state == SESSION_LITERAL) /* Refused half-way: the client hears of it when he has sent the rest. */
        return false;
    return s->stream == NULL || (first_frame(s)->header.flags & LINK_HOLD) == 0;
}

static void frame_sent(void *arg)
{
    link_frame_release(arg);
}

/* False: it cannot be continued. Takes f. */
static bool write_text(struct session *s, struct link_frame *f)
{
    struct slice data = link_frame_data(f);

    if (!session_request_show(s, &data, f->header.type == LINK_END)) {
        link_frame_release(f);
        return false;
    }
    s->answered = s->answered || data.size > 0;
    if (data.size <= COPY_MAX) {
        conn_write(&s->conn, data);
        link_frame_release(f);
    } else {
        conn_write_loan(&s->conn, data, frame_sent, f);
    }
    return true;
}

/* It was asked for again, and others have changed something meanwhile. */
static void answer_differs(struct session *s)
{
    log_event(LOG_WARN, "answer not continued", "sid=%llx user=%s why=backend_lost_and_mailbox_changed",
              (unsigned long long)s->id, log_quote(session_user(s)));
    session_abandon(s);
    session_run_failed(s);
}

/* The answer cannot be understood, so it cannot be finished. */
static void answer_bad(struct session *s)
{
    log_event(LOG_ERROR, "backend's answer not understood", "sid=%llx hint=versions_differ",
              (unsigned long long)s->id);
    session_abandon(s);
    session_run_failed(s);
}

/* Some lines of the first frame; the frame is given back with its last. False: it holds no runs. */
static bool write_expunges(struct session *s, struct link_frame *f)
{
    struct expunge_run run;
    char line[32];

    if (!expunge_run_decode(slice_from(link_frame_data(f), s->answer_at), &run) ||
        s->answer_done >= run.count)
        return false;
    s->answered = true;
    while (s->answer_done < run.count && conn_queued(&s->conn) < SESSION_OUTPUT_MAX) {
        int size = snprintf(line, sizeof line, "* %u EXPUNGE\r\n", run.last - s->answer_done++);

        conn_write(&s->conn, slice_of(line, (size_t)size));
    }
    if (s->answer_done < run.count)
        return true;
    s->answer_done = 0;
    s->answer_at += EXPUNGE_RUN_SIZE;
    if (s->answer_at < f->header.size)
        return true;
    s->answer_at = 0;
    list_remove(&f->link);
    link_frame_release(f);
    return true;
}

/* The END: its text is the tagged line. What the session does next. */
static void answer_end(struct session *s, struct link_frame *f)
{
    struct imap_reply reply;

    if (!imap_reply_decode(link_frame_head(f), &reply)) {
        link_frame_release(f);
        answer_bad(s);
        return;
    }
    if (!write_text(s, f)) {
        answer_differs(s);
        return;
    }
    session_request_token(s, &reply.token);
    session_request_drop(s);
    s->proxy->shard->metrics->commands++;
    if ((reply.flags & IMAP_REPLY_BYE) != 0) {
        conn_linger(&s->conn);
        session_close(s);
    } else if (s->state == SESSION_IDLE) {
        session_idle_synced(s);
    } else {
        if (s->state == SESSION_ASK) /* Refused before its literal: NO [TRYCREATE] and the like. */
            imap_framer_literal_refuse(&s->framer);
        session_ready(s);
    }
}

void session_answer_show(struct session *s)
{
    while (may_leave(s)) {
        struct link_frame *f = first_frame(s);
        struct slice none = {0};

        if ((f->header.flags & LINK_RUNS) != 0) {
            if (!session_request_show(s, &none, true)) /* Too early, in an answer that comes again. */
                answer_differs(s);
            else if (!write_expunges(s, f))
                answer_bad(s);
            continue;
        }
        list_remove(&f->link);
        if (f->header.type == LINK_END)
            answer_end(s, f);
        else if (!write_text(s, f))
            answer_differs(s);
    }
}

void session_answer_add(struct session *s, struct link_frame *f)
{
    difference_came(s, f);
    list_push_back(&s->answer, &f->link);
    if (f->header.type == LINK_END) {
        s->stream = NULL;
        session_request_answered(s);
        session_timed(s);
    }
    if (s->stream == NULL && s->state == SESSION_LITERAL)
        conn_resume(&s->conn);
    session_answer_show(s);
}

void session_answer_drop(struct session *s)
{
    for (struct list *it; (it = list_pop_front(&s->answer)) != NULL;)
        link_frame_release(CONTAINER_OF(it, struct link_frame, link));
    s->answer_at = s->answer_done = 0;
}
