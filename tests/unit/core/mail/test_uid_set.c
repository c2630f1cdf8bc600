#include "core/mail/uid_set.h"
#include "tests/unit/core/mail/mail_test.h"
#include <errno.h>

static struct heap *heap;

static const char *parsed(const char *text, uint32_t star)
{
    struct writer w = test_writer();
    struct uid_set s;

    uid_set_init(&s, heap, 0);
    assert_int_equal(uid_set_parse(&s, slice_str(text), star), 0);
    uid_set_write(&s, &w);
    uid_set_fini(&s);
    return test_written(&w);
}

static void test_parse(void **state)
{
    assert_string_equal(parsed("1", 9), "1");
    assert_string_equal(parsed("5:1", 9), "1:5");
    assert_string_equal(parsed("1,2,3", 9), "1:3");
    assert_string_equal(parsed("3,1,2", 9), "1:3");
    assert_string_equal(parsed("9,1:2,5:7,6:8", 20), "1:2,5:9");
    assert_string_equal(parsed("*", 9), "9");
    assert_string_equal(parsed("*:*", 9), "9");
    assert_string_equal(parsed("12:*", 9), "9:12");
    assert_string_equal(parsed("*:3", 9), "3:9");
    assert_string_equal(parsed("*", 0), "");
    assert_string_equal(parsed("1:*,7", 0), "7");
    assert_string_equal(parsed("4294967295:4294967294,1:4294967295", 9), "1:4294967295");
}

static void test_syntax(void **state)
{
    static const char *const bad[] = {"",
                                      "0",
                                      "a",
                                      "1,",
                                      ",1",
                                      "1:",
                                      ":1",
                                      "1:2:3",
                                      "1,,2",
                                      "01",
                                      "-1",
                                      "1 ",
                                      " 1",
                                      "**",
                                      "1:*a",
                                      "1;2",
                                      "$",
                                      "4294967296",
                                      "99999999999999999999"};
    struct uid_set s;

    uid_set_init(&s, heap, 0);
    assert_int_equal(uid_set_add(&s, 7, 7), 0);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_false(uid_set_syntax_valid(slice_str(bad[i])));
        assert_int_equal(uid_set_parse(&s, slice_str(bad[i]), 9), -EINVAL);
    }
    assert_int_equal(uid_set_count(&s), 1); /* Nothing changed. */
    uid_set_fini(&s);
}

/* A set against a table of bits, changed at random. */
static void test_add(void **state)
{
    bool bits[200] = {false};
    uint32_t seed = 1, expected = 0, number;
    struct uid_set_iter it;
    struct uid_set s;

    uid_set_init(&s, heap, 0);
    for (int i = 0; i < 60; i++) {
        uint32_t first, last;

        seed = seed * 1664525 + 1013904223;
        first = 1 + (seed >> 8) % 190;
        last = first + (seed >> 20) % 8;
        assert_int_equal(uid_set_add(&s, first, last), 0);
        memset(bits + first, true, last - first + 1);
        uid_set_iter_init(&it, &s);
        for (uint32_t n = 0; n < 200; n++) {
            assert_int_equal(uid_set_has(&s, n), bits[n]);
            if (bits[n]) {
                assert_true(uid_set_iter_next(&it, &number));
                assert_int_equal(number, n);
            }
        }
        assert_false(uid_set_iter_next(&it, &number));
        for (uint32_t r = 1; r < s.range_count; r++)
            assert_true(s.ranges[r].first > s.ranges[r - 1].last + 1);
    }
    for (uint32_t n = 0; n < 200; n++)
        expected += bits[n];
    assert_int_equal(uid_set_count(&s), expected);
    uid_set_fini(&s);
}

static void test_ends(void **state)
{
    struct uid_set_iter it;
    struct uid_set s;
    uint32_t number;

    uid_set_init(&s, heap, 0);
    assert_int_equal(uid_set_add(&s, UINT32_MAX, UINT32_MAX), 0);
    assert_int_equal(uid_set_add(&s, UINT32_MAX - 1, UINT32_MAX), 0);
    uid_set_iter_init(&it, &s);
    assert_true(uid_set_iter_next(&it, &number));
    assert_true(uid_set_iter_next(&it, &number));
    assert_int_equal(number, UINT32_MAX);
    assert_false(uid_set_iter_next(&it, &number));
    assert_int_equal(uid_set_add(&s, 1, UINT32_MAX), 0);
    assert_int_equal(uid_set_count(&s), UINT32_MAX);
    assert_false(uid_set_has(&s, 0));
    uid_set_fini(&s);
}

static void test_limit(void **state)
{
    struct uid_set s;

    uid_set_init(&s, heap, 3);
    assert_int_equal(uid_set_parse(&s, SLICE("1,3,5"), 9), 0);
    assert_int_equal(uid_set_add(&s, 7, 7), -E2BIG);
    assert_int_equal(uid_set_count(&s), 3);
    assert_int_equal(uid_set_add(&s, 2, 4), 0); /* Joins ranges. */
    assert_int_equal(s.range_count, 1);
    assert_int_equal(uid_set_parse(&s, SLICE("10,20,30,40"), 9), -E2BIG);
    assert_int_equal(s.range_count, 0);
    uid_set_fini(&s);
}

/* 60,000 items, the last one first: sorting, not moving. */
static void test_many(void **state)
{
    char *text = malloc(60000 * 7), *at = text;
    struct uid_set s;

    for (uint32_t i = 60000; i > 0; i--)
        at += sprintf(at, "%u%s", i * 2, i > 1 ? "," : "");
    uid_set_init(&s, heap, 0);
    assert_int_equal(uid_set_parse(&s, slice_of(text, (size_t)(at - text)), 1), 0);
    assert_int_equal(s.range_count, 60000);
    assert_true(uid_set_has(&s, 77776));
    assert_false(uid_set_has(&s, 77777));
    uid_set_fini(&s);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse), cmocka_unit_test(test_syntax), cmocka_unit_test(test_add),
        cmocka_unit_test(test_ends),  cmocka_unit_test(test_limit),  cmocka_unit_test(test_many),
    };

    heap = heap_create("test", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
