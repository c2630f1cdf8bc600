#include "roles/director/login_cache.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct heap *heap;

static int setup(void **state)
{
    heap = heap_create("test", 64 << 20);
    return heap == NULL;
}

static int teardown(void **state)
{
    heap_destroy(heap);
    return 0;
}

static void mac_of(uint64_t n, uint8_t mac[DIGEST_SIZE])
{
    const uint8_t key[DIGEST_SIZE] = {7};
    struct slice part = slice_of(&n, sizeof n);

    digest_hmac(key, &part, 1, mac);
}

/* RFC 4231, test case 1 and 2 have keys of other sizes; the inner function is checked by case 1 padded with
 * zeros, as HMAC itself pads. */
static void test_hmac(void **state)
{
    uint8_t key[DIGEST_SIZE], digest[DIGEST_SIZE];
    static const uint8_t expected[DIGEST_SIZE] = {
        0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53, 0x5c, 0xa8, 0xaf, 0xce, 0xaf, 0x0b, 0xf1, 0x2b,
        0x88, 0x1d, 0xc2, 0x00, 0xc9, 0x83, 0x3d, 0xa7, 0x26, 0xe9, 0x37, 0x6c, 0x2e, 0x32, 0xcf, 0xf7};
    struct slice parts[] = {SLICE("Hi"), SLICE(""), SLICE(" There")};

    memset(key, 0, sizeof key);
    memset(key, 0x0b, 20);
    digest_hmac(key, parts, 3, digest);
    assert_memory_equal(digest, expected, sizeof expected);
    assert_true(digest_equal_text(key, SLICE("same"), SLICE("same")));
    assert_false(digest_equal_text(key, SLICE("same"), SLICE("samE")));
    assert_false(digest_equal_text(key, SLICE("same"), SLICE("same ")));
    assert_true(digest_equal_text(key, SLICE(""), slice_of(NULL, 0)));
}

static void test_right_ones_stay(void **state)
{
    struct login_cache c;
    uint8_t mac[DIGEST_SIZE], other[DIGEST_SIZE];

    login_cache_init(&c, heap, 64, 1000);
    mac_of(1, mac);
    mac_of(2, other);
    assert_false(login_cache_has(&c, 9, mac, 0));
    login_cache_put(&c, 9, mac, 0);
    assert_true(login_cache_has(&c, 9, mac, 999));
    assert_false(login_cache_has(&c, 9, mac, 1000)); /* Over. */
    assert_false(login_cache_has(&c, 9, other, 1));  /* A wrong password... */
    assert_true(login_cache_has(&c, 9, mac, 1));     /* ...takes nothing away. */
    assert_false(login_cache_has(&c, 10, mac, 1));   /* Another user with the same password. */
    login_cache_put(&c, 9, other, 2);                /* It was changed. */
    assert_false(login_cache_has(&c, 9, mac, 3));
    assert_true(login_cache_has(&c, 9, other, 3));
    login_cache_fini(&c);
}

static void test_bounded(void **state)
{
    struct login_cache c;
    uint8_t mac[DIGEST_SIZE];
    unsigned have = 0;

    login_cache_init(&c, heap, 64, 100000);
    for (uint64_t i = 0; i < 1000; i++) {
        mac_of(i, mac);
        login_cache_put(&c, i, mac, i);
    }
    for (uint64_t i = 0; i < 1000; i++) {
        mac_of(i, mac);
        have += login_cache_has(&c, i, mac, 1000);
    }
    assert_int_equal(have, 64); /* The youngest ones. */
    mac_of(999, mac);
    assert_true(login_cache_has(&c, 999, mac, 1000));
    login_cache_fini(&c);
}

static void test_off(void **state)
{
    struct login_cache c;
    uint8_t mac[DIGEST_SIZE];

    mac_of(1, mac);
    login_cache_init(&c, heap, 0, 1000);
    login_cache_put(&c, 1, mac, 0);
    assert_false(login_cache_has(&c, 1, mac, 0));
    login_cache_fini(&c);
    login_cache_init(&c, heap, 64, 0);
    login_cache_put(&c, 1, mac, 0);
    assert_false(login_cache_has(&c, 1, mac, 0));
    login_cache_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_right_ones_stay),
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_off),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
