/* bench/bare.c -- `bare`: a server that accepts, polls each connection, and does nothing else: what the kernel alone takes for
 * an idle connection, to stand beside. */
#include "bench/bench.h"
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define RINGS_MAX  1024
#define ACCEPTS    8
#define QUEUE_SIZE 256
#define POLL       UINT64_MAX
#define BACKLOG    4096

struct bare {
    struct io_uring rings[RINGS_MAX];
    unsigned ring_count, table_size;
    unsigned armed, accepted; /* Of the last ring: slots that have an accept, slots that have a connection. */
    int listener;
};

NORETURN static void die(const char *what, int error)
{
    fprintf(stderr, "trireme-bench: bare: %s: %s\n", what, strerror(error));
    exit(71);
}

static void accept_arm(struct bare *b)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&b->rings[b->ring_count - 1]);

    io_uring_prep_accept_direct(sqe, b->listener, NULL, NULL, 0, b->armed);
    io_uring_sqe_set_data64(sqe, b->armed++);
}

static void ring_add(struct bare *b)
{
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN |
                                              IORING_SETUP_CQSIZE,
                                     .cq_entries = QUEUE_SIZE * 8};
    int rc = b->ring_count < RINGS_MAX
                 ? io_uring_queue_init_params(QUEUE_SIZE, &b->rings[b->ring_count], &params)
                 : -ENFILE;

    if (rc == 0)
        rc = io_uring_register_files_sparse(&b->rings[b->ring_count], b->table_size);
    if (rc < 0)
        die("ring", -rc);
    b->ring_count++;
    b->armed = b->accepted = 0;
    for (unsigned i = 0; i < ACCEPTS; i++)
        accept_arm(b);
}

static void on_accept(struct bare *b, unsigned slot)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&b->rings[b->ring_count - 1]);

    io_uring_prep_poll_multishot(sqe, (int)slot, POLLIN | POLLRDHUP);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, POLL);
    b->accepted++;
    if (b->armed < b->table_size)
        accept_arm(b);
}

/* One turn of the ring that accepts; those that are full have nothing to say. */
static void turn(struct bare *b)
{
    struct __kernel_timespec wait = {.tv_nsec = 100 * 1000 * 1000};
    struct io_uring *r = &b->rings[b->ring_count - 1];
    struct io_uring_cqe *cqe;

    (void)io_uring_submit_and_wait_timeout(r, &cqe, 1, &wait, NULL);
    while (io_uring_peek_cqe(r, &cqe) == 0) {
        uint64_t data = cqe->user_data;
        int res = cqe->res;

        io_uring_cqe_seen(r, cqe);
        if (data == POLL)
            continue;
        if (res < 0)
            die("accept", -res);
        on_accept(b, (unsigned)data);
    }
    if (b->accepted >= b->table_size)
        ring_add(b);
}

int bare_run(struct bench *b)
{
    static struct bare bare;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)b->options.port)};
    double end = clock_us() + b->options.seconds * 1e6;
    struct rlimit limit;
    int one = 1;

    if (inet_pton(AF_INET, b->options.host, &addr.sin_addr) != 1)
        return 64;
    getrlimit(RLIMIT_NOFILE, &limit);
    bare.table_size = (unsigned)MIN(limit.rlim_cur, 65536u);
    bare.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(bare.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(bare.listener, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(bare.listener, BACKLOG) < 0)
        die("listen", errno);
    ring_add(&bare);
    puts("trireme-bench: ready");
    fflush(stdout);
    while (clock_us() < end)
        turn(&bare);
    return 0;
}
