#include "net/link/header.h"
#include "net/link/link_state.h"

enum { /* Offsets of the header. */
       AT_TYPE = 0,
       AT_KIND = 1,
       AT_FLAGS = 2,
       AT_ZERO = 3,
       AT_STREAM = 4,
       AT_VALUE = 8,
       AT_SIZE = 12,
       AT_TRAILER_SIZE = 14,
       AT_END = 16,
};
_Static_assert(AT_END == LINK_HEADER_SIZE, "the header's size is the sum of its members");

enum { /* Offsets of HELLO. */
       HELLO_AT_MAGIC = 0,
       HELLO_AT_VERSION = 4,
       HELLO_AT_OLDEST = 6,
       HELLO_AT_INSTANCE = 8,
       HELLO_AT_ROLES = 16,
       HELLO_AT_LANE = 17,
       HELLO_AT_NAME_SIZE = 18,
       HELLO_AT_NAME = 19,
};
#define HELLO_FEATURES_SIZE 2
_Static_assert(HELLO_AT_NAME + LINK_NODE_NAME_MAX + HELLO_FEATURES_SIZE <= LINK_HELLO_MAX, "a HELLO fits");

static const char magic[4] = {'T', 'R', 'L', 'K'};

void link_referral_encode(const struct link_referral *r, char out[LINK_REFERRAL_SIZE])
{
    put_u16(out, r->partition);
    put_u64(out + 2, r->epoch);
}

void link_referral_decode(const char in[LINK_REFERRAL_SIZE], struct link_referral *out)
{
    *out = (struct link_referral){.partition = get_u16(in), .epoch = get_u64(in + 2)};
}

void link_header_encode(const struct link_header *h, char out[LINK_HEADER_SIZE])
{
    out[AT_TYPE] = (char)h->type;
    out[AT_KIND] = (char)h->kind;
    out[AT_FLAGS] = (char)h->flags;
    out[AT_ZERO] = 0;
    put_u32(out + AT_STREAM, h->stream);
    put_u32(out + AT_VALUE, h->value);
    put_u16(out + AT_SIZE, h->size);
    put_u16(out + AT_TRAILER_SIZE, h->trailer_size);
}

/* What each type of frame may say. */
static bool header_good(const struct link_header *h)
{
    bool referral = h->value == LINK_LOST_ELSEWHERE && h->size == LINK_REFERRAL_SIZE && h->trailer_size == 0;
    bool opener = (h->flags & LINK_FROM_OPENER) != 0, empty = h->size == 0 && h->trailer_size == 0;

    if (h->size > LINK_PAYLOAD_MAX || h->trailer_size > h->size || h->stream >= LINK_STREAMS_MAX ||
        (h->flags & ~(LINK_FROM_OPENER | LINK_LAST | LINK_HOLD | LINK_RUNS)) != 0 ||
        (h->type != LINK_OPEN && h->kind != 0))
        return false;
    switch (h->type) {
    case LINK_OPEN:
        return opener && h->value <= UINT16_MAX && (h->flags & (LINK_HOLD | LINK_RUNS)) == 0;
    case LINK_DATA:
        return h->value == 0 && h->trailer_size == 0;
    case LINK_END:
        return h->value == 0 && !opener && (h->flags & LINK_LAST) != 0;
    case LINK_RESET:
        return (empty || (referral && !opener)) && (h->flags & ~LINK_FROM_OPENER) == 0 &&
               h->value < LINK_LOST_COUNT;
    case LINK_CREDIT:
        return empty && (h->flags & ~LINK_FROM_OPENER) == 0 && h->value > 0 && h->value <= LINK_WINDOW;
    case LINK_GRANT:
        return empty && (h->flags & ~LINK_FROM_OPENER) == 0 && h->value >= LINK_WINDOW_FIRST &&
               h->value <= LINK_WINDOW;
    case LINK_PING:
        return empty && h->flags == 0 && h->stream == 0 && h->value == 0;
    case LINK_HELLO:
        return h->size <= LINK_HELLO_MAX && h->trailer_size == 0 && h->flags == 0 && h->stream == 0 &&
               h->value == 0;
    default:
        return false;
    }
}

bool link_header_decode(const char in[LINK_HEADER_SIZE], struct link_header *out)
{
    const struct link_header h = {
        .type = (uint8_t)in[AT_TYPE],
        .kind = (uint8_t)in[AT_KIND],
        .flags = (uint8_t)in[AT_FLAGS],
        .stream = get_u32(in + AT_STREAM),
        .value = get_u32(in + AT_VALUE),
        .size = get_u16(in + AT_SIZE),
        .trailer_size = get_u16(in + AT_TRAILER_SIZE),
    };

    if (in[AT_ZERO] != 0 || !header_good(&h))
        return false;
    *out = h;
    return true;
}

size_t link_hello_encode(const struct link_hello *h, char out[LINK_HELLO_MAX])
{
    size_t size = strlen(h->node.name);

    ASSERT(size <= LINK_NODE_NAME_MAX);
    memcpy(out + HELLO_AT_MAGIC, magic, sizeof magic);
    put_u16(out + HELLO_AT_VERSION, h->version);
    put_u16(out + HELLO_AT_OLDEST, h->version_oldest);
    put_u64(out + HELLO_AT_INSTANCE, h->node.instance);
    out[HELLO_AT_ROLES] = (char)h->node.roles;
    out[HELLO_AT_LANE] = (char)h->lane;
    out[HELLO_AT_NAME_SIZE] = (char)size;
    memcpy(out + HELLO_AT_NAME, h->node.name, size);
    put_u16(out + HELLO_AT_NAME + size, h->node.features);
    return HELLO_AT_NAME + size + HELLO_FEATURES_SIZE;
}

/* Names are printed: visible ASCII. */
static bool name_good(const char *name, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (name[i] <= ' ' || name[i] > '~')
            return false;
    }
    return size > 0 && size <= LINK_NODE_NAME_MAX;
}

bool link_hello_decode(struct slice in, struct link_hello *out)
{
    struct link_hello h = {0};
    size_t size;

    if (in.size < HELLO_AT_NAME || in.size > LINK_HELLO_MAX || memcmp(in.data, magic, sizeof magic) != 0)
        return false;
    h.version = get_u16(in.data + HELLO_AT_VERSION);
    h.version_oldest = get_u16(in.data + HELLO_AT_OLDEST);
    h.node.instance = get_u64(in.data + HELLO_AT_INSTANCE);
    h.node.roles = (uint8_t)in.data[HELLO_AT_ROLES];
    h.lane = (uint8_t)in.data[HELLO_AT_LANE];
    size = (uint8_t)in.data[HELLO_AT_NAME_SIZE];
    if (size > in.size - HELLO_AT_NAME || !name_good(in.data + HELLO_AT_NAME, size) ||
        h.version_oldest > h.version || h.lane >= LINK_LANE_COUNT || (h.node.roles & ~LINK_ROLE_ALL) != 0 ||
        h.node.roles == 0)
        return false;
    h.node.features = LINK_FEATURES_UNSAID;
    if (in.size >= HELLO_AT_NAME + size + HELLO_FEATURES_SIZE)
        h.node.features = get_u16(in.data + HELLO_AT_NAME + size);
    memcpy(h.node.name, in.data + HELLO_AT_NAME, size);
    *out = h;
    return true;
}
