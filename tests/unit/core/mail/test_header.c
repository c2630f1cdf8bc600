#include "core/mail/header.h"
#include "core/mail/search_text.h"
#include "core/mail/transfer.h"
#include "tests/unit/core/mail/mail_test.h"

static void test_fields(void **state)
{
    static const char text[] =
        "From: a\r\nTo : b,\r\n\tc\nbad line\r\nEmpty:\r\nX:  y \r\n z\r\n\r\nbody: no\r\n";
    static const struct {
        const char *name, *value;
    } expected[] = {{"From", "a"}, {"To", "b,\r\n\tc"}, {"", "bad line"}, {"Empty", ""}, {"X", "y \r\n z"}};
    struct header_field f;
    struct header_iter it;
    size_t raw_size = 0;

    header_iter_init(&it, slice_str(text));
    for (size_t i = 0; i < ARRAY_COUNT(expected); i++) {
        assert_true(header_next(&it, &f));
        assert_slice(f.name, expected[i].name);
        assert_slice(f.value, expected[i].value);
        assert_ptr_equal(f.raw.data, text + raw_size);
        raw_size += f.raw.size;
    }
    assert_false(header_next(&it, &f));
    assert_int_equal(raw_size, strstr(text, "\r\n\r\n") + 2 - text);
    for (size_t size = 0; size < sizeof text - 1; size++) {
        header_iter_init(&it, slice_of(text, size));
        while (header_next(&it, &f))
            ;
    }
}

static bool shout(void *context, struct slice charset, struct slice in, char *out, size_t *size_out)
{
    if (!slice_eq_nocase(charset, SLICE("x-shout")))
        return false;
    memset(out, '!', in.size);
    *size_out = in.size;
    return true;
}

static void test_words(void **state)
{
    static const struct {
        const char *value, *text;
    } cases[] = {
        {"plain", "plain"},
        {"a\r\n b", "a b"},
        {" a \t b\r\n\t \r\n  c ", "a b c "},
        {"=?utf-8?q?a_?= \t b", "a b"},
        {"=?utf-8?B?w6TDtg==?=", "\u00e4\u00f6"},
        {"=?ISO-8859-1*de?q?=e4_=3D?= x", "\u00e4 = x"},
        {"=?windows-1252?Q?=80?=", "\u20ac"},
        {"=?utf-8?q?a?= =?utf-8?q?b?=\r\n =?utf-8?q?c?= d", "abc d"},
        {"a =?utf-8?q?b?= c", "a b c"},
        {"=?utf-8?q?a b?=", "a b"},
        {"=?koi8-r?q?a?= b", "=?koi8-r?q?a?= b"},
        {"=?x-shout?q?abc?=", "!!!"},
        {"=?utf-8?q?a?= =?koi8-r?q?b?=", "a =?koi8-r?q?b?="},
        {"=?utf-8?x?a?=", "=?utf-8?x?a?="},
        {"=?utf-8?q?a", "=?utf-8?q?a"},
        {"=?", "=?"},
        {"=?utf-8?q?=zz=?=", "=zz="},
        {"=?utf-8?q?"
         "?=",
         ""},
    };
    struct charset_converter converter = {NULL, shout};
    char out[512];

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct slice value = slice_str(cases[i].value);

        assert_slice(slice_of(out, header_decode(value, &converter, out)), cases[i].text);
        for (size_t size = 0; size < value.size; size++)
            assert_true(header_decode(slice_of(value.data, size), NULL, out) <=
                        HEADER_DECODED_SIZE_MAX(size));
    }
}

static void test_charsets(void **state)
{
    char out[16];

    assert_int_equal(charset_find(SLICE("UTF-8")), CHARSET_UTF8);
    assert_int_equal(charset_find(SLICE("")), CHARSET_UTF8);
    assert_int_equal(charset_find(SLICE("shift_jis")), CHARSET_UNKNOWN);
    assert_slice(slice_of(out, charset_to_utf8(CHARSET_LATIN1, SLICE("a\xe4\xff"), out)), "a\u00e4\u00ff");
    assert_slice(slice_of(out, charset_to_utf8(CHARSET_WINDOWS_1252, SLICE("\x80\x9f\xe4"), out)),
                 "\u20ac\u0178\u00e4");
    assert_int_equal(charset_find(SLICE("ISO-8859-15")), CHARSET_LATIN9);
    assert_slice(slice_of(out, charset_to_utf8(CHARSET_LATIN9, SLICE("\xa4\xbd\xe9"), out)),
                 "\u20ac\u0153\u00e9");
    assert_slice(slice_of(out, charset_to_utf8(CHARSET_UTF8, SLICE("\u00e4"), out)), "\u00e4");
}

static void test_transfer(void **state)
{
    static const struct {
        const char *encoding, *text, *decoded;
    } cases[] = {
        {"quoted-printable", "a=3Db=\r\nc =\nd  \r\ne=\t \r\nf", "a=bc d\r\nef"},
        {"Quoted-Printable", "=e4=E4", "\xe4\xe4"},
        {"quoted-printable", "=zz==3d=", "=zz==="},
        {"quoted-printable", "a \t b =20 ", "a   b  "},
        {"quoted-printable", "=4\r\n=\rx= y", "=4\r\n=\rx= y"},
        {"BASE64", "YWJj\r\nZA==", "abcd"},
        {"base64", "YQ==YmM=ZGVm", "abcdef"},
        {"base64", "Y!W J-j", "abc"},
        {"base64", "Y", ""},
        {"8bit", "=3D\xff", "=3D\xff"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct slice text = slice_str(cases[i].text);

        for (size_t cut = 0; cut <= text.size; cut++) {
            char out[4 * 1024];
            struct transfer_decoder d;
            size_t size;

            transfer_decoder_init(&d, transfer_find(slice_str(cases[i].encoding)));
            size = transfer_decode(&d, slice_first(text, cut), out);
            size += transfer_decode(&d, slice_from(text, cut), out + size);
            size += transfer_finish(&d, out + size);
            assert_slice(slice_of(out, size), cases[i].decoded);
        }
    }
}

static bool found(const char *needle, const char *text)
{
    static struct search_text s;
    bool whole, all = true, any = false;

    assert_true(search_text_init(&s, slice_str(needle)));
    whole = search_text_feed(&s, slice_str(text));
    for (size_t cut = 0; cut <= strlen(text); cut++) {
        bool result;

        search_text_begin(&s);
        (void)search_text_feed(&s, slice_of(text, cut));
        result = search_text_feed(&s, slice_from(slice_str(text), cut));
        all = all && result;
        any = any || result;
    }
    assert_int_equal(whole, all);
    assert_int_equal(whole, any);
    return whole;
}

static void test_search(void **state)
{
    static struct search_text s;
    char needle[SEARCH_NEEDLE_SIZE_MAX + 1], text[4096];

    assert_true(found("abc", "xxABCxx"));
    assert_true(found("aab", "aaaab"));
    assert_true(found("abababc", "ababababc"));
    assert_false(found("abc", "abab"));
    assert_true(found("", ""));
    assert_true(found("", "x"));
    assert_false(found("x", ""));
    assert_true(found("\u00c4rger", "gro\u00dfer \u00e4RGER"));
    assert_true(found("\u00e4", "\u00c4"));
    assert_false(found("\u00d7", "\u00f7")); /* Signs, not letters. */
    assert_false(found("\u0414", "\u0434")); /* Not Latin 1: as it is. */
    assert_false(found("k", "\u212a"));
    memset(needle, 'a', sizeof needle);
    needle[SEARCH_NEEDLE_SIZE_MAX - 1] = 'b';
    memset(text, 'A', sizeof text);
    assert_false(search_text_init(&s, slice_of(needle, sizeof needle)));
    assert_true(search_text_init(&s, slice_of(needle, SEARCH_NEEDLE_SIZE_MAX)));
    for (int i = 0; i < 2000; i++) /* 8 MB of the worst case. */
        assert_false(search_text_feed(&s, slice_of(text, sizeof text)));
    assert_true(search_text_feed(&s, SLICE("B")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),   cmocka_unit_test(test_words),  cmocka_unit_test(test_charsets),
        cmocka_unit_test(test_transfer), cmocka_unit_test(test_search),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
