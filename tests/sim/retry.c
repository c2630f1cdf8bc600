/* tests/sim/retry.c -- the store alone, under changes that carry operation ids: clients repeat a change with
 * its id until they are told of its end, over crashes and lost answers, and now and then once more. Each is
 * executed once, and every answer names the same UID. */
#include "core/io.h"
#include "storage/account.h"
#include "storage/body.h"
#include "storage/change.h"
#include "tests/sim/scenario.h"
#include "tests/sim/talk.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define CLIENTS     4
#define NUMBERS     40 /* Each client's. */
#define USERS       2
#define LINE_MAX    64
#define FAULTS_S    25
#define PATIENCE_NS (900 * SIM_S)

static const char *const operations[] = {"PUT", "LIST", NULL};
enum { OPERATION_PUT, OPERATION_LIST };

struct run {
    struct sim_world *world;
    unsigned begun, ended;
    uint32_t uids[CLIENTS][NUMBERS]; /* As acknowledged; 0: not yet. */
};

/* ---- The server ---------------------------------------------------------------------------------------- */

struct server {
    struct sock listener;
    struct io_accept accept;
};

struct put {
    unsigned client, number;
    struct slice user;
    uint32_t uid;
};

static struct slice user_of(unsigned client, char name[16])
{
    snprintf(name, 16, "user%u", client % USERS);
    return slice_str(name);
}

static int body_make(struct store *store, const struct put *p, struct body **body_out)
{
    struct body_writer *writer;
    char text[LINE_MAX];
    int rc = body_begin(store, 0, &writer);

    if (rc < 0)
        return rc;
    snprintf(text, sizeof text, "X: y\r\n\r\n%u %u\r\n", p->client, p->number);
    rc = body_write(writer, slice_str(text));
    if (rc == 0)
        rc = body_finish(writer, body_out);
    if (rc < 0)
        body_abort(writer);
    return rc;
}

static int put_change(struct account *a, struct body *body, struct put *p)
{
    struct change_message message = {.body = body};
    struct id128 id = {{1}};
    struct change change;
    char result[16];
    int rc;

    put_u32(id.bytes + 4, p->client);
    put_u32(id.bytes + 8, p->number);
    rc = change_begin(&change, a, &id);
    if (rc == -EALREADY) {
        memcpy(result, change.result.data, MIN(change.result.size, sizeof result - 1));
        result[MIN(change.result.size, sizeof result - 1)] = '\0';
        p->uid = (uint32_t)strtoul(result, NULL, 10);
        rc = 0;
    } else if (rc == 0) {
        rc = change_append(&change, account_mailbox(a, SLICE("INBOX")), &message, &p->uid);
        snprintf(result, sizeof result, "%u", p->uid);
        if (rc == 0)
            rc = change_commit(&change, slice_str(result));
    }
    change_end(&change);
    return rc;
}

static int put_run(struct put *p)
{
    struct account *a;
    struct body *body;
    int rc = account_open(store_self(), p->user, ACCOUNT_CREATE, &a);

    if (rc < 0)
        return rc;
    rc = body_make(store_self(), p, &body);
    if (rc == 0) {
        rc = put_change(a, body, p);
        body_free(body);
    }
    account_close(a);
    return rc;
}

static int list_one(const struct message *message, struct talk *to)
{
    struct body_location location = message->body;
    char text[LINE_MAX] = "", line[LINE_MAX];
    unsigned client, number;
    struct body_reader *reader;
    uint32_t uid = message->uid;
    ssize_t size;
    int rc = body_open(store_self(), &location, &reader);

    if (rc < 0)
        return rc;
    size = body_read(reader, text, sizeof text - 1, 0);
    body_close(reader);
    if (size < 0)
        return (int)size;
    if (sscanf(text, "X: y %u %u", &client, &number) != 2)
        return -EBADMSG;
    snprintf(line, sizeof line, "%u %u %u\r\n", client, number, uid);
    return talk_send(to, slice_str(line));
}

static int list_run(struct slice user, struct talk *to)
{
    const struct message *message;
    struct account *a;
    uint32_t uid = 0;
    int rc = account_open(store_self(), user, ACCOUNT_CREATE, &a);

    while (rc == 0) {
        const struct mailbox *m = account_mailbox(a, SLICE("INBOX"));
        uint32_t index = mailbox_message_find(m, uid + 1);

        if (index >= m->message_count) {
            account_close(a);
            return talk_send(to, SLICE(".\r\n"));
        }
        message = mailbox_message_at(m, index);
        uid = message->uid;
        rc = list_one(message, to);
        if (rc < 0)
            account_close(a);
    }
    return rc;
}

/* Negative: the connection ends without an answer. */
static int answer(struct talk *t, struct slice line)
{
    char text[LINE_MAX] = "", user[16];
    struct put p = {0};
    int rc;

    memcpy(text, line.data, MIN(line.size, sizeof text - 1));
    if (sscanf(text, "LIST %u", &p.client) == 1)
        return list_run(user_of(p.client, user), t);
    if (sscanf(text, "PUT %u %u", &p.client, &p.number) != 2)
        return -EPROTO;
    p.user = user_of(p.client, user);
    rc = put_run(&p);
    if (rc == -EINPROGRESS)
        return rc;
    snprintf(text, sizeof text, rc == 0 ? "OK %u\r\n" : "NO\r\n", p.uid);
    return talk_send(t, slice_str(text));
}

static void session_run(void *arg)
{
    struct talk *t = arg;
    struct slice line;

    while (talk_line(t, &line) == 0 && answer(t, line) == 0)
        ;
    talk_close(t);
    heap_free(shard_self()->heap, t);
}

static void accept_done(struct io_op *op)
{
    struct server *s = CONTAINER_OF(op, struct server, accept.op);

    if (op->res == 0) {
        struct talk *t = heap_zalloc(shard_self()->heap, sizeof *t);

        talk_init(t, 60000);
        t->sock = s->accept.sock;
        if (fiber_start("session", RUN_INTERACTIVE, session_run, t) == NULL) {
            talk_close(t);
            heap_free(shard_self()->heap, t);
        }
    }
    io_accept(s->listener, &s->accept);
}

static int server_start(struct shard *shard)
{
    struct server *s = heap_zalloc(shard->heap, sizeof *s);
    const struct store_config config = {
        .node_name = "server", .segment_size = 1 << 20, .checkpoint_size = 1 << 14};
    struct store *store;
    struct net_addr any;
    int rc = store_open(&config, &store);

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

static int connect_if_needed(struct talk *t)
{
    struct net_addr to;

    if (sock_valid(t->sock))
        return 0;
    return net_addr_parse(SLICE("127.0.0.1:7"), &to) ? talk_connect(t, &to) : -EINVAL;
}

/* The UID, or 0: not told. */
static uint32_t put_once(struct talk *t, unsigned client, unsigned number)
{
    struct sim_operation o;
    char text[LINE_MAX] = "";
    struct slice line;
    unsigned uid = 0;
    int rc;

    snprintf(text, sizeof text, "PUT %u %u\r\n", client, number);
    sim_operation_begin(&o, OPERATION_PUT, t->sock);
    rc = connect_if_needed(t);
    if (rc == 0)
        rc = talk_send(t, slice_str(text));
    if (rc == 0)
        rc = talk_line(t, &line);
    if (rc == 0) {
        memset(text, 0, sizeof text);
        memcpy(text, line.data, MIN(line.size, sizeof text - 1));
        if (sscanf(text, "OK %u", &uid) != 1)
            uid = 0;
    }
    sim_operation_end(&o);
    if (rc < 0)
        talk_abort(t);
    return uid;
}

static void put_until_told(struct run *run, struct talk *t, unsigned client, unsigned number)
{
    uint32_t *told = &run->uids[client][number];
    unsigned more = random_u64() % 3 == 0;

    for (;;) {
        uint32_t uid = put_once(t, client, number);

        if (uid != 0 && *told != 0 && uid != *told)
            sim_violation(run->world, "%u %u had UID %u, and its repetition says %u", client, number, *told,
                          uid);
        if (uid != 0)
            *told = uid;
        if (*told != 0 && more-- == 0)
            return;
        if (fiber_sleep_ms(1 + (uint32_t)(random_u64() % 500)) < 0)
            return;
    }
}

static void client_run(void *arg)
{
    struct run *run = arg;
    unsigned client = run->begun++;
    struct talk talk;

    talk_init(&talk, 10000);
    for (unsigned number = 0; number < NUMBERS; number++)
        put_until_told(run, &talk, client, number);
    talk_close(&talk);
    run->ended++;
}

/* ---- The oracle ---------------------------------------------------------------------------------------- */

static int list_once(struct run *run, struct talk *t, unsigned user)
{
    unsigned count[CLIENTS][NUMBERS] = {{0}};
    char text[LINE_MAX];
    struct slice line;
    int rc = connect_if_needed(t);

    snprintf(text, sizeof text, "LIST %u\r\n", user);
    if (rc == 0)
        rc = talk_send(t, slice_str(text));
    while (rc == 0 && (rc = talk_line(t, &line)) == 0 && !slice_eq(line, SLICE("."))) {
        unsigned client, number, uid;

        memset(text, 0, sizeof text);
        memcpy(text, line.data, MIN(line.size, sizeof text - 1));
        if (sscanf(text, "%u %u %u", &client, &number, &uid) != 3 || client >= CLIENTS || number >= NUMBERS)
            return -EPROTO;
        if (++count[client][number] == 2)
            sim_violation(run->world, "%u %u is there twice, again as UID %u", client, number, uid);
        if (uid != run->uids[client][number] && count[client][number] == 1)
            sim_violation(run->world, "%u %u is UID %u, and UID %u was acknowledged", client, number, uid,
                          run->uids[client][number]);
    }
    for (unsigned k = 0; rc == 0 && k < CLIENTS * NUMBERS; k++)
        if (k / NUMBERS % USERS == user && count[k / NUMBERS][k % NUMBERS] == 0)
            sim_violation(run->world, "%u %u was acknowledged and is lost", k / NUMBERS, k % NUMBERS);
    return rc;
}

static void oracle_run(void *arg)
{
    struct run *run = arg;
    struct talk talk;

    talk_init(&talk, 10000);
    for (unsigned user = 0; user < USERS; user++) {
        struct sim_operation o;
        int rc;

        do {
            sim_operation_begin(&o, OPERATION_LIST, talk.sock);
            rc = list_once(run, &talk, user);
            sim_operation_end(&o);
            if (rc < 0)
                talk_abort(&talk);
        } while (rc < 0 && fiber_sleep_ms(1000) == 0);
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

static int oracle_start(struct shard *shard)
{
    return fiber_start("oracle", RUN_INTERACTIVE, oracle_run, shard->node->owner) == NULL ? -EAGAIN : 0;
}

static const struct node_ops clients_ops = {.start = clients_start}, oracle_ops = {.start = oracle_start};

struct until {
    const struct run *run;
    unsigned ended;
};

static bool run_ended(void *arg)
{
    const struct until *u = arg;

    return u->run->ended == u->ended;
}

static struct sim_node *node_make(struct run *run, const char *name, const char *ip,
                                  const struct node_ops *ops, bool client)
{
    return sim_node_new(
        run->world,
        &(struct sim_node_options){
            .name = name, .ip = ip, .shard_count = 1, .ops = ops, .owner = run, .client = client});
}

static void retry_run(struct sim_world *w)
{
    /* After a failed disk the store waits for a restart: kills and power failures bring it. Rot cannot be
     * repaired. */
    const uint32_t never =
        1u << SIM_ROT | 1u << SIM_READ_ERROR | 1u << SIM_WRITE_ERROR | 1u << SIM_FLUSH_ERROR | 1u << SIM_FULL;
    struct run run = {.world = w};
    struct until until = {&run, CLIENTS};
    struct sim_node *server = node_make(&run, "server", "127.0.0.1", &server_ops, false);
    struct sim_node *clients = node_make(&run, "clients", "127.0.0.2", &clients_ops, true);
    struct sim_node *oracle = node_make(&run, "oracle", "127.0.0.3", &oracle_ops, true);

    sim_nemesis_start(w, &(struct sim_nemesis_options){.faults = ~never,
                                                       .mean_ns = 700 * SIM_MS,
                                                       .until_ns = sim_now_ns(w) + FAULTS_S * SIM_S,
                                                       .restart_ns = SIM_S});
    sim_node_start(server);
    sim_node_start(clients);
    if (sim_run(w, PATIENCE_NS, run_ended, &until)) {
        sim_node_start(oracle);
        until.ended++;
        (void)sim_run(w, 2 * PATIENCE_NS, run_ended, &until);
    }
    if (run.ended != CLIENTS + 1 && sim_violation_count(w) == 0)
        sim_violation(w, "%u of %u have ended", run.ended, CLIENTS + 1);
}

const struct scenario scenario_retry = {"retry", "the store alone: changes repeated with their operation ids",
                                        operations, retry_run, false};
