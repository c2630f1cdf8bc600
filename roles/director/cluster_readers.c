/* roles/director/cluster_readers.c -- what proxy cores are told (LINK_TABLE): the table, the keys of TLS tickets, who is revoked. */
#include "roles/director/cluster_state.h"

bool cluster_revoked_send(const struct cluster *c, struct link_stream *s, size_t header, struct told *told)
{
    const struct revocations *r = &c->view.revoked;
    uint32_t at = told->all ? 0 : revocations_after(r, told->sent);
    uint32_t end = revocations_after(r, c->view.revoked_saved);
    struct member_revoked *piece;

    if (!told->all && told->sent == c->view.revoked_saved)
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
    *told = (struct told){.sent = c->view.revoked_saved};
    return true;
}
/* ---- Proxies ------------------------------------------------------------------------------------------- */

static void table_send(struct cluster *c, struct reader *l)
{
    char *bytes;
    size_t size;

    if (c->table.node_count == 0 || l->version == c->dealt_version || link_credit(l->stream) <= 0)
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
    l->version = c->dealt_version;
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

static void features_send(const struct cluster *c, struct reader *l)
{
    struct link_frame *f;

    if (c->table.node_count == 0 || (l->featured && l->features == cluster_features(c)) ||
        link_credit(l->stream) <= 0)
        return;
    l->features = cluster_features(c);
    l->featured = true;
    f = link_frame_new(CLUSTER_PIECE_HEADER + CLUSTER_FEATURES_SIZE);
    put_u32(f->payload, CLUSTER_PIECE_FEATURES);
    put_u32(f->payload + 4, 0);
    cluster_features_encode(l->features, f->payload + CLUSTER_PIECE_HEADER);
    link_send(l->stream, f, CLUSTER_PIECE_HEADER + CLUSTER_FEATURES_SIZE, 0);
}

static void reader_send(struct cluster *c, struct reader *l)
{
    if (l->hears)
        names_send(c, l);
    if (l->named)
        (void)cluster_revoked_send(c, l->stream, CLUSTER_PIECE_HEADER,
                                   &l->revoked); /* Again when there is room. */
    tls_keys_send(&c->tls_keys, l->stream, &l->tls_keys_sent);
    features_send(c, l); /* Before the table: a director that says none is of the release before. */
    table_send(c, l);
    cluster_exceptions_send(c, l);
}

void cluster_readers_send(struct cluster *c)
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

void cluster_readers_serve(struct link_stream *s, struct link_frame *open)
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
    l->revoked.all = l->revoked.sent > c->view.revoked_saved; /* Of what is not known here any more. */
    link_frame_release(open);
    s->ops = &reader_ops;
    s->owner = l;
    list_push_back(&c->reader_list, &l->link);
    reader_send(c, l);
}

void cluster_readers_stop(struct cluster *c)
{
    list_each_safe(it, &c->reader_list)
    {
        struct reader *l = CONTAINER_OF(it, struct reader, link);

        link_stream_reset(l->stream);
        reader_free(l);
    }
}
