#include "roles/backend/subscribe.h"
#include "roles/words/request.h"

static void subscription_free(struct subscription *s)
{
    struct backend *b = s->backend;

    store_watch_remove(&s->watch);
    list_remove(&s->link);
    slab_give(&b->subscriptions, s);
}

static void subscription_notify(struct subscription *s, uint64_t mailbox_id)
{
    struct subscribe_notice notice = {.modseq = s->now, .mailbox_id = s->starved ? 0 : mailbox_id};
    struct link_frame *f;

    if (s->now == s->known)
        return;
    s->starved = link_credit(s->stream) <= 0;
    if (s->starved)
        return;
    f = link_frame_new(HEAD_SIZE_SMALL);
    link_send(s->stream, f, subscribe_notice_encode(&notice, f->payload), 0);
    s->known = s->now;
}

static void subscription_changed(struct store_watch *w, const struct store_change *change)
{
    struct subscription *s = CONTAINER_OF(w, struct subscription, watch);
    bool one = change->mailbox_count == 1 && !change->all_mailboxes;

    s->now = change->modseq;
    subscription_notify(s, one ? change->mailboxes[0] : 0);
}

static void subscription_on_frame(struct link_stream *stream, struct link_frame *f)
{
    link_frame_release(f); /* A proxy says nothing more. */
}

static void subscription_on_credit(struct link_stream *stream)
{
    subscription_notify(stream->owner, 0);
}

static void subscription_on_lost(struct link_stream *stream)
{
    subscription_free(stream->owner);
}

static const struct link_stream_ops subscription_ops = {subscription_on_frame, subscription_on_credit,
                                                        subscription_on_lost};

/* Registered before the number is read, so no change falls between. */
void subscribe_serve(struct link_stream *stream, struct link_frame *open)
{
    struct backend *b = backend_self();
    struct subscription *s = b->stopping ? NULL : slab_take(&b->subscriptions);
    struct subscribe_request request;

    if (s == NULL || !subscribe_request_decode(link_frame_head(open), &request))
        goto refuse;
    s->watch.changed = subscription_changed;
    if (store_watch_add(b->store, request.user, &s->watch, &s->now) < 0)
        goto refuse;
    s->backend = b;
    s->stream = stream;
    s->known = request.known;
    s->claim = member_claim(open, &request.ticket, request.user);
    stream->ops = &subscription_ops;
    stream->owner = s;
    list_push_back(&b->subscription_list, &s->link);
    link_frame_release(open);
    subscription_notify(s, 0);
    return;

refuse:
    if (s != NULL)
        slab_give(&b->subscriptions, s);
    link_stream_refuse(stream, LINK_LOST_REFUSED);
    link_frame_release(open);
}

void subscribe_end_revoked(struct backend *b)
{
    list_each_safe(node, &b->subscription_list)
    {
        struct subscription *s = CONTAINER_OF(node, struct subscription, link);
        struct link_stream *stream = s->stream;

        if (!member_claim_revoked(&s->claim))
            continue;
        subscription_free(s);
        link_stream_refuse(stream, LINK_LOST_TICKET);
    }
}

void subscribe_stop_all(struct backend *b)
{
    list_each_safe(node, &b->subscription_list)
    {
        struct subscription *s = CONTAINER_OF(node, struct subscription, link);
        struct link_stream *stream = s->stream;

        subscription_free(s);
        link_stream_reset(stream);
    }
}
