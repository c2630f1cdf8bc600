#include "roles/role.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "net/link/link.h"
#include "roles/backend/control.h"
#include "roles/director/control.h"
#include "roles/proxy/control.h"
#include "roles/words/place.h"
#include "storage/store.h"
#include <errno.h>
#include <string.h>

#define SERVE_POLL_MS 2

/* What serves starts before what asks. */
static const struct role *const roles_all[] = {&role_backend, &role_director, &role_proxy};

static unsigned place_partition(struct slice user)
{
    return store_partition(store_self(), user);
}

static unsigned place_shard(unsigned partition)
{
    return store_partition_shard(store_self(), partition);
}

static const struct place place_store = {place_partition, place_shard};

static const struct control control_all = {proxy_control_sessions, director_control_user,
                                           backend_control_account};

static int store_start(struct shard *s)
{
    const struct store_config config = {
        .node_name = config_string(s->node->config, "node"),
        .message_size_max = config_size(s->node->config, "limits.message_size"),
    };
    struct store *store;
    int rc = store_open(&config, &store);

    if (rc < 0)
        log_event(LOG_ERROR, "store: cannot open", "shard=%u error=%s", s->index, strerror(-rc));
    s->slot[SLOT_OTHER] = (void *)(uintptr_t)&place_store;
    return rc;
}

static void ask_serving(void *arg)
{
    bool *serving = arg;

    *serving = shard_self()->slot[SLOT_DIRECTOR] != NULL && shard_self()->slot[SLOT_BACKEND] != NULL;
}

/* Clients may come to any core, and their accounts be on any other: nobody listens before everybody serves.
 */
static int wait_all_serve(struct shard *s)
{
    for (unsigned i = 0; i < s->node->shard_count; i++) {
        for (;;) {
            bool serving = false;
            int rc;

            shard_call(s->node->shards[i], ask_serving, &serving);
            if (serving)
                break;
            rc = s->node->stopping ? -ECANCELED : fiber_sleep_ms(SERVE_POLL_MS);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

static void role_all_stop_from(struct shard *s, size_t count)
{
    while (count > 0)
        roles_all[--count]->stop(s);
    if (store_self() != NULL)
        store_close(store_self());
    link_stop();
    s->slot[SLOT_CONTROL] = NULL;
}

static int role_all_start(struct shard *s)
{
    int rc = link_start();

    if (rc < 0)
        return rc;
    rc = store_start(s);
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(roles_all); i++) {
        if (roles_all[i] == &role_proxy)
            rc = wait_all_serve(s);
        if (rc == 0)
            rc = roles_all[i]->start(s);
        if (rc < 0) {
            role_all_stop_from(s, i);
            return rc;
        }
    }
    if (rc == 0)
        s->slot[SLOT_CONTROL] = (void *)(uintptr_t)&control_all;
    return rc;
}

struct absence {
    enum shard_slot slot;
    bool holds;
};

static void ask_absent(void *arg)
{
    struct absence *a = arg;

    a->holds = shard_self()->slot[a->slot] == NULL;
}

static void wait_all_absent(struct shard *s, enum shard_slot slot)
{
    for (unsigned i = 0; i < s->node->shard_count; i++) {
        for (;;) {
            struct absence a = {.slot = slot};

            shard_call(s->node->shards[i], ask_absent, &a);
            if (a.holds)
                break;
            (void)fiber_sleep_ms(SERVE_POLL_MS);
        }
    }
}

/* Whoever asks ends on every shard before anybody who serves ends on one: else a change that goes on would be answered NO,
 * and frames would go home to a shard that has forgotten them. */
static void role_all_stop(struct shard *s)
{
    size_t count = ARRAY_COUNT(roles_all);

    roles_all[--count]->stop(s); /* The proxy. */
    wait_all_absent(s, SLOT_PROXY);
    while (count > 0)
        roles_all[--count]->stop(s);
    wait_all_absent(s, SLOT_DIRECTOR);
    wait_all_absent(s, SLOT_BACKEND);
    role_all_stop_from(s, 0);
}

const struct node_ops role_all_ops = {role_all_start, role_all_stop};
