#include "roles/proxy/sleepers.h"
#include "core/io.h"
#include "core/log.h"
#include "net/deflate.h"
#include "roles/proxy/keep_alive.h"
#include "roles/proxy/proxy.h"
#include "roles/proxy/session.h"
#include "roles/proxy/sleepers_private.h"
#include "roles/words/ledger.h"

#define NOBODY              RECORD_NONE /* The cookie of a socket whose owner has left for another process. */
#define SWEEP_SHARE         8           /* Of the shortest deadline: the period. */
#define SWEEP_TICK_MS_MAX   1000        /* Few sleepers: as seldom as possible. */
#define SWEEP_TICK_MS_MIN   10
#define SWEEP_VISITS        4096 /* Of one tick, about. */
#define SWEEP_WAKES         512  /* Of one tick, at most, and one more for each SWEEP_PER_WAKE sleepers: */
#define SWEEP_PER_WAKE      8192 /* twice what ten million need to be kept alive every two minutes. */
#define STIR_WAKES          256  /* Of one turn. */
#define STARVED_MS          100
#define SPARED_MAX          64 /* Sleepers of a user that are looked at for each change. */
#define KEEP_ALIVE_TOGETHER 4  /* Keep-alives due within this part of their interval leave together. */

static void count_bytes(struct sleepers *t)
{
    t->proxy->shard->metrics->sleeping_bytes = t->records.bytes + t->proxy->users.records.bytes;
}

/* ---- Users --------------------------------------------------------------------------------------------- */

static void stir(struct sleepers *t, uint32_t user)
{
    struct user *u = sleeper_user(t, user);

    if (u->stirred)
        return;
    u->stirred = true;
    u->stirred_next = RECORD_NONE;
    if (t->stirred_first == RECORD_NONE)
        t->stirred_first = user;
    else
        sleeper_user(t, t->stirred_last)->stirred_next = user;
    t->stirred_last = user;
    if (!timer_armed(&t->stir))
        timer_set(&t->stir, 0);
}

/* The change is nothing to him. */
static bool sleeper_spare(struct sleepers *t, uint32_t id, const struct subscription_news *news)
{
    struct sleeper *s = sleeper_at(t, id);
    struct packed packed;
    bool spared;

    if (packed_state(s->packed) != PACKED_IDLE)
        return true;
    sleepers_look(t, id, &packed);
    spared = session_is_spared(&packed.token, packed.known, news) &&
             news->at - packed.known <= (uint64_t)UINT16_MAX - s->spared;
    if (spared)
        s->spared += (uint16_t)(news->at - packed.known);
    bytes_wipe(&packed, sizeof packed);
    return spared;
}

void sleepers_tell(struct sleepers *t, uint32_t user, const struct subscription_news *news)
{
    struct user *u = sleeper_user(t, user);
    uint32_t id = u->first;
    bool all = news != NULL && news->mailbox_id != 0;

    u->expired = u->expired || news == NULL;
    for (unsigned i = all ? SPARED_MAX : 0; i > 0 && id != RECORD_NONE; i--) {
        all = sleeper_spare(t, id, news) && all;
        id = sleeper_at(t, id)->next;
    }
    if (!all || id != RECORD_NONE)
        stir(t, user);
}

/* Nobody keeps less than is his own while others sleep who do without it. */
static void user_learn(struct user *u, const struct packed *p)
{
    static const uint8_t none[sizeof u->history];

    if (u->first == RECORD_NONE) {
        u->ticket = p->ticket;
        u->history_known = false;
    }
    if (u->history_known || memcmp(p->token.history, none, sizeof none) == 0)
        return;
    memcpy(u->history, p->token.history, sizeof u->history);
    u->history_known = true;
}

static void user_watches_less(struct sleepers *t, uint32_t user)
{
    if (--sleeper_user(t, user)->watch_count == 0)
        subscription_leave(&t->proxy->subscriptions, user);
}

static bool ticket_is(const struct ticket *a, const struct ticket *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

struct ticket sleepers_ticket(const struct sleepers *t, uint32_t user)
{
    uint32_t id = sleeper_user(t, user)->first;
    struct ticket ticket;
    struct packed packed;

    while (!packed_watches(sleeper_at(t, id)->packed))
        id = sleeper_at(t, id)->next;
    sleepers_look(t, id, &packed);
    ticket = packed.ticket;
    bytes_wipe(&packed, sizeof packed);
    return ticket;
}

/* ---- Going to sleep ------------------------------------------------------------------------------------ */

static uint32_t sweep_tick_ms(const struct sleepers *t)
{
    uint32_t tick_ms = t->period_ms / (t->records.count / SWEEP_VISITS + 1);

    tick_ms = MIN(tick_ms, (uint32_t)SWEEP_TICK_MS_MAX);
    return MAX(tick_ms, (uint32_t)SWEEP_TICK_MS_MIN);
}

bool sleepers_reserve(struct sleepers *t)
{
    return records_reserve(&t->records) && records_reserve(&t->proxy->users.records);
}

static void user_enter(struct sleepers *t, uint32_t user, struct sleeper *s, uint32_t id)
{
    struct user *u = sleeper_user(t, user);

    s->user = user;
    s->next = u->first;
    if (s->next != RECORD_NONE)
        sleeper_at(t, s->next)->prev = id;
    u->first = id;
    if (!packed_watches(s->packed))
        return;
    u->watch_count++;
    subscription_watch(&t->proxy->subscriptions, user);
}

uint32_t sleepers_add(struct sleepers *t, const struct packed *p, uint32_t user, uint64_t deadline_ms)
{
    struct user *u = sleeper_user(t, user);
    char bytes[PACKED_SIZE_MAX];
    struct sleeper *s;
    uint32_t id;
    size_t size;

    if (u != NULL)
        user_learn(u, p);
    size = packed_encode(p, sleeper_shares(t, u), bytes);
    id = records_take(&t->records, HEAD_SIZE + size);
    s = sleeper_at(t, id);
    s->prev = s->next = s->user = RECORD_NONE;
    s->fired = 0;
    s->spared = 0;
    s->due = sleeper_due(deadline_ms);
    memcpy(s->packed, bytes, size);
    bytes_wipe(bytes, size);
    if (u != NULL)
        user_enter(t, user, s, id);
    io_watch(p->conn.sock, id);
    if (!timer_armed(&t->sweep))
        timer_set(&t->sweep, sweep_tick_ms(t));
    count_bytes(t);
    return id;
}

/* ---- Waking -------------------------------------------------------------------------------------------- */

static void sleeper_remove(struct sleepers *t, uint32_t id)
{
    struct sleeper *s = sleeper_at(t, id);
    uint32_t user = s->user;

    if (user != RECORD_NONE) {
        if (s->prev != RECORD_NONE)
            sleeper_at(t, s->prev)->next = s->next;
        else
            sleeper_user(t, user)->first = s->next;
        if (s->next != RECORD_NONE)
            sleeper_at(t, s->next)->prev = s->prev;
        if (packed_watches(s->packed))
            user_watches_less(t, user);
    }
    records_give(&t->records, id);
    if (user != RECORD_NONE)
        users_release(&t->proxy->users, user);
    count_bytes(t);
}

struct session *sleepers_wake(struct sleepers *t, uint32_t id, enum metric_wake why, bool fired)
{
    struct sleeper *s = sleeper_at(t, id);
    struct session *session;
    struct packed packed;

    if (t->frozen) {
        s->fired = s->fired || fired;
        return NULL;
    }
    ledger_use(t->ledger, id);
    sleepers_look(t, id, &packed);
    session = session_wake(t->proxy, &packed, s->user, (uint64_t)s->due * DUE_UNIT_MS, fired || s->fired);
    bytes_wipe(&packed, sizeof packed);
    if (session == NULL) {
        s->fired = s->fired || fired;
        return NULL;
    }
    t->proxy->shard->metrics->session_wakes[why]++;
    sleeper_remove(t, id); /* Behind it, so that the user's subscription has somebody all the time. */
    return session;
}

static void on_fired(uint32_t cookie, int32_t res)
{
    struct proxy *p = shard_self()->slot[SLOT_PROXY];

    if (cookie != NOBODY)
        (void)sleepers_wake(&p->sleepers, cookie, METRIC_WAKE_BYTES, true);
}

/* ---- Changes of accounts ------------------------------------------------------------------------------- */

/* Has he not been shown all? Or: `refused`, a ticket, is it his? */
static bool sleeper_is_stirred(const struct sleepers *t, uint32_t id, const struct ticket *refused)
{
    uint64_t at = subscription_at(&t->proxy->subscriptions, sleeper_at(t, id)->user);
    struct packed packed;
    bool stirred;

    if (!packed_watches(sleeper_at(t, id)->packed))
        return false;
    sleepers_look(t, id, &packed);
    if (refused != NULL)
        stirred = ticket_is(&packed.ticket, refused);
    else
        stirred = packed.state == PACKED_IDLE && session_is_behind(&packed.token, packed.known, at);
    bytes_wipe(&packed, sizeof packed);
    return stirred;
}

/* Number of sessions woken; more than `max`: there are more. */
static unsigned user_wake(struct sleepers *t, uint32_t user, const struct ticket *refused, unsigned max)
{
    unsigned count = 0;
    uint32_t next;

    for (uint32_t id = sleeper_user(t, user)->first; id != RECORD_NONE; id = next) {
        struct session *session;

        next = sleeper_at(t, id)->next;
        if (!sleeper_is_stirred(t, id, refused))
            continue;
        if (++count > max)
            break;
        session = sleepers_wake(t, id, refused != NULL ? METRIC_WAKE_TICKET : METRIC_WAKE_MAIL, false);
        if (session == NULL)
            return max + 1;
        if (refused != NULL)
            session_renew(session);
        else
            (void)session_idle_look(session);
    }
    return count;
}

/* Behind a refusal: all who have that ticket get a new one, and the subscription goes on with the ticket of another, if there
 * is one. Then once more for the account. */
static unsigned user_refused(struct sleepers *t, uint32_t user, unsigned max)
{
    struct user *u = sleeper_user(t, user);
    struct ticket refused;
    unsigned woken = 0;

    if (u->watch_count > 0) {
        refused = sleepers_ticket(t, user);
        woken = user_wake(t, user, &refused, max);
        bytes_wipe(&refused, sizeof refused);
    }
    u->expired = woken > max;
    if (woken <= max && u->watch_count > 0)
        subscription_watch(&t->proxy->subscriptions, user);
    return woken;
}

static void on_stir(struct timer *timer)
{
    struct sleepers *t = CONTAINER_OF(timer, struct sleepers, stir);
    unsigned left = STIR_WAKES;

    if (t->frozen)
        return;
    while (t->stirred_first != RECORD_NONE) {
        uint32_t user = t->stirred_first;
        struct user *u = sleeper_user(t, user);
        bool refused = u->expired;
        unsigned woken = refused ? user_refused(t, user, left) : user_wake(t, user, NULL, left);

        if (woken > left) {
            timer_set(&t->stir, left == STIR_WAKES ? STARVED_MS : 0);
            return;
        }
        left -= woken;
        if (refused)
            continue;
        t->stirred_first = u->stirred_next;
        u->stirred = false;
        users_release(&t->proxy->users, user);
    }
}

/* ---- Ends without waking ------------------------------------------------------------------------------- */

static void forget(struct sleepers *t, uint32_t id, bool close)
{
    struct packed packed;

    sleepers_look(t, id, &packed);
    if (close) {
        ledger_use(t->ledger, id);
        io_close(packed.conn.sock);
    } else {
        io_watch(packed.conn.sock, NOBODY);
    }
    if (packed.conn.history != NULL)
        deflate_history_free(t->proxy->heap, packed.conn.history);
    heap_free(t->proxy->heap, packed.conn.hello);
    bytes_wipe(&packed, sizeof packed);
    sleeper_remove(t, id);
}

/* Of the operator's will, when there is no memory for a BYE. */
static void end_asleep(struct sleepers *t, uint32_t id)
{
    struct metrics *metrics = t->proxy->shard->metrics;
    char peer[NET_ADDR_TEXT_MAX];
    struct packed packed;

    sleepers_look(t, id, &packed);
    log_event(LOG_INFO, "session ended",
              "sid=%llx user=%s peer=%s tls=%s commands=%llu in=%llu out=%llu why=kicked",
              (unsigned long long)packed.id, log_quote(sleepers_user(t, id)),
              net_addr_format(&packed.conn.peer, peer), packed.conn.tls_size > 0 ? "asleep" : "none",
              (unsigned long long)packed.commands, (unsigned long long)packed.conn.bytes_in,
              (unsigned long long)packed.conn.bytes_out);
    bytes_wipe(&packed, sizeof packed);
    metrics->kicked++;
    metrics->session_states[METRIC_SESSION_ASLEEP]--;
    metrics->connections--;
    metrics->sessions -= sleeper_at(t, id)->user != RECORD_NONE;
    t->proxy->connections--;
    forget(t, id, true);
}

void sleepers_kick(struct sleepers *t, uint32_t id)
{
    struct session *session = sleepers_wake(t, id, METRIC_WAKE_OPERATOR, false);

    if (session != NULL)
        session_kick(session);
    else if (!t->frozen)
        end_asleep(t, id);
}

unsigned sleepers_kick_user(struct sleepers *t, uint32_t user, unsigned max,
                            bool (*is)(const struct proxy *p, struct slice user, const struct packed *packed))
{
    struct user *u = sleeper_user(t, user);
    unsigned count = 0;
    uint32_t next;

    ASSERT(!t->frozen);
    u->pinned = true;
    for (uint32_t id = u->first; id != RECORD_NONE && count < max; id = next) {
        struct packed packed;
        bool wanted;

        next = sleeper_at(t, id)->next;
        sleepers_look(t, id, &packed);
        wanted = is(t->proxy, user_name_of(u), &packed);
        bytes_wipe(&packed, sizeof packed);
        if (wanted)
            sleepers_kick(t, id);
        count += wanted;
    }
    u->pinned = false;
    users_release(&t->proxy->users, user);
    return count;
}

/* ---- Deadlines ----------------------------------------------------------------------------------------- */

/* The user's others who idle behind the same address, and whose keep-alives are due soon. Number of sessions. */
static unsigned wake_together(struct sleepers *t, uint32_t user, const struct net_addr *peer, uint32_t until)
{
    struct user *u = sleeper_user(t, user);
    struct packed packed;
    unsigned count = 0;
    uint32_t next;

    u->pinned = true;
    for (uint32_t id = u->first; id != RECORD_NONE && count < SWEEP_WAKES; id = next) {
        struct sleeper *s = sleeper_at(t, id);
        struct session *session;
        bool same, told;

        next = s->next;
        if (packed_state(s->packed) != PACKED_IDLE || s->due > until)
            continue;
        sleepers_look(t, id, &packed);
        same = net_addr_same_host(&packed.conn.peer, peer);
        told = same && keep_alive_asleep(t, id, &packed);
        bytes_wipe(&packed, sizeof packed);
        count += told;
        if (!same || told)
            continue;
        session = sleepers_wake(t, id, METRIC_WAKE_TIMER, false);
        if (session == NULL)
            break;
        session_deadline(session, 0);
        count++;
    }
    u->pinned = false;
    users_release(&t->proxy->users, user);
    return count;
}

static unsigned wake_due(struct sleepers *t, uint32_t id, uint32_t now)
{
    uint32_t together = (uint32_t)(t->proxy->limits.idle_keep_alive_ms / KEEP_ALIVE_TOGETHER / DUE_UNIT_MS);
    struct sleeper *s = sleeper_at(t, id);
    uint32_t user = s->user;
    struct packed packed;
    struct net_addr peer;
    bool told;

    if (s->fired)
        return sleepers_wake(t, id, METRIC_WAKE_BYTES, true) != NULL;
    if (packed_state(s->packed) != PACKED_IDLE)
        return sleepers_wake(t, id, METRIC_WAKE_TIMER, false) != NULL;
    sleepers_look(t, id, &packed);
    peer = packed.conn.peer;
    told = keep_alive_asleep(t, id, &packed);
    bytes_wipe(&packed, sizeof packed);
    if (told && sleeper_user(t, user)->first == id && s->next == RECORD_NONE)
        return 1;
    return told + wake_together(t, user, &peer, now + together);
}

static void on_sweep(struct timer *timer)
{
    struct sleepers *t = CONTAINER_OF(timer, struct sleepers, sweep);
    uint32_t tick_ms = sweep_tick_ms(t), end = records_end(&t->records);
    uint64_t limit = t->cursor + (uint64_t)end * tick_ms / t->period_ms + 1;
    uint32_t now = (uint32_t)(time_ms() / DUE_UNIT_MS);
    unsigned woken = 0, wakes = SWEEP_WAKES + t->records.count / SWEEP_PER_WAKE;
    uint32_t id = records_next(&t->records, t->cursor);

    if (t->frozen)
        return;
    while (id < limit && woken < wakes) {
        struct sleeper *s = sleeper_at(t, id);

        if (s->due <= now || s->fired)
            woken += wake_due(t, id, now);
        id = records_next(&t->records, id + 1);
    }
    limit = MIN(limit, id); /* It stopped there; or nobody is between. */
    t->cursor = limit < end ? (uint32_t)limit : 0;
    if (t->records.count > 0)
        timer_set(&t->sweep, woken < wakes ? tick_ms : SWEEP_TICK_MS_MIN);
}

/* ---- Walks, life --------------------------------------------------------------------------------------- */

uint32_t sleepers_next(const struct sleepers *t, uint32_t from)
{
    return records_next(&t->records, from);
}

struct slice sleepers_user(const struct sleepers *t, uint32_t id)
{
    const struct user *u = sleeper_user(t, sleeper_at(t, id)->user);

    return u != NULL ? user_name_of(u) : slice_of(NULL, 0);
}

void sleepers_look(const struct sleepers *t, uint32_t id, struct packed *out)
{
    const struct sleeper *s = sleeper_at(t, id);

    packed_decode(s->packed, sleeper_shares(t, sleeper_user(t, s->user)), out);
    out->known += s->spared;
}

/* ---- Frozen -------------------------------------------------------------------------------------------- */

void sleepers_freeze(struct sleepers *t)
{
    t->frozen = true;
}

void sleepers_thaw(struct sleepers *t)
{
    t->frozen = false;
    t->cursor = 0;
    if (t->records.count > 0)
        timer_set(&t->sweep, SWEEP_TICK_MS_MIN);
    if (t->stirred_first != RECORD_NONE)
        timer_set(&t->stir, 0);
    for (uint32_t id = records_next(&t->records, 0), next; id != RECORD_NONE; id = next) {
        next = records_next(&t->records, id + 1);
        if (sleeper_at(t, id)->fired) /* Short of memory the sweep tries again. */
            (void)sleepers_wake(t, id, METRIC_WAKE_BYTES, true);
    }
}

uint64_t sleepers_deadline_ms(const struct sleepers *t, uint32_t id)
{
    return (uint64_t)sleeper_at(t, id)->due * DUE_UNIT_MS;
}

void sleepers_part(struct sleepers *t, uint32_t id)
{
    ASSERT(t->frozen);
    forget(t, id, false);
}

void sleepers_trim(struct sleepers *t)
{
    records_trim(&t->records);
    records_trim(&t->proxy->users.records);
}

void sleepers_init(struct sleepers *t, struct proxy *p)
{
    uint64_t shortest_ms = MIN(p->limits.login_timeout_ms, p->limits.session_idle_ms);

    shortest_ms = MIN(shortest_ms, p->limits.idle_keep_alive_ms);
    *t = (struct sleepers){.proxy = p,
                           .period_ms = (uint32_t)MAX(shortest_ms / SWEEP_SHARE, SWEEP_TICK_MS_MIN),
                           .stirred_first = RECORD_NONE};
    records_init(&t->records, p->heap);
    timer_init(&t->sweep, on_sweep);
    timer_init(&t->stir, on_stir);
    io_watch_with(on_fired);
}

void sleepers_fini(struct sleepers *t)
{
    uint32_t id;

    while (t->stirred_first != RECORD_NONE) {
        uint32_t user = t->stirred_first;

        t->stirred_first = sleeper_user(t, user)->stirred_next;
        sleeper_user(t, user)->stirred = false;
        users_release(&t->proxy->users, user);
    }
    while ((id = sleepers_next(t, 0)) != RECORD_NONE)
        forget(t, id, true);
    timer_cancel(&t->sweep);
    timer_cancel(&t->stir);
    records_fini(&t->records);
}
