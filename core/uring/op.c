#include "core/uring/uring.h"
#include <stdlib.h>

struct op *op_at(struct op_table *t, uint32_t index)
{
    ASSERT(index < t->count);
    return &t->chunks[index / OP_CHUNK_COUNT][index % OP_CHUNK_COUNT];
}

static void op_grow(struct op_table *t)
{
    struct op *chunk = calloc(OP_CHUNK_COUNT, sizeof *chunk);
    uint32_t first = t->count;

    /* Every socket has at most a few operations, and sockets are bounded: the table cannot be full. */
    ASSERT(chunk != NULL && t->count / OP_CHUNK_COUNT < OP_CHUNKS_MAX);
    t->chunks[t->count / OP_CHUNK_COUNT] = chunk;
    t->count += OP_CHUNK_COUNT;
    for (uint32_t i = t->count; i-- > first;) {
        op_at(t, i)->slot = t->free_head;
        t->free_head = i;
    }
}

uint32_t op_new(struct op_table *t, void *owner, enum op_kind kind, uint16_t ring, uint32_t slot)
{
    uint32_t index;
    struct op *o;

    if (t->free_head == UINT32_MAX)
        op_grow(t);
    index = t->free_head;
    o = op_at(t, index);
    ASSERT(o->kind == OP_FREE && kind != OP_FREE);
    t->free_head = o->slot;
    t->used_count++;
    *o = (struct op){.owner = owner,
                     .generation = (o->generation + 1) & OP_GENERATION_MAX,
                     .slot = slot,
                     .ring = ring,
                     .kind = kind};
    if (o->generation == 0) /* 0 marks what is no operation. */
        o->generation = 1;
    return index;
}

void op_free(struct op_table *t, uint32_t index)
{
    struct op *o = op_at(t, index);

    ASSERT(o->kind != OP_FREE);
    o->kind = OP_FREE;
    o->slot = t->free_head;
    t->free_head = index;
    t->used_count--;
}
