/* core/sim/net.c -- the simulated network as a whole: lives of nodes, memory, faults. */
#include "core/sim/net_private.h"
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

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
            sim_end_close(&o->connection->ends[0], silent);
        free(o);
    }
    free(p->ops);
    for (uint32_t k = 0; k < p->socket_count; k++) {
        if (p->sockets[k].listens)
            sim_listener_free(p->sockets[k].listener, silent);
        else if (p->sockets[k].end != NULL)
            sim_end_close(p->sockets[k].end, silent);
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

        sim_pipe_unstall(c->ends[0].in);
        sim_pipe_unstall(c->ends[1].in);
    }
}

void sim_net_node_returned(struct sim_node *n)
{
    sim_net_links_changed(n->world);
}

void sim_net_fini(struct sim_world *w)
{
    list_each_safe(l, &w->connections) sim_connection_free(CONTAINER_OF(l, struct connection, link));
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
    w->links[from->id][to->id].strikes++;
    sim_strike(w, &hit);
}

bool sim_reset(struct sim_world *w, const struct sim_node *a, const struct sim_node *b, uint64_t connection)
{
    struct connection *c = connection_find(w, a, b, connection);

    if (c == NULL)
        return false;
    connection_strike(w, c, SIM_RESET);
    sim_end_fail(&c->ends[0], -ECONNRESET);
    sim_end_fail(&c->ends[1], -ECONNRESET);
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
