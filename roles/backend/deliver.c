#include "roles/backend/deliver.h"
#include "core/io.h"
#include "core/log.h"
#include "core/metrics.h"
#include "roles/backend/member.h"
#include "storage/change.h"
#include <errno.h>

#define RECIPIENT_SHOWN_MAX                                                                                  \
    320 /* An address (RFC 5321 4.5.3.1); the trailer has room for LINK_TRAILER_MAX bytes. */

/* ---- The answer ---------------------------------------------------------------------------------------- */

static void delivery_free(struct delivery *d)
{
    struct backend *b = d->backend;
    struct list *node;

    while ((node = list_pop_front(&d->frames)) != NULL)
        link_frame_release(CONTAINER_OF(node, struct link_frame, link));
    link_frame_release(d->open);
    list_remove(&d->link);
    slab_give(&b->deliveries, d);
    backend_record_gone(b);
}

static const struct {
    int rc;
    uint16_t code;
    const char *text;
} failures[] = {
    {-EFBIG, 552, "5.3.4 Message is too large"}, {-EOVERFLOW, 452, "4.2.2 Mailbox is full"},
    {-ENOSPC, 452, "4.3.1 The disk is full"},    {-EDESTADDRREQ, 550, "5.1.3 Bad address"},
    {0, 451, "4.3.0 Temporary failure"},
};

static void delivery_answer(struct delivery *d, int rc)
{
    char text[RECIPIENT_SHOWN_MAX + WRITER_NEED_MAX], trailer[HEAD_SIZE_SMALL];
    struct writer w;
    struct deliver_reply reply = {.code = 250};
    unsigned i = 0;

    if (rc == 0) {
        writer_fixed(&w, text, sizeof text);
        writer_text(&w, "2.0.0 <");
        writer_slice(&w,
                     slice_first(d->request.recipient, MIN(d->request.recipient.size, RECIPIENT_SHOWN_MAX)));
        writer_text(&w, "> Saved");
        reply.text = slice_of(text, writer_used(&w));
    } else {
        while (failures[i].rc != rc && failures[i].rc != 0)
            i++;
        reply.code = failures[i].code;
        reply.text = slice_str(failures[i].text);
        log_event(LOG_WARN, "not delivered", "user=%s code=%u error=%s", log_quote(d->request.user),
                  reply.code, log_error(rc));
    }
    metric_elapsed(&shard_self()->metrics->backend_time[METRIC_COMMAND_DELIVER], d->began_ns, time_ns());
    if (d->stream != NULL)
        link_end(d->stream, NULL, 0, slice_of(trailer, deliver_reply_encode(&reply, trailer)));
    d->stream = NULL;
}

/* ---- The message --------------------------------------------------------------------------------------- */

static bool has_control(struct slice s)
{
    for (size_t i = 0; i < s.size; i++)
        if ((uint8_t)s.data[i] < ' ' || s.data[i] == 0x7f)
            return true;
    return false;
}

/* The trace fields of this recipient's copy (RFC 5321 4.4); the bytes that were sent follow as they are. */
static int write_prefix(struct delivery *d)
{
    const struct deliver_request *r = &d->request;
    const struct slice pieces[] = {
        SLICE("Return-Path: <"), r->return_path, SLICE(">\r\nDelivered-To: "), r->recipient,
        SLICE("\r\n"),           r->received};
    int rc = 0;

    for (unsigned i = 0; i < ARRAY_COUNT(pieces) && rc == 0; i++)
        if (pieces[i].size > 0)
            rc = body_write(d->writer, pieces[i]);
    return rc;
}

static int delivery_begin(struct delivery *d)
{
    int rc;

    if (has_control(d->request.return_path) || has_control(d->request.recipient))
        return -EDESTADDRREQ;
    if (d->request.size_hint > d->backend->message_size_max)
        return -EFBIG;
    rc = body_begin(d->backend->store, d->request.size_hint, &d->writer);
    if (rc < 0) {
        d->writer = NULL;
        return rc;
    }
    return write_prefix(d);
}

static void delivery_write(struct delivery *d, struct slice data)
{
    if (d->rc == 0 && data.size > 0)
        d->rc = body_write(d->writer, data);
    if (d->rc == 0 && body_written(d->writer) > d->backend->message_size_max)
        d->rc = -EFBIG;
}

/* Takes every frame that is there. Suspends. */
static void delivery_frames(struct delivery *d)
{
    struct list *node;

    if (!d->begun) {
        d->begun = true;
        d->rc = delivery_begin(d);
        delivery_write(d, link_frame_data(d->open));
    }
    while ((node = list_pop_front(&d->frames)) != NULL) {
        struct link_frame *f = CONTAINER_OF(node, struct link_frame, link);

        delivery_write(d, link_frame_data(f));
        link_frame_release(f);
    }
}

/* ---- The change ---------------------------------------------------------------------------------------- */

/* The folder of user+folder, in whatever case; one that does not exist is INBOX. */
static struct mailbox *delivery_mailbox(const struct delivery *d, struct account *a)
{
    struct slice folder = d->request.folder;
    struct mailbox *m = folder.size > 0 ? account_mailbox(a, folder) : NULL;

    for (uint32_t i = 0; m == NULL && folder.size > 0 && i < a->mailbox_count; i++)
        if (slice_eq_nocase(mailbox_name(account_mailbox_at(a, i)), folder))
            m = account_mailbox_at(a, i);
    return m != NULL ? m : account_mailbox(a, SLICE("INBOX"));
}

static int delivery_stage(struct delivery *d, struct account *a, struct body *body, struct change *change)
{
    struct change_message message = {.body = body, .internal_s = time_wall()};
    struct mailbox *m = delivery_mailbox(d, a);
    uint32_t uid;

    return m != NULL ? change_append(change, m, &message, &uid) : -EIO;
}

static int delivery_commit(struct delivery *d, struct account *a, struct body *body)
{
    const struct id128 *id = (const void *)d->request.operation_id;
    struct change change;
    int rc = change_begin(&change, a, id128_is_zero(id) ? NULL : id);

    if (rc == 0)
        rc = delivery_stage(d, a, body, &change);
    if (rc == 0)
        rc = change_commit(&change, (struct slice){0});
    if (rc == -EALREADY) /* The same delivery again: it is there, or was given up. */
        rc = backend_result_refused(change.result) ? -ECANCELED : 0;
    change_end(&change);
    return rc;
}

/* Was it delivered? If not, its operation id is taken: a late message of the first try finds that. */
static int delivery_outcome(struct delivery *d)
{
    struct change change;
    struct account *a;
    int rc = backend_account_open(d->backend, d->request.user, &a);

    if (rc < 0)
        return rc;
    rc = change_begin(&change, a, (const void *)d->request.operation_id);
    if (rc == 0) {
        rc = change_commit(&change, backend_refused);
        rc = rc == 0 ? -ECANCELED : rc;
    } else if (rc == -EALREADY) {
        rc = backend_result_refused(change.result) ? -ECANCELED : 0;
    }
    change_end(&change);
    account_close(a);
    return rc;
}

/* Whoever cannot find out says nothing: he is asked again. */
static void delivery_tell(struct delivery *d, int rc)
{
    if (rc == 0 || rc == -ECANCELED) {
        delivery_answer(d, rc);
        return;
    }
    if (d->stream != NULL)
        link_stream_reset(d->stream);
    d->stream = NULL;
}

static int delivery_finish(struct delivery *d)
{
    struct account *a;
    struct body *body;
    int rc = d->rc;

    if (rc < 0)
        return rc;
    rc = body_finish(d->writer, &body);
    if (rc < 0)
        return rc;
    d->writer = NULL;
    rc = backend_account_open(d->backend, d->request.user, &a);
    if (rc == 0) {
        rc = delivery_commit(d, a, body);
        account_close(a);
    }
    body_free(body);
    return rc;
}

/* ---- Steps --------------------------------------------------------------------------------------------- */

static void delivery_go(struct delivery *d);

static void delivery_run(void *arg)
{
    struct delivery *d = arg;
    bool whole;

    if (d->request.outcome) {
        delivery_tell(d, delivery_outcome(d));
        delivery_free(d);
        return;
    }
    delivery_frames(d);
    whole = d->got_last;
    if (!whole && d->stream != NULL) {
        d->waiting = true;
        return;
    }
    if (whole)
        delivery_answer(d, delivery_finish(d));
    body_abort(d->writer);
    delivery_free(d);
}

static void delivery_fiber_free(struct fiber_waiter *w)
{
    delivery_go(CONTAINER_OF(w, struct delivery, waiter));
}

static void delivery_go(struct delivery *d)
{
    d->waiting = false;
    if (fiber_start("deliver", RUN_INTERACTIVE, delivery_run, d) != NULL)
        return;
    d->waiter.free_done = delivery_fiber_free;
    fiber_when_free(&d->waiter);
}

static void delivery_on_frame(struct link_stream *s, struct link_frame *f)
{
    struct delivery *d = s->owner;

    d->got_last = s->got_last;
    d->began_ns = time_ns();
    list_push_back(&d->frames, &f->link);
    if (d->waiting)
        delivery_go(d);
}

static void delivery_on_credit(struct link_stream *s)
{
}

/* What was received whole is delivered all the same: whoever sent it may ask again by its operation id. */
static void delivery_on_lost(struct link_stream *s)
{
    struct delivery *d = s->owner;

    d->stream = NULL;
    if (d->waiting)
        delivery_go(d);
}

static const struct link_stream_ops delivery_ops = {delivery_on_frame, delivery_on_credit, delivery_on_lost};

void deliver_serve(struct link_stream *s, struct link_frame *open)
{
    struct backend *b = backend_self();
    struct delivery *d = b->stopping || !heap_admits(b->heap) ? NULL : slab_take(&b->deliveries);

    bool known = d != NULL && deliver_request_decode(link_frame_head(open), &d->request) &&
                 !(d->request.outcome && id128_is_zero((const void *)d->request.operation_id));

    if (!known || !member_serves(d->request.user)) {
        struct link_referral referral = {.epoch = 0};

        if (known)
            referral = member_referral_of(d->request.user);
        if (d != NULL)
            slab_give(&b->deliveries, d);
        if (known)
            link_stream_refer(s, &referral);
        else
            link_stream_refuse(s, LINK_LOST_REFUSED);
        link_frame_release(open);
        return;
    }
    d->user = member_claim(&d->request.ticket, d->request.user).user;
    d->backend = b;
    d->stream = s;
    d->open = open;
    d->got_last = s->got_last;
    d->began_ns = time_ns();
    list_init(&d->frames);
    s->ops = &delivery_ops;
    s->owner = d;
    list_push_back(&b->delivery_list, &d->link);
    delivery_go(d);
}

bool deliver_acts_for(const struct backend *b, uint64_t user)
{
    list_each(node, &b->delivery_list)
    {
        if (CONTAINER_OF(node, struct delivery, link)->user == user)
            return true;
    }
    return false;
}

void deliver_stop_all(struct backend *b)
{
    list_each_safe(node, &b->delivery_list)
    {
        struct delivery *d = CONTAINER_OF(node, struct delivery, link);
        struct link_stream *s = d->stream;

        if (s == NULL)
            continue;
        delivery_on_lost(s);
        link_stream_reset(s);
    }
}
