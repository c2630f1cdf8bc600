#include "roles/proxy/tls_setup.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/given.h"
#include "core/log.h"
#include "core/metrics.h"
#include "roles/proxy/ticket_keys.h"
#include <errno.h>
#include <stdio.h>

static int pem_find(struct proxy *p, const char *path, struct slice *pem_out)
{
    if (given_find(p->shard->node->given, path, pem_out))
        return 0;
    log_event(LOG_ERROR, "a certificate or key was not handed over", "file=%s", log_quote(slice_str(path)));
    return -ENOENT;
}

static int pair_find(struct proxy *p, const char *name, const char *cert, const char *key,
                     struct tls_pair *pair)
{
    int rc = pem_find(p, cert, &pair->cert);

    if (rc == 0)
        rc = pem_find(p, key, &pair->key);
    pair->name = name != NULL ? slice_str(name) : slice_of(NULL, 0);
    return rc;
}

struct context_call { /* For core_call(): reading keys needs a deep stack. */
    struct proxy *proxy;
    struct tls_pair *pairs;
    unsigned count;
    struct tls_context *context;
    char *error;
    int rc;
};

static void context_make(void *arg)
{
    struct context_call *call = arg;

    call->rc =
        tls_context_create(call->pairs, call->count, call->proxy->ticket_keys, &call->context, call->error);
}

static int pairs_find(struct proxy *p, struct tls_pair *pairs, size_t sni_count)
{
    const struct config *config = p->shard->node->config;
    int rc =
        pair_find(p, NULL, config_string(config, "tls.cert"), config_string(config, "tls.key"), &pairs[0]);

    for (size_t i = 0; rc == 0 && i < sni_count; i++)
        rc = pair_find(p, config_record_field(config, "tls.sni", i, "name"),
                       config_record_field(config, "tls.sni", i, "cert"),
                       config_record_field(config, "tls.sni", i, "key"), &pairs[i + 1]);
    return rc;
}

static int make(struct proxy *p, struct tls_context **context_out, char error[TLS_ERROR_MAX])
{
    size_t sni_count = config_record_count(p->shard->node->config, "tls.sni");
    struct tls_pair *pairs = arena_zalloc(&p->arena, (sni_count + 1) * sizeof *pairs);
    struct context_call *call = arena_zalloc(&p->arena, sizeof *call);
    int rc = pairs_find(p, pairs, sni_count);

    if (rc < 0)
        snprintf(error, TLS_ERROR_MAX, "a certificate or key was not handed over");
    *call = (struct context_call){
        .proxy = p, .pairs = pairs, .count = (unsigned)sni_count + 1, .error = error, .rc = rc};
    if (rc == 0) {
        core_call(context_make, call);
        rc = call->rc < 0 ? -EKEYREJECTED : 0;
        if (rc < 0)
            log_event(LOG_ERROR, "TLS: certificate or key refused",
                      "error=%s hint=tls.cert,_tls.key,_tls.sni", log_quote(slice_str(error)));
    }
    *context_out = call->context;
    arena_wipe(&p->arena);
    return rc;
}

static void use(struct proxy *p, struct tls_context *context)
{
    tls_context_release(p->tls); /* Whoever shakes hands has a reference of his own. */
    p->tls = context;
    p->shard->metrics->tls_certificate_expiry = (uint64_t)tls_context_expiry(context);
}

int tls_setup(struct proxy *p)
{
    char error[TLS_ERROR_MAX];
    struct tls_context *context;
    int rc;

    if (config_string(p->shard->node->config, "tls.cert") == NULL)
        return 0;
    rc = ticket_keys_start(p);
    if (rc == 0)
        rc = make(p, &context, error);
    if (rc == 0)
        use(p, context);
    return rc;
}

int tls_renew(struct proxy *p, char error[TLS_ERROR_MAX])
{
    return p->tls != NULL ? make(p, &p->tls_next, error) : 0;
}

void tls_renewed(struct proxy *p, bool take)
{
    if (p->tls_next != NULL && take) {
        /* The keys of tickets may have changed since it was made. */
        tls_context_set_ticket_keys(p->tls_next, p->ticket_keys);
        use(p, p->tls_next);
    } else {
        tls_context_release(p->tls_next);
    }
    p->tls_next = NULL;
}
