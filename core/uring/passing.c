/* Sockets on their way between processes. Direct descriptors cannot travel: each is installed as a plain one for a moment, sent by
 * SCM_RIGHTS, and goes into a table again on the other side. (IORING_MSG_SEND_FD would save that, but needs the receiver's ring, whose
 * descriptor a process that may not be traced cannot be asked for, nor sent.) */
#include "core/fiber.h"
#include "core/uring/uring.h"
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

struct pass_wait { /* On the fiber's stack. */
    struct fiber *fiber;
    unsigned pending;
    int32_t res[PASS_SOCKETS_MAX];
};

union pass_control {
    struct cmsghdr head; /* For its alignment. */
    char space[CMSG_SPACE(PASS_SOCKETS_MAX * sizeof(int))];
};

static void pass_begin(struct shard_private *p, struct pass_wait *w, struct ring *r, struct io_uring_sqe *sqe,
                       unsigned step)
{
    uint32_t index = op_new(&p->ops, w, OP_PASS, r->index, step);

    sqe->user_data = op_user_data(op_at(&p->ops, index), index);
    w->pending++;
}

void pass_completed(struct shard_private *p, uint32_t index, int32_t res)
{
    const struct op *o = op_at(&p->ops, index);
    struct pass_wait *w = o->owner;

    w->res[o->slot] = res;
    op_free(&p->ops, index);
    if (--w->pending == 0)
        fiber_wake(w->fiber, 0);
}

/* Not cancelled half-way: the kernel writes into this stack. */
static void pass_wait(struct pass_wait *w)
{
    if (w->pending == 0)
        return;
    w->fiber = fiber_self();
    ASSERT(w->fiber != NULL);
    fiber_mask();
    (void)fiber_suspend();
    fiber_unmask();
}

/* Or until nobody is at the other end. */
static int wait_for(struct shard_private *p, int fd, unsigned events)
{
    struct io_uring_sqe *sqe = ring_sqe(p, p->rings[0]);
    struct pass_wait w = {.pending = 0};

    io_uring_prep_poll_add(sqe, fd, events);
    pass_begin(p, &w, p->rings[0], sqe, 0);
    pass_wait(&w);
    return MIN(w.res[0], 0);
}

static void close_all(const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
}

/* ---- Sending ------------------------------------------------------------------------------------------- */

/* Plain descriptors of all, or -errno and none. */
static int install(struct shard_private *p, const struct sock *socks, unsigned count, int *fds)
{
    struct pass_wait w = {.pending = 0};
    unsigned good = 0;
    int rc = 0;

    for (unsigned i = 0; i < count; i++) {
        struct ring *r = socket_ring(p, socks[i]);
        struct io_uring_sqe *sqe = ring_sqe(p, r);

        uring_prep_fixed_fd_install(sqe, (int)socks[i].slot);
        pass_begin(p, &w, r, sqe, i);
    }
    pass_wait(&w);
    for (unsigned i = 0; i < count; i++) {
        if (w.res[i] >= 0)
            fds[good++] = w.res[i];
        else
            rc = w.res[i];
    }
    if (rc < 0)
        close_all(fds, good);
    return rc;
}

/* By a system call: a ring's would take flags and addresses that nobody looks at (core/sandbox.h). All of it or nothing. */
static int send_when_there_is_room(struct shard_private *p, int fd, const struct msghdr *header)
{
    while (sendmsg(fd, header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        int rc = errno == EAGAIN ? wait_for(p, fd, POLLOUT) : errno == EINTR ? 0 : -errno;

        if (rc < 0)
            return rc;
    }
    return 0;
}

int pass_send(int fd, struct slice message, const struct sock *socks, unsigned count)
{
    struct shard_private *p = door_self();
    struct iovec vector = {(void *)(uintptr_t)message.data, message.size};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
    union pass_control control;
    int fds[PASS_SOCKETS_MAX], rc;

    ASSERT(count <= PASS_SOCKETS_MAX && message.size > 0 && message.size <= PASS_SIZE_MAX);
    rc = install(p, socks, count, fds);
    if (rc < 0)
        return rc;
    memset(&control, 0, sizeof control);
    if (count > 0) {
        control.head = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(count * sizeof *fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof *fds);
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(count * sizeof *fds);
    }
    rc = send_when_there_is_room(p, fd, &header);
    close_all(fds, count);
    return rc;
}

/* ---- Receiving ----------------------------------------------------------------------------------------- */

/* Into tables: all of them, or none; the plain descriptors are closed. */
static int place(struct shard_private *p, const int *fds, unsigned count, struct sock *socks)
{
    struct pass_wait w = {.pending = 0};
    struct ring *rings[PASS_SOCKETS_MAX];
    int slots[PASS_SOCKETS_MAX], rc = 0;

    for (unsigned i = 0; i < count; i++) {
        struct io_uring_sqe *sqe;

        rings[i] = ring_for_socket(p);
        if (rings[i] == NULL) {
            w.res[i] = -ENFILE;
            continue;
        }
        slots[i] = fds[i]; /* The kernel writes the slot's number there. */
        sqe = ring_sqe(p, rings[i]);
        io_uring_prep_files_update(sqe, &slots[i], 1, (int)IORING_FILE_INDEX_ALLOC);
        pass_begin(p, &w, rings[i], sqe, i);
    }
    pass_wait(&w);
    close_all(fds, count);
    for (unsigned i = 0; i < count; i++) {
        socks[i] = w.res[i] < 0 ? SOCK_NONE : sock_new(rings[i], (uint32_t)slots[i]);
        if (w.res[i] < 0 && rings[i] != NULL)
            ring_socket_gone(p, rings[i]);
        rc = MIN(rc, w.res[i]);
    }
    for (unsigned i = 0; rc < 0 && i < count; i++) {
        if (sock_valid(socks[i]))
            io_close(socks[i]);
    }
    return MIN(rc, 0);
}

static unsigned take_fds(struct msghdr *header, int fds[PASS_SOCKETS_MAX])
{
    const struct cmsghdr *c = CMSG_FIRSTHDR(header);
    unsigned count = 0;

    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof *fds);
        memcpy(fds, CMSG_DATA(c), count * sizeof *fds);
    }
    return count;
}

ssize_t pass_receive(int fd, void *message, size_t size, struct sock socks[PASS_SOCKETS_MAX],
                     unsigned *count_out)
{
    struct shard_private *p = door_self();
    struct iovec vector = {message, size};
    union pass_control control;
    int fds[PASS_SOCKETS_MAX], rc;

    for (;;) {
        struct msghdr header = {
            .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t got;

        rc = wait_for(p, fd, POLLIN);
        if (rc < 0)
            return rc;
        got = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (got < 0)
            return errno == ECONNRESET ? 0 : -errno; /* It ended with messages of ours unread. */
        *count_out = take_fds(&header, fds);
        rc = place(p, fds, *count_out, socks);
        if (rc == 0 && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0)
            return got;
        for (unsigned i = 0; rc == 0 && i < *count_out; i++)
            io_close(socks[i]);
        return rc < 0 ? rc : -EMSGSIZE;
    }
}

void pass_close(int fd)
{
    close(fd);
}
