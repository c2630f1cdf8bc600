#include "tests/lib/imap_feed.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct imap_framer_limits *const prelogin = &imap_framer_prelogin;
static const struct imap_framer_limits *const session = &imap_framer_session;

static bool takes_none(struct imap_feed *feed, const struct imap_frame *frame)
{
    return false;
}

typedef bool takes_fn(struct imap_feed *feed, const struct imap_frame *frame);

/* Feeds `stream` whole, byte by byte, and in two pieces cut at every byte; `log` is what must come out. */
static void check(const struct imap_framer_limits *limits, takes_fn *takes, struct slice stream,
                  const char *log)
{
    for (size_t cut = 0; cut <= stream.size; cut++) {
        struct imap_feed feed;

        imap_feed_init(&feed, limits);
        feed.takes = takes;
        imap_feed_bytes(&feed, stream.data, cut);
        imap_feed_bytes(&feed, stream.data + cut, stream.size - cut);
        assert_string_equal(feed.log, log);
        imap_feed_fini(&feed);
    }
    struct imap_feed feed;

    imap_feed_init(&feed, limits);
    feed.takes = takes;
    for (size_t i = 0; i < stream.size; i++)
        imap_feed_bytes(&feed, stream.data + i, 1);
    assert_string_equal(feed.log, log);
    imap_feed_fini(&feed);
}

#define CHECK(limits, stream, log) check(limits, NULL, SLICE(stream), log)
#define CHECK_REFUSED(stream, log) check(session, takes_none, SLICE(stream), log)
#define NEXT_IN                    "b NOOP\r\n"
#define NEXT                       "\nWHOLE tag=b name=NOOP command=NOOP text=b NOOP\r\n"

static void test_lines(void **state)
{
    CHECK(session, "a NOOP\r\n" NEXT_IN, "\nWHOLE tag=a name=NOOP command=NOOP text=a NOOP\r\n" NEXT);
    CHECK(session, "a noop\n" NEXT_IN, "\nWHOLE tag=a name=noop command=NOOP text=a noop\n" NEXT);
    CHECK(session, "a X-Y z\r\n", "\nWHOLE tag=a name=X-Y text=a X-Y z\r\n");
    CHECK(session, "a uid fetch 1 x\r\n",
          "\nWHOLE tag=a name=uid command=UID FETCH text=a uid fetch 1 x\r\n");
    CHECK(session, "a uid fetch\r\n", "\nWHOLE tag=a name=uid command=UID FETCH text=a uid fetch\r\n");
    CHECK(session, "a UID\r\n", "\nWHOLE tag=a name=UID text=a UID\r\n");
    CHECK(session, "a LIST \"\" \"{3+}\"\r\n" NEXT_IN,
          "\nWHOLE tag=a name=LIST command=LIST text=a LIST \"\" \"{3+}\"\r\n" NEXT);
    CHECK(session, "a X \"\\\"{3+}\"\r\n" NEXT_IN, "\nWHOLE tag=a name=X text=a X \"\\\"{3+}\"\r\n" NEXT);
    CHECK(session, "a X b}\r\n" NEXT_IN, "\nWHOLE tag=a name=X text=a X b}\r\n" NEXT);
}

static void test_bad_lines(void **state)
{
    CHECK(session, "\r\n" NEXT_IN, "\nBAD reason=Command expected" NEXT);
    CHECK(session, "\n" NEXT_IN, "\nBAD reason=Command expected" NEXT);
    CHECK(session, "a\r\n" NEXT_IN, "\nBAD tag=a reason=Command expected" NEXT);
    CHECK(session, "a \r\n" NEXT_IN, "\nBAD tag=a reason=Command name expected" NEXT);
    CHECK(session, "a  X\r\n" NEXT_IN, "\nBAD tag=a reason=Command name expected" NEXT);
    CHECK(session, "+ X\r\n" NEXT_IN, "\nBAD reason=Invalid tag" NEXT);
    CHECK(session, "a(b X {3+}\r\nxyz\r\n" NEXT_IN, "\nBAD reason=Invalid tag" NEXT);
    CHECK(session, "a X(\r\n" NEXT_IN, "\nBAD tag=a name=X reason=Invalid command name" NEXT);
    CHECK(session, "a X\0\r\n" NEXT_IN, "\nBAD tag=a reason=NUL in command" NEXT);
    CHECK(session, "a X y\0z {1+}\r\nx\r\n" NEXT_IN, "\nBAD tag=a name=X reason=NUL in command" NEXT);
    CHECK(session, "a X \"\0\\\" {3+}\r\n" NEXT_IN, "\nBAD tag=a name=X reason=NUL in command" NEXT);
    CHECK(session, "a X y\rz\r\n" NEXT_IN, "\nBAD tag=a name=X reason=CR without LF" NEXT);
    CHECK(session, "a\rz X\r\n" NEXT_IN, "\nBAD tag=a reason=CR without LF" NEXT);
    CHECK(session, "a X\r\r\n" NEXT_IN, "\nBAD tag=a name=X reason=CR without LF" NEXT);
    CHECK(session, "a X \"y\r\n" NEXT_IN, "\nBAD tag=a name=X reason=Quoted string without end" NEXT);
    CHECK(session, "a X \"y\\\r\n" NEXT_IN, "\nBAD tag=a name=X reason=Quoted string without end" NEXT);
    CHECK(session, "a X \"{3+}\r\n" NEXT_IN, "\nBAD tag=a name=X reason=Quoted string without end" NEXT);
}

static void test_literals(void **state)
{
    CHECK(prelogin, "a LOGIN {4}\r\nfred {2+}\r\n\r\n\r\n" NEXT_IN,
          "\nCONTINUE tag=a name=LOGIN command=LOGIN size=4"
          "\nWHOLE tag=a name=LOGIN command=LOGIN literals=2 text=a LOGIN {4}\r\nfred {2+}\r\n\r\n\r\n" NEXT);
    CHECK(session, "a X {0}\r\n\r\n" NEXT_IN,
          "\nCONTINUE tag=a name=X size=0\nWHOLE tag=a name=X literals=1 text=a X {0}\r\n\r\n" NEXT);
    CHECK(session, "a X ~{002+}\r\n\0b\r\n" NEXT_IN, "\nWHOLE tag=a name=X literals=1 text=a X ~{002+}\r\n");
}

static void test_bad_literals(void **state)
{
    static const char *const headers[] = {"{-1}",  "{+5}", "{5 }", "{5++}", "{}", "{+}",
                                          "{5+}x", "{5",   "{",    "{{5}x", "{5+"};

    for (size_t i = 0; i < ARRAY_COUNT(headers); i++) {
        char stream[64];

        snprintf(stream, sizeof stream, "a X %s\r\n" NEXT_IN, headers[i]);
        check(session, NULL, slice_str(stream), "\nBAD tag=a name=X reason=Invalid literal" NEXT);
    }
    /* Those of a BAD command are consumed: the bytes inside are no command. */
    CHECK(session, "a X {5+}x {9+}\r\nb LOGOUT\n\r\n" NEXT_IN,
          "\nBAD tag=a name=X reason=Invalid literal" NEXT);
    CHECK(session, "a X( {9+}\r\nb LOGOUT\n {2+}\r\n\0\n\r\n" NEXT_IN,
          "\nBAD tag=a name=X reason=Invalid command name" NEXT);
    CHECK(session, "a X {9+}\nb LOGOUT\n\r\n" NEXT_IN, "\nBAD tag=a name=X reason=Literal without CRLF" NEXT);
    /* A synchronising one is not sent by a client that reads BAD. */
    CHECK(session, "a X {9}\n" NEXT_IN, "\nBAD tag=a name=X reason=Literal without CRLF" NEXT);
    CHECK(session, "a X( {9}\r\n" NEXT_IN, "\nBAD tag=a name=X reason=Invalid command name" NEXT);
    CHECK(session, "a X {9}\r" NEXT_IN, "\nBAD tag=a name=X reason=Invalid literal");
}

static void test_literal_limits(void **state)
{
    CHECK(prelogin, "a X {4294967296}\r\n" NEXT_IN, "\nBAD tag=a name=X reason=Literal too big" NEXT);
    CHECK(prelogin, "a X {18446744073709551616}\r\n" NEXT_IN,
          "\nBAD tag=a name=X reason=Literal too big" NEXT);
    CHECK(prelogin, "a X {18446744073709551617+}\r\n" NEXT_IN, "\nTOO_BIG reason=Literal too big");
    CHECK(prelogin, "a X( {9999+}\r\n" NEXT_IN,
          "\nBAD tag=a name=X reason=Invalid command name\nTOO_BIG reason=Literal too big");
    CHECK(session, "a X {65536}\r\n" NEXT_IN, "\nBAD tag=a name=X reason=Literal too big" NEXT);
    CHECK(session, "a X {1048577+}\r\n", "\nTOO_BIG reason=Literal too big");
}

/* `size` bytes of 'x' between the two. */
static char *padded(const char *before, size_t size, const char *after, size_t *size_out)
{
    char *text = malloc(strlen(before) + size + strlen(after) + 1);

    *size_out = strlen(before) + size + strlen(after);
    memcpy(text, before, strlen(before));
    memset(text + strlen(before), 'x', size);
    strcpy(text + strlen(before) + size, after);
    return text;
}

static void check_padded(const struct imap_framer_limits *limits, const char *before, size_t pad,
                         const char *after, const char *log, size_t pending_max)
{
    for (size_t piece = 1; piece < 70000; piece = piece * 5 + 1) {
        struct imap_feed feed;
        size_t size;
        char *stream = padded(before, pad, after, &size);

        if (piece == 1 && size > 20000)
            piece = 1000;
        imap_feed_init(&feed, limits);
        for (size_t at = 0; at < size; at += piece)
            imap_feed_bytes(&feed, stream + at, MIN(piece, size - at));
        if (log[0] == '\n')
            assert_string_equal(feed.log, log);
        else
            assert_int_equal(strncmp(feed.log, "\nWHOLE", 6), 0);
        assert_true(feed.pending_max <= pending_max);
        imap_feed_fini(&feed);
        free(stream);
    }
}

static void test_size_limits(void **state)
{
    const char *bad = "\nBAD tag=a name=X reason=Command too long" NEXT;

    check_padded(prelogin, "a X ", 2048 - 6, "\r\n", "WHOLE", 2048);
    check_padded(prelogin, "a X ", 2048 - 5, "\r\n" NEXT_IN, bad, 2048);
    check_padded(prelogin, "a X {5+}\r\nabcde ", 2048 - 10, "\r\n" NEXT_IN, bad, 2048);
    check_padded(prelogin, "a X \"", 2048, "{3+}\"\r\n" NEXT_IN, bad, 2048);
    check_padded(prelogin, "a X ", 2048, " {3+}\r\nb X\r\n" NEXT_IN, bad, 2048);
    check_padded(prelogin, "a X ", 20000, "\r\n",
                 "\nBAD tag=a name=X reason=Command too long\nTOO_BIG reason=Command too long", 2048);
    check_padded(prelogin, "a ", 20000, "\r\n",
                 "\nBAD tag=a reason=Command too long\nTOO_BIG reason=Command too long", 2048);
    check_padded(prelogin, "", 200, " X\r\n" NEXT_IN, "\nBAD reason=Invalid tag" NEXT, 2048);
    check_padded(prelogin, "a AUTHENTICATE PLAIN ", 8192, "\r\n", "WHOLE", 8500);
    check_padded(prelogin, "a AUTHENTICATE PLAIN ", 8500, "\r\n" NEXT_IN,
                 "\nBAD tag=a name=AUTHENTICATE command=AUTHENTICATE reason=Command too long" NEXT, 8500);
    check_padded(session, "a X ", 65536 - 6, "\r\n", "WHOLE", 65536);
    check_padded(session, "a X ", 65536 - 5, "\r\n" NEXT_IN, bad, 65536);
}

static void test_literal_count(void **state)
{
    struct imap_feed feed;

    imap_feed_init(&feed, prelogin);
    imap_feed_bytes(&feed, "a ID", 4);
    for (int i = 0; i < 65; i++)
        imap_feed_bytes(&feed, " {1+}\r\nx", 8);
    imap_feed_bytes(&feed, "\r\n" NEXT_IN, 2 + strlen(NEXT_IN));
    assert_string_equal(feed.log, "\nBAD tag=a name=ID command=ID reason=Too many literals" NEXT);
    imap_feed_fini(&feed);
}

static void test_append(void **state)
{
#define APPEND_HEAD "\nLITERAL tag=a name=APPEND command=APPEND "
    CHECK(session, "a APPEND x {5}\r\nhello\r\n" NEXT_IN,
          APPEND_HEAD "size=5 text=a APPEND x {5}\r\n\nDATA text=hello\nEND text=\r\n" NEXT);
    CHECK(session, "a APPEND \"x y\" (\\Seen) ~{2+}\r\n\0\n (\\Draft) {0}\r\n\r\n" NEXT_IN, /* MULTIAPPEND */
          APPEND_HEAD "size=2+ binary text=a APPEND \"x y\" (\\Seen) ~{2+}\r\n\nDATA text=");
    CHECK(session, "a APPEND x {2+}\r\nab {2+}\r\ncd {0+}\r\n\r\n" NEXT_IN,
          APPEND_HEAD "size=2+ text=a APPEND x {2+}\r\n\nDATA text=ab"
                      "\nLITERAL size=2+ text= {2+}\r\n\nDATA text=cd"
                      "\nLITERAL size=0+ text= {0+}\r\n\nEND text=\r\n" NEXT);
    /* The mailbox may be a literal, which is the proxy's to accumulate. */
    CHECK(session, "a APPEND {1}\r\nx {2}\r\nab\r\n" NEXT_IN,
          "\nCONTINUE tag=a name=APPEND command=APPEND size=1" APPEND_HEAD
          "size=2 text=a APPEND {1}\r\nx {2}\r\n\nDATA text=ab\nEND text=\r\n" NEXT);
    CHECK(session, "a APPEND  {1+}\r\nx {2+}\r\nab\r\n",
          APPEND_HEAD "size=2+ text=a APPEND  {1+}\r\nx {2+}\r\n\nDATA text=ab\nEND text=\r\n");
    CHECK(session, "a UID REPLACE 4 x {2+}\r\nab\r\n" NEXT_IN,
          "\nLITERAL tag=a name=UID command=UID REPLACE size=2+ text=a UID REPLACE 4 x {2+}\r\n"
          "\nDATA text=ab\nEND text=\r\n" NEXT);
    CHECK(session, "a REPLACE 4 {1+}\r\nx {2+}\r\nab\r\n" NEXT_IN,
          "\nLITERAL tag=a name=REPLACE command=REPLACE size=2+ text=a REPLACE 4 {1+}\r\nx {2+}\r\n"
          "\nDATA text=ab\nEND text=\r\n" NEXT);
    CHECK(session, "a APPEND x CATENATE (TEXT {2+}\r\nab URL \"u\")\r\n" NEXT_IN,
          APPEND_HEAD
          "size=2+ text=a APPEND x CATENATE (TEXT {2+}\r\n\nDATA text=ab\nEND text= URL \"u\")\r\n" NEXT);
    CHECK(session, "a APPEND x\r\n" NEXT_IN,
          "\nWHOLE tag=a name=APPEND command=APPEND text=a APPEND x\r\n" NEXT);
    CHECK(session, "a APPEND x {99999999999}\r\n",
          APPEND_HEAD "size=99999999999 text=a APPEND x {99999999999}\r\n");
    /* Before login it is a command like any other. */
    CHECK(prelogin, "a APPEND x {2+}\r\nab\r\n",
          "\nWHOLE tag=a name=APPEND command=APPEND literals=1 text=a APPEND x {2+}\r\nab\r\n");
}

static void test_append_bad(void **state)
{
    CHECK(session, "a APPEND x {2+}\r\nab\0 {3+}\r\nb X\r\n" NEXT_IN,
          APPEND_HEAD "size=2+ text=a APPEND x {2+}\r\n\nDATA text=ab\nBAD reason=NUL in command" NEXT);
    CHECK(session, "a APPEND x {2+}\r\nab {x}\r\n" NEXT_IN,
          APPEND_HEAD "size=2+ text=a APPEND x {2+}\r\n\nDATA text=ab\nBAD reason=Invalid literal" NEXT);
    CHECK_REFUSED("a APPEND x {5}\r\n" NEXT_IN, APPEND_HEAD "size=5 text=a APPEND x {5}\r\n" NEXT);
    CHECK_REFUSED("a APPEND x {4+}\r\nc X\n {4+}\r\nd X\n\r\n" NEXT_IN,
                  APPEND_HEAD "size=4+ text=a APPEND x {4+}\r\n" NEXT);
    CHECK_REFUSED("a APPEND x {4+}\r\nc X\n {4}\r\n" NEXT_IN,
                  APPEND_HEAD "size=4+ text=a APPEND x {4+}\r\n" NEXT);
    CHECK_REFUSED("a APPEND x {999999999999+}\r\n" NEXT_IN,
                  APPEND_HEAD "size=999999999999+ text=a APPEND x {999999999999+}\r\n");
}

static void test_append_streams(void **state)
{
    struct imap_feed feed;
    char window[1000];

    imap_feed_init(&feed, session);
    imap_feed_bytes(&feed, "a APPEND x {100000+}\r\n", 22);
    memset(window, '\n', sizeof window);
    for (int i = 0; i < 100; i++)
        imap_feed_bytes(&feed, window, sizeof window);
    imap_feed_bytes(&feed, "\r\n" NEXT_IN, 2 + strlen(NEXT_IN));
    assert_true(feed.pending_max <= 22);
    assert_non_null(strstr(feed.log, "\nEND text=\r\n" NEXT));
    imap_feed_fini(&feed);
}

static void test_wanted(void **state)
{
    struct imap_framer f;
    struct imap_frame frame;

    imap_framer_init(&f, session);
    assert_true(imap_framer_idle(&f));
    imap_framer_next(&f, SLICE("a X {10+}\r\nabc"), &frame);
    assert_int_equal(frame.kind, IMAP_FRAME_MORE);
    assert_int_equal(frame.consumed, 0);
    assert_int_equal(frame.wanted, 8);
    assert_false(imap_framer_idle(&f));
    imap_framer_next(&f, SLICE("a X {10+}\r\nabcdefghij\r\n"), &frame);
    assert_int_equal(frame.kind, IMAP_FRAME_WHOLE);
    assert_true(imap_framer_idle(&f));
}

static void check_line(struct slice stream, uint32_t size_max, enum imap_frame_kind kind, struct slice text)
{
    for (size_t cut = 0; cut <= stream.size; cut++) {
        struct imap_framer f;
        struct imap_frame frame;

        imap_framer_init(&f, prelogin);
        imap_framer_line(&f, slice_first(stream, cut), size_max, &frame);
        if (frame.kind == IMAP_FRAME_MORE)
            imap_framer_line(&f, stream, size_max, &frame);
        assert_int_equal(frame.kind, kind);
        if (kind == IMAP_FRAME_WHOLE) {
            assert_true(slice_eq(frame.text, text));
            assert_true(imap_framer_idle(&f));
        }
    }
}

static void test_plain_line(void **state)
{
    check_line(SLICE("DONE\r\n"), 100, IMAP_FRAME_WHOLE, SLICE("DONE"));
    check_line(SLICE("DONE\n"), 100, IMAP_FRAME_WHOLE, SLICE("DONE"));
    check_line(SLICE("\r\n"), 100, IMAP_FRAME_WHOLE, SLICE(""));
    check_line(SLICE("12345\r\n"), 5, IMAP_FRAME_WHOLE, SLICE("12345"));
    check_line(SLICE("1234567\r\n"), 5, IMAP_FRAME_TOO_BIG, SLICE(""));
    check_line(SLICE("12345678901234"), 5, IMAP_FRAME_TOO_BIG, SLICE(""));
    check_line(SLICE("1\0002\r\n"), 5, IMAP_FRAME_BAD, SLICE(""));
    check_line(SLICE("1\r2\r\n"), 5, IMAP_FRAME_BAD, SLICE(""));
    check_line(SLICE("12"), 5, IMAP_FRAME_MORE, SLICE(""));
}

static void test_literal_header(void **state)
{
    uint64_t size = 7;
    bool sync = false;

    assert_int_equal(imap_literal_header(SLICE("{12}\r\nx"), &size, &sync), 6);
    assert_int_equal(size, 12);
    assert_true(sync);
    assert_int_equal(imap_literal_header(SLICE("{0+}\r\n"), &size, &sync), 6);
    assert_int_equal(size, 0);
    assert_false(sync);
    assert_int_equal(imap_literal_header(SLICE("{0+}\n"), &size, &sync), 0);
    assert_int_equal(imap_literal_header(SLICE("{}\r\n"), &size, &sync), 0);
    assert_int_equal(imap_literal_header(SLICE("{1"), &size, &sync), 0);
    assert_int_equal(imap_literal_header(SLICE(""), &size, &sync), 0);
}

static void test_commands(void **state)
{
    for (int id = 0; id < IMAP_COMMAND_COUNT; id++) {
        const struct imap_command *c = imap_command_by_id(id);

        assert_ptr_equal(imap_command_find(slice_str(c->name + (c->uid ? 4 : 0)), c->uid), c);
        assert_int_equal(c->uid, strncmp(c->name, "UID ", 4) == 0);
        /* What the proxy runs or keeps, it must know; sequence numbers and news exclude each other. */
        if (c->attributes & (IMAP_HAS_LOCAL | IMAP_HAS_BARRIER | IMAP_HAS_STATE | IMAP_HAS_APPEND))
            assert_true(imap_command_has(c, IMAP_HAS_KNOWN));
        assert_false(imap_command_has(c, IMAP_HAS_SEQUENCE) && imap_command_has(c, IMAP_HAS_SYNCS));
    }
    assert_null(imap_command_find(SLICE(""), false));
    assert_null(imap_command_find(SLICE(""), true));
    assert_null(imap_command_find(SLICE("NOOPS"), false));
    assert_null(imap_command_find(SLICE("NOOP"), true));
    assert_null(imap_command_find(SLICE("UID FETCH"), false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),          cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_literals),       cmocka_unit_test(test_bad_literals),
        cmocka_unit_test(test_literal_limits), cmocka_unit_test(test_size_limits),
        cmocka_unit_test(test_literal_count),  cmocka_unit_test(test_append),
        cmocka_unit_test(test_append_bad),     cmocka_unit_test(test_append_streams),
        cmocka_unit_test(test_wanted),         cmocka_unit_test(test_plain_line),
        cmocka_unit_test(test_literal_header), cmocka_unit_test(test_commands),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
