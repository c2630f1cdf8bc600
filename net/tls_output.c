#include "core/shard.h"
#include "net/tls.h"

#define OUTPUT_SIZE_FIRST 512 /* Alerts and tickets; flights and records grow it once. */

char *tls_output_room(struct tls_output *o, size_t size)
{
    struct heap *heap = shard_self()->heap;
    size_t need = o->size + size;

    if (need > o->capacity) {
        uint32_t capacity = (uint32_t)MAX(MAX(need, o->capacity + o->capacity / 2), OUTPUT_SIZE_FIRST);
        char *data = heap_alloc(heap, capacity);

        if (o->size > 0)
            memcpy(data, o->data, o->size);
        if (o->data != NULL)
            heap_free(heap, o->data);
        o->data = data;
        o->capacity = capacity;
    }
    return o->data + o->size;
}

void tls_output_append(struct tls_output *o, struct slice bytes)
{
    if (bytes.size == 0)
        return;
    memcpy(tls_output_room(o, bytes.size), bytes.data, bytes.size);
    o->size += (uint32_t)bytes.size;
}

void tls_output_fini(struct tls_output *o)
{
    if (o->data != NULL)
        heap_free(shard_self()->heap, o->data);
    *o = (struct tls_output){0};
}
