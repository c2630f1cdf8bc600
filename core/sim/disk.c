/* core/sim/disk.c -- the bytes of files: pages with a dirty mask of sectors. */
#include "core/sim/disk_private.h"
#include <errno.h>
#include <malloc.h>

static struct page *page_at(const struct sim_inode *i, uint64_t index)
{
    return index < i->page_count ? i->pages[index] : NULL;
}

static struct page *page_make(struct sim_inode *i, uint64_t index)
{
    if (index >= i->page_count) {
        size_t count = MAX(index + 1, i->page_count * 2);

        i->pages = must(realloc(i->pages, count * sizeof(struct page *)));
        memset(i->pages + i->page_count, 0, (count - i->page_count) * sizeof(struct page *));
        i->page_count = count;
    }
    if (i->pages[index] == NULL) {
        i->pages[index] = must(calloc(1, sizeof(struct page)));
        i->pages[index]->data = must(calloc(1, SIM_PAGE_SIZE));
    }
    return i->pages[index];
}

void sim_page_part(struct page *p)
{
    if (p->durable == NULL)
        p->durable = memcpy(must(malloc(SIM_PAGE_SIZE)), p->data, SIM_PAGE_SIZE);
}

void sim_page_join(struct page *p)
{
    if (p->durable == NULL || p->dirty != 0 || p->stale != 0 ||
        memcmp(p->data, p->durable, SIM_PAGE_SIZE) != 0)
        return;
    free(p->durable);
    p->durable = NULL;
}

int sim_inode_grow(struct sim_disk *d, struct sim_inode *i, uint64_t end)
{
    uint64_t allocated = (end + SIM_PAGE_SIZE - 1) / SIM_PAGE_SIZE * SIM_PAGE_SIZE;

    if (end > SIM_FILE_MAX)
        return -EFBIG;
    if (allocated <= i->allocated)
        return 0;
    if (d->used + (allocated - i->allocated) > d->capacity)
        return -ENOSPC;
    d->used += allocated - i->allocated;
    i->allocated = allocated;
    return 0;
}

size_t sim_disk_read(const struct sim_inode *i, void *data, size_t size, uint64_t offset)
{
    uint8_t *to = data;

    if (offset >= i->size)
        return 0;
    size = MIN(size, i->size - offset);
    for (size_t done = 0; done < size;) {
        uint64_t at = (offset + done) % SIM_PAGE_SIZE;
        size_t n = MIN(size - done, SIM_PAGE_SIZE - at);
        const struct page *p = page_at(i, (offset + done) / SIM_PAGE_SIZE);

        if (p != NULL)
            memcpy(to + done, p->data + at, n);
        else
            memset(to + done, 0, n);
        done += n;
    }
    return size;
}

static void page_write(struct page *p, uint64_t at, const uint8_t *data, size_t size, uint64_t stamp)
{
    sim_page_part(p);
    if (data != NULL)
        memcpy(p->data + at, data, size);
    else
        memset(p->data + at, 0, size);
    for (size_t s = at / SIM_SECTOR_SIZE; s <= (at + size - 1) / SIM_SECTOR_SIZE; s++) {
        p->dirty |= 1u << s;
        p->stale &= ~(1u << s);
        p->stamp[s] = stamp;
    }
}

int sim_disk_write(struct sim_disk *d, struct sim_inode *i, const void *data, size_t size, uint64_t offset)
{
    uint64_t stamp = d->next_stamp++;
    int rc;

    if (i->is_dir)
        return -EISDIR;
    if (size > SIM_FILE_MAX || offset > SIM_FILE_MAX)
        return -EFBIG;
    rc = sim_inode_grow(d, i, offset + size);
    if (rc < 0)
        return rc;
    for (size_t done = 0; done < size;) {
        uint64_t at = (offset + done) % SIM_PAGE_SIZE;
        size_t n = MIN(size - done, SIM_PAGE_SIZE - at);

        page_write(page_make(i, (offset + done) / SIM_PAGE_SIZE), at, (const uint8_t *)data + done, n, stamp);
        done += n;
    }
    i->size = MAX(i->size, offset + size);
    return 0;
}

/* What lies beyond the end reads as zeros if the file grows again: the cut is a write of zeros. */
int sim_disk_truncate(struct sim_disk *d, struct sim_inode *i, uint64_t size)
{
    uint64_t stamp = d->next_stamp++;

    if (i->is_dir)
        return -EISDIR;
    if (size > SIM_FILE_MAX)
        return -EFBIG;
    for (uint64_t k = size / SIM_PAGE_SIZE; size < i->size && k < i->page_count; k++) {
        struct page *p = i->pages[k];
        uint64_t at = k == size / SIM_PAGE_SIZE ? size % SIM_PAGE_SIZE : 0;

        if (p != NULL)
            page_write(p, at, NULL, SIM_PAGE_SIZE - at, stamp);
    }
    if (size < i->size) {
        uint64_t allocated = (size + SIM_PAGE_SIZE - 1) / SIM_PAGE_SIZE * SIM_PAGE_SIZE;

        d->used -= i->allocated - MIN(i->allocated, allocated);
        i->allocated = MIN(i->allocated, allocated);
    }
    i->size = size;
    return 0;
}

int sim_disk_allocate(struct sim_disk *d, struct sim_inode *i, uint64_t offset, uint64_t size)
{
    int rc;

    if (i->is_dir)
        return -EISDIR;
    if (size > SIM_FILE_MAX || offset > SIM_FILE_MAX)
        return -EFBIG;
    rc = sim_inode_grow(d, i, offset + size);
    if (rc == 0)
        i->size = MAX(i->size, offset + size);
    return rc;
}

/* ---- The whole ----------------------------------------------------------------------------------------- */

uint64_t sim_disk_memory(const struct sim_disk *d)
{
    uint64_t bytes = 0;

    list_each(l, &d->inodes)
    {
        const struct sim_inode *i = CONTAINER_OF(l, struct sim_inode, link);

        bytes += malloc_usable_size(i->pages);
        for (size_t k = 0; k < i->page_count; k++)
            if (i->pages[k] != NULL)
                bytes += malloc_usable_size(i->pages[k]) + malloc_usable_size(i->pages[k]->data) +
                         malloc_usable_size(i->pages[k]->durable);
    }
    return bytes;
}

void sim_disk_init(struct sim_disk *d, struct sim_random *random, const uint64_t *now_ns)
{
    *d = (struct sim_disk){.random = random, .now_ns = now_ns, .next_stamp = 1, .capacity = UINT64_MAX};
    list_init(&d->inodes);
    list_init(&d->renames);
    d->root = sim_inode_new(d, true);
    sim_inode_ref(d->root);
}

void sim_disk_fini(struct sim_disk *d)
{
    list_each_safe(l, &d->renames) sim_change_free(d, CONTAINER_OF(l, struct change, link));
    sim_inode_unref(d, d->root);
    ASSERT(list_empty(&d->inodes));
}
