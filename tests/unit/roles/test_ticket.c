#include "roles/ticket.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const struct ticket_key one = {7, {1, 2, 3}}, two = {9, {4, 5, 6}}, three = {11, {7}};
static const uint8_t renewal[CLUSTER_KEY_SIZE] = {9};

static struct ticket made(enum ticket_scope scope, const char *proxy, const char *user)
{
    const struct ticket_claim claim = {.scope = scope,
                                       .generation = 3,
                                       .fingerprint = 5,
                                       .proxy = slice_str(proxy),
                                       .user = slice_str(user)};
    struct ticket t;

    ticket_make(&claim, &one, renewal, &t);
    return t;
}

static enum ticket_verdict check(const struct ticket *t, enum ticket_scope scope, const char *proxy,
                                 const char *user)
{
    const struct ticket_key keys[2] = {two, one};

    return ticket_check(t, keys, scope, slice_str(proxy), slice_str(user));
}

static void test_good(void **state)
{
    struct ticket t = made(TICKET_SESSION, "p1", "u1");

    assert_int_equal(check(&t, TICKET_SESSION, "p1", "u1"), TICKET_GOOD);
    assert_int_equal(check(&t, TICKET_DELIVER, "p1", "u1"), TICKET_GOOD);
}

static void test_foreign(void **state)
{
    struct ticket t = made(TICKET_SESSION, "p1", "u1");

    assert_int_equal(check(&t, TICKET_SESSION, "p2", "u1"), TICKET_BAD);
    assert_int_equal(check(&t, TICKET_SESSION, "p1", "u2"), TICKET_BAD);
    t = made(TICKET_SESSION, "p", "1u1"); /* The same bytes, with another boundary. */
    assert_int_equal(check(&t, TICKET_SESSION, "p1", "u1"), TICKET_BAD);
}

static void test_scope(void **state)
{
    struct ticket t = made(TICKET_DELIVER, "p1", "u1");

    assert_int_equal(check(&t, TICKET_DELIVER, "p1", "u1"), TICKET_GOOD);
    assert_int_equal(check(&t, TICKET_SESSION, "p1", "u1"), TICKET_BAD);
    t.bytes[4] = TICKET_SESSION;
    assert_int_equal(check(&t, TICKET_SESSION, "p1", "u1"), TICKET_BAD);
}

/* Every bit of what the backend looks at counts. */
static void test_forged(void **state)
{
    const struct ticket good = made(TICKET_SESSION, "p1", "u1");

    for (unsigned bit = 0; bit < 32 * 8; bit++) {
        struct ticket t = good;

        if (bit >= 5 * 8 && bit < 8 * 8)
            continue; /* Zeros, of no meaning. */
        t.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(check(&t, TICKET_SESSION, "p1", "u1"), TICKET_GOOD);
    }
}

static void test_expired(void **state)
{
    const struct ticket_key keys[2] = {three, two}, none[2] = {{0}};
    struct ticket t = made(TICKET_SESSION, "p1", "u1"), zero = {{0}};
    struct ticket_claim claim = {.fingerprint = 5, .proxy = SLICE("p1"), .user = SLICE("u1")}, other = claim;

    assert_int_equal(ticket_check(&t, keys, TICKET_SESSION, SLICE("p1"), SLICE("u1")), TICKET_EXPIRED);
    assert_int_not_equal(ticket_check(&zero, none, TICKET_SESSION, SLICE("p1"), SLICE("u1")), TICKET_GOOD);
    assert_true(ticket_renewable(&t, renewal, &claim));
    assert_int_equal(claim.scope, TICKET_SESSION);
    assert_int_equal(claim.generation, 3);
    assert_false(ticket_renewable(&t, one.key, &claim));
    other.proxy = SLICE("p2");
    assert_false(ticket_renewable(&t, renewal, &other));
    other = claim;
    other.fingerprint = 6; /* He has another password by now. */
    assert_false(ticket_renewable(&t, renewal, &other));
    assert_int_equal(other.fingerprint, 6);
}

static void test_partition(void **state)
{
    uint8_t key[CLUSTER_KEY_SIZE] = {1}, secret[PARTITION_SECRET_SIZE], other[PARTITION_SECRET_SIZE];
    unsigned same = 0;
    char user[16];

    partition_secret(key, secret);
    key[0] = 2;
    partition_secret(key, other);
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(user, sizeof user, "u%u", i);
        assert_true(partition_of(secret, slice_str(user)) < PARTITION_COUNT);
        same += partition_of(secret, slice_str(user)) == partition_of(other, slice_str(user));
    }
    assert_true(same < 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),   cmocka_unit_test(test_foreign), cmocka_unit_test(test_scope),
        cmocka_unit_test(test_forged), cmocka_unit_test(test_expired), cmocka_unit_test(test_partition),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
