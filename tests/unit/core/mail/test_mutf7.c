#include "core/mail/mutf7.h"
#include "tests/unit/core/mail/mail_test.h"

static const struct {
    const char *mutf7, *utf8;
} pairs[] = {
    {"INBOX", "INBOX"},
    {"", ""},
    {"a&-b", "a&b"},
    {"&-&-", "&&"},
    {"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/\u53f0\u5317/\u65e5\u672c\u8a9e"},
    {"Entw&APw-rfe", "Entw\u00fcrfe"},
    {"&2D3cqQ-", "\U0001f4a9"},
    {"&AOQA9gD8-", "\u00e4\u00f6\u00fc"},
    {"&ZeVnLIqeZeVnLIqeZeVnLIqe-", "\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e"},
};

static void test_pairs(void **state)
{
    char out[512];
    size_t size;

    for (size_t i = 0; i < ARRAY_COUNT(pairs); i++) {
        struct slice mutf7 = slice_str(pairs[i].mutf7), utf8 = slice_str(pairs[i].utf8);

        assert_true(mutf7_to_utf8(mutf7, out, &size));
        assert_true(size <= MUTF7_TO_UTF8_SIZE_MAX(mutf7.size));
        assert_slice(slice_of(out, size), pairs[i].utf8);
        assert_true(mutf7_from_utf8(utf8, out, &size));
        assert_true(size <= MUTF7_FROM_UTF8_SIZE_MAX(utf8.size));
        assert_slice(slice_of(out, size), pairs[i].mutf7);
        for (size_t cut = 0; cut < mutf7.size; cut++)
            (void)!mutf7_to_utf8(slice_of(mutf7.data, cut), out, &size);
    }
}

static void test_strict(void **state)
{
    static const char *const bad[] = {
        "&Jjo",       /* Not closed. */
        "&AGE-",      /* Printable ASCII in base64. */
        "&ACY-",      /* `&` in base64. */
        "&AAo-",      /* A control character. */
        "&2D0-",      /* A surrogate alone. */
        "&3Kk-",      /* The second one alone. */
        "&APx-",      /* Padding bits. */
        "&APwA-",     /* Half a unit. */
        "&APw-&APw-", /* Two shifts where one does. */
        "a\xc3\xa4",  "a\x01", "&AP$-", "&", "&A-",
    };
    char out[64];
    size_t size;

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(mutf7_to_utf8(slice_str(bad[i]), out, &size));
    assert_false(mutf7_from_utf8(SLICE("\xff"), out, &size));
    assert_false(mutf7_from_utf8(SLICE("a\n"), out, &size));
}

static void test_utf8(void **state)
{
    static const char *const bad[] = {"\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "\x80",     "\xc3",         "\xe2\x82",     "\xf8\x88\x80\x80\x80"};
    uint32_t code;
    char out[4];

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(utf8_valid(slice_str(bad[i])));
    for (uint32_t c = 1; c <= 0x10ffff; c += 61) {
        size_t size;

        if (c >= 0xd800 && c <= 0xdfff)
            continue;
        size = utf8_encode(c, out);
        assert_int_equal(utf8_decode(slice_of(out, size), &code), size);
        assert_int_equal(code, c);
        for (size_t cut = 0; cut < size; cut++)
            assert_int_equal(utf8_decode(slice_of(out, cut), &code), 0);
    }
}

static void test_names(void **state)
{
    static const struct {
        const char *name;
        enum mailbox_name_result result;
    } names[] = {
        {"INBOX", MAILBOX_NAME_OK},
        {"a/b/c d", MAILBOX_NAME_OK},
        {"", MAILBOX_NAME_EMPTY},
        {"/a", MAILBOX_NAME_EMPTY},
        {"a/", MAILBOX_NAME_EMPTY},
        {"a//b", MAILBOX_NAME_EMPTY},
        {"..", MAILBOX_NAME_DOTS},
        {"a/./b", MAILBOX_NAME_DOTS},
        {"a/../b", MAILBOX_NAME_DOTS},
        {"a..b", MAILBOX_NAME_OK},
        {"a\n", MAILBOX_NAME_CHARACTER},
        {"a\x7f", MAILBOX_NAME_CHARACTER},
        {"\xff", MAILBOX_NAME_CHARACTER},
        {"\xc2\x85", MAILBOX_NAME_CHARACTER},
        {"\u2028", MAILBOX_NAME_CHARACTER},
        {"a*", MAILBOX_NAME_CHARACTER},
        {"\xef\xbf\xbf", MAILBOX_NAME_CHARACTER},
        {"\u00e4/\u65e5", MAILBOX_NAME_OK},
    };
    char text[MAILBOX_NAME_SIZE_MAX + 1];

    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        assert_int_equal(mailbox_name_check(slice_str(names[i].name)), names[i].result);
    memset(text, 'a', sizeof text);
    assert_int_equal(mailbox_name_check(slice_of(text, MAILBOX_LEVEL_SIZE_MAX)), MAILBOX_NAME_OK);
    assert_int_equal(mailbox_name_check(slice_of(text, MAILBOX_LEVEL_SIZE_MAX + 1)), MAILBOX_NAME_TOO_LONG);
    for (size_t i = 1; i < sizeof text; i += 2)
        text[i] = '/';
    assert_int_equal(mailbox_name_check(slice_of(text, 2 * MAILBOX_LEVEL_COUNT_MAX - 1)), MAILBOX_NAME_OK);
    assert_int_equal(mailbox_name_check(slice_of(text, 2 * MAILBOX_LEVEL_COUNT_MAX + 1)),
                     MAILBOX_NAME_TOO_LONG);
    assert_true(mailbox_name_is_inbox(SLICE("inBox")));
    assert_false(mailbox_name_is_inbox(SLICE("inbox/x")));
}

static void test_inbox_upper(void **state)
{
    static const char *const spelled[][2] = {{"inBox", "INBOX"},         {"inbox/Inbox", "INBOX/Inbox"},
                                             {"inboxes", "inboxes"},     {"inbo", "inbo"},
                                             {"x/inbox/y", "x/inbox/y"}, {"", ""}};
    char name[16];

    for (size_t i = 0; i < ARRAY_COUNT(spelled); i++) {
        strcpy(name, spelled[i][0]);
        mailbox_name_inbox_upper(name, strlen(name));
        assert_string_equal(name, spelled[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs), cmocka_unit_test(test_strict),      cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_names), cmocka_unit_test(test_inbox_upper),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
