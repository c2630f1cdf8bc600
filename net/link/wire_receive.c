/* net/link/wire_receive.c -- frames that arrive by a connection. False is what no node of ours would send. */
#include "net/link/wire_state.h"

static bool open_arrived(struct link_wire *w, struct link_frame *f)
{
    const struct wires_config *config = &wires_self()->config;
    struct node *node = shard_self()->node;
    enum link_lost why = LINK_LOST_REFUSED;
    struct link_referral referral = {.epoch = 0};
    struct link_stream *s;
    unsigned shard;
    bool served = false;

    if (link_find(w->link.served, w->link.served_count, f->header.stream) != NULL)
        return false;
    s = link_served_new(&w->link, f->header.stream, (f->header.flags & LINK_LAST) != 0);
    if (s == NULL) {
        wire_reset(w, f->header.stream, false, why, &referral);
        link_frame_release(f);
        return true;
    }
    if (config->admit == NULL || config->admit(&w->node, f, &why, &referral)) {
        shard = config->shard(f->header.kind, (uint16_t)f->header.value);
        if (shard >= node->shard_count)
            why = LINK_LOST_ELSEWHERE;
        else if (node->shards[shard] != shard_self())
            served = link_relay_open(s, node->shards[shard], f, &w->node);
        else
            served = link_serve_frame(s, f);
    }
    if (!served) {
        if (why == LINK_LOST_ELSEWHERE)
            link_stream_refer(s, &referral);
        else
            link_stream_refuse(s, why);
        link_frame_release(f);
    }
    return true;
}

static struct link_stream *wire_stream(struct link_wire *w, const struct link_header *h)
{
    if ((h->flags & LINK_FROM_OPENER) != 0)
        return link_find(w->link.served, w->link.served_count, h->stream);
    return link_find(w->link.opened, w->link.opened_count, h->stream);
}

static bool data_arrived(struct link_wire *w, struct link_frame *f)
{
    struct link_stream *s = wire_stream(w, &f->header);

    if (s == NULL) { /* It ended here, and the peer has not heard of it yet. */
        link_frame_release(f);
        return true;
    }
    if (s->got_last || (s->opener && !s->transmitted))
        return false;
    if (f->header.type == LINK_DATA) {
        s->received += f->header.size;
        if (s->received > ((f->header.flags & LINK_HOLD) != 0 ? LINK_HELD_MAX : LINK_WINDOW))
            return false;
        credit_promise(s, s->got_last || (f->header.flags & LINK_LAST) != 0);
    }
    if (s->relay != NULL) {
        s->got_last = (f->header.flags & LINK_LAST) != 0;
        link_relay_frame(s->relay, f);
    } else {
        link_stream_frame(s, f);
    }
    return true;
}

static bool reset_arrived(struct link_wire *w, const struct link_header *h, const char *payload)
{
    struct link_stream *s = wire_stream(w, h);
    struct link_referral referral = {.epoch = 0};

    if (h->size > 0)
        link_referral_decode(payload, &referral);

    if (s == NULL)
        return true;
    if (s->opener) {
        if (!s->transmitted)
            return false;
        link_stream_referred(s, h->value, &referral);
        return true;
    }
    wire_reset(w, s->id, false, LINK_LOST_UNKNOWN, &referral); /* The answer that frees the id. */
    if (s->relay != NULL)
        link_relay_reset(s);
    link_stream_lost(s, LINK_LOST_UNKNOWN);
    return true;
}

/* There may be room again: for its owner, and for what is queued. */
static void window_moved(struct link_wire *w, const struct link_header *h, struct link_stream *s,
                         uint32_t credit)
{
    link_stream_credit(s, credit); /* Its owner may end it meanwhile, */
    s = wire_stream(w, h);
    if (s != NULL)
        wire_stream_ready(s); /* and what leaves may be its END. */
}

static bool credit_arrived(struct link_wire *w, const struct link_header *h)
{
    struct link_stream *s = wire_stream(w, h);

    if (s == NULL)
        return true;
    if (h->value > s->in_flight)
        return false;
    s->in_flight -= h->value;
    window_moved(w, h, s, h->value);
    return true;
}

/* Whoever has used up a first window before this came waits for it: CREDIT comes in parts of the new one, which he does not fill. */
static void grant_arrived(struct link_wire *w, const struct link_header *h)
{
    struct link_stream *s = wire_stream(w, h);

    if (s == NULL)
        return;
    s->window = h->value;
    window_moved(w, h, s, 0);
}

static bool frame_arrived(struct link_wire *w, struct link_frame *f)
{
    const struct link_header h = f->header;
    bool hello = h.type == LINK_HELLO, good = hello == (w->state == WIRE_HELLO), taken = false;

    if (good && hello) {
        good = wire_hello_arrived(w, slice_of(f->payload, h.size));
    } else if (good) {
        switch (h.type) {
        case LINK_OPEN:
            taken = good = open_arrived(w, f);
            break;
        case LINK_DATA:
        case LINK_END:
            taken = good = data_arrived(w, f);
            break;
        case LINK_RESET:
            good = reset_arrived(w, &h, f->payload);
            break;
        case LINK_CREDIT:
            good = credit_arrived(w, &h);
            break;
        case LINK_GRANT:
            grant_arrived(w, &h);
            break;
        default: /* PING: it was heard. */
            break;
        }
    }
    if (!taken)
        link_frame_release(f);
    return good;
}

/* The frame as it lies in what was received; NULL: it is copied, for one reason or another. */
static struct link_frame *frame_in_place(struct link_wire *w, const struct link_header *h, struct slice in)
{
    struct conn_space *space;

    if (h->size <= WIRE_COPY_MAX || in.size < h->size || !credit_holds(link_state()))
        return NULL;
    space = conn_hold(&w->conn, slice_first(in, h->size));
    return space != NULL ? link_frame_refer(space, h, (char *)(uintptr_t)in.data) : NULL;
}

/* A header has arrived. Its frame, with what of the payload is taken already. */
static struct link_frame *frame_begin(struct link_wire *w, const struct link_header *h, struct slice in)
{
    struct link_frame *f = frame_in_place(w, h, in);

    w->incoming_size = f != NULL ? h->size : 0;
    if (f == NULL)
        f = link_frame_new(h->size);
    f->header = *h;
    f->wired = true;
    return f;
}

/* Takes some of *in. */
static bool input_take(struct link_wire *w, struct slice *in)
{
    struct link_frame *f = w->incoming;
    struct link_header h;
    size_t take;

    if (f == NULL) {
        take = MIN(in->size, LINK_HEADER_SIZE - (size_t)w->header_size);
        memcpy(w->header + w->header_size, in->data, take);
        w->header_size += (uint8_t)take;
        *in = slice_from(*in, take);
        if (w->header_size < LINK_HEADER_SIZE)
            return true;
        if (!link_header_decode(w->header, &h))
            return false;
        w->header_size = 0;
        f = w->incoming = frame_begin(w, &h, *in);
        *in = slice_from(*in, w->incoming_size);
    }
    take = MIN(in->size, f->header.size - (size_t)w->incoming_size);
    if (take > 0)
        memcpy(f->payload + w->incoming_size, in->data, take);
    w->incoming_size += (uint32_t)take;
    *in = slice_from(*in, take);
    if (w->incoming_size < f->header.size)
        return true;
    w->incoming = NULL;
    return frame_arrived(w, f);
}

size_t wire_data(struct conn *c, struct slice in)
{
    struct link_wire *w = CONTAINER_OF(c, struct link_wire, conn);
    struct slice rest = in;

    if (w->state == WIRE_UP)
        w->heard_ms = time_ms();
    while (rest.size > 0 && (w->state == WIRE_UP || w->state == WIRE_HELLO)) {
        if (!input_take(w, &rest)) {
            wire_fail(w, "not a frame of the link");
            break;
        }
    }
    return in.size;
}

void wire_input_drop(struct link_wire *w)
{
    if (w->incoming != NULL)
        link_frame_release(w->incoming);
    w->incoming = NULL;
    w->header_size = 0;
}
