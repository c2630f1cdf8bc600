#include "roles/proxy/budget.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static unsigned again(struct budget *b, unsigned tries, uint64_t now_ms)
{
    unsigned count = 0;

    for (unsigned i = 0; i < tries; i++)
        count += budget_again(b, now_ms);
    return count;
}

static void asked(struct budget *b, unsigned count, uint64_t now_ms)
{
    for (unsigned i = 0; i < count; i++)
        budget_asked(b, now_ms);
}

/* Where little is asked a few may be asked again; and when a term has passed, more. */
static void test_reserve(void **state)
{
    struct budget b = {0};
    uint64_t now = 1000000;

    asked(&b, 5, now);
    assert_int_equal(again(&b, 1000, now), BUDGET_RESERVE);
    now += BUDGET_TERM_MS; /* Those of the term before count still. */
    assert_int_equal(again(&b, 1000, now), 0);
    now += BUDGET_TERM_MS;
    assert_int_equal(again(&b, 1000, now), BUDGET_RESERVE);
    now += 5 * BUDGET_TERM_MS;
    assert_int_equal(again(&b, 1000, now), BUDGET_RESERVE);
}

/* One in ten, whatever the order. */
static void test_part(void **state)
{
    struct budget b = {0};
    uint64_t now = 1000000;
    unsigned count = 0, total = 0;

    for (unsigned i = 0; i < 600; i++, now += 100) {
        asked(&b, 100, now);
        total += 100;
        count += again(&b, 100, now); /* Everybody is refused. */
        assert_true(count <= MAX(total / BUDGET_PART, (unsigned)BUDGET_RESERVE));
    }
    assert_int_equal(count, total / BUDGET_PART);
}

static void test_tells(void **state)
{
    struct budget b = {0};

    assert_true(budget_tells(&b, 0));
    assert_false(budget_tells(&b, BUDGET_TERM_MS - 1));
    assert_true(budget_tells(&b, BUDGET_TERM_MS + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_part),
        cmocka_unit_test(test_tells),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
