#include "roles/director/cluster.h"
#include "core/io.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "roles/director/cluster_state.h"
#include "roles/director/control.h"
#include <errno.h>

#define COPY_POLL_MS 5

/* ---- Every shard's copy -------------------------------------------------------------------------------- */

static void view_make(struct cluster *c)
{
    partition_secret(c->key, c->view.secret);
    memcpy(c->view.owners, c->table.owners, sizeof c->view.owners);
    c->view.ready = c->table.node_count > 0;
    cluster_exceptions_view(c);
    for (size_t i = 0; i < c->member_count; i++) {
        if (c->members[i].node >= 0)
            c->view.keys[c->members[i].node] = c->members[i].keys[0];
    }
}

static void view_take(void *arg)
{
    struct cluster *c = cluster_self();

    if (c != NULL)
        c->view = *(const struct cluster_view *)arg;
}

static void view_spread(struct cluster *c)
{
    view_make(c);
    for (unsigned i = 1; i < c->shard->node->shard_count; i++)
        shard_call(c->shard->node->shards[i], view_take, &c->view);
}

static void view_give(void *arg) /* On shard 0. */
{
    struct cluster *c = cluster_self();
    struct cluster_view *view = arg;

    if (c != NULL && c->running)
        *view = c->view;
}
/* ---- The fiber that changes it ------------------------------------------------------------------------- */

static void keys_rotate(struct cluster *c)
{
    cluster_members_rotate(c);
    renewal_step(&c->view.renewal, c->renewal_steps);
    c->aged = true;
    c->rotate_ms = time_ms() + c->rotate_every_ms;
}

/* 0, and what was new is on the disk; nobody is told of anything else. */
static int cluster_save(struct cluster *c)
{
    bool changed = c->changed, placed = c->placed, featured = c->featured;
    int rc;

    if (!changed && !placed && !featured && !c->revoked && !c->aged)
        return 0;
    c->changed = c->placed = c->featured = c->revoked = c->aged = false; /* More may come meanwhile. */
    c->table.version += changed || placed;
    cluster_exceptions_saving(c);
    rc = cluster_file_save(c);
    if (rc < 0) {
        cluster_exceptions_not_saved(c, c->table.version);
        c->table.version -= changed || placed;
        c->changed = c->changed || changed;
        c->placed = c->placed || placed;
        c->featured = c->featured || featured;
        c->revoked = true;
        return rc;
    }
    c->dealt_version = changed ? c->table.version : c->dealt_version;
    c->exceptions_version = placed ? c->table.version : c->exceptions_version;
    for (size_t i = 0; placed && i < c->member_count; i++)
        c->members[i].placed_due = true;
    return 0;
}

static void cluster_step(struct cluster *c)
{
    c->changed = cluster_table_settle(c) || c->changed;
    cluster_exceptions_settle(c);
    if (time_ms() >= c->rotate_ms)
        keys_rotate(c);
    tls_keys_step(&c->tls_keys); /* TICKET_KEY_MS is a part of its time. */
    if (cluster_save(c) < 0) {
        c->due = true; /* Tried again. */
        (void)fiber_sleep_ms(CLUSTER_RETRY_MS);
        return;
    }
    view_spread(c);
    cluster_members_send(c);
    cluster_readers_send(c);
}

static void cluster_run(void *arg)
{
    struct cluster *c = arg;

    while (!c->stopping) {
        uint64_t now = time_ms();

        if (!c->due && c->rotate_ms > now)
            (void)fiber_queue_wait(&c->wake, (uint32_t)(c->rotate_ms - now));
        c->due = false;
        c->working = true;
        if (!c->stopping)
            cluster_step(c);
        c->working = false;
    }
    c->running = false;
    fiber_queue_wake_all(&c->ended, 0);
}
/* ---- Answers ------------------------------------------------------------------------------------------- */

static uint16_t node_of(const struct cluster_view *v, struct slice user)
{
    const struct exception *e =
        v->exceptions.count > 0 ? exceptions_find(&v->exceptions, partition_user(v->secret, user)) : NULL;

    return e != NULL ? e->node : v->owners[partition_of(v->secret, user)];
}

bool cluster_partition(struct slice user, uint16_t *partition_out)
{
    const struct cluster_view *v = &cluster_self()->view;
    unsigned partition;

    if (!v->ready)
        return false;
    partition = partition_of(v->secret, user);
    *partition_out = (uint16_t)partition;
    return v->owners[partition] != PARTITION_NOWHERE;
}

void cluster_ticket(const struct ticket_claim *claim, struct ticket *out)
{
    const struct cluster_view *v = &cluster_self()->view;

    ticket_make(claim, &v->keys[node_of(v, claim->user)], v->renewal.keys[0], out);
}

bool cluster_ticket_renewable(const struct ticket *t, struct ticket_claim *claim)
{
    const struct cluster_view *v = &cluster_self()->view;
    struct ticket_claim said = *claim;

    if ((!ticket_renewable(t, v->renewal.keys[0], &said) &&
         !ticket_renewable(t, v->renewal.keys[1], &said)) ||
        revocations_refuse(&v->revoked, partition_user(v->secret, said.user), said.generation))
        return false;
    claim->scope = said.scope;
    return true;
}

void cluster_fingerprint_key(uint8_t key_out[CLUSTER_KEY_SIZE])
{
    memcpy(key_out, cluster_self()->view.renewal.fingerprint_key, CLUSTER_KEY_SIZE);
}

/* A later one may be forgotten with the power, and given again: whoever had it would not be older than the next revocation. */
uint64_t cluster_generation(void)
{
    return cluster_self()->view.revoked_saved;
}

bool cluster_revoking(struct slice user)
{
    const struct cluster_view *v = &cluster_self()->view;

    return revocations_refuse(&v->revoked, partition_user(v->secret, user), v->revoked_saved);
}

void cluster_revoke(struct slice user)
{
    struct cluster *c = cluster_self();

    ASSERT(c->shard->index == 0);
    revocations_add(&c->view.revoked, partition_user(c->view.secret, user), c->view.revoked.generation + 1);
    c->revoked = true;
    cluster_wake(c);
}

/* ---- The operator --------------------------------------------------------------------------------------- */

void director_control_route(struct control_route *route)
{
    const struct cluster *c = cluster_self();

    route->known = cluster_partition(route->user, &route->partition);
    if (!route->known)
        return;
    memcpy(route->node, c->table.nodes[c->table.owners[route->partition]].name, sizeof route->node);
    cluster_exceptions_route(c, route);
}
_Static_assert(CONTROL_NAME == LINK_NODE_NAME_MAX + 1, "a node's name fits");

bool director_control_revoke(struct slice user)
{
    if (!cluster_running())
        return false;
    cluster_revoke(user);
    return true;
}

void director_control_cluster(struct control_cluster *cluster)
{
    struct cluster *c = cluster_self();

    cluster->here = c != NULL && c->running;
    if (!cluster->here)
        return;
    cluster->dealt = c->view.ready;
    cluster->backends = (uint32_t)c->member_count;
    cluster->known = cluster_members_known(c);
    cluster->up = cluster_members_up(c);
    cluster->twice = cluster_names_twice(c);
    cluster->settled = !c->due && !c->revoked && !c->placed && !c->working;
    if (cluster->deal && !c->deal && !cluster->dealt)
        cluster_wake(c);
    c->deal = cluster->deal && !cluster->dealt;
}
/* ---- Start and stop ------------------------------------------------------------------------------------ */

static int view_fetch(struct cluster *c)
{
    while (!c->view.ready) {
        int rc;

        shard_call(c->shard->node->shards[0], view_give, &c->view);
        if (c->view.secret[0] != 0 || c->view.secret[1] != 0)
            return 0;
        rc = c->shard->node->stopping ? -ECANCELED : fiber_sleep_ms(COPY_POLL_MS);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static bool role_here(const struct config *config, const char *role)
{
    for (size_t i = 0; i < config_list_count(config, "role"); i++) {
        if (strcmp(config_list_item(config, "role", i), role) == 0)
            return true;
    }
    return false;
}

static void rotation_plan(struct cluster *c)
{
    uint64_t half_ms = config_duration_ms(c->shard->node->config, "ticket.renew_max") / 2;

    /* A quarter: what backends do not accept any more the director still knows. */
    c->rotate_every_ms = (uint32_t)MIN(half_ms / 4, (uint64_t)TICKET_KEY_MS);
    c->renewal_steps = (uint32_t)(half_ms / c->rotate_every_ms);
    c->rotate_ms = time_ms() + c->rotate_every_ms;
}

int cluster_start(struct shard *s)
{
    struct cluster *c = heap_try_map_secret(s->heap, sizeof *c);
    bool backend_here = role_here(s->node->config, "backend");
    int rc = 0;

    if (c == NULL)
        return -ENOMEM;
    c->shard = s;
    slab_init(&c->readers, s->heap, sizeof(struct reader), CLUSTER_PROXIES_MAX);
    list_init(&c->reader_list);
    fiber_queue_init(&c->wake);
    fiber_queue_init(&c->ended);
    s->slot[SLOT_CLUSTER] = c;
    if (s->index > 0)
        return view_fetch(c);
    if (!backend_here) /* Otherwise the store takes it. */
        rc = dir_lock(".");
    if (rc < 0)
        log_event(LOG_ERROR, "the data directory can't be locked; is another process using it?", "error=%s",
                  log_error(rc));
    if (rc == 0)
        rc = cluster_file_load(c);
    if (rc == 0)
        rc = cluster_members_start(c, backend_here);
    if (rc < 0)
        return rc;
    c->dealt_version = c->exceptions_version = c->table.version;
    view_make(c);
    tls_keys_step(&c->tls_keys);
    rotation_plan(c);
    link_serve(LINK_TABLE, cluster_readers_serve);
    c->running = fiber_start("cluster", RUN_INTERACTIVE, cluster_run, c) != NULL;
    if (!c->running)
        return -EAGAIN;
    return 0;
}

void cluster_stop(struct shard *s)
{
    struct cluster *c = s->slot[SLOT_CLUSTER];

    if (c == NULL)
        return;
    c->stopping = true;
    if (s->index == 0)
        link_serve(LINK_TABLE, NULL);
    fiber_queue_wake_all(&c->wake, 0);
    while (c->running)
        (void)fiber_queue_wait(&c->ended, 0);
    cluster_members_stop(c);
    cluster_readers_stop(c);
    s->slot[SLOT_CLUSTER] = NULL;
    slab_fini(&c->readers);
    heap_free(s->heap, c->placements);
    heap_unmap_secret(s->heap, c->members);
    heap_unmap_secret(s->heap, c);
}
