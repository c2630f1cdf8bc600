#include "net/base64.h"
#include "net/sasl.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct sasl s;
static struct slice challenge;

static enum sasl_result plain(struct slice message)
{
    char text[BASE64_SIZE(4096)];
    size_t size = base64_encode(message, text);

    return sasl_start(&s, SASL_PLAIN, slice_of(text, size), &challenge);
}

static bool wiped(void)
{
    for (size_t i = 0; i < sizeof s; i++) {
        if (((char *)&s)[i] != 0)
            return false;
    }
    return true;
}

static void test_base64(void **state)
{
    static const char *const bad[] = {
        "=",    "A",     "AA",       "AAA",  "A===", "====",       "AA=A", "AA==AAAA", "AAB=",    "AB==",
        "AA A", "AAA\n", "AAAA\r\n", "AA-_", "A=AA", "\xc3\x84==", "!!!!", "AAAA=",    "AAAAA==", "AAA=A==="};
    char out[64], text[96];
    size_t size;

    for (unsigned i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(base64_decode(slice_str(bad[i]), out, sizeof out, &size));
    for (size_t n = 0; n <= 32; n++) {
        char bytes[32];

        for (size_t i = 0; i < n; i++)
            bytes[i] = (char)(i * 37 + n * 101);
        assert_int_equal(base64_encode(slice_of(bytes, n), text), BASE64_SIZE(n));
        assert_true(base64_decode(slice_of(text, BASE64_SIZE(n)), out, n, &size));
        assert_int_equal(size, n);
        assert_memory_equal(out, bytes, n);
        if (n > 0)
            assert_false(base64_decode(slice_of(text, BASE64_SIZE(n)), out, n - 1, &size));
    }
    assert_true(base64_decode(SLICE("+/8="), out, sizeof out, &size)); /* RFC 4648: fb ff */
    assert_memory_equal(out, "\xfb\xff", 2);
}

static void test_plain(void **state)
{
    assert_int_equal(plain(SLICE("\0tim\0tanstaaftanstaaf")), SASL_DONE); /* RFC 4616 4 */
    assert_true(slice_eq(s.user, SLICE("tim")) && slice_eq(s.password, SLICE("tanstaaftanstaaf")));
    assert_int_equal(plain(SLICE("tim\0tim\0\xff\xfe")), SASL_DONE);
    assert_true(slice_eq(s.password, SLICE("\xff\xfe")));
    assert_int_equal(plain(SLICE("Ursel\0Kurt\0xipj3plmq")), SASL_REFUSED);
    assert_true(wiped());
    assert_int_equal(sasl_start(&s, SASL_PLAIN, slice_of(NULL, 0), &challenge), SASL_CHALLENGE);
    assert_int_equal(challenge.size, 0);
    assert_int_equal(sasl_next(&s, SLICE("AHRpbQB4"), &challenge), SASL_DONE);
    assert_true(slice_eq(s.user, SLICE("tim")) && slice_eq(s.password, SLICE("x")));
    sasl_wipe(&s);
    assert_true(wiped());
}

static void test_plain_bad(void **state)
{
    assert_int_equal(plain(SLICE("")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("tim")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("\0tim")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("\0\0pw")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("\0tim\0")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("\0tim\0p\0w")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("\0\0\0\0")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("\0t\nm\0pw")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("\0t\x7fm\0pw")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("\0\xff\xfe\0pw")), SASL_MALFORMED);
    assert_int_equal(plain(SLICE("\0t\xc3\0pw")), SASL_MALFORMED);
    assert_true(wiped());
    assert_int_equal(sasl_start(&s, SASL_PLAIN, SLICE("="), &challenge), SASL_MALFORMED);
    assert_int_equal(sasl_start(&s, SASL_PLAIN, SLICE("*"), &challenge), SASL_MALFORMED);
    assert_int_equal(sasl_start(&s, SASL_PLAIN, SLICE(""), &challenge), SASL_MALFORMED);
    assert_int_equal(sasl_start(&s, SASL_PLAIN, SLICE("!!!!"), &challenge), SASL_MALFORMED);
    assert_int_equal(sasl_start(&s, SASL_PLAIN, slice_of(NULL, 0), &challenge), SASL_CHALLENGE);
    assert_int_equal(sasl_next(&s, SLICE("*"), &challenge), SASL_CANCELLED);
    assert_true(wiped());
}

/* authzid, user and password at their limits, and one past. */
static void test_plain_limits(void **state)
{
    char message[2048];
    size_t user, password;

    for (user = SASL_USER_MAX; user <= SASL_USER_MAX + 1; user++) {
        for (password = SASL_PASSWORD_MAX; password <= SASL_PASSWORD_MAX + 1; password++) {
            bool fits = user == SASL_USER_MAX && password == SASL_PASSWORD_MAX;

            memset(message, 'u', sizeof message);
            message[user] = message[2 * user + 1] = '\0';
            assert_int_equal(plain(slice_of(message, 2 * user + 2 + password)),
                             fits ? SASL_DONE : SASL_MALFORMED);
        }
    }
    memset(message, 'A', sizeof message);
    assert_int_equal(sasl_start(&s, SASL_PLAIN, slice_of(message, SASL_LINE_MAX + 4), &challenge),
                     SASL_MALFORMED);
}

static void test_login(void **state)
{
    assert_int_equal(sasl_start(&s, SASL_LOGIN, slice_of(NULL, 0), &challenge), SASL_CHALLENGE);
    assert_true(slice_eq(challenge, SLICE("VXNlcm5hbWU6")));
    assert_int_equal(sasl_next(&s, SLICE("dGlt"), &challenge), SASL_CHALLENGE);
    assert_true(slice_eq(challenge, SLICE("UGFzc3dvcmQ6")));
    assert_int_equal(sasl_next(&s, SLICE("c2VjcmV0"), &challenge), SASL_DONE);
    assert_true(slice_eq(s.user, SLICE("tim")) && slice_eq(s.password, SLICE("secret")));
    assert_int_equal(sasl_start(&s, SASL_LOGIN, SLICE("dGlt"), &challenge), SASL_CHALLENGE);
    assert_int_equal(sasl_next(&s, SLICE(""), &challenge), SASL_MALFORMED);
    assert_int_equal(sasl_start(&s, SASL_LOGIN, SLICE("dGlt"), &challenge), SASL_CHALLENGE);
    assert_int_equal(sasl_next(&s, SLICE("*"), &challenge), SASL_CANCELLED);
    assert_true(wiped());
    assert_int_equal(sasl_start(&s, SASL_LOGIN, SLICE("="), &challenge), SASL_MALFORMED);
    assert_int_equal(sasl_start(&s, SASL_LOGIN, SLICE("AA=="), &challenge), SASL_MALFORMED); /* NUL */
}

static void test_mechanisms(void **state)
{
    enum sasl_mechanism mechanism;

    assert_true(sasl_mechanism_parse(SLICE("plain"), &mechanism));
    assert_int_equal(mechanism, SASL_PLAIN);
    assert_true(sasl_mechanism_parse(SLICE("LOGIN"), &mechanism));
    assert_int_equal(mechanism, SASL_LOGIN);
    assert_false(sasl_mechanism_parse(SLICE("PLAINX"), &mechanism));
    assert_false(sasl_mechanism_parse(SLICE(""), &mechanism));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base64),       cmocka_unit_test(test_plain), cmocka_unit_test(test_plain_bad),
        cmocka_unit_test(test_plain_limits), cmocka_unit_test(test_login), cmocka_unit_test(test_mechanisms),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
