#include "net/tls.h"
#include "roles/supervisor/plan.h"
#include <errno.h>

struct pair { /* A certificate, and its private key. */
    const char *keys[2];
    const char *paths[2]; /* NULL: not set. */
};

/* False: there are no more. */
static bool pair_at(const struct config *c, size_t at, struct pair *pair_out)
{
    static const char *const keys[][2] = {{"tls.cert", "tls.key"}, {"cluster.cert", "cluster.key"}};

    if (at < ARRAY_COUNT(keys)) {
        *pair_out = (struct pair){{keys[at][0], keys[at][1]},
                                  {config_string(c, keys[at][0]), config_string(c, keys[at][1])}};
        return true;
    }
    at -= ARRAY_COUNT(keys);
    if (at >= config_record_count(c, "tls.sni"))
        return false;
    *pair_out = (struct pair){
        {"tls.sni", "tls.sni"},
        {config_record_field(c, "tls.sni", at, "cert"), config_record_field(c, "tls.sni", at, "key")}};
    return true;
}

static bool file_add(struct plan *p, const char *key, const char *path, struct config_error *error)
{
    struct given *given = &p->handover.given;
    struct slice known;
    int rc;

    if (path == NULL || given_find(given, path, &known))
        return true;
    rc = given->count < HANDOVER_FILES_MAX ? handover_file_read(path, &given->files[given->count]) : -E2BIG;
    if (rc == 0) {
        given->count++;
        return true;
    }
    if (error == NULL)
        return true;
    return config_wrong(p->config, key, error, "cannot read %.200s: %s", path, strerror(-rc));
}

static bool files_add(struct plan *p, struct config_error *error)
{
    struct pair pair;

    for (size_t i = 0; pair_at(p->config, i, &pair); i++) {
        if (!file_add(p, pair.keys[0], pair.paths[0], error) ||
            !file_add(p, pair.keys[1], pair.paths[1], error))
            return false;
    }
    return file_add(p, "cluster.ca", config_string(p->config, "cluster.ca"), error);
}

bool plan_read_files(struct plan *p, struct config_error *error)
{
    p->handover.given = (struct given){.files = p->files};
    if (files_add(p, error))
        return true;
    handover_files_wipe(&p->handover.given);
    return false;
}

/* One that was not read is not looked at. */
static bool pair_good(const struct plan *p, const struct pair *pair, struct config_error *error)
{
    const struct given *given = &p->handover.given;
    struct tls_pair read = {.name = slice_of(NULL, 0)};
    char what[TLS_ERROR_MAX];
    bool of_key;

    if (pair->paths[0] == NULL || pair->paths[1] == NULL || !given_find(given, pair->paths[0], &read.cert) ||
        !given_find(given, pair->paths[1], &read.key) || tls_pair_check(&read, &of_key, what))
        return true;
    return config_wrong(p->config, pair->keys[of_key], error, "%.200s: %s", pair->paths[of_key], what);
}

bool plan_files_good(const struct plan *p, struct config_error *error)
{
    struct pair pair;

    for (size_t i = 0; pair_at(p->config, i, &pair); i++) {
        if (!pair_good(p, &pair, error))
            return false;
    }
    return true;
}
