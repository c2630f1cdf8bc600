#include "roles/proxy/route.h"
#include "core/config.h"
#include "core/io.h"
#include "core/log.h"
#include "core/map.h"
#include "core/metrics.h"
#include "core/text.h"
#include "net/link/wire.h"
#include "roles/proxy/ticket_keys.h"
#include "roles/settings.h"
#include "roles/words/capability.h"
#include "roles/words/place.h"
#include <errno.h>

#define RETRY_MS 200  /* Until the table is asked for again, plus a jitter of as much. */
#define ASK_MS   1000 /* Between two times that directors are asked because a backend knows more. */
#define AWAY_MS  5000 /* As LOGIN_WAIT_MS of authenticate.c. */

/* ---- The table ----------------------------------------------------------------------------------------- */

static bool node_is_here(const struct route *r, const struct cluster_node *node)
{
    return r->backend_here && strcmp(node->name, config_string(r->shard->node->config, "node")) == 0;
}

/* The link to a node that an older table named, too. */
static struct link_peer *peer_find(const struct route *r, const struct cluster_node *node)
{
    for (unsigned i = 0; r->table != NULL && i < r->table->node_count; i++) {
        const struct cluster_node *old = &r->table->nodes[i];

        if (r->peers[i] != NULL && strcmp(old->name, node->name) == 0 &&
            net_addr_same(&old->addr, &node->addr))
            return r->peers[i];
    }
    return NULL;
}

/* Nodes that have moved to other addresses so often that there is none left share the last. */
static struct budget *budget_new(struct route *r)
{
    r->budget_count = MIN(r->budget_count + 1, (unsigned)ARRAY_COUNT(r->budgets));
    return &r->budgets[r->budget_count - 1];
}

static void table_take(struct route *r, struct cluster_table *table)
{
    struct link_peer **peers = heap_zalloc(r->heap, sizeof r->peers);

    for (unsigned i = 0; i < table->node_count; i++) {
        const struct cluster_node *node = &table->nodes[i];

        if (node_is_here(r, node))
            continue;
        peers[i] = peer_find(r, node);
        if (peers[i] == NULL)
            peers[i] =
                link_peer_dial(&node->addr, slice_str(node->name), LINK_ROLE_BACKEND, NULL, budget_new(r));
    }
    heap_free(r->heap, r->table);
    r->table = table;
    memcpy(r->peers, peers, sizeof r->peers);
    heap_free(r->heap, peers);
}

static void table_arrived(struct route *r, struct slice bytes)
{
    struct cluster_table *table = heap_alloc(r->heap, sizeof *table);

    if (r->features < 0)
        r->features = LINK_FEATURES_UNSAID;
    if (!cluster_table_decode(bytes, table)) {
        log_event(LOG_ERROR, "director's table not understood", "hint=versions_differ");
        heap_free(r->heap, table);
    } else if (r->table != NULL && table->version <= r->table->version) {
        heap_free(r->heap, table); /* Of a director that is behind. */
    } else {
        table_take(r, table);
    }
}

/* ---- Users who are placed alone ------------------------------------------------------------------------- */

/* They are asked for elsewhere from now on. */
static void exceptions_moved(struct route *r, const struct exceptions *old, const struct exceptions *new)
{
    struct proxy *p = CONTAINER_OF(r, struct proxy, route);

    for (unsigned i = 0; i < EXCEPTIONS_MAX; i++) {
        const struct exception *a = &old->entries[i], *b = &new->entries[i];

        if (a->used == b->used && a->user == b->user && a->node == b->node)
            continue;
        if (a->used)
            subscriptions_moved(&p->subscriptions, a->user);
        if (b->used)
            subscriptions_moved(&p->subscriptions, b->user);
    }
}

static void exceptions_take(struct route *r, uint64_t version)
{
    struct exceptions *old = r->exceptions;

    r->exceptions = r->exceptions_coming;
    r->exceptions_coming = NULL;
    r->exceptions_version = version;
    if (old == NULL)
        old = heap_zalloc(r->heap, sizeof *old);
    exceptions_moved(r, old, r->exceptions);
    heap_free(r->heap, old);
}

static void exceptions_arrived(struct route_director *d, struct slice in)
{
    struct route *r = d->route;
    struct cluster_exceptions *piece = heap_alloc(r->heap, sizeof *piece);

    if (cluster_exceptions_decode(in, piece) &&
        piece->version >= r->exceptions_version) { /* Else of a director that is behind. */
        if (piece->first) {
            heap_free(r->heap, r->exceptions_coming);
            r->exceptions_coming = heap_zalloc(r->heap, sizeof *r->exceptions_coming);
        }
        for (unsigned i = 0; r->exceptions_coming != NULL && i < piece->count; i++) {
            const struct exception *e = &piece->entries[i].exception;

            if (!r->exceptions_coming->entries[piece->entries[i].place].used &&
                exceptions_find(r->exceptions_coming, e->user) == NULL)
                exceptions_put(r->exceptions_coming, piece->entries[i].place, e->user, e->partition, e->node);
        }
        if (piece->last && r->exceptions_coming != NULL)
            exceptions_take(r, piece->version);
    }
    heap_free(r->heap, piece);
}

/* ---- Pieces --------------------------------------------------------------------------------------------- */

static void piece_drop(struct route_director *d)
{
    heap_free(d->route->heap, d->bytes);
    d->bytes = NULL;
    d->size = d->got = 0;
}

static void tls_keys_arrived(struct route_director *d, struct slice in)
{
    struct tls_ticket_keys keys;

    if (cluster_tls_keys_decode(in, &keys))
        ticket_keys_take(CONTAINER_OF(d->route, struct proxy, route), &keys);
    bytes_wipe(&keys, sizeof keys);
}

static void revoked_arrived(struct route_director *d, struct slice in)
{
    struct member_revoked *piece = heap_alloc(d->route->heap, sizeof *piece);

    if (member_revoked_decode(in, piece))
        revoked_take(CONTAINER_OF(d->route, struct proxy, route), piece);
    heap_free(d->route->heap, piece);
}

/* More than this release knows is of no use to it. */
static void features_arrived(struct route_director *d, struct slice in)
{
    uint16_t level;

    if (cluster_features_decode(in, &level))
        d->route->features = MIN(level, FEATURE_LEVEL);
}

static void piece_arrived(struct route_director *d, struct slice in)
{
    struct slice piece;
    size_t size, at;

    if (in.size <= CLUSTER_PIECE_HEADER)
        return;
    size = get_u32(in.data);
    at = get_u32(in.data + 4);
    piece = slice_from(in, CLUSTER_PIECE_HEADER);
    switch (size) {
    case CLUSTER_PIECE_TLS_KEYS:
        tls_keys_arrived(d, piece);
        return;
    case CLUSTER_PIECE_SECRET:
        if (piece.size == PARTITION_SECRET_SIZE)
            users_rename(&CONTAINER_OF(d->route, struct proxy, route)->users, (const uint8_t *)piece.data);
        return;
    case CLUSTER_PIECE_REVOKED:
        revoked_arrived(d, piece);
        return;
    case CLUSTER_PIECE_FEATURES:
        features_arrived(d, piece);
        return;
    case CLUSTER_PIECE_EXCEPTIONS:
        exceptions_arrived(d, piece);
        return;
    default:
        break;
    }
    if (at == 0 && size > 0 && size <= CLUSTER_TABLE_SIZE_MAX) {
        piece_drop(d);
        d->bytes = heap_alloc(d->route->heap, size);
        d->size = size;
    }
    if (d->bytes == NULL || size != d->size || at != d->got || piece.size > d->size - d->got) {
        piece_drop(d);
        return;
    }
    memcpy(d->bytes + d->got, piece.data, piece.size);
    d->got += piece.size;
    if (d->got < d->size)
        return;
    table_arrived(d->route, slice_of(d->bytes, d->size));
    piece_drop(d);
}

static void table_later(struct route_director *d)
{
    d->table = NULL;
    piece_drop(d);
    if (!d->route->stopping)
        timer_set(&d->retry, RETRY_MS + (uint32_t)(random_u64() % RETRY_MS));
}

static void on_frame(struct link_stream *s, struct link_frame *f)
{
    struct route_director *d = s->owner;

    if (f->header.type == LINK_DATA)
        piece_arrived(d, link_frame_data(f));
    else
        table_later(d);
    bytes_wipe(f->payload, f->header.size); /* Keys, perhaps. */
    link_frame_release(f);
}

static void on_credit(struct link_stream *s)
{
}

static void on_lost(struct link_stream *s)
{
    table_later(s->owner);
}

static const struct link_stream_ops table_ops = {on_frame, on_credit, on_lost};

static void on_retry(struct timer *t)
{
    struct route_director *d = CONTAINER_OF(t, struct route_director, retry);
    char head[CLUSTER_TABLE_HEAD_SIZE];

    cluster_table_head_encode(revoked_generation(CONTAINER_OF(d->route, struct proxy, route)), head);
    d->table =
        link_open(d->target, LINK_TABLE, slice_of(head, sizeof head), slice_of(NULL, 0), true, &table_ops, d);
    if (d->table == NULL)
        table_later(d);
}

static bool director_up(const struct route *r)
{
    for (unsigned i = 0; i < r->director_count; i++) {
        const struct link_target *t = &r->directors[i].target;

        if (t->shard != NULL || link_peer_up(t->peer))
            return true;
    }
    return false;
}

/* With the first questions that leave, so that the table is there before their answers. */
static void on_changed(struct link_peer *p, bool up)
{
    struct route_director *d = CONTAINER_OF(link_peer_owner(p), struct route_director, budget);

    if (!up && !director_up(d->route))
        d->route->away_ms = time_ms();
    if (!up || d->table != NULL || d->route->stopping)
        return;
    timer_cancel(&d->retry);
    on_retry(&d->retry);
}

/* ---- Referrals ------------------------------------------------------------------------------------------- */

/* Of what this core knows of the cluster. */
static uint64_t route_epoch(const struct route *r)
{
    return MAX(r->table != NULL ? r->table->version : 0, r->exceptions_version);
}

/* A stream that lives brings what is new by itself; one that stands still does not. Everything comes anew by another one, once in ASK_MS
 * however many ask, and no more when it has come: whoever was referred tries again by what is known then, as often as his request allows
 * (request.c). */
void route_referred(struct route *r, const struct link_referral *referral)
{
    struct metrics *metrics = r->shard->metrics;
    uint64_t now = time_ms();

    metrics->referrals++;
    if (referral->epoch <= route_epoch(r) || r->stopping || (r->asked_ms != 0 && now - r->asked_ms < ASK_MS))
        return;
    r->asked_ms = now;
    metrics->referrals_newer++;
    for (unsigned i = 0; i < r->director_count; i++) {
        struct route_director *d = &r->directors[i];

        if (d->table == NULL)
            continue; /* It is being asked for. */
        link_stream_reset(d->table);
        piece_drop(d);
        on_retry(&d->retry);
    }
}

/* ---- What is asked again --------------------------------------------------------------------------------- */

static struct budget *budget_of(struct link_target to)
{
    return to.peer != NULL ? link_peer_owner(to.peer) : NULL;
}

void route_asked(struct link_target to)
{
    struct budget *b = budget_of(to);

    if (b != NULL)
        budget_asked(b, time_ms());
}

bool route_again(struct route *r, struct link_target to)
{
    struct budget *b = budget_of(to);
    char addr[NET_ADDR_TEXT_MAX];

    if (b == NULL || !link_peer_up(to.peer) || budget_again(b, time_ms()))
        return true;
    r->shard->metrics->commands_not_again++;
    if (budget_tells(b, time_ms()))
        log_event(LOG_WARN, "requests are not asked again",
                  "node=%s address=%s hint=it_refuses_more_than_1_in_%u",
                  log_quote(slice_str(link_peer_node(to.peer)->name)),
                  net_addr_format(link_peer_addr(to.peer), addr), BUDGET_PART);
    return false;
}

/* ---- Start and stop ------------------------------------------------------------------------------------ */

static void director_add(struct route *r, struct link_target target)
{
    struct route_director *d = &r->directors[r->director_count++];

    d->route = r;
    d->target = target;
    timer_init(&d->retry, on_retry);
    on_retry(&d->retry);
}

int route_start(struct route *r, struct shard *s)
{
    const struct config *config = s->node->config;
    uint8_t roles = settings_roles(config);
    size_t count = config_list_count(config, "directors");

    r->shard = s;
    r->heap = s->heap;
    r->alone = roles == LINK_ROLE_ALL;
    r->backend_here = (roles & LINK_ROLE_BACKEND) != 0;
    r->features = r->alone ? (int)settings_features(config) : -1;
    if (r->alone)
        return 0;
    if ((roles & LINK_ROLE_DIRECTOR) != 0) {
        director_add(r, link_to_shard(s->node->shards[0]));
        return 0;
    }
    for (size_t i = 0; i < count && i < ROUTE_DIRECTORS_MAX; i++) {
        struct net_addr addr;
        struct link_target target = {.route = 0};

        if (!net_addr_parse(slice_str(config_list_item(config, "directors", i)), &addr))
            return -EINVAL; /* settings_check() has said so already. */
        target.peer = link_peer_dial(&addr, slice_of(NULL, 0), LINK_ROLE_DIRECTOR, on_changed,
                                     &r->directors[r->director_count].budget);
        director_add(r, target);
    }
    return 0;
}

void route_stop(struct route *r)
{
    r->stopping = true;
    for (unsigned i = 0; i < r->director_count; i++) {
        struct route_director *d = &r->directors[i];

        if (d->target.peer != NULL)
            link_peer_leave(d->target.peer);
        timer_cancel(&d->retry);
        if (d->table != NULL)
            link_stream_reset(d->table);
        piece_drop(d);
    }
    heap_free(r->heap, r->table);
    r->table = NULL;
    heap_free(r->heap, r->exceptions);
    heap_free(r->heap, r->exceptions_coming);
    r->exceptions = r->exceptions_coming = NULL;
}

/* ---- Answers ------------------------------------------------------------------------------------------- */

/* The same core for each try of a user, so that its login cache is warm. */
static uint16_t user_route(const struct route *r, struct slice user)
{
    char lower[256];
    size_t size = MIN(user.size, sizeof lower);

    for (size_t i = 0; i < size; i++)
        lower[i] = char_lower(user.data[i]);
    if (r->alone)
        return (uint16_t)place_self()->partition(slice_of(lower, size));
    return (uint16_t)map_hash(slice_of(lower, size), 0);
}

struct link_target route_director(struct route *r, struct slice user)
{
    struct node *node = r->shard->node;
    uint16_t route = user_route(r, user);
    struct link_target target;

    if (r->alone || r->directors[0].target.shard != NULL)
        return link_to_shard(node->shards[route % node->shard_count]);
    target = r->directors[0].target;
    for (unsigned i = 0; i < r->director_count; i++) {
        const struct route_director *d = &r->directors[(route + i) % r->director_count];

        if (link_peer_up(d->target.peer)) {
            target = d->target;
            break;
        }
    }
    target.route = route;
    return target;
}

const char *route_lacks(const struct route *r)
{
    bool up = r->alone || director_up(r);

    if (!up && (r->table == NULL || time_ms() - r->away_ms >= AWAY_MS))
        return "no director";
    return r->alone || r->table != NULL ? NULL : "no partitions: cluster init is due";
}

uint16_t route_place(const struct route *r, uint16_t partition, struct slice user)
{
    const struct users *users = &CONTAINER_OF(r, struct proxy, route)->users;
    const struct exception *e = NULL;

    if (r->exceptions != NULL && r->exceptions->count > 0)
        e = exceptions_find(r->exceptions, users_hash(users, user));
    return e != NULL ? (uint16_t)(PARTITION_COUNT + (e - r->exceptions->entries))
                     : (uint16_t)(partition % PARTITION_COUNT);
}

static const struct exception *place_exception(const struct route *r, uint16_t place)
{
    static const struct exception none = {.node = PARTITION_NOWHERE};

    ASSERT(place < ROUTE_PLACES);
    return r->exceptions != NULL && r->exceptions->entries[place - PARTITION_COUNT].used
               ? &r->exceptions->entries[place - PARTITION_COUNT]
               : &none;
}

uint16_t route_partition(const struct route *r, uint16_t place)
{
    return place < PARTITION_COUNT ? place : place_exception(r, place)->partition;
}

struct link_target route_backend(const struct route *r, uint16_t place, bool bulk)
{
    uint16_t partition = route_partition(r, place), node = PARTITION_NOWHERE;
    struct link_target target = {.route = partition, .bulk = bulk};

    if (r->alone)
        return link_to_shard(r->shard->node->shards[place_self()->shard(partition)]);
    if (r->table != NULL)
        node = place < PARTITION_COUNT ? r->table->owners[place] : place_exception(r, place)->node;
    if (r->table == NULL || node >= r->table->node_count)
        return target;
    if (r->peers[node] != NULL)
        target.peer = r->peers[node];
    else if (place_self() != NULL)
        target.shard = r->shard->node->shards[place_self()->shard(partition)];
    return target;
}
