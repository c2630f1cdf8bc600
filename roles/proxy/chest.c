#include "roles/proxy/chest.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/metrics.h"
#include "net/deflate.h"
#include "roles/words/ledger.h"
#include <errno.h>

#define ALIGNED(size)   (((size) + 7u) & ~7u)
#define RECORD_HEAD     13 /* size 4, deadline 4, beside 4, user 1 */
#define RECORD_MAX      (RECORD_HEAD + USER_SIZE_MAX + PACKED_SIZE_MAX + DEFLATE_HISTORY_MAX)
#define NOTHING_BESIDE  UINT32_MAX
#define BLOCK_SIZE      (1024 * 1024 - 4096) /* With its head at most a region of records. */
#define TRIM_EACH       4096                 /* Sessions. */
#define PACK_UNITS      64                   /* Of fiber_work(), each. */
#define IDS_OF_ONE      (1 << 20) /* Connections that may begin before a process is frozen, or found dead. */
#define TOO_MANY_FDS_MS 5         /* -ETOOMANYREFS: on their way, and not received yet. */

_Static_assert(TLS_HELLO_MAX <= DEFLATE_HISTORY_MAX, "one of them is beside a record");
_Static_assert(RECORD_MAX + 8 <= PASS_SIZE_MAX, "a session fits into a message");

enum moving_kind { MOVING_HELLO = 1, MOVING_READY, MOVING_SESSIONS, MOVING_TAKEN, MOVING_END };

struct moving_head {
    uint32_t version;
    uint32_t kind;
};

struct moving_hello {
    struct moving_head head;
    struct packed_process process; /* All zero: there is no proxy. */
    uint64_t next_id;
    uint32_t rotate_ms, key_count;
    uint8_t keys[TLS_TICKET_KEYS_MAX][TLS_TICKET_KEY_SIZE];
};

struct moving_taken {
    struct moving_head head;
    uint32_t ids
        [PASS_SOCKETS_MAX]; /* How the successor's ledger names them; RECORD_NONE: it has no memory for him. */
};

struct moving_end {
    struct moving_head head;
    uint64_t lost;
};

enum batch_state {
    BATCH_HERE,
    BATCH_SENT,  /* And not answered: nobody knows what their ids are. */
    BATCH_TAKEN, /* By the successor. */
};

struct batch {
    uint32_t room; /* From its beginning to the next one's. */
    uint32_t size; /* Of the message. */
    uint32_t count;
    uint32_t state;                 /* enum batch_state */
    uint32_t ids[PASS_SOCKETS_MAX]; /* Of TAKEN ones. */
    struct sock socks[PASS_SOCKETS_MAX];
    struct moving_head head; /* Here the message begins. */
    char records[];
};

struct block {
    struct block *next;
    uint32_t used, at; /* Batches lie from `at` to `used`. */
    _Alignas(8) char bytes[BLOCK_SIZE];
};

struct chest {
    struct block *first, *last;
    struct batch *open;          /* The last one, while it is being filled. */
    const struct ledger *ledger; /* The successor's. */
    struct moving_hello hello;
    struct chest_count count;
};

static struct chest *chest_of(const struct shard *s)
{
    return s->slot[SLOT_CHEST];
}

static struct chest *chest_new(struct shard *s)
{
    struct chest *c = heap_zalloc(s->heap, sizeof *c);

    ASSERT(chest_of(s) == NULL);
    s->slot[SLOT_CHEST] = c;
    return c;
}

void chest_open(struct shard *s, const struct proxy *p)
{
    struct moving_hello *h = &chest_new(s)->hello;
    uint64_t now_ms = time_ms();

    h->head = (struct moving_head){MOVING_VERSION, MOVING_HELLO};
    if (p == NULL)
        return;
    h->process = p->process;
    h->next_id = p->next_id;
    if (p->ticket_keys != NULL) {
        h->key_count = p->ticket_keys->count;
        memcpy(h->keys, p->ticket_keys->keys, sizeof h->keys);
    }
    if (timer_armed(&p->ticket_timer))
        h->rotate_ms =
            (uint32_t)MIN(MAX(p->ticket_timer.deadline_ms, now_ms + 1) - now_ms, (uint64_t)UINT32_MAX);
}

/* ---- Blocks and batches -------------------------------------------------------------------------------- */

/* Where a record of any size may be written. NULL: no memory. */
static struct batch *batch_with_room(struct shard *s, struct chest *c)
{
    struct batch *b = c->open;
    struct block *block = c->last;
    uint32_t need = RECORD_MAX;

    if (b != NULL && b->count < PASS_SOCKETS_MAX && b->size + RECORD_MAX <= PASS_SIZE_MAX &&
        BLOCK_SIZE - block->used >= need)
        return b;
    c->open = NULL;
    need += sizeof *b;
    if (block == NULL || BLOCK_SIZE - ALIGNED(block->used) < need) {
        block = heap_try_map_secret(s->heap, sizeof *block);
        if (block == NULL)
            return NULL;
        block->next = NULL;
        block->used = block->at = 0;
        if (c->last != NULL)
            c->last->next = block;
        else
            c->first = block;
        c->last = block;
    }
    block->used = ALIGNED(block->used);
    b = (struct batch *)(void *)(block->bytes + block->used);
    b->size = sizeof b->head;
    b->room = sizeof *b;
    b->count = 0;
    b->state = BATCH_HERE;
    b->head = (struct moving_head){MOVING_VERSION, MOVING_SESSIONS};
    block->used += sizeof *b;
    c->open = b;
    return b;
}

static struct batch *batch_first(struct chest *c)
{
    struct block *block = c->first;

    return block == NULL ? NULL : (struct batch *)(void *)(block->bytes + block->at);
}

/* A walk over all batches. */
struct spot {
    struct block *block; /* NULL: the end. */
    uint32_t at;
};

static struct spot spot_first(const struct chest *c)
{
    return (struct spot){c->first, c->first != NULL ? c->first->at : 0};
}

static struct batch *batch_at(struct spot p)
{
    return (struct batch *)(void *)(p.block->bytes + p.at);
}

static struct spot spot_next(struct spot p)
{
    p.at += ALIGNED(batch_at(p)->room);
    if (p.at >= p.block->used)
        p = (struct spot){p.block->next, p.block->next != NULL ? p.block->next->at : 0};
    return p;
}

/* Wiped; the sockets are the caller's business. */
static void batch_remove(struct shard *s, struct chest *c)
{
    struct block *block = c->first;
    struct batch *b = batch_first(c);
    uint32_t room = ALIGNED(b->room);

    if (c->open == b)
        c->open = NULL;
    bytes_wipe(b, room);
    block->at += room;
    if (block->at < block->used)
        return;
    c->first = block->next;
    if (c->first == NULL)
        c->last = NULL;
    heap_unmap_secret(s->heap, block);
}

static void batch_close_sockets(const struct batch *b)
{
    for (uint32_t i = 0; i < b->count; i++)
        io_close(b->socks[i]);
}

void chest_drop(struct shard *s)
{
    struct chest *c = chest_of(s);

    if (c == NULL)
        return;
    while (batch_first(c) != NULL) {
        batch_close_sockets(batch_first(c));
        batch_remove(s, c);
    }
    bytes_wipe(c, sizeof *c);
    heap_free(s->heap, c);
    s->slot[SLOT_CHEST] = NULL;
}

/* ---- Packing ------------------------------------------------------------------------------------------- */

static void batch_add(struct batch *b, const struct sleepers *t, uint32_t id)
{
    uint64_t deadline_ms = sleepers_deadline_ms(t, id), now_ms = time_ms();
    struct slice user = sleepers_user(t, id);
    char *record = b->records + (b->size - sizeof b->head), *at = record + RECORD_HEAD;
    struct slice beside = slice_of(NULL, 0);
    struct packed packed;

    sleepers_look(t, id, &packed);
    put_u32(record + 4, deadline_ms > now_ms ? (uint32_t)MIN(deadline_ms - now_ms, UINT32_MAX) : 0);
    record[12] = (char)user.size;
    if (user.size > 0)
        memcpy(at, user.data, user.size);
    at += user.size;
    at += packed_encode(&packed, (struct packed_shared){.process = &t->proxy->process}, at);
    if (packed.conn.history != NULL)
        beside = slice_of(packed.conn.history->bytes, packed.conn.history->size);
    else if (packed.conn.hello != NULL)
        beside = slice_of(packed.conn.hello, packed.conn.hello_size);
    if (beside.size > 0)
        memcpy(at, beside.data, beside.size);
    at += beside.size;
    put_u32(record + 8, beside.data != NULL ? (uint32_t)beside.size : NOTHING_BESIDE);
    put_u32(record, (uint32_t)(at - record));
    b->size += (uint32_t)(at - record);
    b->room += (uint32_t)(at - record);
    b->socks[b->count++] = packed.conn.sock;
    bytes_wipe(&packed, sizeof packed);
}

static void count_session(struct proxy *p, bool logged_in, int change)
{
    struct metrics *m = p->shard->metrics;

    p->connections += (uint64_t)change;
    m->connections += (uint64_t)change;
    m->sessions += logged_in ? (uint64_t)change : 0;
    m->session_states[METRIC_SESSION_ASLEEP] += (uint64_t)change;
}

int chest_pack(struct proxy *p)
{
    struct chest *c = chest_of(p->shard);
    struct sleepers *t = &p->sleepers;
    uint32_t id = 0, since_trim = 0;
    int rc = 0;

    while (rc == 0 && (id = sleepers_next(t, id)) != RECORD_NONE) {
        struct batch *b = batch_with_room(p->shard, c);
        uint32_t before;

        if (b == NULL)
            return -ENOMEM;
        before = b->size;
        batch_add(b, t, id);
        c->last->used += b->size - before;
        c->count.here++;
        count_session(p, sleepers_user(t, id).size > 0, -1);
        sleepers_part(t, id);
        if (++since_trim % TRIM_EACH == 0)
            sleepers_trim(t);
        rc = fiber_work(PACK_UNITS);
    }
    sleepers_trim(t);
    return rc;
}

static void settle_beside(struct proxy *p, struct conn_packed *conn, struct slice bytes)
{
    if (!conn->awaits_hello) {
        conn->history = deflate_history_new(p->heap, bytes);
        return;
    }
    conn->hello_size = (uint16_t)bytes.size;
    conn->hello = heap_alloc(p->heap, bytes.size);
    memcpy(conn->hello, bytes.data, bytes.size);
}

/* How he is named here. RECORD_NONE: no memory for one more. */
static uint32_t settle_one(struct proxy *p, const char *record, struct sock sock)
{
    uint32_t size = get_u32(record), beside = get_u32(record + 8);
    struct slice user = slice_of(record + RECORD_HEAD, (uint8_t)record[12]);
    struct packed packed;
    uint32_t id;

    if (!sleepers_reserve(&p->sleepers))
        return RECORD_NONE;
    packed_decode(user.data + user.size, (struct packed_shared){.process = &p->process}, &packed);
    packed.conn.sock = sock;
    packed.conn.history = NULL;
    packed.conn.hello = NULL;
    if (beside != NOTHING_BESIDE)
        settle_beside(p, &packed.conn, slice_of(record + size - beside, beside));
    count_session(p, user.size > 0, 1);
    id = sleepers_add(&p->sleepers, &packed,
                      users_get(&p->users, user, route_place(&p->route, packed.partition, user)),
                      time_ms() + get_u32(record + 4));
    bytes_wipe(&packed, sizeof packed);
    return id;
}

/* How many are. */
static unsigned settle(struct proxy *p, const char *records, const struct sock *socks, unsigned count,
                       uint32_t ids[PASS_SOCKETS_MAX])
{
    unsigned settled = 0;

    for (unsigned i = 0; i < count; i++) {
        ids[i] = settle_one(p, records, socks[i]);
        if (ids[i] != RECORD_NONE)
            settled++;
        else
            io_close(socks[i]);
        records += get_u32(records);
    }
    return settled;
}

void chest_unpack(struct proxy *p)
{
    struct chest *c = chest_of(p->shard);
    struct batch *b;

    while ((b = batch_first(c)) != NULL) {
        ASSERT(b->state == BATCH_HERE);
        (void)settle(p, b->records, b->socks, b->count, b->ids);
        c->count.here -= b->count;
        batch_remove(p->shard, c);
    }
}

/* ---- Sending ------------------------------------------------------------------------------------------- */

static int send_head(int fd, enum moving_kind kind)
{
    const struct moving_head head = {MOVING_VERSION, kind};

    return pass_send(fd, slice_of((const char *)&head, sizeof head), NULL, 0);
}

/* A message of that kind, and of that size. */
static int expect(int fd, enum moving_kind kind, void *out, size_t size)
{
    struct sock socks[PASS_SOCKETS_MAX];
    struct moving_head head;
    unsigned count;
    ssize_t got = pass_receive(fd, out, size, socks, &count);

    if (got <= 0)
        return got < 0 ? (int)got : -EPIPE;
    for (unsigned i = 0; i < count; i++)
        io_close(socks[i]);
    if (got != (ssize_t)size || count > 0)
        return -EPROTO;
    memcpy(&head, out, sizeof head);
    return head.version == MOVING_VERSION && head.kind == (uint32_t)kind ? 0 : -EPROTO;
}

int chest_hello(struct shard *s, int fd)
{
    struct moving_hello *hello = &chest_of(s)->hello;
    struct moving_head ready;
    int rc;

    hello->next_id +=
        IDS_OF_ONE; /* No other process gives the same, for an operation's name begins with it. */
    rc = pass_send(fd, slice_of((const char *)hello, sizeof *hello), NULL, 0);

    return rc < 0 ? rc : expect(fd, MOVING_READY, &ready, sizeof ready);
}

static int batch_send(const struct batch *b, int fd)
{
    for (;;) {
        int rc = pass_send(fd, slice_of((const char *)&b->head, b->size), b->socks, b->count);

        if (rc != -ETOOMANYREFS)
            return rc;
        rc = fiber_sleep_ms(TOO_MANY_FDS_MS);
        if (rc < 0)
            return rc;
    }
}

/* From here on they may be used at the other end, and what is here is kept for the case that it dies. */
static int batch_give(struct chest *c, struct batch *b, int fd)
{
    struct moving_taken taken;
    int rc = batch_send(b, fd);

    if (rc < 0)
        return rc;
    b->state = BATCH_SENT;
    rc = expect(fd, MOVING_TAKEN, &taken, sizeof taken);
    if (rc < 0)
        return rc;
    memcpy(b->ids, taken.ids, sizeof b->ids);
    b->state = BATCH_TAKEN;
    c->count.here -= b->count;
    c->count.sent += b->count;
    return 0;
}

int chest_send(struct shard *s, int fd, const struct ledger *ledger)
{
    struct chest *c = chest_of(s);
    struct moving_end end = {.head = {MOVING_VERSION, MOVING_END}, .lost = c->count.lost};
    struct moving_head ready;
    int rc = 0;

    c->open = NULL;
    c->ledger = ledger;
    for (struct spot at = spot_first(c); rc == 0 && at.block != NULL; at = spot_next(at)) {
        if (batch_at(at)->count > 0)
            rc = batch_give(c, batch_at(at), fd);
    }
    if (rc == 0)
        rc = pass_send(fd, slice_of((const char *)&end, sizeof end), NULL, 0);
    return rc < 0 ? rc : expect(fd, MOVING_READY, &ready, sizeof ready);
}

struct chest_count chest_count(const struct shard *s)
{
    return chest_of(s)->count;
}

/* ---- Taking back --------------------------------------------------------------------------------------- */

/* Those whom the successor has used are gone with it. What is said of one who is here still is not looked at. */
static bool is_lost(const struct chest *c, const struct batch *b, unsigned i)
{
    if (b->state == BATCH_HERE || !ledger_begun(c->ledger))
        return false;
    return b->state == BATCH_SENT || ledger_used(c->ledger, b->ids[i]);
}

static void batch_take_back(struct chest *c, struct batch *b)
{
    char *from = b->records, *to = b->records;
    uint32_t kept = 0;

    for (unsigned i = 0; i < b->count; i++) {
        uint32_t size = get_u32(from);

        if (is_lost(c, b, i)) {
            io_close(b->socks[i]);
        } else {
            memmove(to, from, size);
            to += size;
            b->socks[kept++] = b->socks[i];
        }
        from += size;
    }
    bytes_wipe(to, (size_t)(from - to));
    if (b->state == BATCH_TAKEN)
        c->count.sent -= b->count;
    else
        c->count.here -= b->count;
    c->count.here += kept;
    c->count.lost += b->count - kept;
    b->count = kept;
    b->size = (uint32_t)(sizeof b->head + (size_t)(to - b->records));
    b->state = BATCH_HERE;
}

void chest_take_back(struct shard *s)
{
    struct chest *c = chest_of(s);

    for (struct spot at = spot_first(c); at.block != NULL; at = spot_next(at))
        batch_take_back(c, batch_at(at));
}

/* ---- Receiving ----------------------------------------------------------------------------------------- */

int arrivals_hello(struct shard *s, int fd)
{
    struct chest *c = chest_new(s);
    struct sock socks[PASS_SOCKETS_MAX];
    unsigned count;
    ssize_t got = pass_receive(fd, &c->hello, sizeof c->hello, socks, &count);
    int rc = got > 0 ? 0 : got < 0 ? (int)got : -EPIPE;

    if (rc == 0 && ((size_t)got != sizeof c->hello || c->hello.head.version != MOVING_VERSION ||
                    c->hello.head.kind != MOVING_HELLO || c->hello.key_count > TLS_TICKET_KEYS_MAX))
        rc = -EPROTO;
    if (rc < 0)
        c->hello.key_count = 0;
    return rc < 0 ? rc : send_head(fd, MOVING_READY);
}

bool arrivals_ticket_keys(struct shard *s, struct tls_ticket_keys *keys_out, uint32_t *rotate_ms_out)
{
    struct chest *c = chest_of(s);

    if (c == NULL || c->hello.key_count == 0)
        return false;
    keys_out->count = (uint8_t)c->hello.key_count;
    memcpy(keys_out->keys, c->hello.keys, sizeof keys_out->keys);
    *rotate_ms_out = c->hello.rotate_ms;
    bytes_wipe(c->hello.keys, sizeof c->hello.keys);
    c->hello.key_count = 0;
    return true;
}

bool arrivals_process(struct shard *s, struct packed_process *process_out, uint64_t *next_id_out)
{
    const struct chest *c = chest_of(s);

    if (c == NULL || c->hello.process.secret == 0)
        return false;
    *process_out = c->hello.process;
    *next_id_out = c->hello.next_id;
    return true;
}

/* Every record within the message, and one a socket. */
static bool records_good(struct slice in, unsigned count)
{
    for (; count > 0; count--) {
        uint32_t size, beside;

        if (in.size < RECORD_HEAD)
            return false;
        size = get_u32(in.data);
        beside = get_u32(in.data + 8);
        if (size > in.size || size > RECORD_MAX ||
            (beside != NOTHING_BESIDE && beside > DEFLATE_HISTORY_MAX) ||
            RECORD_HEAD + (size_t)(uint8_t)in.data[12] + (beside != NOTHING_BESIDE ? beside : 0) > size)
            return false;
        in = slice_from(in, size);
    }
    return in.size == 0;
}

/* Frozen, they are not used before all are here. */
static int batch_take(struct proxy *p, int fd, struct slice records, const struct sock *socks, unsigned count,
                      struct arrivals *arrivals)
{
    struct moving_taken taken = {.head = {MOVING_VERSION, MOVING_TAKEN}};
    unsigned settled;

    if (p == NULL || !records_good(records, count)) {
        for (unsigned i = 0; i < count; i++)
            io_close(socks[i]);
        return -EPROTO;
    }
    ASSERT(p->sleepers.frozen);
    settled = settle(p, records.data, socks, count, taken.ids);
    arrivals->count += settled;
    arrivals->dropped += count - settled;
    return pass_send(fd, slice_of((const char *)&taken, sizeof taken), NULL, 0);
}

static int receive(struct proxy *p, int fd, char *space, struct arrivals *arrivals)
{
    struct sock socks[PASS_SOCKETS_MAX];
    struct moving_head head;
    struct moving_end end;
    unsigned count;
    int rc = 0;

    while (rc == 0) {
        ssize_t got = pass_receive(fd, space, PASS_SIZE_MAX, socks, &count);

        if (got <= 0)
            return got < 0 ? (int)got : -EPIPE;
        head = (struct moving_head){0};
        memcpy(&head, space, MIN((size_t)got, sizeof head));
        if (head.version == MOVING_VERSION && head.kind == MOVING_SESSIONS) {
            rc = batch_take(p, fd, slice_of(space + sizeof head, (size_t)got - sizeof head), socks, count,
                            arrivals);
        } else if (head.version == MOVING_VERSION && head.kind == MOVING_END && (size_t)got == sizeof end) {
            memcpy(&end, space, sizeof end);
            arrivals->lost = end.lost;
            return send_head(fd, MOVING_READY);
        } else {
            rc = -EPROTO;
        }
    }
    return rc;
}

int arrivals_receive(struct shard *s, struct proxy *p, int fd, struct ledger *ledger,
                     struct arrivals *arrivals_out)
{
    char *space = heap_try_map_secret(s->heap, PASS_SIZE_MAX);
    int rc = space != NULL ? 0 : -ENOMEM;

    *arrivals_out = (struct arrivals){0};
    if (p != NULL)
        p->sleepers.ledger = ledger;
    if (rc == 0)
        rc = receive(p, fd, space, arrivals_out);
    heap_unmap_secret(s->heap, space);
    return rc;
}
