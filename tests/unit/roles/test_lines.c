/* Answers cut at every byte, that come again with other flags. */
#include "roles/proxy/lines.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct lines *lines_new(void)
{
    struct lines *l = aligned_alloc(_Alignof(struct lines), sizeof *l);

    assert_non_null(l);
    memset(l, 0, sizeof *l);
    return l;
}

static struct slice text(const char *s)
{
    return slice_str(s);
}

#define BODY "* 2 FETCH (FLAGS (\\Seen) BODY[] {13}\r\n* 9 FETCH (\r\n UID 5)\r\n"

static const char first[] = "* 1 FETCH (FLAGS ())\r\n" BODY
                            "* 10 FETCH (UID 7 BODY[1] {0}\r\n)\r\n* OK x {y}\r\n* 11 FETCH (FLAGS ())\r\n";

static void count(const char *in, uint64_t whole, size_t step)
{
    struct lines *l = lines_new();

    for (struct slice rest = text(in); rest.size > 0; rest = slice_from(rest, MIN(step, rest.size)))
        assert_int_equal(lines_feed(l, slice_first(rest, MIN(step, rest.size)), UINT64_MAX),
                         MIN(step, rest.size));
    assert_int_equal(l->whole, whole);
    free(l);
}

static void test_lines(void **state)
{
    for (size_t step = 1; step <= sizeof first; step++)
        count(first, 5, step);
    count("* 1 FETCH (BODY[] {5}\r\n", 0, 3);
    count("* 1 FETCH (X {}\r\n* 2 FETCH (X 5}\r\n* 3 FETCH (X {5} \r\n", 3, 4);
}

/* `shown` bytes of `a` are with the client; then `b` comes. Where in `b` he goes on; 0: nowhere. */
static size_t goes_on(const char *a, size_t shown, const char *b, size_t step)
{
    struct lines *l = lines_new(), *again = lines_new();
    struct slice rest = text(b);
    size_t at = 0;
    bool same;

    for (size_t i = 0; i < shown; i += step)
        (void)lines_feed(l, slice_of(a + i, MIN(step, shown - i)), UINT64_MAX);
    while (rest.size > 0 && again->whole < l->whole) {
        size_t took = lines_feed(again, slice_first(rest, MIN(step, rest.size)), l->whole);

        at += took;
        rest = slice_from(rest, took);
    }
    same = again->whole == l->whole && again->about == l->about && rest.size >= l->part;
    if (same) {
        (void)lines_feed(again, slice_first(rest, l->part), UINT64_MAX);
        same = again->whole == l->whole && lines_part_same(again, l);
        at += l->part;
    }
    free(l);
    free(again);
    return same ? at : 0;
}

static void test_same(void **state)
{
    for (size_t step = 1; step < 40; step++)
        for (size_t shown = 1; shown < sizeof first; shown++)
            assert_int_equal(goes_on(first, shown, first, step), shown);
}

static void test_other_flags(void **state)
{
    static const char second[] = "* 1 FETCH (FLAGS (\\Flagged))\r\n" BODY "* 10 FETCH";
    static const char others[] = BODY "* 10 FETCH (FLAGS ())\r\n* 11 FETCH (FLAGS ())\r\n";
    size_t line = sizeof "* 1 FETCH (FLAGS ())\r\n" - 1, body = sizeof BODY - 1,
           moved = sizeof "\\Flagged" - 1;

    for (size_t step = 1; step < 40; step++) {
        for (size_t shown = 1; shown <= line + body; shown++) {
            size_t at = goes_on(first, shown, second, step);

            if (shown >= line)
                assert_int_equal(at, shown + moved);
            else if (shown > sizeof "* 1 FETCH (FLAGS (" - 1)
                assert_int_equal(at, 0);
            else
                assert_int_equal(at, shown);
            if (shown > 2)
                assert_int_equal(goes_on(first, shown, others, step), 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_other_flags),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
