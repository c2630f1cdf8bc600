#include "core/heap.h"
#include "core/io.h"
#include "core/log.h"
#include "core/metrics.h"
#include "core/node.h"
#include "core/shard_call.h"
#include "roles/admin/admin.h"
#include "roles/upgrade.h"
#include "roles/words/control.h"
#include <errno.h>
#include <stdio.h>

#define START_WAIT_MS   5000
#define RELOAD_WAIT_MS  10000
#define UPGRADE_WAIT_MS 200000 /* shutdown.grace, and what the supervisor allows. */
#define POLL_MS         20

/* A start that is under way is waited for, not too long: a recovery may take its time. */
static bool ready_soon(struct admin *a)
{
    const struct node *node = a->shard->node;
    bool ready = admin_ready(a);

    for (unsigned ms = 0; !ready && ms < START_WAIT_MS; ms += POLL_MS) {
        if (__atomic_load_n(&node->stopping, __ATOMIC_RELAXED) || a->leaving || fiber_sleep_ms(POLL_MS) < 0)
            return false;
        ready = admin_ready(a);
    }
    return ready;
}

/* ---- status --------------------------------------------------------------------------------------------- */

/* Of a director of a cluster: are they there? */
static void backends_show(struct reply *r)
{
    struct control_cluster cluster = {.here = false};

    if (control_self() != NULL)
        control_self()->cluster(&cluster);
    if (!cluster.here)
        return;
    reply_u64(r, "backends", cluster.backends);
    reply_u64(r, "backends_up", cluster.up);
}

void status_command(struct admin *a, struct slice argument, struct reply *r)
{
    struct heap *heap = a->shard->heap;
    struct metrics *m = heap_alloc(heap, sizeof *m);
    const struct node *node = a->shard->node;
    const char *lacks = admin_lacks(a);

    metrics_sum(node, m);
    reply_begin(r, '\n');
    reply_slice(r, "version", SLICE(TRIREME_VERSION));
    reply_bool(r, "ready", admin_ready(a) && lacks == NULL);
    if (lacks != NULL)
        reply_slice(r, "lacks", slice_str(lacks));
    reply_bool(r, "stopping", __atomic_load_n(&node->stopping, __ATOMIC_RELAXED));
    reply_u64(r, "uptime_s", (time_ms() - a->started_ms) / 1000);
    reply_u64(r, "shards", node->shard_count);
    reply_slice(r, "log_level", slice_str(log_level_name(log_get_level())));
    reply_u64(r, "connections", m->connections);
    reply_u64(r, "sessions", m->sessions);
    reply_u64(r, "sessions_idle", m->session_states[METRIC_SESSION_IDLE]);
    reply_u64(r, "sessions_asleep", m->session_states[METRIC_SESSION_ASLEEP]);
    reply_u64(r, "logins", m->logins);
    reply_u64(r, "logins_failed", m->logins_failed);
    reply_u64(r, "commands", m->commands);
    reply_u64(r, "deliveries", m->deliveries);
    reply_u64(r, "accounts_loaded", m->accounts);
    reply_u64(r, "memory_used", m->heap_bytes);
    reply_u64(r, "memory_budget", m->heap_budget_bytes);
    reply_u64(r, "commit_failures", m->commit_failures);
    reply_u64(r, "checksum_errors", m->checksum_errors);
    backends_show(r);
    reply_end(r);
    heap_free(heap, m);
}

/* ---- Walks over the sessions --------------------------------------------------------------------------- */

struct walk {
    struct control_page *page;
    void (*each)(struct walk *w, const struct control_session *row); /* May be NULL. */
    struct reply *reply;
    uint64_t count;
    bool cut; /* The answer is full: whoever comes now is counted, and kicked, but not shown. */
};

static void ask_sessions(void *arg)
{
    const struct control *control = control_self();
    struct control_page *page = arg;

    if (control != NULL) {
        control->sessions(page);
    } else {
        page->count = 0;
        page->more = false;
    }
}

static void walk_shard(struct walk *w, struct shard *s)
{
    struct control_page *page = w->page;

    page->go_on = false;
    do {
        shard_call(s, ask_sessions, page);
        page->go_on = true;
        w->count += page->count;
        for (uint32_t i = 0; i < page->count && w->each != NULL; i++)
            w->each(w, &page->rows[i]);
    } while (page->more);
}

/* Over all that match `page`. */
static int walk_all(struct admin *a, struct walk *w, struct control_page *page)
{
    struct node *node = a->shard->node;
    int rc = turn_take(&a->walk);

    if (rc < 0)
        return rc;
    w->page = page;
    for (unsigned i = 0; i < node->shard_count; i++)
        walk_shard(w, node->shards[i]);
    turn_give(&a->walk);
    return 0;
}

static void session_show(struct walk *w, const struct control_session *row)
{
    char peer[NET_ADDR_TEXT_MAX];
    struct reply *r = w->reply;

    if (reply_text(r).size > REPLY_MAX / 2 || r->full)
        w->cut = true;
    if (w->cut)
        return;
    reply_record(r);
    reply_hex(r, "sid", row->id);
    reply_slice(r, "user", slice_of(row->user, row->user_size));
    reply_slice(r, "peer", slice_str(net_addr_format(&row->peer, peer)));
    reply_slice(r, "protocol", slice_str(row->protocol));
    reply_slice(r, "state", slice_str(row->state));
    reply_bool(r, "tls", row->tls);
    reply_bool(r, "selected", row->selected);
    reply_bool(r, "asleep", row->asleep);
    reply_u64(r, "shard", row->shard);
    reply_u64(r, "commands", row->commands);
    reply_u64(r, "in", row->bytes_in);
    reply_u64(r, "out", row->bytes_out);
    reply_record_end(r);
}

/* `mask`: a user, a mask of users, an address or a network; empty: everybody. */
static void sessions_reply(struct admin *a, struct slice mask, bool kick, struct reply *r)
{
    struct heap *heap = a->shard->heap;
    struct control_page *page = heap_zalloc(heap, sizeof *page);
    struct walk w = {.each = session_show, .reply = r};
    int rc;

    page->kick = kick;
    if (!net_prefix_parse(mask, &page->network))
        page->mask = mask;
    reply_begin(r, ' ');
    reply_array(r, "sessions");
    rc = walk_all(a, &w, page);
    heap_free(heap, page);
    if (rc < 0) {
        reply_error(r, 503, ADMIN_NOT_READY);
        return;
    }
    reply_array_end(r);
    reply_u64(r, kick ? "kicked" : "count", w.count);
    reply_bool(r, "cut", w.cut);
    reply_end(r);
}

void who_command(struct admin *a, struct slice argument, struct reply *r)
{
    if (ready_soon(a))
        sessions_reply(a, argument, false, r);
    else
        reply_error(r, 503, ADMIN_NOT_READY);
}

/* By a director of a cluster, for all its proxies. False: this is none. */
static bool user_revoke(struct slice name, struct reply *r)
{
    struct control_cluster cluster = {.deal = false};
    struct control_user user = {.name = name};

    control_self()->cluster(&cluster);
    if (!cluster.here)
        return false;
    control_self()->user(&user);
    if (user.rc < 0 || !control_self()->revoke(slice_of(user.canonical, user.size))) {
        reply_error(r, user.rc == -ENOENT ? 404 : 503,
                    user.rc == -ENOENT ? "no such user; a director takes no mask" : ADMIN_NOT_READY);
        return true;
    }
    do {
        if (fiber_sleep_ms(POLL_MS) < 0 || control_self() == NULL) {
            reply_error(r, 503, ADMIN_NOT_READY);
            return true;
        }
        control_self()->cluster(&cluster);
    } while (cluster.here && !cluster.settled);
    reply_begin(r, ' ');
    reply_slice(r, "revoked", slice_of(user.canonical, user.size));
    reply_end(r);
    return true;
}

void kick_command(struct admin *a, struct slice argument, struct reply *r)
{
    if (argument.size == 0) {
        reply_error(r, 400, "kick whom? USER, MASK or IP");
    } else if (!ready_soon(a)) {
        reply_error(r, 503, ADMIN_NOT_READY);
    } else {
        log_event(LOG_INFO, "operator kicks", "mask=%s", log_quote(argument));
        if (!user_revoke(argument, r))
            sessions_reply(a, argument, true, r);
    }
}

/* ---- why ------------------------------------------------------------------------------------------------- */

static void ask_account(void *arg)
{
    const struct control *control = control_self();

    if (control != NULL)
        control->account(arg);
}

/* What only the process knows that has his mail. */
static void why_account(struct admin *a, const struct control_route *route, struct reply *r)
{
    struct control_account account = {.user = route->user};

    shard_call(a->shard->node->shards[route->shard], ask_account, &account);
    reply_u64(r, "shard", (uint64_t)route->shard);
    reply_bool(r, "account_loaded", account.loaded);
    reply_u64(r, "modseq", account.modseq);
}

static void why_show(struct admin *a, const struct control_user *user, struct reply *r)
{
    struct control_route route = {.user = slice_of(user->canonical, user->size)};
    struct heap *heap = a->shard->heap;
    struct control_page *page = heap_zalloc(heap, sizeof *page);
    struct walk w = {.each = NULL};
    int rc;

    control_self()->route(&route);
    page->mask = route.user;
    page->exact = true;
    rc = walk_all(a, &w, page);
    heap_free(heap, page);
    if (rc < 0) {
        reply_error(r, 503, ADMIN_NOT_READY);
        return;
    }
    reply_begin(r, '\n');
    reply_slice(r, "user", route.user);
    reply_bool(r, "disabled", user->disabled);
    if (route.known) {
        reply_u64(r, "partition", route.partition);
        reply_slice(r, "node", slice_str(route.node));
        reply_bool(r, "exception", route.exception);
        if (route.to[0] != '\0')
            reply_slice(r, "moving_to", slice_str(route.to));
    }
    reply_u64(r, "sessions", w.count);
    if (route.known && route.shard >= 0)
        why_account(a, &route, r);
    reply_end(r);
}

void why_command(struct admin *a, struct slice argument, struct reply *r)
{
    struct control_user user = {.name = argument};

    if (argument.size == 0) {
        reply_error(r, 400, "why whom? USER");
        return;
    }
    if (!ready_soon(a)) {
        reply_error(r, 503, ADMIN_NOT_READY);
        return;
    }
    control_self()->user(&user);
    if (user.rc == -ENOENT)
        reply_error(r, 404, "no such user");
    else if (user.rc < 0)
        reply_error(r, 503, "cannot tell now, or is no director");
    else
        why_show(a, &user, r);
}

/* ---- log level, reload ----------------------------------------------------------------------------------- */

void log_level_command(struct admin *a, struct slice argument, struct reply *r)
{
    enum log_level level;

    if (!log_level_parse(argument, &level)) {
        reply_error(r, 400, "log level: debug, info, warn or error");
        return;
    }
    log_event(LOG_INFO, "operator sets the log level", "level=%s", log_level_name(level));
    log_set_level(level);
    reply_begin(r, ' ');
    reply_slice(r, "log_level", argument);
    reply_end(r);
}

void reload_command(struct admin *a, struct slice argument, struct reply *r)
{
    uint32_t mine;

    if (!ready_soon(a)) {
        reply_error(r, 503, ADMIN_NOT_READY);
        return;
    }
    mine = a->reloads_begun +
           1; /* One that is under way may have read its files before the operator wrote them. */
    node_reload(a->shard->node);
    for (unsigned ms = 0; ms < RELOAD_WAIT_MS && (int32_t)(a->reloads_ended - mine) < 0; ms += POLL_MS) {
        if (fiber_sleep_ms(POLL_MS) < 0)
            break;
    }
    if ((int32_t)(a->reloads_ended - mine) < 0) {
        reply_error(r, 503, "asked, and not done yet; the log will say how it went");
    } else if (a->reload_error[0] != '\0') {
        reply_error(r, 422, a->reload_error);
    } else {
        reply_begin(r, ' ');
        reply_slice(r, "reload", SLICE("done"));
        reply_end(r);
    }
}

void admin_reload_begun(struct shard *s)
{
    struct admin *a = s->slot[SLOT_ADMIN];

    if (a != NULL)
        a->reloads_begun++;
}

void admin_reload_ended(struct shard *s, const char *error)
{
    struct admin *a = s->slot[SLOT_ADMIN];

    if (a == NULL)
        return;
    a->reloads_ended = a->reloads_begun;
    snprintf(a->reload_error, sizeof a->reload_error, "%s", error);
}

/* ---- upgrade -------------------------------------------------------------------------------------------- */

void upgrade_command(struct admin *a, struct slice argument, struct reply *r)
{
    const struct node *node = a->shard->node;

    if (!ready_soon(a)) {
        reply_error(r, 503, ADMIN_NOT_READY);
        return;
    }
    if (node->ops->upgrade == NULL || a->upgrading) {
        reply_error(r, 409, a->upgrading ? "an upgrade is under way" : "this process has no supervisor");
        return;
    }
    a->upgrading = true;
    a->upgraded = false;
    node->ops->upgrade(a->shard);
    for (unsigned ms = 0; ms < UPGRADE_WAIT_MS && !a->upgraded; ms += POLL_MS) {
        if (fiber_sleep_ms(POLL_MS) < 0)
            break;
    }
    a->upgrading = false;
    if (!a->upgraded) {
        reply_error(r, 503, "asked, and not done yet; the log will say how it went");
    } else if (a->upgrade_error[0] != '\0') {
        reply_error(r, 422, a->upgrade_error);
    } else {
        reply_begin(r, ' ');
        reply_slice(r, "upgrade", SLICE("done"));
        reply_u64(r, "moved", a->upgrade_moved);
        reply_u64(r, "dropped", a->upgrade_dropped);
        reply_u64(r, "frozen_ms", a->upgrade_frozen_ms);
        reply_end(r);
    }
}

void admin_upgrade_ended(struct shard *s, const struct upgrade_result *result, const char *error)
{
    struct admin *a = s->slot[SLOT_ADMIN];

    if (a == NULL)
        return;
    a->upgraded = true;
    a->leaving = error[0] == '\0';
    a->upgrade_moved = result->moved;
    a->upgrade_dropped = result->dropped;
    a->upgrade_frozen_ms = result->frozen_ms;
    snprintf(a->upgrade_error, sizeof a->upgrade_error, "%s", error);
}

void admin_takes_over(struct shard *s, bool begins)
{
    struct admin *a = s->slot[SLOT_ADMIN];

    if (a != NULL)
        a->taking = begins;
}

void admin_begins_anew(struct shard *s, uint64_t lost_count)
{
    struct admin *a = s->slot[SLOT_ADMIN];

    if (a == NULL)
        return;
    a->anew = true;
    a->lost_count = lost_count;
}
