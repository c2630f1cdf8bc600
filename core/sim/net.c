/* core/sim/net.c -- the door to sockets, and the network behind it.
 *
 * A connection is two ends; each end has a pipe of bytes that come in: a bounded window of bytes that were
 * sent, of which some have arrived. Bytes travel as segments, cut anywhere, each with a time of arrival,
 * never out of order. A segment that cannot be delivered (cut link, host without power, black hole) stalls
 * its pipe until links change or the sender gives up. An end whose socket is gone answers bytes by a reset.
 *
 * There may be millions of connections, most of them quiet: a pipe is there while anything is on its way, unread,
 * or about to open the window, and a watch that found nothing to tell is two words in its socket.
 */
#include "core/sim/world.h"
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <stdlib.h>

#define SEGMENTS_MAX     16
#define WINDOW_MAX       (64 * 1024)
#define BACKLOG_MAX      128
#define CONNECT_TRIES    5
#define CONNECT_RETRY_NS SIM_S
#define GIVE_UP_NS       (30 * SIM_S) /* Unacknowledged bytes this old: ETIMEDOUT. */
#define HEAL_DELAY_NS    (500 * SIM_MS)
#define JITTER_NS        (5 * SIM_US)

enum segment_kind { SEGMENT_DATA, SEGMENT_FIN, SEGMENT_RESET };

struct segment {
    uint64_t at_ns;
    uint32_t size;
    enum segment_kind kind;
};

struct pipe { /* Bytes on their way to an end. */
    struct end *to;
    char *bytes; /* A ring of `capacity`; NULL while empty. */
    size_t capacity, start, size, arrived;
    struct segment segments[SEGMENTS_MAX];
    unsigned segment_first, segment_count;
    uint64_t last_ns;
    struct sim_event arrive, give_up, room;
    bool stalled;
};

struct end {
    struct shard_private *p; /* NULL: no shard has it yet, or no more. */
    struct sim_socket *socket;
    struct pipe *in; /* NULL: nothing is. */
    uint32_t window; /* Bytes that may be in it. */
    int error;
    uint8_t node;      /* Its id. */
    bool accepted : 1; /* ends[1] */
    bool gone : 1;     /* Closed, or its process is dead. */
    bool fin_sent : 1; /* Nothing more will be sent. */
    bool fin_arrived : 1, shut : 1;
};

struct connection {
    struct list link;
    uint64_t number;
    struct end ends[2];      /* Who connected, who accepted. */
    struct net_addr address; /* Of who connected. */
    bool black_hole;
    uint32_t segment_max;     /* Of the first bytes; a seed may cut them small. */
    struct listener *waiting; /* In its backlog. */
    struct list backlog_link;
};

struct listener {
    struct list link;
    struct shard_private *p;
    struct net_addr address;
    struct list backlog, accepts;
    unsigned backlog_count;
    bool shut;
};

enum op_kind { OP_POLL, OP_RECV, OP_SEND, OP_SOCKET_KINDS, OP_ACCEPT = OP_SOCKET_KINDS, OP_CONNECT };
/* As they are counted in the trace. */
static const uint8_t op_codes[] = {
    [OP_ACCEPT] = 0, [OP_CONNECT] = 1, [OP_POLL] = 2, [OP_RECV] = 3, [OP_SEND] = 4};

struct sim_op {
    struct sim_done done;
    struct sim_event event;
    struct list link; /* Free list, or the listener's accepts. */
    struct io_op *op; /* NULL: free, or a watch. */
    struct shard_private *p;
    struct sim_socket *socket;
    uint32_t index;
    enum op_kind kind;
    int result;
    bool completed;
    const struct iovec *vector; /* OP_SEND: what is left. */
    unsigned count;
    size_t skip, total;
    char *space;    /* OP_RECV of io_recv_into(): `total` bytes. */
    unsigned tries; /* OP_CONNECT */
    struct connection *connection;
};

struct sim_socket {
    union {
        struct end *end; /* NULL: not any more. */
        struct listener *listener;
    };
    struct sim_op *ops[OP_SOCKET_KINDS]; /* In flight. */
    uint32_t cookie;                     /* Of the watch. */
    uint16_t generation;
    bool used : 1, listens : 1;
    bool watched : 1; /* By io_watch(): ops[OP_POLL], if there is one, has no owner. */
};

struct recv_buffer {
    uint32_t size;
    char bytes[];
};

static void connection_release(struct connection *c);

static struct connection *end_connection(struct end *e)
{
    return CONTAINER_OF(e - e->accepted, struct connection, ends[0]);
}

static struct end *end_peer(struct end *e)
{
    return &end_connection(e)->ends[!e->accepted];
}

static struct sim_node *end_node(const struct end *e)
{
    return sim_world_current()->nodes[e->node];
}

/* ---- Tables ------------------------------------------------------------------------------------------- */

static struct sim_socket *socket_of(struct shard_private *p, struct sock s)
{
    ASSERT(s.slot < p->socket_count && p->sockets[s.slot].used);
    ASSERT(p->sockets[s.slot].generation == s.generation);
    return &p->sockets[s.slot];
}

static struct sock sock_of(struct shard_private *p, const struct sim_socket *socket)
{
    return (struct sock){(uint32_t)(socket - p->sockets), 0, socket->generation};
}

static struct sim_socket *socket_take(struct shard_private *p)
{
    struct sim_socket *s;

    if (p->free_socket_count == 0)
        return NULL;
    s = &p->sockets[p->free_sockets[--p->free_socket_count]];
    ASSERT(!s->used);
    s->used = true;
    return s;
}

static void socket_give(struct shard_private *p, struct sim_socket *s)
{
    for (unsigned k = 0; k < OP_SOCKET_KINDS; k++)
        ASSERT(s->ops[k] == NULL);
    *s = (struct sim_socket){.generation = (uint16_t)(s->generation + 1)};
    p->free_sockets[p->free_socket_count++] = (uint32_t)(s - p->sockets);
}

uint64_t sim_net_connection(struct shard_private *p, struct sock s)
{
    const struct sim_socket *socket = socket_of(p, s);

    return !socket->listens && socket->end != NULL ? end_connection(socket->end)->number : 0;
}

/* ---- Operations --------------------------------------------------------------------------------------- */

static void op_free(struct sim_op *o)
{
    if (o->kind < OP_SOCKET_KINDS && o->socket->ops[o->kind] == o)
        o->socket->ops[o->kind] = NULL;
    o->op = NULL;
    list_push_back(&o->p->free_ops, &o->link);
}

static void op_done(struct sim_done *d)
{
    struct sim_op *o = CONTAINER_OF(d, struct sim_op, done);
    struct shard_private *p = o->p;
    struct sim_socket *socket = o->socket;
    struct io_op *op = o->op;
    int result = o->result;

    sim_trace_shard(TRACE_DONE, op_codes[o->kind], (uint64_t)(int64_t)result, 0);
    op_free(o);
    if (op == NULL) {
        ASSERT(socket->watched);
        socket->watched = false;
        p->watch_fired(socket->cookie, result);
        return;
    }
    op->res = result;
    op->in_flight = false;
    op->done(op);
}

static void op_complete(struct sim_op *o, int result)
{
    ASSERT(!o->completed);
    o->completed = true;
    o->result = result;
    sim_event_cancel(&o->event);
    if (o->kind == OP_ACCEPT)
        list_remove(&o->link);
    sim_shard_done(o->p, &o->done);
}

static void op_fire(struct sim_event *e);

static void op_bind(struct sim_op *o, struct io_op *op)
{
    ASSERT(!op->in_flight && op->done != NULL);
    o->op = op;
    op->in_flight = true;
    op->index = o->index;
}

/* `op` NULL: a watch. */
static struct sim_op *op_new(struct shard_private *p, struct io_op *op, enum op_kind kind,
                             struct sim_socket *socket)
{
    struct list *l = list_pop_front(&p->free_ops);
    struct sim_op *o;

    if (l != NULL) {
        o = CONTAINER_OF(l, struct sim_op, link);
    } else {
        if (p->op_count == p->op_capacity) {
            p->op_capacity = p->op_capacity * 2 + 64;
            p->ops = realloc(p->ops, p->op_capacity * sizeof(struct sim_op *));
            ASSERT(p->ops != NULL);
        }
        o = calloc(1, sizeof *o);
        ASSERT(o != NULL);
        o->index = p->op_count;
        p->ops[p->op_count++] = o;
    }
    *o = (struct sim_op){.done.run = op_done,
                         .event.fire = op_fire,
                         .p = p,
                         .socket = socket,
                         .index = o->index,
                         .kind = kind};
    list_init(&o->link);
    if (op != NULL)
        op_bind(o, op);
    if (kind < OP_SOCKET_KINDS) {
        ASSERT(socket->ops[kind] == NULL);
        socket->ops[kind] = o;
    }
    return o;
}

/* Looks at it soon: never inside of the call that submits it. */
static void op_look(struct sim_op *o)
{
    if (!o->completed && !sim_event_armed(&o->event))
        sim_event_after(&o->event, sim_random_below(&o->p->node->world->random, JITTER_NS));
}

static void socket_look(struct end *e)
{
    struct sim_socket *s = e->socket;

    if (s == NULL)
        return;
    if (s->watched && s->ops[OP_POLL] == NULL)
        (void)op_new(e->p, NULL, OP_POLL, s);
    for (unsigned k = 0; k < OP_SOCKET_KINDS; k++)
        if (s->ops[k] != NULL)
            op_look(s->ops[k]);
}

void io_cancel(struct io_op *op)
{
    struct shard_private *p = sim_private();
    struct sim_op *o;

    sim_trace_shard(TRACE_CANCEL, op->in_flight, 0, 0);
    if (!op->in_flight)
        return;
    ASSERT(op->index < p->op_count && p->ops[op->index]->op == op);
    o = p->ops[op->index];
    if (o->completed)
        return;
    if (o->kind == OP_CONNECT && o->connection != NULL) {
        connection_release(o->connection);
        o->connection = NULL;
    }
    op_complete(o, -ECANCELED);
}

/* ---- Pipes -------------------------------------------------------------------------------------------- */

static struct sim_link *link_to(struct end *e)
{
    return &sim_world_current()->links[end_peer(e)->node][e->node];
}

static uint64_t delay_to(struct end *e)
{
    const struct sim_link *l = link_to(e);

    return l->latency_ns * l->factor +
           sim_random_below(&sim_world_current()->random, l->latency_ns * l->factor / 4 + JITTER_NS);
}

static void pipe_arrive(struct sim_event *e);
static void pipe_give_up(struct sim_event *e);
static void pipe_room(struct sim_event *e);

static struct pipe *pipe_of(struct end *to)
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

static void pipe_copy_in(struct pipe *p, const char *data, size_t size)
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

static void pipe_copy_out(struct pipe *p, char *data, size_t size)
{
    size_t first = MIN(size, p->capacity - p->start);

    memcpy(data, p->bytes + p->start, first);
    memcpy(data + first, p->bytes, size - first);
    p->start = (p->start + size) % p->capacity;
    p->size -= size;
    p->arrived -= size;
}

/* A quiet connection holds no buffer. */
static void pipe_shrink(struct pipe *p)
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

static void pipe_clear(struct pipe *p)
{
    if (p == NULL)
        return;
    p->size = p->arrived = 0;
    p->segment_count = 0;
    p->stalled = false;
    sim_event_cancel(&p->arrive);
    sim_event_cancel(&p->give_up);
    sim_event_cancel(&p->room);
    pipe_shrink(p);
}

/* What has not arrived never will. */
static void pipe_forget(struct pipe *p)
{
    if (p == NULL)
        return;
    p->size = p->arrived;
    p->segment_count = 0;
    p->stalled = false;
    sim_event_cancel(&p->arrive);
    sim_event_cancel(&p->give_up);
    pipe_shrink(p);
}

static void pipe_segment(struct pipe *p, enum segment_kind kind, size_t size)
{
    uint64_t at_ns = MAX(p->last_ns + 1, sim_world_current()->now_ns + delay_to(p->to));
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

/* Cuts what is sent where the seed says. */
static void pipe_segments(struct pipe *p, size_t size)
{
    struct sim_random *r = &sim_world_current()->random;
    struct connection *c = end_connection(p->to);

    while (size > 0) {
        size_t n = size;

        if (c->segment_max > 0 && p->segment_count < SEGMENTS_MAX - 2)
            n = sim_random_range(r, 1, MIN(size, c->segment_max));
        else if (!sim_world_current()->smooth && sim_random_one_in(r, 4))
            n = sim_random_range(r, 1, size);
        pipe_segment(p, SEGMENT_DATA, n);
        size -= n;
    }
}

/* Ends the connection for the one who sends into `p`, without a word to the other. */
static void end_fail(struct end *e, int error)
{
    if (e->error == 0)
        e->error = error;
    e->fin_sent = true;
    pipe_forget(end_peer(e)->in);
    socket_look(e);
}

static void end_send_reset(struct end *e)
{
    struct end *peer = end_peer(e);

    pipe_forget(peer->in);
    e->fin_sent = true;
    pipe_segment(pipe_of(peer), SEGMENT_RESET, 0);
}

static bool way_blocked(struct end *to)
{
    return end_connection(to)->black_hole || link_to(to)->cut || !end_node(to)->powered;
}

static void segment_arrive(struct pipe *p, const struct segment *s)
{
    struct end *to = p->to;

    if (to->gone) {
        pipe_clear(p);
        if (s->kind == SEGMENT_DATA && !end_peer(to)->gone)
            end_send_reset(to);
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
        end_fail(to, -ECONNRESET);
        break;
    }
    socket_look(to);
}

static void pipe_arrive(struct sim_event *e)
{
    struct pipe *p = CONTAINER_OF(e, struct pipe, arrive);
    struct segment s = p->segments[p->segment_first];

    ASSERT(p->segment_count > 0);
    if (way_blocked(p->to) && s.kind == SEGMENT_RESET) { /* Nobody sends a reset twice. */
        pipe_clear(p);
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
        pipe_clear(p);
    else
        end_fail(from, -ETIMEDOUT);
}

/* The reader took bytes: the window opens, a while later. */
static void pipe_room(struct sim_event *e)
{
    struct pipe *p = CONTAINER_OF(e, struct pipe, room);

    socket_look(end_peer(p->to));
    pipe_settle(p->to);
}

static void pipe_unstall(struct pipe *p)
{
    if (p == NULL || !p->stalled || way_blocked(p->to))
        return;
    p->stalled = false;
    if (p->segment_count > 0)
        sim_event_after(&p->arrive, sim_random_below(&sim_world_current()->random, HEAL_DELAY_NS));
}

/* ---- Connections -------------------------------------------------------------------------------------- */

static void end_init(struct end *e, const struct sim_node *n)
{
    struct sim_random *r = &n->world->random;

    e->node = (uint8_t)n->id;
    e->window = WINDOW_MAX;
    if (!n->world->smooth && sim_random_one_in(r, 4))
        e->window = (uint32_t)sim_random_range(r, 512, 8192);
}

static struct connection *connection_new(struct sim_node *from, const struct net_addr *from_address,
                                         struct sim_node *to)
{
    struct sim_world *w = from->world;
    struct connection *c = calloc(1, sizeof *c);

    ASSERT(c != NULL);
    c->number = w->next_connection++;
    if (!w->smooth && sim_random_one_in(&w->random, 8))
        c->segment_max = (uint32_t)sim_random_range(&w->random, 1, 9);
    list_init(&c->backlog_link);
    list_push_back(&w->connections, &c->link);
    c->address = *from_address;
    c->ends[1].accepted = true;
    end_init(&c->ends[0], from);
    end_init(&c->ends[1], to);
    return c;
}

static void connection_free(struct connection *c)
{
    for (unsigned k = 0; k < 2; k++) {
        pipe_clear(c->ends[k].in);
        free(c->ends[k].in);
    }
    if (c->waiting != NULL) {
        list_remove(&c->backlog_link);
        c->waiting->backlog_count--;
    }
    list_remove(&c->link);
    free(c);
}

/* What close(2) does with what is on its way. */
static void end_close(struct end *e, bool silent)
{
    struct end *peer = end_peer(e);
    bool unread = e->in != NULL && e->in->size > 0;

    e->gone = true;
    e->p = NULL;
    e->socket = NULL;
    if (!silent && e->error == 0) {
        if (unread)
            end_send_reset(e);
        else if (!e->fin_sent)
            pipe_segment(pipe_of(peer), SEGMENT_FIN, 0);
    }
    if (silent)
        pipe_forget(peer->in); /* What its kernel had not yet got acknowledged is lost. */
    e->fin_sent = true;
    if (unread)
        pipe_clear(e->in);
    if (peer->gone)
        connection_free(end_connection(e));
}

/* A connect that was given up: the other side may have it in its backlog. */
static void connection_release(struct connection *c)
{
    end_close(&c->ends[0], false);
}

static void end_attach(struct end *e, struct shard_private *p, struct sim_socket *socket)
{
    e->p = p;
    e->socket = socket;
    socket->end = e;
}

/* ---- Listening, accepting ----------------------------------------------------------------------------- */

static bool address_matches(const struct net_addr *bound, const struct sim_node *n, const struct net_addr *to)
{
    static const uint8_t any[16];

    if (bound->port != to->port || bound->family != to->family)
        return false;
    if (memcmp(bound->ip, to->ip, sizeof any) == 0)
        return true;
    return memcmp(bound->ip, any, sizeof any) == 0 && memcmp(n->address.ip, to->ip, sizeof any) == 0;
}

static struct sim_node *node_at(struct sim_world *w, const struct net_addr *to)
{
    for (unsigned k = 0; k < w->node_count; k++)
        if (net_addr_same_host(&w->nodes[k]->address, to))
            return w->nodes[k];
    return NULL;
}

/* One of the listeners of the address, by chance: the kernel's SO_REUSEPORT. */
static struct listener *listener_find(struct sim_world *w, const struct net_addr *to)
{
    struct listener *found = NULL;
    uint64_t seen = 0;

    list_each(l, &w->listeners)
    {
        struct listener *x = CONTAINER_OF(l, struct listener, link);

        if (!x->shut && address_matches(&x->address, x->p->node, to) && sim_random_one_in(&w->random, ++seen))
            found = x;
    }
    return found;
}

int io_listen(const struct net_addr *addr, struct sock *listener_out)
{
    struct shard_private *p = sim_private();
    struct sim_world *w = p->node->world;
    struct sim_socket *s;
    struct listener *l;

    list_each(it, &w->listeners)
    {
        const struct listener *x = CONTAINER_OF(it, struct listener, link);

        if (addr->port != 0 && x->p->node != p->node && address_matches(&x->address, x->p->node, addr))
            return -EADDRINUSE;
    }
    s = socket_take(p);
    if (s == NULL)
        return -ENFILE;
    l = calloc(1, sizeof *l);
    ASSERT(l != NULL);
    *l = (struct listener){.p = p, .address = *addr};
    if (addr->port == 0)
        l->address.port = w->next_port++;
    list_init(&l->backlog);
    list_init(&l->accepts);
    list_push_back(&w->listeners, &l->link);
    s->listener = l;
    s->listens = true;
    *listener_out = sock_of(p, s);
    sim_trace_shard(TRACE_LISTEN, l->address.port, 0, 0);
    return 0;
}

int io_listen_unix(const char *path, struct sock *listener_out)
{
    return -EAFNOSUPPORT;
}

int io_listen_port(struct sock listener, uint16_t *port_out)
{
    struct sim_socket *s = socket_of(sim_private(), listener);

    ASSERT(s->listens);
    *port_out = s->listener->address.port;
    return 0;
}

static void listener_look(struct listener *l)
{
    list_each(it, &l->accepts) op_look(CONTAINER_OF(it, struct sim_op, link));
}

void io_accept(struct sock listener, struct io_accept *a)
{
    struct shard_private *p = sim_private();
    struct sim_socket *s = socket_of(p, listener);
    struct sim_op *o;

    ASSERT(s->listens);
    o = op_new(p, &a->op, OP_ACCEPT, s);
    a->sock = SOCK_NONE;
    list_push_back(&s->listener->accepts, &o->link);
    sim_trace_shard(TRACE_ACCEPT, listener.slot, 0, 0);
    op_look(o);
}

static void accept_look(struct sim_op *o)
{
    struct io_accept *a = CONTAINER_OF(o->op, struct io_accept, op);
    struct listener *l = o->socket->listener;
    struct connection *c;
    struct sim_socket *s;

    if (l->shut) {
        op_complete(o, -EINVAL);
        return;
    }
    if (list_empty(&l->backlog))
        return;
    s = socket_take(o->p);
    if (s == NULL) {
        op_complete(o, -ENFILE);
        return;
    }
    c = CONTAINER_OF(list_pop_front(&l->backlog), struct connection, backlog_link);
    l->backlog_count--;
    c->waiting = NULL;
    end_attach(&c->ends[1], o->p, s);
    a->sock = sock_of(o->p, s);
    a->peer = c->address;
    op_complete(o, 0);
}

static void listener_free(struct listener *l, bool silent)
{
    list_remove(&l->link);
    list_each_safe(it, &l->backlog)
    {
        struct connection *c = CONTAINER_OF(it, struct connection, backlog_link);

        list_remove(&c->backlog_link);
        c->waiting = NULL;
        if (!silent)
            end_send_reset(&c->ends[1]);
        end_close(&c->ends[1], silent);
    }
    free(l);
}

/* ---- Connecting --------------------------------------------------------------------------------------- */

void io_connect(struct io_connect *c)
{
    struct shard_private *p = sim_private();
    struct sim_op *o = op_new(p, &c->op, OP_CONNECT, NULL);

    c->sock = SOCK_NONE;
    sim_trace_shard(TRACE_CONNECT, c->peer.port, 0, 0);
    sim_event_after(&o->event, sim_random_below(&p->node->world->random, SIM_MS));
}

static uint16_t next_port(struct sim_world *w)
{
    return w->next_port = w->next_port < 32768 ? 32768 : (uint16_t)(w->next_port + 1);
}

/* The first packet reaches the other host, or does not. */
static void connect_try(struct sim_op *o)
{
    struct io_connect *c = CONTAINER_OF(o->op, struct io_connect, op);
    struct sim_node *from = o->p->node, *to = node_at(from->world, &c->peer);
    struct sim_world *w = from->world;
    struct net_addr address = from->address;
    struct listener *l;

    l = listener_find(w, &c->peer);
    if (l != NULL)
        to = l->p->node;
    if (to == NULL) {
        op_complete(o, -EHOSTUNREACH);
        return;
    }
    if (!to->powered || w->links[from->id][to->id].cut || w->links[to->id][from->id].cut ||
        (l != NULL && l->backlog_count >= BACKLOG_MAX)) {
        if (++o->tries == CONNECT_TRIES)
            op_complete(o, -ETIMEDOUT);
        else
            sim_event_after(&o->event, CONNECT_RETRY_NS << o->tries);
        return;
    }
    if (l == NULL) {
        op_complete(o, -ECONNREFUSED);
        return;
    }
    address.port = next_port(w);
    o->connection = connection_new(from, &address, to);
    o->connection->waiting = l;
    list_push_back(&l->backlog, &o->connection->backlog_link);
    l->backlog_count++;
    listener_look(l);
    sim_event_after(&o->event, delay_to(&o->connection->ends[0]));
}

static void connect_look(struct sim_op *o)
{
    struct io_connect *c = CONTAINER_OF(o->op, struct io_connect, op);
    struct sim_socket *s;

    if (o->connection == NULL) {
        connect_try(o);
        return;
    }
    s = socket_take(o->p);
    if (s == NULL) {
        connection_release(o->connection);
        op_complete(o, -ENFILE);
        return;
    }
    end_attach(&o->connection->ends[0], o->p, s);
    o->connection = NULL;
    c->sock = sock_of(o->p, s);
    op_complete(o, 0);
}

bool sim_join(struct shard *from, struct shard *to, struct sock *from_out, struct sock *to_out,
              struct net_addr *peer_out)
{
    struct shard_private *a = from->private, *b = to->private;
    struct net_addr address = a->node->address;
    struct connection *c;

    if (a->free_socket_count == 0 || b->free_socket_count == 0)
        return false;
    address.port = next_port(a->node->world);
    c = connection_new(a->node, &address, b->node);
    end_attach(&c->ends[0], a, socket_take(a));
    end_attach(&c->ends[1], b, socket_take(b));
    *from_out = sock_of(a, c->ends[0].socket);
    *to_out = sock_of(b, c->ends[1].socket);
    *peer_out = address;
    return true;
}

/* ---- Receiving, sending ------------------------------------------------------------------------------- */

static bool end_readable(const struct end *e)
{
    return (e->in != NULL && e->in->arrived > 0) || e->fin_arrived || e->error != 0 || e->shut;
}

void io_poll(struct sock s, struct io_op *op)
{
    struct shard_private *p = sim_private();
    struct sim_socket *socket = socket_of(p, s);

    sim_trace_shard(TRACE_POLL, s.slot, 0, 0);
    if (!socket->watched) {
        op_look(op_new(p, op, OP_POLL, socket));
        return;
    }
    socket->watched = false;
    if (socket->ops[OP_POLL] != NULL)
        op_bind(socket->ops[OP_POLL], op);
    else
        (void)op_new(p, op, OP_POLL, socket);
}

void io_watch_with(void (*fired)(uint32_t cookie, int32_t res))
{
    sim_private()->watch_fired = fired;
}

/* A watch that has looked and found nothing: whatever comes looks again. */
static void watch_rest(struct sim_op *o)
{
    if (o->op == NULL && !o->completed && !sim_event_armed(&o->event))
        op_free(o);
}

void io_watch(struct sock s, uint32_t cookie)
{
    struct shard_private *p = sim_private();
    struct sim_socket *socket = socket_of(p, s);
    struct sim_op *o = socket->ops[OP_POLL];

    ASSERT(p->watch_fired != NULL && !socket->listens && !socket->end->shut);
    sim_trace_shard(TRACE_POLL, s.slot, 1, cookie);
    socket->cookie = cookie;
    if (o == NULL && !socket->watched) {
        op_look(op_new(p, NULL, OP_POLL, socket));
    } else if (o != NULL && o->op != NULL) {
        ASSERT(!o->completed || o->result != -ECANCELED);
        o->op->in_flight = false;
        o->op = NULL;
        watch_rest(o);
    }
    socket->watched = true;
}

static void watch_end(struct sim_socket *s)
{
    struct sim_op *o = s->ops[OP_POLL];

    if (!s->watched || o == NULL)
        return;
    sim_event_cancel(&o->event);
    if (o->completed)
        list_remove(&o->done.link);
    op_free(o);
}

static void poll_look(struct sim_op *o)
{
    const struct end *e = o->socket->end;
    int mask = POLLIN;

    if (!end_readable(e)) {
        watch_rest(o);
        return;
    }
    if (e->fin_arrived || e->shut)
        mask |= POLLRDHUP;
    if (e->error != 0 || e->shut)
        mask |= POLLHUP;
    if (e->error != 0)
        mask |= POLLERR;
    op_complete(o, mask);
}

void io_recv(struct sock s, struct io_op *op)
{
    struct shard_private *p = sim_private();
    struct sim_socket *socket = socket_of(p, s);

    ASSERT(!op->recv_owned);
    sim_trace_shard(TRACE_RECV, s.slot, 0, 0);
    op->data = slice_of(NULL, 0);
    op_look(op_new(p, op, OP_RECV, socket));
}

void io_recv_into(struct sock s, struct io_op *op, void *space, size_t size)
{
    struct shard_private *p = sim_private();
    struct sim_op *o = op_new(p, op, OP_RECV, socket_of(p, s));

    ASSERT(!op->recv_owned);
    o->space = space;
    o->total = size;
    sim_trace_shard(TRACE_RECV, s.slot, size, 0);
    op->data = slice_of(NULL, 0);
    op_look(o);
}

/* A buffer for what has arrived, lent to the operation. */
static char *recv_lend(struct sim_op *o, size_t size)
{
    struct recv_buffer *b =
        malloc(sizeof *b + size); /* As large as its bytes: a sanitizer sees who reads past them. */
    unsigned slot = 0;

    ASSERT(b != NULL);
    while (o->p->buffers[slot] != NULL)
        slot++;
    b->size = (uint32_t)size;
    o->p->buffers[slot] = b;
    o->p->buffers_out++;
    o->op->recv_owned = true;
    o->op->recv_buffer = (uint16_t)slot;
    return b->bytes;
}

static void recv_look(struct sim_op *o)
{
    struct end *e = o->socket->end;
    struct sim_random *r = &o->p->node->world->random;
    char *bytes;
    size_t size;

    if (!end_readable(e))
        return;
    if (e->in == NULL || e->in->arrived == 0) {
        op_complete(o, e->error);
        return;
    }
    if (o->space == NULL && (o->p->buffers_out == SIM_RECV_BUFFERS_MAX || sim_random_one_in(r, 4096))) {
        op_complete(o, -ENOBUFS);
        return;
    }
    size = MIN(e->in->arrived, o->space != NULL ? o->total : SIM_RECV_SIZE);
    if (!sim_world_current()->smooth && sim_random_one_in(r, 16))
        size = sim_random_range(r, 1, size);
    bytes = o->space != NULL ? o->space : recv_lend(o, size);
    pipe_copy_out(e->in, bytes, size);
    o->op->data = slice_of(bytes, size);
    if (!end_peer(e)->gone && !sim_event_armed(&e->in->room))
        sim_event_after(&e->in->room, delay_to(e));
    pipe_shrink(e->in);
    op_complete(o, (int)size);
}

void io_recv_release(struct io_op *op)
{
    struct shard_private *p = sim_private();

    ASSERT(op->recv_owned && p->buffers[op->recv_buffer] != NULL);
    free(p->buffers[op->recv_buffer]);
    p->buffers[op->recv_buffer] = NULL;
    p->buffers_out--;
    op->recv_owned = false;
    op->data = slice_of(NULL, 0);
}

void io_send(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count)
{
    struct shard_private *p = sim_private();
    struct sim_op *o = op_new(p, op, OP_SEND, socket_of(p, s));

    o->vector = vector;
    o->count = count;
    for (unsigned k = 0; k < count; k++)
        o->total += vector[k].iov_len;
    sim_trace_shard(TRACE_SEND, s.slot, o->total, 0);
    op_look(o);
}

static void send_look(struct sim_op *o)
{
    struct end *e = o->socket->end;
    size_t window = end_peer(e)->window, sent = 0;
    struct pipe *p;

    if (e->error != 0 || e->fin_sent) {
        op_complete(o, e->error != 0 ? e->error : -EPIPE);
        return;
    }
    p = pipe_of(end_peer(e));
    while (o->count > 0 && p->size < window) {
        size_t n = MIN(o->vector->iov_len - o->skip, window - p->size);

        pipe_copy_in(p, (const char *)o->vector->iov_base + o->skip, n);
        sent += n;
        o->skip += n;
        if (o->skip == o->vector->iov_len) {
            o->vector++;
            o->count--;
            o->skip = 0;
        }
    }
    if (sent > 0)
        pipe_segments(p, sent);
    if (o->count == 0)
        op_complete(o, (int)o->total);
}

static void op_fire(struct sim_event *e)
{
    struct sim_op *o = CONTAINER_OF(e, struct sim_op, event);

    switch (o->kind) {
    case OP_ACCEPT:
        accept_look(o);
        break;
    case OP_CONNECT:
        connect_look(o);
        break;
    case OP_POLL:
        poll_look(o);
        break;
    case OP_RECV:
        recv_look(o);
        break;
    case OP_SEND:
        send_look(o);
        break;
    }
}

/* ---- Ending ------------------------------------------------------------------------------------------- */

void io_shutdown(struct sock s)
{
    struct sim_socket *socket = socket_of(sim_private(), s);
    struct end *e;

    sim_trace_shard(TRACE_SHUTDOWN, s.slot, 0, 0);
    if (socket->listens) {
        socket->listener->shut = true;
        listener_look(socket->listener);
        return;
    }
    e = socket->end;
    if (!e->fin_sent)
        pipe_segment(pipe_of(end_peer(e)), SEGMENT_FIN, 0);
    e->fin_sent = e->shut = true;
    socket_look(e);
}

void io_close(struct sock s)
{
    struct shard_private *p = sim_private();
    struct sim_socket *socket = socket_of(p, s);

    sim_trace_shard(TRACE_CLOSE, s.slot, 0, 0);
    if (socket->listens) {
        ASSERT(list_empty(&socket->listener->accepts));
        listener_free(socket->listener, false);
    } else {
        watch_end(socket);
        end_close(socket->end, false);
    }
    socket_give(p, socket);
}

void sim_abort(struct sock s)
{
    struct sim_socket *socket = socket_of(sim_private(), s);

    sim_trace_shard(TRACE_SHUTDOWN, s.slot, 1, 0);
    if (!socket->listens && socket->end->error == 0)
        end_send_reset(socket->end);
}

/* ---- Lives -------------------------------------------------------------------------------------------- */

void sim_net_shard_init(struct shard_private *p)
{
    uint32_t count = p->node->options.socket_count;

    p->socket_count = count > 0 ? count : SIM_SOCKETS_DEFAULT;
    p->sockets = calloc(p->socket_count, sizeof *p->sockets);
    p->free_sockets = calloc(p->socket_count, sizeof *p->free_sockets);
    ASSERT(p->sockets != NULL && p->free_sockets != NULL);
    for (uint32_t k = 0; k < p->socket_count; k++)
        p->free_sockets[k] = p->socket_count - 1 - k;
    p->free_socket_count = p->socket_count;
    list_init(&p->free_ops);
}

void sim_net_shard_fini(struct shard_private *p, bool silent)
{
    for (uint32_t k = 0; k < p->op_count; k++) {
        struct sim_op *o = p->ops[k];

        sim_event_cancel(&o->event);
        if (o->op != NULL && o->connection != NULL)
            end_close(&o->connection->ends[0], silent);
        free(o);
    }
    free(p->ops);
    for (uint32_t k = 0; k < p->socket_count; k++) {
        if (p->sockets[k].listens)
            listener_free(p->sockets[k].listener, silent);
        else if (p->sockets[k].end != NULL)
            end_close(p->sockets[k].end, silent);
    }
    free(p->sockets);
    free(p->free_sockets);
    for (unsigned k = 0; k < SIM_RECV_BUFFERS_MAX; k++)
        free(p->buffers[k]);
}

void sim_net_links_changed(struct sim_world *w)
{
    list_each(l, &w->connections)
    {
        struct connection *c = CONTAINER_OF(l, struct connection, link);

        pipe_unstall(c->ends[0].in);
        pipe_unstall(c->ends[1].in);
    }
}

void sim_net_node_returned(struct sim_node *n)
{
    sim_net_links_changed(n->world);
}

void sim_net_fini(struct sim_world *w)
{
    list_each_safe(l, &w->connections) connection_free(CONTAINER_OF(l, struct connection, link));
    ASSERT(list_empty(&w->listeners));
}

static uint64_t shard_memory(const struct shard_private *p)
{
    uint64_t bytes = malloc_usable_size(p->sockets) + malloc_usable_size(p->free_sockets);

    if (p->op_count > 0)
        bytes += malloc_usable_size(p->ops) + p->op_count * malloc_usable_size(p->ops[0]);
    for (unsigned k = 0; k < SIM_RECV_BUFFERS_MAX; k++)
        bytes += p->buffers[k] != NULL ? malloc_usable_size(p->buffers[k]) : 0;
    return bytes;
}

static uint64_t pipe_memory(const struct pipe *p)
{
    return p != NULL ? malloc_usable_size((void *)(uintptr_t)p) + malloc_usable_size(p->bytes) : 0;
}

uint64_t sim_net_memory(const struct sim_world *w)
{
    uint64_t bytes = 0;

    list_each(l, &w->connections)
    {
        struct connection *c = CONTAINER_OF(l, struct connection, link);

        bytes += malloc_usable_size(c) + pipe_memory(c->ends[0].in) + pipe_memory(c->ends[1].in);
    }
    for (unsigned k = 0; k < w->node_count; k++)
        for (unsigned s = 0; w->nodes[k]->up && s < w->nodes[k]->options.shard_count; s++)
            bytes += shard_memory(w->nodes[k]->shards[s]->private);
    return bytes + malloc_usable_size(w->heap);
}

/* ---- Faults ------------------------------------------------------------------------------------------- */

static bool connection_lives(const struct connection *c)
{
    return c->ends[0].node != c->ends[1].node && !c->ends[0].gone && !c->ends[1].gone && !c->black_hole;
}

bool sim_net_lives(const struct sim_world *w, uint64_t connection)
{
    list_each(l, &w->connections)
    {
        const struct connection *c = CONTAINER_OF(l, struct connection, link);

        if (c->number == connection)
            return connection_lives(c);
    }
    return false;
}

static bool connection_joins(const struct connection *c, const struct sim_node *a, const struct sim_node *b)
{
    return a == NULL || (c->ends[0].node == a->id && c->ends[1].node == b->id) ||
           (c->ends[0].node == b->id && c->ends[1].node == a->id);
}

static struct connection *connection_find(struct sim_world *w, const struct sim_node *a,
                                          const struct sim_node *b, uint64_t number)
{
    struct connection *found = NULL;
    uint64_t seen = 0;

    list_each(l, &w->connections)
    {
        struct connection *c = CONTAINER_OF(l, struct connection, link);

        if (!connection_lives(c) || !connection_joins(c, a, b))
            continue;
        if (c->number == number)
            return c;
        if (sim_random_one_in(&w->nemesis_random, ++seen))
            found = c;
    }
    return found;
}

/* A client's connection carries its own operation; one between servers carries those of everybody who takes part. */
static void connection_strike(struct sim_world *w, const struct connection *c, enum sim_fault fault)
{
    const struct sim_node *from = end_node(&c->ends[0]), *to = end_node(&c->ends[1]);
    struct sim_hit hit = sim_hit_pair(from, to, true, fault);

    if (from->options.client || to->options.client || hit.site < 0 || w->sites[hit.site].name == NULL)
        hit.connection = c->number;
    sim_strike(w, &hit);
}

bool sim_reset(struct sim_world *w, const struct sim_node *a, const struct sim_node *b, uint64_t connection)
{
    struct connection *c = connection_find(w, a, b, connection);

    if (c == NULL)
        return false;
    connection_strike(w, c, SIM_RESET);
    end_fail(&c->ends[0], -ECONNRESET);
    end_fail(&c->ends[1], -ECONNRESET);
    return true;
}

bool sim_half_open(struct sim_world *w, const struct sim_node *a, const struct sim_node *b,
                   uint64_t connection)
{
    struct connection *c = connection_find(w, a, b, connection);

    if (c == NULL)
        return false;
    connection_strike(w, c, SIM_HALF_OPEN);
    c->black_hole = true;
    return true;
}
