/* core/sim/net_transfer.c -- polling, receiving, sending, shutting: the door on one connection. */
#include "core/sim/net_private.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

struct recv_buffer {
    uint32_t size;
    char bytes[];
};

/* ---- Receiving, sending ------------------------------------------------------------------------------- */

static bool end_readable(const struct end *e)
{
    return (e->in != NULL && e->in->arrived > 0) || e->fin_arrived || e->error != 0 || e->shut;
}

void io_poll(struct sock s, struct io_op *op)
{
    struct shard_private *p = sim_private();
    struct sim_socket *socket = sim_socket_of(p, s);

    sim_trace_shard(TRACE_POLL, s.slot, 0, 0);
    if (!socket->watched) {
        sim_op_look(sim_op_new(p, op, OP_POLL, socket));
        return;
    }
    socket->watched = false;
    if (socket->ops[OP_POLL] != NULL)
        sim_op_bind(socket->ops[OP_POLL], op);
    else
        (void)sim_op_new(p, op, OP_POLL, socket);
}

void io_watch_with(void (*fired)(uint32_t cookie, int32_t res))
{
    sim_private()->watch_fired = fired;
}

/* A watch that has looked and found nothing: whatever comes looks again. */
static void watch_rest(struct sim_op *o)
{
    if (o->op == NULL && !o->completed && !sim_event_armed(&o->event))
        sim_op_free(o);
}

void io_watch(struct sock s, uint32_t cookie)
{
    struct shard_private *p = sim_private();
    struct sim_socket *socket = sim_socket_of(p, s);
    struct sim_op *o = socket->ops[OP_POLL];

    ASSERT(p->watch_fired != NULL && !socket->listens && !socket->end->shut);
    sim_trace_shard(TRACE_POLL, s.slot, 1, cookie);
    socket->cookie = cookie;
    if (o == NULL && !socket->watched) {
        sim_op_look(sim_op_new(p, NULL, OP_POLL, socket));
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
    sim_op_free(o);
}

void sim_poll_look(struct sim_op *o)
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
    sim_op_complete(o, mask);
}

void io_recv(struct sock s, struct io_op *op)
{
    struct shard_private *p = sim_private();
    struct sim_socket *socket = sim_socket_of(p, s);

    ASSERT(!op->recv_owned);
    sim_trace_shard(TRACE_RECV, s.slot, 0, 0);
    op->data = slice_of(NULL, 0);
    sim_op_look(sim_op_new(p, op, OP_RECV, socket));
}

void io_recv_into(struct sock s, struct io_op *op, void *space, size_t size)
{
    struct shard_private *p = sim_private();
    struct sim_op *o = sim_op_new(p, op, OP_RECV, sim_socket_of(p, s));

    ASSERT(!op->recv_owned);
    o->space = space;
    o->total = size;
    sim_trace_shard(TRACE_RECV, s.slot, size, 0);
    op->data = slice_of(NULL, 0);
    sim_op_look(o);
}

/* A buffer for what has arrived, lent to the operation. */
static char *recv_lend(struct sim_op *o, size_t size)
{
    /* As large as its bytes: a sanitizer sees who reads past them. */
    struct recv_buffer *b = malloc(sizeof *b + size);
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

void sim_recv_look(struct sim_op *o)
{
    struct end *e = o->socket->end;
    struct sim_random *r = &o->p->node->world->random;
    char *bytes;
    size_t size;

    if (!end_readable(e))
        return;
    if (e->in == NULL || e->in->arrived == 0) {
        sim_op_complete(o, e->error);
        return;
    }
    if (o->space == NULL && (o->p->buffers_out == SIM_RECV_BUFFERS_MAX || sim_random_one_in(r, 4096))) {
        sim_op_complete(o, -ENOBUFS);
        return;
    }
    size = MIN(e->in->arrived, o->space != NULL ? o->total : SIM_RECV_SIZE);
    if (!sim_world_current()->smooth && sim_random_one_in(r, 16))
        size = sim_random_range(r, 1, size);
    bytes = o->space != NULL ? o->space : recv_lend(o, size);
    sim_pipe_copy_out(e->in, bytes, size);
    o->op->data = slice_of(bytes, size);
    if (!end_peer(e)->gone && !sim_event_armed(&e->in->room))
        sim_event_after(&e->in->room, sim_delay_to(e));
    sim_pipe_shrink(e->in);
    sim_op_complete(o, (int)size);
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

static void send_begin(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count,
                       bool quiet)
{
    struct shard_private *p = sim_private();
    struct sim_op *o = sim_op_new(p, op, OP_SEND, sim_socket_of(p, s));

    o->quiet = quiet;
    o->vector = vector;
    o->count = count;
    for (unsigned k = 0; k < count; k++)
        o->total += vector[k].iov_len;
    sim_trace_shard(TRACE_SEND, s.slot, o->total, quiet);
    sim_op_look(o);
}

void io_send(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count)
{
    send_begin(s, op, vector, count, false);
}

void io_send_quiet(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count)
{
    send_begin(s, op, vector, count, true);
}

void io_send_awaited(struct io_op *op)
{
    struct shard_private *p = sim_private();
    struct sim_op *o;

    if (!op->in_flight)
        return;
    o = p->ops[op->index];
    if (o->quiet && o->completed)
        sim_shard_wake(p);
    o->quiet = false;
}

void sim_send_look(struct sim_op *o)
{
    struct end *e = o->socket->end;
    size_t window = end_peer(e)->window, sent = 0;
    struct pipe *p;

    if (e->error != 0 || e->fin_sent) {
        sim_op_complete(o, e->error != 0 ? e->error : -EPIPE);
        return;
    }
    p = sim_pipe_of(end_peer(e));
    while (o->count > 0 && p->size < window) {
        size_t n = MIN(o->vector->iov_len - o->skip, window - p->size);

        sim_pipe_copy_in(p, (const char *)o->vector->iov_base + o->skip, n);
        sent += n;
        o->skip += n;
        if (o->skip == o->vector->iov_len) {
            o->vector++;
            o->count--;
            o->skip = 0;
        }
    }
    if (sent > 0)
        sim_pipe_segments(p, sent);
    if (o->count == 0)
        sim_op_complete(o, (int)o->total);
    else
        o->quiet = false;
}

void io_send_word(struct sock s, struct slice word)
{
    struct end *e = sim_socket_of(sim_private(), s)->end;
    struct pipe *p;

    ASSERT(word.size > 0 && word.size <= IO_WORD_MAX);
    sim_trace_shard(TRACE_SEND, s.slot, word.size, 0);
    if (e->error != 0 || e->fin_sent)
        return;
    p = sim_pipe_of(end_peer(e));
    if (end_peer(e)->window - MIN(p->size, end_peer(e)->window) < word.size) {
        io_shutdown(s);
        return;
    }
    sim_pipe_copy_in(p, word.data, word.size);
    sim_pipe_segments(p, word.size);
}

/* ---- Ending ------------------------------------------------------------------------------------------- */

void io_shutdown(struct sock s)
{
    struct sim_socket *socket = sim_socket_of(sim_private(), s);
    struct end *e;

    sim_trace_shard(TRACE_SHUTDOWN, s.slot, 0, 0);
    if (socket->listens) {
        socket->listener->shut = true;
        sim_listener_look(socket->listener);
        return;
    }
    e = socket->end;
    if (!e->fin_sent)
        sim_pipe_segment(sim_pipe_of(end_peer(e)), SEGMENT_FIN, 0);
    e->fin_sent = e->shut = true;
    sim_socket_look(e);
    sim_shard_wake(e->p); /* For a quiet send that is over. */
}

void io_close(struct sock s)
{
    struct shard_private *p = sim_private();
    struct sim_socket *socket = sim_socket_of(p, s);

    sim_trace_shard(TRACE_CLOSE, s.slot, 0, 0);
    if (socket->listens) {
        ASSERT(list_empty(&socket->listener->accepts));
        sim_listener_free(socket->listener, false);
    } else {
        watch_end(socket);
        sim_end_close(socket->end, false);
    }
    sim_socket_give(p, socket);
}

void sim_abort(struct sock s)
{
    struct sim_socket *socket = sim_socket_of(sim_private(), s);

    sim_trace_shard(TRACE_SHUTDOWN, s.slot, 1, 0);
    if (!socket->listens && socket->end->error == 0)
        sim_end_send_reset(socket->end);
}
