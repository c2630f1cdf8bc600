/* Sockets on their way between processes: here from a shard to itself, through a pair of sockets as a supervisor makes them. */
#include "core/fiber.h"
#include "core/io.h"
#include "core/node.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/on_node.h"

/* ---- Sockets of the shard, and their clients ----------------------------------------------------------- */

static void send_byte(struct sock sock, char byte)
{
    struct iovec v = {&byte, 1};
    struct call c;

    call_init(&c);
    io_send(sock, &c.op, &v, 1);
    CHECK(call_wait(&c) == 1);
}

/* What a turn of the loop has submitted takes a moment. */
static ssize_t client_receives(int client, char *got)
{
    for (unsigned ms = 0; ms < 5000; ms++) {
        ssize_t size = recv(client, got, 1, MSG_DONTWAIT);

        if (size >= 0 || errno != EAGAIN)
            return size;
        (void)fiber_sleep_ms(1);
    }
    return -ETIMEDOUT;
}

static bool client_hears(int client, char byte)
{
    char got = 0;

    return client_receives(client, &got) == 1 && got == byte;
}

static bool client_ended(int client)
{
    char got;

    return client_receives(client, &got) == 0;
}

static void close_all(struct sock *socks, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        io_close(socks[i]);
}

static void pair_make(int pair[2])
{
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
}

/* ---- Tests --------------------------------------------------------------------------------------------- */

static const unsigned counts[] = {0, 1, 2, PASS_SOCKETS_MAX};

/* Both sides have it, and it lives as long as either. */
static void there_body(struct shard *s)
{
    static char message[PASS_SIZE_MAX], got[PASS_SIZE_MAX];
    struct sock sent[PASS_SOCKETS_MAX], received[PASS_SOCKETS_MAX];
    int pair[2], clients[PASS_SOCKETS_MAX];

    for (size_t i = 0; i < sizeof message; i++)
        message[i] = (char)(i * 7);
    pair_make(pair);
    for (unsigned c = 0; c < ARRAY_COUNT(counts); c++) {
        unsigned count = counts[c], got_count = 99;
        size_t size = c == 0 ? 1 : PASS_SIZE_MAX / c;

        clients_open(sent, clients, count);
        CHECK(pass_send(pair[0], slice_of(message, size), sent, count) == 0);
        memset(got, 0, sizeof got);
        CHECK(pass_receive(pair[1], got, sizeof got, received, &got_count) == (ssize_t)size);
        CHECK(got_count == count && memcmp(got, message, size) == 0);
        for (unsigned i = 0; i < count; i++)
            send_byte(sent[i], (char)('a' + i % 26));
        close_all(sent, count);
        for (unsigned i = 0; i < count; i++) {
            CHECK(client_hears(clients[i], (char)('a' + i % 26)));
            send_byte(received[i], (char)('A' + i % 26));
            CHECK(client_hears(clients[i], (char)('A' + i % 26)));
        }
        close_all(received, count);
        for (unsigned i = 0; i < count; i++) {
            CHECK(client_ended(clients[i]));
            close(clients[i]);
        }
    }
    pass_close(pair[0]);
    pass_close(pair[1]);
}

static void test_there(void **state)
{
    on_node(1, ".", there_body);
}

/* What is longer than whoever receives has room for is lost, and its sockets with it; the next message is not. */
static void too_long_body(struct shard *s)
{
    struct sock sent[2], received[PASS_SOCKETS_MAX];
    int pair[2], clients[2];
    unsigned count;
    char got[4];

    pair_make(pair);
    clients_open(sent, clients, 2);
    CHECK(pass_send(pair[0], SLICE("too long"), sent, 2) == 0);
    CHECK(pass_send(pair[0], SLICE("good"), sent, 1) == 0);
    close_all(sent, 2);
    CHECK(pass_receive(pair[1], got, sizeof got, received, &count) == -EMSGSIZE);
    CHECK(client_ended(clients[1]));
    CHECK(pass_receive(pair[1], got, sizeof got, received, &count) == 4 && count == 1);
    close_all(received, count);
    CHECK(client_ended(clients[0]));
    close(clients[0]);
    close(clients[1]);
    pass_close(pair[0]);
    pass_close(pair[1]);
}

static void test_too_long(void **state)
{
    on_node(1, ".", too_long_body);
}

/* Nobody is at the other end: before, and while one waits. */
static void closer(void *arg)
{
    (void)fiber_sleep_ms(20);
    pass_close(*(int *)arg);
}

static void gone_body(struct shard *s)
{
    static char message[PASS_SIZE_MAX];
    struct sock sent[1], received[PASS_SOCKETS_MAX];
    int pair[2], clients[1], rc;
    unsigned count;

    clients_open(sent, clients, 1);
    pair_make(pair);
    pass_close(pair[1]);
    CHECK(pass_send(pair[0], SLICE("x"), sent, 1) == -EPIPE);
    CHECK(pass_receive(pair[0], message, sizeof message, received, &count) == 0);
    pass_close(pair[0]);

    pair_make(pair);
    CHECK(fiber_start("closer", RUN_INTERACTIVE, closer, &pair[1]) != NULL);
    CHECK(pass_receive(pair[0], message, sizeof message, received, &count) == 0);
    pass_close(pair[0]);

    pair_make(pair); /* Its buffer fills, and nobody reads. */
    CHECK(fiber_start("closer", RUN_INTERACTIVE, closer, &pair[1]) != NULL);
    while ((rc = pass_send(pair[0], slice_of(message, sizeof message), sent, 1)) == 0)
        ;
    CHECK(rc == -EPIPE || rc == -ECONNRESET);
    pass_close(pair[0]);

    send_byte(sent[0], 'y'); /* It is here still. */
    CHECK(client_hears(clients[0], 'y'));
    close_all(sent, 1);
    CHECK(client_ended(clients[0]));
    close(clients[0]);
}

static void test_gone(void **state)
{
    on_node(1, ".", gone_body);
}

/* The sender waits for room, and nothing is lost or changes places. */
#define MANY 300

static void reader(void *arg)
{
    static char got[PASS_SIZE_MAX];
    int fd = *(int *)arg;

    for (uint32_t i = 0; i < MANY; i++) {
        struct sock received[PASS_SOCKETS_MAX];
        unsigned count;

        CHECK(pass_receive(fd, got, sizeof got, received, &count) == (ssize_t)sizeof got);
        CHECK(get_u32(got) == i && count == 1);
        close_all(received, count);
        if (i % 50 == 0)
            (void)fiber_sleep_ms(5);
    }
    pass_close(fd);
    *(int *)arg = -1;
}

static void room_body(struct shard *s)
{
    static char message[PASS_SIZE_MAX];
    struct sock sent[1];
    int pair[2], clients[1];

    clients_open(sent, clients, 1);
    pair_make(pair);
    CHECK(fiber_start("reader", RUN_INTERACTIVE, reader, &pair[1]) != NULL);
    for (uint32_t i = 0; i < MANY; i++) {
        put_u32(message, i);
        CHECK(pass_send(pair[0], slice_of(message, sizeof message), sent, 1) == 0);
    }
    while (pair[1] >= 0)
        (void)fiber_sleep_ms(1);
    pass_close(pair[0]);
    close_all(sent, 1);
    CHECK(client_ended(clients[0]));
    close(clients[0]);
}

static void test_room(void **state)
{
    on_node(1, ".", room_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there),
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
