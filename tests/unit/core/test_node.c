/* The real door: sockets, files, messages and helpers on one or two shards of a node in this process. */
#include "core/fiber.h"
#include "core/io.h"
#include "core/metrics.h"
#include "core/node.h"
#include "core/scheduler.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* Each test's work runs on a fiber of shard 0 and ends the node. A check in there cannot use cmocka, which
 * jumps out: it counts. */
static int failures;
static void (*test_body)(struct shard *s);
static void (*test_stop)(struct shard *s);
static char directory[64];

#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                          \
            __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);                                              \
        }                                                                                                    \
    } while (0)

static void body_run(void *arg)
{
    struct shard *s = arg;

    test_body(s);
    node_stop(s->node);
}

static int node_start(struct shard *s)
{
    return s->index != 0 || fiber_start("test", RUN_INTERACTIVE, body_run, s) != NULL ? 0 : -EAGAIN;
}

static void node_stopped(struct shard *s)
{
    if (test_stop != NULL)
        test_stop(s);
}

static void run_node(unsigned shard_count, void (*body)(struct shard *s))
{
    static const struct node_ops ops = {node_start, node_stopped};
    struct node_options options = {.ops = &ops,
                                   .data = directory,
                                   .shard_count = shard_count,
                                   .helper_count = 2,
                                   .stop_timeout_ms = 5000};
    char error[NODE_ERROR_MAX];
    int rc;

    failures = 0;
    test_body = body;
    rc = node_run(&options, error);
    if (rc < 0)
        fail_msg("node_run: %d %s", rc, error);
    assert_int_equal(failures, 0);
}

/* ---- Waiting for an operation on a fiber ------------------------------------------------------------------
 */

struct waited {
    struct io_op *op;
    struct fiber *fiber;
};

/* Operations of these tests are completed into fibers; production code runs steps instead. */
struct call {
    union {
        struct io_op op;
        struct io_accept accept;
        struct io_connect connect;
    };
    struct fiber *waiting;
};

static void call_done(struct io_op *op)
{
    struct call *c = (struct call *)(void *)op;

    if (c->waiting != NULL)
        fiber_wake(c->waiting, 0);
}

static void call_init(struct call *c)
{
    memset(c, 0, sizeof *c);
    c->op.done = call_done;
}

static int call_wait(struct call *c)
{
    if (c->op.in_flight) {
        c->waiting = fiber_self();
        (void)fiber_suspend();
        c->waiting = NULL;
    }
    return c->op.res;
}

static int send_text(struct sock s, const char *text)
{
    struct iovec v = {(char *)(uintptr_t)text, strlen(text)};
    struct call c;

    call_init(&c);
    io_send(s, &c.op, &v, 1);
    return call_wait(&c);
}

static struct sock connect_to(const struct net_addr *a)
{
    struct call c;

    call_init(&c);
    c.connect.peer = *a;
    io_connect(&c.connect);
    CHECK(call_wait(&c) == 0);
    return c.connect.sock;
}

static struct sock listen_here(struct net_addr *a)
{
    struct sock listener = SOCK_NONE;

    CHECK(net_addr_parse(SLICE("127.0.0.1:0"), a));
    CHECK(io_listen(a, &listener) == 0);
    CHECK(io_listen_port(listener, &a->port) == 0);
    return listener;
}

/* ---- Sockets ---------------------------------------------------------------------------------------------
 */

static void echo_body(struct shard *s)
{
    struct net_addr addr;
    struct sock listener = listen_here(&addr), client;
    struct call accept, poll_call, recv_call;

    (void)s;
    call_init(&accept);
    io_accept(listener, &accept.accept);
    client = connect_to(&addr);
    CHECK(call_wait(&accept) == 0);
    CHECK(net_addr_is_loopback(&accept.accept.peer));
    CHECK(accept.accept.peer.port != 0);

    call_init(&poll_call);
    io_poll(accept.accept.sock, &poll_call.op);
    CHECK(send_text(client, "hello") == 5);
    CHECK(call_wait(&poll_call) > 0 && (poll_call.op.res & POLLIN) != 0);
    call_init(&recv_call);
    io_recv(accept.accept.sock, &recv_call.op);
    CHECK(call_wait(&recv_call) == 5);
    CHECK(slice_eq(recv_call.op.data, SLICE("hello")));
    io_recv_release(&recv_call.op);

    io_recv(accept.accept.sock, &recv_call.op); /* Waits before anything is there. */
    CHECK(fiber_sleep_ms(5) == 0);
    CHECK(recv_call.op.in_flight);
    io_close(client);
    CHECK(call_wait(&recv_call) == 0);
    CHECK(!recv_call.op.recv_owned);
    io_close(accept.accept.sock);
    io_close(listener);
}

static void test_echo(void **state)
{
    (void)state;
    run_node(1, echo_body);
}

static int setup(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "/tmp/trireme-test-XXXXXX");
    return mkdtemp(directory) != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    char command[96];

    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
