/* Heaps under a budget, arenas and slabs. */
#include "core/heap.h"
#include "core/sanitizer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

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

struct mapping { /* Of smaps(5): the flags of a mapping, and what may be done with its neighbours. */
    char flags[256], before[5], after[5];
};

static struct mapping mapping_of(const void *p)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    struct mapping m = {.flags = ""};
    bool inside = false, passed = false;
    char line[512], rights[5];

    assert_non_null(f);
    while (!passed && fgets(line, sizeof line, f) != NULL) {
        uintptr_t from, to;

        if (inside && strncmp(line, "VmFlags:", 8) == 0)
            snprintf(m.flags, sizeof m.flags, "%.250s", line + 8);
        if (sscanf(line, "%lx-%lx %4s", &from, &to, rights) != 3)
            continue;
        passed = inside;
        inside = (uintptr_t)p >= from && (uintptr_t)p < to;
        if (!inside)
            memcpy(passed ? m.after : m.before, rights, sizeof rights);
    }
    fclose(f);
    return m;
}

static void test_secret_slab(void **state)
{
    struct heap *h = heap_create("test", 4 << 20);
    struct slab s;
    struct mapping m;
    char *record;
    int status;
    pid_t child;

    (void)state;
    slab_init_secret(&s, h, 100, 1000000);
    record = slab_take(&s);
    memset(record, 's', 100);
    m = mapping_of(record);
    assert_non_null(strstr(m.flags, " dd")); /* Do not dump. */
    assert_non_null(strstr(m.flags, " wf")); /* Wipe on fork. */
    assert_string_equal(m.before, "---p");
    assert_string_equal(m.after, "---p");
    child = fork();
    if (child == 0)
        _exit(record[0] == '\0' && record[99] == '\0' ? 0 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(record[99], 's');
    slab_give(&s, record);
    asan_unpoison(record, 100);
    for (unsigned i = sizeof(void *); i < 100; i++) /* Before it: the free list. */
        assert_int_equal(record[i], 0);
    asan_poison(record, 100);
    while (slab_take(&s) != NULL)
        continue;
    assert_in_range(heap_used(h), 2 << 20, 4 << 20);
    slab_fini(&s);
    assert_int_equal(heap_used(h), 0);
    slab_init_secret(&s, h, 100, 10);
    assert_non_null(slab_take(&s));
    heap_destroy(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget),       cmocka_unit_test(test_no_budget),
        cmocka_unit_test(test_destroy_many), cmocka_unit_test(test_arena),
        cmocka_unit_test(test_slab),         cmocka_unit_test(test_slab_over_budget),
        cmocka_unit_test(test_secret_slab),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
