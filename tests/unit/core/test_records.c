/* Records of different sizes: what was put in comes out, places are used again, walks meet everybody. */
#include "core/records.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define COUNT  5000
#define ROUNDS 40000

static uint32_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525 + 1013904223;
    return (random_state >> 8) % n;
}

static void test_random(void **state)
{
    static uint32_t ids[COUNT];
    static size_t sizes[COUNT];
    struct heap *h = heap_create("test", 0);
    struct records r;
    uint32_t count = 0, met = 0;

    (void)state;
    records_init(&r, h);
    memset(ids, 0xff, sizeof ids);
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned i = random_below(COUNT);

        if (ids[i] == RECORD_NONE) {
            sizes[i] = 1 + random_below(RECORD_SIZE_MAX);
            assert_true(records_reserve(&r));
            ids[i] = records_take(&r, sizes[i]);
            assert_int_not_equal(ids[i], RECORD_NONE);
            memset(records_at(&r, ids[i]), (int)(i & 0xff), sizes[i]);
            count++;
        } else {
            const unsigned char *bytes = records_at(&r, ids[i]);

            for (size_t k = 0; k < sizes[i]; k++)
                assert_int_equal(bytes[k], i & 0xff);
            records_give(&r, ids[i]);
            ids[i] = RECORD_NONE;
            count--;
        }
        assert_int_equal(r.count, count);
        if (round % 5000 == 0)
            records_trim(&r);
    }
    for (uint32_t id = records_next(&r, 0); id != RECORD_NONE; id = records_next(&r, id + 1))
        met++;
    assert_int_equal(met, count);
    for (unsigned i = 0; i < COUNT; i++) {
        if (ids[i] != RECORD_NONE)
            records_give(&r, ids[i]);
    }
    assert_int_equal(r.count, 0);
    assert_int_equal(r.bytes, 0);
    assert_int_equal(records_next(&r, 0), RECORD_NONE);
    records_fini(&r);
    assert_int_equal(heap_used(h), 0);
    heap_destroy(h);
}

/* A class that is empty again lends its memory to another; slack is less than a step; what is given back is wiped. */
static void test_reuse(void **state)
{
    static uint32_t ids[10000];
    struct heap *h = heap_create("test", 0);
    struct records r;
    uint64_t used = 0;

    (void)state;
    records_init(&r, h);
    for (unsigned round = 0; round < 5; round++) {
        size_t size = 200 + round * 50;

        for (unsigned i = 0; i < ARRAY_COUNT(ids); i++) {
            ids[i] = records_take(&r, size);
            memset(records_at(&r, ids[i]), 0x77, size);
        }
        assert_true(r.bytes < ARRAY_COUNT(ids) * (size + RECORD_STEP));
        used = MAX(used, heap_used(h));
        for (unsigned i = 0; i < ARRAY_COUNT(ids); i++)
            records_give(&r, ids[i]);
    }
    assert_true(used < ARRAY_COUNT(ids) * 400 * 5 / 4);
    ids[0] = records_take(&r, 200);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(((char *)records_at(&r, ids[0]))[i], 0);
    records_fini(&r);
    heap_destroy(h);
}

static void test_budget(void **state)
{
    struct heap *h = heap_create("test", 4 << 20);
    struct records r;
    uint32_t count = 0;

    (void)state;
    records_init(&r, h);
    while (records_reserve(&r)) {
        assert_int_not_equal(records_take(&r, 300), RECORD_NONE);
        count++;
    }
    assert_true(count > 6000 && count < 14000);
    while (records_take(&r, 300) != RECORD_NONE) /* Without a reserve it fails. */
        count++;
    assert_true(heap_used(h) <= 4 << 20);
    records_fini(&r);
    heap_destroy(h);
}

/* As records go, so does memory; who is left stays where he is, and the places are used again. */
static void test_trim(void **state)
{
    static uint32_t ids[40000];
    struct heap *h = heap_create("test", 0);
    struct records r;
    uint64_t most;

    (void)state;
    records_init(&r, h);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < ARRAY_COUNT(ids); i++) {
            assert_true(records_reserve(&r));
            ids[i] = records_take(&r, 200 + i % 3 * 16);
            memcpy(records_at(&r, ids[i]), &i, sizeof i);
        }
        most = heap_used(h);
        for (uint32_t id = records_next(&r, 0), left = ARRAY_COUNT(ids); id != RECORD_NONE;
             id = records_next(&r, id + 1)) {
            unsigned i;

            memcpy(&i, records_at(&r, id), sizeof i);
            assert_int_equal(ids[i], id);
            if (i % 10000 == 7)
                continue;
            records_give(&r, id);
            if (--left % 4000 == 0) {
                records_trim(&r);
                assert_true(heap_used(h) < most * left / ARRAY_COUNT(ids) + (8 << 20) * (uint64_t)5 / 4);
            }
        }
        records_trim(&r);
        assert_int_equal(r.count, 4);
        assert_true(heap_used(h) < (6 << 20)); /* Those four have a region each, at most. */
        for (unsigned i = 7; i < ARRAY_COUNT(ids); i += 10000) {
            unsigned there;

            memcpy(&there, records_at(&r, ids[i]), sizeof there);
            assert_int_equal(there, i);
            records_give(&r, ids[i]);
        }
    }
    records_trim(&r);
    assert_true(heap_used(h) < (1 << 20));
    records_fini(&r);
    assert_int_equal(heap_used(h), 0);
    heap_destroy(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_trim),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
