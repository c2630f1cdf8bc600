#include "roles/proxy/packed.h"
#include "core/map.h"
#include "core/varint.h"
#include <sys/socket.h>

/* The first two bytes: the state in two bits, then what there is. */
enum {
    STATE_MASK = 3,
    TLS_FIRST = 1 << 2,
    PEER_V6 = 1 << 3,
    PEER_NONE = 1 << 4, /* Neither address nor port. */
    HAS_TLS = 1 << 5,
    HAS_TAG = 1 << 6,
    HAS_TOKEN = 1 << 7,
    OWN_HISTORY = 1 << 8,
    NO_HISTORY = 1 << 9,
    USERS_TICKET = 1 << 10,
    HAS_INPUT = 1 << 11,
    HAS_RARE = 1 << 12, /* What most do not have. */
    HAS_KNOWN = 1 << 13,
    HAS_RECENT = 1 << 14,
    WATCHES = 1 << 15,
};

enum {
    RARE_NEAR = 1 << 0,
    RARE_FORWARDS = 1 << 1,
    RARE_CLIENT_SID = 1 << 2,
    RARE_COMPRESSED = 1 << 3,
    RARE_NONCE = 1 << 4,     /* It was made in another process. */
    RARE_PARTITION = 1 << 5, /* Not the user's. */
    RARE_TICKET = 1 << 6,    /* Nor this. */
    RARE_MORE =
        1 << 7, /* Of a handshake: its ClientHello so far. Of others: features, behind all the rest. */
};

static const uint8_t zeros[16];

/* ---- Writing and reading ------------------------------------------------------------------------------- */

static const char *get_varint(const char *in, uint64_t *v_out)
{
    in = varint_get(in, in + VARINT_SIZE_MAX, v_out);
    ASSERT(in != NULL);
    return in;
}

/* Numbers that are mostly near each other: the difference, small in both directions. */
static char *put_near(char *out, uint64_t v, uint64_t base)
{
    uint64_t difference = v - base;

    return varint_put(out, difference << 1 ^ (difference >> 63 != 0 ? UINT64_MAX : 0));
}

static const char *get_near(const char *in, uint64_t *v_out, uint64_t base)
{
    uint64_t coded;

    in = get_varint(in, &coded);
    *v_out = base + (coded >> 1 ^ ((coded & 1) != 0 ? UINT64_MAX : 0));
    return in;
}

static char *put_bytes(char *out, const void *data, size_t size)
{
    memcpy(out, data, size);
    return out + size;
}

static const char *get_bytes(const char *in, void *out, size_t size)
{
    memcpy(out, in, size);
    return in + size;
}

/* A size of one byte, then the bytes. */
static char *put_sized(char *out, const void *data, size_t size)
{
    *out++ = (char)size;
    return put_bytes(out, data, size);
}

/* Of a record of TLS the size is SEALED higher. */
#define SEALED CONN_PACKED_INPUT_MAX
_Static_assert(SEALED + CONN_PACKED_SEALED_MAX <= UINT8_MAX, "the size of either is a byte");

static char *put_input(char *out, const struct conn_packed *c)
{
    *out++ = (char)(c->input_size + (c->input_sealed ? SEALED : 0));
    return put_bytes(out, c->input, c->input_size);
}

static const char *get_input(const char *in, struct conn_packed *c)
{
    unsigned size = (uint8_t)*in++;

    c->input_sealed = size > SEALED;
    c->input_size = (uint8_t)(c->input_sealed ? size - SEALED : size);
    return get_bytes(in, c->input, c->input_size);
}

static const char *get_sized(const char *in, void *out, uint8_t *size_out, size_t size_max)
{
    *size_out = (uint8_t)*in++;
    ASSERT(*size_out <= size_max);
    return get_bytes(in, out, *size_out);
}

/* ---- Parts --------------------------------------------------------------------------------------------- */

/* Without the zeros at its end: within a process it is hardly more than a generation. */
static size_t ticket_size(const struct ticket *t)
{
    size_t size = TICKET_SIZE;

    while (size > 0 && t->bytes[size - 1] == 0)
        size--;
    return size;
}

static bool ticket_shared(const struct packed *p, struct packed_shared shared)
{
    return shared.ticket != NULL && memcmp(&p->ticket, shared.ticket, sizeof p->ticket) == 0;
}

uint64_t packed_nonce(const struct packed_process *process, uint64_t id)
{
    char bytes[sizeof id];

    put_u64(bytes, id);
    return map_hash(slice_of(bytes, sizeof bytes), process->secret);
}

static bool nonce_known(const struct packed *p, struct packed_shared shared)
{
    return shared.process != NULL && p->nonce == packed_nonce(shared.process, p->id);
}

static uint64_t id_base(struct packed_shared shared)
{
    return shared.process != NULL ? shared.process->id_base : 0;
}

static bool has_hello(const struct packed *p)
{
    ASSERT(p->conn.hello == NULL || p->state == PACKED_HANDSHAKE);
    return p->conn.hello != NULL;
}

static bool has_features(const struct packed *p)
{
    ASSERT(p->features == LINK_FEATURES_UNSAID || p->state != PACKED_HANDSHAKE);
    return p->features != LINK_FEATURES_UNSAID;
}

static unsigned rare_of(const struct packed *p, struct packed_shared shared)
{
    unsigned rare = p->near ? RARE_NEAR : 0;

    rare |= p->forwards ? RARE_FORWARDS : 0;
    rare |= p->client_sid_size > 0 ? RARE_CLIENT_SID : 0;
    rare |= p->conn.history != NULL ? RARE_COMPRESSED : 0;
    rare |= !nonce_known(p, shared) ? RARE_NONCE : 0;
    rare |= p->partition != shared.partition ? RARE_PARTITION : 0;
    rare |= has_hello(p) || has_features(p) ? RARE_MORE : 0;
    return rare | (ticket_size(&p->ticket) > 0 && !ticket_shared(p, shared) ? RARE_TICKET : 0);
}

static unsigned flags_of(const struct packed *p, struct packed_shared shared)
{
    static const struct token none;
    unsigned flags = p->state;

    ASSERT(p->state <= STATE_MASK);
    flags |= p->tls_first ? TLS_FIRST : 0;
    flags |= p->watches ? WATCHES : 0;
    flags |= p->conn.peer.family == AF_INET6 ? PEER_V6 : p->conn.peer.family != AF_INET ? PEER_NONE : 0;
    flags |= p->conn.tls_size > 0 ? HAS_TLS : 0;
    flags |= p->tag_size > 0 ? HAS_TAG : 0;
    flags |= memcmp(&p->token, &none, sizeof none) != 0 ? HAS_TOKEN : 0;
    if (memcmp(p->token.history, zeros, sizeof p->token.history) == 0)
        flags |= NO_HISTORY;
    else if (shared.history == NULL || memcmp(p->token.history, shared.history, sizeof p->token.history) != 0)
        flags |= OWN_HISTORY;
    flags |= ticket_shared(p, shared) ? USERS_TICKET : 0;
    flags |= p->conn.input_size > 0 ? HAS_INPUT : 0;
    flags |= p->bad_count > 0 || rare_of(p, shared) != 0 ? HAS_RARE : 0;
    flags |= p->known != 0 ? HAS_KNOWN : 0;
    flags |= p->token.recent_first != 0 || p->token.recent_last != 0 ? HAS_RECENT : 0;
    return flags;
}

static char *put_peer(char *out, const struct net_addr *peer, unsigned flags)
{
    if ((flags & PEER_NONE) != 0) {
        *out++ = (char)peer->family;
        return out;
    }
    out = put_bytes(out, peer->ip, (flags & PEER_V6) != 0 ? 16 : 4);
    put_u16(out, peer->port);
    return out + 2;
}

static const char *get_peer(const char *in, struct net_addr *peer, unsigned flags)
{
    if ((flags & PEER_NONE) != 0) {
        peer->family = (uint8_t)*in++;
        return in;
    }
    peer->family = (flags & PEER_V6) != 0 ? AF_INET6 : AF_INET;
    in = get_bytes(in, peer->ip, (flags & PEER_V6) != 0 ? 16 : 4);
    peer->port = get_u16(in);
    return in + 2;
}

static char *put_token(char *out, const struct token *t, unsigned flags)
{
    if ((flags & OWN_HISTORY) != 0)
        out = put_bytes(out, t->history, sizeof t->history);
    out = varint_put(out, t->mailbox_id);
    out = varint_put(out, t->appends);
    out = put_near(out, t->expunges, t->appends);
    out = put_near(out, t->flag_changes, t->appends);
    put_u32(out, t->uidvalidity);
    out += 4;
    if ((flags & HAS_RECENT) != 0) {
        out = varint_put(out, t->recent_first);
        out = put_near(out, t->recent_last, t->recent_first);
    }
    out = varint_put(out, t->keyword_count);
    return varint_put(out, t->flags);
}

static const char *get_token(const char *in, struct token *t, unsigned flags, const uint8_t *history)
{
    uint64_t v;

    if ((flags & OWN_HISTORY) != 0)
        in = get_bytes(in, t->history, sizeof t->history);
    else if ((flags & NO_HISTORY) == 0)
        memcpy(t->history, history, sizeof t->history);
    in = get_varint(in, &t->mailbox_id);
    in = get_varint(in, &t->appends);
    in = get_near(in, &t->expunges, t->appends);
    in = get_near(in, &t->flag_changes, t->appends);
    t->uidvalidity = get_u32(in);
    in += 4;
    if ((flags & HAS_RECENT) != 0) {
        in = get_varint(in, &v);
        t->recent_first = (uint32_t)v;
        in = get_near(in, &v, t->recent_first);
        t->recent_last = (uint32_t)v;
    }
    in = get_varint(in, &v);
    t->keyword_count = (uint16_t)v;
    in = get_varint(in, &v);
    t->flags = (uint16_t)v;
    return in;
}

static char *put_rare(char *out, const struct packed *p, struct packed_shared shared)
{
    unsigned rare = rare_of(p, shared);

    *out++ = (char)p->bad_count;
    *out++ = (char)rare;
    if ((rare & RARE_CLIENT_SID) != 0)
        out = put_sized(out, p->client_sid, p->client_sid_size);
    if ((rare & RARE_COMPRESSED) != 0)
        out = put_bytes(out, &p->conn.history, sizeof p->conn.history);
    if ((rare & RARE_NONCE) != 0)
        out = put_bytes(out, &p->nonce, sizeof p->nonce);
    if ((rare & RARE_PARTITION) != 0)
        out = varint_put(out, p->partition);
    if ((rare & RARE_TICKET) != 0)
        out = put_sized(out, p->ticket.bytes, ticket_size(&p->ticket));
    if (has_hello(p)) {
        out = put_bytes(out, &p->conn.hello, sizeof p->conn.hello);
        out = put_bytes(out, &p->conn.hello_size, sizeof p->conn.hello_size);
    }
    return out;
}

static const char *get_rare(const char *in, struct packed *out, bool *features)
{
    unsigned rare = (uint8_t)in[1];
    uint64_t v;
    uint8_t size;

    out->bad_count = (uint8_t)in[0];
    out->near = (rare & RARE_NEAR) != 0;
    out->forwards = (rare & RARE_FORWARDS) != 0;
    *features = (rare & RARE_MORE) != 0 && out->state != PACKED_HANDSHAKE;
    in += 2;
    if ((rare & RARE_CLIENT_SID) != 0)
        in = get_sized(in, out->client_sid, &out->client_sid_size, sizeof out->client_sid);
    if ((rare & RARE_COMPRESSED) != 0)
        in = get_bytes(in, &out->conn.history, sizeof out->conn.history);
    if ((rare & RARE_NONCE) != 0)
        in = get_bytes(in, &out->nonce, sizeof out->nonce);
    if ((rare & RARE_PARTITION) != 0) {
        in = get_varint(in, &v);
        out->partition = (uint16_t)v;
    }
    if ((rare & RARE_TICKET) != 0)
        in = get_sized(in, out->ticket.bytes, &size, TICKET_SIZE);
    if ((rare & RARE_MORE) != 0 && out->state == PACKED_HANDSHAKE) {
        in = get_bytes(in, &out->conn.hello, sizeof out->conn.hello);
        in = get_bytes(in, &out->conn.hello_size, sizeof out->conn.hello_size);
    }
    return in;
}

/* ---- The whole ----------------------------------------------------------------------------------------- */

size_t packed_encode(const struct packed *p, struct packed_shared shared, char *out)
{
    unsigned flags = flags_of(p, shared);
    char *at = out;

    put_u16(at, (uint16_t)flags);
    at = varint_put(at + 2, p->conn.sock.ring);
    at = varint_put(at, p->conn.sock.slot);
    put_u16(at, p->conn.sock.generation);
    at = put_peer(at + 2, &p->conn.peer, flags);
    at = varint_put(at, p->conn.bytes_in);
    at = varint_put(at, p->conn.bytes_out);
    at = varint_put(at, p->commands);
    at = varint_put(at, p->operation);
    at = put_near(at, p->id, id_base(shared));
    if ((flags & HAS_RARE) != 0)
        at = put_rare(at, p, shared);
    if ((flags & HAS_TAG) != 0)
        at = put_sized(at, p->tag, p->tag_size);
    if ((flags & HAS_TOKEN) != 0)
        at = put_token(at, &p->token, flags);
    if ((flags & HAS_KNOWN) != 0)
        at = put_near(at, p->known, p->token.appends);
    if ((flags & HAS_INPUT) != 0)
        at = put_input(at, &p->conn);
    if ((flags & HAS_TLS) != 0)
        at = put_sized(at, p->conn.tls, p->conn.tls_size);
    if (has_features(p))
        *at++ = (char)p->features;
    ASSERT(at <= out + PACKED_SIZE_MAX);
    return (size_t)(at - out);
}

/* And what they imply, unless something rare says otherwise. */
static const char *get_numbers(const char *in, struct packed_shared shared, struct packed *out)
{
    in = get_varint(in, &out->conn.bytes_in);
    in = get_varint(in, &out->conn.bytes_out);
    in = get_varint(in, &out->commands);
    in = get_varint(in, &out->operation);
    in = get_near(in, &out->id, id_base(shared));
    out->partition = shared.partition;
    if (shared.process != NULL)
        out->nonce = packed_nonce(shared.process, out->id);
    return in;
}

void packed_decode(const char *in, struct packed_shared shared, struct packed *out)
{
    unsigned flags = get_u16(in);
    bool features = false;
    uint64_t v;

    memset(out, 0, sizeof *out);
    out->features = LINK_FEATURES_UNSAID;
    out->state = flags & STATE_MASK;
    out->conn.awaits_hello = out->state == PACKED_HANDSHAKE;
    out->watches = (flags & WATCHES) != 0;
    out->tls_first = (flags & TLS_FIRST) != 0;
    in = get_varint(in + 2, &v);
    out->conn.sock.ring = (uint16_t)v;
    in = get_varint(in, &v);
    out->conn.sock.slot = (uint32_t)v;
    out->conn.sock.generation = get_u16(in);
    in = get_peer(in + 2, &out->conn.peer, flags);
    in = get_numbers(in, shared, out);
    if ((flags & USERS_TICKET) != 0)
        out->ticket = *shared.ticket;
    if ((flags & HAS_RARE) != 0)
        in = get_rare(in, out, &features);
    if ((flags & HAS_TAG) != 0)
        in = get_sized(in, out->tag, &out->tag_size, sizeof out->tag);
    if ((flags & HAS_TOKEN) != 0)
        in = get_token(in, &out->token, flags, shared.history);
    if ((flags & HAS_KNOWN) != 0)
        in = get_near(in, &out->known, out->token.appends);
    if ((flags & HAS_INPUT) != 0)
        in = get_input(in, &out->conn);
    if ((flags & HAS_TLS) != 0)
        in = get_sized(in, out->conn.tls, &out->conn.tls_size, sizeof out->conn.tls);
    if (features)
        out->features = (uint8_t)*in;
}

enum packed_state packed_state(const char *in)
{
    return get_u16(in) & STATE_MASK;
}

bool packed_watches(const char *in)
{
    return (get_u16(in) & WATCHES) != 0;
}
