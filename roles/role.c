#include "roles/role.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "net/link/link.h"
#include "roles/backend/control.h"
#include "roles/backend/member.h"
#include "roles/director/cluster.h"
#include "roles/director/control.h"
#include "roles/links.h"
#include "roles/proxy/control.h"
#include "roles/settings.h"
#include "roles/words/place.h"
#include "storage/store.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SERVE_POLL_MS 2

static unsigned place_partition(struct slice user)
{
    return store_partition(store_self(), user);
}

static unsigned place_shard(unsigned partition)
{
    return store_partition_shard(store_self(), partition);
}

static uint64_t place_user(struct slice user)
{
    return store_account_hash(store_self(), user);
}

static const struct place place_store = {place_partition, place_user, place_shard};

static void control_route(struct control_route *r)
{
    const char *self = config_string(shard_self()->node->config, "node");

    r->shard = -1;
    if (cluster_running()) {
        director_control_route(r);
    } else if (place_self() != NULL) {
        r->known = true;
        r->partition = (uint16_t)place_self()->partition(r->user);
        snprintf(r->node, sizeof r->node, "%s", self != NULL ? self : "");
    }
    if (r->known && place_self() != NULL && (self == NULL || strcmp(r->node, self) == 0))
        r->shard = (int)place_self()->shard(r->partition);
}

/* Each of them knows what to say where its role is not in the process. */
#define CONTROL_ALL                                                                                          \
    .sessions = proxy_control_sessions, .user = director_control_user, .route = control_route,               \
    .cluster = director_control_cluster, .place = director_control_place,                                    \
    .exceptions = director_control_exceptions, .revoke = director_control_revoke,                            \
    .revoked = proxy_control_revoked, .account = backend_control_account, .lacks = proxy_control_lacks

static const struct control control_all = {.serves = true, CONTROL_ALL};
/* A backend beside a director may wait for partitions that the operator has still to deal. */
static const struct control control_starting = {.serves = false, CONTROL_ALL};

/* What the operator can do about a store that was not opened. */
static const char *store_hint(int rc)
{
    switch (-rc) {
    case EACCES:
    case EPERM:
        return "all_in_the_data_directory_must_belong_to_the_server's_user";
    case EROFS:
        return "the_data_directory_must_be_writable";
    case ENOSPC:
        return "make_space";
    case ENOMEM:
        return "give_it_more_memory";
    case EMFILE:
    case ENFILE:
        return "raise_LimitNOFILE";
    default:
        return "see_the_lines_before_this_one";
    }
}

static int store_start(struct shard *s, const uint8_t *cluster_key)
{
    const struct store_config config = {
        .node_name = config_string(s->node->config, "node"),
        .cluster_key = cluster_key,
        .message_size_max = config_size(s->node->config, "limits.message_size"),
    };
    struct store *store;
    int rc = store_open(&config, &store);

    if (rc < 0)
        log_event(LOG_ERROR, "store: cannot open", "shard=%u error=%s hint=%s", s->index, log_error(rc),
                  store_hint(rc));
    else
        s->slot[SLOT_OTHER] = (void *)(uintptr_t)&place_store;
    return rc;
}

/* ---- The roles of a process ---------------------------------------------------------------------------- */

static int backend_start(struct shard *s, bool alone)
{
    uint8_t key[CLUSTER_KEY_SIZE];
    int rc;

    if (alone) {
        rc = store_start(s, NULL);
        return rc == 0 ? role_backend.start(s) : rc;
    }
    rc = member_start(s, key);
    if (rc == 0)
        rc = store_start(s, key);
    bytes_wipe(key, sizeof key);
    if (rc == 0)
        rc = role_backend.start(s);
    return rc == 0 ? member_joined(s) : rc;
}

struct ask {
    uint8_t roles;
    bool serving;
};

static void ask_serving(void *arg)
{
    const struct shard *s = shard_self();
    struct ask *ask = arg;

    ask->serving = ((ask->roles & LINK_ROLE_DIRECTOR) == 0 || s->slot[SLOT_DIRECTOR] != NULL) &&
                   ((ask->roles & LINK_ROLE_BACKEND) == 0 || s->slot[SLOT_BACKEND] != NULL);
}

/* Clients may come to any core, and their accounts be on any other: nobody listens before everybody serves. */
static int wait_all_serve(struct shard *s, uint8_t roles)
{
    for (unsigned i = 0; i < s->node->shard_count; i++) {
        for (;;) {
            struct ask ask = {.roles = roles};
            int rc;

            shard_call(s->node->shards[i], ask_serving, &ask);
            if (ask.serving)
                break;
            rc = s->node->stopping ? -ECANCELED : fiber_sleep_ms(SERVE_POLL_MS);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
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

static void rest_stop(struct shard *s)
{
    if (store_self() != NULL)
        store_close(store_self());
    link_stop();
    s->slot[SLOT_CONTROL] = NULL;
}

/* Of a start that has failed: whatever there is, without a word to the other shards. */
static void roles_undo(struct shard *s)
{
    role_proxy.stop(s);
    role_director.stop(s);
    role_backend.stop(s);
    cluster_stop(s);
    member_stop(s);
    links_stop(s);
    rest_stop(s);
}

/* Whoever asks ends on every shard before anybody who serves ends on one: else a change that goes on would be answered NO,
 * and frames would go home to a shard that has forgotten them. */
static void roles_stop(struct shard *s)
{
    role_proxy.stop(s);
    wait_all_absent(s, SLOT_PROXY);
    role_director.stop(s);
    role_backend.stop(s);
    wait_all_absent(s, SLOT_DIRECTOR);
    wait_all_absent(s, SLOT_BACKEND);
    cluster_stop(s);
    member_stop(s);
    links_stop(s);
    wait_all_absent(s, SLOT_LINKS);
    rest_stop(s);
}

/* What serves starts before what asks; a director before a backend, which may wait for its word, and for that listens
 * before it has a store. */
static int roles_run(struct shard *s)
{
    uint8_t roles = settings_roles(s->node->config);
    bool alone = roles == LINK_ROLE_ALL;
    int rc = alone ? 0 : links_start(s);

    if (rc == 0 && (roles & LINK_ROLE_DIRECTOR) != 0 && !alone)
        rc = cluster_start(s);
    if (rc == 0 && (roles & LINK_ROLE_DIRECTOR) != 0 && !alone)
        rc = role_director.start(s);
    if (rc == 0 && !alone)
        rc = links_listen(s);
    if (rc == 0 && !alone)
        s->slot[SLOT_CONTROL] = (void *)(uintptr_t)&control_starting;
    if (rc == 0 && (roles & LINK_ROLE_BACKEND) != 0)
        rc = backend_start(s, alone);
    if (rc == 0 && alone)
        rc = role_director.start(s);
    if (rc == 0 && (roles & LINK_ROLE_PROXY) != 0)
        rc = wait_all_serve(s, roles);
    if (rc == 0 && (roles & LINK_ROLE_PROXY) != 0)
        rc = role_proxy.start(s);
    return rc;
}

static int roles_start(struct shard *s)
{
    int rc = link_start();

    if (rc < 0)
        return rc;
    rc = roles_run(s);
    if (rc < 0)
        roles_undo(s);
    else
        s->slot[SLOT_CONTROL] = (void *)(uintptr_t)&control_all;
    return rc;
}

const struct node_ops role_ops = {roles_start, roles_stop};
