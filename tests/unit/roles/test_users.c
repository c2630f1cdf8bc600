/* Records of users: found by name while somebody needs them, forgotten then, whatever their number, and small. */
#include "roles/proxy/users.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define COUNT  20000
#define ROUNDS 100000

static uint32_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525 + 1013904223;
    return (random_state >> 8) % n;
}

/* Short ones, and a few that are as long as can be. */
static struct slice name_of(unsigned i, char space[USER_SIZE_MAX + 1])
{
    size_t size = (size_t)snprintf(space, USER_SIZE_MAX, "u%u.", i),
           all = i % 1000 == 999 ? USER_SIZE_MAX : size + i % 30;

    memset(space + size, 'x', all - size);
    return slice_of(space, all);
}

static void test_random(void **state)
{
    static uint32_t ids[COUNT];
    struct heap *h = heap_create("test", 0);
    char space[USER_SIZE_MAX + 1];
    struct users t;
    uint32_t count = 0;

    (void)state;
    users_init(&t, h, NULL);
    memset(ids, 0xff, sizeof ids);
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned i = random_below(COUNT);
        struct slice name = name_of(i, space);

        assert_int_equal(users_find(&t, name), ids[i]);
        if (ids[i] == RECORD_NONE) {
            assert_true(records_reserve(&t.records));
            ids[i] = users_get(&t, name, (uint16_t)(i % 4096));
            assert_int_not_equal(ids[i], RECORD_NONE);
            assert_int_equal(users_get(&t, name, 0), ids[i]);
            assert_int_equal(user_at(&t, ids[i])->place, i % 4096);
            user_at(&t, ids[i])->stirred = true;
            count++;
        } else if (random_below(2) == 0) {
            assert_true(slice_eq(user_name_of(user_at(&t, ids[i])), name));
            users_release(&t, ids[i]); /* Somebody needs him. */
            assert_int_equal(users_find(&t, name), ids[i]);
            user_at(&t, ids[i])->stirred = false;
            users_release(&t, ids[i]);
            assert_false(records_has(&t.records, ids[i]));
            ids[i] = RECORD_NONE;
            count--;
        }
        assert_int_equal(t.records.count, count);
    }
    for (unsigned again = 0; again < 2; again++) { /* By one secret, and by another. */
        uint8_t secret[PARTITION_SECRET_SIZE];

        for (unsigned i = 0; i < COUNT; i++) {
            struct slice name = name_of(i, space);

            assert_int_equal(users_find(&t, name), ids[i]);
            assert_int_equal(users_named(&t, users_hash(&t, name), RECORD_NONE), ids[i]);
            if (ids[i] != RECORD_NONE)
                assert_int_equal(users_named(&t, users_hash(&t, name), ids[i]), RECORD_NONE);
        }
        memset(secret, 0x55, sizeof secret);
        users_rename(&t, secret);
    }
    assert_false(records_has(&t.records, RECORD_NONE));
    assert_false(records_has(&t.records, records_end(&t.records)));
    users_fini(&t);
    assert_int_equal(heap_used(h), 0);
    heap_destroy(h);
}

/* A name of 8 characters: 104 bytes, and 4 of the table. */
static void test_size(void **state)
{
    struct heap *h = heap_create("test", 0);
    struct users t;

    (void)state;
    users_init(&t, h, NULL);
    for (unsigned i = 0; i < 100000; i++) {
        char name[12];

        snprintf(name, sizeof name, "u%07u", i);
        assert_true(records_reserve(&t.records));
        assert_int_not_equal(users_get(&t, slice_of(name, 8), 0), RECORD_NONE);
    }
    assert_int_equal(t.records.bytes, 104 * 100000);
    assert_true(users_table_size(&t) <= 5 * 100000);
    users_fini(&t);
    heap_destroy(h);
}

/* Over the budget: no user, and all that there are are found. */
static void test_no_memory(void **state)
{
    struct heap *h = heap_create("test", 4 * 1024 * 1024);
    char space[USER_SIZE_MAX + 1];
    struct users t;
    unsigned count = 0;

    (void)state;
    users_init(&t, h, NULL);
    while (users_get(&t, name_of(count, space), 0) != RECORD_NONE)
        count++;
    assert_true(count > 10000 && t.records.count == count);
    assert_int_equal(users_find(&t, name_of(count, space)), RECORD_NONE);
    for (unsigned i = 0; i < count; i++)
        assert_int_not_equal(users_find(&t, name_of(i, space)), RECORD_NONE);
    users_fini(&t);
    heap_destroy(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
