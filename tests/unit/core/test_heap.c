/* Heaps under a budget, arenas and slabs. */
#include "core/heap.h"
#include "core/sanitizer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_budget(void **state)
{
    struct heap *h = heap_create("test", 1 << 20);
    void *half, *more, *moved;

    (void)state;
    assert_non_null(h);
    assert_int_equal(heap_budget(h), 1 << 20);
    assert_true(heap_admits(h));
    half = heap_try_alloc(h, 512 << 10);
    assert_non_null(half);
    assert_true(heap_used(h) >= 512 << 10);
    assert_null(heap_try_alloc(h, 600 << 10));
    assert_null(heap_try_alloc(h, SIZE_MAX));
    assert_null(heap_try_realloc(h, half, 2 << 20));
    memset(half, 1, 512 << 10);      /* Untouched by the refusal. */
    more = heap_alloc(h, 600 << 10); /* Small bounded things may go over it. */
    assert_false(heap_admits(h));
    assert_null(heap_try_alloc(h, 1));
    heap_free(h, more);
    assert_true(heap_admits(h));
    moved = heap_try_realloc(h, half, 700 << 10);
    assert_non_null(moved);
    assert_int_equal(((char *)moved)[(512 << 10) - 1], 1);
    moved = heap_try_realloc(h, moved, 10);
    assert_non_null(moved);
    assert_true(heap_used(h) < 1000);
    heap_free(h, moved);
    heap_free(h, NULL);
    assert_int_equal(heap_used(h), 0);
    heap_destroy(h);
    heap_destroy(NULL);
}

static void test_no_budget(void **state)
{
    struct heap *h = heap_create("test", 0);
    char *p;

    (void)state;
    p = heap_try_realloc(h, NULL, 100);
    assert_non_null(p);
    p = heap_zalloc(h, 100000);
    assert_int_equal(p[0], 0);
    assert_int_equal(p[99999], 0);
    assert_true(heap_admits(h));
    heap_destroy(h); /* With everything in it. */
}

static void test_destroy_many(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2000; i++) { /* A simulator makes and drops them all the time. */
        struct heap *h = heap_create("test", 0);

        assert_non_null(h);
        for (unsigned j = 1; j < 50; j++)
            assert_non_null(heap_alloc(h, j * 37));
        heap_destroy(h);
    }
}

static void test_arena(void **state)
{
    struct heap *h = heap_create("test", 0);
    struct arena a;
    uint64_t kept;
    char *text, *big;

    (void)state;
    arena_init(&a, h);
    assert_int_equal(heap_used(h), 0);
    arena_reset(&a); /* Before anything was allocated. */
    assert_non_null(arena_alloc(&a, 0));
    kept = heap_used(h);
    for (unsigned round = 0; round < 3; round++) {
        for (size_t size = 1; size < 3000; size += 7) {
            char *p = arena_alloc(&a, size);

            assert_int_equal((uintptr_t)p & 15, 0);
            memset(p, 0xee, size);
        }
        big = arena_zalloc(&a, 300000);
        assert_int_equal(big[299999], 0);
        assert_true(heap_used(h) > kept);
        arena_reset(&a);
        assert_int_equal(heap_used(h), kept); /* The first block alone. */
    }
    text = arena_printf(&a, "%s %d", "number", 42);
    assert_string_equal(text, "number 42");
    text = arena_printf(&a, "%0999d", 7);
    assert_int_equal(strlen(text), 999);
    assert_true(slice_eq(arena_copy(&a, SLICE("copy")), SLICE("copy")));
    assert_int_equal(arena_copy(&a, slice_of(NULL, 0)).size, 0);
    arena_fini(&a);
    assert_int_equal(heap_used(h), 0);
    heap_destroy(h);
}

static void test_slab(void **state)
{
    struct heap *h = heap_create("test", 0);
    static char *records[1000];
    struct slab s;

    (void)state;
    slab_init(&s, h, 200, 1000);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 1000; i++) {
            records[i] = slab_take(&s);
            assert_non_null(records[i]);
            for (unsigned j = 0; j < 200; j++)
                assert_int_equal(records[i][j], 0);
            memset(records[i], 0xaa, 200);
        }
        assert_null(slab_take(&s)); /* The limit. */
        for (unsigned i = 0; i < 1000; i++)
            slab_give(&s, records[(i * 7) % 1000]);
    }
#ifdef HAVE_ASAN
    assert_true(__asan_address_is_poisoned(records[0]));
#endif
    slab_fini(&s);
    assert_int_equal(heap_used(h), 0);
    heap_destroy(h);
}

static void test_slab_over_budget(void **state)
{
    struct heap *h = heap_create("test", 40000);
    unsigned count = 0;
    struct slab s;

    (void)state;
    slab_init(&s, h, 100, 1000000);
    while (slab_take(&s) != NULL)
        count++;
    assert_in_range(count, 100, 400);
    assert_true(heap_used(h) <= 40000);
    slab_fini(&s);
    slab_init(&s, h, 3, 10); /* Smaller than what its free list needs. */
    for (unsigned i = 0; i < 10; i++)
        assert_non_null(slab_take(&s));
    slab_fini(&s);
    heap_destroy(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget),       cmocka_unit_test(test_no_budget),
        cmocka_unit_test(test_destroy_many), cmocka_unit_test(test_arena),
        cmocka_unit_test(test_slab),         cmocka_unit_test(test_slab_over_budget),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
