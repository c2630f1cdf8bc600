#include "core/heap.h"
#include "core/list.h"
#include "core/sanitizer.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct heap {
    const char *name;
    uint64_t used, budget;
    struct list secrets; /* struct secret_map */
#ifdef TRIREME_JEMALLOC
    unsigned arena, tcache;
    int flags;
#else
    struct list blocks;
#endif
};

/* ---- The allocator below ----------------------------------------------------------------------------------
 * raw_alloc() and raw_free() return what the allocation takes from the budget, size classes' slack included. */

#ifdef TRIREME_JEMALLOC
#include <jemalloc/jemalloc.h>

/* An arena, and a cache of its own in front of it: a thread's automatic cache would mix the shards' memory. */
static int raw_create(struct heap *h)
{
    size_t size = sizeof h->arena;
    int rc = mallctl("arenas.create", &h->arena, &size, NULL, 0);

    if (rc != 0)
        return -rc;
    size = sizeof h->tcache;
    rc = mallctl("tcache.create", &h->tcache, &size, NULL, 0);
    if (rc != 0)
        return -rc;
    h->flags = (int)(MALLOCX_ARENA(h->arena) | MALLOCX_TCACHE(h->tcache));
    return 0;
}

static void raw_destroy(struct heap *h)
{
    char name[48];

    mallctl("tcache.destroy", NULL, NULL, &h->tcache, sizeof h->tcache);
    snprintf(name, sizeof name, "arena.%u.destroy", h->arena);
    mallctl(name, NULL, NULL, NULL, 0);
}

/* Gives free pages back to the system. */
static void raw_trim(const struct heap *h)
{
    char name[48];

    mallctl("tcache.flush", NULL, NULL, (void *)(uintptr_t)&h->tcache, sizeof h->tcache);
    snprintf(name, sizeof name, "arena.%u.purge", h->arena);
    mallctl(name, NULL, NULL, NULL, 0);
}

static uint64_t raw_resident(const struct heap *h)
{
    uint64_t epoch = 1;
    size_t resident = 0, size = sizeof epoch;
    char name[64];

    raw_trim(h);
    mallctl("epoch", &epoch, &size, &epoch, sizeof epoch);
    snprintf(name, sizeof name, "stats.arenas.%u.resident", h->arena);
    size = sizeof resident;
    mallctl(name, &resident, &size, NULL, 0);
    return resident;
}

static size_t raw_size(const struct heap *h, size_t size)
{
    return nallocx(size, h->flags);
}

static size_t raw_used(const struct heap *h, void *p)
{
    return sallocx(p, h->flags);
}

static void *raw_alloc(struct heap *h, size_t size)
{
    return mallocx(size, h->flags);
}

static void *raw_realloc(struct heap *h, void *p, size_t size)
{
    return rallocx(p, size, h->flags);
}

static void raw_free(struct heap *h, void *p)
{
    dallocx(p, h->flags);
}
#else
/* Sanitizers bring their own malloc: blocks on a list, so that the heap can still be destroyed whole. */
struct heap_block {
    struct list link;
    size_t size;
    _Alignas(16) char data[];
};

static struct heap_block *block_of(void *p)
{
    return CONTAINER_OF(p, struct heap_block, data);
}

static int raw_create(struct heap *h)
{
    list_init(&h->blocks);
    return 0;
}

static void raw_destroy(struct heap *h)
{
    struct list *node;

    while ((node = list_pop_front(&h->blocks)) != NULL)
        free(CONTAINER_OF(node, struct heap_block, link));
}

static void raw_trim(const struct heap *h)
{
}

static uint64_t raw_resident(const struct heap *h)
{
    return 0;
}

static size_t raw_size(const struct heap *h, size_t size)
{
    return size <= SIZE_MAX - sizeof(struct heap_block) ? size + sizeof(struct heap_block) : 0;
}

static size_t raw_used(const struct heap *h, void *p)
{
    return raw_size(h, block_of(p)->size);
}

static void *raw_alloc(struct heap *h, size_t size)
{
    struct heap_block *b = malloc(raw_size(h, size));

    if (b == NULL)
        return NULL;
    b->size = size;
    list_push_back(&h->blocks, &b->link);
    return b->data;
}

static void *raw_realloc(struct heap *h, void *p, size_t size)
{
    struct heap_block *b = block_of(p), *moved;

    list_remove(&b->link);
    moved = realloc(b, raw_size(h, size));
    if (moved != NULL)
        moved->size = size;
    else
        moved = b;
    list_push_back(&h->blocks, &moved->link);
    return moved->size == size ? moved->data : NULL;
}

static void raw_free(struct heap *h, void *p)
{
    list_remove(&block_of(p)->link);
    free(block_of(p));
}
#endif

/* ---- Secret pages -------------------------------------------------------------------------------------- */

#define STEP_SIZE_MIN 64
#define SECRET_LOOK   256 /* Pages looked at in one go. */

struct secret_map { /* At the beginning of the pages; one more on each side is out of bounds. */
    struct list link;
    size_t size; /* Of the pages. */
    _Alignas(64) char data[];
};

static void secret_unmap(struct secret_map *m)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = m->size;

    asan_unpoison(m, size);
    munmap((char *)m - page, size + 2 * page);
}

static uint64_t secret_resident(struct secret_map *m)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char there[SECRET_LOOK];
    uint64_t sum = 0;

    for (size_t at = 0; at < m->size; at += sizeof there * page) {
        size_t size = MIN(m->size - at, sizeof there * page);

        if (mincore((char *)m + at, size, there) < 0)
            return m->size;
        for (size_t i = 0; i < size / page; i++)
            sum += (there[i] & 1) * page;
    }
    return sum;
}

static struct secret_map *secret_map(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *base = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct secret_map *m;

    if (base == MAP_FAILED)
        return NULL;
    m = (struct secret_map *)(void *)(base + page);
    if (mprotect(m, size, PROT_READ | PROT_WRITE) < 0 || madvise(m, size, MADV_DONTDUMP) < 0 ||
        madvise(m, size, MADV_WIPEONFORK) < 0) {
        munmap(base, size + 2 * page);
        return NULL;
    }
    m->size = size;
    return m;
}

/* ---- Heaps --------------------------------------------------------------------------------------------- */

struct heap *heap_create(const char *name, uint64_t budget)
{
    struct heap *h = calloc(1, sizeof *h);

    if (h == NULL)
        return NULL;
    h->name = name;
    h->budget = budget;
    list_init(&h->secrets);
    if (raw_create(h) < 0) {
        free(h);
        return NULL;
    }
    return h;
}

void heap_destroy(struct heap *h)
{
    struct list *node;

    if (h == NULL)
        return;
    while ((node = list_pop_front(&h->secrets)) != NULL)
        secret_unmap(CONTAINER_OF(node, struct secret_map, link));
    raw_destroy(h);
    free(h);
}

uint64_t heap_used(const struct heap *h)
{
    return h->used;
}

uint64_t heap_budget(const struct heap *h)
{
    return h->budget;
}

uint64_t heap_streaming(const struct heap *h)
{
    return h->budget > 0 ? h->budget / 4 : (uint64_t)64 << 20;
}

uint64_t heap_share(uint64_t part, uint64_t used, uint64_t least, uint64_t most)
{
    return MIN(MAX((part - MIN(used, part)) / 16, least), most);
}

size_t heap_step(size_t size)
{
    size_t step;

    size = MAX(size, (size_t)STEP_SIZE_MIN);
    step = ((size_t)1 << (63 - __builtin_clzll(size))) / 4;
    return (size / step + 1) * step;
}

void heap_trim(struct heap *h)
{
    raw_trim(h);
}

void heap_memory(struct heap *h, struct heap_memory *out)
{
    *out = (struct heap_memory){.used = h->used, .resident = raw_resident(h)};
    list_each(l, &h->secrets)
    {
        struct secret_map *m = CONTAINER_OF(l, struct secret_map, link);

        out->secrets += m->size;
        out->secrets_resident += secret_resident(m);
    }
}

bool heap_admits(const struct heap *h)
{
    return h->budget == 0 || h->used < h->budget - h->budget / 8;
}

NORETURN static void out_of_memory(const struct heap *h, size_t size)
{
    fprintf(stderr, "trireme: the machine has no memory left: %s asked for %zu bytes, %llu in use\n", h->name,
            size, (unsigned long long)h->used);
    abort();
}

/* Would `more` bytes still be inside the budget? 0: larger than any allocation can be. */
static bool fits(const struct heap *h, size_t more)
{
    return more != 0 && (h->budget == 0 || (h->used <= h->budget && more <= h->budget - h->used));
}

void *heap_try_alloc(struct heap *h, size_t size)
{
    void *p;

    ASSERT(size > 0);
    if (!fits(h, raw_size(h, size)))
        return NULL;
    p = raw_alloc(h, size);
    if (p != NULL)
        h->used += raw_size(h, size);
    return p;
}

void *heap_alloc(struct heap *h, size_t size)
{
    void *p;

    ASSERT(size > 0);
    p = raw_alloc(h, size);
    if (p == NULL)
        out_of_memory(h, size);
    h->used += raw_size(h, size);
    return p;
}

void *heap_zalloc(struct heap *h, size_t size)
{
    return memset(heap_alloc(h, size), 0, size);
}

void *heap_try_realloc(struct heap *h, void *p, size_t size)
{
    size_t before, after;
    void *moved;

    if (p == NULL)
        return heap_try_alloc(h, size);
    ASSERT(size > 0);
    before = raw_used(h, p);
    after = raw_size(h, size);
    if (after == 0 || (after > before && !fits(h, after - before)))
        return NULL;
    moved = raw_realloc(h, p, size);
    if (moved == NULL)
        return NULL;
    h->used = h->used - before + after;
    return moved;
}

void heap_free(struct heap *h, void *p)
{
    if (p == NULL)
        return;
    h->used -= raw_used(h, p);
    raw_free(h, p);
}

void *heap_try_map_secret(struct heap *h, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct secret_map *m;

    ASSERT(size > 0 && size < SIZE_MAX / 2);
    size = (sizeof *m + size + page - 1) / page * page;
    m = fits(h, size) ? secret_map(size) : NULL;
    if (m == NULL)
        return NULL;
    h->used += size;
    list_push_back(&h->secrets, &m->link);
    return m->data;
}

void heap_unmap_secret(struct heap *h, void *p)
{
    struct secret_map *m;

    if (p == NULL)
        return;
    m = CONTAINER_OF(p, struct secret_map, data);
    h->used -= m->size;
    list_remove(&m->link);
    secret_unmap(m);
}

/* ---- Arenas -------------------------------------------------------------------------------------------- */

#define ARENA_BLOCK_SIZE_MIN 4096 /* What an arena keeps between commands. */
#define ARENA_BLOCK_SIZE_MAX (64 * 1024)
#define ARENA_ALIGN          16

struct arena_block {
    struct arena_block *older;
    size_t size; /* Of data. */
    _Alignas(ARENA_ALIGN) char data[];
};

void arena_init(struct arena *a, struct heap *h)
{
    *a = (struct arena){.heap = h};
}

static void arena_grow(struct arena *a, size_t need)
{
    size_t size =
        a->block == NULL ? ARENA_BLOCK_SIZE_MIN : MIN(a->block->size * 2, (size_t)ARENA_BLOCK_SIZE_MAX);
    struct arena_block *b;

    size = MAX(size, need + sizeof *b);
    b = heap_alloc(a->heap, size);
    b->older = a->block;
    b->size = size - sizeof *b;
    asan_poison(b->data, b->size);
    a->block = b;
    a->at = b->data;
    a->end = b->data + b->size;
}

void *arena_alloc(struct arena *a, size_t size)
{
    size_t aligned = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    char *p;

    ASSERT(aligned >= size);
    aligned = MAX(aligned, (size_t)ARENA_ALIGN);
    if ((size_t)(a->end - a->at) < aligned)
        arena_grow(a, aligned);
    p = a->at;
    a->at += aligned;
    a->used += aligned;
    asan_unpoison(p, size);
    return p;
}

void *arena_zalloc(struct arena *a, size_t size)
{
    return memset(arena_alloc(a, size), 0, size);
}

struct slice arena_copy(struct arena *a, struct slice s)
{
    char *p = arena_alloc(a, s.size);

    if (s.size > 0)
        memcpy(p, s.data, s.size);
    return slice_of(p, s.size);
}

char *arena_printf(struct arena *a, const char *format, ...)
{
    va_list args, again;
    char small[256], *text;
    int size;

    va_start(args, format);
    va_copy(again, args);
    size = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    ASSERT(size >= 0);
    text = arena_alloc(a, (size_t)size + 1);
    if ((size_t)size < sizeof small)
        memcpy(text, small, (size_t)size + 1);
    else
        vsnprintf(text, (size_t)size + 1, format, again);
    va_end(again);
    return text;
}

void arena_wipe(struct arena *a)
{
    for (struct arena_block *b = a->block; b != NULL; b = b->older) {
        asan_unpoison(b->data, b->size);
        bytes_wipe(b->data, b->size);
    }
    arena_reset(a);
}

void arena_reset(struct arena *a)
{
    struct arena_block *b = a->block;

    if (b == NULL)
        return;
    while (b->older != NULL) {
        struct arena_block *older = b->older;

        heap_free(a->heap, b);
        b = older;
    }
    asan_poison(b->data, b->size);
    a->block = b;
    a->at = b->data;
    a->end = b->data + b->size;
    a->used = 0;
}

void arena_fini(struct arena *a)
{
    arena_reset(a);
    heap_free(a->heap, a->block);
    arena_init(a, a->heap);
}

/* ---- Slabs --------------------------------------------------------------------------------------------- */

#define SLAB_PAGE_SIZE        (16 * 1024)
#define SLAB_PAGE_RECORDS_MIN 8
/* Secret pages are three mappings each, and a process may have 65,530: they grow with the slab. */
#define SLAB_SECRET_SIZE_MIN (64 * 1024)
#define SLAB_SECRET_SIZE_MAX (1024 * 1024)

struct slab_page {
    struct slab_page *next;
    _Alignas(16) char data[];
};

struct slab_free { /* The head of a record that is not in use. */
    struct slab_free *next;
};

void slab_init(struct slab *s, struct heap *h, uint32_t record_size, uint32_t limit_count)
{
    uint32_t align = record_size >= 16 ? 16 : 8;

    ASSERT(record_size > 0 && record_size <= UINT32_MAX / (2 * SLAB_PAGE_RECORDS_MIN));
    *s = (struct slab){.heap = h, .record_align = align, .limit_count = limit_count};
    s->record_size = (record_size + align - 1) & ~(align - 1);
}

void slab_init_secret(struct slab *s, struct heap *h, uint32_t record_size, uint32_t limit_count)
{
    slab_init(s, h, record_size, limit_count);
    s->secret = true;
}

static void slab_put(struct slab *s, void *record)
{
    struct slab_free *f = record;

    f->next = s->free_list;
    s->free_list = f;
    asan_poison(record, s->record_size);
}

static size_t slab_page_size(const struct slab *s)
{
    size_t used = (size_t)s->used_count * s->record_size;

    return s->secret ? MIN(MAX(used, (size_t)SLAB_SECRET_SIZE_MIN), (size_t)SLAB_SECRET_SIZE_MAX)
                     : (size_t)SLAB_PAGE_SIZE;
}

static int slab_grow(struct slab *s)
{
    uint32_t count = (uint32_t)(slab_page_size(s) / s->record_size);
    struct slab_page *page;
    size_t size;

    count = MAX(count, (uint32_t)SLAB_PAGE_RECORDS_MIN);
    count = MIN(count, s->limit_count - s->used_count);
    size = sizeof *page + (size_t)count * s->record_size;
    page = s->secret ? heap_try_map_secret(s->heap, size) : heap_try_alloc(s->heap, size);
    if (page == NULL)
        return -ENOMEM;
    page->next = s->pages;
    s->pages = page;
    for (uint32_t i = count; i-- > 0;)
        slab_put(s, page->data + (size_t)i * s->record_size);
    return 0;
}

void *slab_take(struct slab *s)
{
    struct slab_free *f;

    if (s->used_count == s->limit_count)
        return NULL;
    if (s->free_list == NULL && slab_grow(s) < 0)
        return NULL;
    f = s->free_list;
    asan_unpoison(f, s->record_size);
    s->free_list = f->next;
    s->used_count++;
    return memset(f, 0, s->record_size);
}

void slab_give(struct slab *s, void *record)
{
    ASSERT(record != NULL && s->used_count > 0);
    s->used_count--;
    if (s->secret)
        bytes_wipe(record, s->record_size);
    slab_put(s, record);
}

void slab_fini(struct slab *s)
{
    while (s->pages != NULL) {
        struct slab_page *page = s->pages;

        s->pages = page->next;
        if (s->secret)
            heap_unmap_secret(s->heap, page);
        else
            heap_free(s->heap, page);
    }
    s->free_list = NULL;
    s->used_count = 0;
}
