/* Who begins a TLS handshake, who waits, who gives way. */
#include "roles/proxy/handshakes.h"
#include "tests/unit/core/fake_door.h"
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define MAX_COUNT 40
#define GUESTS    500

struct guest {
    struct handshake handshake; /* First. */
    unsigned begun;             /* When: 1 is the first of all. */
    bool cut;
};

static struct shard *shard;
static struct handshakes handshakes;
static struct guest guests[GUESTS];
static unsigned guest_count, begun;

static void on_begin(struct handshake *one)
{
    ((struct guest *)one)->begun = ++begun;
}

static void on_give_way(struct handshake *one)
{
    ((struct guest *)one)->cut = true;
    handshake_leave(&handshakes, one);
}

static const struct handshake_ops ops = {on_begin, on_give_way};

static int setup(void **state)
{
    shard = fake_shard_begin();
    memset(guests, 0, sizeof guests);
    guest_count = begun = 0;
    handshakes_init(&handshakes, MAX_COUNT, 1);
    return 0;
}

static int teardown(void **state)
{
    for (unsigned i = 0; i < guest_count; i++)
        handshake_leave(&handshakes, &guests[i].handshake);
    assert_int_equal(handshakes.count, 0);
    assert_true(list_empty(&handshakes.turns) && list_empty(&handshakes.shaking));
    handshakes_fini(&handshakes);
    fake_shard_end(shard);
    return 0;
}

/* From 10.0.0.`host`. */
static struct guest *arrives(uint8_t host)
{
    struct net_addr peer = {.family = AF_INET, .ip = {10, 0, 0, host}};
    struct guest *g = &guests[guest_count++];

    assert_true(guest_count <= GUESTS);
    handshake_ask(&handshakes, &g->handshake, &peer, &ops);
    return g;
}

static struct guest *arrive(uint8_t host, unsigned count)
{
    struct guest *first = &guests[guest_count];

    for (unsigned i = 0; i < count; i++)
        (void)arrives(host);
    return first;
}

static unsigned count_begun(const struct guest *first, unsigned count)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += first[i].begun > 0;
    return sum;
}

static unsigned count_cut(const struct guest *first, unsigned count)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += first[i].cut;
    return sum;
}

static void turns(void)
{
    (void)fake_run(shard, 100);
}

/* At once, as long as there is room; but not all in one turn, so that who comes meanwhile is seen. */
static void test_begins(void **state)
{
    struct guest *g = arrive(1, MAX_COUNT + 5);

    assert_int_equal(count_begun(g, MAX_COUNT), HANDSHAKES_A_TURN);
    turns();
    assert_int_equal(begun, MAX_COUNT);
    handshake_leave(&handshakes, &g[0].handshake);
    turns();
    assert_int_equal(begun, MAX_COUNT + 1);
    assert_int_equal(count_cut(g, MAX_COUNT + 5), 0);
}

/* Of one address the newest is next, then the oldest; but others of other addresses have their turn first. */
static void test_order(void **state)
{
    struct guest *crowd = arrive(1, MAX_COUNT), *older, *middle, *newer, *other;

    turns();
    older = arrives(1);
    middle = arrives(1);
    newer = arrives(1);
    other = arrives(2);
    handshake_leave(&handshakes, &crowd[0].handshake);
    handshake_leave(&handshakes, &crowd[1].handshake);
    turns();
    assert_true(newer->begun > 0 && other->begun > 0 && older->begun == 0);
    handshake_leave(&handshakes, &crowd[2].handshake);
    turns();
    assert_true(older->begun > 0 && middle->begun == 0);
}

/* Thousands from one address do not keep another one's client waiting: the first of them that has had its time gives way. */
static void test_share(void **state)
{
    struct guest *crowd = arrive(1, MAX_COUNT), *other;

    turns();
    fake_sleep_ms(shard, HANDSHAKE_GRACE_LEAST_MS / 2);
    other = arrives(2);
    turns();
    assert_int_equal(other->begun, 0);
    fake_sleep_ms(shard, HANDSHAKE_GRACE_LEAST_MS);
    assert_true(other->begun > 0);
    assert_true(crowd[0].cut);
    assert_int_equal(count_cut(crowd, MAX_COUNT), 1);
}

/* Nobody has more than his share: all have the long time. */
static void test_grace(void **state)
{
    struct guest *g = &guests[0], *other;

    for (unsigned i = 0; i < MAX_COUNT; i++)
        (void)arrives((uint8_t)i);
    turns();
    assert_int_equal(begun, MAX_COUNT);
    other = arrives(200);
    fake_sleep_ms(shard, HANDSHAKE_GRACE_MS - 50);
    assert_int_equal(count_cut(g, MAX_COUNT), 0);
    fake_sleep_ms(shard, 100);
    assert_true(other->begun > 0 && g[0].cut);
    assert_int_equal(count_cut(g, MAX_COUNT), 1);
}

/* While many end theirs they have more time. */
static void test_busy(void **state)
{
    struct guest *first = arrive(1, MAX_COUNT), *next;

    turns();
    for (unsigned i = 0; i < MAX_COUNT; i += 2)
        handshake_done(&handshakes, &first[i].handshake);
    next = arrive(1, MAX_COUNT);
    fake_sleep_ms(shard, HANDSHAKE_GRACE_BUSY_MS - 50);
    assert_int_equal(count_cut(first, MAX_COUNT), 0);
    assert_int_equal(count_begun(next, MAX_COUNT), MAX_COUNT / 2);
    fake_sleep_ms(shard, 100);
    turns();
    assert_int_equal(count_cut(first, MAX_COUNT) + count_cut(next, MAX_COUNT), MAX_COUNT / 2);
    assert_int_equal(count_begun(next, MAX_COUNT), MAX_COUNT);
}

/* Of one address alone: the oldest gives way to the newest after the long time. */
static void test_alone(void **state)
{
    struct guest *crowd = arrive(1, MAX_COUNT), *next;

    turns();
    next = arrives(1);
    fake_sleep_ms(shard, HANDSHAKE_GRACE_MS / 2);
    assert_int_equal(count_cut(crowd, MAX_COUNT) + next->begun, 0);
    fake_sleep_ms(shard, HANDSHAKE_GRACE_MS);
    assert_true(crowd[0].cut && next->begun > 0);
    assert_int_equal(count_cut(crowd, MAX_COUNT), 1);
}

/* Ends in every stage, in any order: nothing is counted twice, and nobody is forgotten. */
static void test_leave(void **state)
{
    struct guest *g = arrive(1, GUESTS - 10);

    for (unsigned i = 0; i < GUESTS - 10; i++) {
        struct guest *one = &g[(i * 11) % (GUESTS - 10)];

        handshake_leave(&handshakes, &one->handshake);
        handshake_leave(&handshakes, &one->handshake);
        turns();
        assert_int_equal(handshakes.count, MIN((unsigned)MAX_COUNT, GUESTS - 10 - i - 1));
    }
}

/* A subscriber of IPv6 has as many addresses as he likes. */
static void test_subscriber(void **state)
{
    struct net_addr a = {.family = AF_INET6, .ip = {0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 5, 6}}, b = a, c = a;
    struct net_addr mapped = {.family = AF_INET6, .ip = {[10] = 0xff, [11] = 0xff, 10, 0, 0, 1}};
    struct net_addr plain = {.family = AF_INET, .ip = {10, 0, 0, 1}};

    b.ip[8]++;
    c.ip[7]++;
    assert_true(slice_eq(net_addr_subscriber(&a), net_addr_subscriber(&b)));
    assert_false(slice_eq(net_addr_subscriber(&a), net_addr_subscriber(&c)));
    assert_true(slice_eq(net_addr_subscriber(&mapped), net_addr_subscriber(&plain)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_begins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_share, setup, teardown),
        cmocka_unit_test_setup_teardown(test_grace, setup, teardown),
        cmocka_unit_test_setup_teardown(test_busy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leave, setup, teardown),
        cmocka_unit_test(test_subscriber),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
