/* roles/director/cluster_members.c -- backends (LINK_MEMBER): who is there, and what each is told: its partitions, the cluster's key,
 * keys of tickets, who is revoked. */
#include "core/io.h"
#include "net/link/wire.h"
#include "roles/director/cluster_state.h"
#include "roles/settings.h"
#include <errno.h>

#define WEIGHT_DEFAULT 100

static void member_frame(struct link_stream *s, struct link_frame *f)
{
    struct member *m = s->owner;
    const char *name = m->target.peer != NULL ? link_peer_node(m->target.peer)->name
                                              : config_string(m->cluster->shard->node->config, "node");

    if (f->header.type == LINK_DATA && member_state_decode(link_frame_data(f), &m->state)) {
        memcpy(m->name, name, MIN(strlen(name), sizeof m->name - 1));
        m->features = m->target.peer != NULL ? link_peer_node(m->target.peer)->features
                                             : settings_features(m->cluster->shard->node->config);
        m->known = m->news = true;
        cluster_wake(m->cluster);
    }
    if (f->header.type == LINK_DATA && member_answer_decode(link_frame_data(f), &m->answer)) {
        m->places = m->answered = true;
        cluster_wake(m->cluster);
    }
    if (f->header.type == LINK_END) {
        m->stream = NULL;
        m->node = -1;
        timer_set(&m->retry, CLUSTER_RETRY_MS);
    }
    link_frame_release(f);
}

static void member_credit(struct link_stream *s)
{
    cluster_wake(((struct member *)s->owner)->cluster);
}

static void member_lost(struct link_stream *s)
{
    struct member *m = s->owner;

    m->stream = NULL;
    m->node = -1; /* Until it has said again which data it has. */
    m->places = m->answered = false;
    if (!m->cluster->stopping)
        timer_set(&m->retry, CLUSTER_RETRY_MS + (uint32_t)(random_u64() % CLUSTER_RETRY_MS));
}

static const struct link_stream_ops member_ops = {member_frame, member_credit, member_lost};

static void member_open(struct timer *t)
{
    struct member *m = CONTAINER_OF(t, struct member, retry);

    m->stream =
        link_open(m->target, LINK_MEMBER, slice_of(NULL, 0), slice_of(NULL, 0), false, &member_ops, m);
    if (m->stream == NULL)
        timer_set(&m->retry, CLUSTER_RETRY_MS);
}

static void grant_send(struct cluster *c, struct member *m)
{
    const struct cluster_node *node = &c->table.nodes[m->node];
    struct member_grant grant = {.table_version = c->table.version};
    struct link_frame *f;

    if (m->stream == NULL || !cluster_revoked_send(c, m->stream, 0, &m->revoked) || !m->grant_due ||
        link_credit(m->stream) <= 0)
        return; /* Its state comes again with its next stream, and credit by itself. */
    m->grant_due = false;
    memcpy(grant.cluster_id, c->id, sizeof grant.cluster_id);
    memcpy(grant.cluster_key, c->key, sizeof grant.cluster_key);
    for (unsigned i = 0; i < CLUSTER_ID_SIZE; i++)
        grant.first = grant.first || node->store_id[i] != 0;
    grant.first = !grant.first; /* It has never said that it took the partitions. */
    for (unsigned i = 0; i < PARTITION_COUNT; i++) {
        if (c->table.owners[i] == m->node)
            grant.partitions[i / 8] |= (uint8_t)(1u << i % 8);
    }
    memcpy(grant.ticket_keys, m->keys, sizeof grant.ticket_keys);
    f = link_frame_new(MEMBER_SIZE_MAX);
    link_send(m->stream, f, member_grant_encode(&grant, f->payload), 0);
    bytes_wipe(&grant, sizeof grant);
}

static void key_rotate(struct member *m)
{
    m->keys[1] = m->keys[0];
    do
        m->keys[0].id =
            (uint32_t)random_u64(); /* Two directors, or two starts, must not mean two keys by one id. */
    while (m->keys[0].id == 0 || m->keys[0].id == m->keys[1].id);
    random_bytes(m->keys[0].key, sizeof m->keys[0].key);
    m->grant_due = true;
}
void cluster_members_rotate(struct cluster *c)
{
    for (size_t i = 0; i < c->member_count; i++)
        key_rotate(&c->members[i]);
}

void cluster_members_send(struct cluster *c)
{
    for (size_t i = 0; i < c->member_count; i++) {
        if (c->members[i].node < 0)
            continue;
        grant_send(c, &c->members[i]);
        cluster_exceptions_tell(c, &c->members[i]);
    }
}

uint32_t cluster_members_known(const struct cluster *c)
{
    uint32_t known = 0;

    for (size_t i = 0; i < c->member_count; i++)
        known += c->members[i].known;
    return known;
}

uint32_t cluster_members_up(const struct cluster *c)
{
    uint32_t up = 0;

    for (size_t i = 0; i < c->member_count; i++)
        up += c->members[i].stream != NULL && c->members[i].node >= 0;
    return up;
}
/* ---- Start and stop ------------------------------------------------------------------------------------ */

static uint64_t weight_of(const struct config *config, size_t i)
{
    const char *text = config_record_field(config, "backends", i, "weight");
    uint64_t weight;

    return text != NULL && slice_to_u64(slice_str(text), 1000000, &weight) ? weight : WEIGHT_DEFAULT;
}

static void member_init(struct cluster *c, struct member *m)
{
    m->cluster = c;
    m->node = -1;
    timer_init(&m->retry, member_open);
    key_rotate(m);
    timer_set(&m->retry, 0);
}

/* `backends`, and this process if it is one too. */
int cluster_members_start(struct cluster *c, bool backend_here)
{
    const struct config *config = c->shard->node->config;
    size_t count = config_record_count(config, "backends");

    if (count + backend_here > CLUSTER_NODES_MAX)
        return -E2BIG;
    c->members = heap_try_map_secret(c->shard->heap, (count + 1) * sizeof *c->members);
    if (c->members == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct member *m = &c->members[c->member_count++];

        if (!net_addr_parse(slice_str(config_record_field(config, "backends", i, "addr")), &m->addr))
            return -EINVAL; /* settings_check() has said so already. */
        m->weight = weight_of(config, i);
        m->target.peer = link_peer_dial(&m->addr, slice_of(NULL, 0), LINK_ROLE_BACKEND, NULL, m);
        member_init(c, m);
    }
    if (backend_here) {
        struct member *m = &c->members[c->member_count++];

        if (config_list_count(config, "link.listen") > 0 &&
            !net_addr_parse(slice_str(config_list_item(config, "link.listen", 0)), &m->addr))
            return -EINVAL;
        m->weight = WEIGHT_DEFAULT;
        m->target = link_to_shard(c->shard);
        member_init(c, m);
    }
    return 0;
}
void cluster_members_stop(struct cluster *c)
{
    for (size_t i = 0; i < c->member_count; i++) {
        timer_cancel(&c->members[i].retry);
        if (c->members[i].stream != NULL)
            link_stream_reset(c->members[i].stream);
    }
}
