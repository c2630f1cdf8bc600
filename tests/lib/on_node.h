/* tests/lib/on_node.h -- a test whose work runs on a fiber of shard 0 of a node in this process, and ends the node. For one file of a
 * program, behind cmocka.h. */
#pragma once
#include "core/node.h"
#include "tests/lib/on_fiber.h"
#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>

static void (*test_body)(struct shard *s);

static inline void on_node_run(void *arg)
{
    struct shard *s = arg;

    test_body(s);
    node_stop(s->node);
}

static inline int on_node_start(struct shard *s)
{
    return s->index != 0 || fiber_start("test", RUN_INTERACTIVE, on_node_run, s) != NULL ? 0 : -EAGAIN;
}

static inline void on_node_stop(struct shard *s)
{
}

static inline void on_node(unsigned shard_count, const char *data, void (*body)(struct shard *s))
{
    static const struct node_ops ops = {on_node_start, on_node_stop};
    const struct node_options options = {
        .ops = &ops, .data = data, .shard_count = shard_count, .helper_count = 2, .stop_timeout_ms = 5000};
    char error[NODE_ERROR_MAX];
    int rc;

    failures = 0;
    test_body = body;
    rc = node_run(&options, error);
    if (rc < 0)
        fail_msg("node_run: %d %s", rc, error);
    assert_int_equal(failures, 0);
}

/* On a fiber: `count` connections of this shard, each with the descriptor of its client. */
static inline void clients_open(struct sock *socks, int *clients, unsigned count)
{
    struct net_addr addr;
    struct sock listener;

    CHECK(net_addr_parse(SLICE("127.0.0.1:0"), &addr));
    CHECK(io_listen(&addr, &listener) == 0);
    CHECK(io_listen_port(listener, &addr.port) == 0);
    for (unsigned i = 0; i < count; i++) {
        struct sockaddr_in to = {
            .sin_family = AF_INET, .sin_port = htons(addr.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        struct call c;

        clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(connect(clients[i], (struct sockaddr *)&to, sizeof to) == 0);
        call_init(&c);
        io_accept(listener, &c.accept);
        CHECK(call_wait(&c) == 0);
        socks[i] = c.accept.sock;
    }
    io_close(listener);
}
