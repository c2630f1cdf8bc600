#include "core/mail/flags.h"
#include "tests/unit/core/mail/mail_test.h"

static void test_names(void **state)
{
    assert_int_equal(mail_flag_find(SLICE("\\seen")), MAIL_SEEN);
    assert_int_equal(mail_flag_find(SLICE("\\RECENT")), MAIL_RECENT);
    assert_int_equal(mail_flag_find(SLICE("Seen")), 0);
    assert_int_equal(mail_flag_find(SLICE("\\Seen ")), 0);
    assert_int_equal(mail_flag_find(SLICE("")), 0);
    for (uint32_t bit = 1; bit <= MAIL_RECENT; bit <<= 1)
        assert_int_equal(mail_flag_find(mail_flag_name((enum mail_flag)bit)), bit);
}

static void test_write(void **state)
{
    struct writer w = test_writer();

    mail_flags_write(&w, MAIL_SEEN | MAIL_ANSWERED | 1u << 20);
    assert_string_equal(test_written(&w), "\\Answered \\Seen");
    w = test_writer();
    mail_flags_write(&w, 0);
    assert_string_equal(test_written(&w), "");
}

static void test_keywords(void **state)
{
    static const char *const bad[] = {"",   "\\Seen", "a b", "a(",    "a)",       "a{", "a%",
                                      "a*", "a\"",    "a]",  "a\x7f", "\xc3\xa4", "a\n"};
    char text[KEYWORD_SIZE_MAX + 1];

    assert_true(mail_keyword_valid(SLICE("$Forwarded")));
    assert_true(mail_keyword_valid(SLICE("a[b}")));
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(mail_keyword_valid(slice_str(bad[i])));
    memset(text, 'k', sizeof text);
    assert_true(mail_keyword_valid(slice_of(text, KEYWORD_SIZE_MAX)));
    assert_false(mail_keyword_valid(slice_of(text, KEYWORD_SIZE_MAX + 1)));
    assert_false(mail_keyword_valid(slice_of("a\0", 2)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_keywords),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
