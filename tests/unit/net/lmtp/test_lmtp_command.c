#include "net/lmtp/lmtp.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct lmtp_parser parser;

static int reset(void **state)
{
    lmtp_parser_init(&parser);
    return 0;
}

/* One line, given to the parser growing byte by byte as a connection keeps it, then again in one piece. The
 * command lives until the next call. */
static struct lmtp_command *parse(struct slice line)
{
    static struct lmtp_command c;
    static char *copy;
    struct lmtp_parser start = parser;
    struct slice in;

    free(copy);
    copy = malloc(line.size);
    memcpy(copy, line.data, line.size);
    for (size_t size = 0; size < line.size; size++) {
        in = slice_of(copy, size);
        assert_int_equal(lmtp_parser_next(&parser, &in, &c), LMTP_MORE);
        assert_int_equal(in.size, size);
    }
    in = slice_of(copy, line.size);
    assert_int_equal(lmtp_parser_next(&parser, &in, &c), LMTP_COMMAND);
    assert_int_equal(in.size, 0);
    parser = start;
    in = slice_of(copy, line.size);
    assert_int_equal(lmtp_parser_next(&parser, &in, &c), LMTP_COMMAND);
    return &c;
}

#define PARSE(text) parse(SLICE(text "\r\n"))

static void is_bad(struct lmtp_command *c, enum lmtp_reply_id error)
{
    assert_int_equal(c->verb, LMTP_BAD);
    assert_int_equal(c->error, error);
}

static void is_path(struct lmtp_command *c, const char *text, const char *local, const char *domain)
{
    if (c->verb == LMTP_BAD)
        print_error("%s: reply %d\n", text, lmtp_replies[c->error].code);
    assert_int_not_equal(c->verb, LMTP_BAD);
    assert_true(slice_eq(c->path.text, slice_str(text)));
    assert_true(slice_eq(c->path.local, slice_str(local)));
    assert_true(slice_eq(c->path.domain, slice_str(domain)));
}

static void test_verbs(void **state)
{
    assert_int_equal(PARSE("LHLO mx.example.org")->verb, LMTP_LHLO);
    assert_true(slice_eq(PARSE("lhlo [127.0.0.1]")->domain, SLICE("[127.0.0.1]")));
    assert_int_equal(PARSE("DATA")->verb, LMTP_DATA);
    assert_int_equal(PARSE("data \t ")->verb, LMTP_DATA);
    assert_int_equal(PARSE("RSET")->verb, LMTP_RSET);
    assert_int_equal(PARSE("NOOP x\"y")->verb, LMTP_NOOP);
    assert_int_equal(PARSE("QUIT")->verb, LMTP_QUIT);
    assert_int_equal(PARSE("VRFY demo")->verb, LMTP_VRFY);
    assert_int_equal(PARSE("HELP")->verb, LMTP_HELP);
    assert_int_equal(PARSE("StartTLS")->verb, LMTP_STARTTLS);
    is_bad(PARSE("STARTTLS now"), LMTP_REPLY_BAD_ARGUMENT);
    is_bad(PARSE("LHLO"), LMTP_REPLY_BAD_ARGUMENT);
    is_bad(PARSE("LHLO a b"), LMTP_REPLY_BAD_ARGUMENT);
    is_bad(PARSE("DATA x"), LMTP_REPLY_BAD_ARGUMENT);
    is_bad(PARSE(""), LMTP_REPLY_UNKNOWN_COMMAND);
    is_bad(PARSE("DATAX"), LMTP_REPLY_UNKNOWN_COMMAND);
    is_bad(PARSE("EHLO x"), LMTP_REPLY_USE_LHLO);
    is_bad(PARSE("helo x"), LMTP_REPLY_USE_LHLO);
}

static void test_mail(void **state)
{
    struct lmtp_command *c;

    is_path(PARSE("MAIL FROM:<>"), "", "", "");
    is_path(PARSE("mail from: <a@b.example>"), "a@b.example", "a", "b.example");
    is_path(PARSE("MAIL FROM:<@r1,@r2.x:a@b>"), "a@b", "a", "b");
    is_path(PARSE("MAIL FROM:<a@[192.0.2.1]>"), "a@[192.0.2.1]", "a", "[192.0.2.1]");
    is_path(PARSE("MAIL FROM:<root>"), "root", "root", "");
    is_path(PARSE("MAIL FROM:<a..b.@c>"), "a..b.@c", "a..b.", "c");
    c = PARSE("MAIL FROM:<a@b> SIZE=12345 BODY=8bitmime");
    assert_int_equal(c->size, 12345);
    assert_false(c->smtputf8);
    assert_int_equal(PARSE("MAIL FROM:<a@b> BODY=7BIT")->verb, LMTP_MAIL);
    is_bad(PARSE("MAIL FROM:<a@b> BODY=BINARYMIME"), LMTP_REPLY_BAD_ARGUMENT);
    is_bad(PARSE("MAIL"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:a@b"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a@b"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a@b>x"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a b@c>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a@b@c>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a@>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a@.b>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a@b..c>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<@r1@r2:a@b>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<@r1,:a@b>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<@>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a@[1.2.3.4>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a@[]>"), LMTP_REPLY_BAD_SENDER);
    is_bad(PARSE("MAIL FROM:<a@b> SIZE=x"), LMTP_REPLY_BAD_ARGUMENT);
    is_bad(PARSE("MAIL FROM:<a@b> SIZE=-1"), LMTP_REPLY_BAD_ARGUMENT);
    is_bad(PARSE("MAIL FROM:<a@b> SIZE="), LMTP_REPLY_BAD_ARGUMENT);
    is_bad(PARSE("MAIL FROM:<a@b> SIZE=18446744073709551616"), LMTP_REPLY_TOO_LARGE);
    is_bad(PARSE("MAIL FROM:<a@b> SIZE=1 SIZE=1"), LMTP_REPLY_UNKNOWN_PARAMETER);
    is_bad(PARSE("MAIL FROM:<a@b> BODY=9BIT"), LMTP_REPLY_BAD_ARGUMENT);
    is_bad(PARSE("MAIL FROM:<a@b> RET=FULL"), LMTP_REPLY_UNKNOWN_PARAMETER);
    is_bad(PARSE("MAIL FROM:<a@b> SMTPUTF8=1"), LMTP_REPLY_UNKNOWN_PARAMETER);
}

static void test_quoted(void **state)
{
    is_path(PARSE("RCPT TO:<\"a b\"@c>"), "\"a b\"@c", "a b", "c");
    is_path(PARSE("RCPT TO:<\"a\\\"\\\\>\"@c>"), "\"a\\\"\\\\>\"@c", "a\"\\>", "c");
    is_bad(PARSE("RCPT TO:<\"\">"), LMTP_REPLY_BAD_RECIPIENT);
    is_bad(PARSE("RCPT TO:<\"\"@d>"), LMTP_REPLY_BAD_RECIPIENT);
    is_bad(PARSE("RCPT TO:<\"a>"), LMTP_REPLY_BAD_RECIPIENT);
    is_bad(PARSE("RCPT TO:<\"a\\"), LMTP_REPLY_BAD_RECIPIENT);
    is_bad(PARSE("RCPT TO:<\"a\tb\"@c>"), LMTP_REPLY_BAD_RECIPIENT);
    is_bad(PARSE("RCPT TO:<\"a\"b@c>"), LMTP_REPLY_BAD_RECIPIENT);
}

static void test_recipients(void **state)
{
    is_path(PARSE("RCPT TO:<u+f@d>"), "u+f@d", "u+f", "d");
    is_path(PARSE("rcpt to:<Postmaster>"), "Postmaster", "Postmaster", "");
    is_bad(PARSE("RCPT TO:<>"), LMTP_REPLY_BAD_RECIPIENT);
    is_bad(PARSE("RCPT FROM:<a@b>"), LMTP_REPLY_BAD_RECIPIENT);
    is_bad(PARSE("RCPT TO:<a@b> NOTIFY=NEVER"), LMTP_REPLY_UNKNOWN_PARAMETER);
}

static void test_utf8(void **state)
{
    is_bad(PARSE("MAIL FROM:<j\xc3\xb6rg@b>"), LMTP_REPLY_UTF8_SENDER);
    is_bad(PARSE("RCPT TO:<j\xc3\xb6rg@b>"), LMTP_REPLY_UTF8_RECIPIENT);
    assert_true(PARSE("MAIL FROM:<j\xc3\xb6rg@b\xc3\xbc.de> SMTPUTF8")->smtputf8);
    is_path(PARSE("RCPT TO:<j\xc3\xb6rg@b>"), "j\xc3\xb6rg@b", "j\xc3\xb6rg", "b");
    is_path(PARSE("RCPT TO:<\"j\xc3\xb6\"@b>"), "\"j\xc3\xb6\"@b", "j\xc3\xb6", "b");
    is_bad(PARSE("RCPT TO:<j\xc3@b>"), LMTP_REPLY_BAD_RECIPIENT);
    is_bad(PARSE("RCPT TO:<\"\xc3\\\xb6\"@b>"), LMTP_REPLY_BAD_RECIPIENT);
    is_bad(PARSE("RCPT TO:<\xc0\xaf@b>"), LMTP_REPLY_BAD_RECIPIENT);
    assert_int_equal(PARSE("MAIL FROM:<a@b>")->verb, LMTP_MAIL);
    is_bad(PARSE("RCPT TO:<j\xc3\xb6rg@b>"), LMTP_REPLY_UTF8_RECIPIENT);
}

static void test_bdat(void **state)
{
    struct lmtp_command *c = PARSE("BDAT 86 last");

    assert_int_equal(c->verb, LMTP_BDAT);
    assert_int_equal(c->size, 86);
    assert_true(c->last);
    assert_false(PARSE("BDAT 0")->last);
    assert_true(PARSE("BDAT")->lost);
    assert_true(PARSE("BDAT x")->lost);
    assert_true(PARSE("BDAT 1 FIRST")->lost);
    assert_true(PARSE("BDAT 1 LAST x")->lost);
    assert_true(PARSE("BDAT 99999999999999999999")->lost);
    assert_true(parse(SLICE("BDAT 1\n\r\n"))->lost);
    is_bad(PARSE("BDAT -1"), LMTP_REPLY_BAD_ARGUMENT);
    assert_false(PARSE("NOPE")->lost);
}

static void test_line_ends(void **state)
{
    struct slice in = SLICE("NOOP\nQUIT\r\nRSET\r\n");
    struct lmtp_command c;

    assert_int_equal(lmtp_parser_next(&parser, &in, &c), LMTP_COMMAND);
    is_bad(&c, LMTP_REPLY_BAD_BYTES); /* One bad line, not two commands. */
    assert_int_equal(lmtp_parser_next(&parser, &in, &c), LMTP_COMMAND);
    assert_int_equal(c.verb, LMTP_RSET);
    assert_int_equal(lmtp_parser_next(&parser, &in, &c), LMTP_MORE);
    is_bad(parse(SLICE("NOOP\r\r\n")), LMTP_REPLY_BAD_BYTES);
    is_bad(parse(SLICE("NOOP\0\r\n")), LMTP_REPLY_BAD_BYTES);
    is_bad(parse(SLICE("\nNOOP\r\n")), LMTP_REPLY_BAD_BYTES);
    is_bad(parse(SLICE("MAIL FROM:<a@b>\rRCPT TO:<c@d>\r\n")), LMTP_REPLY_BAD_BYTES);
}

/* `size` bytes of line, CRLF included, given in pieces. The reply, or -1 for a good command. */
static int line_of(size_t size, const char *start, size_t piece_size, bool *lost_out)
{
    static char text[3 * LMTP_LINE_MAX];
    struct lmtp_command c;
    size_t kept = 0, given = 0;

    memset(text, 'x', size);
    memcpy(text, start, strlen(start));
    memcpy(text + size - 2, "\r\n", 2);
    for (;;) {
        struct slice in = slice_of(text + kept, given - kept);

        if (lmtp_parser_next(&parser, &in, &c) == LMTP_COMMAND)
            break;
        kept = given - in.size;
        assert_true(in.size <= LMTP_LINE_MAX);
        given = MIN(given + piece_size, size);
    }
    *lost_out = c.lost;
    return c.verb == LMTP_BAD ? (int)c.error : -1;
}

static void test_long_lines(void **state)
{
    static const size_t pieces[] = {1, 2, 7, 100, LMTP_LINE_MAX - 1, LMTP_LINE_MAX, 10000};
    bool lost;

    for (unsigned i = 0; i < ARRAY_COUNT(pieces); i++) {
        assert_int_equal(line_of(LMTP_LINE_MAX, "NOOP ", pieces[i], &lost), -1);
        assert_int_equal(line_of(LMTP_LINE_MAX + 1, "NOOP ", pieces[i], &lost), LMTP_REPLY_LINE_TOO_LONG);
        assert_int_equal(line_of(LMTP_LINE_MAX + 2, "NOOP ", pieces[i], &lost), LMTP_REPLY_LINE_TOO_LONG);
        assert_int_equal(line_of(3 * LMTP_LINE_MAX, "NOOP ", pieces[i], &lost), LMTP_REPLY_LINE_TOO_LONG);
        assert_false(lost);
        assert_int_equal(line_of(3 * LMTP_LINE_MAX, "BDAT 5 ", pieces[i], &lost), LMTP_REPLY_LINE_TOO_LONG);
        assert_true(lost);
        assert_int_equal(line_of(10, "NOOP ", pieces[i], &lost), -1);
    }
}

static void test_limits(void **state)
{
    char line[1024] = "RCPT TO:<";
    size_t at = strlen(line);
    struct lmtp_command *c;

    memset(line + at, 'l', LMTP_LOCAL_MAX);
    memcpy(line + at + LMTP_LOCAL_MAX, "@d>\r\n", 6);
    c = parse(slice_str(line));
    assert_int_equal(c->verb, LMTP_RCPT);
    assert_int_equal(c->path.local.size, LMTP_LOCAL_MAX);
    memcpy(line + at + LMTP_LOCAL_MAX, "l@d>\r\n", 7);
    is_bad(parse(slice_str(line)), LMTP_REPLY_BAD_RECIPIENT);
    line[at] = '"';
    memcpy(line + at + LMTP_LOCAL_MAX + 1, "\"@d>\r\n", 7);
    assert_int_equal(parse(slice_str(line))->path.local.size, LMTP_LOCAL_MAX);
    memcpy(line + at + LMTP_LOCAL_MAX + 1, "l\"@d>\r\n", 8);
    is_bad(parse(slice_str(line)), LMTP_REPLY_BAD_RECIPIENT);
    memcpy(line + at, "a@", 2);
    memset(line + at + 2, 'd', LMTP_DOMAIN_MAX);
    memcpy(line + at + 2 + LMTP_DOMAIN_MAX, ">\r\n", 4);
    assert_int_equal(parse(slice_str(line))->verb, LMTP_RCPT);
    memcpy(line + at + 2 + LMTP_DOMAIN_MAX, "d>\r\n", 5);
    is_bad(parse(slice_str(line)), LMTP_REPLY_BAD_RECIPIENT);
}

static void test_detail(void **state)
{
    struct slice user, detail;

    lmtp_split_detail(SLICE("u+f+g"), '+', &user, &detail);
    assert_true(slice_eq(user, SLICE("u")) && slice_eq(detail, SLICE("f+g")));
    lmtp_split_detail(SLICE("u"), '+', &user, &detail);
    assert_true(slice_eq(user, SLICE("u")) && detail.size == 0);
    lmtp_split_detail(SLICE("+f"), '+', &user, &detail);
    assert_true(slice_eq(user, SLICE("+f")) && detail.size == 0);
    lmtp_split_detail(SLICE("u+"), '+', &user, &detail);
    assert_true(slice_eq(user, SLICE("u")) && detail.size == 0);
}

static void test_replies(void **state)
{
    struct lmtp_reply own = {452, "4.2.2", "Mailbox full"};
    char buffer[2048];
    struct writer w;

    writer_fixed(&w, buffer, sizeof buffer);
    lmtp_reply_write(&w, LMTP_REPLY_DELIVERED, SLICE("u@d\r\n250 forged\x7f"));
    lmtp_reply_write(&w, LMTP_REPLY_START_DATA, SLICE(""));
    lmtp_reply_write_own(&w, &own, SLICE("j\xc3\xb6rg"));
    lmtp_greeting_write(&w, SLICE("mx"));
    lmtp_lhlo_write(&w, SLICE("mx"), 1000, true, true);
    lmtp_lhlo_write(&w, SLICE("mx"), 0, false, false);
    assert_true(slice_eq(slice_of(buffer, writer_used(&w)),
                         SLICE("250 2.0.0 <u@d??250 forged?> Delivered\r\n"
                               "354 End data with <CR><LF>.<CR><LF>\r\n"
                               "452 4.2.2 <j\xc3\xb6rg> Mailbox full\r\n"
                               "220 mx LMTP ready\r\n"
                               "250-mx\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n"
                               "250-SMTPUTF8\r\n250-CHUNKING\r\n250-STARTTLS\r\n250-XCLIENT ADDR PORT NAME "
                               "PROTO LOGIN HELO SESSION TTL TIMEOUT\r\n250 SIZE 1000\r\n"
                               "250-mx\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n"
                               "250-SMTPUTF8\r\n250-CHUNKING\r\n250 SIZE\r\n")));
}

static void test_xclient(void **state)
{
    static const char *const bad[] = {"",         "ADDR",        "ADDR=a b", "FOO=1", "ADDR=+4",
                                      "ADDR=+4g", "HELO=+0D+0A", "HELO=+00", "=1",    "ADDR=a\x80"};
    struct lmtp_xclient x;

    assert_true(lmtp_xclient_parse(SLICE("ADDR=192.0.2.1 PORT=4711 NAME=[UNAVAILABLE] PROTO=ESMTP "
                                         "LOGIN=u+2B1+40d HELO=[TEMPUNAVAIL]  session=a/b+3D"),
                                   &x));
    assert_true(slice_eq(x.addr, SLICE("192.0.2.1")) && slice_eq(x.port, SLICE("4711")));
    assert_true(slice_eq(x.login, SLICE("u+1@d")) && slice_eq(x.session, SLICE("a/b=")));
    assert_int_equal(x.helo.size, 0);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(lmtp_xclient_parse(slice_str(bad[i]), &x));
    for (size_t size = 1020; size <= 1030; size++) { /* At the bound. */
        char line[2000] = "NAME=";

        memset(line + 5, 'x', size);
        assert_int_equal(lmtp_xclient_parse(slice_of(line, size + 5), &x), size <= sizeof x.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_verbs, reset),
        cmocka_unit_test_setup(test_mail, reset),
        cmocka_unit_test_setup(test_quoted, reset),
        cmocka_unit_test_setup(test_recipients, reset),
        cmocka_unit_test_setup(test_utf8, reset),
        cmocka_unit_test_setup(test_bdat, reset),
        cmocka_unit_test_setup(test_line_ends, reset),
        cmocka_unit_test_setup(test_long_lines, reset),
        cmocka_unit_test_setup(test_limits, reset),
        cmocka_unit_test(test_detail),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_xclient),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
