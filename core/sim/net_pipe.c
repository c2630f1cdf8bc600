/* core/sim/net_pipe.c -- bytes on their way to an end of a connection. */
#include "core/sim/net_private.h"
#include <errno.h>
#include <stdlib.h>

#define GIVE_UP_NS    (30 * SIM_S) /* Unacknowledged bytes this old: ETIMEDOUT. */
#define HEAL_DELAY_NS (500 * SIM_MS)

static struct sim_link *link_to(struct end *e)
{
    return &sim_world_current()->links[end_peer(e)->node][e->node];
}

uint64_t sim_delay_to(struct end *e)
{
    const struct sim_link *l = link_to(e);

    return l->latency_ns * l->factor +
           sim_random_below(&sim_world_current()->random, l->latency_ns * l->factor / 4 + JITTER_NS);
}

static void pipe_arrive(struct sim_event *e);
static void pipe_give_up(struct sim_event *e);
static void pipe_room(struct sim_event *e);

struct pipe *sim_pipe_of(struct end *to)
{
    if (to->in != NULL)
        return to->in;
    to->in = calloc(1, sizeof *to->in);
    ASSERT(to->in != NULL);
    to->in->to = to;
    to->in->arrive.fire = pipe_arrive;
    to->in->give_up.fire = pipe_give_up;
    to->in->room.fire = pipe_room;
    return to->in;
}

void sim_pipe_copy_in(struct pipe *p, const char *data, size_t size)
{
    size_t at, first;

    if (size == 0)
        return;
    if (p->size + size > p->capacity) {
        size_t capacity = MAX(p->capacity, 1024);
        char *bytes;

        while (capacity < p->size + size)
            capacity *= 2;
        bytes = malloc(capacity);
        ASSERT(bytes != NULL);
        first = MIN(p->size, p->capacity - p->start);
        if (p->size > 0) {
            memcpy(bytes, p->bytes + p->start, first);
            memcpy(bytes + first, p->bytes, p->size - first);
        }
        free(p->bytes);
        p->bytes = bytes;
        p->capacity = capacity;
        p->start = 0;
    }
    at = (p->start + p->size) % p->capacity;
    first = MIN(size, p->capacity - at);
    memcpy(p->bytes + at, data, first);
    memcpy(p->bytes, data + first, size - first);
    p->size += size;
}

void sim_pipe_copy_out(struct pipe *p, char *data, size_t size)
{
    size_t first = MIN(size, p->capacity - p->start);

    memcpy(data, p->bytes + p->start, first);
    memcpy(data + first, p->bytes, size - first);
    p->start = (p->start + size) % p->capacity;
    p->size -= size;
    p->arrived -= size;
}

void sim_pipe_shrink(struct pipe *p)
{
    if (p->size > 0)
        return;
    free(p->bytes);
    p->bytes = NULL;
    p->capacity = p->start = 0;
}

/* Where nobody works with it any more: if nothing is in it, and nothing of its past matters, it goes. */
static void pipe_settle(struct end *to)
{
    struct pipe *p = to->in;

    if (p == NULL || p->size > 0 || p->segment_count > 0 || p->stalled ||
        p->last_ns > sim_world_current()->now_ns || sim_event_armed(&p->arrive) ||
        sim_event_armed(&p->give_up) || sim_event_armed(&p->room))
        return;
    free(p->bytes);
    free(p);
    to->in = NULL;
}

void sim_pipe_clear(struct pipe *p)
{
    if (p == NULL)
        return;
    p->size = p->arrived = 0;
    p->segment_count = 0;
    p->stalled = false;
    sim_event_cancel(&p->arrive);
    sim_event_cancel(&p->give_up);
    sim_event_cancel(&p->room);
    sim_pipe_shrink(p);
}

void sim_pipe_forget(struct pipe *p)
{
    if (p == NULL)
        return;
    p->size = p->arrived;
    p->segment_count = 0;
    p->stalled = false;
    sim_event_cancel(&p->arrive);
    sim_event_cancel(&p->give_up);
    sim_pipe_shrink(p);
}

void sim_pipe_segment(struct pipe *p, enum segment_kind kind, size_t size)
{
    uint64_t at_ns = MAX(p->last_ns + 1, sim_world_current()->now_ns + sim_delay_to(p->to));
    struct segment *last =
        &p->segments[(p->segment_first + p->segment_count + SEGMENTS_MAX - 1) % SEGMENTS_MAX];

    if (p->segment_count == SEGMENTS_MAX) {
        /* The last one takes it along; its end, if this is one, comes when all of it is there. */
        if (last->kind == SEGMENT_DATA && kind == SEGMENT_DATA) {
            last->size += (uint32_t)size;
            return;
        }
        p->segments[p->segment_first].size += p->segments[(p->segment_first + 1) % SEGMENTS_MAX].size;
        for (unsigned k = 1; k + 1 < SEGMENTS_MAX; k++)
            p->segments[(p->segment_first + k) % SEGMENTS_MAX] =
                p->segments[(p->segment_first + k + 1) % SEGMENTS_MAX];
        p->segment_count--;
    }
    p->last_ns = at_ns;
    p->segments[(p->segment_first + p->segment_count++) % SEGMENTS_MAX] =
        (struct segment){at_ns, (uint32_t)size, kind};
    if (!p->stalled && !sim_event_armed(&p->arrive))
        sim_event_set(&p->arrive, p->segments[p->segment_first].at_ns);
}

void sim_pipe_segments(struct pipe *p, size_t size)
{
    struct sim_random *r = &sim_world_current()->random;
    struct connection *c = end_connection(p->to);

    while (size > 0) {
        size_t n = size;

        if (c->segment_max > 0 && p->segment_count < SEGMENTS_MAX - 2)
            n = sim_random_range(r, 1, MIN(size, c->segment_max));
        else if (!sim_world_current()->smooth && sim_random_one_in(r, 4))
            n = sim_random_range(r, 1, size);
        sim_pipe_segment(p, SEGMENT_DATA, n);
        size -= n;
    }
}

void sim_end_fail(struct end *e, int error)
{
    if (e->error == 0)
        e->error = error;
    e->fin_sent = true;
    sim_pipe_forget(end_peer(e)->in);
    sim_socket_look(e);
}

void sim_end_send_reset(struct end *e)
{
    struct end *peer = end_peer(e);

    sim_pipe_forget(peer->in);
    e->fin_sent = true;
    sim_pipe_segment(sim_pipe_of(peer), SEGMENT_RESET, 0);
}

static bool way_blocked(struct end *to)
{
    return end_connection(to)->black_hole || link_to(to)->cut || !end_node(to)->powered;
}

static void segment_arrive(struct pipe *p, const struct segment *s)
{
    struct end *to = p->to;

    if (to->gone) {
        sim_pipe_clear(p);
        if (s->kind == SEGMENT_DATA && !end_peer(to)->gone)
            sim_end_send_reset(to);
        return;
    }
    switch (s->kind) {
    case SEGMENT_DATA:
        p->arrived += s->size;
        break;
    case SEGMENT_FIN:
        to->fin_arrived = true;
        break;
    case SEGMENT_RESET:
        sim_end_fail(to, -ECONNRESET);
        break;
    }
    sim_socket_look(to);
}

static void pipe_arrive(struct sim_event *e)
{
    struct pipe *p = CONTAINER_OF(e, struct pipe, arrive);
    struct segment s = p->segments[p->segment_first];

    ASSERT(p->segment_count > 0);
    if (way_blocked(p->to) && s.kind == SEGMENT_RESET) { /* Nobody sends a reset twice. */
        sim_pipe_clear(p);
        return;
    }
    if (way_blocked(p->to)) {
        p->stalled = true;
        if (!sim_event_armed(&p->give_up))
            sim_event_after(&p->give_up, GIVE_UP_NS);
        return;
    }
    sim_event_cancel(&p->give_up);
    p->segment_first = (p->segment_first + 1) % SEGMENTS_MAX;
    p->segment_count--;
    segment_arrive(p, &s);
    if (p->segment_count > 0 && !sim_event_armed(&p->arrive))
        sim_event_set(&p->arrive, p->segments[p->segment_first].at_ns);
    pipe_settle(p->to);
}

static void pipe_give_up(struct sim_event *e)
{
    struct pipe *p = CONTAINER_OF(e, struct pipe, give_up);
    struct end *from = end_peer(p->to);

    if (from->gone)
        sim_pipe_clear(p);
    else
        sim_end_fail(from, -ETIMEDOUT);
}

/* The reader took bytes: the window opens, a while later. */
static void pipe_room(struct sim_event *e)
{
    struct pipe *p = CONTAINER_OF(e, struct pipe, room);

    sim_socket_look(end_peer(p->to));
    pipe_settle(p->to);
}

void sim_pipe_unstall(struct pipe *p)
{
    if (p == NULL || !p->stalled || way_blocked(p->to))
        return;
    p->stalled = false;
    if (p->segment_count > 0)
        sim_event_after(&p->arrive, sim_random_below(&sim_world_current()->random, HEAL_DELAY_NS));
}
