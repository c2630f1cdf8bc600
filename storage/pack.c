/* storage/pack.c -- bytes of records. */
#include "storage/pack.h"

#include <errno.h>

void pack_init(struct pack *p, struct heap *heap, uint32_t size_max)
{
    *p = (struct pack){.heap = heap, .size_max = size_max};
}

void pack_fini(struct pack *p)
{
    heap_free(p->heap, p->data);
    p->data = NULL;
    p->size = p->capacity = 0;
}

char *pack_need(struct pack *p, uint32_t size)
{
    uint64_t wanted = (uint64_t)p->size + size, capacity = MAX(p->capacity, 128u);
    char *data;

    if (p->error != 0)
        return NULL;
    if (wanted > p->size_max) {
        p->error = -E2BIG;
        return NULL;
    }
    if (wanted > p->capacity) {
        while (capacity < wanted)
            capacity *= 2;
        capacity = MIN(capacity, p->size_max);
        data = heap_try_realloc(p->heap, p->data, capacity);
        if (data == NULL) {
            p->error = -ENOMEM;
            return NULL;
        }
        p->data = data;
        p->capacity = (uint32_t)capacity;
    }
    data = p->data + p->size;
    p->size = (uint32_t)wanted;
    return data;
}

void pack_put(struct pack *p, const void *data, size_t size)
{
    char *out;

    if (size > UINT32_MAX) {
        p->error = -E2BIG;
        return;
    }
    out = pack_need(p, (uint32_t)size);
    if (out != NULL && size > 0)
        memcpy(out, data, size);
}

void pack_u8(struct pack *p, uint8_t v)
{
    pack_put(p, &v, 1);
}

void pack_u16(struct pack *p, uint16_t v)
{
    pack_put(p, &v, sizeof v);
}

void pack_u32(struct pack *p, uint32_t v)
{
    pack_put(p, &v, sizeof v);
}

void pack_u64(struct pack *p, uint64_t v)
{
    pack_put(p, &v, sizeof v);
}

void pack_varint(struct pack *p, uint64_t v)
{
    uint8_t bytes[10];
    size_t size = 0;

    for (; v >= 0x80; v >>= 7)
        bytes[size++] = (uint8_t)(v | 0x80);
    bytes[size++] = (uint8_t)v;
    pack_put(p, bytes, size);
}

void pack_zigzag(struct pack *p, int64_t v)
{
    pack_varint(p, ((uint64_t)v << 1) ^ (v < 0 ? UINT64_MAX : 0));
}

void pack_bytes(struct pack *p, struct slice s)
{
    pack_varint(p, s.size);
    pack_put(p, s.data, s.size);
}

void pack_cut(struct pack *p, uint32_t size)
{
    ASSERT(size <= p->size);
    p->size = size;
    p->error = 0;
}

const char *unpack_need(struct unpack *u, size_t size)
{
    const char *at = u->at;

    if (u->bad || unpack_left(u) < size) {
        u->bad = true;
        return NULL;
    }
    u->at += size;
    return at;
}

void unpack_copy(struct unpack *u, void *out, size_t size)
{
    const char *at = unpack_need(u, size);

    if (at != NULL)
        memcpy(out, at, size);
    else
        memset(out, 0, size);
}

uint64_t unpack_varint(struct unpack *u, uint64_t max)
{
    uint64_t v = 0;
    unsigned shift = 0;
    const char *at;

    do {
        at = unpack_need(u, 1);
        if (at == NULL)
            return 0;
        if (shift == 63 && (uint8_t)*at > 1) {
            u->bad = true;
            return 0;
        }
        v |= (uint64_t)(*at & 0x7f) << shift;
        shift += 7;
    } while ((*at & 0x80) != 0);
    if (v > max) {
        u->bad = true;
        return 0;
    }
    return v;
}

int64_t unpack_zigzag(struct unpack *u)
{
    uint64_t v = unpack_varint(u, UINT64_MAX);

    return (int64_t)((v >> 1) ^ ((v & 1) != 0 ? UINT64_MAX : 0));
}

uint8_t unpack_u8(struct unpack *u)
{
    uint8_t v;

    unpack_copy(u, &v, sizeof v);
    return v;
}

uint16_t unpack_u16(struct unpack *u)
{
    uint16_t v;

    unpack_copy(u, &v, sizeof v);
    return v;
}

uint32_t unpack_u32(struct unpack *u)
{
    uint32_t v;

    unpack_copy(u, &v, sizeof v);
    return v;
}

uint64_t unpack_u64(struct unpack *u)
{
    uint64_t v;

    unpack_copy(u, &v, sizeof v);
    return v;
}

struct slice unpack_bytes(struct unpack *u, size_t size_max)
{
    size_t size = unpack_varint(u, size_max);
    const char *at = unpack_need(u, size);

    return at != NULL ? slice_of(at, size) : slice_of(NULL, 0);
}
