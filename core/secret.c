#include "core/secret.h"

#ifdef TRIREME_JEMALLOC
#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

/* jemalloc's own way to get pages, and then what is to be said of them. Not MADV_WIPEONFORK: the arena itself lies in such pages, and
 * a child's first malloc would find zeros there. Who forks here executes a program at once. */
static extent_hooks_t hooks;
static const extent_hooks_t *usual;
static bool hooked;

static _Thread_local int thread_flags; /* 0: none yet. */

static void *pages_alloc(extent_hooks_t *self, void *wanted, size_t size, size_t alignment, bool *zero,
                         bool *commit, unsigned arena)
{
    extent_hooks_t *inner = (extent_hooks_t *)(uintptr_t)usual;
    void *pages = inner->alloc(inner, wanted, size, alignment, zero, commit, arena);

    if (pages == NULL)
        return NULL;
    if (madvise(pages, size, MADV_DONTDUMP) == 0)
        return pages;
    munmap(pages, size);
    return NULL;
}

static void hooks_make(void)
{
    size_t size = sizeof usual;

    if (mallctl("arena.0.extent_hooks", &usual, &size, NULL, 0) != 0)
        return;
    hooks = *usual;
    hooks.alloc = pages_alloc;
    hooked = true;
}

/* The thread's arena, and a cache of its own in front of it. False: no memory. */
static bool thread_begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    extent_hooks_t *ours = &hooks;
    unsigned arena, tcache;
    size_t size = sizeof arena;

    (void)pthread_once(&once, hooks_make);
    if (!hooked || mallctl("arenas.create", &arena, &size, &ours, sizeof ours) != 0)
        return false;
    size = sizeof tcache;
    if (mallctl("tcache.create", &tcache, &size, NULL, 0) != 0)
        return false;
    thread_flags = (int)(MALLOCX_ARENA(arena) | MALLOCX_TCACHE(tcache));
    return true;
}

void *secret_alloc(size_t size)
{
    if (UNLIKELY(thread_flags == 0) && !thread_begin())
        return NULL;
    return mallocx(MAX(size, (size_t)1), thread_flags);
}

void secret_free(void *p)
{
    size_t size;

    if (p == NULL)
        return;
    size = sallocx(p, 0);
    bytes_wipe(p, size);
    sdallocx(p, size, thread_flags != 0 ? thread_flags : MALLOCX_TCACHE_NONE);
}

size_t secret_size(const void *p)
{
    return sallocx(p, 0);
}
#else
#include <malloc.h>
#include <stdlib.h>

void *secret_alloc(size_t size)
{
    return malloc(MAX(size, (size_t)1));
}

void secret_free(void *p)
{
    if (p == NULL)
        return;
    bytes_wipe(p, malloc_usable_size(p));
    free(p);
}

size_t secret_size(const void *p)
{
    return malloc_usable_size((void *)(uintptr_t)p);
}
#endif
