#include "core/heap.h"
#include "core/mail/mime.h"
#include "core/mail/structure.h"
#include "core/mail/structure_format.h"
#include "tests/unit/core/mail/mail_test.h"
#include <errno.h>

static struct heap *heap;

/* `chunk_size` 0: all at once. */
static struct mime_blob parse(struct slice message, size_t chunk_size)
{
    struct mime_parser *p = mime_parser_new(heap);
    struct mime_blob blob;

    assert_non_null(p);
    while (message.size > 0) {
        size_t size = chunk_size == 0 ? message.size : MIN(chunk_size, message.size);

        mime_parser_feed(p, slice_first(message, size));
        message = slice_from(message, size);
    }
    assert_int_equal(mime_parser_finish(p, &blob), 0);
    mime_parser_free(p);
    return blob;
}

static struct structure opened(struct mime_blob blob)
{
    struct structure s;

    assert_int_equal(structure_open(&s, slice_of(blob.data, blob.size)), 0);
    return s;
}

static void assert_structure(const char *message, const char *expected)
{
    struct mime_blob blob = parse(slice_str(message), 0);
    struct structure s = opened(blob);
    struct writer w = test_writer();

    structure_write_bodystructure(&s, &w);
    assert_string_equal(test_written(&w), expected);
    heap_free(heap, blob.data);
}

static void assert_envelope(const char *message, const char *expected)
{
    struct mime_blob blob = parse(slice_str(message), 0);
    struct structure s = opened(blob);
    struct writer w = test_writer();

    structure_write_envelope(&s, &w);
    assert_string_equal(test_written(&w), expected);
    heap_free(heap, blob.data);
}

/* What BODY[name] gives; NULL: no such section. The next call overwrites it. */
static const char *section(const char *message, const char *name)
{
    struct mime_blob blob = parse(slice_str(message), 0);
    struct structure s = opened(blob);
    struct byte_range range = {0};
    struct section parsed;
    struct writer w = test_writer();
    bool found;

    assert_true(section_parse(slice_str(name), &parsed));
    found = structure_section(&s, &parsed, &range);
    heap_free(heap, blob.data);
    writer_put(&w, message + range.offset, range.size);
    return found ? test_written(&w) : NULL;
}

#define PLAIN "\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" "

static void test_plain(void **state)
{
    assert_structure("", "(" PLAIN "0 0 NIL NIL NIL NIL)");
    assert_structure("\r\n", "(" PLAIN "0 0 NIL NIL NIL NIL)");
    assert_structure("A: b", "(" PLAIN "0 0 NIL NIL NIL NIL)");
    assert_structure("A: b\r\n\r\nx\r\ny", "(" PLAIN "4 1 NIL NIL NIL NIL)");
    assert_structure("A: b\n\nx\ny\n", "(" PLAIN "4 2 NIL NIL NIL NIL)");
    /* Content-Type that is none; fields without MIME. */
    assert_structure("Content-Type: text\r\n\r\nx", "(" PLAIN "1 0 NIL NIL NIL NIL)");
    assert_structure("Content-Transfer-Encoding: base64\r\n\r\nx", "(" PLAIN "1 0 NIL NIL NIL NIL)");
}

static void test_fields(void **state)
{
    assert_structure(
        "MIME-Version: 1.0\r\n"
        "Content-Type: Application/X-y ; name=a.b; b=\"c \\\"d\"; f*0=1; f*1*=%32\r\n"
        "content-transfer-encoding: BASE64\r\n"
        "Content-ID: <i@d>\r\n"
        "Content-Description: d\xc3\xa4\r\n"
        "Content-MD5: m\r\n"
        "Content-Disposition: attachment;\r\n\tfilename=x\r\n"
        "Content-Language: de, en\r\n"
        "Content-Location: l\r\n"
        "\r\nAAAA\r\n",
        "(\"Application\" \"X-y\" (\"name\" \"a.b\" \"b\" \"c \\\"d\" \"f*\" \"''1%32\") \"<i@d>\" {3}\r\n"
        "d\xc3\xa4 \"BASE64\" 6 \"m\" (\"attachment\" (\"filename\" \"x\")) (\"de\" \"en\") \"l\")");
}

static const char multipart[] = "From: a@b\r\nContent-Type: multipart/mixed; boundary=\"x y\"\r\n\r\n"
                                "preamble\r\n--x y\r\nContent-Type: text/html\r\n\r\none\r\n--x y\r\n"
                                "Content-Type: message/rfc822\r\n\r\nSubject: in\r\nContent-Type: "
                                "multipart/alternative; boundary=x\r\n\r\n"
                                "--x\r\n\r\nA\r\n--x\r\nContent-Type: text/plain; "
                                "charset=utf-8\r\n\r\nBB\r\n--x--\r\n\r\n--x y--\r\nepilogue\r\n";

static void test_multipart(void **state)
{
    assert_structure(
        multipart,
        "((\"text\" \"html\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 3 0 NIL NIL NIL NIL)"
        "(\"message\" \"rfc822\" NIL NIL NIL \"7bit\" 133 (NIL \"in\" NIL NIL NIL NIL NIL NIL NIL NIL) "
        "((" PLAIN "1 0 NIL NIL NIL NIL)(\"text\" \"plain\" (\"charset\" \"utf-8\") NIL NIL \"7bit\" 2 0 NIL "
        "NIL NIL NIL)"
        " \"alternative\" (\"boundary\" \"x\") NIL NIL NIL) 11 NIL NIL NIL NIL)"
        " \"mixed\" (\"boundary\" \"x y\") NIL NIL NIL)");
    assert_structure("Content-Type: multipart/mixed; boundary=x\r\n\r\nno part\r\n",
                     "((" PLAIN "0 0 NIL NIL NIL NIL) \"mixed\" (\"boundary\" \"x\") NIL NIL NIL)");
    assert_structure(
        "Content-Type: multipart/digest; boundary=x\r\n\r\n--x\r\n\r\nSubject: s\r\n\r\nt\r\n--x--",
        "((\"message\" \"rfc822\" NIL NIL NIL \"7bit\" 15 (NIL \"s\" NIL NIL NIL NIL NIL NIL NIL NIL) "
        "(" PLAIN "1 0 NIL NIL NIL NIL) 2 NIL NIL NIL NIL) \"digest\" (\"boundary\" \"x\") NIL NIL NIL)");
}

static void test_sections(void **state)
{
    const char *plain = "A: b\r\n\r\ntext\r\n";

    assert_string_equal(section(plain, ""), plain);
    assert_string_equal(section(plain, "HEADER"), "A: b\r\n\r\n");
    assert_string_equal(section(plain, "HEADER.FIELDS"), "A: b\r\n\r\n");
    assert_string_equal(section(plain, "TEXT"), "text\r\n");
    assert_string_equal(section(plain, "1"), "text\r\n");
    assert_string_equal(section(plain, "1.MIME"), "A: b\r\n\r\n");
    assert_null(section(plain, "2"));
    assert_null(section(plain, "1.1"));
    assert_null(section(plain, "1.TEXT"));
    assert_string_equal(section(multipart, "1"), "one");
    assert_string_equal(section(multipart, "1.mime"), "Content-Type: text/html\r\n\r\n");
    assert_null(section(multipart, "1.1"));
    assert_null(section(multipart, "3"));
    assert_string_equal(section(multipart, "2.MIME"), "Content-Type: message/rfc822\r\n\r\n");
    assert_string_equal(section(multipart, "2.HEADER"),
                        "Subject: in\r\nContent-Type: multipart/alternative; boundary=x\r\n\r\n");
    assert_string_equal(section(multipart, "2.1"), "A");
    assert_string_equal(section(multipart, "2.2"), "BB");
    assert_string_equal(section(multipart, "2.2.MIME"), "Content-Type: text/plain; charset=utf-8\r\n\r\n");
    assert_null(section(multipart, "2.3"));
    assert_null(section(multipart, "2.1.1"));
    assert_null(section(multipart, "2.65535"));
    assert_string_equal(section("Content-Type: message/rfc822\r\n\r\nX: y\r\n\r\nin\r\n", "1"),
                        "X: y\r\n\r\nin\r\n");
    assert_string_equal(section("Content-Type: message/rfc822\r\n\r\nX: y\r\n\r\nin\r\n", "1.1"), "in\r\n");
    assert_string_equal(section("Content-Type: message/rfc822\r\n\r\nX: y\r\n\r\nin\r\n", "1.TEXT"),
                        "in\r\n");
}

static void test_section_syntax(void **state)
{
    static const char *const bad[] = {"0",   "1.",      ".1", "1..2", "MIME",           "TEXTS",
                                      "1.0", "HEADER.", "1 ", "x",    "1.HEADER.FIELD", "01"};
    struct section s;
    char text[2 * SECTION_DEPTH_MAX + 4];

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(section_parse(slice_str(bad[i]), &s));
    assert_true(section_parse(SLICE("65535.header.fields.not"), &s));
    assert_int_equal(s.kind, SECTION_HEADER_FIELDS_NOT);
    assert_int_equal(s.numbers[0], UINT16_MAX);
    assert_false(section_parse(SLICE("65536"), &s));
    assert_false(section_parse(SLICE("99999999999"), &s));
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = i % 2 == 0 ? '1' : '.';
    assert_true(section_parse(slice_of(text, 2 * SECTION_DEPTH_MAX - 1), &s));
    assert_false(section_parse(slice_of(text, 2 * SECTION_DEPTH_MAX + 1), &s));
}

static void test_envelope(void **state)
{
    assert_envelope("", "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)");
    assert_envelope("Date: Thu, 22 Aug 2002 18:26:25 +0700\r\nSubject:  a\r\n \tb \r\nFrom: A \"B\" "
                    "<a@b>\r\nTo: c@d, g: e@f;\r\n"
                    "To: h@i\r\nCC: =?utf-8?q?x?= <j@k>\r\nIn-Reply-To: <1>\r\nMessage-Id: <2>\r\n\r\n",
                    "(\"Thu, 22 Aug 2002 18:26:25 +0700\" \"a b\" ((\"A B\" NIL \"a\" \"b\")) ((\"A B\" NIL "
                    "\"a\" \"b\")) "
                    "((\"A B\" NIL \"a\" \"b\")) ((NIL NIL \"c\" \"d\")(NIL NIL \"g\" NIL)(NIL NIL \"e\" "
                    "\"f\")(NIL NIL NIL NIL)"
                    "(NIL NIL \"h\" \"i\")) ((\"=?utf-8?q?x?=\" NIL \"j\" \"k\")) NIL \"<1>\" \"<2>\")");
    /* The first of two counts; lists are joined; Sender and Reply-To of their own. */
    assert_envelope("Subject: one\r\nSubject: two\r\nFrom: a@b\r\nSender: s@s\r\nReply-To: \r\n\r\n",
                    "(NIL \"one\" ((NIL NIL \"a\" \"b\")) ((NIL NIL \"s\" \"s\")) ((NIL NIL \"a\" \"b\")) "
                    "NIL NIL NIL NIL NIL)");
    assert_envelope("Subject:\r\nFrom: a\r\n\r\n",
                    "(NIL \"\" ((NIL NIL \"a\" \"MISSING_DOMAIN\")) ((NIL NIL \"a\" \"MISSING_DOMAIN\")) "
                    "((NIL NIL \"a\" \"MISSING_DOMAIN\")) NIL NIL NIL NIL NIL)");
}

static void test_texts(void **state)
{
    struct mime_blob blob = parse(SLICE("Subject: x\r\nDate: 1 Jan 1970 01:00:00 +0100\r\nContent-Type: "
                                        "text/html; CHARSET=\"k\"\r\n\r\nb"),
                                  0);
    struct structure s = opened(blob);
    struct structure_part part;
    struct mail_date date;
    struct slice text;

    assert_true(structure_sent_date(&s, &date));
    assert_int_equal(date.utc_s, 0);
    assert_int_equal(date.zone_minutes, 60);
    assert_true(structure_envelope_text(&s, ENVELOPE_SUBJECT, &text));
    assert_slice(text, "x");
    assert_false(structure_envelope_text(&s, ENVELOPE_MESSAGE_ID, &text));
    assert_int_equal(structure_part_count(&s), 1);
    structure_part(&s, 0, &part);
    assert_true(part.leaf);
    assert_slice(part.subtype, "html");
    assert_slice(part.charset, "k");
    assert_int_equal(part.body.size, 1);
    heap_free(heap, blob.data);
}

static void test_strings(void **state)
{
    struct writer w = test_writer();

    imap_string_write(&w, SLICE("a\"b\\"));
    imap_string_write(&w, SLICE(""));
    imap_string_write(&w, slice_of("x\0y", 3));
    imap_string_write(&w, SLICE("\r\n"));
    assert_string_equal(test_written(&w), "\"a\\\"b\\\\\"\"\"{3}\r\nx\x80y{2}\r\n\r\n");
}

static void assert_cut_anywhere(struct slice message)
{
    struct mime_blob whole = parse(message, 0);

    for (size_t cut = 1; cut <= message.size; cut++) {
        struct mime_parser *p = mime_parser_new(heap);
        struct mime_blob blob;

        mime_parser_feed(p, slice_first(message, cut));
        mime_parser_feed(p, slice_from(message, cut));
        assert_int_equal(mime_parser_finish(p, &blob), 0);
        mime_parser_free(p);
        assert_int_equal(blob.size, whole.size);
        assert_memory_equal(blob.data, whole.data, whole.size);
        heap_free(heap, blob.data);
    }
    for (size_t chunk = 1; chunk < 8; chunk++) {
        struct mime_blob blob = parse(message, chunk);

        assert_int_equal(blob.size, whole.size);
        assert_memory_equal(blob.data, whole.data, whole.size);
        heap_free(heap, blob.data);
    }
    heap_free(heap, whole.data);
}

static void test_cut(void **state)
{
    assert_cut_anywhere(slice_str(multipart));
    assert_cut_anywhere(SLICE("A: b\r\r\nSubject: x\r\n\ry\r\n\r\nContent-Type: no\r\n"));
    assert_cut_anywhere(
        SLICE("Content-Type: multipart/mixed; boundary=x\n\n--x\nA: b\n--x\n--x\n\n--x \n\n\nq\n--x--"));
    assert_cut_anywhere(SLICE(
        "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n--x--\r\n"));
}

/* Prefixes of the message are messages too: as it ends, nothing is wrong. */
static void test_truncated(void **state)
{
    struct slice message = slice_str(multipart);

    for (size_t size = 0; size <= message.size; size++) {
        struct mime_blob blob = parse(slice_first(message, size), 0);
        struct structure s = opened(blob);
        struct writer w = test_writer();

        structure_write_bodystructure(&s, &w);
        assert_int_equal(structure_message_size(&s), size);
        heap_free(heap, blob.data);
    }
}

struct text {
    char *data;
    size_t size, capacity;
};

static void add(struct text *t, const char *piece)
{
    size_t size = strlen(piece);

    if (t->size + size > t->capacity) {
        t->capacity = (t->size + size) * 2;
        t->data = realloc(t->data, t->capacity);
    }
    memcpy(t->data + t->size, piece, size);
    t->size += size;
}

static uint32_t part_count_of(struct text *t, bool *opaque_out)
{
    struct mime_blob blob = parse(slice_of(t->data, t->size), 4096);
    struct structure s = opened(blob);
    struct writer w = test_writer();
    uint32_t count = structure_part_count(&s);

    assert_true(blob.size <= MIME_BLOB_SIZE_MAX);
    structure_write_bodystructure(&s, &w);
    *opaque_out = strstr(test_written(&w), "\"application\" \"octet-stream\"") != NULL;
    heap_free(heap, blob.data);
    free(t->data);
    *t = (struct text){0};
    return count;
}

static void test_limits(void **state)
{
    struct text t = {0};
    bool opaque;
    char line[100];

    /* Depth. */
    for (int i = 0; i < 3000; i++) {
        snprintf(line, sizeof line, "Content-Type: multipart/mixed; boundary=b%dx\r\n\r\n--b%dx\r\n", i, i);
        add(&t, line);
    }
    assert_int_equal(part_count_of(&t, &opaque), MIME_DEPTH_MAX);
    assert_true(opaque);
    for (int i = 0; i < 3000; i++)
        add(&t, "Content-Type: message/rfc822\r\n\r\n");
    assert_int_equal(part_count_of(&t, &opaque), MIME_DEPTH_MAX);
    assert_true(opaque);
    /* Number: by the size of the blob, and none of them is lost but merged into the last. */
    add(&t, "Content-Type: multipart/mixed; boundary=b\r\n\r\n");
    for (int i = 0; i < 20000; i++)
        add(&t, "--b\r\n\r\nx\r\n");
    assert_in_range(part_count_of(&t, &opaque), 5000, MIME_PART_COUNT_MAX);
    add(&t, "Content-Type: multipart/mixed; boundary=b\r\n\r\n");
    for (int i = 0; i < 3000; i++)
        add(&t, "--b\r\nContent-Type: text/plain; "
                "name=\"0123456789012345678901234567890123456789012345678901234567890\"\r\n\r\n");
    assert_in_range(part_count_of(&t, &opaque), 1500, 3000);
}

/* RFC 5322 says nothing about 500,000 To fields; they must cost no more than their bytes. */
static void test_many_fields(void **state)
{
    struct text t = {0};
    struct mime_blob blob;
    struct structure s;
    struct writer w = test_writer();
    int count = 0;

    for (int i = 0; i < 500000; i++)
        add(&t, "To: a@b\r\n");
    add(&t, "Subject: s\r\nFrom: f@g\r\n\r\n");
    blob = parse(slice_of(t.data, t.size), 65536);
    s = opened(blob);
    structure_write_envelope(&s, &w);
    assert_non_null(strstr(test_written(&w), "(NIL \"s\" ((NIL NIL \"f\" \"g\"))"));
    for (const char *at = written; (at = strstr(at, "\"a\" \"b\"")) != NULL; at++)
        count++;
    assert_int_equal(count, MIME_ADDRESS_COUNT_MAX);
    heap_free(heap, blob.data);
    free(t.data);
}

static void test_large_values(void **state)
{
    static const char *const names[] = {"From: ",
                                        "To: ",
                                        "Cc: ",
                                        "Bcc: ",
                                        "Sender: ",
                                        "Reply-To: ",
                                        "Subject: ",
                                        "Content-Type: text/plain; a=",
                                        "Content-Disposition: x; a*0*=%; a*1=",
                                        "Content-Language: ",
                                        "Date: ",
                                        "Content-ID: "};
    static const char *const pieces[] = {",", "a,", "g:", "g:;,", "%", "x@y,", "\"", "(", ";a=b", "a", "<"};

    for (size_t p = 0; p < ARRAY_COUNT(pieces); p++) {
        struct text t = {0};
        bool opaque;

        for (size_t n = 0; n < ARRAY_COUNT(names); n++) {
            add(&t, names[n]);
            for (int i = 0; i < 70000; i++)
                add(&t, pieces[p]);
            add(&t, "\r\n");
        }
        add(&t, "\r\nbody");
        assert_int_equal(part_count_of(&t, &opaque), 1);
    }
}

/* Every byte of a blob, changed: refused, or safe to read. */
static void test_corrupted(void **state)
{
    struct mime_blob blob = parse(slice_str(multipart), 0);
    static const unsigned char changes[] = {0x01, 0x80, 0xff, 0x10};
    struct structure s;

    for (size_t i = 0; i < blob.size; i++) {
        for (size_t c = 0; c < sizeof changes; c++) {
            blob.data[i] ^= (char)changes[c];
            if (structure_open(&s, slice_of(blob.data, blob.size)) == 0) {
                struct writer w = test_writer();
                struct structure_part part;

                structure_write_envelope(&s, &w);
                structure_write_bodystructure(&s, &w);
                for (uint32_t p = 0; p < structure_part_count(&s); p++)
                    structure_part(&s, p, &part);
            }
            blob.data[i] ^= (char)changes[c];
        }
    }
    for (size_t size = 0; size < blob.size; size++) {
        char *cut = malloc(size + 1);

        memcpy(cut, blob.data, size);
        assert_int_equal(structure_open(&s, slice_of(cut, size)), -EBADMSG);
        free(cut);
    }
    assert_int_equal(structure_open(&s, slice_of(blob.data, blob.size)), 0);
    heap_free(heap, blob.data);
}

/* An empty budget is an error, not a crash, wherever it strikes. */
static void test_no_memory(void **state)
{
    int failed = 0, passed = 0;

    for (uint64_t budget = 1024; budget < 256 * 1024; budget += 4096) {
        struct heap *small = heap_create("small", budget);
        struct mime_parser *p = mime_parser_new(small);
        struct mime_blob blob;
        int rc = -ENOMEM;

        if (p != NULL) {
            for (int i = 0; i < 100; i++)
                mime_parser_feed(p, slice_of(multipart, sizeof multipart - 1));
            rc = mime_parser_finish(p, &blob);
            mime_parser_free(p);
        }
        if (rc == 0)
            heap_free(small, blob.data);
        assert_true(rc == 0 || rc == -ENOMEM);
        failed += rc != 0;
        passed += rc == 0;
        heap_destroy(small);
    }
    assert_true(failed > 0);
    assert_true(passed > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_multipart),
        cmocka_unit_test(test_sections),
        cmocka_unit_test(test_section_syntax),
        cmocka_unit_test(test_envelope),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_many_fields),
        cmocka_unit_test(test_large_values),
        cmocka_unit_test(test_corrupted),
        cmocka_unit_test(test_no_memory),
    };

    heap = heap_create("test", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
