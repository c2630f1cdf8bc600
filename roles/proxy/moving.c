#include "roles/proxy/moving.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "core/metrics.h"
#include "net/deflate.h"
#include "roles/proxy/lmtp_session.h"
#include "roles/proxy/session.h"
#include <errno.h>

#define LONG_RUN_NS     UINT64_C(500000000)
#define RECORD_HEAD     13 /* size 4, deadline 4, history 4, user 1 */
#define RECORD_MAX      (RECORD_HEAD + USER_SIZE_MAX + PACKED_SIZE_MAX + DEFLATE_HISTORY_MAX)
#define NO_HISTORY      UINT32_MAX
#define TOO_MANY_FDS_MS 5 /* -ETOOMANYREFS: on their way, and not received yet. */

_Static_assert(RECORD_MAX + 8 <= PASS_SIZE_MAX, "a session fits into a message");

enum moving_kind { MOVING_SESSIONS = 1, MOVING_SENT, MOVING_READY, MOVING_COMMIT };

struct moving_head {
    uint32_t version;
    uint32_t kind;
};

/* ---- Freezing ------------------------------------------------------------------------------------------ */

static bool runs(const struct session *s)
{
    return s->state == SESSION_RUN || s->state == SESSION_ASK || s->state == SESSION_LITERAL;
}

unsigned proxy_long_runners(const struct proxy *p)
{
    unsigned count = 0;

    list_each(it, &p->session_list)
    {
        const struct session *s = CONTAINER_OF(it, struct session, link);

        count += runs(s) && time_ns() - s->began_ns > LONG_RUN_NS;
    }
    list_each(it, &p->lmtp_list) count += CONTAINER_OF(it, struct lmtp_session, link)->in_mail;
    return count;
}

void proxy_freeze(struct proxy *p)
{
    for (unsigned i = 0; i < p->listener_count; i++)
        listener_hold(&p->listeners[i]);
    sleepers_freeze(&p->sleepers);
}

void proxy_thaw(struct proxy *p)
{
    sleepers_thaw(&p->sleepers);
    for (unsigned i = 0; i < p->listener_count; i++)
        listener_go_on(&p->listeners[i]);
}

unsigned proxy_restless(struct proxy *p)
{
    unsigned count = 0;

    for (unsigned i = 0; i < p->listener_count; i++)
        count += !listener_held(&p->listeners[i]);
    list_each_safe(it, &p->session_list)
    {
        struct session *s = CONTAINER_OF(it, struct session, link);

        if (s->state == SESSION_CLOSING)
            continue;
        count++;
        conn_rest(&s->conn);
    }
    list_each_safe(it, &p->lmtp_list)
    {
        struct lmtp_session *l = CONTAINER_OF(it, struct lmtp_session, link);

        if (l->state == LMTP_AT_CLOSING)
            continue;
        if (l->in_mail)
            count++;
        else
            lmtp_bye(l, LMTP_REPLY_SHUTTING_DOWN); /* An MTA comes again; its connection holds no state. */
    }
    return count;
}

/* ---- Sending ------------------------------------------------------------------------------------------- */

struct batch {
    struct moving_head head;
    char bytes[PASS_SIZE_MAX - sizeof(struct moving_head)];
    size_t size;
    struct sock socks[PASS_SOCKETS_MAX];
    unsigned count;
};

static void batch_add(struct batch *b, const struct sleepers *t, uint32_t id)
{
    uint64_t deadline_ms = sleepers_deadline_ms(t, id), now_ms = time_ms();
    struct slice user = sleepers_user(t, id);
    char *record = b->bytes + b->size, *at = record + RECORD_HEAD;
    uint32_t history = NO_HISTORY;
    struct packed packed;

    sleepers_look(t, id, &packed);
    put_u32(record + 4, deadline_ms > now_ms ? (uint32_t)MIN(deadline_ms - now_ms, UINT32_MAX) : 0);
    record[12] = (char)user.size;
    if (user.size > 0)
        memcpy(at, user.data, user.size);
    at += user.size;
    at += packed_encode(&packed, (struct packed_shared){0}, at);
    if (packed.conn.history != NULL) {
        history = packed.conn.history->size;
        memcpy(at, packed.conn.history->bytes, history);
        at += history;
    }
    put_u32(record + 8, history);
    put_u32(record, (uint32_t)(at - record));
    b->size += (size_t)(at - record);
    b->socks[b->count++] = packed.conn.sock;
    bytes_wipe(&packed, sizeof packed);
}

static int send_head(int fd, enum moving_kind kind)
{
    const struct moving_head head = {MOVING_VERSION, kind};

    return pass_send(fd, slice_of((const char *)&head, sizeof head), NULL, 0);
}

static int batch_send(struct batch *b, int fd)
{
    int rc = 0;

    b->head = (struct moving_head){MOVING_VERSION, MOVING_SESSIONS};
    while (b->count > 0) {
        rc = pass_send(fd, slice_of((const char *)b, sizeof b->head + b->size), b->socks, b->count);
        if (rc != -ETOOMANYREFS)
            break;
        rc = fiber_sleep_ms(TOO_MANY_FDS_MS);
        if (rc < 0)
            break;
    }
    bytes_wipe(b->bytes, b->size);
    b->size = 0;
    b->count = 0;
    return rc;
}

int proxy_move(struct proxy *p, int fd)
{
    struct sleepers *t = &p->sleepers;
    struct batch *b = heap_alloc(p->heap, sizeof *b);
    uint32_t id;
    int rc = 0;

    b->size = 0;
    b->count = 0;
    for (id = sleepers_next(t, 0); rc == 0 && id != RECORD_NONE; id = sleepers_next(t, id + 1)) {
        if (sleepers_was_sent(t, id))
            continue;
        if (b->count == PASS_SOCKETS_MAX || b->size + RECORD_MAX > sizeof b->bytes)
            rc = batch_send(b, fd); /* Frozen: the walk goes on though others ran meanwhile. */
        if (rc < 0)
            break;
        batch_add(b, t, id);
        sleepers_set_sent(t, id);
    }
    if (rc == 0)
        rc = batch_send(b, fd);
    heap_free(p->heap, b);
    return rc;
}

int proxy_move_ready(int fd)
{
    struct sock socks[PASS_SOCKETS_MAX];
    struct moving_head head;
    unsigned count;
    ssize_t got;
    int rc = send_head(fd, MOVING_SENT);

    if (rc < 0)
        return rc;
    got = pass_receive(fd, &head, sizeof head, socks, &count);
    if (got <= 0)
        return got < 0 ? (int)got : -EPIPE;
    return got == (ssize_t)sizeof head && head.version == MOVING_VERSION && head.kind == MOVING_READY &&
                   count == 0
               ? 0
               : -EPROTO;
}

/* Whoever has not come to rest in time, or could not be sent. */
static uint64_t cut(struct proxy *p)
{
    uint64_t count = 0;

    list_each_safe(it, &p->session_list)
    {
        struct session *s = CONTAINER_OF(it, struct session, link);

        count += s->state != SESSION_CLOSING;
        session_bye(s, "[UNAVAILABLE] Server is being replaced");
        conn_abort(&s->conn);
    }
    list_each_safe(it, &p->lmtp_list)
    {
        struct lmtp_session *l = CONTAINER_OF(it, struct lmtp_session, link);

        count += l->in_mail;
        conn_abort(&l->conn);
    }
    return count;
}

static uint64_t forget_all(struct proxy *p, uint64_t *dropped)
{
    struct metrics *m = p->shard->metrics;
    uint64_t sent = 0;
    uint32_t id;

    while ((id = sleepers_next(&p->sleepers, 0)) != RECORD_NONE) {
        bool was_sent = sleepers_was_sent(&p->sleepers, id);

        m->sessions -= sleepers_user(&p->sleepers, id).size > 0;
        m->session_states[METRIC_SESSION_ASLEEP]--;
        m->connections--;
        p->connections--;
        sent += was_sent;
        *dropped += !was_sent;
        sleepers_forget(&p->sleepers, id);
        if (fiber_work(256) < 0)
            break;
    }
    return sent;
}

void proxy_move_commit(struct proxy *p, int fd, uint64_t *moved, uint64_t *dropped)
{
    uint64_t sent = 0;

    if (p != NULL) {
        *dropped += cut(p);
        sent = forget_all(p, dropped);
    }
    if (send_head(fd, MOVING_COMMIT) < 0)
        *dropped += sent; /* Their keys are nowhere any more. */
    else
        *moved += sent;
}

/* ---- Receiving ----------------------------------------------------------------------------------------- */

struct arrival {
    struct arrival *next;
    size_t size;
    unsigned count;
    struct sock socks[PASS_SOCKETS_MAX];
    char bytes[];
};

/* Sockets are dropped by whoever has the arrivals; records are secret. */
static void arrival_free(struct heap *h, struct arrival *a)
{
    bytes_wipe(a->bytes, a->size);
    heap_free(h, a);
}

void arrivals_drop(struct shard *s)
{
    struct arrival *a, *next;

    for (a = s->slot[SLOT_ARRIVALS]; a != NULL; a = next) {
        next = a->next;
        for (unsigned i = 0; i < a->count; i++)
            io_close(a->socks[i]);
        arrival_free(s->heap, a);
    }
    s->slot[SLOT_ARRIVALS] = NULL;
}

/* Every record within the message, and one a socket. */
static bool records_good(struct slice in, unsigned count)
{
    for (; count > 0; count--) {
        uint32_t size, history;

        if (in.size < RECORD_HEAD)
            return false;
        size = get_u32(in.data);
        history = get_u32(in.data + 8);
        if (size > in.size || size > RECORD_MAX || (history != NO_HISTORY && history > DEFLATE_HISTORY_MAX) ||
            RECORD_HEAD + (size_t)(uint8_t)in.data[12] + (history != NO_HISTORY ? history : 0) > size)
            return false;
        in = slice_from(in, size);
    }
    return in.size == 0;
}

static int arrivals_add(struct shard *s, struct slice records, const struct sock *socks, unsigned count)
{
    struct arrival *a = heap_try_alloc(s->heap, sizeof *a + records.size);
    int rc = records_good(records, count) ? 0 : -EPROTO;

    if (a == NULL || rc < 0) {
        for (unsigned i = 0; i < count; i++)
            io_close(socks[i]);
        if (a != NULL)
            arrival_free(s->heap, a);
        return rc < 0 ? rc : -ENOMEM;
    }
    *a = (struct arrival){.next = s->slot[SLOT_ARRIVALS], .size = records.size, .count = count};
    memcpy(a->socks, socks, count * sizeof *socks);
    memcpy(a->bytes, records.data, records.size);
    s->slot[SLOT_ARRIVALS] = a;
    return 0;
}

static int receive(struct shard *s, int fd, char *space)
{
    struct sock socks[PASS_SOCKETS_MAX];
    struct moving_head head;
    unsigned count;
    int rc = 0;

    while (rc == 0) {
        ssize_t got = pass_receive(fd, space, PASS_SIZE_MAX, socks, &count);

        if (got <= 0)
            return got < 0 ? (int)got : -EPIPE;
        head = (struct moving_head){0};
        memcpy(&head, space, MIN((size_t)got, sizeof head));
        if (head.version != MOVING_VERSION || (size_t)got < sizeof head)
            rc = -EPROTO;
        if (rc == 0 && head.kind == MOVING_SESSIONS)
            rc = arrivals_add(s, slice_of(space + sizeof head, (size_t)got - sizeof head), socks, count);
        else if (rc == 0 && head.kind == MOVING_SENT)
            rc = send_head(fd, MOVING_READY);
        else if (rc == 0 && head.kind == MOVING_COMMIT)
            return 0;
        else
            rc = -EPROTO;
    }
    return rc;
}

int arrivals_receive(struct shard *s, int fd)
{
    char *space = heap_alloc(s->heap, PASS_SIZE_MAX);
    int rc = receive(s, fd, space);

    bytes_wipe(space, PASS_SIZE_MAX);
    heap_free(s->heap, space);
    if (rc < 0)
        arrivals_drop(s);
    return rc;
}

/* False: no memory for one more. */
static bool settle_one(struct proxy *p, const char *record, struct sock sock)
{
    uint32_t size = get_u32(record), history = get_u32(record + 8);
    struct slice user = slice_of(record + RECORD_HEAD, (uint8_t)record[12]);
    struct metrics *m = p->shard->metrics;
    struct packed packed;

    if (!sleepers_reserve(&p->sleepers))
        return false;
    packed_decode(user.data + user.size, (struct packed_shared){0}, &packed);
    packed.conn.sock = sock;
    packed.conn.history = NULL;
    if (history != NO_HISTORY)
        packed.conn.history = deflate_history_new(p->heap, slice_of(record + size - history, history));
    p->connections++;
    m->connections++;
    m->sessions += user.size > 0;
    m->session_states[METRIC_SESSION_ASLEEP]++;
    sleepers_add(&p->sleepers, &packed, user, time_ms() + get_u32(record + 4));
    bytes_wipe(&packed, sizeof packed);
    return true;
}

unsigned arrivals_settle(struct proxy *p)
{
    struct shard *s = p->shard;
    unsigned count = 0;

    while (s->slot[SLOT_ARRIVALS] != NULL) {
        struct arrival *a = s->slot[SLOT_ARRIVALS];
        const char *at = a->bytes;

        for (unsigned i = 0; i < a->count; i++) {
            if (settle_one(p, at, a->socks[i]))
                count++;
            else
                io_close(a->socks[i]);
            at += get_u32(at);
        }
        s->slot[SLOT_ARRIVALS] = a->next;
        arrival_free(p->heap, a);
    }
    return count;
}
