/* roles/proxy/request.c -- what a backend is asked over a wire, kept until it has answered. When the link is lost:
 *
 *   a change        is asked again with the same operation id: executed once, the recorded answer otherwise;
 *   ... whose literal was sent    is asked for its outcome alone: the answer, or NO, and then it never happens;
 *   a read          is asked again;
 *   an idle session is asked for again, for as long as it idles.
 *
 * What the client has of an answer is not written twice: it must come again, and the rest follows. It must be the same byte for byte,
 * but for the whole lines of a FETCH, whose flags others may have changed meanwhile, and which may have new keywords (lines.h): his next
 * command tells of them. If it is not, his connection is closed in the middle, since nothing else would be true.
 *
 * How often that is, for all sessions together, is bounded by the link's budget (budget.h). When it is used up, what can be given up is
 * NO; of which neither OK nor NO would be true, or which the client has in part, waits longer; so do idle sessions.
 *
 * What has never left is NO within UNSENT_MS. A change whose outcome stays unknown for limits.outcome_wait closes the
 * connection: neither OK nor NO would be true. */
#include "core/io.h"
#include "core/log.h"
#include "core/metrics.h"
#include "core/xxh.h"
#include "roles/proxy/lines.h"
#include "roles/proxy/session.h"
#include <stdio.h>

#define UNSENT_MS 4500
#define AGAIN_MS  100 /* Before the next try, plus a jitter of as much; twice that before the one after it, */
#define SCARCE_MS 2000 /* Before it, when the link's budget is used up, plus a jitter of as much. */
#define DOUBLED   3    /* and so on, so often: who refuses has enough to do. */

struct shown { /* Of what the client has, and of as much as has come again. */
    XXH3_state_t shown, repeated;
};

struct shown_lines { /* The same of a FETCH. */
    struct lines shown, repeated;
};

/* The heap does not align as those want it. */
static void *aligned(const struct request *r)
{
    uintptr_t align = _Alignof(XXH3_state_t);

    return (void *)(((uintptr_t)r->hashes + align - 1) / align * align);
}

static struct shown *hashes_of(const struct request *r)
{
    return aligned(r);
}

static struct shown_lines *lines_of(const struct request *r)
{
    return aligned(r);
}

static void hashes_new(struct request *r)
{
    size_t size = (r->by_lines ? sizeof(struct shown_lines) : sizeof(struct shown)) + _Alignof(XXH3_state_t);

    r->hashes = heap_zalloc(r->session->proxy->heap, size);
    if (!r->by_lines)
        XXH3_64bits_reset(&hashes_of(r)->shown);
}

static void try_later(struct request *r)
{
    uint32_t pause_ms = AGAIN_MS << MIN(r->tries, DOUBLED);

    r->tries += r->tries < DOUBLED;
    timer_set(&r->again, pause_ms + (uint32_t)(random_u64() % pause_ms));
}

/* A NO would be wrong, or cannot stand here. */
static bool must_go_on(const struct request *r)
{
    return r->unknown || r->kind == LINK_SYNC || r->session->answered;
}

/* False: not now. What has a better ticket by now was not refused for lack of time. */
static bool may_again(struct request *r)
{
    struct session *s = r->session;

    if (r->ticket || r->waited ||
        route_again(&s->proxy->route, route_backend(&s->proxy->route, session_place(s), r->bulk))) {
        r->waited = false;
        return true;
    }
    if (must_go_on(r)) {
        r->waited = true;
        timer_set(&r->again, SCARCE_MS + (uint32_t)(random_u64() % SCARCE_MS));
    } else {
        session_run_failed(s);
    }
    return false;
}

static void on_again(struct timer *t)
{
    struct request *r = CONTAINER_OF(t, struct request, again);

    if (!may_again(r))
        return;
    r->session->proxy->shard->metrics->commands_again++;
    if (!session_request_open(r->session))
        try_later(r);
}

static void on_deadline(struct timer *t)
{
    struct request *r = CONTAINER_OF(t, struct request, deadline);
    struct session *s = r->session;
    struct link_stream *stream = s->stream;

    if (r->unknown) {
        s->proxy->shard->metrics->outcomes_unknown++;
        log_event(LOG_WARN, "outcome of a change not known", "sid=%llx user=%s hint=is_its_backend_down",
                  (unsigned long long)s->id, log_quote(session_user(s)));
        session_bye(s, "[UNAVAILABLE] What became of the last command is not known");
        return;
    }
    r->lost = false;
    if (stream != NULL && link_stream_sent(stream))
        return; /* It is being executed; if its link dies we hear of it. */
    s->stream = NULL;
    if (stream != NULL)
        link_stream_reset(stream);
    session_run_failed(s);
}

void session_request_keep(struct session *s, enum link_kind kind, struct slice text, bool last,
                          bool more_follows, const struct imap_command *command)
{
    struct request *r = heap_alloc(s->proxy->heap, sizeof *r + text.size);

    *r = (struct request){
        .session = s, .kind = kind, .last = last, .more_follows = more_follows, .size = (uint32_t)text.size};
    if (command != NULL) {
        r->changes = imap_command_has(command, IMAP_HAS_MUTATES);
        r->by_lines = command->id == IMAP_FETCH || command->id == IMAP_UID_FETCH;
        r->bulk = r->by_lines || imap_command_has(command, IMAP_HAS_APPEND);
    }
    if (text.size > 0)
        memcpy(r->text, text.data, text.size);
    timer_init(&r->again, on_again);
    timer_init(&r->deadline, on_deadline);
    ASSERT(s->request == NULL);
    s->request = r;
    if (kind != LINK_SYNC)
        timer_set(&r->deadline, UNSENT_MS);
    route_asked(route_backend(&s->proxy->route, session_place(s), r->bulk));
    if (!session_request_open(s))
        try_later(r);
}

void session_request_drop(struct session *s)
{
    struct request *r = s->request;

    if (r == NULL)
        return;
    s->request = NULL;
    timer_cancel(&r->again);
    timer_cancel(&r->deadline);
    heap_free(s->proxy->heap, r->hashes);
    heap_free(s->proxy->heap, r);
}

void session_request_answered(struct session *s)
{
    if (s->request == NULL)
        return;
    timer_cancel(&s->request->again);
    timer_cancel(&s->request->deadline);
}

/* What is shown last cannot come again: most answers are one frame, and need no hash. */
static void shown_add(struct request *r, struct slice data)
{
    if (r->hashes == NULL)
        hashes_new(r);
    XXH3_64bits_update(&hashes_of(r)->shown, data.data, data.size);
}

/* Of what comes again: takes off *data what the client has. False: it is not what he has. */
static bool lines_again(struct request *r, struct slice *data)
{
    struct lines *shown = &lines_of(r)->shown, *again = &lines_of(r)->repeated;
    struct slice part;

    *data = slice_from(*data, lines_feed(again, *data, shown->whole));
    if (again->whole < shown->whole)
        return true;
    if (again->about != shown->about)
        return false;
    if (shown->part > 0) {
        size_t noted = lines_pass_notes(again, shown, *data);

        *data = slice_from(*data, noted);
        r->passed = r->passed || noted > 0;
        if (data->size == 0)
            return true;
    }
    part = slice_first(*data, MIN(data->size, shown->part - again->part));
    *data = slice_from(*data, lines_feed(again, part, UINT64_MAX));
    if (again->whole != shown->whole) /* The line has become shorter. */
        return false;
    r->behind = again->part < shown->part;
    return r->behind || lines_part_same(again, shown);
}

static bool lines_show(struct request *r, struct slice *data, bool last)
{
    if (r->behind && !lines_again(r, data))
        return false;
    if (!r->behind && !last && data->size > 0) {
        if (r->hashes == NULL)
            hashes_new(r);
        lines_feed(&lines_of(r)->shown, *data, UINT64_MAX);
    }
    return !last || !r->behind;
}

bool session_request_show(struct session *s, struct slice *data, bool last)
{
    struct request *r = s->request;
    size_t size;

    if (r == NULL)
        return true;
    if (r->by_lines)
        return lines_show(r, data, last);
    size = MIN(data->size, r->shown - r->repeated);
    if (size > 0) {
        XXH3_64bits_update(&hashes_of(r)->repeated, data->data, size);
        *data = slice_from(*data, size);
        r->repeated += size;
        if (r->repeated == r->shown &&
            XXH3_64bits_digest(&hashes_of(r)->repeated) != XXH3_64bits_digest(&hashes_of(r)->shown))
            return false;
    }
    if (data->size > 0) {
        if (!last)
            shown_add(r, *data);
        r->repeated = r->shown += data->size;
    }
    return !last || r->repeated == r->shown;
}

/* More was shown than was told of: a client that caches must begin again below (RFC 7162 3.1.2.1), if he ends before it is told. */
static void highest_write(struct session *s)
{
    const struct token *t = &s->token;
    uint64_t highest = MIN(t->appends, MIN(t->expunges, t->flag_changes));
    char line[80];
    int size =
        snprintf(line, sizeof line, "* OK [HIGHESTMODSEQ %llu] Highest.\r\n", (unsigned long long)highest);

    conn_write(&s->conn, slice_of(line, (size_t)size));
}

/* Behind the lines of messages there are those that tell what others have changed, and no end of the one kind can be seen in them: those
 * that were not shown the second time may have told of flags and keywords that are newer than what the client has. So they are told
 * again. */
void session_request_token(struct session *s, const struct token *token)
{
    const struct token before = s->token;

    s->token = *token;
    if (s->request == NULL || !s->request->passed)
        return;
    s->token.flag_changes = MIN(before.flag_changes, token->flag_changes);
    s->token.keyword_count = MIN(before.keyword_count, token->keyword_count);
    if ((token->flags & TOKEN_CONDSTORE) != 0)
        highest_write(s);
}

bool session_request_lost(struct session *s, enum link_lost why)
{
    struct request *r = s->request;

    if (r == NULL || s->state == SESSION_LITERAL || (s->state == SESSION_ASK && r->streamed))
        return false;
    r->repeated = 0;
    r->behind = r->by_lines && r->hashes != NULL;
    r->passed = r->behind && lines_of(r)->shown.whole > 0;
    if (r->behind)
        memset(&lines_of(r)->repeated, 0, sizeof lines_of(r)->repeated);
    else if (r->hashes != NULL)
        XXH3_64bits_reset(&hashes_of(r)->repeated);
    if (why == LINK_LOST_UNKNOWN && r->changes && s->state != SESSION_ASK)
        r->unknown = true; /* Of what still waits for its literal nothing was done. */
    if (why == LINK_LOST_UNKNOWN && r->kind != LINK_SYNC && !r->lost) {
        r->lost = true;
        timer_set(&r->deadline, (uint32_t)s->proxy->limits.outcome_wait_ms);
    } else if (r->kind != LINK_SYNC &&
               !timer_armed(&r->deadline)) { /* It was over while an answer was on its way. */
        timer_set(&r->deadline, UNSENT_MS);
    }
    r->ticket = why == LINK_LOST_TICKET;
    if (r->ticket)
        session_renew(s);
    try_later(r);
    return true;
}

/* ---- Tickets ------------------------------------------------------------------------------------------- */

static void on_renewed(struct link_stream *stream, struct link_frame *f)
{
    struct session *s = stream->owner;
    struct login_reply reply;
    bool ended = f->header.type == LINK_END, known = ended && login_reply_decode(link_frame_head(f), &reply);

    if (known && reply.result == LOGIN_OK) {
        s->ticket = reply.ticket;
        s->partition = reply.partition;
    }
    link_frame_release(f);
    if (!ended)
        return;
    s->renewal = NULL;
    if (known && reply.result == LOGIN_OK)
        subscriber_renewed(&s->proxy->subscriptions, &s->subscriber);
    session_idle_rest(s);
    if (known && (reply.result == LOGIN_REFUSED || reply.result == LOGIN_DISABLED))
        session_bye(s, "[UNAVAILABLE] Please log in again");
}

static void on_renewal_credit(struct link_stream *stream)
{
}

static void on_renewal_lost(struct link_stream *stream)
{
    struct session *s = stream->owner;

    s->renewal = NULL;
    session_idle_rest(s);
}

static const struct link_stream_ops renewal_ops = {on_renewed, on_renewal_credit, on_renewal_lost};

void session_renew(struct session *s)
{
    struct renew_request request = {.ticket = s->ticket, .user = session_user(s)};
    char head[HEAD_SIZE_SMALL];

    if (s->renewal != NULL)
        return;
    s->renewal = link_open(route_director(&s->proxy->route, request.user), LINK_RENEW,
                           slice_of(head, renew_request_encode(&request, head)), slice_of(NULL, 0), true,
                           &renewal_ops, s);
}
