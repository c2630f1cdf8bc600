#include "core/node.h"
#include "core/uring/uring.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SEND_PIECES_MAX 1024 /* UIO_MAXIOV: of one writev. */

/* A vector on its way out. What was sent is skipped in place: the vector itself is the caller's and stays as
 * it is. */
struct send {
    const struct iovec *vector;
    unsigned count;
    size_t skip; /* Bytes of vector[0] that are out. */
    size_t sent;
};

/* ---- Addresses ----------------------------------------------------------------------------------------- */

static void from_sockaddr(const char space[32], struct net_addr *a)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;

    memset(a, 0, sizeof *a);
    memcpy(&v4, space, sizeof v4);
    memcpy(&v6, space, sizeof v6);
    a->family = (uint8_t)v4.sin_family;
    if (a->family == AF_UNIX)
        return;
    a->port = ntohs(v4.sin_port); /* In the same place for both. */
    if (a->family == AF_INET6)
        memcpy(a->ip, &v6.sin6_addr, 16);
    else
        memcpy(a->ip, &v4.sin_addr, 4);
}

/* ---- Beginning and ending operations ------------------------------------------------------------------- */

void op_submit_ignored(struct io_uring_sqe *sqe)
{
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = user_data_special(UD_IGNORE, 0);
}

void op_begin(struct shard_private *p, struct io_op *op, enum op_kind kind, struct ring *r, uint32_t slot)
{
    ASSERT(!op->in_flight && op->done != NULL);
    op->in_flight = true;
    op->index = op_new(&p->ops, op, kind, r->index, slot);
}

/* The submission for an operation that begins now. */
static struct io_uring_sqe *begin(struct shard_private *p, struct io_op *op, enum op_kind kind,
                                  struct ring *r, uint32_t slot)
{
    op_begin(p, op, kind, r, slot);
    return ring_sqe(p, r);
}

static void tag(struct shard_private *p, struct io_uring_sqe *sqe, uint32_t index)
{
    sqe->user_data = op_user_data(op_at(&p->ops, index), index);
}

void op_complete_later(struct shard_private *p, struct io_op *op, int res)
{
    struct io_uring_sqe *sqe = begin(p, op, OP_FAIL, p->rings[0], (uint32_t)res);

    io_uring_prep_nop(sqe);
    tag(p, sqe, op->index);
}

void op_finish(struct shard_private *p, struct io_op *op, int32_t res)
{
    op_free(&p->ops, op->index);
    op->in_flight = false;
    op->res = res;
    op->done(op);
}

struct ring *socket_ring(struct shard_private *p, struct sock s)
{
    ASSERT(s.ring < p->ring_count && s.slot < p->rings[s.ring]->slot_count);
    ASSERT(p->rings[s.ring]->slots[s.slot].generation == s.generation); /* Else it was closed. */
    return p->rings[s.ring];
}

void io_cancel(struct io_op *op)
{
    struct shard_private *p = door_self();
    struct io_uring_sqe *sqe;
    struct op *o;

    if (!op->in_flight)
        return;
    o = op_at(&p->ops, op->index);
    ASSERT(o->owner == op);
    if (o->cancelled || o->kind == OP_FAIL)
        return;
    o->cancelled = true;
    if (o->kind == OP_POLL) {
        poll_cancel(p, p->rings[o->ring], o->slot);
        return;
    }
    if (o->kind == OP_SEND_QUIET) { /* It is tried once, and soon. */
        quiet_await(p, o);
        return;
    }
    sqe = ring_sqe(p, p->rings[o->ring]);
    io_uring_prep_cancel64(sqe, op_user_data(o, op->index), 0);
    op_submit_ignored(sqe);
}

/* ---- Listening and accepting --------------------------------------------------------------------------- */

/* The one that the process was started with, or -1: it may have been given none. */
static int listener_given(const struct net_addr *addr)
{
    const struct process *process = door_self()->process;

    for (unsigned i = 0; i < process->listener_count; i++) {
        struct node_listener *l = &process->listeners[i];

        if (l->shard == shard_self()->index && !l->taken && l->addr.family == addr->family &&
            (addr->family == AF_UNIX || (l->addr.port == addr->port && net_addr_same_host(&l->addr, addr)))) {
            l->taken = true;
            return l->fd;
        }
    }
    return -1;
}

int io_listen(const struct net_addr *addr, struct sock *listener_out)
{
    int fd = listener_given(addr), rc;

    if (fd < 0)
        fd = node_bind(addr, true);
    if (fd < 0)
        return fd;
    rc = node_listen(fd);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    *listener_out = (struct sock){(uint32_t)fd, RING_LISTENER, 0};
    return 0;
}

int io_listen_unix(const char *path, struct sock *listener_out)
{
    static const struct net_addr any = {.family = AF_UNIX}; /* A process has at most one. */
    int fd = listener_given(&any);

    if (fd < 0)
        fd = node_listen_unix(door_self()->process->data_fd, path);
    if (fd < 0)
        return fd;
    *listener_out = (struct sock){(uint32_t)fd, RING_LISTENER, 0};
    return 0;
}

int io_listen_port(struct sock listener, uint16_t *port_out)
{
    char space[32] = {0};
    socklen_t size = sizeof space;
    struct net_addr addr;

    ASSERT(listener.ring == RING_LISTENER);
    if (getsockname((int)listener.slot, (struct sockaddr *)(void *)space, &size) < 0)
        return -errno;
    from_sockaddr(space, &addr);
    *port_out = addr.port;
    return 0;
}

void io_accept(struct sock listener, struct io_accept *a)
{
    struct shard_private *p = door_self();
    struct io_uring_sqe *sqe;
    struct ring *r;

    ASSERT(listener.ring == RING_LISTENER);
    a->sock = SOCK_NONE;
    r = ring_for_socket(p);
    if (r == NULL) {
        op_complete_later(p, &a->op, -ENFILE);
        return;
    }
    sqe = begin(p, &a->op, OP_ACCEPT, r, 0);
    a->address_size = sizeof a->address_space;
    io_uring_prep_accept_direct(sqe, (int)listener.slot, (struct sockaddr *)(void *)a->address_space,
                                &a->address_size, 0, URING_SLOT_ANY);
    tag(p, sqe, a->op.index);
}

struct sock sock_new(struct ring *r, uint32_t slot)
{
    struct slot *s = &r->slots[slot];

    ASSERT(slot < r->slot_count);
    *s = (struct slot){.generation = s->generation};
    return (struct sock){slot, r->index, s->generation};
}

static void accept_completed(struct shard_private *p, struct io_accept *a, struct ring *r, int32_t res)
{
    if (res < 0) {
        ring_socket_gone(p, r);
    } else {
        a->sock = sock_new(r, (uint32_t)res);
        from_sockaddr(a->address_space, &a->peer);
    }
    op_finish(p, &a->op, MIN(res, 0));
}

/* ---- Connecting: a socket goes into the table, then is connected; two submissions, one operation ------- */

static void close_slot(struct shard_private *p, struct ring *r, uint32_t slot)
{
    struct io_uring_sqe *sqe;

    poll_cancel(p, r, slot);
    sqe = ring_sqe(p, r);
    io_uring_prep_close_direct(sqe, slot);
    op_submit_ignored(sqe);
    r->slots[slot].generation++;
    ring_socket_gone(p, r);
}

/* By system calls: a sandbox looks at their arguments, which it cannot do with a ring's operations. */
static int connect_socket(sa_family_t family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    (void)socket_options(fd);
    return fd;
}

void io_connect(struct io_connect *c)
{
    struct shard_private *p = door_self();
    struct ring *r = ring_for_socket(p);
    struct io_uring_sqe *sqe;

    c->sock = SOCK_NONE;
    if (r == NULL) {
        op_complete_later(p, &c->op, -ENFILE);
        return;
    }
    c->fd = connect_socket(c->peer.family);
    if (c->fd < 0) {
        ring_socket_gone(p, r);
        op_complete_later(p, &c->op, c->fd);
        return;
    }
    c->slot = c->fd; /* The kernel writes the slot's number there. */
    sqe = begin(p, &c->op, OP_CONNECT_SOCKET, r, 0);
    io_uring_prep_files_update(sqe, &c->slot, 1, (int)IORING_FILE_INDEX_ALLOC);
    tag(p, sqe, c->op.index);
}

static void connect_socket_placed(struct shard_private *p, struct io_connect *c, struct op *o, int32_t res)
{
    struct ring *r = p->rings[o->ring];
    struct io_uring_sqe *sqe;
    socklen_t size;

    close(c->fd);
    if (res < 0) {
        ring_socket_gone(p, r);
        op_finish(p, &c->op, res);
        return;
    }
    c->sock = sock_new(r, (uint32_t)c->slot);
    if (o->cancelled) {
        close_slot(p, r, c->sock.slot);
        c->sock = SOCK_NONE;
        op_finish(p, &c->op, -ECANCELED);
        return;
    }
    o->kind = OP_CONNECT;
    o->slot = c->sock.slot;
    sqe = ring_sqe(p, r);
    size = net_addr_to_sockaddr(&c->peer, c->address_space);
    io_uring_prep_connect(sqe, (int)o->slot, (struct sockaddr *)(void *)c->address_space, size);
    sqe->flags |= IOSQE_FIXED_FILE;
    tag(p, sqe, c->op.index);
}

static void connect_completed(struct shard_private *p, struct io_connect *c, struct op *o, int32_t res)
{
    if (res < 0) {
        close_slot(p, p->rings[o->ring], o->slot);
        c->sock = SOCK_NONE;
    }
    op_finish(p, &c->op, res);
}

/* ---- Receiving ----------------------------------------------------------------------------------------- */

/* Where nothing is expected yet, trying first would be a wasted call into TCP. */
static void recv_flags(struct shard_private *p, const struct ring *r, struct io_uring_sqe *sqe, uint32_t slot,
                       uint32_t index)
{
    struct op *o = op_at(&p->ops, index);

    sqe->flags |= IOSQE_FIXED_FILE;
    o->proves = false;
    if (r->slots[slot].readable)
        return;
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    if (r->index == 0)
        quiet_prove(p, o);
}

static void recv_submit(struct shard_private *p, struct ring *r, struct io_uring_sqe *sqe, uint32_t slot,
                        uint32_t index)
{
    io_uring_prep_recv(sqe, (int)slot, NULL, 0, 0);
    recv_flags(p, r, sqe, slot, index);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = RECV_GROUP;
    tag(p, sqe, index);
}

void io_recv(struct sock s, struct io_op *op)
{
    struct shard_private *p = door_self();
    struct ring *r = socket_ring(p, s);
    struct io_uring_sqe *sqe;

    ASSERT(!op->recv_owned);
    if (r->slots[s.slot].shut) {
        op_complete_later(p, op, -ECANCELED);
        return;
    }
    sqe = begin(p, op, OP_RECV, r, s.slot);
    recv_submit(p, r, sqe, s.slot, op->index);
}

void io_recv_into(struct sock s, struct io_op *op, void *space, size_t size)
{
    struct shard_private *p = door_self();
    struct ring *r = socket_ring(p, s);
    struct io_uring_sqe *sqe;

    ASSERT(!op->recv_owned);
    if (r->slots[s.slot].shut) {
        op_complete_later(p, op, -ECANCELED);
        return;
    }
    op->data = slice_of(space, size);
    sqe = begin(p, op, OP_RECV_INTO, r, s.slot);
    io_uring_prep_recv(sqe, (int)s.slot, space, size, 0);
    recv_flags(p, r, sqe, s.slot, op->index);
    tag(p, sqe, op->index);
}

static void recv_into_completed(struct shard_private *p, struct io_op *op, struct op *o, int32_t res,
                                uint32_t flags)
{
    p->rings[o->ring]->slots[o->slot].readable = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
    op->data = slice_first(op->data, (size_t)MAX(res, 0));
    op_finish(p, op, res);
}

void io_recv_release(struct io_op *op)
{
    struct shard_private *p = door_self();

    if (!op->recv_owned)
        return;
    op->recv_owned = false;
    op->data = slice_of(NULL, 0);
    ASSERT(p->free_buffer_count < RECV_BUFFER_COUNT);
    p->free_buffers[p->free_buffer_count++] = op->recv_buffer;
}

static void recv_completed(struct shard_private *p, struct io_op *op, struct op *o, int32_t res,
                           uint32_t flags)
{
    struct ring *r = p->rings[o->ring];
    struct slot *slot = &r->slots[o->slot];

    slot->readable = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
    if (flags & IORING_CQE_F_BUFFER) {
        ASSERT(r->lent_count > 0);
        r->lent_count--;
        op->recv_owned = true;
        op->recv_buffer = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
        ASSERT(op->recv_buffer < RECV_BUFFER_COUNT);
    }
    if (res > 0) {
        ASSERT(op->recv_owned);
        op->data = slice_of(buffer_at(p, op->recv_buffer), (size_t)res);
    } else {
        io_recv_release(op);
    }
    if (res == -ENOBUFS && !o->cancelled && !slot->shut && buffers_lend(p, r) > 0) {
        slot->readable = true; /* More was ready in this turn than the ring had been lent. */
        recv_submit(p, r, ring_sqe(p, r), o->slot, op->index);
        return;
    }
    op_finish(p, op, res);
}

/* ---- Sending ------------------------------------------------------------------------------------------- *
 * By writes, which have no flags and no address: sends are no operation of a restricted ring (ring.c). What SIGPIPE would say is
 * in the result, and node_run() has it ignored. */

static void send_piece(struct shard_private *p, struct io_uring_sqe *sqe, uint32_t slot, struct slice piece,
                       uint32_t index)
{
    io_uring_prep_write(sqe, (int)slot, piece.data, (unsigned)MIN(piece.size, (size_t)INT32_MAX), 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    tag(p, sqe, index);
}

/* What is left: the rest of a piece alone, or all that is whole. */
static void send_vector(struct shard_private *p, struct io_uring_sqe *sqe, uint32_t slot, struct send *send,
                        uint32_t index)
{
    if (send->skip > 0 || send->count == 1) {
        send_piece(p, sqe, slot,
                   slice_from(slice_of(send->vector->iov_base, send->vector->iov_len), send->skip), index);
        return;
    }
    io_uring_prep_writev(sqe, (int)slot, send->vector, MIN(send->count, (unsigned)SEND_PIECES_MAX), 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    tag(p, sqe, index);
}

/* Accounts for `size` bytes that are out. True: that was all. */
static bool send_advance(struct send *send, size_t size)
{
    send->sent += size;
    send->skip += size;
    while (send->count > 0 && send->skip >= send->vector->iov_len) {
        send->skip -= send->vector->iov_len;
        send->vector++;
        send->count--;
    }
    return send->count == 0;
}

void io_send(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count)
{
    struct shard_private *p = door_self();
    struct ring *r = socket_ring(p, s);
    struct io_uring_sqe *sqe;
    struct send *send;

    while (count > 0 && vector->iov_len == 0)
        vector++, count--;
    if (r->slots[s.slot].shut || count == 0) {
        op_complete_later(p, op, count == 0 ? 0 : -ECANCELED);
        return;
    }
    if (count == 1) {
        op->data = slice_of(vector->iov_base, vector->iov_len);
        op->res = 0; /* Bytes sent so far. */
        sqe = begin(p, op, OP_SEND, r, s.slot);
        send_piece(p, sqe, s.slot, op->data, op->index);
        return;
    }
    send = heap_alloc(p->shard->heap, sizeof *send);
    *send = (struct send){.vector = vector, .count = count};
    op->data = slice_of((const char *)send, 0);
    sqe = begin(p, op, OP_SENDV, r, s.slot);
    send_vector(p, sqe, s.slot, send, op->index);
}

void io_send_quiet(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count)
{
    if (count != 1 || vector->iov_len == 0 ||
        !quiet_send(door_self(), s, op, slice_of(vector->iov_base, vector->iov_len)))
        io_send(s, op, vector, count);
}

static bool send_goes_on(struct shard_private *p, const struct op *o, int32_t *res)
{
    if (*res < 0)
        return false;
    if (*res == 0) /* Nothing went out of something: the peer is gone. */
        *res = -EPIPE;
    else if (o->cancelled || p->rings[o->ring]->slots[o->slot].shut)
        *res = -ECANCELED;
    return *res >= 0;
}

static void send_completed(struct shard_private *p, struct io_op *op, struct op *o, int32_t res)
{
    struct ring *r = p->rings[o->ring];

    if (res > 0 && (size_t)res == op->data.size) {
        res += op->res;
    } else if (send_goes_on(p, o, &res)) {
        op->res += res;
        op->data = slice_from(op->data, (size_t)res);
        send_piece(p, ring_sqe(p, r), o->slot, op->data, op->index);
        return;
    }
    op->data = slice_of(NULL, 0);
    op_finish(p, op, res);
}

/* Not all of it went out at once: on like any other. */
static void send_quiet_completed(struct shard_private *p, struct io_op *op, struct op *o, int32_t res)
{
    o->kind = OP_SEND;
    if ((res == -EAGAIN || res == -EOPNOTSUPP) && !o->cancelled && !p->rings[o->ring]->slots[o->slot].shut)
        send_piece(p, ring_sqe(p, p->rings[o->ring]), o->slot, op->data, op->index);
    else
        send_completed(p, op, o, res);
}

static void sendv_completed(struct shard_private *p, struct io_op *op, struct op *o, int32_t res)
{
    struct send *send = (struct send *)(uintptr_t)op->data.data;
    struct ring *r = p->rings[o->ring];

    if (res > 0 && send_advance(send, (size_t)res)) {
        res = (int32_t)MIN(send->sent, (size_t)INT32_MAX);
    } else if (send_goes_on(p, o, &res)) {
        send_vector(p, ring_sqe(p, r), o->slot, send, op->index);
        return;
    }
    op->data = slice_of(NULL, 0);
    heap_free(p->shard->heap, send);
    op_finish(p, op, res);
}

/* ---- The end ------------------------------------------------------------------------------------------- */

static void cancel_all(struct shard_private *p, struct ring *r, int fd, unsigned flags)
{
    struct io_uring_sqe *sqe = ring_sqe(p, r);

    io_uring_prep_cancel_fd(sqe, fd, flags | IORING_ASYNC_CANCEL_ALL);
    op_submit_ignored(sqe);
}

/* The kernel's own IORING_OP_SHUTDOWN always goes through a worker thread. What its callers need is that
 * nothing stays in flight; the peer sees the end at the io_close() that follows. */
void io_shutdown(struct sock s)
{
    struct shard_private *p = door_self();
    struct ring *r;

    if (s.ring == RING_LISTENER) {
        for (unsigned i = 0; i < p->ring_count; i++)
            cancel_all(p, p->rings[i], (int)s.slot, 0);
        return;
    }
    r = socket_ring(p, s);
    if (r->slots[s.slot].shut)
        return;
    r->slots[s.slot].shut = true;
    cancel_all(p, r, (int)s.slot, IORING_ASYNC_CANCEL_FD_FIXED);
    if (p->quiet_count > 0)
        quiet_ask(p);
}

void io_close(struct sock s)
{
    struct shard_private *p = door_self();

    if (s.ring == RING_LISTENER)
        close((int)s.slot);
    else
        close_slot(p, socket_ring(p, s), s.slot);
}

void socket_completed(struct shard_private *p, uint32_t index, int32_t res, uint32_t flags)
{
    struct op *o = op_at(&p->ops, index);
    struct io_op *op = o->owner;

    switch ((enum op_kind)o->kind) {
    case OP_ACCEPT:
        accept_completed(p, CONTAINER_OF(op, struct io_accept, op), p->rings[o->ring], res);
        return;
    case OP_CONNECT_SOCKET:
        connect_socket_placed(p, CONTAINER_OF(op, struct io_connect, op), o, res);
        return;
    case OP_CONNECT:
        connect_completed(p, CONTAINER_OF(op, struct io_connect, op), o, res);
        return;
    case OP_RECV:
        recv_completed(p, op, o, res, flags);
        return;
    case OP_RECV_INTO:
        recv_into_completed(p, op, o, res, flags);
        return;
    case OP_SEND:
        send_completed(p, op, o, res);
        return;
    case OP_SEND_QUIET:
        send_quiet_completed(p, op, o, res);
        return;
    case OP_SENDV:
        sendv_completed(p, op, o, res);
        return;
    case OP_FAIL:
        op_finish(p, op, (int32_t)o->slot);
        return;
    case OP_FREE:
    case OP_FILE:
    case OP_PASS:
    case OP_WORD:
    case OP_POLL:
        break;
    }
    ASSERT(!"a completion of no socket operation");
}
