/* The real door: sockets, files, messages and helpers on one or two shards of a node in this process. */
#include "core/fiber.h"
#include "core/io.h"
#include "core/metrics.h"
#include "core/node.h"
#include "core/scheduler.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/on_node.h"

static char directory[64];

static void run_node(unsigned shard_count, void (*body)(struct shard *s))
{
    on_node(shard_count, directory, body);
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

/* ---- Sockets ------------------------------------------------------------------------------------------- */

struct pair {
    struct sock listener, client, server;
};

static void pair_open(struct pair *p)
{
    struct net_addr addr;
    struct call accept;

    p->listener = listen_here(&addr);
    call_init(&accept);
    io_accept(p->listener, &accept.accept);
    p->client = connect_to(&addr);
    CHECK(call_wait(&accept) == 0);
    CHECK(net_addr_is_loopback(&accept.accept.peer));
    CHECK(accept.accept.peer.port != 0 && accept.accept.peer.port != addr.port);
    p->server = accept.accept.sock;
}

static void pair_close(struct pair *p)
{
    io_close(p->client);
    io_close(p->server);
    io_close(p->listener);
}

static void echo_body(struct shard *s)
{
    struct call poll_call, recv_call;
    struct pair p;

    (void)s;
    pair_open(&p);
    call_init(&poll_call);
    io_poll(p.server, &poll_call.op);
    CHECK(send_text(p.client, "hello") == 5);
    CHECK(call_wait(&poll_call) > 0 && (poll_call.op.res & POLLIN) != 0);
    call_init(&recv_call);
    io_recv(p.server, &recv_call.op);
    CHECK(call_wait(&recv_call) == 5);
    CHECK(slice_eq(recv_call.op.data, SLICE("hello")));
    io_recv_release(&recv_call.op);
    io_recv_release(&recv_call.op); /* Twice does no harm. */

    io_recv(p.server, &recv_call.op); /* Waits before anything is there. */
    CHECK(fiber_sleep_ms(5) == 0);
    CHECK(recv_call.op.in_flight);
    io_close(p.client);
    CHECK(call_wait(&recv_call) == 0); /* The end of the stream. */
    CHECK(!recv_call.op.recv_owned);
    io_close(p.server);
    io_close(p.listener);
}

static void test_echo(void **state)
{
    (void)state;
    run_node(1, echo_body);
}

static void refused_body(struct shard *s)
{
    struct sock listener, second;
    struct net_addr addr;
    struct call c;

    (void)s;
    listener = listen_here(&addr);
    CHECK(io_listen(&addr, &second) == 0); /* SO_REUSEPORT: one a shard. */
    io_close(second);
    io_close(listener);
    call_init(&c);
    c.connect.peer = addr;
    io_connect(&c.connect);
    CHECK(call_wait(&c) == -ECONNREFUSED);
    CHECK(!sock_valid(c.connect.sock));
    CHECK(net_addr_parse(SLICE("203.0.113.1:1"), &addr)); /* Nobody's address (RFC 5737). */
    CHECK(io_listen(&addr, &listener) == -EADDRNOTAVAIL);
}

static void test_refused(void **state)
{
    (void)state;
    run_node(1, refused_body);
}

static void cancel_body(struct shard *s)
{
    struct call accept, receive, poll_call, late;
    struct pair p;

    (void)s;
    pair_open(&p);
    call_init(&accept);
    call_init(&receive);
    call_init(&poll_call);
    call_init(&late);
    io_cancel(&accept.op); /* Not in flight: nothing. */
    io_accept(p.listener, &accept.accept);
    io_cancel(&accept.op);
    io_cancel(&accept.op);
    CHECK(accept.op.in_flight); /* Never inside of the call. */
    CHECK(call_wait(&accept) == -ECANCELED);
    io_recv(p.server, &receive.op);
    CHECK(fiber_sleep_ms(2) == 0);
    io_cancel(&receive.op);
    CHECK(call_wait(&receive) == -ECANCELED);
    CHECK(!receive.op.recv_owned);

    io_recv(p.server, &receive.op);
    io_poll(p.server, &poll_call.op);
    io_shutdown(p.server);
    io_shutdown(p.server);
    CHECK(call_wait(&receive) == -ECANCELED);
    CHECK(call_wait(&poll_call) == -ECANCELED);
    io_recv(p.server, &late.op); /* After the end. */
    CHECK(late.op.in_flight);
    CHECK(call_wait(&late) == -ECANCELED);
    CHECK(send_text(p.server, "x") == -ECANCELED);

    for (unsigned i = 0; i < 2; i++) { /* A listener, with an accept waiting, and without. */
        if (i == 0)
            io_accept(p.listener, &accept.accept);
        io_shutdown(p.listener);
        CHECK(i > 0 || call_wait(&accept) == -ECANCELED);
    }
    pair_close(&p);
}

static void test_cancel(void **state)
{
    (void)state;
    run_node(1, cancel_body);
}

/* ---- Watches ------------------------------------------------------------------------------------------- */

static uint32_t watch_cookie;
static int32_t watch_res;
static unsigned watch_count;

static void watch_told(uint32_t cookie, int32_t res)
{
    watch_cookie = cookie;
    watch_res = res;
    watch_count++;
}

/* True: `count` were told by then. */
static bool watch_wait(unsigned count)
{
    for (unsigned ms = 0; ms < 2000 && watch_count < count; ms++)
        CHECK(fiber_sleep_ms(1) == 0);
    return watch_count == count;
}

static void watch_recv(struct sock s, const char *expected)
{
    struct call c;

    call_init(&c);
    io_recv(s, &c.op);
    CHECK(call_wait(&c) == (int)strlen(expected));
    CHECK(slice_eq(c.op.data, slice_str(expected)));
    io_recv_release(&c.op);
}

/* A watch fires once; a poll and a watch take over from each other, before and after bytes are there. */
static void watch_body(struct shard *s)
{
    struct call poll_call;
    struct pair p;

    (void)s;
    watch_count = 0;
    io_watch_with(watch_told);
    pair_open(&p);
    io_watch(p.server, 7);
    CHECK(fiber_sleep_ms(2) == 0 && watch_count == 0);
    CHECK(send_text(p.client, "a") == 1);
    CHECK(watch_wait(1) && watch_cookie == 7 && (watch_res & POLLIN) != 0);
    watch_recv(p.server, "a");
    CHECK(send_text(p.client, "b") == 1);
    CHECK(fiber_sleep_ms(5) == 0 && watch_count == 1);
    watch_recv(p.server, "b");

    call_init(&poll_call); /* A poll that becomes a watch, */
    io_poll(p.server, &poll_call.op);
    io_watch(p.server, 8);
    CHECK(!poll_call.op.in_flight);
    io_watch(p.server, 9);
    CHECK(fiber_sleep_ms(2) == 0);
    io_poll(p.server, &poll_call.op); /* and a poll again, */
    CHECK(fiber_sleep_ms(2) == 0 && poll_call.op.in_flight);
    CHECK(send_text(p.client, "c") == 1);
    CHECK(call_wait(&poll_call) > 0 && watch_count == 1);
    io_poll(p.server, &poll_call.op); /* and one whose bytes are there already. */
    io_watch(p.server, 10);
    CHECK(watch_wait(2) && watch_cookie == 10);
    watch_recv(p.server, "c");

    io_watch(p.server, 11); /* Cancelled as a poll. */
    io_poll(p.server, &poll_call.op);
    io_cancel(&poll_call.op);
    io_cancel(&poll_call.op);
    CHECK(call_wait(&poll_call) == -ECANCELED);
    io_watch(p.server, 12);
    CHECK(send_text(p.client, "d") == 1);
    CHECK(watch_wait(3) && watch_cookie == 12);
    watch_recv(p.server, "d");

    io_watch(p.server, 13); /* The peer's end; then a socket closed under its watch. */
    io_close(p.client);
    CHECK(watch_wait(4) && (watch_res & POLLRDHUP) != 0);
    io_close(p.server);
    io_close(p.listener);
}

static void test_watch(void **state)
{
    (void)state;
    run_node(1, watch_body);
}

/* Words leave in their order, before what is sent later; and when the kernel has no room for one of them, that is the end. */
static void words_body(struct shard *s)
{
    static const struct slice words = {"abcdefghij", 10};
    struct iovec v = {"send", 4};
    struct call c;
    struct pair p;
    char big[IO_WORD_MAX];

    (void)s;
    watch_count = 0;
    io_watch_with(watch_told);
    pair_open(&p);
    io_watch(p.server, 1);
    for (size_t i = 0; i < words.size; i++)
        io_send_word(p.server, slice_of(words.data + i, 1));
    call_init(&c);
    io_send(p.server, &c.op, &v, 1);
    CHECK(call_wait(&c) == 4);
    watch_recv(p.client, "abcdefghijsend");
    memset(big, 'x', sizeof big);
    for (unsigned ms = 0; ms < 5000 && watch_count == 0; ms++) {
        for (unsigned i = 0; i < 200; i++)
            io_send_word(p.server, slice_of(big, sizeof big));
        CHECK(fiber_sleep_ms(1) == 0);
    }
    CHECK(watch_count == 1 && watch_cookie == 1 && (watch_res & POLLHUP) != 0);
    io_send_word(p.server, slice_of(big, sizeof big)); /* Its completion finds the socket closed. */
    io_close(p.server);
    io_close(p.client);
    io_close(p.listener);
}

static void test_words(void **state)
{
    (void)state;
    run_node(1, words_body);
}

/* Closing under a watch ends the connection at once, and the slot's next socket hears nothing of it. */
static void watch_close_body(struct shard *s)
{
    struct net_addr addr;
    struct sock listener = listen_here(&addr);

    (void)s;
    watch_count = 0;
    io_watch_with(watch_told);
    for (unsigned i = 0; i < 300; i++) {
        struct call accept, receive;
        struct sock client;

        call_init(&accept);
        call_init(&receive);
        io_accept(listener, &accept.accept);
        client = connect_to(&addr);
        CHECK(call_wait(&accept) == 0);
        io_watch(accept.accept.sock, i);
        if (i % 3 == 0)
            CHECK(fiber_sleep_ms(1) == 0);
        io_close(accept.accept.sock);
        io_recv(client, &receive.op);
        CHECK(call_wait(&receive) == 0);
        io_close(client);
    }
    CHECK(watch_count == 0);
    io_close(listener);
}

static void test_watch_close(void **state)
{
    (void)state;
    run_node(1, watch_close_body);
}

/* Slots are used again at once; operations of the old socket must never meet the new one. */
static void close_race_body(struct shard *s)
{
    struct net_addr addr;
    struct sock listener = listen_here(&addr);

    (void)s;
    for (unsigned i = 0; i < 300; i++) {
        struct call accept, receive;
        struct sock client;

        call_init(&accept);
        call_init(&receive);
        io_accept(listener, &accept.accept);
        client = connect_to(&addr);
        CHECK(call_wait(&accept) == 0);
        io_recv(accept.accept.sock, &receive.op);
        if (i % 3 == 0)
            CHECK(send_text(client, "x") == 1);
        if (i % 2 == 0)
            io_close(client);
        io_shutdown(accept.accept.sock);
        call_wait(&receive);
        CHECK(receive.op.res == -ECANCELED || receive.op.res == 0 || receive.op.res == 1);
        io_recv_release(&receive.op);
        io_close(accept.accept.sock);
        if (i % 2 != 0)
            io_close(client);
    }
    io_close(listener);
}

static void test_close_race(void **state)
{
    (void)state;
    run_node(1, close_race_body);
}

#define BULK_SIZE (6 * 1024 * 1024)
static char *bulk;

struct reader {
    struct sock sock;
    size_t size, wanted;
    bool ended;
};

static void read_all(void *arg)
{
    struct reader *r = arg;
    struct call c;

    call_init(&c);
    while (r->size < r->wanted) {
        io_recv(r->sock, &c.op);
        if (call_wait(&c) <= 0)
            break;
        CHECK(memcmp(bulk + r->size, c.op.data.data, c.op.data.size) == 0);
        r->size += c.op.data.size;
        io_recv_release(&c.op);
        if (r->size % 7 == 0)
            CHECK(fiber_sleep_ms(1) == 0);
    }
    r->ended = true;
}

static void send_body(struct shard *s)
{
    static struct iovec pieces[3000];
    struct reader r = {.wanted = 2ull * BULK_SIZE};
    struct call c;
    struct pair p;
    size_t at = 0;

    (void)s;
    bulk = malloc(2ull * BULK_SIZE);
    for (size_t i = 0; i < 2ull * BULK_SIZE; i++)
        bulk[i] = (char)(i % BULK_SIZE * 2654435761u >> 13);
    for (unsigned i = 0; i < ARRAY_COUNT(pieces);
         i++) { /* Uneven pieces, some empty, the last takes the rest. */
        size_t size = i + 1 == ARRAY_COUNT(pieces) ? BULK_SIZE - at : (i % 5) * (i % 601);

        pieces[i] = (struct iovec){bulk + at, size};
        at += size;
    }
    pair_open(&p);
    r.sock = p.client;
    CHECK(fiber_start("reader", RUN_INTERACTIVE, read_all, &r) != NULL);
    call_init(&c);
    io_send(p.server, &c.op, pieces, ARRAY_COUNT(pieces));
    CHECK(call_wait(&c) == BULK_SIZE);
    io_send(p.server, &c.op, &(struct iovec){bulk, BULK_SIZE}, 1);
    CHECK(call_wait(&c) == BULK_SIZE);
    while (!r.ended)
        CHECK(fiber_sleep_ms(1) == 0);
    CHECK(r.size == r.wanted);
    io_send(p.server, &c.op, pieces, 0);
    CHECK(call_wait(&c) == 0);

    io_send(p.server, &c.op, &(struct iovec){bulk, 2ull * BULK_SIZE},
            1); /* Nobody reads: it cannot finish. */
    CHECK(fiber_sleep_ms(20) == 0);
    CHECK(c.op.in_flight);
    io_cancel(&c.op);
    CHECK(call_wait(&c) == -ECANCELED);
    io_send(p.server, &c.op, pieces, ARRAY_COUNT(pieces));
    CHECK(fiber_sleep_ms(5) == 0);
    CHECK(c.op.in_flight);
    io_close(p.client); /* With bytes unread: a reset. */
    CHECK(call_wait(&c) == -EPIPE || c.op.res == -ECONNRESET);
    io_close(p.server);
    io_close(p.listener);
    free(bulk);
}

static void test_send(void **state)
{
    (void)state;
    run_node(1, send_body);
}

static void quiet_begin(struct sock s, struct call *c, const char *data, size_t size)
{
    static struct iovec v;

    v = (struct iovec){(char *)(uintptr_t)data, size};
    call_init(c);
    io_send_quiet(s, &c->op, &v, 1);
}

/* True: it has ended, with success, within a while. */
static bool quiet_ends(struct call *c, size_t size)
{
    io_send_awaited(&c->op);
    for (unsigned ms = 0; ms < 100 && c->op.in_flight; ms++)
        CHECK(fiber_sleep_ms(1) == 0);
    return !c->op.in_flight && c->op.res == (int)size;
}

/* What 50 sends and as many sleeps take. */
static uint64_t send_turns(struct shard *s, struct pair *p, bool quiet)
{
    uint64_t before = s->metrics->loop_turns, turns;
    struct call c;

    for (unsigned i = 0; i < 50; i++) {
        struct iovec v = {"x", 1};

        call_init(&c);
        if (quiet)
            io_send_quiet(p->server, &c.op, &v, 1);
        else
            io_send(p->server, &c.op, &v, 1);
        CHECK(fiber_sleep_ms(2) == 0);
        io_send_awaited(&c.op);
        CHECK(call_wait(&c) == 1);
    }
    turns = s->metrics->loop_turns - before;
    for (unsigned i = 0; i < 50;) {
        call_init(&c);
        io_recv(p->client, &c.op);
        CHECK(call_wait(&c) > 0);
        i += (unsigned)MAX(c.op.res, 1);
        io_recv_release(&c.op);
    }
    return turns;
}

/* A quiet send makes no turn, and its owner knows it has ended when the answer to it is there. */
static void quiet_body(struct shard *s)
{
    struct call c, receive;
    struct pair p;

    (void)s;
    pair_open(&p);
    call_init(&c);
    io_send_awaited(&c.op); /* Not in flight: nothing. */
    CHECK(send_turns(s, &p, true) + 25 < send_turns(s, &p, false));
    quiet_begin(p.server, &c, "hello", 5);
    watch_recv(p.client, "hello");
    call_init(&receive);
    io_recv(p.server, &receive.op);
    CHECK(fiber_sleep_ms(1) == 0);
    CHECK(send_text(p.client, "answer") == 6);
    CHECK(call_wait(&receive) == 6);
    CHECK(!c.op.in_flight && c.op.res == 5);
    io_recv_release(&receive.op);

    quiet_begin(p.server, &c, "again", 5);
    CHECK(quiet_ends(&c, 5));
    watch_recv(p.client, "again");
    for (unsigned i = 0; i < 3000; i++) { /* More than are remembered at once, some awaited twice. */
        quiet_begin(p.server, &c, "x", 1);
        io_send_awaited(&c.op);
        io_send_awaited(&c.op);
        CHECK(call_wait(&c) == 1);
    }
    quiet_begin(p.server, &c, "y", 1);
    io_cancel(&c.op);
    CHECK(call_wait(&c) == 1 || c.op.res == -ECANCELED);
    quiet_begin(p.server, &c, "z", 1);
    io_shutdown(p.server);
    CHECK(call_wait(&c) == 1 || c.op.res == -ECANCELED);
    quiet_begin(p.server, &c, "late", 4);
    CHECK(call_wait(&c) == -ECANCELED);
    pair_close(&p);
}

static void test_quiet(void **state)
{
    (void)state;
    run_node(1, quiet_body);
}

/* Where the kernel has no room a quiet send waits for it like any other: nothing is lost, nothing overtakes. */
static void quiet_full_body(struct shard *s)
{
    enum { CHUNK = 4096 };
    struct reader r = {.wanted = 0};
    struct call c;
    struct pair p;

    (void)s;
    bulk = malloc(2ull * BULK_SIZE);
    for (size_t i = 0; i < 2ull * BULK_SIZE; i++)
        bulk[i] = (char)(i % BULK_SIZE * 2654435761u >> 13);
    pair_open(&p);
    do {
        CHECK(r.wanted + CHUNK <= 2ull * BULK_SIZE);
        quiet_begin(p.server, &c, bulk + r.wanted, CHUNK);
        r.wanted += CHUNK;
    } while (r.wanted + CHUNK <= 2ull * BULK_SIZE && quiet_ends(&c, CHUNK));
    CHECK(c.op.in_flight);
    r.sock = p.client;
    CHECK(fiber_start("reader", RUN_INTERACTIVE, read_all, &r) != NULL);
    CHECK(call_wait(&c) == CHUNK); /* Not awaited: now it is told by itself. */
    while (!r.ended)
        CHECK(fiber_sleep_ms(1) == 0);
    CHECK(r.size == r.wanted);
    pair_close(&p);
    free(bulk);
}

static void test_quiet_full(void **state)
{
    (void)state;
    run_node(1, quiet_full_body);
}

static void buffers_body(struct shard *s)
{
    enum { COUNT = 1400 };
    struct call *calls = calloc(COUNT, sizeof *calls);
    unsigned got = 0, refused = 0;
    struct pair p;

    (void)s;
    pair_open(&p);
    while (got < COUNT && refused == 0) { /* Keep every byte on loan. */
        call_init(&calls[got]);
        CHECK(send_text(p.client, "x") == 1);
        io_recv(p.server, &calls[got].op);
        if (call_wait(&calls[got]) == -ENOBUFS)
            refused++;
        else
            CHECK(calls[got++].op.res == 1);
    }
    CHECK(refused == 1 && got > 100);
    io_recv(p.server, &calls[got].op);
    CHECK(call_wait(&calls[got]) == -ENOBUFS); /* Still. */
    io_recv_release(&calls[3].op);
    CHECK(fiber_yield() == 0);
    io_recv(p.server, &calls[got].op);
    CHECK(call_wait(&calls[got]) == 1);
    io_recv_release(&calls[got].op);
    for (unsigned i = 0; i < got; i++)
        io_recv_release(&calls[i].op);
    for (unsigned i = 0; i < 3000; i++) { /* And they all go round again. */
        CHECK(send_text(p.client, "x") == 1);
        io_recv(p.server, &calls[0].op);
        CHECK(call_wait(&calls[0]) == 1);
        io_recv_release(&calls[0].op);
    }
    pair_close(&p);
    free(calls);
}

static void test_buffers(void **state)
{
    (void)state;
    run_node(1, buffers_body);
}

#define MANY_COUNT 25000
static unsigned polled_count;

static void polled(struct io_op *op)
{
    CHECK(op->res > 0);
    polled_count++;
}

/* Each thousand goes to an address of its own: the kernel looks for free local ports one by one. */
static void many_open(struct sock *clients, struct sock *servers, unsigned count, unsigned number)
{
    char text[NET_ADDR_TEXT_MAX];
    struct net_addr addr;
    struct sock listener;
    struct call c;

    snprintf(text, sizeof text, "127.0.%u.1:0", 1 + number);
    CHECK(net_addr_parse(slice_str(text), &addr) && io_listen(&addr, &listener) == 0 &&
          io_listen_port(listener, &addr.port) == 0);
    for (unsigned i = 0; i < count && failures == 0; i++) {
        call_init(&c);
        io_accept(listener, &c.accept);
        clients[i] = connect_to(&addr);
        CHECK(call_wait(&c) == 0);
        servers[i] = c.accept.sock;
    }
    io_close(listener);
}

/* Both ends are ours: 50,000 direct descriptors, more than one table holds. */
static void many_body(struct shard *s)
{
    struct sock *clients = calloc(MANY_COUNT, sizeof *clients),
                *servers = calloc(MANY_COUNT, sizeof *servers);
    struct io_op *polls = calloc(MANY_COUNT, sizeof *polls);
    unsigned rings = 0;
    struct call c;

    (void)s;
    for (unsigned i = 0; i < MANY_COUNT; i += 1000)
        many_open(clients + i, servers + i, 1000, i / 1000);
    for (unsigned i = 0; i < MANY_COUNT && failures == 0; i++) {
        rings = MAX(rings, servers[i].ring);
        polls[i].done = polled;
        io_poll(servers[i], &polls[i]);
    }
    polled_count = 0;
    for (unsigned i = 0; i < MANY_COUNT && failures == 0; i++) {
        CHECK(send_text(clients[i], "x") == 1);
        if (i % 1000 == 0) { /* One alone wakes a shard that sleeps, whatever ring it is on. */
            for (unsigned j = 0; polls[i].in_flight && j < 1000; j++)
                CHECK(fiber_sleep_ms(1) == 0);
            CHECK(!polls[i].in_flight);
        }
    }
    for (unsigned j = 0; polled_count < MANY_COUNT && j < 5000; j++)
        CHECK(fiber_sleep_ms(1) == 0);
    CHECK(polled_count == MANY_COUNT);
    for (unsigned i = 0; i < MANY_COUNT && failures == 0; i++) {
        call_init(&c);
        io_recv(servers[i], &c.op);
        CHECK(call_wait(&c) == 1);
        io_recv_release(&c.op);
        io_close(servers[i]);
        io_close(clients[i]);
    }
    CHECK(rings >= 1); /* Table rings were used. */
    free(clients);
    free(servers);
    free(polls);
}

static void test_many(void **state)
{
    (void)state;
    run_node(1, many_body);
}

/* ---- Files --------------------------------------------------------------------------------------------- */

static void files_body(struct shard *s)
{
    static struct iovec pieces[2500];
    char data[64] = {0};
    struct file f = FILE_NONE, g;
    uint64_t size;

    (void)s;
    CHECK(file_open("missing", O_RDONLY, 0, &f) == -ENOENT && !file_valid(f));
    CHECK(dir_make("d", 0755) == 0);
    CHECK(dir_make("d", 0755) == 0);
    CHECK(dir_make("x/y", 0755) == -ENOENT);
    CHECK(file_open("d/one", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644, &f) == 0);
    CHECK(file_open("d/one", O_RDWR | O_CREAT | O_EXCL, 0644, &g) == -EEXIST);
    CHECK(file_read(f, data, sizeof data, 0) == 0);
    CHECK(file_write(f, (struct iovec[]){{"hello", 5}, {"", 0}, {" world", 6}}, 3, 0) == 0);
    CHECK(file_write(f, NULL, 0, 0) == 0);
    CHECK(file_flush(f) == 0);
    CHECK(file_read(f, data, sizeof data, 0) == 11 && memcmp(data, "hello world", 11) == 0);
    CHECK(file_read(f, data, 5, 6) == 5 && memcmp(data, "world", 5) == 0);
    CHECK(file_size(f, &size) == 0 && size == 11);
    CHECK(file_write_flush(f, (struct iovec[]){{"HELLO", 5}}, 1, 0) == 0);
    CHECK(file_write_flush(f, NULL, 0, 0) == 0);
    for (unsigned i = 0; i < ARRAY_COUNT(pieces); i++) /* More than the kernel takes at once. */
        pieces[i] = (struct iovec){"abc", 3};
    CHECK(file_write_flush(f, pieces, ARRAY_COUNT(pieces), 11) == 0);
    CHECK(file_size(f, &size) == 0 && size == 11 + 3 * ARRAY_COUNT(pieces));
    CHECK(file_read(f, data, 3, size - 3) == 3 && memcmp(data, "abc", 3) == 0);
    CHECK(file_truncate(f, 4) == 0);
    CHECK(file_size(f, &size) == 0 && size == 4);
    CHECK(file_allocate(f, 0, 65536) == 0);
    CHECK(file_size(f, &size) == 0 && size == 65536);
    file_close(f);

    CHECK(file_open("d/one", O_RDONLY, 0, &f) == 0);
    CHECK(file_write(f, (struct iovec[]){{"no", 2}}, 1, 0) == -EBADF);
    CHECK(file_write_flush(f, (struct iovec[]){{"no", 2}}, 1, 0) == -EBADF);
    file_close(f);
    CHECK(file_rename("d/one", "d/two") == 0);
    CHECK(file_rename("d/one", "d/two") == -ENOENT);
    CHECK(dir_flush("d") == 0);
    CHECK(dir_flush("nowhere") == -ENOENT);
    CHECK(file_unlink("d/two") == 0);
    CHECK(file_unlink("d/two") == -ENOENT);
    CHECK(dir_lock("d") == 0);
    CHECK(dir_lock("d") == -EBUSY);
    dir_unlock_all();
    CHECK(dir_lock("d") == 0);
    CHECK(dir_lock("d") == -EBUSY);
    CHECK(dir_lock("nowhere") == -ENOENT);
}

static void test_files(void **state)
{
    (void)state;
    run_node(1, files_body);
}

static void add_name(void *arg, const char *name)
{
    strcat(arg, name);
    strcat(arg, " ");
}

static void list_body(struct shard *s)
{
    static const char *const names[] = {"b", "a", "B", "aa", "z"};
    char list[128] = "";
    struct file f;

    (void)s;
    CHECK(dir_make("l", 0755) == 0);
    CHECK(dir_list("l", add_name, list) == 0 && list[0] == '\0');
    for (unsigned i = 0; i < ARRAY_COUNT(names); i++) {
        char path[16];

        snprintf(path, sizeof path, "l/%s", names[i]);
        CHECK(file_open(path, O_WRONLY | O_CREAT, 0644, &f) == 0);
        file_close(f);
    }
    CHECK(dir_list("l", add_name, list) == 0);
    CHECK(strcmp(list, "B a aa b z ") == 0);
    CHECK(dir_list("nowhere", add_name, list) == -ENOENT);
}

static void test_list(void **state)
{
    (void)state;
    run_node(1, list_body);
}

static unsigned writers_left;

static void write_file(void *arg)
{
    char name[32], data[4096], back[4096];
    unsigned id = (unsigned)(uintptr_t)arg;
    struct file f;

    snprintf(name, sizeof name, "w%u", id);
    memset(data, (int)('a' + id % 26), sizeof data);
    CHECK(file_open(name, O_RDWR | O_CREAT, 0644, &f) == 0);
    for (unsigned i = 0; i < 4; i++)
        CHECK(file_write_flush(f, &(struct iovec){data, sizeof data}, 1, i * sizeof data) == 0);
    for (unsigned i = 0; i < 4; i++)
        CHECK(file_read(f, back, sizeof back, i * sizeof back) == sizeof back &&
              memcmp(back, data, sizeof back) == 0);
    file_close(f);
    CHECK(file_unlink(name) == 0);
    writers_left--;
}

static struct fiber *cancelled_fiber;
static int cancelled_results[4];

static void write_cancelled(void *arg)
{
    struct file f;

    (void)arg;
    cancelled_fiber = fiber_self();
    cancelled_results[0] = file_open("c", O_RDWR | O_CREAT, 0644, &f);
    if (cancelled_results[0] < 0)
        return;
    fiber_cancel(fiber_self());
    cancelled_results[1] = file_write(f, &(struct iovec){"x", 1}, 1, 0);
    fiber_mask();
    cancelled_results[2] = file_write(f, &(struct iovec){"x", 1}, 1, 0); /* A commit goes on. */
    fiber_unmask();
    cancelled_results[3] = fiber_sleep_ms(1);
    file_close(f);
}

static void parallel_body(struct shard *s)
{
    (void)s;
    writers_left = 60;
    for (unsigned i = 0; i < 60; i++)
        CHECK(fiber_start("writer", i % 2 ? RUN_BULK : RUN_INTERACTIVE, write_file, (void *)(uintptr_t)i) !=
              NULL);
    CHECK(fiber_start("cancelled", RUN_INTERACTIVE, write_cancelled, NULL) != NULL);
    while (writers_left > 0)
        CHECK(fiber_sleep_ms(1) == 0);
    CHECK(cancelled_results[0] == 0);
    CHECK(cancelled_results[1] == -ECANCELED);
    CHECK(cancelled_results[2] == 0);
    CHECK(cancelled_results[3] == -ECANCELED);
    CHECK(fiber_start("cancelled", RUN_INTERACTIVE, write_cancelled, NULL) != NULL);
    CHECK(fiber_yield() == 0);
    fiber_cancel(cancelled_fiber); /* While the open is under way: it is waited for, whichever way it ends. */
    CHECK(fiber_sleep_ms(50) == 0);
}

static void test_parallel_files(void **state)
{
    (void)state;
    run_node(1, parallel_body);
}

/* ---- Helpers ------------------------------------------------------------------------------------------- */

static unsigned helped_count, busy_count, helpers_left;

static void nap(void *arg)
{
    usleep(2000);
    __atomic_add_fetch((unsigned *)arg, 1, __ATOMIC_RELAXED);
}

static void call_helper(void *arg)
{
    int rc = helper_call(nap, arg);

    CHECK(rc == 0 || rc == -EAGAIN);
    if (rc == -EAGAIN)
        busy_count++;
    helpers_left--;
}

static void helpers_body(struct shard *s)
{
    uint64_t begin = time_ms();

    helped_count = busy_count = 0;
    helpers_left = 300;
    for (unsigned i = 0; i < 300; i++)
        CHECK(fiber_start("caller", RUN_INTERACTIVE, call_helper, &helped_count) != NULL);
    while (helpers_left > 0)
        CHECK(fiber_sleep_ms(1) == 0);
    CHECK(time_ms() > begin); /* Others ran meanwhile. */
    CHECK(busy_count > 0 && busy_count + helped_count == 300);
    CHECK(s->metrics->helper_calls == helped_count);
}

static void test_helpers(void **state)
{
    (void)state;
    run_node(1, helpers_body);
}

/* ---- Messages ------------------------------------------------------------------------------------------ */

struct ping {
    struct shard_message message;
    unsigned number;
    struct fiber *fiber;
};

static unsigned next_number;

static void ping_home(struct shard_message *m)
{
    struct ping *p = CONTAINER_OF(m, struct ping, message);

    CHECK(shard_self()->index == 0);
    if (p->fiber != NULL)
        fiber_wake(p->fiber, 0);
}

static void ping_there(struct shard_message *m)
{
    struct ping *p = CONTAINER_OF(m, struct ping, message);
    struct shard *home = m->from;

    CHECK(shard_self()->index == 1 && home->index == 0);
    CHECK(p->number == next_number); /* In order. */
    next_number++;
    m->deliver = ping_home;
    shard_send(home, m);
}

static void messages_body(struct shard *s)
{
    struct shard *other = s->node->shards[1];
    static struct ping pings[1000];
    unsigned last = ARRAY_COUNT(pings) - 1;

    next_number = 0;
    for (unsigned round = 0; round < 200; round++) { /* Back and forth, each side asleep when it comes. */
        pings[0] = (struct ping){.message.deliver = ping_there, .number = round, .fiber = fiber_self()};
        shard_send(other, &pings[0].message);
        CHECK(fiber_suspend() == 0);
    }
    CHECK(next_number == 200);
    for (unsigned round = 0; round < 20; round++) { /* Crowds. */
        for (unsigned i = 0; i <= last; i++) {
            pings[i] = (struct ping){.message.deliver = ping_there, .number = 200 + round * (last + 1) + i};
            if (i == last)
                pings[i].fiber = fiber_self();
            shard_send(other, &pings[i].message);
        }
        CHECK(fiber_suspend() == 0);
    }
    CHECK(next_number == 200 + 20 * (last + 1));
}

static void test_messages(void **state)
{
    (void)state;
    run_node(2, messages_body);
}

/* ---- Time, sleep, signals ------------------------------------------------------------------------------ */

static void idle_body(struct shard *s)
{
    uint64_t turns, begin_ns = time_ns();
    uint8_t a[32], b[32];

    turns = s->metrics->loop_turns;
    CHECK(fiber_sleep_ms(1000) == 0);
    CHECK(time_ns() - begin_ns >= 1000000000 && time_ns() - begin_ns < 3000000000);
    CHECK(s->metrics->loop_turns - turns <= 10);
    CHECK(time_wall() > 1700000000 && time_wall_ms() / 1000 - time_wall() <= 1);
    for (unsigned i = 0; i < 100; i++) {
        random_bytes(a, sizeof a);
        random_bytes(b, sizeof b);
        CHECK(memcmp(a, b, sizeof a) != 0);
    }
    random_bytes(NULL, 0);
    CHECK(random_u64() != random_u64());
}

static void test_idle(void **state)
{
    (void)state;
    run_node(1, idle_body);
}

static unsigned reload_count;

static void reload(struct shard *s)
{
    CHECK(s->index == 0 && fiber_self() != NULL);
    reload_count++;
    kill(getpid(), SIGTERM);
}

static void ready(struct node *node, void *arg)
{
    CHECK(node->shard_count == 2 && node->shards[1] != NULL);
    ++*(unsigned *)arg;
    kill(getpid(), SIGHUP);
}

static int quiet_start(struct shard *s)
{
    (void)s;
    return 0;
}

static unsigned stop_count;

static void count_stop(struct shard *s)
{
    CHECK(s->node->stopping);
    __atomic_add_fetch(&stop_count, 1, __ATOMIC_RELAXED);
}

static void test_signals(void **state)
{
    static const struct node_ops ops = {quiet_start, count_stop};
    unsigned ready_count = 0;
    struct node_options options = {
        .ops = &ops, .shard_count = 2, .ready = ready, .reload = reload, .arg = &ready_count};
    char error[NODE_ERROR_MAX];

    (void)state;
    failures = 0;
    reload_count = stop_count = 0;
    assert_int_equal(node_run(&options, error), 0);
    assert_int_equal(ready_count, 1);
    assert_int_equal(reload_count, 1);
    assert_int_equal(stop_count, 2);
    assert_int_equal(failures, 0);
}

static int start_fails_on_1(struct shard *s)
{
    return s->index == 1 ? -EADDRINUSE : 0;
}

static void test_start_fails(void **state)
{
    static const struct node_ops ops = {start_fails_on_1, count_stop};
    struct node_options options = {.ops = &ops, .shard_count = 2};
    char error[NODE_ERROR_MAX];

    (void)state;
    stop_count = 0;
    assert_int_equal(node_run(&options, error), -EADDRINUSE);
    assert_string_equal(error, "");  /* start() has said why. */
    assert_int_equal(stop_count, 1); /* Only where it had started. */
    options.data = "/nonexistent/directory";
    assert_int_equal(node_run(&options, error), -ENOENT);
    assert_non_null(strstr(error, "cannot start"));
}

/* As a container's seccomp profile does it. */
static void forbid_io_uring(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {ARRAY_COUNT(filter), filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        _exit(3);
}

static void test_forbidden(void **state)
{
    char error[NODE_ERROR_MAX];
    int status;
    pid_t pid;

    (void)state;
    assert_int_equal(node_check_kernel(error), 0);
    pid = fork();
    if (pid == 0) {
        forbid_io_uring();
        if (node_check_kernel(error) != -EPERM)
            _exit(1);
        _exit(strstr(error, "io_uring is forbidden") == NULL || strstr(error, "seccomp") == NULL ? 2 : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static struct call stuck_accept, stuck_recv;

static void stuck_stop(struct shard *s)
{
    struct pair p;

    (void)s;
    pair_open(&p);
    call_init(&stuck_accept);
    call_init(&stuck_recv);
    io_accept(p.listener, &stuck_accept.accept);
    io_recv(p.server, &stuck_recv.op);
    (void)fiber_suspend(); /* For ever. */
}

static void test_stop_times_out(void **state)
{
    static const struct node_ops ops = {on_node_start, stuck_stop};
    struct node_options options = {.ops = &ops, .shard_count = 1, .stop_timeout_ms = 100};
    char error[NODE_ERROR_MAX];

    (void)state;
    failures = 0;
    test_body = echo_body;
    assert_int_equal(node_run(&options, error), 0); /* Dropped with operations in flight. */
    assert_int_equal(failures, 0);
    assert_true(stuck_recv.op.in_flight);
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
        cmocka_unit_test(test_echo),           cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cancel),         cmocka_unit_test(test_close_race),
        cmocka_unit_test(test_watch),          cmocka_unit_test(test_words),
        cmocka_unit_test(test_watch_close),    cmocka_unit_test(test_send),
        cmocka_unit_test(test_quiet),          cmocka_unit_test(test_quiet_full),
        cmocka_unit_test(test_buffers),        cmocka_unit_test(test_many),
        cmocka_unit_test(test_files),          cmocka_unit_test(test_list),
        cmocka_unit_test(test_parallel_files), cmocka_unit_test(test_helpers),
        cmocka_unit_test(test_messages),       cmocka_unit_test(test_idle),
        cmocka_unit_test(test_signals),        cmocka_unit_test(test_start_fails),
        cmocka_unit_test(test_forbidden),      cmocka_unit_test(test_stop_times_out),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
