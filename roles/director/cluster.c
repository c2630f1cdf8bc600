#include "roles/director/cluster.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "net/link/wire.h"
#include "roles/director/control.h"
#include "roles/director/renewal.h"
#include "roles/director/tls_keys.h"
#include "roles/small_file.h"
#include <errno.h>
#include <xxhash.h>

#define FILE_NAME    "director"
#define FILE_MAGIC   "TRDIREC2"
#define FILE_MAGIC_1 "TRDIREC1" /* With one renewal key, which was never changed. */
#define FILE_FRONT   (8 + CLUSTER_ID_SIZE + CLUSTER_KEY_SIZE + RENEWAL_SIZE)
#define FILE_FRONT_1 (8 + CLUSTER_ID_SIZE + 2 * CLUSTER_KEY_SIZE)
#define FILE_REVOKED 20 /* Before the revocations. */
#define FILE_SIZE_MAX                                                                                        \
    (FILE_FRONT + 4 + CLUSTER_TABLE_SIZE_MAX + FILE_REVOKED + REVOCATIONS_MAX * REVOCATION_SIZE + 8)
#define COPY_POLL_MS   5
#define RETRY_MS       200 /* Until a backend's stream is opened again, plus a jitter of as much. */
#define WEIGHT_DEFAULT 100

struct cluster_view { /* What every shard has a copy of. */
    bool ready;
    uint8_t secret[PARTITION_SECRET_SIZE];
    struct renewal renewal;
    uint16_t owners[PARTITION_COUNT];
    struct ticket_key keys[CLUSTER_NODES_MAX]; /* By node: the newest. */
    struct revocations revoked;
};

struct told {      /* Of the revocations: */
    bool all;      /* Nothing so far, */
    uint64_t sent; /* else all up to that generation. */
};

struct member { /* A backend of the configuration. */
    struct cluster *cluster;
    struct link_target target; /* Its link, or this process. */
    struct link_stream *stream;
    struct timer retry;
    struct net_addr addr;
    uint64_t weight, dealt; /* Its share; partitions that it got, while they are dealt. */
    struct member_state state;
    char name[LINK_NODE_NAME_MAX + 1];
    bool known; /* It has said its name and its state. */
    bool news;  /* ... since the fiber looked. */
    bool grant_due;
    struct told revoked;
    int node; /* In the table; -1: none. */
    struct ticket_key keys[2];
};

struct reader { /* A proxy core that wants the table. */
    struct list link;
    struct link_stream *stream;
    uint64_t version;       /* That it has, */
    uint32_t tls_keys_sent; /* and of these. */
    bool hears;             /* Of revocations: it is not of the release before. */
    bool named;             /* It has the secret of their users' hash. */
    struct told revoked;
};

struct cluster {
    struct cluster_view view;
    /* Shard 0: */
    struct shard *shard;
    uint8_t id[CLUSTER_ID_SIZE], key[CLUSTER_KEY_SIZE];
    struct cluster_table table; /* node_count 0: not dealt. */
    struct member *members;
    size_t member_count;
    struct slab readers;
    struct list reader_list;
    struct fiber_queue wake, ended;
    uint64_t rotate_ms; /* When keys of tickets are made anew, */
    uint32_t rotate_every_ms;
    uint32_t renewal_steps; /* and after how many of these times the renewal key is. */
    struct tls_keys tls_keys;
    bool deal;              /* The operator has said so. */
    bool revoked;           /* Somebody was, since the file was written, */
    uint64_t revoked_saved; /* which has those up to this generation. */
    bool aged;              /* The renewal key has. */
    bool due, working, running, stopping;
};

static struct cluster *cluster_self(void)
{
    return shard_self()->slot[SLOT_CLUSTER];
}

static void cluster_wake(struct cluster *c)
{
    c->due = true;
    fiber_queue_wake_all(&c->wake, 0);
}

/* ---- The file ------------------------------------------------------------------------------------------
 *
 *     magic 8 | cluster id 16 | cluster key 32 | renewal 100 | size of the table 4 | table
 *     generation 8 | floor 8 | count 4 | revocations: user 8, generation 8 | checksum 8 */

static size_t revoked_encode(const struct revocations *r, char *out)
{
    put_u64(out, r->generation);
    put_u64(out + 8, r->floor);
    put_u32(out + 16, r->count);
    for (uint32_t i = 0; i < r->count; i++) {
        put_u64(out + FILE_REVOKED + i * REVOCATION_SIZE, r->entries[i].user);
        put_u64(out + FILE_REVOKED + i * REVOCATION_SIZE + 8, r->entries[i].generation);
    }
    return FILE_REVOKED + r->count * (size_t)REVOCATION_SIZE;
}

static bool revoked_decode(struct slice in, struct revocations *r)
{
    uint32_t count = in.size >= FILE_REVOKED ? get_u32(in.data + 16) : UINT32_MAX;

    if (count > REVOCATIONS_MAX || in.size != FILE_REVOKED + count * (size_t)REVOCATION_SIZE)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const char *at = in.data + FILE_REVOKED + i * REVOCATION_SIZE;

        if (get_u64(at + 8) <= r->generation)
            return false;
        revocations_add(r, get_u64(at), get_u64(at + 8));
    }
    r->floor = get_u64(in.data + 8);
    r->generation = MAX(r->generation, get_u64(in.data));
    return true;
}

static int file_save(struct cluster *c)
{
    char *bytes = heap_alloc(c->shard->heap, FILE_SIZE_MAX);
    uint64_t generation = c->view.revoked.generation;
    size_t size = FILE_FRONT + 4;
    int rc;

    memcpy(bytes, FILE_MAGIC, 8);
    memcpy(bytes + 8, c->id, CLUSTER_ID_SIZE);
    memcpy(bytes + 24, c->key, CLUSTER_KEY_SIZE);
    renewal_encode(&c->view.renewal, bytes + 56);
    size += cluster_table_encode(&c->table, bytes + size);
    put_u32(bytes + FILE_FRONT, (uint32_t)(size - FILE_FRONT - 4));
    size += revoked_encode(&c->view.revoked, bytes + size);
    put_u64(bytes + size, XXH3_64bits(bytes, size));
    rc = small_file_store(".", FILE_NAME, slice_of(bytes, size + 8));
    bytes_wipe(bytes, size);
    heap_free(c->shard->heap, bytes);
    if (rc < 0)
        log_event(LOG_ERROR, "cannot write the table of partitions", "file=%s error=%s", FILE_NAME,
                  log_error(rc));
    else
        c->revoked_saved = generation;
    return rc;
}

static bool file_parse(struct cluster *c, struct slice in)
{
    bool old = in.size >= 8 && memcmp(in.data, FILE_MAGIC_1, 8) == 0;
    size_t size = in.size - MIN(in.size, 8u), front = old ? FILE_FRONT_1 : FILE_FRONT, table;

    if (size < front + 4 || (!old && memcmp(in.data, FILE_MAGIC, 8) != 0) ||
        get_u64(in.data + size) != XXH3_64bits(in.data, size))
        return false;
    memcpy(c->id, in.data + 8, CLUSTER_ID_SIZE);
    memcpy(c->key, in.data + 24, CLUSTER_KEY_SIZE);
    if (old)
        renewal_from_one((const uint8_t *)in.data + 56, &c->view.renewal);
    else
        renewal_decode(in.data + 56, &c->view.renewal);
    in = slice_from(slice_first(in, size), front + 4);
    table = get_u32(in.data - 4);
    if (table > in.size || !cluster_table_decode(slice_first(in, table), &c->table) ||
        !revoked_decode(slice_from(in, table), &c->view.revoked))
        return false;
    c->revoked_saved = c->view.revoked.generation;
    return true;
}

static int file_make(struct cluster *c)
{
    random_bytes(c->id, sizeof c->id);
    random_bytes(c->key, sizeof c->key);
    renewal_make(&c->view.renewal);
    memset(c->table.owners, 0xff, sizeof c->table.owners); /* PARTITION_NOWHERE */
    return file_save(c);
}

static int file_load(struct cluster *c)
{
    struct arena arena;
    struct slice bytes;
    int rc;

    arena_init(&arena, c->shard->heap);
    rc = small_file_load(FILE_NAME, &arena, FILE_SIZE_MAX, &bytes);
    if (rc == -ENOENT) {
        rc = file_make(c);
    } else if (rc < 0 || !file_parse(c, bytes)) {
        rc = rc < 0 ? rc : -EBADMSG;
        log_event(LOG_ERROR, "the table of partitions cannot be read; restore it from a backup",
                  "file=%s error=%s", FILE_NAME, log_error(rc));
    }
    arena_wipe(&arena);
    arena_fini(&arena);
    return rc;
}

/* ---- Every shard's copy -------------------------------------------------------------------------------- */

static void view_make(struct cluster *c)
{
    partition_secret(c->key, c->view.secret);
    memcpy(c->view.owners, c->table.owners, sizeof c->view.owners);
    c->view.ready = c->table.node_count > 0;
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

/* ---- Revocations ---------------------------------------------------------------------------------------
 *
 * Nobody hears of one that is not on the disk: after a crash its generation would be another's. */

/* Those that he has not heard of, each frame behind `header` bytes that say CLUSTER_PIECE_REVOKED. False: there was no room. */
static bool revoked_send(const struct cluster *c, struct link_stream *s, size_t header, struct told *told)
{
    const struct revocations *r = &c->view.revoked;
    uint32_t at = told->all ? 0 : revocations_after(r, told->sent);
    uint32_t end = revocations_after(r, c->revoked_saved);
    struct member_revoked *piece;

    if (!told->all && told->sent == c->revoked_saved)
        return true;
    if (link_credit(s) <= 0)
        return false;
    piece = heap_zalloc(c->shard->heap, sizeof *piece);
    piece->all = told->all;
    piece->floor = r->floor;
    do {
        struct link_frame *f = link_frame_new(header + MEMBER_REVOKED_SIZE_MAX);

        piece->count = (uint16_t)MIN(end - at, (uint32_t)MEMBER_REVOKED_MAX);
        memcpy(piece->entries, &r->entries[at], piece->count * sizeof piece->entries[0]);
        at += piece->count;
        piece->last = at == end;
        memset(f->payload, 0xff, header);
        link_send(s, f, header + member_revoked_encode(piece, f->payload + header), 0);
        piece->all = false;
    } while (at < end);
    heap_free(c->shard->heap, piece);
    *told = (struct told){.sent = c->revoked_saved};
    return true;
}

/* ---- Proxies ------------------------------------------------------------------------------------------- */

static void table_send(struct cluster *c, struct reader *l)
{
    char *bytes;
    size_t size;

    if (c->table.node_count == 0 || l->version == c->table.version || link_credit(l->stream) <= 0)
        return;
    bytes = heap_alloc(c->shard->heap, CLUSTER_TABLE_SIZE_MAX);
    size = cluster_table_encode(&c->table, bytes);
    for (size_t at = 0; at < size; at += CLUSTER_PIECE_MAX) {
        size_t piece = MIN(size - at, (size_t)CLUSTER_PIECE_MAX);
        struct link_frame *f = link_frame_new(CLUSTER_PIECE_HEADER + piece);

        put_u32(f->payload, (uint32_t)size);
        put_u32(f->payload + 4, (uint32_t)at);
        memcpy(f->payload + CLUSTER_PIECE_HEADER, bytes + at, piece);
        link_send(l->stream, f, CLUSTER_PIECE_HEADER + piece, 0);
    }
    l->version = c->table.version;
    heap_free(c->shard->heap, bytes);
}

/* How users are called. */
static void names_send(const struct cluster *c, struct reader *l)
{
    struct link_frame *f;

    if (l->named || link_credit(l->stream) <= 0)
        return;
    f = link_frame_new(CLUSTER_PIECE_HEADER + PARTITION_SECRET_SIZE);
    put_u32(f->payload, CLUSTER_PIECE_SECRET);
    put_u32(f->payload + 4, 0);
    memcpy(f->payload + CLUSTER_PIECE_HEADER, c->view.secret, PARTITION_SECRET_SIZE);
    link_send(l->stream, f, CLUSTER_PIECE_HEADER + PARTITION_SECRET_SIZE, 0);
    l->named = true;
}

static void reader_send(struct cluster *c, struct reader *l)
{
    if (l->hears)
        names_send(c, l);
    if (l->named)
        (void)revoked_send(c, l->stream, CLUSTER_PIECE_HEADER, &l->revoked); /* Again when there is room. */
    tls_keys_send(&c->tls_keys, l->stream, &l->tls_keys_sent);
    table_send(c, l);
}

static void tables_send(struct cluster *c)
{
    list_each_safe(it, &c->reader_list)
    {
        reader_send(c, CONTAINER_OF(it, struct reader, link));
    }
}

static void reader_frame(struct link_stream *s, struct link_frame *f)
{
    link_frame_release(f); /* A proxy says nothing more. */
}

static void reader_credit(struct link_stream *s)
{
    reader_send(cluster_self(), s->owner);
}

static void reader_free(struct reader *l)
{
    list_remove(&l->link);
    slab_give(&cluster_self()->readers, l);
}

static void reader_lost(struct link_stream *s)
{
    reader_free(s->owner);
}

static const struct link_stream_ops reader_ops = {reader_frame, reader_credit, reader_lost};

static void table_serve(struct link_stream *s, struct link_frame *open)
{
    struct cluster *c = cluster_self();
    struct reader *l = c->stopping ? NULL : slab_take(&c->readers);

    if (l == NULL) {
        link_frame_release(open);
        link_stream_refuse(s, LINK_LOST_REFUSED);
        return;
    }
    l->stream = s;
    l->hears = cluster_table_head_decode(link_frame_head(open), &l->revoked.sent);
    l->revoked.all = l->revoked.sent > c->revoked_saved; /* Of what is not known here any more. */
    link_frame_release(open);
    s->ops = &reader_ops;
    s->owner = l;
    list_push_back(&c->reader_list, &l->link);
    reader_send(c, l);
}

/* ---- Backends ------------------------------------------------------------------------------------------ */

static void member_frame(struct link_stream *s, struct link_frame *f)
{
    struct member *m = s->owner;
    const char *name = m->target.peer != NULL ? link_peer_node(m->target.peer)->name
                                              : config_string(m->cluster->shard->node->config, "node");

    if (f->header.type == LINK_DATA && member_state_decode(link_frame_data(f), &m->state)) {
        memcpy(m->name, name, MIN(strlen(name), sizeof m->name - 1));
        m->known = m->news = true;
        cluster_wake(m->cluster);
    }
    if (f->header.type == LINK_END) {
        m->stream = NULL;
        m->node = -1;
        timer_set(&m->retry, RETRY_MS);
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
    if (!m->cluster->stopping)
        timer_set(&m->retry, RETRY_MS + (uint32_t)(random_u64() % RETRY_MS));
}

static const struct link_stream_ops member_ops = {member_frame, member_credit, member_lost};

static void member_open(struct timer *t)
{
    struct member *m = CONTAINER_OF(t, struct member, retry);

    m->stream =
        link_open(m->target, LINK_MEMBER, slice_of(NULL, 0), slice_of(NULL, 0), false, &member_ops, m);
    if (m->stream == NULL)
        timer_set(&m->retry, RETRY_MS);
}

static void grant_send(struct cluster *c, struct member *m)
{
    const struct cluster_node *node = &c->table.nodes[m->node];
    struct member_grant grant = {.table_version = c->table.version};
    struct link_frame *f;

    if (m->stream == NULL || !revoked_send(c, m->stream, 0, &m->revoked) || !m->grant_due ||
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

/* ---- The table ----------------------------------------------------------------------------------------- */

static int node_find(const struct cluster *c, const char *name)
{
    for (unsigned i = 0; i < c->table.node_count; i++) {
        if (strcmp(c->table.nodes[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

static bool names_twice(const struct cluster *c)
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

static uint32_t members_known(const struct cluster *c)
{
    uint32_t known = 0;

    for (size_t i = 0; i < c->member_count; i++)
        known += c->members[i].known;
    return known;
}

static uint32_t members_up(const struct cluster *c)
{
    uint32_t up = 0;

    for (size_t i = 0; i < c->member_count; i++)
        up += c->members[i].stream != NULL && c->members[i].node >= 0;
    return up;
}

static bool can_deal(const struct cluster *c)
{
    return c->deal && c->member_count > 0 && members_known(c) == c->member_count && !names_twice(c);
}

/* By weight, and evenly spread: each partition to whoever is furthest behind his share. */
static void table_deal(struct cluster *c)
{
    uint64_t total = 0;

    for (size_t i = 0; i < c->member_count; i++) {
        struct cluster_node *node = &c->table.nodes[i];

        *node = (struct cluster_node){.addr = c->members[i].addr};
        memcpy(node->name, c->members[i].name, sizeof node->name);
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
    changed = memcmp(&node->addr, &m->addr, sizeof m->addr) != 0;
    node->addr = m->addr;
    if (memcmp(node->store_id, none, CLUSTER_ID_SIZE) == 0) {
        if (ours)
            memcpy(node->store_id, m->state.store_id, CLUSTER_ID_SIZE);
        m->grant_due = true;
        return changed || ours;
    }
    if (!ours || memcmp(node->store_id, m->state.store_id, CLUSTER_ID_SIZE) != 0) {
        log_event(LOG_ERROR, "a backend's data directory is not the one that its partitions are in",
                  "node=%s hint=restore_it_or_give_it_back", log_quote(slice_str(m->name)));
        m->node = -1;
        return changed;
    }
    m->grant_due = true;
    return changed;
}

static bool members_settle(struct cluster *c)
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

static void cluster_step(struct cluster *c)
{
    bool changed = members_settle(c);

    if (time_ms() >= c->rotate_ms) {
        for (size_t i = 0; i < c->member_count; i++)
            key_rotate(&c->members[i]);
        renewal_step(&c->view.renewal, c->renewal_steps);
        c->aged = true;
        c->rotate_ms = time_ms() + c->rotate_every_ms;
    }
    tls_keys_step(&c->tls_keys); /* TICKET_KEY_MS is a part of its time. */
    if (changed || c->revoked || c->aged) {
        c->table.version += changed;
        c->revoked = c->aged = false;
        if (file_save(c) < 0) {
            c->table.version -= changed;
            c->revoked = true;
            c->due = true; /* Nobody is told of what is not durable; tried again. */
            (void)fiber_sleep_ms(RETRY_MS);
            return;
        }
    }
    for (size_t i = 0; i < c->member_count; i++) {
        if (c->members[i].node >= 0)
            grant_send(c, &c->members[i]);
    }
    view_spread(c);
    tables_send(c);
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

void cluster_ticket(const struct ticket_claim *claim, uint16_t partition, struct ticket *out)
{
    const struct cluster_view *v = &cluster_self()->view;

    ticket_make(claim, &v->keys[v->owners[partition]], v->renewal.keys[0], out);
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

uint64_t cluster_generation(void)
{
    return cluster_self()->view.revoked.generation;
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
    if (route->known)
        memcpy(route->node, c->table.nodes[c->table.owners[route->partition]].name, sizeof route->node);
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
    cluster->known = members_known(c);
    cluster->up = members_up(c);
    cluster->twice = names_twice(c);
    cluster->settled = !c->due && !c->revoked && !c->working;
    if (cluster->deal && !c->deal && !cluster->dealt)
        cluster_wake(c);
    c->deal = cluster->deal && !cluster->dealt;
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
static int members_start(struct cluster *c, bool backend_here)
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
        rc = file_load(c);
    if (rc == 0)
        rc = members_start(c, backend_here);
    if (rc < 0)
        return rc;
    view_make(c);
    tls_keys_step(&c->tls_keys);
    rotation_plan(c);
    link_serve(LINK_TABLE, table_serve);
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
    for (size_t i = 0; i < c->member_count; i++) {
        timer_cancel(&c->members[i].retry);
        if (c->members[i].stream != NULL)
            link_stream_reset(c->members[i].stream);
    }
    list_each_safe(it, &c->reader_list)
    {
        struct reader *l = CONTAINER_OF(it, struct reader, link);

        link_stream_reset(l->stream);
        reader_free(l);
    }
    s->slot[SLOT_CLUSTER] = NULL;
    slab_fini(&c->readers);
    heap_unmap_secret(s->heap, c->members);
    heap_unmap_secret(s->heap, c);
}
