/* core/sim/net_connection.c -- connections from connect or accept to close, and listeners. */
#include "core/sim/net_private.h"
#include <errno.h>
#include <stdlib.h>

#define BACKLOG_MAX      128
#define CONNECT_TRIES    5
#define CONNECT_RETRY_NS SIM_S

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

void sim_connection_free(struct connection *c)
{
    for (unsigned k = 0; k < 2; k++) {
        sim_pipe_clear(c->ends[k].in);
        free(c->ends[k].in);
    }
    if (c->waiting != NULL) {
        list_remove(&c->backlog_link);
        c->waiting->backlog_count--;
    }
    list_remove(&c->link);
    free(c);
}

void sim_end_close(struct end *e, bool silent)
{
    struct end *peer = end_peer(e);
    bool unread = e->in != NULL && e->in->size > 0;

    e->gone = true;
    e->p = NULL;
    e->socket = NULL;
    if (!silent && e->error == 0) {
        if (unread)
            sim_end_send_reset(e);
        else if (!e->fin_sent)
            sim_pipe_segment(sim_pipe_of(peer), SEGMENT_FIN, 0);
    }
    if (silent)
        sim_pipe_forget(peer->in); /* What its kernel had not yet got acknowledged is lost. */
    e->fin_sent = true;
    if (unread)
        sim_pipe_clear(e->in);
    if (peer->gone)
        sim_connection_free(end_connection(e));
}

void sim_connection_release(struct connection *c)
{
    sim_end_close(&c->ends[0], false);
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
    s = sim_socket_take(p);
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
    *listener_out = sim_sock_of(p, s);
    sim_trace_shard(TRACE_LISTEN, l->address.port, 0, 0);
    return 0;
}

int io_listen_unix(const char *path, struct sock *listener_out)
{
    return -EAFNOSUPPORT;
}

int io_listen_port(struct sock listener, uint16_t *port_out)
{
    struct sim_socket *s = sim_socket_of(sim_private(), listener);

    ASSERT(s->listens);
    *port_out = s->listener->address.port;
    return 0;
}

void sim_listener_look(struct listener *l)
{
    list_each(it, &l->accepts) sim_op_look(CONTAINER_OF(it, struct sim_op, link));
}

void io_accept(struct sock listener, struct io_accept *a)
{
    struct shard_private *p = sim_private();
    struct sim_socket *s = sim_socket_of(p, listener);
    struct sim_op *o;

    ASSERT(s->listens);
    o = sim_op_new(p, &a->op, OP_ACCEPT, s);
    a->sock = SOCK_NONE;
    list_push_back(&s->listener->accepts, &o->link);
    sim_trace_shard(TRACE_ACCEPT, listener.slot, 0, 0);
    sim_op_look(o);
}

void sim_accept_look(struct sim_op *o)
{
    struct io_accept *a = CONTAINER_OF(o->op, struct io_accept, op);
    struct listener *l = o->socket->listener;
    struct connection *c;
    struct sim_socket *s;

    if (l->shut) {
        sim_op_complete(o, -EINVAL);
        return;
    }
    if (list_empty(&l->backlog))
        return;
    s = sim_socket_take(o->p);
    if (s == NULL) {
        sim_op_complete(o, -ENFILE);
        return;
    }
    c = CONTAINER_OF(list_pop_front(&l->backlog), struct connection, backlog_link);
    l->backlog_count--;
    c->waiting = NULL;
    end_attach(&c->ends[1], o->p, s);
    a->sock = sim_sock_of(o->p, s);
    a->peer = c->address;
    sim_op_complete(o, 0);
}

void sim_listener_free(struct listener *l, bool silent)
{
    list_remove(&l->link);
    list_each_safe(it, &l->backlog)
    {
        struct connection *c = CONTAINER_OF(it, struct connection, backlog_link);

        list_remove(&c->backlog_link);
        c->waiting = NULL;
        if (!silent)
            sim_end_send_reset(&c->ends[1]);
        sim_end_close(&c->ends[1], silent);
    }
    free(l);
}

/* ---- Connecting --------------------------------------------------------------------------------------- */

void io_connect(struct io_connect *c)
{
    struct shard_private *p = sim_private();
    struct sim_op *o = sim_op_new(p, &c->op, OP_CONNECT, NULL);

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
        sim_op_complete(o, -EHOSTUNREACH);
        return;
    }
    if (!to->powered || w->links[from->id][to->id].cut || w->links[to->id][from->id].cut ||
        (l != NULL && l->backlog_count >= BACKLOG_MAX)) {
        if (++o->tries == CONNECT_TRIES)
            sim_op_complete(o, -ETIMEDOUT);
        else
            sim_event_after(&o->event, CONNECT_RETRY_NS << o->tries);
        return;
    }
    if (l == NULL) {
        sim_op_complete(o, -ECONNREFUSED);
        return;
    }
    address.port = next_port(w);
    o->connection = connection_new(from, &address, to);
    o->connection->waiting = l;
    list_push_back(&l->backlog, &o->connection->backlog_link);
    l->backlog_count++;
    sim_listener_look(l);
    sim_event_after(&o->event, sim_delay_to(&o->connection->ends[0]));
}

void sim_connect_look(struct sim_op *o)
{
    struct io_connect *c = CONTAINER_OF(o->op, struct io_connect, op);
    struct sim_socket *s;

    if (o->connection == NULL) {
        connect_try(o);
        return;
    }
    s = sim_socket_take(o->p);
    if (s == NULL) {
        sim_connection_release(o->connection);
        sim_op_complete(o, -ENFILE);
        return;
    }
    end_attach(&o->connection->ends[0], o->p, s);
    o->connection = NULL;
    c->sock = sim_sock_of(o->p, s);
    sim_op_complete(o, 0);
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
    end_attach(&c->ends[0], a, sim_socket_take(a));
    end_attach(&c->ends[1], b, sim_socket_take(b));
    *from_out = sim_sock_of(a, c->ends[0].socket);
    *to_out = sim_sock_of(b, c->ends[1].socket);
    *peer_out = address;
    return true;
}
