#include "roles/proxy/proxy.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "core/metrics.h"
#include "core/net_prefix.h"
#include "net/deflate.h"
#include "roles/proxy/chest.h"
#include "roles/proxy/lmtp_session.h"
#include "roles/proxy/session.h"
#include "roles/proxy/ticket_keys.h"
#include "roles/proxy/tls_setup.h"
#include "roles/role.h"
#include "roles/settings.h"
#include "roles/words/control.h"
#include <errno.h>

#define TOLD_MAX      64    /* Beyond those who are admitted: they are being told that they are not. */
#define SHED_QUIET_MS 60000 /* A crowd is worth a line, not one for each. */
#define STOP_POLL_MS  10
#define STOP_WAKES    1024 /* In each of them. */

bool proxy_admits(const struct proxy *p)
{
    return !p->stopping && p->connections <= p->limits.connections && heap_admits(p->heap);
}

void proxy_turned_away(struct proxy *p)
{
    uint64_t now_ms = time_ms();
    bool memory = p->connections <= p->limits.connections;

    p->shard->metrics->accepts_shed++;
    if (p->stopping || now_ms < p->shed_quiet_until_ms)
        return;
    p->shed_quiet_until_ms = now_ms + SHED_QUIET_MS;
    log_event(LOG_WARN, "clients are turned away", "connections=%llu hint=%s",
              (unsigned long long)p->connections,
              memory ? "over_the_memory_budget:_raise_memory" : "over_limits.connections:_raise_it");
}

bool proxy_network_listed(const struct config *config, const char *key, size_t count,
                          const struct net_addr *peer)
{
    for (size_t i = 0; i < count; i++) {
        struct net_prefix prefix;

        if (net_prefix_parse(slice_str(config_list_item(config, key, i)), &prefix) &&
            net_prefix_contains(&prefix, peer))
            return true;
    }
    return false;
}

bool proxy_lmtp_allowed(const struct proxy *p, const struct net_addr *peer)
{
    const struct config *config = p->shard->node->config;

    return proxy_network_listed(config, "lmtp.from", config_list_count(config, "lmtp.from"), peer);
}

bool proxy_header_due(const struct proxy *p, const struct net_addr *peer)
{
    const struct config *config = p->shard->node->config;

    return proxy_network_listed(config, "proxy_protocol.from",
                                config_list_count(config, "proxy_protocol.from"), peer);
}

enum proxy_header_result proxy_take_header(struct proxy *p, struct conn *c, struct slice in,
                                           size_t *taken_out)
{
    struct proxy_header header;
    enum proxy_header_result result = proxy_header_parse(in, &header, taken_out);

    p->shard->metrics->proxy_headers += result == PROXY_HEADER_WHOLE;
    p->shard->metrics->proxy_headers_bad += result == PROXY_HEADER_BAD;
    if (result == PROXY_HEADER_WHOLE && header.source.family != 0)
        c->peer = header.source;
    return result;
}

/* ---- Listeners ----------------------------------------------------------------------------------------- */

static void imap_accepted(struct listener *l, struct sock sock, const struct net_addr *peer)
{
    shard_self()->metrics->accepts++;
    session_accept(l->owner, sock, peer, l->flag);
}

static void lmtp_accepted(struct listener *l, struct sock sock, const struct net_addr *peer)
{
    shard_self()->metrics->accepts++;
    lmtp_accept(l->owner, sock, peer);
}

struct listen_kind {
    const char *key;
    bool tls;
    void (*accepted)(struct listener *l, struct sock sock, const struct net_addr *peer);
};

static const struct listen_kind listen_kinds[] = {
    {"imap.listen", false, imap_accepted},
    {"imaps.listen", true, imap_accepted},
    {"lmtp.listen", false, lmtp_accepted},
};

static int listen_one(struct proxy *p, const struct listen_kind *kind, const char *text)
{
    struct listener *l = &p->listeners[p->listener_count];
    struct net_addr addr;
    int rc;

    if (!net_addr_parse(slice_str(text), &addr))
        return -EINVAL; /* settings_check() has said so already. */
    l->accepted = kind->accepted;
    l->owner = p;
    l->flag = kind->tls;
    rc = listener_start(l, &addr);
    if (rc < 0) {
        log_event(LOG_ERROR, "cannot listen", "key=%s address=%s error=%s", kind->key, text, log_error(rc));
        return rc;
    }
    p->listener_count++;
    return 0;
}

static int listen_all(struct proxy *p)
{
    const struct config *config = p->shard->node->config;
    size_t count = 0;
    int rc = 0;

    for (size_t k = 0; k < ARRAY_COUNT(listen_kinds); k++)
        count += config_list_count(config, listen_kinds[k].key);
    p->listeners = heap_zalloc(p->heap, MAX(count, 1) * sizeof *p->listeners);
    for (size_t k = 0; rc == 0 && k < ARRAY_COUNT(listen_kinds); k++) {
        for (size_t i = 0; rc == 0 && i < config_list_count(config, listen_kinds[k].key); i++)
            rc = listen_one(p, &listen_kinds[k], config_list_item(config, listen_kinds[k].key, i));
    }
    return rc;
}

/* ---- Start and stop ------------------------------------------------------------------------------------ */

static void limits_read(struct proxy_limits *limits, const struct node *node)
{
    const struct config *c = node->config;

    limits->connections = MAX(config_u64(c, "limits.connections") / node->shard_count, 1);
    limits->handshakes = MAX(config_u64(c, "limits.handshakes") / node->shard_count, 1);
    limits->login_timeout_ms = config_duration_ms(c, "limits.login_timeout");
    limits->session_idle_ms = config_duration_ms(c, "limits.session_idle");
    limits->idle_keep_alive_ms = config_duration_ms(c, "limits.idle_keep_alive");
    limits->bad_prelogin = config_u64(c, "limits.bad_prelogin");
    limits->bad_session = config_u64(c, "limits.bad_session");
    limits->message_size = config_size(c, "limits.message_size");
    limits->compress_memory = config_size(c, "limits.compress_memory") / node->shard_count;
    limits->outcome_wait_ms = config_duration_ms(c, "limits.outcome_wait");
    limits->recipients = config_u64(c, "limits.recipients");
}

/* As many as a turn can end; the next call has more. */
static void sleepers_wake_some(struct proxy *p)
{
    uint32_t id = 0;

    for (unsigned i = 0; i < STOP_WAKES && (id = sleepers_next(&p->sleepers, id)) != RECORD_NONE; i++) {
        if (sleepers_wake(&p->sleepers, id, METRIC_WAKE_STOP, false) == NULL)
            break;
    }
}

static void sessions_bye(struct proxy *p, bool all)
{
    sleepers_wake_some(p);
    list_each_safe(it, &p->session_list)
    {
        struct session *s = CONTAINER_OF(it, struct session, link);

        if (s->state == SESSION_CLOSING && all)
            conn_abort(&s->conn);
        else if (all || (s->stream == NULL && s->request == NULL && s->state != SESSION_CLOSING))
            session_bye(s, "[UNAVAILABLE] Server shutting down");
    }
    list_each_safe(it, &p->lmtp_list)
    {
        struct lmtp_session *l = CONTAINER_OF(it, struct lmtp_session, link);

        if (l->state == LMTP_AT_CLOSING && all)
            conn_abort(&l->conn);
        else if (all || !l->in_mail)
            lmtp_bye(l, LMTP_REPLY_SHUTTING_DOWN);
    }
}

/* Idle sessions end now; what is in flight has until the grace is over, then it is cut. */
static void sessions_drain(struct proxy *p)
{
    uint64_t grace_ms = config_duration_ms(p->shard->node->config, "shutdown.grace");
    uint64_t deadline = time_ms() + grace_ms;

    while (p->connections > 0) {
        bool late = time_ms() >= deadline;

        sessions_bye(p, late);
        if (late && time_ms() >= deadline + CONN_CLOSE_MS)
            break;
        if (fiber_sleep_ms(STOP_POLL_MS) < 0)
            break;
    }
}

static void proxy_stop(struct shard *s)
{
    struct proxy *p = s->slot[SLOT_PROXY];

    if (p == NULL)
        return;
    p->stopping = true;
    for (unsigned i = 0; i < p->listener_count; i++)
        listener_stop(&p->listeners[i]);
    sessions_drain(p);
    for (unsigned i = 0; i < p->listener_count; i++)
        listener_wait(&p->listeners[i]);
    s->slot[SLOT_PROXY] = NULL;
    revoked_fini(p);
    sleepers_fini(&p->sleepers);
    subscriptions_fini(&p->subscriptions);
    users_fini(&p->users);
    differences_fini(&p->differences);
    statuses_fini(&p->statuses);
    route_stop(&p->route);
    handshakes_fini(&p->handshakes);
    ticket_keys_stop(p);
    tls_context_release(p->tls);
    tls_context_release(p->tls_next);
    deflate_stop();
    arena_fini(&p->arena);
    slab_fini(&p->sessions);
    slab_fini(&p->lmtp_sessions);
    heap_free(p->heap, p->listeners);
    heap_free(p->heap, p);
}

static enum sleep_after sleep_after_read(const struct config *c)
{
    const char *word = config_string(c, "debug.sleep_after");

    if (strcmp(word, "command") == 0)
        return SLEEP_AFTER_COMMAND;
    return strcmp(word, "record") == 0 ? SLEEP_AFTER_RECORD : SLEEP_AFTER_IDLE;
}

static int proxy_start(struct shard *s)
{
    struct proxy *p = heap_zalloc(s->heap, sizeof *p);
    uint32_t connections;
    int rc;

    p->shard = s;
    p->heap = s->heap;
    p->node_name = config_string(s->node->config, "node");
    p->plaintext_always = strcmp(config_string(s->node->config, "auth.plaintext"), "always") == 0;
    if (!arrivals_process(s, &p->process, &p->next_id)) {
        p->next_id = random_u64() & UINT64_C(0xffffffff000000);
        p->process = (struct packed_process){.id_base = p->next_id, .secret = random_u64() | 1};
    }
    p->sleep_after = sleep_after_read(s->node->config);
    limits_read(&p->limits, s->node);
    connections = (uint32_t)MIN(p->limits.connections + TOLD_MAX, UINT32_MAX);
    slab_init(&p->sessions, p->heap, sizeof(struct session), connections);
    slab_init(&p->lmtp_sessions, p->heap, sizeof(struct lmtp_session), connections);
    list_init(&p->session_list);
    handshakes_init(&p->handshakes, p->limits.handshakes, random_u64());
    begun_init(&p->begun, s->node->shard_count);
    list_init(&p->lmtp_list);
    users_init(&p->users, p->heap,
               settings_roles(s->node->config) == LINK_ROLE_ALL ? control_user_hash : NULL);
    subscriptions_init(&p->subscriptions, p);
    differences_init(&p->differences, p->heap);
    statuses_init(&p->statuses, p->heap);
    arena_init(&p->arena, p->heap);
    sleepers_init(&p->sleepers, p);
    revoked_init(p);
    s->slot[SLOT_PROXY] = p;
    rc = tls_setup(p);
    if (rc == 0)
        rc = route_start(&p->route, s);
    if (rc == 0)
        rc = listen_all(p);
    if (rc < 0)
        proxy_stop(s);
    return rc;
}

const struct role role_proxy = {"proxy", proxy_start, proxy_stop};
