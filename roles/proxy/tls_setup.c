#include "roles/proxy/tls_setup.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "roles/proxy/ticket_keys.h"
#include <errno.h>
#include <fcntl.h>

#define PEM_SIZE_MAX (1024 * 1024)

static int pem_read(struct proxy *p, const char *path, struct slice *pem_out)
{
    struct file file;
    uint64_t size;
    ssize_t got = 0;
    char *bytes = NULL;
    int rc = file_open(path, O_RDONLY | O_CLOEXEC, 0, &file);

    if (rc == 0) {
        rc = file_size(file, &size);
        if (rc == 0 && (size == 0 || size > PEM_SIZE_MAX))
            rc = -EFBIG;
        if (rc == 0) {
            bytes = arena_alloc(&p->arena, size);
            got = file_read(file, bytes, size, 0);
            rc = got < 0 ? (int)got : 0;
        }
        file_close(file);
    }
    if (rc < 0) {
        log_event(LOG_ERROR, "cannot read a certificate or key", "file=%s error=%s",
                  log_quote(slice_str(path)), strerror(-rc));
        return rc;
    }
    *pem_out = slice_of(bytes, (size_t)got);
    return 0;
}

static int pair_read(struct proxy *p, const char *name, const char *cert, const char *key,
                     struct tls_pair *pair)
{
    int rc = pem_read(p, cert, &pair->cert);

    if (rc == 0)
        rc = pem_read(p, key, &pair->key);
    pair->name = name != NULL ? slice_str(name) : slice_of(NULL, 0);
    return rc;
}

struct context_call { /* For core_call(): reading keys needs a deep stack. */
    struct proxy *proxy;
    struct tls_pair *pairs;
    unsigned count;
    int rc;
    char error[TLS_ERROR_MAX];
};

static void context_make(void *arg)
{
    struct context_call *call = arg;

    call->rc = tls_context_create(call->pairs, call->count, &call->proxy->ticket_keys, &call->proxy->tls,
                                  call->error);
}

static int pairs_read(struct proxy *p, struct tls_pair *pairs, size_t sni_count)
{
    const struct config *config = p->shard->node->config;
    int rc =
        pair_read(p, NULL, config_string(config, "tls.cert"), config_string(config, "tls.key"), &pairs[0]);

    for (size_t i = 0; rc == 0 && i < sni_count; i++)
        rc = pair_read(p, config_record_field(config, "tls.sni", i, "name"),
                       config_record_field(config, "tls.sni", i, "cert"),
                       config_record_field(config, "tls.sni", i, "key"), &pairs[i + 1]);
    return rc;
}

int tls_setup(struct proxy *p)
{
    const struct config *config = p->shard->node->config;
    size_t sni_count = config_record_count(config, "tls.sni");
    struct context_call *call;
    struct tls_pair *pairs;
    int rc;

    if (config_string(config, "tls.cert") == NULL)
        return 0;
    rc = ticket_keys_start(p);
    if (rc < 0)
        return rc;
    pairs = arena_zalloc(&p->arena, (sni_count + 1) * sizeof *pairs);
    call = arena_zalloc(&p->arena, sizeof *call);
    *call = (struct context_call){.proxy = p, .pairs = pairs, .count = (unsigned)sni_count + 1};
    rc = pairs_read(p, pairs, sni_count);
    if (rc == 0) {
        core_call(context_make, call);
        rc = call->rc < 0 ? -EKEYREJECTED : 0;
        if (rc < 0)
            log_event(LOG_ERROR, "TLS: certificate or key refused",
                      "error=%s hint=tls.cert,_tls.key,_tls.sni", log_quote(slice_str(call->error)));
    }
    arena_wipe(&p->arena);
    return rc;
}
