/* Watches on the simulated door: as on the real one (tests/unit/core/test_node.c), and the same from a seed. */
#include "core/fiber.h"
#include "core/io.h"
#include "core/sim/sim.h"
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/lib/on_fiber.h"

#define PORT   7
#define SEEDS  20
#define ROUNDS 20

static uint32_t told_cookie;
static int32_t told_res;
static unsigned told_count;
static bool ended;

static void told(uint32_t cookie, int32_t res)
{
    told_cookie = cookie;
    told_res = res;
    told_count++;
}

static void send_byte(struct sock s)
{
    struct iovec v = {"x", 1};
    struct call c;

    call_init(&c);
    io_send(s, &c.op, &v, 1);
    CHECK(call_wait(&c) == 1);
}

static void recv_byte(struct sock s)
{
    struct call c;
    int rc;

    do { /* The simulator runs out of buffers now and then. */
        call_init(&c);
        io_recv(s, &c.op);
        rc = call_wait(&c);
    } while (rc == -ENOBUFS);
    CHECK(rc == 1);
    if (rc > 0)
        io_recv_release(&c.op);
}

static void pause_ms(uint32_t ms)
{
    CHECK(fiber_sleep_ms(ms) == 0);
}

/* Changes places `changes` times, then a byte comes; who stands there hears of it. */
static void round_run(struct sock client, struct sock server, unsigned changes, bool late)
{
    unsigned before = told_count;
    struct call poll_call;
    bool watching = false;

    call_init(&poll_call);
    if (late) {
        send_byte(client);
        pause_ms(50);
    }
    for (unsigned i = 0; i <= changes; i++) {
        watching = !watching;
        if (watching)
            io_watch(server, i);
        else
            io_poll(server, &poll_call.op);
        if (!late)
            pause_ms(1);
    }
    if (!late)
        send_byte(client);
    if (watching) {
        CHECK(!poll_call.op.in_flight);
        pause_ms(100);
        CHECK(told_count == before + 1 && told_cookie == changes && (told_res & POLLIN) != 0);
    } else {
        CHECK(call_wait(&poll_call) > 0 && told_count == before);
    }
    recv_byte(server);
}

static void body_run(void *arg)
{
    struct sock listener;
    struct net_addr here;
    struct call accept, connect, poll_call, receive;

    (void)arg;
    CHECK(net_addr_parse(SLICE("127.0.0.1:7"), &here));
    CHECK(io_listen(&here, &listener) == 0);
    io_watch_with(told);
    call_init(&accept);
    call_init(&connect);
    call_init(&poll_call);
    call_init(&receive);
    connect.connect.peer = here;
    io_accept(listener, &accept.accept);
    io_connect(&connect.connect);
    CHECK(call_wait(&accept) == 0 && call_wait(&connect) == 0);
    for (unsigned i = 0; i < ROUNDS; i++)
        round_run(connect.connect.sock, accept.accept.sock, i % 4, i % 3 == 0);
    io_watch(accept.accept.sock, 1); /* Cancelled as a poll. */
    io_poll(accept.accept.sock, &poll_call.op);
    io_cancel(&poll_call.op);
    CHECK(call_wait(&poll_call) == -ECANCELED);
    told_count = 0;
    io_watch(accept.accept.sock, 2); /* Closed, before and after a byte for it is there. */
    io_close(accept.accept.sock);
    io_recv(connect.connect.sock, &receive.op);
    CHECK(call_wait(&receive) == 0);
    io_watch(connect.connect.sock, 3);
    io_close(connect.connect.sock);
    pause_ms(100);
    CHECK(told_count == 0);
    io_close(listener);
    ended = true;
}

static int node_start(struct shard *s)
{
    return fiber_start("test", RUN_INTERACTIVE, body_run, s) != NULL ? 0 : -EAGAIN;
}

static uint64_t run_seed(uint64_t seed)
{
    static const struct node_ops ops = {.start = node_start};
    static struct sim_counters counters;
    struct sim_world *w = sim_world_new(seed, &counters);
    struct sim_node *n = sim_node_new(
        w, &(struct sim_node_options){.name = "node", .ip = "127.0.0.1", .shard_count = 1, .ops = &ops});
    uint64_t hash;

    ended = false;
    told_count = 0;
    sim_node_start(n);
    sim_run(w, 60 * SIM_S, NULL, NULL);
    CHECK(ended);
    hash = sim_hash(w);
    sim_world_free(w);
    return hash;
}

static void test_watch(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        assert_int_equal(run_seed(seed), run_seed(seed));
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_watch)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
