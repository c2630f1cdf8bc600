/* storage/pack.h -- bytes of records: a buffer that grows, and a cursor that cannot leave what it reads.
 * Errors: sticky. A pack that ran out of memory or over its limit, an unpack that met bad bytes, does nothing
 * more; ask once, at the end. */
#pragma once
#include "core/base.h"
#include "core/heap.h"

struct pack {
    struct heap *heap;
    char *data;
    uint32_t size, capacity, size_max;
    int error; /* 0, -ENOMEM, -E2BIG */
};

void pack_init(struct pack *p, struct heap *heap, uint32_t size_max);
void pack_fini(struct pack *p);
/* Room for `size` more bytes, which count as written; NULL on error. The pointer dies at the next call. */
char *pack_need(struct pack *p, uint32_t size);
void pack_put(struct pack *p, const void *data, size_t size);
void pack_u8(struct pack *p, uint8_t v);
void pack_u16(struct pack *p, uint16_t v);
void pack_u32(struct pack *p, uint32_t v);
void pack_u64(struct pack *p, uint64_t v);
void pack_varint(struct pack *p, uint64_t v);
void pack_zigzag(struct pack *p, int64_t v);
void pack_bytes(struct pack *p, struct slice s); /* A varint and the bytes. */
/* Forgets what was written after `size`, and the error. */
void pack_cut(struct pack *p, uint32_t size);

struct unpack {
    const char *at, *end;
    bool bad;
};

static inline void unpack_init(struct unpack *u, struct slice s)
{
    *u = (struct unpack){s.data, s.data + s.size, false};
}

static inline size_t unpack_left(const struct unpack *u)
{
    return (size_t)(u->end - u->at);
}

/* `size` bytes, or NULL. */
const char *unpack_need(struct unpack *u, size_t size);
void unpack_copy(struct unpack *u, void *out, size_t size); /* Zeros when bad. */
/* 0 when bad; a value above `max` is bad. */
uint64_t unpack_varint(struct unpack *u, uint64_t max);
int64_t unpack_zigzag(struct unpack *u);
uint8_t unpack_u8(struct unpack *u);
uint16_t unpack_u16(struct unpack *u);
uint32_t unpack_u32(struct unpack *u);
uint64_t unpack_u64(struct unpack *u);
struct slice unpack_bytes(struct unpack *u, size_t size_max); /* On loan. */
