#include "core/log.h"
#include "core/metrics.h"
#include "net/link/header.h"
#include "net/link/link_state.h"

static void link_deliver(struct shard_message *m);
static void relay_cut(struct link_stream *s);
static void relay_back(struct link_stream *s, struct link_frame *f);

int link_start(void)
{
    struct shard *s = shard_self();
    unsigned count = s->node->shard_count;
    struct link_state *state = heap_zalloc(s->heap, sizeof *state + count * sizeof(struct link));

    state->heap = s->heap;
    state->link_count = count;
    slab_init(&state->streams, s->heap, sizeof(struct link_stream), LINK_STREAMS_MAX);
    for (unsigned i = 0; i < count; i++)
        state->links[i] = (struct link){.peer = s->node->shards[i], .state = state, .share = LINK_WINDOW};
    s->slot[SLOT_LINK] = state;
    credit_start(state);
    return 0;
}

void link_stop(void)
{
    struct link_state *state = link_state();

    wires_free(state);
    for (unsigned i = 0; i < state->link_count; i++) {
        heap_free(state->heap, state->links[i].opened);
        heap_free(state->heap, state->links[i].served);
    }
    slab_fini(&state->streams);
    shard_self()->slot[SLOT_LINK] = NULL;
    heap_free(state->heap, state);
}

void link_serve(enum link_kind kind, link_serve_fn *serve)
{
    link_state()->serve[kind] = serve;
}

/* ---- Tables -------------------------------------------------------------------------------------------- */

static bool table_reserve(struct link_stream ***table, uint32_t *count, uint32_t id)
{
    uint32_t wanted = *count > 0 ? *count : 64;
    struct link_stream **bigger;

    if (id < *count)
        return true;
    while (wanted <= id)
        wanted *= 2;
    bigger = heap_try_realloc(link_state()->heap, *table, wanted * sizeof **table);
    if (bigger == NULL)
        return false;
    memset(bigger + *count, 0, (wanted - *count) * sizeof **table);
    *table = bigger;
    *count = wanted;
    return true;
}

static bool opened_id_find(struct link *l, uint32_t *id_out)
{
    for (uint32_t i = 0; i < l->opened_count; i++) {
        uint32_t id = (l->opened_free_hint + i) % l->opened_count;

        if (l->opened[id] == NULL) {
            l->opened_free_hint = id + 1;
            *id_out = id;
            return true;
        }
    }
    *id_out = l->opened_count;
    l->opened_free_hint = l->opened_count + 1;
    return l->opened_count < LINK_STREAMS_MAX && table_reserve(&l->opened, &l->opened_count, l->opened_count);
}

static struct link_stream *stream_new(struct link *l, uint32_t id)
{
    struct link_state *state = link_state();
    struct link_stream *s = slab_take(&state->streams);

    if (s == NULL)
        return NULL;
    s->link = l;
    s->id = id;
    s->serial = ++state->serial;
    s->window = l->wire != NULL ? LINK_WINDOW_FIRST : LINK_WINDOW;
    s->grant = LINK_WINDOW_FIRST;
    list_init(&s->out);
    list_init(&s->ready);
    shard_self()->metrics->link_streams++;
    return s;
}

static struct link_stream *opened_new(struct link *l, const struct link_stream_ops *ops, void *owner,
                                      bool last)
{
    struct link_stream *s;
    uint32_t id;

    if (!opened_id_find(l, &id))
        return NULL;
    s = stream_new(l, id);
    if (s == NULL)
        return NULL;
    s->ops = ops;
    s->owner = owner;
    s->opener = true;
    s->sent_last = last;
    l->opened[id] = s;
    shard_self()->metrics->link_opens++;
    return s;
}

struct link_stream *link_served_new(struct link *l, uint32_t id, bool last)
{
    struct link_stream *s;

    if (id >= LINK_STREAMS_MAX || !table_reserve(&l->served, &l->served_count, id))
        return NULL;
    ASSERT(l->served[id] == NULL);
    s = stream_new(l, id);
    if (s == NULL)
        return NULL;
    s->got_last = last;
    l->served[id] = s;
    return s;
}

/* Frames on loan point at the record: it goes with the last of them. */
void link_stream_finish(struct link_stream *s)
{
    struct link_stream **table = s->opener ? s->link->opened : s->link->served;

    ASSERT(!s->dead && table[s->id] == s);
    credit_starve(s, false);
    if (s->link->wire != NULL) {
        credit_promise(s, true);
        wire_stream_drop(s);
    }
    if (s->relay != NULL)
        relay_cut(s);
    table[s->id] = NULL;
    shard_self()->metrics->link_streams--;
    shard_self()->metrics->link_bytes -= s->window_used;
    s->dead = true;
    if (s->frames_held == 0)
        slab_give(&link_state()->streams, s);
}

bool link_stream_sent(const struct link_stream *s)
{
    return s->link->wire == NULL || s->transmitted;
}

/* ---- Frames -------------------------------------------------------------------------------------------- */

/* `behind`: room for what is no payload. */
static struct link_frame *frame_new(size_t size, size_t behind)
{
    struct link_frame *f;

    ASSERT(size <= LINK_PAYLOAD_MAX);
    f = heap_alloc(link_state()->heap, sizeof *f + size + behind);
    credit_draw(link_state(), (int64_t)(sizeof *f + size));
    memset(f, 0, sizeof *f);
    f->capacity = (uint32_t)size;
    f->payload = f->bytes;
    f->message.from = shard_self();
    list_init(&f->link);
    return f;
}

struct link_frame *link_frame_refer(struct conn_space *space, const struct link_header *h, char *payload)
{
    struct link_frame *f = frame_new(0, 0);

    f->header = *h;
    f->payload = payload;
    f->space = space;
    if (space->held == 1)
        credit_held(link_state(), CONN_BULK_SIZE);
    return f;
}

struct link_frame *link_frame_new(size_t size)
{
    return frame_new(size, 0);
}

static void frame_drop(struct link_frame *f)
{
    credit_draw(link_state(), -(int64_t)(sizeof *f + f->capacity));
    if (f->space != NULL) {
        if (f->space->held == 1)
            credit_held(link_state(), -CONN_BULK_SIZE);
        conn_space_release(f->space);
    }
    heap_free(link_state()->heap, f);
}

static void frame_arrived_home(struct shard_message *m)
{
    frame_drop(CONTAINER_OF(m, struct link_frame, message));
}

static void frame_free(struct link_frame *f)
{
    if (f->message.from == shard_self()) {
        frame_drop(f);
        return;
    }
    f->message.deliver = frame_arrived_home;
    shard_send(f->message.from, &f->message);
}

static void frame_post(struct link_stream *s, struct link_frame *f, enum link_type type, size_t size,
                       unsigned flags)
{
    f->header.type = (uint8_t)type;
    f->header.stream = s->id;
    f->header.size = (uint16_t)size;
    f->header.flags = (uint8_t)(flags | (s->opener ? LINK_FROM_OPENER : 0));
    if (s->link->wire != NULL) {
        wire_post(s, f);
        return;
    }
    f->serial = s->serial;
    f->peer = s->link->peer->index;
    f->message.from = shard_self();
    f->message.deliver = link_deliver;
    shard_send(s->link->peer, &f->message);
}

static const struct link_referral no_referral;

/* `referral`: of its own with ELSEWHERE alone. */
static void reset_post(struct link_stream *s, enum link_lost why, const struct link_referral *referral)
{
    struct link_frame *f;

    if (s->link->wire != NULL) {
        wire_reset(s->link->wire, s->id, s->opener, why, referral);
        return;
    }
    f = link_frame_new(LINK_REFERRAL_SIZE);
    f->header.value = why;
    link_referral_encode(referral, f->payload);
    frame_post(s, f, LINK_RESET, LINK_REFERRAL_SIZE, 0);
}

void link_stream_credit(struct link_stream *s, uint32_t credit)
{
    ASSERT(s->window_used >= credit);
    s->window_used -= credit;
    shard_self()->metrics->link_bytes -= credit;
    if (s->relay != NULL && s->link->wire == NULL)
        wire_released(s->relay, credit);
    credit_wake(s);
}

/* In memory the frame that comes home is the credit. Its stream may be gone by then, and the id in use again. */
static void credit_home(struct shard_message *m)
{
    struct link_frame *f = CONTAINER_OF(m, struct link_frame, message);
    struct link *l = &link_state()->links[f->peer];
    bool from_opener = (f->header.flags & LINK_FROM_OPENER) != 0;
    struct link_stream *s = from_opener ? link_find(l->opened, l->opened_count, f->header.stream)
                                        : link_find(l->served, l->served_count, f->header.stream);
    uint32_t size = f->header.size, serial = f->serial;

    frame_drop(f); /* First: a sender that is told has its room. */
    if (s != NULL && s->serial == serial)
        link_stream_credit(s, size);
}

void link_frame_home(struct link_frame *f)
{
    if (f->header.type != LINK_DATA || f->message.from == shard_self()) {
        frame_free(f);
        return;
    }
    f->message.deliver = credit_home;
    shard_send(f->message.from, &f->message);
}

void link_frame_release(struct link_frame *f)
{
    struct link_stream *s = f->stream;

    f->stream = NULL;
    if (s == NULL) {
        frame_free(f);
        return;
    }
    ASSERT(s->frames_held > 0);
    s->frames_held--;
    if (f->wired && !s->dead && f->header.type == LINK_DATA)
        wire_released(s, f->header.size);
    if (s->dead && s->frames_held == 0)
        slab_give(&link_state()->streams, s);
    if (f->wired || f->header.type != LINK_DATA) {
        frame_free(f);
        return;
    }
    f->message.deliver = credit_home;
    shard_send(f->message.from, &f->message);
}

/* ---- Sending ------------------------------------------------------------------------------------------- */

static void window_take(struct link_stream *s, size_t size)
{
    s->window_used += (uint32_t)size;
    shard_self()->metrics->link_bytes += size;
}

static struct link *target_link(struct link_target to)
{
    if (to.shard != NULL)
        return &link_state()->links[to.shard->index];
    return to.peer != NULL ? wire_link(to) : NULL;
}

struct link_stream *link_open(struct link_target to, enum link_kind kind, struct slice head,
                              struct slice data, bool last, const struct link_stream_ops *ops, void *owner)
{
    struct link *l = target_link(to);
    struct link_stream *s = l != NULL ? opened_new(l, ops, owner, last) : NULL;
    struct link_frame *f;

    ASSERT(head.size + data.size <= LINK_PAYLOAD_MAX);
    if (s == NULL)
        return NULL;
    f = link_frame_new(head.size + data.size);
    if (head.size > 0)
        memcpy(f->payload, head.data, head.size);
    if (data.size > 0)
        memcpy(f->payload + head.size, data.data, data.size);
    f->header.kind = (uint8_t)kind;
    f->header.trailer_size = (uint16_t)head.size;
    f->header.value = to.route;
    if (l->wire != NULL)
        wire_opened(s);
    frame_post(s, f, LINK_OPEN, head.size + data.size, last ? LINK_LAST : 0);
    return s;
}

void link_send(struct link_stream *s, struct link_frame *f, size_t size, unsigned flags)
{
    ASSERT(!s->dead && !s->sent_last && size <= f->capacity);
    window_take(s, size);
    credit_starve(s, false); /* So that nobody is told in here. */
    s->sent_last = (flags & LINK_LAST) != 0;
    frame_post(s, f, LINK_DATA, size, flags);
    (void)link_credit(s);
}

/* Over a wire the id is in use until the END has left; that may be at once, and the stream be gone. */
static void server_end(struct link_stream *s, struct link_frame *f, size_t size)
{
    bool wired = s->link->wire != NULL;

    s->ops = NULL;
    s->owner = NULL;
    s->sent_last = true;
    frame_post(s, f, LINK_END, size, LINK_LAST);
    if (!wired)
        link_stream_finish(s);
}

void link_end(struct link_stream *s, struct link_frame *f, size_t size, struct slice trailer)
{
    ASSERT(!s->dead && !s->opener);
    if (f == NULL)
        f = link_frame_new(trailer.size);
    ASSERT(size + trailer.size <= f->capacity);
    if (trailer.size > 0)
        memcpy(f->payload + size, trailer.data, trailer.size);
    f->header.trailer_size = (uint16_t)trailer.size;
    server_end(s, f, size + trailer.size);
}

static void server_reset(struct link_stream *s, enum link_lost why, const struct link_referral *referral)
{
    reset_post(s, why, referral);
    link_stream_finish(s);
}

void link_stream_reset(struct link_stream *s)
{
    ASSERT(!s->dead);
    if (!s->opener) {
        server_reset(s, LINK_LOST_UNKNOWN, &no_referral);
    } else if (s->link->wire != NULL && !s->transmitted) {
        link_stream_finish(s);
    } else { /* The id is free only when the server has answered: an orphan waits for that. */
        if (s->link->wire != NULL)
            wire_stream_drop(s);
        reset_post(s, LINK_LOST_UNKNOWN, &no_referral);
        s->ops = NULL;
        s->owner = NULL;
    }
}

void link_stream_refuse(struct link_stream *s, enum link_lost why)
{
    ASSERT(!s->dead && !s->opener);
    server_reset(s, why, &no_referral);
}

void link_stream_refer(struct link_stream *s, const struct link_referral *referral)
{
    ASSERT(!s->dead && !s->opener);
    server_reset(s, LINK_LOST_ELSEWHERE, referral);
}

/* ---- Receiving ----------------------------------------------------------------------------------------- */

bool link_serve_frame(struct link_stream *s, struct link_frame *f)
{
    struct link_state *state = link_state();
    link_serve_fn *serve = f->header.kind < LINK_KIND_COUNT ? state->serve[f->header.kind] : NULL;

    if (serve == NULL)
        return false;
    f->stream = s;
    s->frames_held++;
    serve(s, f);
    return true;
}

/* No memory, or nobody serves it: the opener hears a RESET. */
static void open_refuse(struct link *l, struct link_frame *f)
{
    struct link_stream refused = {.link = l, .id = f->header.stream};

    reset_post(&refused, LINK_LOST_REFUSED, &no_referral);
    frame_free(f);
}

static void open_arrived(struct link *l, struct link_frame *f)
{
    struct link_stream *s = link_served_new(l, f->header.stream, (f->header.flags & LINK_LAST) != 0);

    if (s == NULL) {
        open_refuse(l, f);
    } else if (!link_serve_frame(s, f)) {
        server_reset(s, LINK_LOST_REFUSED, &no_referral);
        frame_free(f);
    }
}

void link_stream_frame(struct link_stream *s, struct link_frame *f)
{
    s->got_last = (f->header.flags & LINK_LAST) != 0;
    if (s->relay != NULL) {
        relay_back(s, f);
        return;
    }
    if (s->ops == NULL) { /* An orphan: whoever opened it has given up. */
        if (f->header.type == LINK_END)
            link_stream_finish(s);
        frame_free(f);
        return;
    }
    f->stream = s;
    s->frames_held++;
    if (f->header.type == LINK_END) {
        const struct link_stream_ops *ops = s->ops;

        s->ops = NULL;
        link_stream_finish(s); /* The record itself goes when this last frame is released. */
        ops->frame(s, f);
    } else {
        s->ops->frame(s, f);
    }
}

void link_stream_lost(struct link_stream *s, enum link_lost why)
{
    link_stream_referred(s, why, &no_referral);
}

void link_stream_referred(struct link_stream *s, enum link_lost why, const struct link_referral *referral)
{
    const struct link_stream_ops *ops = s->ops;

    s->ops = NULL;
    s->why = why;
    s->referral = *referral;
    if (s->relay != NULL) {
        struct link_stream *wired = s->relay;

        relay_cut(s);
        server_reset(wired, why, referral);
    }
    if (ops != NULL)
        ops->lost(s);
    link_stream_finish(s);
}

static void stream_reset(struct link_stream *s, enum link_lost why, const struct link_referral *referral)
{
    if (!s->opener)
        reset_post(s, LINK_LOST_UNKNOWN, &no_referral); /* The answer that frees the id. */
    link_stream_referred(s, why, referral);
}

static void link_deliver(struct shard_message *m)
{
    struct link_frame *f = CONTAINER_OF(m, struct link_frame, message);
    bool from_opener = (f->header.flags & LINK_FROM_OPENER) != 0;
    struct link *l = &link_state()->links[f->message.from->index];
    enum link_lost why = f->header.value;
    struct link_referral referral = no_referral;
    struct link_stream *s;

    if (f->header.type == LINK_OPEN) {
        open_arrived(l, f);
        return;
    }
    s = from_opener ? link_find(l->served, l->served_count, f->header.stream)
                    : link_find(l->opened, l->opened_count, f->header.stream);
    if (s == NULL) { /* Already ended on this side; the peer has not heard of it yet. */
        frame_free(f);
    } else if (f->header.type == LINK_RESET) {
        link_referral_decode(f->payload, &referral);
        frame_free(f);
        stream_reset(s, why, &referral);
    } else {
        link_stream_frame(s, f);
    }
}

/* ---- Relays: a stream that came over a wire to one shard, for another ------------------------------------ */

static void relay_cut(struct link_stream *s)
{
    s->relay->relay = NULL;
    s->relay = NULL;
}

/* The shard's answer, on to the wire as it is: the frame's header keeps what its way home needs. */
static void relay_back(struct link_stream *s, struct link_frame *f)
{
    struct link_stream *wired = s->relay;

    if (f->header.type == LINK_END) {
        link_stream_finish(s);
        wired->sent_last = true;
    } else {
        window_take(wired, f->header.size);
    }
    wire_post(wired, f);
}

bool link_relay_open(struct link_stream *from, struct shard *to, struct link_frame *f,
                     const struct link_node *origin)
{
    bool last = (f->header.flags & LINK_LAST) != 0;
    struct link_stream *s = opened_new(&link_state()->links[to->index], NULL, NULL, last);
    struct link_frame *copy;

    if (s == NULL)
        return false;
    copy = frame_new(f->header.size, sizeof *origin);
    memcpy(copy->payload, f->payload, f->header.size);
    memcpy(copy->payload + f->header.size, origin, sizeof *origin);
    copy->has_origin = true;
    copy->header.kind = f->header.kind;
    copy->header.trailer_size = f->header.trailer_size;
    s->relay = from;
    from->relay = s;
    frame_post(s, copy, LINK_OPEN, f->header.size, last ? LINK_LAST : 0);
    frame_free(f);
    return true;
}

void link_relay_frame(struct link_stream *to, struct link_frame *f)
{
    f->wired = false;
    window_take(to, f->header.size);
    to->sent_last = (f->header.flags & LINK_LAST) != 0;
    frame_post(to, f, LINK_DATA, f->header.size, f->header.flags & (LINK_LAST | LINK_HOLD | LINK_RUNS));
}

void link_relay_reset(struct link_stream *from)
{
    struct link_stream *to = from->relay;

    relay_cut(from);
    link_stream_reset(to);
}

bool link_frame_origin(const struct link_frame *open, struct link_node *node_out)
{
    if (open->wired)
        *node_out = *wire_node(open->stream->link->wire);
    else if (open->has_origin)
        memcpy(node_out, open->payload + open->header.size, sizeof *node_out);
    return open->wired || open->has_origin;
}
