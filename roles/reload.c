#include "roles/reload.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "roles/links.h"
#include "roles/proxy/tls_setup.h"
#include <errno.h>
#include <stdio.h>

struct renewal {
    int rc;
    char *error;
    bool use;
};

static void renew(void *arg) /* On each shard. */
{
    struct shard *s = shard_self();
    struct proxy *p = s->slot[SLOT_PROXY];
    struct renewal *r = arg;

    r->rc = p != NULL ? tls_renew(p, r->error) : 0;
    if (r->rc == 0)
        r->rc = links_renew(s, r->error);
}

static void renewed(void *arg) /* On each shard, whatever it has made. */
{
    struct shard *s = shard_self();
    const struct renewal *r = arg;

    if (s->slot[SLOT_PROXY] != NULL)
        tls_renewed(s->slot[SLOT_PROXY], r->use);
    links_renewed(s, r->use);
}

int reload_certificates(struct shard *s, char error[TLS_ERROR_MAX])
{
    struct node *node = s->node;
    struct renewal r = {.rc = 0, .error = error};

    for (unsigned i = 0; r.rc == 0 && i < node->shard_count; i++)
        shard_call(node->shards[i], renew, &r);
    r.use = r.rc == 0;
    for (unsigned i = 0; i < node->shard_count; i++)
        shard_call(node->shards[i], renewed, &r);
    return r.rc;
}
