/* core/sim/net_op.c -- sockets of a shard, and operations on them that wait. */
#include "core/sim/net_private.h"
#include <errno.h>
#include <stdlib.h>

/* As they are counted in the trace. */
static const uint8_t op_codes[] = {
    [OP_ACCEPT] = 0, [OP_CONNECT] = 1, [OP_POLL] = 2, [OP_RECV] = 3, [OP_SEND] = 4};

/* ---- Tables ------------------------------------------------------------------------------------------- */

struct sim_socket *sim_socket_of(struct shard_private *p, struct sock s)
{
    ASSERT(s.slot < p->socket_count && p->sockets[s.slot].used);
    ASSERT(p->sockets[s.slot].generation == s.generation);
    return &p->sockets[s.slot];
}

struct sock sim_sock_of(struct shard_private *p, const struct sim_socket *socket)
{
    return (struct sock){(uint32_t)(socket - p->sockets), 0, socket->generation};
}

struct sim_socket *sim_socket_take(struct shard_private *p)
{
    struct sim_socket *s;

    if (p->free_socket_count == 0)
        return NULL;
    s = &p->sockets[p->free_sockets[--p->free_socket_count]];
    ASSERT(!s->used);
    s->used = true;
    return s;
}

void sim_socket_give(struct shard_private *p, struct sim_socket *s)
{
    for (unsigned k = 0; k < OP_SOCKET_KINDS; k++)
        ASSERT(s->ops[k] == NULL);
    *s = (struct sim_socket){.generation = (uint16_t)(s->generation + 1)};
    p->free_sockets[p->free_socket_count++] = (uint32_t)(s - p->sockets);
}

uint64_t sim_net_connection(struct shard_private *p, struct sock s)
{
    const struct sim_socket *socket = sim_socket_of(p, s);

    return !socket->listens && socket->end != NULL ? end_connection(socket->end)->number : 0;
}

/* ---- Operations --------------------------------------------------------------------------------------- */

void sim_op_free(struct sim_op *o)
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
    sim_op_free(o);
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

void sim_op_complete(struct sim_op *o, int result)
{
    ASSERT(!o->completed);
    o->completed = true;
    o->result = result;
    sim_event_cancel(&o->event);
    if (o->kind == OP_ACCEPT)
        list_remove(&o->link);
    if (o->quiet && result > 0)
        sim_shard_done_quiet(o->p, &o->done);
    else
        sim_shard_done(o->p, &o->done);
}

void sim_op_bind(struct sim_op *o, struct io_op *op)
{
    ASSERT(!op->in_flight && op->done != NULL);
    o->op = op;
    op->in_flight = true;
    op->index = o->index;
}

static void op_fire(struct sim_event *e)
{
    struct sim_op *o = CONTAINER_OF(e, struct sim_op, event);

    switch (o->kind) {
    case OP_ACCEPT:
        sim_accept_look(o);
        break;
    case OP_CONNECT:
        sim_connect_look(o);
        break;
    case OP_POLL:
        sim_poll_look(o);
        break;
    case OP_RECV:
        sim_recv_look(o);
        break;
    case OP_SEND:
        sim_send_look(o);
        break;
    }
}

struct sim_op *sim_op_new(struct shard_private *p, struct io_op *op, enum op_kind kind,
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
        sim_op_bind(o, op);
    if (kind < OP_SOCKET_KINDS) {
        ASSERT(socket->ops[kind] == NULL);
        socket->ops[kind] = o;
    }
    return o;
}

void sim_op_look(struct sim_op *o)
{
    if (!o->completed && !sim_event_armed(&o->event))
        sim_event_after(&o->event, sim_random_below(&o->p->node->world->random, JITTER_NS));
}

void sim_socket_look(struct end *e)
{
    struct sim_socket *s = e->socket;

    if (s == NULL)
        return;
    if (s->watched && s->ops[OP_POLL] == NULL)
        (void)sim_op_new(e->p, NULL, OP_POLL, s);
    for (unsigned k = 0; k < OP_SOCKET_KINDS; k++)
        if (s->ops[k] != NULL)
            sim_op_look(s->ops[k]);
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
    if (o->completed) {
        io_send_awaited(op);
        return;
    }
    if (o->kind == OP_CONNECT && o->connection != NULL) {
        sim_connection_release(o->connection);
        o->connection = NULL;
    }
    sim_op_complete(o, -ECANCELED);
}
