#include "net/link/link.h"
#include "core/log.h"
#include "core/metrics.h"

/* One end of the pair (this shard, peer). Streams opened here and streams served here have separate tables,
 * since each side numbers what it opens. */
struct link {
    struct shard *peer;
    struct link_stream **opened, **served; /* By id; NULL: free. */
    uint32_t opened_count, served_count;   /* Entries allocated. */
    uint32_t opened_free_hint;
};

struct link_state { /* SLOT_LINK of a shard. */
    struct heap *heap;
    struct slab streams;
    uint32_t serial;
    link_serve_fn *serve[LINK_KIND_COUNT];
    unsigned link_count;
    struct link links[]; /* By the peer's shard index. */
};

#define FROM_OPENER                                                                                          \
    0x80 /* In header.flags: direction, so that the receiver knows which table `stream` is of. */

static void link_deliver(struct shard_message *m);

static struct link_state *link_state(void)
{
    return shard_self()->slot[SLOT_LINK];
}

int link_start(void)
{
    struct shard *s = shard_self();
    unsigned count = s->node->shard_count;
    struct link_state *state = heap_zalloc(s->heap, sizeof *state + count * sizeof(struct link));

    state->heap = s->heap;
    state->link_count = count;
    slab_init(&state->streams, s->heap, sizeof(struct link_stream), LINK_STREAMS_MAX);
    for (unsigned i = 0; i < count; i++)
        state->links[i].peer = s->node->shards[i];
    s->slot[SLOT_LINK] = state;
    return 0;
}

void link_stop(void)
{
    struct link_state *state = link_state();

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

/* Frees the id at once, and the record when the last frame on loan came back: those point at it. */
static void stream_finish(struct link_stream *s)
{
    struct link_stream **table = s->opener ? s->link->opened : s->link->served;

    ASSERT(!s->dead && table[s->id] == s);
    table[s->id] = NULL;
    shard_self()->metrics->link_streams--;
    shard_self()->metrics->link_bytes -= s->window_used;
    s->dead = true;
    if (s->frames_held == 0)
        slab_give(&link_state()->streams, s);
}

/* ---- Frames -------------------------------------------------------------------------------------------- */

struct link_frame *link_frame_new(size_t size)
{
    struct link_frame *f;

    ASSERT(size <= LINK_PAYLOAD_MAX);
    f = heap_alloc(link_state()->heap, sizeof *f + size);
    memset(f, 0, sizeof *f);
    f->capacity = (uint32_t)size;
    f->message.from = shard_self();
    list_init(&f->link);
    return f;
}

static void frame_home(struct shard_message *m)
{
    heap_free(link_state()->heap, CONTAINER_OF(m, struct link_frame, message));
}

static void frame_free(struct link_frame *f)
{
    if (f->message.from == shard_self()) {
        heap_free(link_state()->heap, f);
        return;
    }
    f->message.deliver = frame_home;
    shard_send(f->message.from, &f->message);
}

static void frame_post(struct link_stream *s, struct link_frame *f, enum link_type type, size_t size,
                       unsigned flags)
{
    f->header.type = (uint8_t)type;
    f->header.stream = s->id;
    f->header.size = (uint16_t)size;
    f->header.flags = (uint8_t)(flags | (s->opener ? FROM_OPENER : 0));
    f->serial = s->serial;
    f->peer = s->link->peer->index;
    f->message.from = shard_self();
    f->message.deliver = link_deliver;
    shard_send(s->link->peer, &f->message);
}

static void control_post(struct link_stream *s, enum link_type type)
{
    frame_post(s, link_frame_new(0), type, 0, 0);
}

static void stream_credit(struct link_stream *s, uint32_t credit)
{
    ASSERT(s->window_used >= credit);
    s->window_used -= credit;
    shard_self()->metrics->link_bytes -= credit;
    if (s->starved && s->window_used <= LINK_WINDOW / 2) {
        s->starved = false;
        if (s->ops != NULL)
            s->ops->credit(s);
    }
}

/* In memory the frame that comes home is the credit. Its stream may be gone by then, and the id in use again.
 */
static void credit_home(struct shard_message *m)
{
    struct link_frame *f = CONTAINER_OF(m, struct link_frame, message);
    struct link *l = &link_state()->links[f->peer];
    struct link_stream **table = (f->header.flags & FROM_OPENER) ? l->opened : l->served;
    uint32_t count = (f->header.flags & FROM_OPENER) ? l->opened_count : l->served_count;
    struct link_stream *s = f->header.stream < count ? table[f->header.stream] : NULL;

    if (s != NULL && s->serial == f->serial)
        stream_credit(s, f->header.size);
    heap_free(link_state()->heap, f);
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
    if (s->dead && s->frames_held == 0)
        slab_give(&link_state()->streams, s);
    if (f->header.type != LINK_DATA) {
        frame_free(f);
        return;
    }
    f->message.deliver = credit_home;
    shard_send(f->message.from, &f->message);
}

/* ---- Sending ------------------------------------------------------------------------------------------- */

struct link_stream *link_open(struct shard *to, enum link_kind kind, struct slice head, struct slice data,
                              bool last, const struct link_stream_ops *ops, void *owner)
{
    struct link_state *state = link_state();
    struct link *l = &state->links[to->index];
    struct link_stream *s;
    struct link_frame *f;
    uint32_t id;

    ASSERT(head.size + data.size <= LINK_PAYLOAD_MAX);
    if (!opened_id_find(l, &id))
        return NULL;
    s = slab_take(&state->streams);
    if (s == NULL)
        return NULL;
    s->ops = ops;
    s->owner = owner;
    s->link = l;
    s->id = id;
    s->serial = ++state->serial;
    s->opener = true;
    s->sent_last = last;
    l->opened[id] = s;
    shard_self()->metrics->link_opens++;
    shard_self()->metrics->link_streams++;
    f = link_frame_new(head.size + data.size);
    if (head.size > 0)
        memcpy(f->payload, head.data, head.size);
    if (data.size > 0)
        memcpy(f->payload + head.size, data.data, data.size);
    f->header.kind = (uint8_t)kind;
    f->header.trailer_size = (uint16_t)head.size;
    frame_post(s, f, LINK_OPEN, head.size + data.size, last ? LINK_LAST : 0);
    return s;
}

int64_t link_credit(const struct link_stream *s)
{
    return (int64_t)LINK_WINDOW - (int64_t)s->window_used;
}

void link_send(struct link_stream *s, struct link_frame *f, size_t size, unsigned flags)
{
    ASSERT(!s->dead && !s->sent_last && size <= f->capacity);
    s->window_used += (uint32_t)size;
    s->starved = s->window_used >= LINK_WINDOW;
    shard_self()->metrics->link_bytes += size;
    shard_self()->metrics->link_starved += s->starved;
    s->sent_last = (flags & LINK_LAST) != 0;
    frame_post(s, f, LINK_DATA, size, flags);
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
    frame_post(s, f, LINK_END, size + trailer.size, LINK_LAST);
    stream_finish(s);
}

void link_stream_reset(struct link_stream *s)
{
    ASSERT(!s->dead);
    control_post(s, LINK_RESET);
    if (s->opener) { /* The id is free only when the server has answered: an orphan waits for that. */
        s->ops = NULL;
        s->owner = NULL;
    } else {
        stream_finish(s);
    }
}

/* ---- Receiving ----------------------------------------------------------------------------------------- */

static void serve_open(struct link_state *state, struct link *l, struct link_frame *f)
{
    link_serve_fn *serve = f->header.kind < LINK_KIND_COUNT ? state->serve[f->header.kind] : NULL;
    struct link_stream *s = NULL;

    if (serve != NULL && table_reserve(&l->served, &l->served_count, f->header.stream))
        s = slab_take(&state->streams);
    if (s == NULL) { /* No memory, or nobody serves it: the opener hears a RESET. */
        struct link_stream refused = {.link = l, .id = f->header.stream};

        control_post(&refused, LINK_RESET);
        frame_free(f);
        return;
    }
    ASSERT(l->served[f->header.stream] == NULL);
    s->link = l;
    s->id = f->header.stream;
    s->serial = ++state->serial;
    s->got_last = (f->header.flags & LINK_LAST) != 0;
    l->served[s->id] = s;
    shard_self()->metrics->link_streams++;
    f->stream = s;
    s->frames_held++;
    serve(s, f);
}

static void stream_frame(struct link_stream *s, struct link_frame *f)
{
    s->got_last = (f->header.flags & LINK_LAST) != 0;
    if (s->ops == NULL) { /* An orphan: whoever opened it has given up. */
        if (f->header.type == LINK_END)
            stream_finish(s);
        frame_free(f);
        return;
    }
    f->stream = s;
    s->frames_held++;
    if (f->header.type == LINK_END) {
        const struct link_stream_ops *ops = s->ops;

        s->ops = NULL;
        stream_finish(s); /* The record itself goes when this last frame is released. */
        ops->frame(s, f);
    } else {
        s->ops->frame(s, f);
    }
}

static void stream_reset(struct link_stream *s)
{
    const struct link_stream_ops *ops = s->ops;

    if (!s->opener)
        control_post(s, LINK_RESET); /* The answer that frees the id. */
    s->ops = NULL;
    if (ops != NULL)
        ops->lost(s);
    stream_finish(s);
}

static void link_deliver(struct shard_message *m)
{
    struct link_frame *f = CONTAINER_OF(m, struct link_frame, message);
    struct link_state *state = link_state();
    bool from_opener = (f->header.flags & FROM_OPENER) != 0;
    struct link *l = &state->links[f->message.from->index];
    struct link_stream **table = from_opener ? l->served : l->opened, *s;
    uint32_t count = from_opener ? l->served_count : l->opened_count;

    if (f->header.type == LINK_OPEN) {
        serve_open(state, l, f);
        return;
    }
    s = f->header.stream < count ? table[f->header.stream] : NULL;
    if (s == NULL) { /* Already ended on this side; the peer has not heard of it yet. */
        frame_free(f);
        return;
    }
    switch (f->header.type) {
    case LINK_DATA:
    case LINK_END:
        stream_frame(s, f);
        break;
    case LINK_RESET:
        frame_free(f);
        stream_reset(s);
        break;
    default:
        frame_free(f);
    }
}
