/* tests/sim/echo.c -- the simulator looked at by itself: a server of several shards sends back what it gets,
 * clients compare. Connections may break; bytes may not change. */
#include "core/io.h"
#include "tests/sim/scenario.h"
#include "tests/sim/talk.h"
#include <errno.h>

#define PORT          7
#define CLIENTS       8
#define ROUNDS        20
#define SIZE_MAX_ECHO 20000

static const char *const operations[] = {"CONNECT", "ECHO", NULL};
enum { OPERATION_CONNECT, OPERATION_ECHO };

struct connection { /* Of the server. */
    struct io_op recv, send;
    struct iovec vector;
    struct sock sock;
};

struct server { /* A shard's. */
    struct sock listener;
    struct io_accept accept;
    struct timer retry;
};

static void connection_end(struct connection *c)
{
    io_close(c->sock);
    heap_free(shard_self()->heap, c);
}

static void server_recv_done(struct io_op *op)
{
    struct connection *c = CONTAINER_OF(op, struct connection, recv);

    if (op->res == -ENOBUFS) {
        io_recv(c->sock, op);
    } else if (op->res <= 0) {
        connection_end(c);
    } else {
        c->vector = (struct iovec){(void *)(uintptr_t)op->data.data, op->data.size};
        io_send(c->sock, &c->send, &c->vector, 1);
    }
}

static void server_send_done(struct io_op *op)
{
    struct connection *c = CONTAINER_OF(op, struct connection, send);

    io_recv_release(&c->recv);
    if (op->res < 0)
        connection_end(c);
    else
        io_recv(c->sock, &c->recv);
}

static void server_accept_done(struct io_op *op)
{
    struct server *s = CONTAINER_OF(op, struct server, accept.op);

    if (op->res == 0) {
        struct connection *c = heap_zalloc(shard_self()->heap, sizeof *c);

        c->sock = s->accept.sock;
        c->recv.done = server_recv_done;
        c->send.done = server_send_done;
        io_recv(c->sock, &c->recv);
    }
    io_accept(s->listener, &s->accept);
}

static int server_start(struct shard *shard)
{
    struct server *s = heap_zalloc(shard->heap, sizeof *s);
    struct net_addr any;
    int rc;

    if (!net_addr_parse(SLICE("*:7"), &any))
        return -EINVAL;
    rc = io_listen(&any, &s->listener);
    if (rc < 0)
        return rc;
    s->accept.op.done = server_accept_done;
    io_accept(s->listener, &s->accept);
    return 0;
}

static const struct node_ops server_ops = {.start = server_start};

/* ---- Clients ------------------------------------------------------------------------------------------- */

struct run {
    struct sim_world *world;
    unsigned ended;
    uint64_t echoed;
};

static bool echo_once(struct run *run, struct talk *s, char *sent)
{
    size_t size = 1 + random_u64() % SIZE_MAX_ECHO, got = 0;
    struct sim_operation operation;
    struct slice back;
    int rc;

    for (size_t k = 0; k < size; k++)
        sent[k] = (char)(k * 7 + size);
    sim_operation_begin(&operation, OPERATION_ECHO, s->sock);
    rc = talk_send(s, slice_of(sent, size));
    while (rc == 0 && got < size) {
        size_t part = MIN(size - got, 1000);

        rc = talk_bytes(s, part, &back);
        if (rc == 0 && memcmp(back.data, sent + got, part) != 0)
            sim_violation(run->world, "byte %zu of %zu came back changed", got, size);
        got += part;
    }
    sim_operation_end(&operation);
    run->echoed += rc == 0;
    return rc == 0;
}

static void client_run(void *arg)
{
    struct run *run = arg;
    char *sent = heap_alloc(shard_self()->heap, SIZE_MAX_ECHO);
    struct sim_operation operation;
    struct talk talk;
    struct net_addr to;

    if (!net_addr_parse(SLICE("127.0.0.1:7"), &to))
        return;
    talk_init(&talk, 20000);
    for (unsigned round = 0; round < ROUNDS;) {
        int rc;

        sim_operation_begin(&operation, OPERATION_CONNECT, SOCK_NONE);
        rc = talk_connect(&talk, &to);
        sim_operation_end(&operation);
        while (rc == 0 && round < ROUNDS && echo_once(run, &talk, sent))
            round++;
        talk_close(&talk);
        if (fiber_sleep_ms(1 + (uint32_t)(random_u64() % 500)) < 0)
            break;
    }
    heap_free(shard_self()->heap, sent);
    run->ended++;
}

static int clients_start(struct shard *shard)
{
    for (unsigned k = 0; k < CLIENTS; k++)
        if (fiber_start("client", RUN_INTERACTIVE, client_run, shard->node->owner) == NULL)
            return -EAGAIN;
    return 0;
}

static const struct node_ops clients_ops = {.start = clients_start};

static bool run_ended(void *arg)
{
    return ((struct run *)arg)->ended == CLIENTS;
}

static void echo_run(struct sim_world *w)
{
    struct run run = {.world = w};
    struct sim_node *server =
        sim_node_new(w, &(struct sim_node_options){
                            .name = "server", .ip = "127.0.0.1", .shard_count = 3, .ops = &server_ops});
    struct sim_node *clients = sim_node_new(w, &(struct sim_node_options){.name = "clients",
                                                                          .ip = "127.0.0.2",
                                                                          .shard_count = 1,
                                                                          .ops = &clients_ops,
                                                                          .owner = &run,
                                                                          .client = true});

    sim_nemesis_start(
        w, &(struct sim_nemesis_options){
               .faults = UINT32_MAX, .mean_ns = 500 * SIM_MS, .until_ns = 30 * SIM_S, .restart_ns = SIM_S});
    sim_node_start(server);
    sim_node_start(clients);
    if (!sim_run(w, 600 * SIM_S, run_ended, &run))
        sim_violation(w, "%u of %u clients have ended, %llu echoes", run.ended, CLIENTS,
                      (unsigned long long)run.echoed);
}

const struct scenario scenario_echo = {"echo", "a server that sends back what it gets", operations, echo_run,
                                       false};
