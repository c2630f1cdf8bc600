/* Answers cut at every byte, that come again with other flags. */
#include "roles/proxy/lines.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
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

#define NOTE "* OK x {y}\r\n"
#define BODY "* 2 FETCH (FLAGS (\\Seen) BODY[] {13}\r\n* 9 FETCH (\r\n UID 5)\r\n"

static const char first[] =
    "* 1 FETCH (FLAGS ())\r\n" BODY "* 10 FETCH (UID 7 BODY[1] {0}\r\n)\r\n" NOTE "* 11 FETCH (FLAGS ())\r\n";

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
        count(first, 4, step);
    count("* 1 FETCH (BODY[] {5}\r\n", 0, 3);
    count("* 1 FETCH (X {}\r\n* 2 FETCH (X 5}\r\n* 3 FETCH (X {5} \r\n", 3, 4);
}

/* Takes off the piece what the client has, or a part of it. False: it is not what he has. As request.c does. */
static bool take_off(struct lines *again, const struct lines *l, struct slice *piece, bool *behind_out)
{
    *behind_out = true;
    *piece = slice_from(*piece, lines_feed(again, *piece, l->whole));
    if (again->whole < l->whole)
        return true;
    if (again->about != l->about)
        return false;
    if (l->part > 0) {
        *piece = slice_from(*piece, lines_pass_notes(again, l, *piece));
        if (piece->size == 0)
            return true;
    }
    *piece = slice_from(
        *piece, lines_feed(again, slice_first(*piece, MIN(piece->size, l->part - again->part)), UINT64_MAX));
    *behind_out = again->part < l->part;
    return again->whole == l->whole && (*behind_out || lines_part_same(again, l));
}

/* `shown` bytes of `a` are with the client; then `b` comes. Where in `b` he goes on; 0: nowhere. */
static size_t goes_on(const char *a, size_t shown, const char *b, size_t step)
{
    struct lines *l = lines_new(), *again = lines_new();
    struct slice rest = text(b);
    bool behind = true, same = true;

    for (size_t i = 0; i < shown; i += step)
        (void)lines_feed(l, slice_of(a + i, MIN(step, shown - i)), UINT64_MAX);
    while (rest.size > 0 && behind && same) {
        struct slice piece = slice_first(rest, MIN(step, rest.size)), left = piece;

        same = take_off(again, l, &left, &behind);
        rest = slice_from(rest, piece.size - left.size);
    }
    free(l);
    free(again);
    return same && !behind ? strlen(b) - rest.size : 0;
}

/* Who stands behind a note, or has only begun what follows, is told it twice. */
static void test_same(void **state)
{
    size_t size = sizeof NOTE - 1, noted = (size_t)(strstr(first, NOTE) - first) + size;

    for (size_t step = 1; step < 40; step++)
        for (size_t shown = 1; shown < sizeof first; shown++)
            assert_int_equal(goes_on(first, shown, first, step),
                             shown >= noted && shown <= noted + 2 ? shown - size : shown);
}

#define NOTES   "* FLAGS (\\Seen Work)\r\n"
#define ONE     "* 1 FETCH (FLAGS ())\r\n"
#define LITERAL "* 2 FETCH (BODY[] {5}\r\n* FL\n)\r\n"
#define THREE   "* 30 FETCH (FLAGS ())\r\n"
#define LAST    "* 31 FETCH (FLAGS ())\r\n"

/* What the client reads, without notes. */
static void read_without(const char *a, size_t shown, const char *b, char out[512])
{
    char *note;

    snprintf(out, 512, "%.*s%s", (int)shown, a, b);
    while ((note = strstr(out, NOTES)) != NULL)
        memmove(note, note + sizeof NOTES - 1, strlen(note) - (sizeof NOTES - 1) + 1);
}

/* A new keyword is announced before the first line that could name it, wherever the client is; and so it was before. */
static void test_notes(void **state)
{
    static const char plain[] = ONE LITERAL THREE;
    static const char *const noted[] = {NOTES ONE LITERAL THREE LAST, ONE NOTES LITERAL THREE LAST,
                                        ONE LITERAL NOTES THREE LAST, ONE LITERAL THREE NOTES LAST,
                                        NOTES ONE NOTES LITERAL NOTES THREE NOTES LAST};
    char all[512];

    count(noted[4], 4, 1);
    count(noted[4], 4, sizeof all);
    for (size_t step = 1; step < 60; step++) {
        for (size_t i = 0; i < ARRAY_COUNT(noted) * (sizeof plain - 1); i++) {
            const char *again = noted[i / (sizeof plain - 1)];
            size_t shown = i % (sizeof plain - 1) + 1, at = goes_on(plain, shown, again, step);

            assert_true(at > 0);
            read_without(plain, shown, again + at, all);
            assert_string_equal(all, ONE LITERAL THREE LAST);
            at = goes_on(again, sizeof NOTES + shown, plain, step); /* In a note he cannot be left. */
            if (at > 0)
                read_without(again, sizeof NOTES + shown, plain + at, all);
            assert_true(at == 0 || strcmp(all, plain) == 0);
        }
    }
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
        cmocka_unit_test(test_notes),
        cmocka_unit_test(test_other_flags),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
