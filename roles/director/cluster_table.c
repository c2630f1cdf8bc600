/* roles/director/cluster_table.c -- where the partitions are at home: dealt once, and settled with what backends say of themselves. */
#include "core/log.h"
#include "roles/director/cluster_state.h"

static int node_find(const struct cluster *c, const char *name)
{
    for (unsigned i = 0; i < c->table.node_count; i++) {
        if (strcmp(c->table.nodes[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

bool cluster_names_twice(const struct cluster *c)
{
    for (size_t i = 0; i < c->member_count; i++) {
        for (size_t k = 0; k < i; k++) {
            if (c->members[i].known && c->members[k].known &&
                strcmp(c->members[i].name, c->members[k].name) == 0)
                return true;
        }
    }
    return false;
}
uint16_t cluster_features(const struct cluster *c)
{
    uint16_t lowest = UINT16_MAX;

    for (unsigned i = 0; i < c->table.node_count; i++)
        lowest = MIN(lowest, c->features[i]);
    return lowest;
}

static bool can_deal(const struct cluster *c)
{
    return c->deal && c->member_count > 0 && cluster_members_known(c) == c->member_count &&
           !cluster_names_twice(c);
}

/* By weight, and evenly spread: each partition to whoever is furthest behind his share. */
static void table_deal(struct cluster *c)
{
    uint64_t total = 0;

    for (size_t i = 0; i < c->member_count; i++) {
        struct cluster_node *node = &c->table.nodes[i];

        *node = (struct cluster_node){.addr = c->members[i].addr};
        memcpy(node->name, c->members[i].name, sizeof node->name);
        c->features[i] = LINK_FEATURES_UNSAID;
        c->members[i].node = (int)i;
        total += c->members[i].weight;
    }
    for (unsigned p = 0; p < PARTITION_COUNT; p++) {
        int64_t most = INT64_MIN;
        size_t to = 0;

        for (size_t i = 0; i < c->member_count; i++) {
            int64_t behind =
                (int64_t)(c->members[i].weight * (p + 1)) - (int64_t)(c->members[i].dealt * total);

            if (behind > most) {
                most = behind;
                to = i;
            }
        }
        c->members[to].dealt++;
        c->table.owners[p] = (uint16_t)to;
    }
    c->table.node_count = (uint16_t)c->member_count;
    log_event(LOG_INFO, "partitions dealt", "backends=%zu", c->member_count);
}

/* What a backend has said of itself. True: the table has changed. */
static bool member_settle(struct cluster *c, struct member *m)
{
    static const uint8_t none[CLUSTER_ID_SIZE];
    struct cluster_node *node;
    bool changed, ours = memcmp(m->state.cluster_id, c->id, CLUSTER_ID_SIZE) == 0;

    m->news = false;
    m->revoked.all = true;
    m->node = node_find(c, m->name);
    if (m->node < 0) {
        log_event(LOG_WARN, "a backend has no partitions", "node=%s hint=it_joined_after_they_were_dealt",
                  log_quote(slice_str(m->name)));
        return false;
    }
    node = &c->table.nodes[m->node];
    if (c->features[m->node] != m->features) {
        c->features[m->node] = m->features;
        c->featured = true;
    }
    changed = !net_addr_same(&node->addr, &m->addr);
    node->addr = m->addr;
    if (memcmp(node->store_id, none, CLUSTER_ID_SIZE) == 0) {
        if (ours)
            memcpy(node->store_id, m->state.store_id, CLUSTER_ID_SIZE);
        m->grant_due = m->placed_due = true;
        return changed || ours;
    }
    if (!ours || memcmp(node->store_id, m->state.store_id, CLUSTER_ID_SIZE) != 0) {
        log_event(LOG_ERROR, "a backend's data directory is not the one that its partitions are in",
                  "node=%s hint=restore_it_or_give_it_back", log_quote(slice_str(m->name)));
        m->node = -1;
        return changed;
    }
    m->grant_due = m->placed_due = true;
    return changed;
}

bool cluster_table_settle(struct cluster *c)
{
    bool changed = false;

    if (c->table.node_count == 0) {
        if (!can_deal(c))
            return false;
        table_deal(c);
        changed = true;
    }
    for (size_t i = 0; i < c->member_count; i++) {
        if (c->members[i].news && member_settle(c, &c->members[i]))
            changed = true;
    }
    return changed;
}
