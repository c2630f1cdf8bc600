#include "tests/sim/talk.h"
#include "core/heap.h"
#include "core/sim/sim.h"
#include <errno.h>
#include <stdio.h>

#define SHOWN_SIZE_MAX 160
#define STEP_MS        1000 /* How often somebody who waits looks whether there is still somebody to wait for. */

bool talk_shown;

static void show(const struct talk *s, char direction, struct slice text)
{
    uint64_t now_ns = sim_now_ns(sim_world_of(shard_self()));

    if (talk_shown)
        fprintf(stderr, "%llu.%06llu %s/%u.%u %c %.*s\n", (unsigned long long)(now_ns / SIM_S),
                (unsigned long long)(now_ns % SIM_S / 1000), fiber_name(fiber_self()), s->sock.slot,
                s->sock.generation, direction, (int)MIN(slice_find(text, '\n'), SHOWN_SIZE_MAX), text.data);
}

static void op_done(struct io_op *op, struct talk *s)
{
    if (s->waiting == op)
        fiber_wake(s->fiber, 0);
}

static void recv_done(struct io_op *op)
{
    op_done(op, CONTAINER_OF(op, struct talk, recv));
}

static void send_done(struct io_op *op)
{
    op_done(op, CONTAINER_OF(op, struct talk, send));
}

static void timer_fire(struct timer *t)
{
    struct talk *s = CONTAINER_OF(t, struct talk, timer);

    s->waited_ms += STEP_MS;
    if (s->waited_ms < s->limit_ms && (s->peer_gone == NULL || !s->peer_gone(s))) {
        timer_set(t, MIN(s->limit_ms - s->waited_ms, STEP_MS));
        return;
    }
    s->timed_out = true;
    io_cancel(s->waiting);
}

void talk_init(struct talk *s, uint32_t timeout_ms)
{
    memset(s, 0, sizeof *s);
    s->sock = SOCK_NONE;
    s->timeout_ms = timeout_ms;
    s->recv.done = recv_done;
    s->send.done = send_done;
    timer_init(&s->timer, timer_fire);
}

/* An operation was submitted: waits for it. Its result, or -ETIMEDOUT. */
static int await(struct talk *s, struct io_op *op, uint32_t timeout_ms)
{
    s->fiber = fiber_self();
    s->waiting = op;
    s->timed_out = false;
    s->waited_ms = 0;
    s->limit_ms = timeout_ms;
    if (timeout_ms > 0)
        timer_set(&s->timer, MIN(timeout_ms, STEP_MS));
    (void)fiber_suspend(); /* Nobody cancels a virtual client. */
    timer_cancel(&s->timer);
    s->waiting = NULL;
    return op->res == -ECANCELED && s->timed_out ? -ETIMEDOUT : op->res;
}

struct connecting { /* On the fiber's stack. */
    struct io_connect connect;
    struct talk *talk;
};

static void connect_done(struct io_op *op)
{
    op_done(op, CONTAINER_OF(op, struct connecting, connect.op)->talk);
}

int talk_connect(struct talk *s, const struct net_addr *to)
{
    struct connecting c = {.connect.op.done = connect_done, .connect.peer = *to, .talk = s};
    int rc;

    ASSERT(!sock_valid(s->sock));
    s->at = s->size = 0;
    io_connect(&c.connect);
    rc = await(s, &c.connect.op, s->timeout_ms);
    if (rc == 0)
        s->sock = c.connect.sock;
    return rc;
}

int talk_send(struct talk *s, struct slice bytes)
{
    struct iovec vector = {(void *)(uintptr_t)bytes.data, bytes.size};
    int rc;

    show(s, '>', bytes);
    io_send(s->sock, &s->send, &vector, 1);
    rc = await(s, &s->send, s->timeout_ms);
    return rc < 0 ? rc : 0;
}

static int keep(struct talk *s, struct slice bytes)
{
    if (s->at > 0) {
        memmove(s->data, s->data + s->at, s->size - s->at);
        s->size -= s->at;
        s->at = 0;
    }
    if (s->size + bytes.size > TALK_SIZE_MAX)
        return -EMSGSIZE;
    if (s->size + bytes.size > s->capacity) {
        size_t capacity = MAX(s->capacity * 2, s->size + bytes.size + 1024);
        char *data = heap_try_realloc(shard_self()->heap, s->data, capacity);

        if (data == NULL)
            return -ENOMEM;
        s->data = data;
        s->capacity = capacity;
    }
    memcpy(s->data + s->size, bytes.data, bytes.size);
    s->size += bytes.size;
    return 0;
}

static int fill(struct talk *s, uint32_t timeout_ms)
{
    int rc;

    do {
        io_recv(s->sock, &s->recv);
        rc = await(s, &s->recv, timeout_ms);
    } while (rc == -ENOBUFS && fiber_sleep_ms(1) == 0);
    if (rc == 0)
        return -ECONNRESET;
    if (rc < 0)
        return rc;
    s->heard_ns = sim_now_ns(sim_world_of(shard_self()));
    rc = keep(s, s->recv.data);
    io_recv_release(&s->recv);
    return rc;
}

int talk_line(struct talk *s, struct slice *line_out)
{
    size_t scanned = 0;

    for (;;) {
        struct slice have = s->size > 0 ? slice_of(s->data + s->at, s->size - s->at) : SLICE("");
        size_t end = have.size > scanned ? scanned + slice_find(slice_from(have, scanned), '\n') : have.size;
        int rc;

        if (end < have.size) {
            *line_out = slice_first(have, end > 0 && have.data[end - 1] == '\r' ? end - 1 : end);
            s->at += end + 1;
            show(s, '<', *line_out);
            return 0;
        }
        scanned = have.size;
        rc = fill(s, s->timeout_ms);
        if (rc < 0)
            return rc;
    }
}

int talk_bytes(struct talk *s, size_t size, struct slice *bytes_out)
{
    while (s->size - s->at < size) {
        int rc = fill(s, s->timeout_ms);

        if (rc < 0)
            return rc;
    }
    *bytes_out = slice_of(s->data + s->at, size);
    s->at += size;
    return 0;
}

int talk_wait(struct talk *s, uint32_t timeout_ms)
{
    return s->at < s->size ? 0 : fill(s, timeout_ms);
}

void talk_close(struct talk *s)
{
    if (sock_valid(s->sock))
        io_close(s->sock);
    s->sock = SOCK_NONE;
    heap_free(shard_self()->heap, s->data);
    s->data = NULL;
    s->at = s->size = s->capacity = 0;
}

void talk_abort(struct talk *s)
{
    if (sock_valid(s->sock)) {
        show(s, '!', SLICE("abort"));
        sim_abort(s->sock);
    }
    talk_close(s);
}
