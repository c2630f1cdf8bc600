/* tests/sim/log.c -- a tiny store: clients send numbers, the server appends each to a file, flushes, and says
 * so. After every crash what was acknowledged must be there, once, in order, and nothing that nobody sent.
 * The broken one acknowledges before the flush, and must be found. */
#include "core/io.h"
#include "tests/sim/scenario.h"
#include "tests/sim/talk.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define CLIENTS     4
#define NUMBERS     40 /* Each client's. */
#define RECORD_SIZE 32
#define FILE_NAME   "log"

static const char *const operations[] = {"APPEND", "READ", NULL};
enum { OPERATION_APPEND, OPERATION_READ };

struct run {
    struct sim_world *world;
    bool broken;
    unsigned ended;
    bool acknowledged[CLIENTS][NUMBERS];
    unsigned next_client;
};

/* ---- The server: one fiber a connection, as a test may ------------------------------------------------- */

struct store { /* One shard's, one file. */
    struct run *run;
    struct sock listener;
    struct io_accept accept;
    struct file file;
    uint64_t size;
    struct turn turn;
};

static uint32_t checksum(const char *record)
{
    uint32_t sum = 1;

    for (unsigned k = 4; k < RECORD_SIZE; k++)
        sum = sum * 31 + (uint8_t)record[k];
    return sum;
}

static int store_append(struct store *s, struct slice text)
{
    char record[RECORD_SIZE] = {0};
    struct iovec vector = {record, sizeof record};
    int rc;

    memcpy(record + 4, text.data, MIN(text.size, RECORD_SIZE - 5));
    put_u32(record, checksum(record));
    rc = turn_take(&s->turn);
    if (rc < 0)
        return rc;
    if (s->run->broken)
        rc = file_write(s->file, &vector, 1, s->size);
    else
        rc = file_write_flush(s->file, &vector, 1, s->size);
    if (rc == 0)
        s->size += RECORD_SIZE;
    turn_give(&s->turn);
    return rc;
}

static int store_list(struct store *s, struct talk *to)
{
    for (uint64_t at = 0; at < s->size; at += RECORD_SIZE) {
        char record[RECORD_SIZE], line[RECORD_SIZE + 2];
        ssize_t got = file_read(s->file, record, sizeof record, at);
        int rc;

        if (got != RECORD_SIZE || get_u32(record) != checksum(record))
            return -EIO;
        record[RECORD_SIZE - 1] = '\0';
        snprintf(line, sizeof line, "%s\r\n", record + 4);
        rc = talk_send(to, slice_str(line));
        if (rc < 0)
            return rc;
    }
    return talk_send(to, SLICE(".\r\n"));
}

struct session {
    struct store *store;
    struct talk talk;
};

static void session_run(void *arg)
{
    struct session *x = arg;
    struct slice line;

    while (talk_line(&x->talk, &line) == 0) {
        int rc;

        if (slice_eq(line, SLICE("LIST"))) {
            if (store_list(x->store, &x->talk) < 0)
                break;
            continue;
        }
        rc = store_append(x->store, line);
        if (talk_send(&x->talk, rc == 0 ? SLICE("OK\r\n") : SLICE("NO\r\n")) < 0 || rc < 0)
            break;
    }
    talk_close(&x->talk);
    heap_free(shard_self()->heap, x);
}

static void accept_done(struct io_op *op)
{
    struct store *s = CONTAINER_OF(op, struct store, accept.op);

    if (op->res == 0) {
        struct session *x = heap_zalloc(shard_self()->heap, sizeof *x);

        x->store = s;
        talk_init(&x->talk, 60000);
        x->talk.sock = s->accept.sock;
        if (fiber_start("session", RUN_INTERACTIVE, session_run, x) == NULL) {
            talk_close(&x->talk);
            heap_free(shard_self()->heap, x);
        }
    }
    io_accept(s->listener, &s->accept);
}

/* A process that died after a failed flush has left records that the cache shows and the disk does not have: what is
 * taken over is written again. */
static int store_rewrite(struct store *s)
{
    char record[RECORD_SIZE];
    struct iovec vector = {record, sizeof record};

    for (uint64_t at = 0; at < s->size; at += RECORD_SIZE) {
        ssize_t rc = file_read(s->file, record, sizeof record, at);

        if (rc == RECORD_SIZE)
            rc = file_write(s->file, &vector, 1, at);
        if (rc < 0)
            return (int)rc;
    }
    return file_flush(s->file);
}

/* Cuts a torn tail; anything else that is bad would be an error. */
static int store_recover(struct store *s)
{
    char record[RECORD_SIZE];
    ssize_t got;

    while ((got = file_read(s->file, record, sizeof record, s->size)) == RECORD_SIZE &&
           get_u32(record) == checksum(record))
        s->size += RECORD_SIZE;
    if (got < 0)
        return (int)got;
    got = file_truncate(s->file, s->size);
    return got < 0 ? (int)got : store_rewrite(s);
}

static int server_start(struct shard *shard)
{
    struct store *s = heap_zalloc(shard->heap, sizeof *s);
    struct net_addr any;
    int rc;

    s->run = shard->node->owner;
    turn_init(&s->turn);
    rc = file_open(FILE_NAME, O_RDWR | O_CREAT, 0600, &s->file);
    if (rc == 0)
        rc = dir_flush(".");
    if (rc == 0)
        rc = store_recover(s);
    if (rc == 0 && !net_addr_parse(SLICE("*:7"), &any))
        rc = -EINVAL;
    if (rc == 0)
        rc = io_listen(&any, &s->listener);
    if (rc < 0)
        return rc;
    s->accept.op.done = accept_done;
    io_accept(s->listener, &s->accept);
    return 0;
}

static const struct node_ops server_ops = {.start = server_start};

/* ---- Clients ------------------------------------------------------------------------------------------- */

static const struct net_addr *server_address(struct net_addr *to)
{
    bool ok = net_addr_parse(SLICE("127.0.0.1:7"), to);

    ASSERT(ok);
    return to;
}

/* True: acknowledged. */
static bool append_once(struct talk *s, unsigned client, unsigned number)
{
    struct sim_operation operation;
    struct net_addr to;
    struct slice line;
    char text[32];
    int rc = 0;

    snprintf(text, sizeof text, "%u %u\r\n", client, number);
    sim_operation_begin(&operation, OPERATION_APPEND, s->sock);
    if (!sock_valid(s->sock))
        rc = talk_connect(s, server_address(&to));
    if (rc == 0)
        rc = talk_send(s, slice_str(text));
    if (rc == 0)
        rc = talk_line(s, &line);
    sim_operation_end(&operation);
    if (rc == 0 && slice_eq(line, SLICE("OK")))
        return true;
    talk_close(s);
    return false;
}

static void client_run(void *arg)
{
    struct run *run = arg;
    unsigned client = run->next_client++;
    struct talk talk;

    talk_init(&talk, 10000);
    for (unsigned number = 0; number < NUMBERS; number++) {
        run->acknowledged[client][number] = append_once(&talk, client, number);
        if (fiber_sleep_ms((uint32_t)(random_u64() % 1000)) < 0)
            break;
    }
    talk_close(&talk);
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

/* ---- The oracle ---------------------------------------------------------------------------------------- */

static int read_all(struct run *run, struct talk *s)
{
    unsigned count[CLIENTS][NUMBERS] = {{0}};
    struct net_addr to;
    struct slice line;
    int rc = talk_connect(s, server_address(&to));

    if (rc == 0)
        rc = talk_send(s, SLICE("LIST\r\n"));
    while (rc == 0 && (rc = talk_line(s, &line)) == 0 && !slice_eq(line, SLICE("."))) {
        unsigned client, number;
        char text[RECORD_SIZE + 1] = "";

        memcpy(text, line.data, MIN(line.size, RECORD_SIZE));
        if (sscanf(text, "%u %u", &client, &number) != 2 || client >= CLIENTS || number >= NUMBERS) {
            sim_violation(run->world, "nobody sent '%s'", text);
            return 0;
        }
        count[client][number]++;
    }
    for (unsigned k = 0; rc == 0 && k < CLIENTS * NUMBERS; k++) {
        unsigned n = count[k / NUMBERS][k % NUMBERS];

        if (n > 1)
            sim_violation(run->world, "%u %u is there %u times", k / NUMBERS, k % NUMBERS, n);
        if (n == 0 && run->acknowledged[k / NUMBERS][k % NUMBERS])
            sim_violation(run->world, "%u %u was acknowledged and is lost", k / NUMBERS, k % NUMBERS);
    }
    return rc;
}

static void oracle_run(void *arg)
{
    struct run *run = arg;
    struct sim_operation operation;
    struct talk talk;
    int rc;

    talk_init(&talk, 10000);
    do {
        sim_operation_begin(&operation, OPERATION_READ, SOCK_NONE);
        rc = read_all(run, &talk);
        sim_operation_end(&operation);
        talk_close(&talk);
    } while (rc < 0 && fiber_sleep_ms(1000) == 0);
    run->ended++;
}

static int oracle_start(struct shard *shard)
{
    return fiber_start("oracle", RUN_INTERACTIVE, oracle_run, shard->node->owner) == NULL ? -EAGAIN : 0;
}

static const struct node_ops oracle_ops = {.start = oracle_start};

struct until {
    struct run *run;
    unsigned ended;
};

static bool run_ended(void *arg)
{
    const struct until *u = arg;

    return u->run->ended == u->ended;
}

static void log_run(struct sim_world *w, bool broken)
{
    struct run run = {.world = w, .broken = broken};
    struct until until = {&run, CLIENTS};
    struct sim_node *server = sim_node_new(
        w, &(struct sim_node_options){
               .name = "server", .ip = "127.0.0.1", .shard_count = 1, .ops = &server_ops, .owner = &run});
    struct sim_node *clients = sim_node_new(w, &(struct sim_node_options){.name = "clients",
                                                                          .ip = "127.0.0.2",
                                                                          .shard_count = 1,
                                                                          .ops = &clients_ops,
                                                                          .owner = &run,
                                                                          .client = true});
    struct sim_node *oracle = sim_node_new(w, &(struct sim_node_options){.name = "oracle",
                                                                         .ip = "127.0.0.3",
                                                                         .shard_count = 1,
                                                                         .ops = &oracle_ops,
                                                                         .owner = &run,
                                                                         .client = true});

    /* Rot is not among them: this store cannot tell it from a torn tail. */
    sim_nemesis_start(
        w, &(struct sim_nemesis_options){
               .faults = ~(1u << SIM_ROT), .mean_ns = SIM_S, .until_ns = 25 * SIM_S, .restart_ns = SIM_S});
    sim_node_start(server);
    sim_node_start(clients);
    if (!sim_run(w, 600 * SIM_S, run_ended, &until)) {
        sim_violation(w, "the clients have not ended");
        return;
    }
    sim_node_start(oracle);
    until.ended++;
    if (!sim_run(w, 1200 * SIM_S, run_ended, &until))
        sim_violation(w, "the log cannot be read");
}

static void log_run_whole(struct sim_world *w)
{
    log_run(w, false);
}

static void log_run_broken(struct sim_world *w)
{
    log_run(w, true);
}

const struct scenario scenario_log = {"log", "a file of records, each flushed before it is acknowledged",
                                      operations, log_run_whole, false};
const struct scenario scenario_log_broken = {
    "log-broken", "the same, acknowledged before the flush: must be found", operations, log_run_broken, true};
