#include "tests/unit/net/fd_door.h"
#include "core/fiber.h"
#include "core/scheduler.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PENDING_MAX 64

enum kind { KIND_POLL, KIND_RECV, KIND_RECV_INTO, KIND_SEND };

struct pending {
    struct io_op *op; /* NULL: a watch. */
    uint32_t cookie;
    int fd;
    enum kind kind;
    bool cancelled;
    bool quiet; /* It is not told that all is out: */
    bool over;  /* it is. */
    const struct iovec *vector;
    unsigned count;
    size_t sent;
};

struct door_counts door_counts;
size_t door_recv_size = 4096;
unsigned door_refuse_recvs;
bool door_hold_reads;
bool door_hold_sends;

static struct pending pending[PENDING_MAX];
static unsigned pending_count, submit_count;
static bool shut[1024];
static uint64_t now_ms;
static uint32_t random_state;
static void (*watch_fired)(uint32_t cookie, int32_t res);
static struct node node;
static struct shard *shard;

uint64_t time_ns(void)
{
    return now_ms * 1000000;
}

int64_t time_wall(void)
{
    return 0;
}

int64_t time_wall_ms(void)
{
    return 0;
}

void random_bytes(void *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        random_state = random_state * 1664525 + 1013904223;
        ((uint8_t *)data)[i] = (uint8_t)(random_state >> 24);
    }
}

uint64_t random_u64(void)
{
    uint64_t v;

    random_bytes(&v, sizeof v);
    return v;
}

void door_shard_send(struct shard *to, struct shard_message *m)
{
    abort();
}

bool door_inbox_empty(struct shard *s)
{
    (void)s;
    return true;
}

int helper_call(void (*fn)(void *arg), void *arg)
{
    fn(arg);
    return 0;
}

/* ---- Sockets ------------------------------------------------------------------------------------------- */

static struct pending *submit(struct sock s, struct io_op *op, enum kind kind)
{
    struct pending *p = &pending[pending_count++];

    submit_count++;
    ASSERT(pending_count <= PENDING_MAX && (op == NULL || (op->done != NULL && !op->in_flight)));
    for (struct pending *q = pending; q < p; q++)
        ASSERT(q->fd != (int)s.slot || (q->kind == KIND_SEND) != (kind == KIND_SEND)); /* One of each. */
    *p = (struct pending){.op = op, .fd = (int)s.slot, .kind = kind};
    if (op != NULL)
        op->in_flight = true;
    return p;
}

static struct pending *poll_pending(struct sock s)
{
    for (unsigned i = 0; i < pending_count; i++) {
        if (pending[i].fd == (int)s.slot && pending[i].kind == KIND_POLL)
            return &pending[i];
    }
    return NULL;
}

void io_poll(struct sock s, struct io_op *op)
{
    struct pending *p = poll_pending(s);

    if (p == NULL) {
        door_counts.polls++;
        submit(s, op, KIND_POLL);
        return;
    }
    ASSERT(p->op == NULL);
    p->op = op;
    op->in_flight = true;
}

void io_watch_with(void (*fired)(uint32_t cookie, int32_t res))
{
    watch_fired = fired;
}

void io_watch(struct sock s, uint32_t cookie)
{
    struct pending *p = poll_pending(s);

    if (p == NULL) {
        door_counts.polls++;
        p = submit(s, NULL, KIND_POLL);
    } else if (p->op != NULL) {
        ASSERT(!p->cancelled);
        p->op->in_flight = false;
        p->op = NULL;
    }
    p->cookie = cookie;
}

void io_recv(struct sock s, struct io_op *op)
{
    door_counts.recvs++;
    submit(s, op, KIND_RECV);
}

void io_recv_into(struct sock s, struct io_op *op, void *space, size_t size)
{
    door_counts.recvs_into++;
    op->data = slice_of(space, size);
    submit(s, op, KIND_RECV_INTO);
}

void io_recv_release(struct io_op *op)
{
    ASSERT(op->recv_owned);
    op->recv_owned = false;
    free((void *)op->data.data);
    door_counts.loans--;
}

void io_send(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count)
{
    struct pending *p = submit(s, op, KIND_SEND);

    door_counts.sends++;
    p->vector = vector;
    p->count = count;
}

void io_send_quiet(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count)
{
    io_send(s, op, vector, count);
    pending[pending_count - 1].quiet = true;
    door_counts.quiet_sends++;
}

void io_send_awaited(struct io_op *op)
{
    for (unsigned i = 0; i < pending_count; i++) {
        if (pending[i].op != op || !pending[i].quiet)
            continue;
        pending[i].quiet = false;
        door_counts.awaited++;
        submit_count++;
    }
}

void io_cancel(struct io_op *op)
{
    door_counts.cancels++;
    submit_count++;
    for (unsigned i = 0; i < pending_count; i++) {
        if (pending[i].op == op)
            pending[i].cancelled = true;
    }
}

void io_shutdown(struct sock s)
{
    shut[s.slot] = true;
    shutdown((int)s.slot, SHUT_RDWR);
}

void io_close(struct sock s)
{
    struct pending *watch = poll_pending(s);

    if (watch != NULL && watch->op == NULL) {
        pending_count--;
        memmove(watch, watch + 1, (size_t)(&pending[pending_count] - watch) * sizeof *watch);
    }
    for (unsigned i = 0; i < pending_count; i++)
        ASSERT(pending[i].fd != (int)s.slot);
    shut[s.slot] = false;
    close((int)s.slot);
    door_counts.closes++;
}

struct sock door_take(int fd)
{
    ASSERT(fd >= 0 && fd < (int)ARRAY_COUNT(shut));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return (struct sock){.slot = (uint32_t)fd};
}

struct sock door_pair(int *peer_out)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        abort();
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
    *peer_out = fds[1];
    return door_take(fds[0]);
}

/* ---- Completions --------------------------------------------------------------------------------------- */

/* Each returns the result, or -EAGAIN. */
static int try_poll(struct pending *p)
{
    struct pollfd pfd = {.fd = p->fd, .events = POLLIN | POLLRDHUP};

    return poll(&pfd, 1, 0) > 0 ? pfd.revents : -EAGAIN;
}

static int try_recv(struct pending *p)
{
    char *buffer;
    ssize_t rc;

    if (door_refuse_recvs > 0) {
        door_refuse_recvs--;
        return -ENOBUFS;
    }
    buffer = malloc(door_recv_size);
    rc = recv(p->fd, buffer, door_recv_size, 0);
    if (rc <= 0) {
        free(buffer);
        return rc < 0 ? -errno : 0;
    }
    p->op->data = slice_of(buffer, (size_t)rc);
    p->op->recv_owned = true;
    door_counts.loans++;
    door_counts.loans_max = MAX(door_counts.loans_max, door_counts.loans);
    return (int)rc;
}

static int try_recv_into(struct pending *p)
{
    ssize_t rc = recv(p->fd, (void *)(uintptr_t)p->op->data.data, p->op->data.size, 0);

    if (rc < 0)
        return -errno;
    p->op->data = slice_first(p->op->data, (size_t)rc);
    return (int)rc;
}

static int try_send(struct pending *p)
{
    size_t total = 0;

    if (door_hold_sends && !shut[p->fd])
        return -EAGAIN;
    for (unsigned i = 0; i < p->count; i++) {
        size_t at = p->sent > total ? p->sent - total : 0;

        total += p->vector[i].iov_len;
        while (at < p->vector[i].iov_len) {
            ssize_t rc =
                send(p->fd, (char *)p->vector[i].iov_base + at, p->vector[i].iov_len - at, MSG_NOSIGNAL);

            if (rc < 0)
                return -errno;
            at += (size_t)rc;
            p->sent += (size_t)rc;
        }
    }
    return (int)total;
}

/* As late as it may be. */
static int try_quiet(struct pending *p)
{
    int rc = p->over ? (int)p->sent : try_send(p);

    if (rc == -EAGAIN)
        p->quiet = false;
    p->over = rc >= 0;
    return p->quiet && p->over && !p->cancelled ? -EAGAIN : rc;
}

static int try_one(struct pending *p)
{
    if (door_hold_reads && p->kind != KIND_SEND)
        return -EAGAIN;
    int rc = p->kind == KIND_POLL   ? try_poll(p)
             : p->kind == KIND_RECV ? try_recv(p)
             : p->kind == KIND_SEND ? try_quiet(p)
                                    : try_recv_into(p);

    return rc == -EAGAIN && p->cancelled ? -ECANCELED : rc;
}

static void tell(unsigned i, int rc)
{
    struct pending p = pending[i];

    memmove(&pending[i], &pending[i + 1], (pending_count - i - 1) * sizeof pending[0]);
    pending_count--;
    if (p.op == NULL) {
        watch_fired(p.cookie, rc);
        return;
    }
    p.op->res = rc;
    p.op->in_flight = false;
    p.op->done(p.op);
}

/* A receive has ended: what was sent on that socket before it was asked for is told first. */
static void tell_quiet(unsigned received, int rc)
{
    struct io_op *op = pending[received].op;
    int fd = pending[received].fd;

    for (unsigned i = 0; i < received; i++) {
        if (pending[i].fd == fd && pending[i].over) {
            tell(i, (int)pending[i].sent);
            break;
        }
    }
    for (received = 0; pending[received].op != op;)
        received++;
    tell(received, rc);
}

static bool complete_some(void)
{
    bool some = false;

    for (unsigned i = 0; i < pending_count;) {
        int rc = try_one(&pending[i]);

        if (rc == -EAGAIN) {
            i++;
            continue;
        }
        some = true;
        if (pending[i].kind == KIND_RECV || pending[i].kind == KIND_RECV_INTO)
            tell_quiet(i, rc);
        else
            tell(i, rc);
    }
    return some;
}

static bool wait_for_some(int wait_ms)
{
    struct pollfd fds[PENDING_MAX];

    for (unsigned i = 0; i < pending_count; i++)
        fds[i] = (struct pollfd){pending[i].over ? -1 : pending[i].fd,
                                 pending[i].kind == KIND_SEND ? POLLOUT : POLLIN, 0};
    return wait_ms > 0 && poll(fds, pending_count, wait_ms) > 0;
}

void door_settle(int wait_ms)
{
    do {
        bool more = true;

        for (unsigned turn = 0; more; turn++) {
            ASSERT(turn < 100000);
            unsigned submitted = submit_count;

            more = complete_some();
            more |= scheduler_turn(shard);
            more |= submit_count != submitted;
        }
    } while (wait_for_some(wait_ms));
}

void door_advance(uint32_t ms)
{
    for (uint32_t step = 0; step < ms; step += 10) {
        now_ms += 10;
        door_settle(0);
    }
}

unsigned door_in_flight(void)
{
    return pending_count;
}

void door_start(void)
{
    door_counts = (struct door_counts){0};
    door_recv_size = 4096;
    door_refuse_recvs = 0;
    door_hold_reads = door_hold_sends = false;
    now_ms = 1000;
    random_state = 1;
    shard = shard_create(&node, 0, 0);
    ASSERT(shard != NULL);
    scheduler_enter(shard);
}

void door_stop(void)
{
    ASSERT(pending_count == 0 && door_counts.loans == 0);
    scheduler_leave();
    shard_drop(shard);
}
