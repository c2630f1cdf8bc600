#include "roles/proxy/packed.h"
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
    HAS_TICKET = 1 << 10,
    HAS_INPUT = 1 << 11,
    HAS_RARE = 1 << 12, /* What most do not have. */
    HAS_KNOWN = 1 << 13,
    HAS_RECENT = 1 << 14,
    WATCHES = 1 << 15,
};

enum { RARE_NEAR = 1, RARE_FORWARDS = 2, RARE_CLIENT_SID = 4, RARE_COMPRESSED = 8 };

static const uint8_t zeros[16];

/* ---- Writing and reading ------------------------------------------------------------------------------- */

static char *put_varint(char *out, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *out++ = (char)(v | 0x80);
    *out++ = (char)v;
    return out;
}

static const char *get_varint(const char *in, uint64_t *v_out)
{
    uint64_t v = 0;
    unsigned shift = 0;

    for (; (*in & 0x80) != 0; shift += 7)
        v |= (uint64_t)(*in++ & 0x7f) << shift;
    *v_out = v | (uint64_t)(uint8_t)*in++ << shift;
    return in;
}

/* Numbers that are mostly near each other: the difference, small in both directions. */
static char *put_near(char *out, uint64_t v, uint64_t base)
{
    uint64_t difference = v - base;

    return put_varint(out, difference << 1 ^ (difference >> 63 != 0 ? UINT64_MAX : 0));
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

static unsigned flags_of(const struct packed *p, const uint8_t *history)
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
    else if (history == NULL || memcmp(p->token.history, history, sizeof p->token.history) != 0)
        flags |= OWN_HISTORY;
    flags |= ticket_size(&p->ticket) > 0 ? HAS_TICKET : 0;
    flags |= p->conn.input_size > 0 ? HAS_INPUT : 0;
    flags |= p->bad_count > 0 || p->near || p->forwards || p->client_sid_size > 0 || p->conn.history != NULL
                 ? HAS_RARE
                 : 0;
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
    out = put_varint(out, t->mailbox_id);
    out = put_varint(out, t->appends);
    out = put_near(out, t->expunges, t->appends);
    out = put_near(out, t->flag_changes, t->appends);
    put_u32(out, t->uidvalidity);
    out += 4;
    if ((flags & HAS_RECENT) != 0) {
        out = put_varint(out, t->recent_first);
        out = put_near(out, t->recent_last, t->recent_first);
    }
    out = put_varint(out, t->keyword_count);
    return put_varint(out, t->flags);
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

/* No bytes: the user's. */
static char *put_ticket(char *out, const struct ticket *ticket, const struct ticket *shared)
{
    bool same = shared != NULL && memcmp(ticket, shared, sizeof *ticket) == 0;

    return put_sized(out, ticket->bytes, same ? 0 : ticket_size(ticket));
}

static const char *get_ticket(const char *in, struct ticket *ticket, const struct ticket *shared)
{
    uint8_t size;

    in = get_sized(in, ticket->bytes, &size, TICKET_SIZE);
    if (size == 0)
        *ticket = *shared;
    return in;
}

static char *put_rare(char *out, const struct packed *p)
{
    out[0] = (char)p->bad_count;
    out[1] = (char)((p->near ? RARE_NEAR : 0) | (p->forwards ? RARE_FORWARDS : 0) |
                    (p->client_sid_size > 0 ? RARE_CLIENT_SID : 0) |
                    (p->conn.history != NULL ? RARE_COMPRESSED : 0));
    out += 2;
    if (p->client_sid_size > 0)
        out = put_sized(out, p->client_sid, p->client_sid_size);
    if (p->conn.history != NULL)
        out = put_bytes(out, &p->conn.history, sizeof p->conn.history);
    return out;
}

static const char *get_rare(const char *in, struct packed *out)
{
    unsigned flags = (uint8_t)in[1];

    out->bad_count = (uint8_t)in[0];
    out->near = (flags & RARE_NEAR) != 0;
    out->forwards = (flags & RARE_FORWARDS) != 0;
    in += 2;
    if ((flags & RARE_CLIENT_SID) != 0)
        in = get_sized(in, out->client_sid, &out->client_sid_size, sizeof out->client_sid);
    if ((flags & RARE_COMPRESSED) != 0)
        in = get_bytes(in, &out->conn.history, sizeof out->conn.history);
    return in;
}

/* ---- The whole ----------------------------------------------------------------------------------------- */

size_t packed_encode(const struct packed *p, struct packed_shared shared, char *out)
{
    unsigned flags = flags_of(p, shared.history);
    char *at = out;

    put_u16(at, (uint16_t)flags);
    at = put_varint(at + 2, p->conn.sock.ring);
    at = put_varint(at, p->conn.sock.slot);
    put_u16(at, p->conn.sock.generation);
    at = put_peer(at + 2, &p->conn.peer, flags);
    at = put_varint(at, p->conn.bytes_in);
    at = put_varint(at, p->conn.bytes_out);
    at = put_varint(at, p->commands);
    at = put_varint(at, p->operation);
    at = put_varint(at, p->partition);
    at = put_varint(at, p->id);
    at = put_bytes(at, &p->nonce, sizeof p->nonce);
    if ((flags & HAS_RARE) != 0)
        at = put_rare(at, p);
    if ((flags & HAS_TAG) != 0)
        at = put_sized(at, p->tag, p->tag_size);
    if ((flags & HAS_TOKEN) != 0)
        at = put_token(at, &p->token, flags);
    if ((flags & HAS_KNOWN) != 0)
        at = put_near(at, p->known, p->token.appends);
    if ((flags & HAS_TICKET) != 0)
        at = put_ticket(at, &p->ticket, shared.ticket);
    if ((flags & HAS_INPUT) != 0)
        at = put_sized(at, p->conn.input, p->conn.input_size);
    if ((flags & HAS_TLS) != 0)
        at = put_sized(at, p->conn.tls, p->conn.tls_size);
    ASSERT(at <= out + PACKED_SIZE_MAX);
    return (size_t)(at - out);
}

static const char *get_numbers(const char *in, struct packed *out)
{
    uint64_t v;

    in = get_varint(in, &out->conn.bytes_in);
    in = get_varint(in, &out->conn.bytes_out);
    in = get_varint(in, &out->commands);
    in = get_varint(in, &out->operation);
    in = get_varint(in, &v);
    out->partition = (uint16_t)v;
    in = get_varint(in, &out->id);
    return get_bytes(in, &out->nonce, sizeof out->nonce);
}

void packed_decode(const char *in, struct packed_shared shared, struct packed *out)
{
    unsigned flags = get_u16(in);
    uint64_t v;

    memset(out, 0, sizeof *out);
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
    in = get_numbers(in, out);
    if ((flags & HAS_RARE) != 0)
        in = get_rare(in, out);
    if ((flags & HAS_TAG) != 0)
        in = get_sized(in, out->tag, &out->tag_size, sizeof out->tag);
    if ((flags & HAS_TOKEN) != 0)
        in = get_token(in, &out->token, flags, shared.history);
    if ((flags & HAS_KNOWN) != 0)
        in = get_near(in, &out->known, out->token.appends);
    if ((flags & HAS_TICKET) != 0)
        in = get_ticket(in, &out->ticket, shared.ticket);
    if ((flags & HAS_INPUT) != 0)
        in = get_sized(in, out->conn.input, &out->conn.input_size, sizeof out->conn.input);
    if ((flags & HAS_TLS) != 0)
        in = get_sized(in, out->conn.tls, &out->conn.tls_size, sizeof out->conn.tls);
}

enum packed_state packed_state(const char *in)
{
    return get_u16(in) & STATE_MASK;
}

bool packed_watches(const char *in)
{
    return (get_u16(in) & WATCHES) != 0;
}
