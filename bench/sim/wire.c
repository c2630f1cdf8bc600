/* bench/sim/wire.c -- a connection as a fiber of a client sees it. */
#include "bench/sim/sessions.h"
#include "core/fiber.h"
#include <errno.h>

static void recv_done(struct io_op *op)
{
    fiber_wake(CONTAINER_OF(op, struct wire, recv)->fiber, 0);
}

static void send_done(struct io_op *op)
{
    fiber_wake(CONTAINER_OF(op, struct wire, send)->fiber, 0);
}

struct connecting { /* On the fiber's stack. */
    struct io_connect connect;
    struct fiber *fiber;
};

static void connect_done(struct io_op *op)
{
    fiber_wake(CONTAINER_OF(op, struct connecting, connect.op)->fiber, 0);
}

int wire_connect(struct wire *w, const struct net_addr *to)
{
    struct connecting c = {.connect = {.op.done = connect_done, .peer = *to}, .fiber = fiber_self()};

    w->fiber = fiber_self();
    w->recv = (struct io_op){.done = recv_done};
    w->send = (struct io_op){.done = send_done};
    w->size = 0;
    io_connect(&c.connect);
    (void)fiber_suspend(); /* Nobody cancels a client. */
    w->sock = c.connect.sock;
    return c.connect.op.res;
}

int wire_send(struct wire *w, struct slice bytes)
{
    struct iovec vector = {(void *)(uintptr_t)bytes.data, bytes.size};

    io_send(w->sock, &w->send, &vector, 1);
    (void)fiber_suspend();
    return w->send.res < 0 ? w->send.res : 0;
}

int wire_receive(struct wire *w)
{
    if (w->size == sizeof w->data)
        return -EMSGSIZE;
    io_recv_into(w->sock, &w->recv, w->data + w->size, sizeof w->data - w->size);
    (void)fiber_suspend();
    if (w->recv.res <= 0)
        return w->recv.res < 0 ? w->recv.res : -ECONNRESET;
    w->size += (size_t)w->recv.res;
    return 0;
}

void wire_close(struct wire *w)
{
    if (sock_valid(w->sock))
        io_close(w->sock);
    w->sock = SOCK_NONE;
}
