/* Keys by which old tickets are known again: for how long, and what stands on the disk. */
#include "roles/director/renewal.h"
#include "roles/ticket.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define STEPS 3

static const struct ticket_key key = {.id = 1};

void random_bytes(void *data, size_t size)
{
    static uint8_t next;

    for (size_t i = 0; i < size; i++)
        ((uint8_t *)data)[i] = (uint8_t)(++next * 37 + i);
}

static struct ticket ticket(const struct renewal *r)
{
    struct ticket_claim claim = {.scope = TICKET_SESSION, .proxy = SLICE("p1"), .user = SLICE("u1")};
    struct ticket t;

    ticket_make(&claim, &key, r->keys[0], &t);
    return t;
}

static bool known(const struct renewal *r, const struct ticket *t)
{
    struct ticket_claim claim = {.proxy = SLICE("p1"), .user = SLICE("u1")};

    return ticket_renewable(t, r->keys[0], &claim) || ticket_renewable(t, r->keys[1], &claim);
}

static void test_age(void **state)
{
    struct renewal r;
    struct ticket first, last;

    renewal_make(&r);
    first = ticket(&r);
    for (unsigned i = 0; i < STEPS - 1; i++)
        renewal_step(&r, STEPS);
    last = ticket(&r);
    for (unsigned i = 0; i < STEPS; i++) { /* The newest no more, but known. */
        renewal_step(&r, STEPS);
        assert_true(known(&r, &first) && known(&r, &last));
    }
    renewal_step(&r, STEPS);
    assert_false(known(&r, &first) || known(&r, &last));
    first = ticket(&r);
    assert_true(known(&r, &first));
}

/* With tickets of before and its age. */
static void test_disk(void **state)
{
    struct renewal r, again;
    char bytes[RENEWAL_SIZE];
    struct ticket t;

    renewal_make(&r);
    t = ticket(&r);
    renewal_step(&r, STEPS);
    renewal_encode(&r, bytes);
    renewal_decode(bytes, &again);
    assert_memory_equal(&r, &again, sizeof r);
    renewal_step(&again, 2);
    assert_true(known(&again, &t));
    assert_memory_not_equal(r.keys[0], again.keys[0], CLUSTER_KEY_SIZE);
    assert_memory_equal(r.fingerprint_key, again.fingerprint_key, CLUSTER_KEY_SIZE);
}

static void test_one_key(void **state)
{
    struct renewal r, one, two;
    struct ticket t;

    renewal_make(&r);
    t = ticket(&r);
    renewal_from_one(r.keys[0], &one);
    renewal_from_one(r.keys[0], &two);
    assert_true(known(&one, &t));
    assert_memory_equal(one.fingerprint_key, two.fingerprint_key, CLUSTER_KEY_SIZE);
    assert_memory_not_equal(one.keys[1], two.keys[1], CLUSTER_KEY_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_age),
        cmocka_unit_test(test_disk),
        cmocka_unit_test(test_one_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
