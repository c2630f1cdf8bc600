/* roles/words/coder.h -- writing and reading the members of a word. Private to roles/words/. */
#pragma once
#include "core/base.h"

/* A slice is its size in two bytes, then its bytes. A decoder takes all of its input or says false. */
struct encoder {
    char *out;
    size_t at, size_max;
};

struct decoder {
    struct slice in; /* What is left. */
    bool bad;
};

static inline struct encoder encode_begin(char *out, size_t size_max, uint8_t version)
{
    out[0] = (char)version;
    return (struct encoder){out, 1, size_max};
}

static inline void encode_bytes(struct encoder *e, const void *data, size_t size)
{
    ASSERT(size <= e->size_max - e->at);
    if (size > 0)
        memcpy(e->out + e->at, data, size);
    e->at += size;
}

static inline void encode_u8(struct encoder *e, uint8_t v)
{
    encode_bytes(e, &v, sizeof v);
}

static inline void encode_u16(struct encoder *e, uint16_t v)
{
    char bytes[sizeof v];

    put_u16(bytes, v);
    encode_bytes(e, bytes, sizeof bytes);
}

static inline void encode_u32(struct encoder *e, uint32_t v)
{
    char bytes[sizeof v];

    put_u32(bytes, v);
    encode_bytes(e, bytes, sizeof bytes);
}

static inline void encode_u64(struct encoder *e, uint64_t v)
{
    char bytes[sizeof v];

    put_u64(bytes, v);
    encode_bytes(e, bytes, sizeof bytes);
}

static inline void encode_slice(struct encoder *e, struct slice s)
{
    ASSERT(s.size <= UINT16_MAX);
    encode_u16(e, (uint16_t)s.size);
    encode_bytes(e, s.data, s.size);
}

static inline struct slice decode_bytes(struct decoder *d, size_t size)
{
    struct slice bytes;

    if (d->bad || d->in.size < size) {
        d->bad = true;
        return (struct slice){0};
    }
    bytes = slice_first(d->in, size);
    d->in = slice_from(d->in, size);
    return bytes;
}

static inline uint8_t decode_u8(struct decoder *d)
{
    struct slice s = decode_bytes(d, 1);

    return s.size > 0 ? (uint8_t)s.data[0] : 0;
}

static inline uint16_t decode_u16(struct decoder *d)
{
    struct slice s = decode_bytes(d, sizeof(uint16_t));

    return s.size > 0 ? get_u16(s.data) : 0;
}

static inline uint32_t decode_u32(struct decoder *d)
{
    struct slice s = decode_bytes(d, sizeof(uint32_t));

    return s.size > 0 ? get_u32(s.data) : 0;
}

static inline uint64_t decode_u64(struct decoder *d)
{
    struct slice s = decode_bytes(d, sizeof(uint64_t));

    return s.size > 0 ? get_u64(s.data) : 0;
}

static inline struct slice decode_slice(struct decoder *d, size_t size_max)
{
    struct slice s = decode_bytes(d, decode_u16(d));

    if (s.size > size_max)
        d->bad = true;
    return s;
}

static inline bool decode_bool(struct decoder *d)
{
    uint8_t v = decode_u8(d);

    if (v > 1)
        d->bad = true;
    return v == 1;
}

static inline struct decoder decode_begin(struct slice in, uint8_t version)
{
    struct decoder d = {.in = in};

    if (decode_u8(&d) != version)
        d.bad = true;
    return d;
}

static inline bool decode_end(const struct decoder *d)
{
    return !d->bad && d->in.size == 0;
}
