#include "net/imap/write.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* Windows as small as they may be: every response is split somewhere. */
static char collected[65536];
static size_t collected_size;
static char window[WRITER_NEED_MAX];

static void more(struct writer *w)
{
    assert_true(collected_size + writer_used(w) < sizeof collected);
    memcpy(collected + collected_size, w->start, writer_used(w));
    collected_size += writer_used(w);
    w->start = w->at = window;
    w->end = window + sizeof window;
}

static struct writer w;

static struct writer *fresh(void)
{
    collected_size = 0;
    w = (struct writer){.start = window, .at = window, .end = window + sizeof window, .more = more};
    return &w;
}

static void check(const char *expected)
{
    more(&w);
    collected[collected_size] = '\0';
    assert_string_equal(collected, expected);
}

#define CHECK(call, expected)                                                                                \
    do {                                                                                                     \
        fresh();                                                                                             \
        call;                                                                                                \
        check(expected);                                                                                     \
    } while (0)

static void test_lines(void **state)
{
    struct imap_parse_error bad = {.text = "Unknown command"};
    struct imap_parse_error no = {.no = true, .code = "CANNOT", .text = "x"};

    CHECK(imap_write_status(&w, SLICE("a1"), IMAP_OK, NULL, SLICE("Done.")), "a1 OK Done.\r\n");
    CHECK(imap_write_status(&w, SLICE(""), IMAP_BYE, "UNAVAILABLE", SLICE("x")), "* BYE [UNAVAILABLE] x\r\n");
    CHECK(imap_write_status(&w, SLICE(""), IMAP_PREAUTH, NULL, SLICE("[x]\r\na OK\xff")),
          "* PREAUTH ?x]??a OK?\r\n");
    CHECK(imap_write_parse_error(&w, SLICE("a"), &bad), "a BAD Unknown command\r\n");
    CHECK(imap_write_parse_error(&w, SLICE(""), &no), "* NO [CANNOT] x\r\n");
    CHECK(imap_write_continue(&w, SLICE("idling")), "+ idling\r\n");
    CHECK(imap_write_number(&w, 4294967295, "EXISTS"), "* 4294967295 EXISTS\r\n");
}

static void test_uidplus(void **state)
{
    struct heap *heap = heap_create("test", 0);
    struct uid_set from, to;

    uid_set_init(&from, heap, 0);
    uid_set_init(&to, heap, 0);
    assert_int_equal(uid_set_parse(&from, SLICE("1:3,7"), 0), 0);
    assert_int_equal(uid_set_parse(&to, SLICE("11:14"), 0), 0);
    fresh();
    imap_write_status_begin(&w, SLICE("a"), IMAP_OK);
    imap_write_copyuid(&w, 5, &from, &to);
    imap_write_status_end(&w, SLICE("Done."));
    imap_write_status_begin(&w, SLICE("b"), IMAP_OK);
    imap_write_appenduid(&w, 5, &to);
    imap_write_status_end(&w, SLICE("Done."));
    check("a OK [COPYUID 5 1:3,7 11:14] Done.\r\nb OK [APPENDUID 5 11:14] Done.\r\n");
    uid_set_fini(&from);
    uid_set_fini(&to);
    heap_destroy(heap);
}

static void test_strings(void **state)
{
    CHECK(imap_write_string(&w, SLICE("a \"b\\")), "\"a \\\"b\\\\\"");
    CHECK(imap_write_string(&w, SLICE("a\r\nb")), "{4}\r\na\r\nb");
    CHECK(imap_write_string(&w, SLICE("a\0")), "{2}\r\na\x80");
    CHECK(imap_write_string(&w, SLICE("")), "\"\"");
    CHECK(imap_write_nstring(&w, slice_of(NULL, 0)), "NIL");
    CHECK(imap_write_nstring(&w, SLICE("")), "\"\"");
    CHECK(imap_write_astring(&w, SLICE("a]b")), "a]b");
    CHECK(imap_write_astring(&w, SLICE("nil")), "\"nil\"");
    CHECK(imap_write_astring(&w, SLICE("")), "\"\"");
    CHECK(imap_write_astring(&w, SLICE("a b")), "\"a b\"");
    CHECK(imap_write_literal_header(&w, 12345678901), "{12345678901}\r\n");
    CHECK(imap_write_date(&w, ((struct mail_date){.utc_s = 837596665, .zone_minutes = -420})),
          "\"17-Jul-1996 02:44:25 -0700\"");
}

static void test_mailboxes(void **state)
{
    char level[300], expected[400];

    CHECK(imap_write_mailbox(&w, SLICE("INBOX"), false), "INBOX");
    CHECK(imap_write_mailbox(&w, SLICE("a b/c\\d"), false), "\"a b/c\\\\d\"");
    CHECK(imap_write_mailbox(&w, SLICE("a/\xc3\xa9/\xc3\xa9&"), false), "\"a/&AOk-/&AOk-&-\"");
    CHECK(imap_write_mailbox(&w, SLICE("a&b"), false), "\"a&-b\"");
    CHECK(imap_write_mailbox(&w, SLICE("a&b"), true), "a&b");
    CHECK(imap_write_mailbox(&w, SLICE("a \xc3\xa9\""), true), "\"a \xc3\xa9\\\"\"");
    CHECK(imap_write_mailbox(&w, SLICE("\xc3"), true), "{1}\r\n\xc3");
    CHECK(imap_write_mailbox(&w, SLICE("a\r\n"), true), "{3}\r\na\r\n");
    CHECK(imap_write_mailbox(&w, SLICE("\xc3"), false), "{1}\r\n\xc3");
    CHECK(imap_write_mailbox(&w, SLICE(""), false), "\"\"");
    memset(level, 'x', sizeof level);
    level[0] = ' ';
    snprintf(expected, sizeof expected, "\"%.*s\"", (int)sizeof level, level);
    CHECK(imap_write_mailbox(&w, slice_of(level, sizeof level), false), expected);
}

static void test_flags(void **state)
{
    static const struct slice names[64] = {{"$Forwarded", 10}, {"foo", 3}, [63] = {"last", 4}};
    struct imap_keywords none = {0}, two = {names, 2}, all = {names, 64};
    struct imap_flag_line line = {.seq = 1, .uid = 10, .system = MAIL_SEEN};

    CHECK(imap_write_flags(&w, 0, 0, &none), "()");
    CHECK(imap_write_flags(&w, 0, UINT64_MAX, &none), "()");
    CHECK(imap_write_flags(&w, MAIL_FLAGS_ALL, 0, &none),
          "(\\Answered \\Flagged \\Deleted \\Seen \\Draft \\Recent)");
    CHECK(imap_write_flags(&w, MAIL_SEEN, 2, &two), "(\\Seen foo)");
    CHECK(imap_write_flags(&w, 0, 3, &two), "($Forwarded foo)");
    CHECK(imap_write_flags(&w, 0, 7, &two), "($Forwarded foo)");
    CHECK(imap_write_flags(&w, 0, 1ull << 63, &all), "(last)");
    CHECK(imap_write_flag_line(&w, &line, &none), "* 1 FETCH (UID 10 FLAGS (\\Seen))\r\n");
    line = (struct imap_flag_line){.seq = 4294967295, .modseq = INT64_MAX, .keywords = 1};
    CHECK(imap_write_flag_line(&w, &line, &two),
          "* 4294967295 FETCH (MODSEQ (9223372036854775807) FLAGS ($Forwarded))\r\n");
    CHECK(imap_write_mailbox_flags(&w, &two, false, true),
          "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Forwarded foo)\r\n"
          "* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Forwarded foo \\*)] "
          "Flags permitted.\r\n");
    CHECK(imap_write_mailbox_flags(&w, &none, true, true),
          "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n"
          "* OK [PERMANENTFLAGS ()] Read-only mailbox.\r\n");
}

static void test_decimals(void **state)
{
    static const uint32_t numbers[] = {1,   9,   10,   11,   99,    100,    101,
                                       107, 999, 1000, 1005, 99999, 100000, 4294967295};

    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        struct imap_flag_line line = {.seq = numbers[i], .uid = numbers[i]};
        char expected[100];

        snprintf(expected, sizeof expected, "* %u FETCH (UID %u FLAGS ())\r\n", numbers[i], numbers[i]);
        CHECK(imap_write_flag_line(&w, &line, &(struct imap_keywords){0}), expected);
    }
}

static void test_many_flag_lines(void **state)
{
    static const struct slice names[] = {{"averyveryverylongkeywordindeed", 30}};
    static char expected[65536];
    size_t size = 0;

    fresh();
    for (uint32_t i = 1; i <= 500; i++) {
        struct imap_flag_line line = {.seq = i, .uid = i * 3, .system = i % 64, .keywords = i % 2};
        struct imap_keywords keywords = {names, 1};
        const char *plain;
        struct writer fixed;

        imap_write_flag_line(&w, &line, &keywords);
        writer_fixed(&fixed, expected + size, 1000);
        imap_write_flag_line(&fixed, &line, &keywords);
        plain = expected + size;
        size += writer_used(&fixed);
        assert_memory_equal(plain + (size - (size_t)(plain - expected)) - 4, "))\r\n", 4);
    }
    expected[size] = '\0';
    check(expected);
}

/* What the grammar read of `items` is written back as `expected`. */
static void check_sections(const char *items, const char *expected)
{
    struct heap *heap = heap_create("test", 0);
    struct imap_parse_options options = {0};
    struct imap_parse_error error;
    struct imap_parsed p;
    struct arena arena;
    char command[300];

    arena_init(&arena, heap);
    snprintf(command, sizeof command, "a FETCH 1 %s\r\n", items);
    assert_true(imap_parse(&arena, slice_str(command), &options, &p, &error));
    fresh();
    imap_write_fetch_begin(&w, 1);
    for (uint32_t i = 0; i < p.fetch.section_count; i++)
        imap_write_section(&w, &p.fetch.sections[i]);
    check(expected);
    arena_fini(&arena);
    heap_destroy(heap);
}

static void test_sections(void **state)
{
    check_sections("BODY.PEEK[]", "* 1 FETCH (BODY[]");
    check_sections("(body[1.2.header.fields (from \"x y\")]<5.10> BINARY.SIZE[1.3])",
                   "* 1 FETCH (BODY[1.2.HEADER.FIELDS (from \"x y\")]<5>BINARY.SIZE[1.3]");
    check_sections("(RFC822 RFC822.HEADER RFC822.TEXT)", "* 1 FETCH (RFC822RFC822.HEADERRFC822.TEXT");
    check_sections("(BODY[4.MIME] BODY[HEADER.FIELDS.NOT (a)] BINARY[7])",
                   "* 1 FETCH (BODY[4.MIME]BODY[HEADER.FIELDS.NOT (a)]BINARY[7]");
}

static void test_sets(void **state)
{
    struct imap_set_writer s;

    fresh();
    imap_write_esearch_begin(&w, SLICE("A1"), true);
    writer_text(&w, " ALL ");
    imap_set_begin(&s, &w);
    imap_set_add(&s, 1, 1);
    imap_set_add(&s, 2, 2);
    imap_set_add(&s, 4, 9);
    imap_set_add(&s, 11, 11);
    imap_set_add(&s, 4294967295, 4294967295);
    imap_set_end(&s);
    imap_write_crlf(&w);
    check("* ESEARCH (TAG \"A1\") UID ALL 1:2,4:9,11,4294967295\r\n");
    fresh();
    imap_set_begin(&s, &w);
    imap_set_end(&s);
    check("");
}

static void test_lists(void **state)
{
    struct imap_list_line line = {.word = "LIST",
                                  .attributes = IMAP_ATTR_HASNOCHILDREN | IMAP_ATTR_SUBSCRIBED,
                                  .special_use = IMAP_USE_SENT,
                                  .separator = '/',
                                  .mailbox = SLICE("Sent \xc3\xa9"),
                                  .child_info = true};
    struct imap_status_values values = {.messages = 1, .uidnext = 4294967295, .size = 12345678901};

    CHECK(imap_write_list(&w, &line, false), "* LIST (\\HasNoChildren \\Subscribed \\Sent) \"/\" \"Sent "
                                             "&AOk-\" (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n");
    line = (struct imap_list_line){.word = "LSUB", .mailbox = SLICE("x")};
    CHECK(imap_write_list(&w, &line, false), "* LSUB () NIL x\r\n");
    CHECK(imap_write_status_items(&w, SLICE("INBOX"), false,
                                  IMAP_STATUS_MESSAGES | IMAP_STATUS_UIDNEXT | IMAP_STATUS_SIZE, &values),
          "* STATUS INBOX (MESSAGES 1 UIDNEXT 4294967295 SIZE 12345678901)\r\n");
    CHECK(imap_write_status_items(&w, SLICE("x"), false, 0, &values), "* STATUS x ()\r\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),    cmocka_unit_test(test_uidplus),
        cmocka_unit_test(test_strings),  cmocka_unit_test(test_mailboxes),
        cmocka_unit_test(test_flags),    cmocka_unit_test(test_decimals),
        cmocka_unit_test(test_sections), cmocka_unit_test(test_many_flag_lines),
        cmocka_unit_test(test_sets),     cmocka_unit_test(test_lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
