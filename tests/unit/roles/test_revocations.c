#include "roles/revocations.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct revocations *made(void)
{
    struct revocations *r = calloc(1, sizeof *r);

    assert_non_null(r);
    return r;
}

static void test_one(void **state)
{
    struct revocations *r = made();

    assert_false(revocations_refuse(r, 7, 0));
    revocations_add(r, 7, 1);
    assert_true(revocations_refuse(r, 7, 0));
    assert_false(revocations_refuse(r, 7, 1)); /* Made afterwards. */
    assert_false(revocations_refuse(r, 8, 0));
    revocations_add(r, 7 + REVOCATIONS_BUCKETS, 2); /* The same first bucket. */
    assert_true(revocations_refuse(r, 7, 0));
    assert_false(revocations_refuse(r, 7, 1));
    assert_true(revocations_refuse(r, 7 + REVOCATIONS_BUCKETS, 1));
    free(r);
}

static void test_again(void **state)
{
    struct revocations *r = made();

    for (uint64_t i = 1; i <= 10; i++)
        revocations_add(r, i % 3, i);
    assert_int_equal(r->count, 3);
    assert_true(revocations_refuse(r, 10 % 3, 9));
    assert_true(revocations_refuse(r, 8 % 3, 7));
    assert_false(revocations_refuse(r, 8 % 3, 8));
    assert_int_equal(revocations_after(r, 0), 0);
    assert_int_equal(revocations_after(r, 8), 1);
    assert_int_equal(revocations_after(r, 10), 3);
    free(r);
}

/* More than it holds: it forgets the oldest, and refuses all who might have been meant. */
static void test_full(void **state)
{
    struct revocations *r = made();
    uint64_t last = 3 * REVOCATIONS_MAX;

    for (uint64_t i = 1; i <= last; i++)
        revocations_add(r, i * 0x9e3779b97f4a7c15, i);
    assert_int_equal(r->count, REVOCATIONS_MAX);
    assert_int_equal(r->floor, last - REVOCATIONS_MAX);
    for (uint64_t i = 1; i <= last; i += 61) {
        assert_true(revocations_refuse(r, i * 0x9e3779b97f4a7c15, i - 1));
        assert_false(revocations_refuse(r, i * 0x9e3779b97f4a7c15, last));
    }
    assert_true(revocations_refuse(r, 12345, r->floor - 1));
    assert_false(revocations_name(r, 12345, r->floor - 1)); /* Perhaps he was; but nobody knows. */
    assert_true(revocations_name(r, last * 0x9e3779b97f4a7c15, last - 1));
    assert_false(revocations_name(r, last * 0x9e3779b97f4a7c15, last));
    assert_false(revocations_refuse(r, 12345, r->floor));
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
