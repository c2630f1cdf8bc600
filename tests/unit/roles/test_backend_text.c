/* The pure parts of the backend: LIST's wildcards and HEADER.FIELDS. */
#include "roles/backend/header_fields.h"
#include "roles/backend/pattern.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct heap *heap;
static struct arena arena;

/* ---- LIST's wildcards ---------------------------------------------------------------------------------- */

static bool list_matches(const char *pattern, const char *name)
{
    struct pattern p;

    arena_reset(&arena);
    assert_true(pattern_init(&p, &arena, slice_str(pattern)));
    return pattern_match(&p, slice_str(name));
}

static void test_pattern(void **state)
{
    assert_true(list_matches("*", "a/b/c"));
    assert_true(list_matches("*", "INBOX"));
    assert_true(list_matches("%", "a"));
    assert_false(list_matches("%", "a/b"));
    assert_true(list_matches("%/%", "a/b"));
    assert_false(list_matches("%/%", "a/b/c"));
    assert_true(list_matches("a*c", "a/b/c"));
    assert_true(list_matches("a%c", "abc"));
    assert_false(list_matches("a%c", "a/c"));
    assert_true(list_matches("*%", "a/b"));
    assert_true(list_matches("%*", "a/b"));
    assert_true(list_matches("**%%**", "a/b"));
    assert_true(list_matches("a", "a"));
    assert_false(list_matches("a", "ab"));
    assert_false(list_matches("ab", "a"));
    assert_false(list_matches("A", "a"));
    assert_false(list_matches("", "a"));
    assert_true(list_matches("*b%d", "a/b/bcd"));
    assert_true(list_matches("a*", "a"));
    assert_true(list_matches("a%", "a"));
}

static void test_pattern_inbox(void **state)
{
    assert_true(list_matches("inbox", "INBOX"));
    assert_true(list_matches("InBoX/a", "INBOX/a"));
    assert_false(list_matches("inbox/A", "INBOX/a"));
    assert_true(list_matches("inbox*", "INBOX/a"));
    assert_false(list_matches("inboxes", "INBOXES"));
    assert_true(list_matches("inboxes", "inboxes"));
}

static void test_pattern_long(void **state)
{
    char pattern[PATTERN_SIZE_MAX + 1], name[1000];
    struct pattern p;

    for (size_t i = 0; i < 128; i += 2) /* The classic that backtracking dies of. */
        memcpy(pattern + i, "*a", 2);
    pattern[128] = 'b';
    memset(name, 'a', sizeof name);
    arena_reset(&arena);
    assert_true(pattern_init(&p, &arena, slice_of(pattern, 129)));
    for (unsigned i = 0; i < 1000; i++)
        assert_false(pattern_match(&p, slice_of(name, sizeof name)));
    name[sizeof name - 1] = 'b';
    assert_true(pattern_match(&p, slice_of(name, sizeof name)));
    memset(pattern, 'x', sizeof pattern);
    assert_false(pattern_init(&p, &arena, slice_of(pattern, PATTERN_SIZE_MAX + 1)));
    assert_true(pattern_init(&p, &arena, slice_of(pattern, PATTERN_SIZE_MAX)));
    assert_false(pattern_match(&p, slice_of(name, sizeof name)));
}

/* Against the definition, by brute force over short strings. */
static bool matches_slowly(const char *p, const char *n)
{
    if (*p == '\0')
        return *n == '\0';
    if (*p == '*' || *p == '%')
        return matches_slowly(p + 1, n) ||
               (*n != '\0' && (*p == '*' || *n != '/') && matches_slowly(p, n + 1));
    return *p == *n && matches_slowly(p + 1, n + 1);
}

static void test_pattern_all_short(void **state)
{
    static const char letters[] = "a/*%";
    char pattern[6] = "", name[6] = "";

    for (unsigned i = 0; i < 1024; i++) {
        for (unsigned k = 0, n = i; k < 5; k++, n /= 4)
            pattern[k] = letters[n % 4];
        for (unsigned j = 0; j < 32; j++) {
            for (unsigned k = 0, n = j; k < 5; k++, n /= 2)
                name[k] = letters[n % 2];
            assert_int_equal(list_matches(pattern, name), matches_slowly(pattern, name));
        }
    }
}

/* ---- HEADER.FIELDS ------------------------------------------------------------------------------------- */

static const char header[] = "From: a\r\nSubject: one\r\n two\r\nX-Long :\tv\r\nsubject: three\r\n\r\n";

static void assert_fields(const char *name, const char *other, bool except, const char *expected)
{
    char copy[sizeof header];
    struct slice names[] = {slice_str(name), slice_str(other)};

    memcpy(copy, header, sizeof header);
    assert_true(slice_eq(header_fields_keep(slice_of(copy, sizeof header - 1), names, 2, except),
                         slice_str(expected)));
}

static void test_header_fields(void **state)
{
    assert_fields("SUBJECT", "none", false, "Subject: one\r\n two\r\nsubject: three\r\n\r\n");
    assert_fields("from", "x-long", false, "From: a\r\nX-Long :\tv\r\n\r\n");
    assert_fields("from", "x-long", true, "Subject: one\r\n two\r\nsubject: three\r\n\r\n");
    assert_fields("none", "Sub", false, "\r\n");
    assert_fields("none", "Sub", true, header);
}

static void test_header_fields_cut(void **state)
{
    struct slice name = SLICE("subject");

    for (size_t size = 0; size < sizeof header; size++) {
        char *copy = malloc(size > 0 ? size : 1);

        memcpy(copy, header, size);
        assert_true(header_fields_keep(slice_of(copy, size), &name, 1, false).size <= size);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pattern),       cmocka_unit_test(test_pattern_inbox),
        cmocka_unit_test(test_pattern_long),  cmocka_unit_test(test_pattern_all_short),
        cmocka_unit_test(test_header_fields), cmocka_unit_test(test_header_fields_cut),
    };
    int failed;

    heap = heap_create("test", 0);
    arena_init(&arena, heap);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_fini(&arena);
    heap_destroy(heap);
    return failed;
}
