#include "net/listener.h"
#include "core/fiber.h"
#include "core/log.h"
#include <errno.h>

#define RETRY_MS      200  /* Out of slots: sessions end meanwhile, and the backlog waits in the kernel. */
#define LOOK_FIRST_MS 100  /* Then twice as long, */
#define LOOK_LAST_MS  6400 /* and no more. */

static void accept_done(struct io_op *op)
{
    struct listener_accept *a = CONTAINER_OF(op, struct listener_accept, accept.op);
    struct listener *l = a->listener;
    struct sock sock = a->accept.sock;
    struct net_addr peer = a->accept.peer;

    if (l->stopping) {
        if (op->res >= 0)
            io_close(sock);
        return;
    }
    if (l->holding) {
        a->idle = true;
        if (op->res >= 0)
            l->accepted(l, sock, &peer);
        return;
    }
    /* -ECANCELED: looked, or held and gone on before that had come to its end. */
    if (op->res < 0 && op->res != -ECONNABORTED && op->res != -EINTR && op->res != -ECANCELED) {
        a->idle = true;
        if (!timer_armed(&l->retry)) {
            log_event(LOG_WARN, "accept failed", "error=%s retry_ms=%d hint=raise_LimitNOFILE",
                      log_error(op->res), RETRY_MS);
            timer_set(&l->retry, RETRY_MS);
        }
        return;
    }
    io_accept(l->sock, &a->accept);
    if (op->res < 0)
        return;
    l->accepted(l, sock, &peer);
}

static void idle_begin(struct listener *l)
{
    for (unsigned i = 0; i < LISTENER_ACCEPTS; i++) {
        if (l->accepts[i].idle) {
            l->accepts[i].idle = false;
            io_accept(l->sock, &l->accepts[i].accept);
        }
    }
}

static void on_retry(struct timer *t)
{
    idle_begin(CONTAINER_OF(t, struct listener, retry));
}

/* One accept that begins anew takes whoever is there, and the next one behind him. */
static void on_look(struct timer *t)
{
    struct listener *l = CONTAINER_OF(t, struct listener, look);

    if (l->accepts[0].accept.op.in_flight)
        io_cancel(&l->accepts[0].accept.op);
    l->look_ms *= 2;
    if (l->look_ms <= LOOK_LAST_MS)
        timer_set(&l->look, l->look_ms);
}

void listener_hold(struct listener *l)
{
    l->holding = true;
    timer_cancel(&l->retry);
    timer_cancel(&l->look);
    for (unsigned i = 0; i < LISTENER_ACCEPTS; i++) {
        if (l->accepts[i].accept.op.in_flight)
            io_cancel(&l->accepts[i].accept.op);
    }
}

bool listener_held(const struct listener *l)
{
    for (unsigned i = 0; i < LISTENER_ACCEPTS; i++) {
        if (l->accepts[i].accept.op.in_flight)
            return false;
    }
    return true;
}

void listener_go_on(struct listener *l)
{
    l->holding = false;
    idle_begin(l);
}

static void accepts_begin(struct listener *l)
{
    timer_init(&l->retry, on_retry);
    timer_init(&l->look, on_look);
    l->look_ms = LOOK_FIRST_MS;
    timer_set(&l->look, l->look_ms);
    for (unsigned i = 0; i < LISTENER_ACCEPTS; i++) {
        l->accepts[i].listener = l;
        l->accepts[i].accept.op.done = accept_done;
        io_accept(l->sock, &l->accepts[i].accept);
    }
}

int listener_start(struct listener *l, const struct net_addr *addr)
{
    int rc = io_listen(addr, &l->sock);

    if (rc < 0)
        return rc;
    l->addr = *addr;
    accepts_begin(l);
    return 0;
}

int listener_start_unix(struct listener *l, const char *path)
{
    int rc = io_listen_unix(path, &l->sock);

    if (rc == 0)
        accepts_begin(l);
    return rc;
}

void listener_stop(struct listener *l)
{
    l->stopping = true;
    timer_cancel(&l->retry);
    timer_cancel(&l->look);
    for (unsigned i = 0; i < LISTENER_ACCEPTS; i++) {
        if (l->accepts[i].accept.op.in_flight)
            io_cancel(&l->accepts[i].accept.op);
    }
}

void listener_wait(struct listener *l)
{
    for (unsigned i = 0; i < LISTENER_ACCEPTS; i++) {
        while (l->accepts[i].accept.op.in_flight) {
            if (fiber_sleep_ms(1) < 0)
                return;
        }
    }
    io_close(l->sock);
}
