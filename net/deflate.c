#include "net/deflate.h"
#include "core/shard.h"
#include <errno.h>
#include <zlib.h>

#define WINDOW_BITS  13 /* 8 KiB: most of an answer's repetition is nearer, and a reset stays cheap. */
#define MEMORY_LEVEL 6
#define LEVEL        4
#define OUT_ROOM     16384
#define AT_BLOCK_END                                                                                         \
    128 /* In z_stream.data_type after inflate(): between two blocks; below it, bits of the last byte unused. */
#define UNUSED_BITS 63

struct shard_deflate { /* In SLOT_DEFLATE, from the first use until deflate_stop(). */
    z_stream out;
    uint64_t memory;               /* Of inflaters and histories. */
    char plain[DEFLATE_PLAIN_MAX]; /* What inflater_next() gives. */
};

struct inflater {
    struct heap *heap;
    z_stream in;
    char *pending;
    uint32_t pending_at, pending_size, pending_capacity;
    bool flushed; /* What was inflated ends at a byte, between two blocks. */
    bool full;    /* The last call filled all that it may give: more may be inside. */
};

static struct shard_deflate *shard_deflate(void)
{
    struct shard *s = shard_self();
    struct shard_deflate *d = s->slot[SLOT_DEFLATE];

    if (d == NULL)
        s->slot[SLOT_DEFLATE] = d = heap_zalloc(s->heap, sizeof *d);
    return d;
}

static void *zlib_alloc(void *heap, unsigned count, unsigned size)
{
    uint64_t before = heap_used(heap);
    void *p = heap_try_alloc(heap, (size_t)count * size);

    shard_deflate()->memory += heap_used(heap) - before;
    return p;
}

static void zlib_free(void *heap, void *p)
{
    uint64_t before = heap_used(heap);

    heap_free(heap, p);
    shard_deflate()->memory -= before - heap_used(heap);
}

/* ---- Out ----------------------------------------------------------------------------------------------- */

void deflate_stop(void)
{
    struct shard *s = shard_self();
    struct shard_deflate *d = s->slot[SLOT_DEFLATE];

    if (d != NULL && d->out.state != NULL)
        (void)deflateEnd(&d->out);
    s->slot[SLOT_DEFLATE] = NULL;
    heap_free(s->heap, d);
}

/* Without memory for a compressor: stored blocks (RFC 1951, 3.2.4) are DEFLATE too. */
static void append_stored(struct slice plain, struct tls_output *out)
{
    while (plain.size > 0) {
        uint16_t size = (uint16_t)MIN(plain.size, UINT16_MAX);
        char *header = tls_output_room(out, 5);

        header[0] = 0;
        put_u16(header + 1, size);
        put_u16(header + 3, (uint16_t)~size);
        out->size += 5;
        tls_output_append(out, slice_first(plain, size));
        plain = slice_from(plain, size);
    }
}

static bool compressor_ready(struct shard_deflate *d)
{
    if (d->out.state != NULL)
        return true;
    d->out = (z_stream){.zalloc = zlib_alloc, .zfree = zlib_free, .opaque = shard_self()->heap};
    return deflateInit2(&d->out, LEVEL, Z_DEFLATED, -WINDOW_BITS, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK;
}

void deflate_append(struct slice plain, bool last, struct tls_output *out)
{
    struct shard_deflate *d = shard_deflate();

    if (!compressor_ready(d)) {
        d->out.state = NULL;
        append_stored(plain, out);
        return;
    }
    d->out.next_in = (Bytef *)(uintptr_t)plain.data;
    d->out.avail_in = (unsigned)plain.size;
    do {
        d->out.next_out = (Bytef *)tls_output_room(out, OUT_ROOM);
        d->out.avail_out = OUT_ROOM;
        ASSERT(deflate(&d->out, last ? Z_SYNC_FLUSH : Z_NO_FLUSH) != Z_STREAM_ERROR);
        out->size += OUT_ROOM - d->out.avail_out;
    } while (d->out.avail_out == 0);
    if (last)
        ASSERT(deflateReset(&d->out) == Z_OK);
}

/* ---- In ------------------------------------------------------------------------------------------------ */

struct inflater *inflater_new(struct heap *h)
{
    struct inflater *i = heap_try_alloc(h, sizeof *i);

    if (i == NULL)
        return NULL;
    *i = (struct inflater){
        .heap = h, .in = {.zalloc = zlib_alloc, .zfree = zlib_free, .opaque = h}, .flushed = true};
    if (inflateInit2(&i->in, -MAX_WBITS) == Z_OK)
        return i;
    heap_free(h, i);
    return NULL;
}

static void pending_drop(struct inflater *i)
{
    if (i->pending != NULL) {
        bytes_wipe(i->pending, i->pending_capacity);
        heap_free(i->heap, i->pending);
    }
    i->pending = NULL;
    i->pending_at = i->pending_size = i->pending_capacity = 0;
}

void inflater_free(struct inflater *i)
{
    if (i == NULL)
        return;
    (void)inflateEnd(&i->in);
    pending_drop(i);
    heap_free(i->heap, i);
}

void inflater_add(struct inflater *i, struct slice bytes)
{
    size_t left = inflater_pending(i);

    if (bytes.size == 0)
        return;
    if (i->pending_size + bytes.size > i->pending_capacity) {
        char *bigger = heap_alloc(i->heap, left + bytes.size);

        if (left > 0)
            memcpy(bigger, i->pending + i->pending_at, left);
        pending_drop(i);
        i->pending = bigger;
        i->pending_size = (uint32_t)left;
        i->pending_capacity = (uint32_t)(left + bytes.size);
    }
    memcpy(i->pending + i->pending_size, bytes.data, bytes.size);
    i->pending_size += (uint32_t)bytes.size;
}

size_t inflater_pending(const struct inflater *i)
{
    return i->pending_size - i->pending_at;
}

int inflater_next(struct inflater *i, struct slice *plain_out)
{
    struct shard_deflate *d = shard_deflate();
    size_t size = 0;
    int rc = Z_OK;

    *plain_out = slice_of(NULL, 0);
    while (size == 0 && (inflater_pending(i) > 0 || i->full)) {
        i->in.next_in = (Bytef *)i->pending + i->pending_at;
        i->in.avail_in = (unsigned)inflater_pending(i);
        i->in.next_out = (Bytef *)d->plain;
        i->in.avail_out = sizeof d->plain;
        rc = inflate(&i->in, Z_SYNC_FLUSH);
        i->pending_at = i->pending_size - i->in.avail_in;
        size = sizeof d->plain - i->in.avail_out;
        i->full = i->in.avail_out == 0;
        if (rc != Z_OK && rc != Z_BUF_ERROR)
            return rc == Z_MEM_ERROR ? -ENOMEM : -EBADMSG;
        if (rc == Z_BUF_ERROR)
            break; /* It had been full, and there is nothing more: all is as it was. */
        i->flushed = (i->in.data_type & AT_BLOCK_END) != 0 && (i->in.data_type & UNUSED_BITS) == 0;
    }
    if (inflater_pending(i) == 0)
        pending_drop(i);
    *plain_out = slice_of(d->plain, size);
    return 0;
}

bool inflater_rests(const struct inflater *i)
{
    return inflater_pending(i) == 0 && !i->full && i->flushed;
}

struct deflate_history *inflater_pack(struct inflater *i)
{
    struct heap *heap = i->heap;
    struct deflate_history *h;
    unsigned size = 0;

    ASSERT(inflater_rests(i));
    ASSERT(inflateGetDictionary(&i->in, NULL, &size) == Z_OK && size <= DEFLATE_HISTORY_MAX);
    h = heap_alloc(heap, sizeof *h + size);
    h->size = size;
    ASSERT(inflateGetDictionary(&i->in, (Bytef *)h->bytes, &size) == Z_OK && size == h->size);
    inflater_free(i);
    shard_deflate()->memory += sizeof *h + size;
    return h;
}

struct deflate_history *deflate_history_new(struct heap *heap, struct slice bytes)
{
    struct deflate_history *h = heap_alloc(heap, sizeof *h + bytes.size);

    ASSERT(bytes.size <= DEFLATE_HISTORY_MAX);
    h->size = (uint32_t)bytes.size;
    memcpy(h->bytes, bytes.data, bytes.size);
    shard_deflate()->memory += sizeof *h + bytes.size;
    return h;
}

void deflate_history_free(struct heap *heap, struct deflate_history *h)
{
    shard_deflate()->memory -= sizeof *h + h->size;
    bytes_wipe(h->bytes, h->size);
    heap_free(heap, h);
}

struct inflater *inflater_unpack(struct heap *heap, struct deflate_history *h)
{
    struct inflater *i = inflater_new(heap);

    if (i != NULL && h->size > 0 && inflateSetDictionary(&i->in, (const Bytef *)h->bytes, h->size) != Z_OK) {
        inflater_free(i); /* No memory for its window. */
        i = NULL;
    }
    shard_deflate()->memory -= sizeof *h + h->size;
    bytes_wipe(h->bytes, h->size);
    heap_free(heap, h);
    return i;
}

uint64_t deflate_memory(void)
{
    const struct shard_deflate *d = shard_self()->slot[SLOT_DEFLATE];

    return d != NULL ? d->memory : 0;
}
