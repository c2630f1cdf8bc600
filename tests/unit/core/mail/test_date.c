#include "core/mail/date.h"
#include "tests/unit/core/mail/mail_test.h"

static void test_calendar(void **state)
{
    struct civil_date leap = civil_from_days(11016);

    assert_int_equal(civil_to_days((struct civil_date){1970, 1, 1}), 0);
    assert_int_equal(civil_to_days((struct civil_date){2000, 2, 29}), 11016);
    assert_int_equal(leap.month, 2);
    assert_int_equal(leap.day, 29);
    for (int32_t day = -800000; day < 3000000; day += 97)
        assert_int_equal(civil_to_days(civil_from_days(day)), day);
}

static const struct {
    const char *text;
    int64_t utc_s;
    int zone_minutes;
} good[] = {
    {"Thu, 22 Aug 2002 18:26:25 +0700", 1030015585, 420},
    {"22 Aug 2002 11:26:25 GMT", 1030015585, 0},
    {"Thu, 22 Aug 2002 11:26 +0000 (UTC)", 1030015560, 0},
    {"  Thu (day) , 22(x)Aug 2002 04:26:25 PDT", 1030015585, -420},
    {"Thu,22 Aug 02 11:26:25 Z", 1030015585, 0},
    {"1 Jan 70 0:00:00 +0000", 0, 0},
    {"31 Dec 1999 23.59.60 -0000", 946684800, 0},
    {"1 Jan 103 00:00 +0000", 1041379200, 0},
    {"1 January 2003 00:00:00", 1041379200, 0},
    {"1 Jan 2003 00:00:00 B", 1041379200 - 7200, 120},
    {"1 Jan 2003 00:00:00 NOWHERE", 1041379200, 0},
};

static void test_rfc5322(void **state)
{
    static const char *const bad[] = {"",
                                      "Thu",
                                      "Thu, ",
                                      "32 Jan 2003 00:00:00 +0000",
                                      "29 Feb 2003 00:00:00 +0000",
                                      "1 Foo 2003 00:00:00",
                                      "1 Jan 2003 24:00:00",
                                      "1 Jan 2003 00:60",
                                      "1 Jan 2003",
                                      "1 Jan 1899 00:00",
                                      "1 Jan 20033 00:00",
                                      "x Jan 2003 00:00",
                                      "1 Jan 2003 00:0",
                                      "(unclosed 1 Jan 2003 00:00"};
    struct mail_date date;

    for (size_t i = 0; i < ARRAY_COUNT(good); i++) {
        assert_true(date_parse_rfc5322(slice_str(good[i].text), &date));
        assert_int_equal(date.utc_s, good[i].utc_s);
        assert_int_equal(date.zone_minutes, good[i].zone_minutes);
        for (size_t size = 0; size < strlen(good[i].text); size++) /* Cut: no matter what, but safe. */
            (void)!date_parse_rfc5322(slice_of(good[i].text, size), &date);
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(date_parse_rfc5322(slice_str(bad[i]), &date));
}

static void test_imap_time(void **state)
{
    static const char text[] = "17-Jul-1996 02:44:25 -0700";
    static const char *const bad[] = {"17-Jul-1996",
                                      "17-Jul-1996 02:44:25",
                                      "17-Jul-1996 02:44:25 PST",
                                      "17-Jul-1996 2:44:25 -0700",
                                      "17-Jul-1996 02:44:25 -07000",
                                      "  7-Jul-1996 02:44:25 -0700",
                                      "17 Jul 1996 02:44:25 -0700",
                                      "31-Jun-1996 02:44:25 -0700",
                                      "17-Jul-96 02:44:25 -0700"};
    struct mail_date date;

    assert_true(date_parse_imap_time(slice_str(text), &date));
    assert_int_equal(date.utc_s, 837596665);
    assert_int_equal(date.zone_minutes, -420);
    for (size_t size = 0; size < sizeof text - 1; size++)
        assert_false(date_parse_imap_time(slice_of(text, size), &date));
    assert_true(date_parse_imap_time(SLICE(" 7-Jul-1996 02:44:25 +0000"), &date));
    assert_true(date_parse_imap_time(SLICE("07-jul-1996 02:44:25 +0000"), &date));
    assert_true(date_parse_imap_time(SLICE("7-Jul-1996 02:44:25 +0000"), &date));
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(date_parse_imap_time(slice_str(bad[i]), &date));
}

static void test_imap_day(void **state)
{
    int32_t day;

    assert_true(date_parse_imap_day(SLICE("1-Feb-1994"), &day));
    assert_int_equal(day, 8797);
    assert_true(date_parse_imap_day(SLICE("01-FEB-1994"), &day));
    for (size_t size = 0; size < 10; size++)
        assert_false(date_parse_imap_day(slice_of("1-Feb-1994", size), &day));
    assert_false(date_parse_imap_day(SLICE("1-Feb-19945"), &day));
    assert_false(date_parse_imap_day(SLICE("\"1-Feb-1994\""), &day));
    assert_false(date_parse_imap_day(SLICE("1-Feb1994--"), &day));
}

/* RFC 3501: where it was written it was still the 22nd, in Greenwich already the 23rd. */
static void test_local_day(void **state)
{
    struct mail_date date;
    int32_t day;

    assert_true(date_parse_rfc5322(SLICE("Thu, 22 Aug 2002 23:30:00 -0800"), &date));
    assert_true(date_parse_imap_day(SLICE("22-Aug-2002"), &day));
    assert_int_equal(date_local_day(date), day);
    assert_int_equal(date_local_day((struct mail_date){-1, 0}), -1);
    assert_int_equal(date_local_day((struct mail_date){-1, 1}), 0);
    (void)date_local_day((struct mail_date){INT64_MIN, -5999});
    (void)date_local_day((struct mail_date){INT64_MAX, 5999});
}

static void test_write(void **state)
{
    struct mail_date date = {837596665, -420}, wild[] = {{INT64_MAX, INT16_MAX}, {INT64_MIN, INT16_MIN}};
    struct writer w = test_writer();

    date_write_imap(&w, date);
    assert_string_equal(test_written(&w), "17-Jul-1996 02:44:25 -0700");
    w = test_writer();
    date_write_rfc5322(&w, date);
    assert_string_equal(test_written(&w), "Wed, 17 Jul 1996 02:44:25 -0700");
    for (size_t i = 0; i < ARRAY_COUNT(wild); i++) {
        w = test_writer();
        date_write_imap(&w, wild[i]);
        assert_int_equal(writer_used(&w), DATE_IMAP_SIZE);
        w = test_writer();
        date_write_rfc5322(&w, wild[i]);
        assert_int_equal(writer_used(&w), DATE_RFC5322_SIZE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calendar), cmocka_unit_test(test_rfc5322),   cmocka_unit_test(test_imap_time),
        cmocka_unit_test(test_imap_day), cmocka_unit_test(test_local_day), cmocka_unit_test(test_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
