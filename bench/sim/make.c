/* bench/sim/make.c -- sessions that have not come by a handshake. Each is what a real one leaves when it goes to sleep (one of
 * those is the model), with its own socket, account, ticket, ids and TLS secrets; the proxy packs it with the function that
 * packs the others. Accounts are made by the backend, on its disk; tickets by the director. */
#include "bench/sim/sessions.h"
#include "core/fiber.h"
#include "core/metrics.h"
#include "net/tls_record.h"
#include "roles/backend/backend.h"
#include "roles/director/cluster.h"
#include "roles/proxy/proxy.h"
#include <stdlib.h>
#include <xxhash.h>

#define BATCH    512 /* Users; a fiber of the backend each. */
#define BATCH_S  60
#define SETTLE_S 600

struct made_user {
    struct batch *batch;
    unsigned user;
    uint8_t history[16];
    uint64_t mailbox_id, modseq;
    uint32_t uidvalidity;
    uint16_t partition;
    struct ticket ticket;
};

struct batch {
    struct sessions *bench;
    struct packed model;
    unsigned first, count, opened, failed;
    unsigned watch_count, watches[BATCH * 16]; /* Clients whose session was made. */
    struct made_user users[BATCH];
};

/* ---- At the backend, at the director ------------------------------------------------------------------- */

static void account_run(void *arg)
{
    struct made_user *u = arg;
    struct account *a;
    char name[16];
    int rc = backend_account_open(backend_self(), slice_of(name, user_name(u->user, name)), &a);

    if (rc == 0) {
        const struct mailbox *inbox = account_mailbox(a, SLICE("INBOX"));

        memcpy(u->history, a->history.bytes, sizeof u->history);
        u->modseq = a->modseq;
        u->mailbox_id = inbox->id;
        u->uidvalidity = inbox->uidvalidity;
        account_close(a);
    }
    u->batch->failed += rc < 0;
    u->batch->opened++;
}

static void accounts_start(void *arg)
{
    struct batch *b = arg;

    for (unsigned i = 0; i < b->count; i++) {
        b->users[i] = (struct made_user){.batch = b, .user = b->first + i};
        if (fiber_start("account", RUN_INTERACTIVE, account_run, &b->users[i]) == NULL) {
            b->failed++;
            b->opened++;
        }
    }
}

static void tickets_make(void *arg)
{
    struct batch *b = arg;

    for (unsigned i = 0; i < b->count; i++) {
        struct made_user *u = &b->users[i];
        char name[16];
        struct ticket_claim claim = {.scope = TICKET_SESSION,
                                     .generation = cluster_generation(),
                                     .proxy = SLICE("proxy"),
                                     .user = slice_of(name, user_name(u->user, name))};

        if (cluster_partition(claim.user, &u->partition))
            cluster_ticket(&claim, &u->ticket);
        else
            b->failed++;
    }
}

/* ---- At the proxy -------------------------------------------------------------------------------------- */

void make_secret(unsigned index, bool of_server, uint8_t out[32])
{
    uint64_t seed[2] = {index, of_server};

    for (unsigned i = 0; i < 4; i++)
        put_u64(out + i * 8, XXH3_64bits_withSeed(seed, sizeof seed, i));
}

static void secrets_pack(struct sessions *b, unsigned index, struct conn_packed *conn)
{
    struct tls_record r = {.suite = &tls_suites[0]};

    r.read.sequence = b->client_sequence;
    r.write.sequence = b->server_sequence;
    make_secret(index, false, r.read.secret);
    make_secret(index, true, r.write.secret);
    conn->tls_size = (uint8_t)tls_record_pack(&r, false, conn->tls);
    bytes_wipe(&r, sizeof r);
}

static bool session_make(struct batch *b, const struct made_user *u, unsigned index)
{
    struct sessions *bench = b->bench;
    struct proxy *p = shard_self()->slot[SLOT_PROXY];
    struct metrics *m = shard_self()->metrics;
    struct packed packed = b->model;
    char name[16];

    if (!sleepers_reserve(&p->sleepers) ||
        !sim_join(bench->shards[CLIENTS], bench->shards[PROXY], &bench->clients[index].sock,
                  &packed.conn.sock, &packed.conn.peer))
        return false;
    secrets_pack(bench, index, &packed.conn);
    packed.id = ++p->next_id;
    packed.nonce = packed_nonce(&p->process, packed.id);
    packed.partition = u->partition;
    packed.ticket = u->ticket;
    packed.known = 0;
    packed.token.uidvalidity = u->uidvalidity;
    packed.token.mailbox_id = u->mailbox_id;
    packed.token.appends = packed.token.expunges = packed.token.flag_changes = u->modseq;
    memcpy(packed.token.history, u->history, sizeof u->history);
    p->connections++;
    m->connections++;
    m->sessions++;
    m->session_states[METRIC_SESSION_ASLEEP]++;
    (void)sleepers_add(&p->sleepers, &packed,
                       users_get(&p->users, slice_of(name, user_name(u->user, name)), u->partition),
                       time_ms() + 1 + random_u64() % p->limits.idle_keep_alive_ms);
    bench->clients[index].answered = true;
    bytes_wipe(&packed, sizeof packed);
    return true;
}

static void sessions_make(void *arg)
{
    struct batch *b = arg;
    const struct options *o = &b->bench->options;

    b->watch_count = 0;
    for (unsigned i = 0; i < b->count; i++) {
        for (unsigned index = b->users[i].user; index < o->count && b->watch_count < ARRAY_COUNT(b->watches);
             index += o->users) {
            if (index < o->handshakes)
                continue;
            if (session_make(b, &b->users[i], index))
                b->watches[b->watch_count++] = index;
            else
                b->failed++;
        }
    }
}

static void clients_watch(void *arg)
{
    struct batch *b = arg;

    for (unsigned i = 0; i < b->watch_count; i++)
        client_idle(b->bench, b->watches[i]);
}

/* What a real session leaves. */
static void model_take(void *arg)
{
    struct batch *b = arg;
    struct proxy *p = shard_self()->slot[SLOT_PROXY];
    uint32_t id = sleepers_next(&p->sleepers, 0);
    struct tls_record r;
    bool flag;

    if (id == RECORD_NONE) {
        b->failed++;
        return;
    }
    sleepers_look(&p->sleepers, id, &b->model);
    if (b->model.state != PACKED_IDLE ||
        !tls_record_unpack(&r, &flag, b->model.conn.tls, b->model.conn.tls_size) || r.suite != &tls_suites[0])
        b->failed++;
    b->bench->client_sequence = r.read.sequence;
    b->bench->server_sequence = r.write.sequence;
    bytes_wipe(&r, sizeof r);
}

/* ---- All ----------------------------------------------------------------------------------------------- */

static struct batch batch;

static bool batch_opened(void *arg)
{
    return batch.opened == batch.count;
}

static bool batch_make(struct sessions *b, unsigned first)
{
    batch.first = first;
    batch.count = MIN(b->options.users - first, (unsigned)BATCH);
    batch.opened = 0;
    sim_call(b->shards[BACKEND], accounts_start, &batch);
    if (!world_run(b, BATCH_S, batch_opened))
        return false;
    sim_call(b->shards[DIRECTOR], tickets_make, &batch);
    sim_call(b->shards[PROXY], sessions_make, &batch);
    sim_call(b->shards[CLIENTS], clients_watch, &batch);
    b->made += batch.watch_count;
    return batch.failed == 0;
}

/* The backend has said of every account where it stands, and everybody sleeps. */
static bool settled(struct sessions *b)
{
    const struct proxy *p = b->shards[PROXY]->slot[SLOT_PROXY];
    const struct records *users = &p->users.records;

    if (!list_empty(&p->session_list))
        return false;
    for (uint32_t id = records_next(users, 0); id != RECORD_NONE; id = records_next(users, id + 1))
        if (user_at(&p->users, id)->modseq == 0)
            return false;
    return true;
}

bool make_all(struct sessions *b)
{
    batch = (struct batch){.bench = b};
    sim_call(b->shards[PROXY], model_take, &batch);
    for (unsigned first = 0; first < b->options.users && batch.failed == 0; first += BATCH)
        if (!batch_make(b, first))
            return false;
    bytes_wipe(&batch.model, sizeof batch.model);
    for (unsigned s = 0; batch.failed == 0 && s < SETTLE_S; s++) {
        if (settled(b))
            return true;
        world_run(b, 1, NULL);
    }
    return false;
}
