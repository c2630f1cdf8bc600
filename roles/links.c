#include "roles/links.h"
#include "core/config.h"
#include "core/given.h"
#include "core/io.h"
#include "core/log.h"
#include "net/link/wire.h"
#include "net/listener.h"
#include "roles/backend/member.h"
#include "roles/settings.h"
#include "roles/words/place.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>

struct contexts {
    struct tls_context *server, *client;
};

struct links {
    struct contexts contexts, next; /* NULL in both: none configured. */
    struct listener *listeners;
    unsigned listener_count;
};

/* ---- Who may ask what ---------------------------------------------------------------------------------- */

static bool admit(const struct link_node *from, const struct link_frame *open, enum link_lost *why_out,
                  struct link_referral *referral_out)
{
    switch (open->header.kind) {
    case LINK_LOGIN:
    case LINK_LOOKUP:
    case LINK_RENEW:
    case LINK_TABLE:
        return (from->roles & LINK_ROLE_PROXY) != 0;
    case LINK_MEMBER:
        return (from->roles & LINK_ROLE_DIRECTOR) != 0;
    case LINK_IMAP:
    case LINK_SYNC:
    case LINK_SUBSCRIBE:
    case LINK_DELIVER:
        return (from->roles & LINK_ROLE_PROXY) != 0 &&
               member_admit(from, open, (uint16_t)open->header.value, why_out, referral_out);
    default:
        return false;
    }
}

/* Questions for a director go by the user's name, so that a login cache is warm; commands to the shard that has the partition;
 * what is of the whole node to shard 0. */
static unsigned shard_of(enum link_kind kind, uint16_t route)
{
    switch (kind) {
    case LINK_TABLE:
    case LINK_MEMBER:
        return 0;
    case LINK_LOGIN:
    case LINK_LOOKUP:
    case LINK_RENEW:
        return route % shard_self()->node->shard_count;
    default:
        return place_self() != NULL ? place_self()->shard(route % PARTITION_COUNT) : UINT_MAX;
    }
}

/* ---- Certificates -------------------------------------------------------------------------------------- */

static int pem_find(const struct shard *s, const char *path, struct slice *pem_out)
{
    if (given_find(s->node->given, path, pem_out))
        return 0;
    log_event(LOG_ERROR, "a certificate or key of the cluster was not handed over", "file=%s",
              log_quote(slice_str(path)));
    return -ENOENT;
}

static void contexts_release(struct contexts *c)
{
    tls_context_release(c->server);
    tls_context_release(c->client);
    *c = (struct contexts){NULL, NULL};
}

static int contexts_make(struct contexts *c, const struct shard *s, char error[TLS_ERROR_MAX])
{
    const struct config *config = s->node->config;
    struct tls_pair pair = {.name = SLICE("cluster.cert")};
    struct slice ca;
    int rc;

    if (config_string(config, "cluster.cert") == NULL)
        return 0;
    rc = pem_find(s, config_string(config, "cluster.cert"), &pair.cert);
    if (rc == 0)
        rc = pem_find(s, config_string(config, "cluster.key"), &pair.key);
    if (rc == 0)
        rc = pem_find(s, config_string(config, "cluster.ca"), &ca);
    if (rc < 0) {
        snprintf(error, TLS_ERROR_MAX, "a certificate or key of the cluster was not handed over");
        return rc;
    }
    rc = tls_context_create_node(&pair, ca, true, &c->server, error);
    if (rc == 0)
        rc = tls_context_create_node(&pair, ca, false, &c->client, error);
    if (rc < 0)
        log_event(LOG_ERROR, "TLS of links: certificate or key refused", "error=%s",
                  log_quote(slice_str(error)));
    return rc;
}

int links_renew(struct shard *s, char error[TLS_ERROR_MAX])
{
    struct links *l = s->slot[SLOT_LINKS];
    int rc = l != NULL ? contexts_make(&l->next, s, error) : 0;

    if (rc < 0)
        contexts_release(&l->next);
    return rc;
}

void links_renewed(struct shard *s, bool use)
{
    struct links *l = s->slot[SLOT_LINKS];

    if (l == NULL || l->next.server == NULL)
        return;
    if (use) {
        struct contexts before = l->contexts;

        l->contexts = l->next;
        l->next = before;
        wires_set_tls(l->contexts.server, l->contexts.client);
    }
    contexts_release(&l->next);
}

/* ---- Start and stop ------------------------------------------------------------------------------------ */

static void accepted(struct listener *l, struct sock sock, const struct net_addr *peer)
{
    wires_accept(sock, peer);
}

int links_listen(struct shard *s)
{
    struct links *l = s->slot[SLOT_LINKS];
    size_t count = config_list_count(s->node->config, "link.listen");

    l->listeners = heap_zalloc(s->heap, MAX(count, 1) * sizeof *l->listeners);
    for (size_t i = 0; i < count; i++) {
        const char *text = config_list_item(s->node->config, "link.listen", i);
        struct listener *listener = &l->listeners[i];
        struct net_addr addr;
        int rc;

        if (!net_addr_parse(slice_str(text), &addr))
            return -EINVAL; /* settings_check() has said so already. */
        listener->accepted = accepted;
        rc = listener_start(listener, &addr);
        if (rc < 0) {
            log_event(LOG_ERROR, "cannot listen", "key=link.listen address=%s error=%s", text, log_error(rc));
            return rc;
        }
        l->listener_count++;
    }
    return 0;
}

int links_start(struct shard *s)
{
    struct links *l = heap_zalloc(s->heap, sizeof *l);
    struct wires_config config = {.admit = admit, .shard = shard_of};
    const char *name = config_string(s->node->config, "node");
    char error[TLS_ERROR_MAX];
    int rc = contexts_make(&l->contexts, s, error);

    s->slot[SLOT_LINKS] = l;
    if (rc < 0)
        return rc;
    if (name == NULL || strlen(name) > LINK_NODE_NAME_MAX) {
        log_event(LOG_ERROR, "node's name is too long for links", "max=%d", LINK_NODE_NAME_MAX);
        return -ENAMETOOLONG;
    }
    memcpy(config.self.name, name, strlen(name));
    config.self.roles = settings_roles(s->node->config);
    config.self.instance = random_u64();
    config.self.features = settings_features(s->node->config);
    config.tls_server = l->contexts.server;
    config.tls_client = l->contexts.client;
    wires_start(&config);
    return 0;
}

void links_stop(struct shard *s)
{
    struct links *l = s->slot[SLOT_LINKS];

    if (l == NULL)
        return;
    for (unsigned i = 0; i < l->listener_count; i++)
        listener_stop(&l->listeners[i]);
    wires_stop();
    for (unsigned i = 0; i < l->listener_count; i++)
        listener_wait(&l->listeners[i]);
    s->slot[SLOT_LINKS] = NULL;
    contexts_release(&l->contexts);
    contexts_release(&l->next);
    heap_free(s->heap, l->listeners);
    heap_free(s->heap, l);
}
