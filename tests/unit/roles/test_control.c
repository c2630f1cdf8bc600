/* What the operator's answers are made of: masks, and fields as text and as JSON. */
#include "core/heap.h"
#include "roles/admin/reply.h"
#include "roles/words/control.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static bool matches(const char *mask, const char *user)
{
    return control_mask_matches(slice_str(mask), slice_str(user));
}

static void test_mask(void **state)
{
    static char stars[512], as[256];

    assert_true(matches("u0", "u0") && matches("U0", "u0") && !matches("u0", "u00") && !matches("u00", "u0"));
    assert_true(matches("*", "") && matches("*", "x") && matches("**", "x") && !matches("?", "") &&
                matches("?", "x"));
    assert_true(matches("*@example.org", "a@example.org") && !matches("*@example.org", "a@example.orgx"));
    assert_true(matches("a*b*c", "aXbXbYc") && !matches("a*b*c", "aXbXbYcd") && matches("*a?", "aaab"));
    assert_true(matches("", "") && !matches("", "x"));
    for (size_t i = 0; i + 2 < sizeof stars; i += 2) /* As bad as it gets: not exponential. */
        memcpy(stars + i, "*a", 2);
    stars[sizeof stars - 2] = 'b';
    memset(as, 'a', sizeof as - 1);
    assert_false(matches(stars, as));
}

static void fill(struct reply *r)
{
    reply_begin(r, ' ');
    reply_array(r, "rows");
    for (unsigned i = 0; i < 2; i++) {
        reply_record(r);
        reply_slice(r, "user", i == 0 ? SLICE("a\"b\\\n\xff") : SLICE("plain"));
        reply_hex(r, "sid", 255);
        reply_record_end(r);
    }
    reply_array_end(r);
    reply_u64(r, "count", 2);
    reply_bool(r, "cut", false);
    reply_end(r);
}

static void assert_reply(const struct reply *r, const char *expected)
{
    struct slice text = reply_text(r);

    assert_int_equal(text.size, strlen(expected));
    assert_memory_equal(text.data, expected, text.size);
}

static void test_fields(void **state)
{
    struct heap *heap = heap_create("test", 0);
    struct reply r;

    reply_init(&r, heap, false);
    fill(&r);
    assert_reply(&r, "user=\"a\\\"b\\\\\\u000a\\\\xff\" sid=ff\nuser=plain sid=ff\ncount=2 cut=false\n");
    reply_fini(&r);
    reply_init(&r, heap, true);
    fill(&r);
    assert_reply(&r, "{\"rows\":[{\"user\":\"a\\\"b\\\\\\u000a\\\\xff\",\"sid\":\"ff\"},"
                     "{\"user\":\"plain\",\"sid\":\"ff\"}],\"count\":2,\"cut\":false}\n");
    reply_error(&r, 404, "no");
    assert_reply(&r, "{\"error\":\"no\"}\n");
    assert_int_equal(r.status, 404);
    reply_fini(&r);
    heap_destroy(heap);
}

/* A full answer is dropped, not cut; what follows it fits again. */
static void test_full(void **state)
{
    static char block[65536];
    struct heap *heap = heap_create("test", 8 * 1024 * 1024);
    struct reply r;

    reply_init(&r, heap, false);
    for (unsigned i = 0; i < 300; i++)
        writer_put(&r.writer, block, sizeof block);
    assert_true(r.full && reply_text(&r).size == 0);
    reply_error(&r, 500, "too large");
    assert_false(r.full);
    assert_reply(&r, "too large\n");
    reply_fini(&r);
    assert_int_equal(heap_used(heap), 0);
    heap_destroy(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mask),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
