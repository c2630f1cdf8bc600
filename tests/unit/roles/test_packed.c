/* Sessions as bytes: any comes back as it was, and the usual ones are small. */
#include "roles/proxy/packed.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <cmocka.h>

#define ROUNDS 20000

static uint64_t random_state = 1;

static uint64_t random_u(void)
{
    random_state = random_state * 6364136223846793005 + 1442695040888963407;
    return random_state >> 20 ^ random_state << 24;
}

/* Of any size. */
static uint64_t number(void)
{
    return random_u() >> random_u() % 64;
}

static void fill(void *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)data)[i] = (uint8_t)random_u();
}

static void peer_random(struct net_addr *a)
{
    static const uint8_t families[] = {AF_INET, AF_INET6, AF_UNIX, 0};

    a->family = families[random_u() % 4];
    if (a->family != AF_INET && a->family != AF_INET6)
        return;
    fill(a->ip, a->family == AF_INET ? 4 : 16);
    a->port = (uint16_t)random_u();
}

static void token_random(struct token *t, const uint8_t *history)
{
    if (random_u() % 3 == 0)
        fill(t->history, sizeof t->history);
    else if (random_u() % 2 == 0)
        memcpy(t->history, history, sizeof t->history);
    t->mailbox_id = number();
    t->appends = number();
    t->expunges = random_u() % 2 == 0 ? t->appends : number();
    t->flag_changes = random_u() % 2 == 0 ? t->appends + 1 : number();
    t->uidvalidity = (uint32_t)number();
    t->recent_first = random_u() % 2 == 0 ? 0 : (uint32_t)number();
    t->recent_last = random_u() % 2 == 0 ? 0 : (uint32_t)number();
    t->keyword_count = (uint16_t)number();
    t->flags = (uint16_t)number();
}

static void packed_random(struct packed *p, const uint8_t *history)
{
    memset(p, 0, sizeof *p);
    p->conn.sock = (struct sock){(uint32_t)number(), (uint16_t)number(), (uint16_t)random_u()};
    peer_random(&p->conn.peer);
    p->conn.bytes_in = number();
    p->conn.bytes_out = number();
    p->conn.tls_size = random_u() % 2 == 0 ? 0 : (uint8_t)(random_u() % (TLS_PACKED_MAX + 1));
    fill(p->conn.tls, p->conn.tls_size);
    p->conn.input_size = random_u() % 2 == 0 ? 0 : (uint8_t)(random_u() % (CONN_PACKED_INPUT_MAX + 1));
    fill(p->conn.input, p->conn.input_size);
    p->conn.input_sealed =
        p->conn.input_size > 0 && p->conn.input_size <= CONN_PACKED_SEALED_MAX && random_u() % 2 == 0;
    p->state = (uint8_t)(random_u() % 4);
    p->conn.awaits_hello = p->state == PACKED_HANDSHAKE;
    p->watches = random_u() % 2 == 0;
    p->tls_first = random_u() % 2 == 0;
    p->near = random_u() % 2 == 0;
    p->forwards = random_u() % 2 == 0;
    p->bad_count = random_u() % 2 == 0 ? 0 : (uint8_t)random_u();
    p->client_sid_size = random_u() % 2 == 0 ? 0 : (uint8_t)(random_u() % (PACKED_CLIENT_SID_MAX + 1));
    fill(p->client_sid, p->client_sid_size);
    p->conn.history = random_u() % 3 == 0 ? (struct deflate_history *)(uintptr_t)random_u() : NULL;
    if (p->state == PACKED_HANDSHAKE && random_u() % 3 > 0) {
        p->conn.hello = (char *)(uintptr_t)(random_u() | 1);
        p->conn.hello_size = (uint16_t)random_u();
    }
    p->tag_size = random_u() % 2 == 0 ? 0 : (uint8_t)(random_u() % (IMAP_TAG_SIZE_MAX + 1));
    fill(p->tag, p->tag_size);
    p->partition = (uint16_t)random_u();
    p->features =
        p->state == PACKED_HANDSHAKE || random_u() % 2 == 0 ? LINK_FEATURES_UNSAID : (uint8_t)random_u();
    p->id = number();
    p->nonce = random_u();
    p->operation = number();
    p->commands = number();
    p->known = number();
    if (random_u() % 4 > 0)
        token_random(&p->token, history);
    if (random_u() % 2 == 0)
        fill(p->ticket.bytes, TICKET_SIZE);
}

static void test_random(void **state)
{
    uint8_t history[16];
    struct ticket ticket;
    char bytes[PACKED_SIZE_MAX + 1];

    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct packed_process process = {number(), random_u()};
        struct packed_shared shared = {random_u() % 4 == 0 ? NULL : &process,
                                       random_u() % 4 == 0 ? NULL : history,
                                       random_u() % 4 == 0 ? NULL : &ticket, (uint16_t)random_u()};
        struct packed in, out;
        size_t size;

        fill(history, sizeof history);
        fill(&ticket, sizeof ticket);
        packed_random(&in, history);
        if (random_u() % 2 == 0)
            in.ticket = ticket;
        if (random_u() % 2 == 0)
            in.partition = shared.partition;
        if (random_u() % 2 == 0)
            in.nonce = packed_nonce(&process, in.id);
        memset(bytes, 0x5a, sizeof bytes);
        size = packed_encode(&in, shared, bytes);
        assert_true(size <= PACKED_SIZE_MAX);
        assert_int_equal(bytes[size], 0x5a);
        memset(bytes + size, 0xa5, sizeof bytes - size); /* Is not looked at. */
        packed_decode(bytes, shared, &out);
        assert_memory_equal(&in, &out, sizeof in);
        assert_int_equal(packed_state(bytes), in.state);
        assert_int_equal(packed_watches(bytes), in.watches);
    }
}

/* A session as most are: a few commands, some kilobytes, INBOX of an account that has seen a million changes. */
static void usual(struct packed *p, const uint8_t *history)
{
    memset(p, 0, sizeof *p);
    p->conn.sock = (struct sock){15000, 30, 7};
    p->conn.peer = (struct net_addr){.ip = {192, 0, 2, 77}, .port = 50321, .family = AF_INET};
    p->conn.bytes_in = 900;
    p->conn.bytes_out = 60000;
    p->state = PACKED_IDLE;
    p->watches = true;
    memcpy(p->tag, "A1234", 5);
    p->tag_size = 5;
    p->partition = 4000;
    p->features = LINK_FEATURES_UNSAID;
    p->id = UINT64_C(0x12345678000000) + 5000000;
    p->operation = 12;
    p->commands = 30;
    memcpy(p->token.history, history, 16);
    p->token = (struct token){.mailbox_id = 1,
                              .appends = 1000000,
                              .expunges = 1000000,
                              .flag_changes = 1000000,
                              .uidvalidity = 1700000000,
                              .recent_first = 40000,
                              .recent_last = 40010,
                              .keyword_count = 5};
    memcpy(p->token.history, history, 16);
    p->known = 1000000;
}

static void test_sizes(void **state)
{
    uint8_t history[16];
    char bytes[PACKED_SIZE_MAX];
    size_t plain, tls, ticket, cluster;
    struct packed p, prelogin = {.features = LINK_FEATURES_UNSAID};
    struct packed_process process = {UINT64_C(0x12345678000000), 1};
    struct packed_shared shared = {&process, history, NULL, 4000}, none = {&process, NULL, NULL, 0};

    (void)state;
    fill(history, sizeof history);
    usual(&p, history);
    p.nonce = packed_nonce(&process, p.id);
    plain = packed_encode(&p, shared, bytes);
    p.conn.tls_size = 67;
    tls = packed_encode(&p, shared, bytes);
    fill(p.ticket.bytes, TICKET_SIZE);
    ticket = packed_encode(&p, shared, bytes);
    shared.ticket = &p.ticket;
    cluster = packed_encode(&p, shared, bytes);
    prelogin.conn = p.conn;
    prelogin.state = PACKED_COMMAND;
    prelogin.id = p.id;
    prelogin.nonce = p.nonce;
    printf("idle: plain %zu, TLS 1.3 %zu, and a ticket %zu, or his user's %zu; before login, TLS 1.3 %zu\n",
           plain, tls, ticket, cluster, packed_encode(&prelogin, none, bytes));
    assert_true(plain <= 50);
    assert_true(tls <= 118);
    assert_true(ticket <= 170);
    assert_true(cluster <= tls + 1);
    assert_true(packed_encode(&prelogin, none, bytes) <= 96);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_sizes)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
