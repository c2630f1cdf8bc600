#include "net/proxy_protocol.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define FOUR      "\xc0\x00\x02\x07\xc6\x33\x64\x02\x12\x67\x00\x8f" /* 192.0.2.7:4711 to 198.51.100.2:143 */
#define LONGEST                                                                                              \
    "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "                                                 \
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"

_Static_assert(sizeof(LONGEST) - 1 == PROXY_LINE_MAX, "the specification's worst line");

/* Whole, at every cut not yet, and with anything behind it the same. `peer` NULL: the connection's own. */
static void good(struct slice in, const char *peer)
{
    char text[NET_ADDR_TEXT_MAX], longer[PROXY_HEADER_MAX + 8];
    struct proxy_header header;
    size_t size = 0;

    assert_int_equal(proxy_header_parse(in, &header, &size), PROXY_HEADER_WHOLE);
    assert_int_equal(size, in.size);
    if (peer != NULL)
        assert_string_equal(net_addr_format(&header.source, text), peer);
    else
        assert_int_equal(header.source.family, 0);
    for (size_t cut = 0; cut < in.size; cut++)
        assert_int_equal(proxy_header_parse(slice_first(in, cut), &header, &size), PROXY_HEADER_MORE);
    memcpy(longer, in.data, in.size);
    memset(longer + in.size, '\n', 8);
    assert_int_equal(proxy_header_parse(slice_of(longer, in.size + 8), &header, &size), PROXY_HEADER_WHOLE);
    assert_int_equal(size, in.size);
}

static void bad(struct slice in)
{
    struct proxy_header header;
    size_t size;

    if (proxy_header_parse(in, &header, &size) != PROXY_HEADER_BAD)
        fail_msg("accepted: %.*s", (int)in.size, in.data);
}

static void test_v1(void **state)
{
    good(SLICE("PROXY TCP4 192.0.2.1 198.51.100.2 4711 143\r\n"), "192.0.2.1:4711");
    good(SLICE("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"), "255.255.255.255:65535");
    good(SLICE("PROXY TCP6 2001:db8::9 ::1 0 143\r\n"), "[2001:db8::9]:0");
    good(SLICE("PROXY UNKNOWN\r\n"), NULL);
    good(SLICE("PROXY UNKNOWN whatever \t it says\r\n"), NULL);
    good(SLICE(LONGEST), NULL);
}

static void test_v1_bad(void **state)
{
    static const char *const lines[] = {
        "PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4711 143 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4711 143 \r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 4711 143\r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.2 4711 143\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.2 4711 143\r\n",
        "PROXY TCP4 192.0.2.1 x 4711 143\r\n",
        "PROXY TCP4 * 198.51.100.2 4711 143\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 143\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 04711 143\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 -1 143\r\n",
        "PROXY TCP4 192.0.2.1:5 198.51.100.2 4711 143\r\n",
        "PROXY TCP4 2001:db8::9 ::1 4711 143\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 4711 143\r\n",
        "PROXY TCP6 [2001:db8::9] ::1 4711 143\r\n",
        "PROXY TCP6 2001:db8::9%eth0 ::1 4711 143\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4711 143\n",
        "PROXY UNIX /tmp/x\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWN \r\n",
        "PROXX",
        "proxy ",
        " PROXY UNKNOWN\r\n",
        "a LOGIN u p\r\n",
    };
    struct slice longest = SLICE(LONGEST);
    char longer[PROXY_LINE_MAX + 1];

    for (size_t i = 0; i < ARRAY_COUNT(lines); i++)
        bad(slice_str(lines[i]));
    memcpy(longer, longest.data, PROXY_LINE_MAX - 2);
    memcpy(longer + PROXY_LINE_MAX - 2, "5\r\n", 3);
    bad(slice_of(longer, sizeof longer));
    bad(SLICE("PROXY TCP4 192.0.2.1 198.51.100.2 \0 143\r\n"));
}

static void test_v2(void **state)
{
    static char unix_header[16 + 216] = SIGNATURE "\x21\x31\x00\xd8";

    good(SLICE(SIGNATURE "\x21\x11\x00\x0c" FOUR), "192.0.2.7:4711");
    good(SLICE(SIGNATURE "\x21\x11\x00\x16" FOUR "\x04\x00\x03xyz\x05\x00\x01!"), "192.0.2.7:4711");
    good(SLICE(SIGNATURE "\x21\x21\x00\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07"
                         "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x12\x67\x00\x8f"),
         "[2001:db8::7]:4711");
    good(slice_of(unix_header, sizeof unix_header), NULL);
    good(SLICE(SIGNATURE "\x21\x00\x00\x00"), NULL);
    good(SLICE(SIGNATURE "\x20\x00\x00\x00"), NULL);
    good(SLICE(SIGNATURE "\x20\x11\x00\x03xyz"), NULL); /* LOCAL: whatever it holds is skipped. */
}

static void test_v2_bad(void **state)
{
    bad(SLICE(SIGNATURE "\x11"));                  /* Version 1 in binary. */
    bad(SLICE(SIGNATURE "\x22\x11\x00\x0c" FOUR)); /* No such command. */
    bad(SLICE(SIGNATURE "\x21\x12\x00\x0c" FOUR)); /* A datagram. */
    bad(SLICE(SIGNATURE "\x21\x41\x00\x0c" FOUR)); /* No such family. */
    bad(SLICE(SIGNATURE "\x21\x11\x00\x0b" FOUR)); /* Shorter than its addresses. */
    bad(SLICE(SIGNATURE "\x21\x21\x00\x0c" FOUR));
    bad(SLICE(SIGNATURE "\x21\x11\xff\xff" FOUR)); /* Longer than anybody needs: not waited for. */
    bad(SLICE(SIGNATURE "\x20\x11\xff\xff"));
    bad(SLICE(SIGNATURE "\x21\x11\x00\x12" FOUR "\x04\x00\x04xyz")); /* A TLV that runs over. */
    bad(SLICE(SIGNATURE "\x21\x11\x00\x0e" FOUR "\x04\x00"));
    bad(SLICE("\r\n\r\n\0\r\nQUIT\r"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v1),
        cmocka_unit_test(test_v1_bad),
        cmocka_unit_test(test_v2),
        cmocka_unit_test(test_v2_bad),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
