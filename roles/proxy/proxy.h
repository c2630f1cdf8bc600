/* roles/proxy/proxy.h -- what one shard of the proxy holds: listeners, sessions, subscriptions, limits. */
#pragma once
#include "core/heap.h"
#include "core/list.h"
#include "core/shard.h"
#include "net/conn.h"
#include "net/listener.h"
#include "net/proxy_protocol.h"
#include "net/tls.h"
#include "roles/proxy/begun.h"
#include "roles/proxy/difference.h"
#include "roles/proxy/handshakes.h"
#include "roles/proxy/revoked.h"
#include "roles/proxy/route.h"
#include "roles/proxy/sleepers.h"
#include "roles/proxy/status.h"
#include "roles/proxy/subscription.h"

struct proxy_limits { /* limits.* of the configuration. */
    uint64_t connections, handshakes;
    uint64_t login_timeout_ms, session_idle_ms, idle_keep_alive_ms;
    uint64_t bad_prelogin, bad_session;
    uint64_t message_size, recipients;
    uint64_t outcome_wait_ms;
    uint64_t compress_memory; /* Of a shard. */
};

enum sleep_after { SLEEP_AFTER_IDLE, SLEEP_AFTER_COMMAND, SLEEP_AFTER_RECORD }; /* debug.sleep_after */

/* The operator's, over those who sleep and then over session_list and lmtp_list, a page at a time. Who wakes meanwhile comes to the end
 * of that list; nobody falls asleep until `until_ms`, so nobody is missed. */
struct proxy_walk {
    struct list *at;   /* NULL: not among those who are awake yet. */
    uint32_t sleeper;  /* Where it goes on among the others. */
    bool lmtp;         /* It is in lmtp_list. */
    uint64_t until_ms; /* 0: there is none. */
};
#define PROXY_WALK_MS 2000 /* For the next page. */

struct proxy {
    struct shard *shard;
    struct heap *heap;
    struct proxy_limits limits;
    struct handshakes handshakes;
    struct begun begun;
    struct tls_context *tls; /* NULL: none configured. */
    struct tls_context *tls_next;
    struct tls_ticket_keys *ticket_keys; /* In a secret page. NULL: no TLS. */
    struct timer ticket_timer;
    const char *node_name;
    bool plaintext_always; /* auth.plaintext */
    struct listener *listeners;
    unsigned listener_count;
    struct slab sessions, lmtp_sessions;
    struct list session_list, lmtp_list;
    struct route route;
    struct proxy_walk walk;
    struct revoked revoked;
    struct users users;
    struct sleepers sleepers;
    uint8_t sleep_after; /* enum sleep_after */
    struct subscriptions subscriptions;
    struct differences differences;
    struct statuses statuses;
    struct arena arena; /* Of the command that is looked at right now: reset at once. */
    uint64_t next_id;
    struct packed_process process;
    uint64_t connections; /* Open now, both kinds. */
    uint64_t shed_quiet_until_ms;
    bool stopping;
};

/* A session goes, or goes to sleep: no walk must stand on it. */
static inline void proxy_walks_leave(struct proxy *p, const struct list *link)
{
    if (p->walk.at == link)
        p->walk.at = link->next;
    revoked_leave(p, link);
}

/* False: over a limit, or over the memory budget; the caller says so to the client and closes. */
bool proxy_admits(const struct proxy *p);
/* One was not admitted: counts, and tells the operator now and then. */
void proxy_turned_away(struct proxy *p);
/* Must a connection from there begin with a PROXY header (proxy_protocol.from)? */
bool proxy_header_due(const struct proxy *p, const struct net_addr *peer);
/* Takes it from the beginning of the connection: from WHOLE on c->peer is the client. Counts. */
enum proxy_header_result proxy_take_header(struct proxy *p, struct conn *c, struct slice in,
                                           size_t *taken_out);
/* Is it in one of the `count` networks that the key lists? */
bool proxy_network_listed(const struct config *config, const char *key, size_t count,
                          const struct net_addr *peer);
/* Networks of lmtp.from; none configured: loopback only. */
bool proxy_lmtp_allowed(const struct proxy *p, const struct net_addr *peer);
