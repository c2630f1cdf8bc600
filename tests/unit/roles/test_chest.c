/* Sessions that go from one shard's proxy to another's through a chest, back and forth, as they do between two processes: real sockets, real
 * records of TLS. The other side may end at any moment of the conversation, and when it has used some of them. Whoever is not lost by the rules goes on with his
 * socket, his history and his numbers; and no key ever seals two records with one nonce. */
#include "core/fiber.h"
#include "core/io.h"
#include "core/node.h"
#include "core/shard_call.h"
#include "net/deflate.h"
#include "net/tls_boring.h"
#include "roles/proxy/chest.h"
#include "roles/words/ledger.h"
#include "tests/unit/net/nonces.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/on_node.h"

#define SESSIONS 300
#define ROUNDS   40

/* ---- What a session must be ---------------------------------------------------------------------------- */

static struct model {
    bool alive;
    int fd;           /* Its client. */
    struct tls *peer; /* The client's, on shard 0. */
    struct packed packed;
    char user[16];
    unsigned history_size; /* 0: not compressed. */
    unsigned hello_size;   /* 0: no ClientHello beside it. */
    uint32_t said;
    char wire[128]; /* What it has sealed last. */
    uint32_t wire_size;
} models[SESSIONS];

static char history_byte(uint64_t id, unsigned at)
{
    return (char)(id * 31 + at * 7);
}

/* ---- On a shard's loop --------------------------------------------------------------------------------- */

static struct proxy *proxy_of(const struct shard *s)
{
    return s->slot[SLOT_PROXY];
}

static void proxy_make(void *arg)
{
    struct shard *s = shard_self();
    struct proxy *p = heap_zalloc(s->heap, sizeof *p);

    p->shard = s;
    p->heap = s->heap;
    p->limits.login_timeout_ms = p->limits.session_idle_ms = p->limits.idle_keep_alive_ms = 3600000;
    p->process = (struct packed_process){.id_base = 1000, .secret = 77}; /* Of both: HELLO would see to it. */
    users_init(&p->users, p->heap, NULL);
    subscriptions_init(&p->subscriptions, p);
    sleepers_init(&p->sleepers, p);
    sleepers_freeze(&p->sleepers);
    s->slot[SLOT_PROXY] = p;
    CHECK(tls_shard_acquire());
}

static void proxy_drop(void *arg)
{
    struct shard *s = shard_self();
    struct proxy *p = proxy_of(s);

    chest_drop(s);
    sleepers_fini(&p->sleepers);
    subscriptions_fini(&p->subscriptions);
    users_fini(&p->users);
    heap_free(s->heap, p);
    s->slot[SLOT_PROXY] = NULL;
    tls_shard_release();
}

static void session_add(struct proxy *p, const struct model *m, const struct packed *packed)
{
    CHECK(sleepers_reserve(&p->sleepers));
    sleepers_add(&p->sleepers, packed, users_get(&p->users, slice_str(m->user), packed->partition),
                 time_ms() + 1800000);
    p->connections++;
}

/* Everything but the socket, TLS and the place of its history. */
static void session_check(const struct proxy *p, uint32_t id, const struct packed *packed)
{
    struct model *m = &models[packed->id];
    struct packed want = m->packed, have = *packed;
    int64_t left_ms = (int64_t)(sleepers_deadline_ms(&p->sleepers, id) - time_ms());

    CHECK(m->alive);
    CHECK(slice_eq(sleepers_user(&p->sleepers, id), slice_str(m->user)));
    CHECK(left_ms > 1700000 && left_ms < 1900000);
    CHECK((have.conn.history != NULL) == (m->history_size > 0));
    for (unsigned i = 0; have.conn.history != NULL && i < m->history_size; i++)
        CHECK(have.conn.history->bytes[i] == history_byte(have.id, i));
    CHECK((have.conn.hello != NULL) == (m->hello_size > 0) && have.conn.hello_size == m->hello_size);
    for (unsigned i = 0; have.conn.hello != NULL && i < m->hello_size; i++)
        CHECK(have.conn.hello[i] == history_byte(have.id, i));
    want.conn.sock = have.conn.sock = SOCK_NONE;
    want.conn.history = have.conn.history = NULL;
    want.conn.hello = have.conn.hello = NULL;
    want.conn.hello_size = have.conn.hello_size = 0;
    memcpy(want.conn.tls, have.conn.tls, sizeof want.conn.tls);
    want.conn.tls_size = have.conn.tls_size;
    CHECK(memcmp(&want, &have, sizeof want) == 0);
}

/* Wakes, seals, and sleeps again. */
static void session_speak(struct proxy *p, uint32_t id)
{
    struct packed packed;
    struct tls_output out = {0};
    struct model *m;
    struct tls *t;
    char number[4];

    memset(&packed, 0, sizeof packed);
    ledger_use(p->sleepers.ledger, id);
    sleepers_look(&p->sleepers, id, &packed);
    session_check(p, id, &packed);
    m = &models[packed.id];
    t = tls_unpack(packed.conn.tls, packed.conn.tls_size);
    CHECK(t != NULL);
    put_u32(number, ++m->said);
    tls_seal(t, slice_of(number, sizeof number), &out);
    CHECK(out.size <= sizeof m->wire);
    memcpy(m->wire, out.data, out.size);
    m->wire_size = out.size;
    packed.conn.tls_size = (uint8_t)tls_pack(t, packed.conn.tls);
    CHECK(packed.conn.tls_size > 0);
    tls_output_fini(&out);
    if (packed.conn.history != NULL)
        packed.conn.history =
            deflate_history_new(p->heap, slice_of(packed.conn.history->bytes, packed.conn.history->size));
    if (packed.conn.hello != NULL)
        packed.conn.hello = memcpy(heap_alloc(p->heap, m->hello_size), packed.conn.hello, m->hello_size);
    sleepers_part(&p->sleepers, id);
    p->connections--;
    session_add(p, m, &packed);
}

static unsigned alive_count(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < SESSIONS; i++)
        count += models[i].alive;
    return count;
}

/* On the shard where all are who are left. */
static void all_speak(void *arg)
{
    struct proxy *p = proxy_of(shard_self());
    uint32_t ids[SESSIONS], count = 0;

    for (uint32_t id = sleepers_next(&p->sleepers, 0); id != RECORD_NONE && count < SESSIONS;
         id = sleepers_next(&p->sleepers, id + 1))
        ids[count++] = id;
    CHECK(count == alive_count() && p->connections == count);
    for (uint32_t i = 0; i < count; i++)
        session_speak(p, ids[i]);
}

/* Some of those who are here are used, and then all of it ends: a process that has died. */
static void some_speak_and_all_end(void *arg)
{
    struct proxy *p = proxy_of(shard_self());
    unsigned *seed = arg;
    uint32_t ids[SESSIONS], count = 0;

    for (uint32_t id = sleepers_next(&p->sleepers, 0); id != RECORD_NONE;
         id = sleepers_next(&p->sleepers, id + 1))
        ids[count++] = id;
    ledger_begin(p->sleepers.ledger);
    for (uint32_t i = 0; i < count; i++) {
        struct packed packed;

        sleepers_look(&p->sleepers, ids[i], &packed);
        if (rand_r(seed) % 16 != 0)
            continue;
        session_speak(p, ids[i]);
        models[packed.id].alive = false;
    }
    for (uint32_t id; (id = sleepers_next(&p->sleepers, 0)) != RECORD_NONE;) {
        struct packed packed;

        sleepers_look(&p->sleepers, id, &packed);
        sleepers_part(&p->sleepers, id);
        io_close(packed.conn.sock);
    }
    p->connections = 0;
}

/* On shard 0: each client opens what was said, with the next number. */
static void all_hear(void *arg)
{
    struct tls_output none = {0};

    for (unsigned i = 0; i < SESSIONS; i++) {
        struct model *m = &models[i];
        struct slice in = slice_of(m->wire, m->wire_size), text = {0};

        if (!m->alive)
            continue;
        CHECK(tls_feed(m->peer, &in, &text, &none) == TLS_DATA);
        CHECK(text.size == 4 && get_u32(text.data) == m->said);
        CHECK(tls_feed(m->peer, &in, &text, &none) == TLS_WAIT);
    }
    tls_output_fini(&none);
}

/* ---- Sockets: fibers ----------------------------------------------------------------------------------- */

/* Of all who are on this shard: what goes in here comes out at the right client's end. */
static void sockets_check(struct shard *s)
{
    const struct sleepers *t = &proxy_of(s)->sleepers;

    for (uint32_t id = sleepers_next(t, 0); id != RECORD_NONE; id = sleepers_next(t, id + 1)) {
        struct call c;
        struct packed packed;
        struct iovec v = {&packed.id, sizeof packed.id};
        uint64_t got = 0;

        sleepers_look(t, id, &packed);
        call_init(&c);
        io_send(packed.conn.sock, &c.op, &v, 1);
        (void)call_wait(&c);
        CHECK(recv(models[packed.id].fd, &got, sizeof got, 0) == (ssize_t)sizeof got && got == packed.id);
    }
}

/* Whoever was lost is closed at the other end, and nobody else. */
static void ends_check(void)
{
    for (unsigned i = 0; i < SESSIONS; i++) {
        char byte;
        ssize_t got = models[i].fd < 0 ? -1 : recv(models[i].fd, &byte, 1, MSG_DONTWAIT);

        CHECK(models[i].alive ? got < 0 && errno == EAGAIN : models[i].fd < 0 || got <= 0);
    }
}

/* ---- The other side ------------------------------------------------------------------------------------ */

enum end {
    END_NEVER,  /* A successor as it should be. */
    END_HELLO,  /* It is of another version. */
    END_BATCH,  /* Dies with a batch, before it says that it has it. */
    END_TAKEN,  /* ... right behind that. */
    END_DOUBT,  /* It has thawed, and never said that it has the batch. */
    END_MARKED, /* It has thawed, and used some of each batch. */
    END_USED,   /* The same of a successor as it should be. */
    END_NONSENSE,
    END_COUNT
};

struct other {
    struct shard *shard;
    int fd;
    enum end end;
    unsigned batches; /* Until then. */
    bool done;
    unsigned seed;
    struct arrivals arrivals;
    int rc;
};

struct word {
    uint32_t version, kind;
};
enum { HELLO = 1, READY, BATCH, TAKEN, END };

static struct ledger ledger;

static void say(int fd, uint32_t version, uint32_t kind)
{
    const struct word word = {version, kind};

    CHECK(pass_send(fd, slice_of((const char *)&word, sizeof word), NULL, 0) == 0);
}

static uint32_t hear(int fd, char space[PASS_SIZE_MAX], struct sock *socks, unsigned *count, size_t *size_out)
{
    ssize_t got = pass_receive(fd, space, PASS_SIZE_MAX, socks, count);
    struct word word = {0};

    if (got <= 0)
        return 0;
    memcpy(&word, space, MIN((size_t)got, sizeof word));
    CHECK(word.version == MOVING_VERSION);
    *size_out = (size_t)got;
    return word.kind;
}

/* One in `each` of a batch has ended with whoever had it. */
static void batch_lost(const struct packed_process *process, const char *records, unsigned count,
                       uint32_t first_id, unsigned each)
{
    for (unsigned i = 0; i < count; i++) {
        struct packed packed;

        packed_decode(records + 13 + (uint8_t)records[12], (struct packed_shared){.process = process},
                      &packed);
        CHECK(packed.id < SESSIONS && models[packed.id].alive);
        if (i % each == 0) {
            models[packed.id].alive = false;
            ledger_use(&ledger, first_id + i);
        }
        records += get_u32(records);
    }
}

static void say_taken(int fd, uint32_t first_id)
{
    struct {
        struct word word;
        uint32_t ids[PASS_SOCKETS_MAX];
    } taken = {.word = {MOVING_VERSION, TAKEN}};

    for (unsigned i = 0; i < PASS_SOCKETS_MAX; i++)
        taken.ids[i] = first_id + i;
    CHECK(pass_send(fd, slice_of((const char *)&taken, sizeof taken), NULL, 0) == 0);
}

/* False: that was all. */
static bool dying_batch(struct other *o, const char *records, unsigned count, bool last, uint32_t first_id)
{
    struct packed_process process = proxy_of(o->shard)->process;

    if (last && o->end == END_BATCH)
        return false;
    if (last && o->end == END_DOUBT) {
        ledger_begin(&ledger);
        batch_lost(&process, records, count, first_id, 1);
        return false;
    }
    if (last && o->end == END_NONSENSE) {
        say(o->fd, MOVING_VERSION, TAKEN);
        return false;
    }
    if (o->end == END_MARKED)
        batch_lost(&process, records, count, first_id, 20);
    say_taken(o->fd, first_id);
    return !last || o->end == END_MARKED;
}

static void dying_run(struct other *o)
{
    char *space = heap_alloc(o->shard->heap, PASS_SIZE_MAX);
    struct sock socks[PASS_SOCKETS_MAX];
    unsigned count = 0, batch = 0;
    size_t size = 0;
    uint32_t kind = hear(o->fd, space, socks, &count, &size);
    bool more = true;

    CHECK(kind == HELLO);
    say(o->fd, MOVING_VERSION + (o->end == END_HELLO), READY);
    while (more && o->end != END_HELLO && (kind = hear(o->fd, space, socks, &count, &size)) != 0) {
        if (kind == END) {
            say(o->fd, MOVING_VERSION, READY);
            break;
        }
        CHECK(kind == BATCH && count > 0);
        for (unsigned i = 0; i < count; i++)
            io_close(socks[i]);
        more = dying_batch(o, space + sizeof(struct word), count, batch == o->batches, batch * 100);
        batch++;
    }
    if (o->end == END_MARKED)
        ledger_begin(&ledger);
    heap_free(o->shard->heap, space);
    pass_close(o->fd);
}

static void other_run(void *arg)
{
    struct other *o = arg;

    if (o->end != END_NEVER && o->end != END_USED) {
        dying_run(o);
    } else {
        o->rc = arrivals_hello(o->shard, o->fd);
        if (o->rc == 0)
            o->rc = arrivals_receive(o->shard, proxy_of(o->shard), o->fd, &ledger, &o->arrivals);
        chest_drop(o->shard);
        if (o->end == END_USED)
            shard_call(o->shard, some_speak_and_all_end, &o->seed);
        pass_close(o->fd);
    }
    __atomic_store_n(&o->done, true, __ATOMIC_RELEASE);
}

static void other_start(void *arg)
{
    CHECK(fiber_start("other", RUN_INTERACTIVE, other_run, arg) != NULL);
}

/* ---- This side: a fiber of the shard that gives -------------------------------------------------------- */

struct give {
    struct shard *from, *to;
    bool done;
    unsigned seed;
};

static int give_once(struct give *g, enum end end)
{
    struct other o = {.shard = g->to,
                      .end = end,
                      .batches = (unsigned)rand_r(&g->seed) % 4,
                      .seed = (unsigned)rand_r(&g->seed)};
    unsigned before = alive_count();
    struct chest_count count;
    int pair[2], rc;

    memset(&ledger, 0, sizeof ledger);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    o.fd = pair[1];
    shard_call(g->to, other_start, &o);
    rc = chest_hello(g->from, pair[0]);
    CHECK((rc == 0) == (end != END_HELLO));
    if (rc == 0)
        rc = chest_send(g->from, pair[0], &ledger);
    while (!__atomic_load_n(&o.done, __ATOMIC_ACQUIRE))
        (void)fiber_sleep_ms(1);
    pass_close(pair[0]);
    count = chest_count(g->from);
    if (end == END_NEVER) {
        CHECK(rc == 0 && o.rc == 0 && count.here == 0 && count.sent == before);
        CHECK(o.arrivals.count == before && o.arrivals.dropped == 0 && o.arrivals.lost == count.lost);
        return 0;
    }
    chest_take_back(g->from);
    CHECK(chest_count(g->from).here == alive_count() && chest_count(g->from).sent == 0);
    CHECK(chest_count(g->from).lost == count.lost + before - alive_count());
    return rc;
}

/* With some successors that die, to one that does not; or back. */
static void give_run(void *arg)
{
    struct give *g = arg;
    struct proxy *p = proxy_of(g->from);
    bool back = false;

    chest_open(g->from, p);
    CHECK(chest_pack(p) == 0);
    CHECK(sleepers_next(&p->sleepers, 0) == RECORD_NONE && p->connections == 0);
    while (!back && (alive_count() > SESSIONS / 2 || rand_r(&g->seed) % 2 == 0)) {
        enum end end = (enum end)((unsigned)rand_r(&g->seed) % END_COUNT);

        if (alive_count() <= SESSIONS / 2 || rand_r(&g->seed) % 3 == 0)
            end = END_NEVER;
        (void)give_once(g, end);
        back = end == END_NEVER;
    }
    if (chest_count(g->from).here > 0)
        chest_unpack(p);
    chest_drop(g->from);
    __atomic_store_n(&g->done, true, __ATOMIC_RELEASE);
}

static void give_start(void *arg)
{
    CHECK(fiber_start("give", RUN_INTERACTIVE, give_run, arg) != NULL);
}

/* ---- All of it ----------------------------------------------------------------------------------------- */

/* TLS of both ends, as if a handshake had just ended. */
static void tls_make(struct model *m)
{
    unsigned suite = (unsigned)rand() % TLS_SUITE_COUNT;

    m->packed.conn.tls_size = (uint8_t)tls_ends_make(suite, 0, 0, m->packed.conn.tls, &m->peer);
}

static void model_make(struct proxy *p, unsigned i, struct sock sock)
{
    struct model *m = &models[i];
    struct packed packed;

    m->alive = true;
    m->packed.id = i;
    m->packed.state = i % 3 == 0 ? PACKED_IDLE : PACKED_COMMAND;
    m->packed.conn.peer =
        (struct net_addr){.family = AF_INET, .port = (uint16_t)(i + 1), .ip = {127, 0, 0, 1}};
    m->packed.conn.bytes_in = random_u64() >> i % 64;
    m->packed.conn.bytes_out = random_u64() >> (i * 7) % 64;
    m->packed.nonce = i % 2 == 0 ? packed_nonce(&p->process, i) : random_u64();
    m->packed.commands = i;
    m->packed.partition = (uint16_t)(i % 7 * 100);
    m->packed.features = i % 13 == 1 ? LINK_FEATURES_UNSAID : (uint8_t)(i % 4);
    if (m->packed.state == PACKED_IDLE) {
        m->packed.tag_size = 3;
        memcpy(m->packed.tag, "tag", 3);
    }
    random_bytes(m->packed.token.history, sizeof m->packed.token.history);
    m->packed.token.mailbox_id = i + 1;
    m->packed.token.appends = random_u64() >> 20;
    if (i % 5 == 0) {
        m->packed.conn.input_size = (uint8_t)(i % CONN_PACKED_INPUT_MAX);
        random_bytes(m->packed.conn.input, m->packed.conn.input_size);
    }
    snprintf(m->user, sizeof m->user, "u%u", i % 40);
    tls_make(m);
    packed = m->packed;
    packed.conn.sock = sock;
    if (i % 13 == 1) { /* As nobody is who has secrets already; here they show that he is kept as he was. */
        m->packed.state = packed.state = PACKED_HANDSHAKE;
        m->packed.conn.awaits_hello = packed.conn.awaits_hello = true;
        packed.conn.hello_size = (uint16_t)(m->hello_size = 1 + (unsigned)rand() % TLS_HELLO_MAX);
        packed.conn.hello = heap_alloc(p->heap, m->hello_size);
        for (unsigned k = 0; k < m->hello_size; k++)
            packed.conn.hello[k] = history_byte(i, k);
    }
    m->history_size = i % 11 == 0 && m->hello_size == 0 ? 1 + (unsigned)rand() % DEFLATE_HISTORY_MAX : 0;
    if (m->history_size > 0) {
        char *bytes = heap_alloc(p->heap, m->history_size);

        for (unsigned k = 0; k < m->history_size; k++)
            bytes[k] = history_byte(i, k);
        packed.conn.history = deflate_history_new(p->heap, slice_of(bytes, m->history_size));
        heap_free(p->heap, bytes);
    }
    session_add(p, m, &packed);
}

struct make {
    struct sock *socks;
};

static void models_make(void *arg)
{
    struct make *make = arg;

    for (unsigned i = 0; i < SESSIONS; i++)
        model_make(proxy_of(shard_self()), i, make->socks[i]);
}

static void sockets_check_run(void *arg)
{
    struct other *o = arg;

    sockets_check(o->shard);
    __atomic_store_n(&o->done, true, __ATOMIC_RELEASE);
}

static void sockets_check_start(void *arg)
{
    CHECK(fiber_start("check", RUN_INTERACTIVE, sockets_check_run, arg) != NULL);
}

static void peers_free(void *arg)
{
    for (unsigned i = 0; i < SESSIONS; i++) {
        tls_free(models[i].peer);
        close(models[i].fd);
    }
}

static void check_all(struct shard *s, struct shard *where)
{
    struct other o = {.shard = where};

    shard_call(where, all_speak, NULL);
    shard_call(s, all_hear, NULL);
    shard_call(where, sockets_check_start, &o);
    while (!__atomic_load_n(&o.done, __ATOMIC_ACQUIRE))
        (void)fiber_sleep_ms(1);
    ends_check();
}

static bool has_sessions;

static void ask_sessions(void *arg)
{
    has_sessions = sleepers_next(&proxy_of(shard_self())->sleepers, 0) != RECORD_NONE;
}

static void clients_make(struct shard *s)
{
    struct sock socks[SESSIONS];
    struct make make = {socks};
    int clients[SESSIONS];

    clients_open(socks, clients, SESSIONS);
    for (unsigned i = 0; i < SESSIONS; i++)
        models[i].fd = clients[i];
    shard_call(s, models_make, &make);
}

static void hand_overs(struct shard *s)
{
    struct shard *where = s, *shards[2] = {s->node->shards[0], s->node->shards[1]};

    shard_call(shards[0], proxy_make, NULL);
    shard_call(shards[1], proxy_make, NULL);
    clients_make(s);
    check_all(s, where);
    for (unsigned round = 0; round < ROUNDS && alive_count() > 0 && failures == 0; round++) {
        struct give g = {.from = where, .to = where == shards[0] ? shards[1] : shards[0], .seed = round};

        shard_call(where, give_start, &g);
        while (!__atomic_load_n(&g.done, __ATOMIC_ACQUIRE))
            (void)fiber_sleep_ms(1);
        shard_call(g.to, ask_sessions, NULL);
        where = has_sessions ? g.to : where;
        check_all(s, where);
    }
    CHECK(alive_count() > 0 && alive_count() < SESSIONS);
    shard_call(s, peers_free, NULL);
    shard_call(shards[0], proxy_drop, NULL);
    shard_call(shards[1], proxy_drop, NULL);
}

static void test_hand_overs(void **state)
{
    on_node(2, ".", hand_overs);
    assert_int_equal(nonces_repeated(), 0);
    assert_true(nonces_used() > SESSIONS * 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hand_overs)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
