/* Users who are placed alone: the table of them, and the words in which directors speak of them. */
#include "roles/exceptions.h"
#include "roles/words/cluster.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void *made(size_t size)
{
    void *p = calloc(1, size);

    assert_non_null(p);
    return p;
}

/* ---- The table ----------------------------------------------------------------------------------------- */

static void test_table(void **state)
{
    struct exceptions *e = made(sizeof *e);

    assert_null(exceptions_find(e, 7));
    exceptions_put(e, 5, 7, 1, 2);
    exceptions_put(e, 0, 7 + EXCEPTIONS_BUCKETS, 3, 4); /* The same first bucket. */
    assert_ptr_equal(exceptions_find(e, 7), &e->entries[5]);
    assert_ptr_equal(exceptions_find(e, 7 + EXCEPTIONS_BUCKETS), &e->entries[0]);
    assert_int_equal(exceptions_find(e, 7)->node, 2);
    assert_null(exceptions_find(e, 7 + 2 * EXCEPTIONS_BUCKETS));
    exceptions_drop(e, 5);
    exceptions_drop(e, 5);
    assert_int_equal(e->count, 1);
    assert_null(exceptions_find(e, 7));
    assert_int_equal(exceptions_find(e, 7 + EXCEPTIONS_BUCKETS)->partition, 3);
    free(e);
}

/* Whatever their memory held, and in whatever order they came. */
static void test_same(void **state)
{
    struct exceptions *a = made(sizeof *a), *b = made(sizeof *b);

    memset(a->entries, 0x55, sizeof a->entries);
    for (uint32_t i = 0; i < EXCEPTIONS_MAX; i++) {
        a->entries[i].user = a->entries[i].partition = a->entries[i].node = 0;
        a->entries[i].used = false;
    }
    assert_true(exceptions_same(a, b));
    exceptions_put(a, 5, 7, 1, 2);
    assert_false(exceptions_same(a, b));
    exceptions_put(a, 0, 7 + EXCEPTIONS_BUCKETS, 3, 4);
    exceptions_put(b, 0, 7 + EXCEPTIONS_BUCKETS, 3, 4);
    exceptions_put(b, 5, 7, 1, 3);
    assert_false(exceptions_same(a, b));
    exceptions_drop(b, 5);
    exceptions_put(b, 5, 7, 1, 2);
    assert_true(exceptions_same(a, b));
    free(a);
    free(b);
}

static void test_full(void **state)
{
    struct exceptions *e = made(sizeof *e);

    for (uint32_t i = 0; i < EXCEPTIONS_MAX; i++)
        exceptions_put(e, i, i * 0x9e3779b97f4a7c15, (uint16_t)i, 0);
    for (uint32_t i = 0; i < EXCEPTIONS_MAX; i += 2)
        exceptions_drop(e, i);
    for (uint32_t i = 0; i < EXCEPTIONS_MAX; i++)
        assert_int_equal(exceptions_find(e, i * 0x9e3779b97f4a7c15) != NULL, i % 2);
    assert_int_equal(e->count, EXCEPTIONS_MAX / 2);
    free(e);
}

/* ---- Words --------------------------------------------------------------------------------------------- */

/* Every cut of it is refused. */
#define ASSERT_WHOLE_ONLY(decode, bytes, size, out)                                                          \
    do {                                                                                                     \
        for (size_t cut_ = 0; cut_ < (size); cut_++)                                                         \
            assert_false(decode(slice_of((bytes), cut_), (out)));                                            \
        (bytes)[size] = 0;                                                                                   \
        assert_false(decode(slice_of((bytes), (size) + 1), (out)));                                          \
        assert_true(decode(slice_of((bytes), (size)), (out)));                                               \
    } while (0)

static void test_cluster_word(void **state)
{
    struct cluster_exceptions *e = made(sizeof *e), *got = made(sizeof *got);
    char *bytes = made(CLUSTER_EXCEPTIONS_SIZE_MAX + 1);
    size_t size;

    e->version = 1ull << 40;
    e->last = true;
    for (unsigned i = 0; i < CLUSTER_EXCEPTIONS_MAX; i++) {
        e->entries[i].place = (uint16_t)(EXCEPTIONS_MAX - 1 - i);
        e->entries[i].exception = (struct exception){i + 1, (uint16_t)i, (uint16_t)(i % 200), true};
    }
    for (e->count = 2;; e->count = CLUSTER_EXCEPTIONS_MAX) {
        size = cluster_exceptions_encode(e, bytes);
        assert_true(size <= CLUSTER_EXCEPTIONS_SIZE_MAX);
        ASSERT_WHOLE_ONLY(cluster_exceptions_decode, bytes, size, got);
        assert_true(got->version == e->version && got->last && !got->first && got->count == e->count);
        assert_int_equal(got->entries[1].place, EXCEPTIONS_MAX - 2);
        assert_int_equal(got->entries[1].exception.user, 2);
        assert_int_equal(got->entries[1].exception.node, 1);
        if (e->count == CLUSTER_EXCEPTIONS_MAX)
            break;
    }
    e->count = 1;
    e->entries[0].place = EXCEPTIONS_MAX;
    assert_false(cluster_exceptions_decode(slice_of(bytes, cluster_exceptions_encode(e, bytes)), got));
    e->entries[0].place = 0;
    e->entries[0].exception.partition = PARTITION_COUNT;
    assert_false(cluster_exceptions_decode(slice_of(bytes, cluster_exceptions_encode(e, bytes)), got));
    free(e);
    free(got);
    free(bytes);
}

static void test_member_words(void **state)
{
    struct member_placed p = {.version = 9, .first = true, .count = MEMBER_PLACED_MAX}, got;
    char *bytes = made(MEMBER_PLACED_SIZE_MAX + 1), name[USER_SIZE_MAX];
    struct member_answer a = {.version = 12, .refused_count = 2, .refused = {UINT64_MAX, 5}}, answer;
    size_t size;

    memset(name, 'u', sizeof name);
    for (unsigned i = 0; i < MEMBER_PLACED_MAX; i++) {
        p.entries[i].here = i % 2 != 0 ? EXCEPTION_HERE : EXCEPTION_AWAY;
        p.entries[i].user = slice_of(name, sizeof name - i);
    }
    size = member_placed_encode(&p, bytes);
    assert_true(size <= MEMBER_PLACED_SIZE_MAX);
    ASSERT_WHOLE_ONLY(member_placed_decode, bytes, size, &got);
    assert_true(got.version == 9 && got.first && !got.last && got.count == MEMBER_PLACED_MAX);
    assert_int_equal(got.entries[1].here, EXCEPTION_HERE);
    assert_int_equal(got.entries[2].user.size, USER_SIZE_MAX - 2);
    p.entries[3].user.size = 0; /* Nobody. */
    assert_false(member_placed_decode(slice_of(bytes, member_placed_encode(&p, bytes)), &got));

    size = member_answer_encode(&a, bytes);
    ASSERT_WHOLE_ONLY(member_answer_decode, bytes, size, &answer);
    assert_true(answer.version == 12 && answer.refused_count == 2 && answer.refused[0] == UINT64_MAX);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),        cmocka_unit_test(test_same),         cmocka_unit_test(test_full),
        cmocka_unit_test(test_cluster_word), cmocka_unit_test(test_member_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
