#include "core/uring/uring.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

static size_t lent_size(uint32_t count)
{
    return count * sizeof(struct io_uring_buf);
}

int buffers_init(struct shard_private *p)
{
    size_t size = (size_t)RECV_BUFFER_COUNT * RECV_BUFFER_SIZE;

    p->buffers = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p->buffers == MAP_FAILED) {
        p->buffers = NULL;
        return -ENOMEM;
    }
    (void)madvise(p->buffers, size, MADV_DONTDUMP); /* What clients have just sent. */
    for (unsigned i = RECV_BUFFER_COUNT; i-- > 0;)
        p->free_buffers[p->free_buffer_count++] = (uint16_t)i;
    return 0;
}

void buffers_fini(struct shard_private *p)
{
    if (p->buffers != NULL)
        munmap(p->buffers, (size_t)RECV_BUFFER_COUNT * RECV_BUFFER_SIZE);
}

int buffers_attach(struct ring *r, uint32_t lent_max)
{
    struct io_uring_buf_reg reg = {.ring_entries = lent_max, .bgid = RECV_GROUP};
    void *memory = mmap(NULL, lent_size(lent_max), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    int rc;

    if (memory == MAP_FAILED)
        return -ENOMEM;
    reg.ring_addr = (uintptr_t)memory;
    rc = io_uring_register_buf_ring(&r->uring, &reg, 0);
    if (rc < 0) {
        munmap(memory, lent_size(lent_max));
        return rc;
    }
    r->lent = memory;
    r->lent_max = lent_max;
    io_uring_buf_ring_init(r->lent);
    return 0;
}

void buffers_detach(struct ring *r)
{
    if (r->lent != NULL)
        munmap(r->lent, lent_size(r->lent_max));
}

/* A stack on our side, a short queue on the kernel's: the same few buffers are used again and again, and stay
 * in the processor's cache. */
unsigned buffers_lend(struct shard_private *p, struct ring *r)
{
    int added = 0;

    while (r->lent_count < r->lent_max && p->free_buffer_count > 0) {
        uint16_t id = p->free_buffers[--p->free_buffer_count];

        io_uring_buf_ring_add(r->lent, buffer_at(p, id), RECV_BUFFER_SIZE, id,
                              io_uring_buf_ring_mask(r->lent_max), added++);
        r->lent_count++;
    }
    if (added > 0)
        io_uring_buf_ring_advance(r->lent, added);
    return r->lent_count;
}
