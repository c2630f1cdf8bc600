/* The table of accounts: what was put in is found, newer wins, nobody moves, what no record can be is refused by reading, and
 * it costs what it says. */
#include "storage/table.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define COUNT 3000

static uint64_t random_state = 1;

static uint64_t random_u(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 20 ^ random_state << 31;
}

static struct account_entry entry_random(void)
{
    struct account_entry e = {.modseq = random_u() >> 1,
                              .segment = (uint32_t)random_u(),
                              .offset =
                                  (uint32_t)(random_u() % (SEGMENT_SIZE_MAX / RECORD_ALIGN)) * RECORD_ALIGN,
                              .size = 1 + (uint32_t)(random_u() % BATCH_SIZE_MAX),
                              .stream = (uint16_t)(random_u() % 4096),
                              .snapshot = random_u() % 2};

    put_u64(e.id.bytes, random_u());
    put_u64(e.id.bytes + 8, random_u());
    return e;
}

static void assert_entry(const struct account_entry *a, const struct account_entry *b)
{
    assert_memory_equal(&a->id, &b->id, sizeof a->id);
    assert_int_equal(a->modseq, b->modseq);
    assert_int_equal(a->segment, b->segment);
    assert_int_equal(a->offset, b->offset);
    assert_int_equal(a->size, b->size);
    assert_int_equal(a->stream, b->stream);
    assert_int_equal(a->snapshot, b->snapshot);
}

static void test_many(void **state)
{
    static struct account_entry entries[COUNT];
    struct heap *h = heap_create("test", 0);
    struct account_table t = {0};
    struct account_entry found, old;

    (void)state;
    for (uint32_t i = 0; i < COUNT; i++) {
        entries[i] = entry_random();
        assert_false(account_table_find(&t, &entries[i].id, &found));
        assert_int_equal(account_table_update(&t, h, &entries[i]), 0);
        for (unsigned k = 0; k < 3; k++) {
            struct account_entry *e = &entries[random_u() % (i + 1)];

            old = *e;
            old.modseq -= old.modseq > 0;
            old.segment++;
            assert_int_equal(account_table_update(&t, h, &old), 0); /* Never goes back. */
            e->modseq += e->modseq < INT64_MAX;
            e->offset = (e->offset + RECORD_ALIGN) % SEGMENT_SIZE_MAX;
            assert_int_equal(account_table_update(&t, h, e), 0);
        }
    }
    assert_int_equal(t.count, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_true(account_table_find(&t, &entries[i].id, &found));
        assert_entry(&found, &entries[i]);
        account_table_at(&t, i, &found);
        assert_entry(&found, &entries[i]);
    }
    account_table_fini(&t, h);
    assert_int_equal(heap_used(h), 0);
    heap_destroy(h);
}

static void test_limits(void **state)
{
    struct heap *h = heap_create("test", 0);
    struct account_table t = {0};
    struct account_entry e = entry_random(), found;

    (void)state;
    e.modseq = INT64_MAX;
    e.offset = SEGMENT_SIZE_MAX - RECORD_ALIGN;
    e.size = BATCH_SIZE_MAX;
    e.snapshot = 0;
    assert_int_equal(account_table_update(&t, h, &e), 0);
    assert_true(account_table_find(&t, &e.id, &found));
    assert_entry(&found, &e);
    e.snapshot = 1; /* Of two with the same modseq the newer one. */
    for (unsigned bad = 0; bad < 4; bad++) {
        struct account_entry lie = e;

        lie.size = bad == 0 ? BATCH_SIZE_MAX + 1 : bad == 1 ? 0 : lie.size;
        lie.offset = bad == 2 ? SEGMENT_SIZE_MAX : bad == 3 ? RECORD_ALIGN / 2 : lie.offset;
        assert_int_equal(account_table_update(&t, h, &lie), 0);
        assert_true(account_table_find(&t, &e.id, &found));
        assert_true(found.size < RECORD_HEADER_SIZE && found.snapshot == 1);
    }
    memset(&e.id, 0, sizeof e.id);
    assert_int_equal(account_table_update(&t, h, &e), 0);
    assert_int_equal(t.count, 1);
    account_table_fini(&t, h);
    heap_destroy(h);
}

/* Small servers pay for what they have, large ones 36 bytes and little more. */
static void test_size(void **state)
{
    struct heap *h = heap_create("test", 0);
    struct account_table t = {0};
    double worst = 0, sum = 0;

    (void)state;
    for (uint32_t i = 1; i <= 2000; i++) {
        struct account_entry e = entry_random();

        assert_int_equal(account_table_update(&t, h, &e), 0);
        assert_true(account_table_size(&t) <= 192 || i > 1);
        if (i <= 1000)
            continue;
        worst = MAX(worst, (double)account_table_size(&t) / i);
        sum += (double)account_table_size(&t) / i;
    }
    print_message("bytes an account: %.1f, at most %.1f\n", sum / 1000, worst);
    assert_true(sum / 1000 <= 43 && worst <= 44);
    account_table_fini(&t, h);
    heap_destroy(h);
}

static void test_no_memory(void **state)
{
    struct heap *h = heap_create("test", 32 * 1024);
    struct account_table t = {0};
    struct account_entry e, found;
    uint32_t count = 0;

    (void)state;
    for (;; count++) {
        e = entry_random();
        if (account_table_update(&t, h, &e) < 0)
            break;
        assert_true(account_table_find(&t, &e.id, &found));
    }
    assert_true(count > 100 && t.count == count);
    for (uint32_t i = 0; i < count; i++) {
        account_table_at(&t, i, &e);
        assert_true(account_table_find(&t, &e.id, &found));
    }
    account_table_fini(&t, h);
    assert_int_equal(heap_used(h), 0);
    heap_destroy(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
