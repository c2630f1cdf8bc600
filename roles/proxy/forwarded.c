#include "roles/proxy/forwarded.h"
#include "core/config.h"
#include "core/log.h"
#include "core/net_prefix.h"
#include "net/imap/grammar.h"
#include <stdio.h>

bool forwarded_from(const struct proxy *p, const struct net_addr *peer)
{
    const struct config *config = p->shard->node->config;

    return proxy_network_listed(config, "xclient.from", config_list_count(config, "xclient.from"), peer);
}

/* An address without a port; Postfix writes IPV6: in front of one of the sixth version. */
static bool host_parse(struct slice text, struct net_addr *out)
{
    struct net_prefix one;

    if (slice_starts_nocase(text, SLICE("IPV6:")))
        text = slice_from(text, 5);
    if (slice_find(text, '/') < text.size || !net_prefix_parse(text, &one))
        return false;
    out->family = one.family;
    memcpy(out->ip, one.ip, sizeof out->ip);
    return true;
}

static bool port_parse(struct slice text, struct net_addr *out)
{
    uint64_t port;

    if (!slice_to_u64(text, UINT16_MAX, &port))
        return false;
    out->port = (uint16_t)port;
    return true;
}

/* Printable ASCII of it, as a string; the last one counts. */
static void session_keep(struct heap *heap, char **to, struct slice text)
{
    size_t size = MIN(text.size, (size_t)FORWARDED_SESSION_MAX);

    if (*to == NULL)
        *to = heap_alloc(heap, FORWARDED_SESSION_MAX + 1);
    for (size_t i = 0; i < size; i++)
        (*to)[i] = text.data[i] > ' ' && text.data[i] < 0x7f ? text.data[i] : '?';
    (*to)[size] = '\0';
}

void forwarded_by_id(struct session *s, const struct imap_id *id)
{
    struct net_addr peer = {.port = 0};

    if (!s->forwards || s->user_size > 0)
        return;
    for (uint32_t i = 0; i < id->count; i++) {
        const struct imap_id_pair *pair = &id->pairs[i];

        if (pair->nil)
            continue;
        if (slice_eq_nocase(pair->name, SLICE("x-originating-ip")))
            (void)host_parse(pair->value, &peer);
        else if (slice_eq_nocase(pair->name, SLICE("x-originating-port")))
            (void)port_parse(pair->value, &peer);
        else if (slice_eq_nocase(pair->name, SLICE("x-session-id")))
            session_keep(s->proxy->heap, &s->client_sid, pair->value);
    }
    if (peer.family != 0)
        s->conn.peer = peer;
}

static bool xclient_take(struct lmtp_session *l, const struct lmtp_xclient *x)
{
    struct net_addr peer = {.port = 0};

    if ((x->addr.size > 0 && !host_parse(x->addr, &peer)) ||
        (x->port.size > 0 && !port_parse(x->port, &peer)) || x->helo.size > LMTP_DOMAIN_MAX)
        return false;
    if (peer.family != 0)
        l->conn.peer = peer;
    if (x->session.size > 0)
        session_keep(l->proxy->heap, &l->client_sid, x->session);
    l->helo_forwarded = x->helo.size > 0;
    if (l->helo_forwarded)
        lmtp_helo_keep(l, x->helo);
    if (x->login.size > 0)
        log_event(LOG_DEBUG, "client login", "sid=%llx login=%s", (unsigned long long)l->id,
                  log_quote(x->login));
    return true;
}

bool forwarded_by_xclient(struct lmtp_session *l, struct slice arguments)
{
    struct lmtp_xclient *x = arena_alloc(&l->arena, sizeof *x); /* No transaction is under way. */
    bool taken = lmtp_xclient_parse(arguments, x) && xclient_take(l, x);

    arena_reset(&l->arena);
    return taken;
}

const char *forwarded_log(const char *session, char buffer[FORWARDED_LOG_MAX])
{
    buffer[0] = '\0';
    if (session != NULL)
        snprintf(buffer, FORWARDED_LOG_MAX, " client_sid=%s", log_quote(slice_str(session)));
    return buffer;
}
