#include "roles/words/cluster.h"
#include "roles/words/coder.h"
#include <xxhash.h>

static void encode_addr(struct encoder *e, const struct net_addr *a)
{
    encode_bytes(e, a->ip, sizeof a->ip);
    encode_u16(e, a->port);
    encode_u8(e, a->family);
}

static void decode_fixed(struct decoder *d, void *out, size_t size)
{
    struct slice bytes = decode_bytes(d, size);

    if (bytes.size > 0)
        memcpy(out, bytes.data, size);
}

static void decode_addr(struct decoder *d, struct net_addr *out)
{
    decode_fixed(d, out->ip, sizeof out->ip);
    out->port = decode_u16(d);
    out->family = decode_u8(d);
}

/* ---- The table ----------------------------------------------------------------------------------------- */

static void decode_node(struct decoder *d, struct cluster_node *out)
{
    struct slice name = decode_slice(d, LINK_NODE_NAME_MAX);

    if (d->bad || name.size == 0 || slice_find(name, '\0') < name.size) {
        d->bad = true;
        return;
    }
    memcpy(out->name, name.data, name.size);
    out->name[name.size] = '\0';
    decode_addr(d, &out->addr);
    decode_fixed(d, out->store_id, sizeof out->store_id);
}

size_t cluster_table_encode(const struct cluster_table *t, char *out)
{
    struct encoder e = encode_begin(out, CLUSTER_TABLE_SIZE_MAX, CLUSTER_VERSION);

    encode_u64(&e, t->version);
    encode_u16(&e, t->node_count);
    for (unsigned i = 0; i < t->node_count; i++) {
        encode_slice(&e, slice_str(t->nodes[i].name));
        encode_addr(&e, &t->nodes[i].addr);
        encode_bytes(&e, t->nodes[i].store_id, CLUSTER_ID_SIZE);
    }
    for (unsigned i = 0; i < PARTITION_COUNT; i++)
        encode_u16(&e, t->owners[i]);
    return e.at;
}

bool cluster_table_decode(struct slice in, struct cluster_table *out)
{
    struct decoder d = decode_begin(in, CLUSTER_VERSION);

    out->version = decode_u64(&d);
    out->node_count = decode_u16(&d);
    if (out->node_count > CLUSTER_NODES_MAX)
        return false;
    for (unsigned i = 0; i < out->node_count && !d.bad; i++)
        decode_node(&d, &out->nodes[i]);
    for (unsigned i = 0; i < PARTITION_COUNT && !d.bad; i++) {
        out->owners[i] = decode_u16(&d);
        if (out->owners[i] >= out->node_count && out->owners[i] != PARTITION_NOWHERE)
            d.bad = true;
    }
    return decode_end(&d);
}

/* ---- Keys of TLS tickets ------------------------------------------------------------------------------- */

size_t cluster_tls_keys_encode(const struct tls_ticket_keys *k, char out[CLUSTER_TLS_KEYS_SIZE_MAX])
{
    struct encoder e = encode_begin(out, CLUSTER_TLS_KEYS_SIZE_MAX, CLUSTER_VERSION);

    encode_u8(&e, k->count);
    encode_bytes(&e, k->keys, k->count * sizeof k->keys[0]);
    return e.at;
}

bool cluster_tls_keys_decode(struct slice in, struct tls_ticket_keys *out)
{
    struct decoder d = decode_begin(in, CLUSTER_VERSION);

    out->count = decode_u8(&d);
    if (out->count == 0 || out->count > TLS_TICKET_KEYS_MAX)
        return false;
    decode_fixed(&d, out->keys, out->count * sizeof out->keys[0]);
    return decode_end(&d);
}

/* ---- Membership ---------------------------------------------------------------------------------------- */

enum { /* What a director's frame is, behind its version. */
       WORD_GRANT = 1,
       WORD_REVOKED = 2,
       WORD_PLACED = 3,
};

size_t member_state_encode(const struct member_state *s, char out[MEMBER_SIZE_MAX])
{
    struct encoder e = encode_begin(out, MEMBER_SIZE_MAX, CLUSTER_VERSION);

    encode_bytes(&e, s->cluster_id, sizeof s->cluster_id);
    encode_bytes(&e, s->store_id, sizeof s->store_id);
    return e.at;
}

bool member_state_decode(struct slice in, struct member_state *out)
{
    struct decoder d = decode_begin(in, CLUSTER_VERSION);

    decode_fixed(&d, out->cluster_id, sizeof out->cluster_id);
    decode_fixed(&d, out->store_id, sizeof out->store_id);
    return decode_end(&d);
}

size_t member_grant_encode(const struct member_grant *g, char out[MEMBER_SIZE_MAX])
{
    struct encoder e = encode_begin(out, MEMBER_SIZE_MAX, CLUSTER_VERSION);

    encode_u8(&e, WORD_GRANT);
    encode_bytes(&e, g->cluster_id, sizeof g->cluster_id);
    encode_bytes(&e, g->cluster_key, sizeof g->cluster_key);
    encode_u64(&e, g->table_version);
    encode_u8(&e, g->first);
    encode_bytes(&e, g->partitions, sizeof g->partitions);
    for (unsigned i = 0; i < ARRAY_COUNT(g->ticket_keys); i++) {
        encode_u32(&e, g->ticket_keys[i].id);
        encode_bytes(&e, g->ticket_keys[i].key, sizeof g->ticket_keys[i].key);
    }
    return e.at;
}

bool member_grant_decode(struct slice in, struct member_grant *out)
{
    struct decoder d = decode_begin(in, CLUSTER_VERSION);

    if (decode_u8(&d) != WORD_GRANT)
        return false;
    decode_fixed(&d, out->cluster_id, sizeof out->cluster_id);
    decode_fixed(&d, out->cluster_key, sizeof out->cluster_key);
    out->table_version = decode_u64(&d);
    out->first = decode_bool(&d);
    decode_fixed(&d, out->partitions, sizeof out->partitions);
    for (unsigned i = 0; i < ARRAY_COUNT(out->ticket_keys); i++) {
        out->ticket_keys[i].id = decode_u32(&d);
        decode_fixed(&d, out->ticket_keys[i].key, sizeof out->ticket_keys[i].key);
    }
    return decode_end(&d);
}

size_t member_revoked_encode(const struct member_revoked *r, char out[MEMBER_REVOKED_SIZE_MAX])
{
    struct encoder e = encode_begin(out, MEMBER_REVOKED_SIZE_MAX, CLUSTER_VERSION);

    encode_u8(&e, WORD_REVOKED);
    encode_u8(&e, r->all);
    encode_u8(&e, r->last);
    encode_u64(&e, r->floor);
    encode_u16(&e, r->count);
    for (unsigned i = 0; i < r->count; i++) {
        encode_u64(&e, r->entries[i].user);
        encode_u64(&e, r->entries[i].generation);
    }
    return e.at;
}

bool member_revoked_decode(struct slice in, struct member_revoked *out)
{
    struct decoder d = decode_begin(in, CLUSTER_VERSION);

    if (decode_u8(&d) != WORD_REVOKED)
        return false;
    out->all = decode_bool(&d);
    out->last = decode_bool(&d);
    out->floor = decode_u64(&d);
    out->count = decode_u16(&d);
    if (out->count > MEMBER_REVOKED_MAX)
        return false;
    for (unsigned i = 0; i < out->count && !d.bad; i++) {
        out->entries[i].user = decode_u64(&d);
        out->entries[i].generation = decode_u64(&d);
        if (i > 0 && out->entries[i].generation <= out->entries[i - 1].generation)
            d.bad = true;
    }
    return decode_end(&d);
}

size_t member_placed_encode(const struct member_placed *p, char out[MEMBER_PLACED_SIZE_MAX])
{
    struct encoder e = encode_begin(out, MEMBER_PLACED_SIZE_MAX, CLUSTER_VERSION);

    encode_u8(&e, WORD_PLACED);
    encode_u64(&e, p->version);
    encode_u8(&e, p->first);
    encode_u8(&e, p->last);
    encode_u16(&e, p->count);
    for (unsigned i = 0; i < p->count; i++) {
        encode_u8(&e, (uint8_t)p->entries[i].here);
        encode_slice(&e, p->entries[i].user);
    }
    return e.at;
}

bool member_placed_decode(struct slice in, struct member_placed *out)
{
    struct decoder d = decode_begin(in, CLUSTER_VERSION);

    if (decode_u8(&d) != WORD_PLACED)
        return false;
    out->version = decode_u64(&d);
    out->first = decode_bool(&d);
    out->last = decode_bool(&d);
    out->count = decode_u16(&d);
    if (out->count > MEMBER_PLACED_MAX)
        return false;
    for (unsigned i = 0; i < out->count && !d.bad; i++) {
        out->entries[i].here = decode_bool(&d) ? EXCEPTION_HERE : EXCEPTION_AWAY;
        out->entries[i].user = decode_slice(&d, USER_SIZE_MAX);
        if (out->entries[i].user.size == 0)
            d.bad = true;
    }
    return decode_end(&d);
}

size_t member_answer_encode(const struct member_answer *a, char out[MEMBER_SIZE_MAX])
{
    struct encoder e = encode_begin(out, MEMBER_SIZE_MAX, CLUSTER_VERSION);

    encode_u8(&e, WORD_PLACED);
    encode_u64(&e, a->version);
    encode_u8(&e, a->refused_count);
    for (unsigned i = 0; i < a->refused_count; i++)
        encode_u64(&e, a->refused[i]);
    return e.at;
}

bool member_answer_decode(struct slice in, struct member_answer *out)
{
    struct decoder d = decode_begin(in, CLUSTER_VERSION);

    if (decode_u8(&d) != WORD_PLACED)
        return false;
    out->version = decode_u64(&d);
    out->refused_count = decode_u8(&d);
    if (out->refused_count > MEMBER_REFUSED_MAX)
        return false;
    for (unsigned i = 0; i < out->refused_count; i++)
        out->refused[i] = decode_u64(&d);
    return decode_end(&d);
}

/* ---- Users who are placed alone ------------------------------------------------------------------------- */

size_t cluster_exceptions_encode(const struct cluster_exceptions *x, char out[CLUSTER_EXCEPTIONS_SIZE_MAX])
{
    struct encoder e = encode_begin(out, CLUSTER_EXCEPTIONS_SIZE_MAX, CLUSTER_VERSION);

    encode_u64(&e, x->version);
    encode_u8(&e, x->first);
    encode_u8(&e, x->last);
    encode_u16(&e, x->count);
    for (unsigned i = 0; i < x->count; i++) {
        encode_u16(&e, x->entries[i].place);
        encode_u64(&e, x->entries[i].exception.user);
        encode_u16(&e, x->entries[i].exception.partition);
        encode_u16(&e, x->entries[i].exception.node);
    }
    return e.at;
}

bool cluster_exceptions_decode(struct slice in, struct cluster_exceptions *out)
{
    struct decoder d = decode_begin(in, CLUSTER_VERSION);

    out->version = decode_u64(&d);
    out->first = decode_bool(&d);
    out->last = decode_bool(&d);
    out->count = decode_u16(&d);
    if (out->count > CLUSTER_EXCEPTIONS_MAX)
        return false;
    for (unsigned i = 0; i < out->count && !d.bad; i++) {
        struct exception *x = &out->entries[i].exception;

        out->entries[i].place = decode_u16(&d);
        *x = (struct exception){.used = true};
        x->user = decode_u64(&d);
        x->partition = decode_u16(&d);
        x->node = decode_u16(&d);
        if (out->entries[i].place >= EXCEPTIONS_MAX || x->partition >= PARTITION_COUNT ||
            x->node >= CLUSTER_NODES_MAX)
            d.bad = true;
    }
    return decode_end(&d);
}

/* ---- Partitions ---------------------------------------------------------------------------------------- */

void partition_secret(const uint8_t cluster_key[CLUSTER_KEY_SIZE], uint8_t secret[PARTITION_SECRET_SIZE])
{
    for (unsigned i = 0; i < PARTITION_SECRET_SIZE / 8; i++)
        put_u64(secret + i * 8, XXH3_64bits_withSeed(cluster_key, CLUSTER_KEY_SIZE, i));
}

unsigned partition_of(const uint8_t secret[PARTITION_SECRET_SIZE], struct slice user)
{
    XXH128_hash_t hash = XXH3_128bits_withSecret(user.data, user.size, secret, PARTITION_SECRET_SIZE);

    return (unsigned)(hash.low64 & (PARTITION_COUNT - 1));
}

uint64_t partition_user(const uint8_t secret[PARTITION_SECRET_SIZE], struct slice user)
{
    return XXH3_128bits_withSecret(user.data, user.size, secret, PARTITION_SECRET_SIZE).high64;
}
