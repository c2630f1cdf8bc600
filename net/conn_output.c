#include "net/conn_output.h"

#define BLOCK_SIZE_MIN 4000 /* Of written bytes; with its header it fits a size class of 4 KiB. */
#define BLOCK_SIZE_MAX 16000

struct conn_output *conn_output_new(struct heap *h)
{
    struct conn_output *out = heap_zalloc(h, sizeof *out);

    out->heap = h;
    return out;
}

static void piece_push(struct conn_output *out, struct conn_piece *p)
{
    if (out->last != NULL)
        out->last->next = p;
    else
        out->first = p;
    out->last = p;
}

static void piece_pop(struct conn_output *out)
{
    struct conn_piece *p = out->first;

    out->first = p->next;
    if (out->first == NULL)
        out->last = NULL;
    if (p->release != NULL)
        p->release(p->arg);
    else if (out->secret)
        bytes_wipe((void *)(uintptr_t)p->data, p->size);
    heap_free(out->heap, p);
}

void conn_output_free(struct conn_output *out)
{
    if (out == NULL)
        return;
    while (out->first != NULL)
        piece_pop(out);
    tls_output_fini(&out->cipher);
    heap_free(out->heap, out);
}

static struct conn_piece *block_new(struct conn_output *out, size_t size)
{
    uint32_t room = (uint32_t)MIN(MAX(size, BLOCK_SIZE_MIN), BLOCK_SIZE_MAX);
    struct conn_piece *p = heap_alloc(out->heap, sizeof *p + room);

    *p = (struct conn_piece){.data = p->bytes, .room = room};
    piece_push(out, p);
    return p;
}

void conn_output_write(struct conn_output *out, struct slice data)
{
    out->queued += (uint32_t)data.size;
    while (data.size > 0) {
        struct conn_piece *p = out->last;
        size_t size;

        if (p == NULL || p->release != NULL || p->room == 0)
            p = block_new(out, data.size);
        size = MIN(data.size, p->room);
        memcpy((char *)(uintptr_t)p->data + p->size, data.data, size);
        p->size += (uint32_t)size;
        p->room -= (uint32_t)size;
        data = slice_from(data, size);
    }
}

void conn_output_lend(struct conn_output *out, struct slice data, void (*release)(void *arg), void *arg)
{
    struct conn_piece *p = heap_alloc(out->heap, sizeof *p);

    ASSERT(release != NULL);
    *p = (struct conn_piece){.data = data.data, .size = (uint32_t)data.size, .release = release, .arg = arg};
    out->queued += (uint32_t)data.size;
    piece_push(out, p);
}

/* The last block is kept: the next answer fits it. */
void conn_output_consume(struct conn_output *out, size_t size)
{
    struct conn_piece *p = out->first;

    if (out->secret && p->release == NULL)
        bytes_wipe((void *)(uintptr_t)p->data, size);
    p->data += size;
    p->size -= (uint32_t)size;
    if (p->size > 0)
        return;
    if (p->next != NULL || p->release != NULL || p->data + p->room > p->bytes + BLOCK_SIZE_MIN) {
        piece_pop(out);
        return;
    }
    p->room += (uint32_t)(p->data - p->bytes);
    p->data = p->bytes;
}

void conn_output_trim(struct conn_output *out)
{
    while (out->first != NULL && out->first->size == 0 && out->first->release != NULL)
        piece_pop(out);
}
