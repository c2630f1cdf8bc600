/* Slices, numbers, addresses, writers. */
#include "core/io.h"
#include "core/list.h"
#include "core/writer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <cmocka.h>

static void test_slices(void **state)
{
    (void)state;
    assert_true(slice_eq(SLICE("abc"), slice_str("abc")));
    assert_false(slice_eq(SLICE("abc"), SLICE("abd")));
    assert_true(slice_eq(slice_of(NULL, 0), SLICE("")));
    assert_true(slice_eq_nocase(SLICE("iNbOx"), SLICE("InBoX")));
    assert_false(slice_eq_nocase(SLICE("INBO@"), SLICE("INBO`"))); /* Only letters have case. */
    assert_false(slice_eq_nocase(SLICE("[NBOX"), SLICE("{NBOX")));
    assert_true(slice_starts_nocase(SLICE("Content-Type: x"), SLICE("content-type:")));
    assert_false(slice_starts_nocase(SLICE("Con"), SLICE("content-type:")));
    assert_int_equal(slice_find(SLICE("a:b"), ':'), 1);
    assert_int_equal(slice_find(SLICE("ab"), ':'), 2);
    assert_int_equal(slice_find(slice_of(NULL, 0), ':'), 0);
}

static void test_numbers(void **state)
{
    static const char *const bad[] = {
        "", "-1", "+1", " 1", "1 ", "0x1", "1a", "18446744073709551616", "99999999999999999999"};
    uint64_t v = 1;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(slice_to_u64(slice_str(bad[i]), UINT64_MAX, &v));
    assert_int_equal(v, 1); /* Written on success only. */
    assert_true(slice_to_u64(SLICE("18446744073709551615"), UINT64_MAX, &v));
    assert_true(v == UINT64_MAX);
    assert_true(slice_to_u64(SLICE("0000000000000000000000007"), 7, &v));
    assert_int_equal(v, 7);
    assert_false(slice_to_u64(SLICE("8"), 7, &v));
    assert_false(slice_to_u64(SLICE("4294967296"), UINT32_MAX, &v));
    assert_true(slice_to_u64(SLICE("4294967295"), UINT32_MAX, &v));
    assert_true(slice_to_u64(SLICE("0"), 0, &v));
    assert_false(slice_to_u64(SLICE("1"), 0, &v));
}

static void test_secrets(void **state)
{
    char a[] = "secret", b[] = "secreT";

    (void)state;
    assert_false(bytes_equal_secret(a, b, 6));
    assert_true(bytes_equal_secret(a, b, 5));
    assert_true(bytes_equal_secret(a, b, 0));
    bytes_wipe(a, sizeof a);
    for (size_t i = 0; i < sizeof a; i++)
        assert_int_equal(a[i], 0);
    bytes_wipe(NULL, 0);
}

static void test_addresses(void **state)
{
    static const char *const good[] = {"127.0.0.1:143", "[::1]:143", "0.0.0.0:0", "[2001:db8::1]:65535"};
    static const char *const bad[] = {
        "",        ":",        ":143",       "127.0.0.1",  "127.0.0.1:",  "127.0.0.1:65536",
        "1.2.3:1", "::1:143",  "[::1]",      "[::1:143",   "[1.2.3.4]:1", "host:143",
        "[]:1",    "[::1]143", "1.2.3.4:-1", "1.2.3.4 :1", "300.1.1.1:1", "*"};
    char text[NET_ADDR_TEXT_MAX];
    struct net_addr a, b;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(good); i++) {
        assert_true(net_addr_parse(slice_str(good[i]), &a));
        assert_string_equal(net_addr_format(&a, text), good[i]);
        for (size_t size = 0; size < strlen(good[i]);
             size++) /* Cut anywhere it is refused, or a shorter port. */
            if (net_addr_parse(slice_of(good[i], size), &b))
                assert_true(net_addr_same_host(&a, &b));
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(net_addr_parse(slice_str(bad[i]), &a));
    assert_false(net_addr_parse(slice_of("1.2.3.4\0:1", 10), &a));
    assert_true(net_addr_parse(SLICE("*:993"), &a));
    assert_int_equal(a.family, AF_INET);
    assert_int_equal(a.port, 993);
    assert_string_equal(net_addr_format(&(struct net_addr){.family = 0}, text), "none");
}

static bool loopback(const char *text)
{
    struct net_addr a;

    assert_true(net_addr_parse(slice_str(text), &a));
    return net_addr_is_loopback(&a);
}

static bool same_host(const char *x, const char *y)
{
    struct net_addr a, b;

    assert_true(net_addr_parse(slice_str(x), &a));
    assert_true(net_addr_parse(slice_str(y), &b));
    return net_addr_same_host(&a, &b);
}

static void test_hosts(void **state)
{
    (void)state;
    assert_true(loopback("127.9.9.9:1"));
    assert_true(loopback("[::1]:1"));
    assert_true(loopback("[::ffff:127.0.0.1]:1"));
    assert_false(loopback("128.0.0.1:1"));
    assert_false(loopback("[::2]:1"));
    assert_false(loopback("[::ffff:10.0.0.1]:1"));
    assert_true(same_host("10.0.0.1:1", "10.0.0.1:2"));
    assert_true(same_host("10.0.0.1:1", "[::ffff:10.0.0.1]:2"));
    assert_false(same_host("10.0.0.1:1", "10.0.0.2:1"));
    assert_false(same_host("0.0.0.1:1", "[::1]:1"));
    assert_false(net_addr_same_host(&(struct net_addr){.family = 0}, &(struct net_addr){.family = 0}));
}

/* Of memory that held other things before: neither padding nor the rest of an IPv4 address counts. */
static void test_same_addr(void **state)
{
    struct net_addr a, b;

    (void)state;
    memset(&a, 0x55, sizeof a);
    memset(&b, 0xaa, sizeof b);
    a.family = b.family = AF_INET;
    a.port = b.port = 143;
    memcpy(a.ip, "\x7f\0\0\1", 4);
    memcpy(b.ip, "\x7f\0\0\1", 4);
    assert_true(net_addr_same(&a, &b));
    b.port = 144;
    assert_false(net_addr_same(&a, &b));
    b.port = 143;
    b.ip[3] = 2;
    assert_false(net_addr_same(&a, &b));
    b.ip[3] = 1;
    b.family = AF_INET6;
    assert_false(net_addr_same(&a, &b));
    memset(a.ip, 0, sizeof a.ip);
    memset(b.ip, 0, sizeof b.ip);
    a.family = AF_INET6;
    assert_true(net_addr_same(&a, &b));
    b.ip[15] = 1;
    assert_false(net_addr_same(&a, &b));
}

/* A writer of windows of `window_size` bytes that gathers what was taken. */
static char gathered[8192], window[1024];
static size_t gathered_size, window_size;

static void gather(struct writer *w)
{
    size_t used = writer_used(w);

    assert_true(gathered_size + used < sizeof gathered);
    memcpy(gathered + gathered_size, w->start, used);
    gathered_size += used;
    gathered[gathered_size] = '\0';
    w->start = w->at = window;
    w->end = window + window_size;
}

static void test_writer(void **state)
{
    char expected[4000];

    (void)state;
    for (window_size = WRITER_NEED_MAX; window_size < WRITER_NEED_MAX + 20; window_size++) {
        struct writer w = {window, window, window + window_size, gather};

        gathered_size = 0;
        memset(expected, 'x', sizeof expected);
        writer_put(&w, expected, sizeof expected);
        writer_text(&w, "* OK ");
        writer_u64(&w, 0);
        writer_char(&w, ' ');
        writer_u64(&w, UINT64_MAX);
        writer_slice(&w, SLICE(""));
        writer_printf(&w, " %s=%d", "a", -5);
        gather(&w);
        assert_memory_equal(gathered, expected, sizeof expected);
        assert_string_equal(gathered + sizeof expected, "* OK 0 18446744073709551615 a=-5");
    }
}

static void test_writer_fixed(void **state)
{
    char buffer[11];
    struct writer w;

    (void)state;
    writer_fixed(&w, buffer, sizeof buffer);
    writer_printf(&w, "%d", 12345);
    writer_u64(&w, 123456); /* Full to the last byte. */
    assert_int_equal(writer_used(&w), 11);
    assert_memory_equal(buffer, "12345123456", 11);
}

struct item {
    struct list link;
    int value;
};

static void test_lists(void **state)
{
    struct item items[3] = {{.value = 0}, {.value = 1}, {.value = 2}};
    struct list head, moved;
    int expected = 0;

    (void)state;
    list_init(&head);
    assert_null(list_pop_front(&head));
    list_move(&head, &moved);
    assert_true(list_empty(&moved));
    for (int i = 0; i < 3; i++)
        list_push_back(&head, &items[i].link);
    list_move(&head, &moved);
    assert_true(list_empty(&head));
    list_each_safe(it, &moved)
    {
        struct item *item = CONTAINER_OF(it, struct item, link);

        assert_int_equal(item->value, expected++);
        list_remove(it);
        assert_false(list_linked(it));
    }
    assert_true(list_empty(&moved));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices),  cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_secrets), cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_hosts),   cmocka_unit_test(test_same_addr),
        cmocka_unit_test(test_writer),  cmocka_unit_test(test_writer_fixed),
        cmocka_unit_test(test_lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
