#include "core/net_prefix.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static bool in(const char *network, const char *address)
{
    struct net_prefix p;
    struct net_addr a;

    assert_true(net_prefix_parse(slice_str(network), &p));
    assert_true(net_addr_parse(slice_str(address), &a));
    return net_prefix_contains(&p, &a);
}

static void test_contains(void **state)
{
    assert_true(in("10.0.0.0/8", "10.255.1.2:1"));
    assert_false(in("10.0.0.0/8", "11.0.0.1:1"));
    assert_true(in("192.168.4.0/22", "192.168.7.255:1"));
    assert_false(in("192.168.4.0/22", "192.168.8.0:1"));
    assert_true(in("127.0.0.1", "127.0.0.1:1"));
    assert_false(in("127.0.0.1", "127.0.0.2:1"));
    assert_true(in("0.0.0.0/0", "1.2.3.4:1"));
    assert_false(in("0.0.0.0/0", "[::1]:1"));
    assert_true(in("2001:db8::/32", "[2001:db8:ffff::1]:1"));
    assert_false(in("2001:db8::/32", "[2001:db9::1]:1"));
    assert_true(in("::/0", "[::1]:1"));
    assert_true(in("10.0.0.0/8", "[::ffff:10.1.2.3]:1"));
}

static void test_parse(void **state)
{
    static const char *const wrong[] = {"",         "10.0.0.0/33",  "10.0.0.1/8",  "10.0.0.0/",
                                        "10.0.0/8", "::/129",       "10.0.0.0/-1", "x",
                                        "::1/64",   "10.0.0.0/8/8", "/8"};
    char longest[256];
    struct net_prefix p;

    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++)
        assert_false(net_prefix_parse(slice_str(wrong[i]), &p));
    memset(longest, '1', sizeof longest);
    for (size_t i = 0; i < sizeof longest; i++)
        assert_false(net_prefix_parse(slice_of(longest, i), &p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_contains), cmocka_unit_test(test_parse)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
