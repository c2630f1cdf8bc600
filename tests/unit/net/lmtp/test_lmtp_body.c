/* DATA ends with CRLF.CRLF and with nothing else; every body comes out as it was meant, cut anywhere. */
#include "net/lmtp/lmtp.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define SMUGGLED "MAIL FROM:<evil@x>\r\nRCPT TO:<victim@x>\r\nDATA\r\nsmuggled\r\n.\r\n"

struct result {
    char body[4096];
    size_t size, rest; /* rest: bytes behind the end. */
    bool ended;
};

static void collect(struct lmtp_body *b, struct slice in, struct result *r)
{
    struct slice piece;

    while (!r->ended) {
        switch (lmtp_body_feed(b, &in, &piece)) {
        case LMTP_BODY_MORE:
            assert_int_equal(in.size, 0);
            return;
        case LMTP_BODY_PIECE:
            assert_true(piece.size > 0 && r->size + piece.size <= sizeof r->body);
            memcpy(r->body + r->size, piece.data, piece.size);
            r->size += piece.size;
            break;
        case LMTP_BODY_END:
            r->ended = true;
        }
    }
    r->rest += in.size;
}

static void same(const struct result *r, struct slice body, bool ended, size_t rest)
{
    assert_int_equal(r->ended, ended);
    assert_int_equal(r->size, body.size);
    assert_memory_equal(r->body, body.data, body.size);
    assert_int_equal(r->rest, rest);
}

/* In every cut into three pieces, and byte by byte. Each piece in a block of its own, for the sanitizers. */
static void check(struct slice in, struct slice body, bool ended, size_t rest)
{
    struct lmtp_body b;

    for (size_t i = 0; i <= in.size; i++) {
        for (size_t j = i; j <= in.size; j++) {
            struct slice parts[3] = {slice_first(in, i), slice_of(in.data + i, j - i), slice_from(in, j)};
            struct result r = {0};

            lmtp_body_start_data(&b);
            for (unsigned k = 0; k < 3; k++) {
                char *copy = malloc(parts[k].size + 1);

                memcpy(copy, parts[k].data, parts[k].size);
                if (r.ended)
                    r.rest += parts[k].size;
                else
                    collect(&b, slice_of(copy, parts[k].size), &r);
                free(copy);
            }
            same(&r, body, ended, rest);
        }
    }
    struct result r = {0};
    lmtp_body_start_data(&b);
    for (size_t i = 0; i < in.size; i++) {
        char c = in.data[i];

        if (r.ended)
            r.rest++;
        else
            collect(&b, slice_of(&c, 1), &r);
    }
    same(&r, body, ended, rest);
}

#define CHECK(in, body, ended, rest) check(SLICE(in), SLICE(body), ended, rest)

static void test_good(void **state)
{
    CHECK(".\r\n", "", true, 0);
    CHECK("\r\n.\r\n", "\r\n", true, 0);
    CHECK("a\r\n.\r\n", "a\r\n", true, 0);
    CHECK("a\r\n.\r\nQUIT\r\n", "a\r\n", true, 6);
    CHECK("a\r\n..\r\n.\r\n", "a\r\n.\r\n", true, 0);
    CHECK("..a\r\n...\r\nb.\r\n.\r\n", ".a\r\n..\r\nb.\r\n", true, 0);
    CHECK("a.b.c\r\n\r\n\r\n.\r\n", "a.b.c\r\n\r\n\r\n", true, 0);
    CHECK("a", "a", false, 0);
    CHECK("a\r\n.", "a\r\n", false, 0);
    CHECK("a\r\n.\r", "a\r\n", false, 0);
}

/* Where one dot of a line is all that a line begins with, RFC 5321 4.5.2 removes it; else nothing changes. */
static void test_smuggling(void **state)
{
#define VARIANT(x, kept)                                                                                     \
    CHECK("a" x SMUGGLED, "a" kept "MAIL FROM:<evil@x>\r\nRCPT TO:<victim@x>\r\nDATA\r\nsmuggled\r\n", true, \
          0)
    VARIANT("\n.\n", "\n.\n");
    VARIANT("\n.\r\n", "\n.\r\n");
    VARIANT("\r.\r", "\r.\r");
    VARIANT("\r.\r\n", "\r.\r\n");
    VARIANT("\r\n.\r", "\r\n\r");
    VARIANT("\r\n.\n", "\r\n\n");
    VARIANT("\r\n\0.\r\n", "\r\n\0.\r\n");
    VARIANT("\r\r\n.\r\r\n", "\r\r\n\r\r\n");
    VARIANT("\r\n.\r\r\n", "\r\n\r\r\n");
    VARIANT("\r\n.\r.\r\n", "\r\n\r.\r\n");
    VARIANT("\n\n.\r\n", "\n\n.\r\n");
    VARIANT("\n\r.\r\n", "\n\r.\r\n");
    VARIANT("\r\n..\r\n", "\r\n.\r\n");
    VARIANT("\r\n. \r\n", "\r\n \r\n");
#undef VARIANT
    /* CR before a whole CRLF.CRLF: the end is there, and what follows are commands for the session to judge.
     */
    CHECK("a\r\r\n.\r\nMAIL", "a\r\r\n", true, 4);
}

static uint32_t random_state = 1;

static uint32_t random_small(void)
{
    random_state = random_state * 1664525 + 1013904223;
    return random_state >> 16;
}

/* Any bytes that end in CRLF survive stuffing and its removal. */
static void test_round_trip(void **state)
{
    static const char letters[] = {'\r', '\n', '.', 'a', '\0'};

    for (unsigned round = 0; round < 20000; round++) {
        char body[32], stuffed[80];
        size_t size = random_small() % 24, at = 0;

        for (size_t i = 0; i < size; i++)
            body[i] = letters[random_small() % sizeof letters];
        memcpy(body + size, "\r\n", 2);
        size += 2;
        for (size_t i = 0; i < size; i++) {
            bool begins = i == 0 || (i >= 2 && body[i - 2] == '\r' && body[i - 1] == '\n');

            if (begins && body[i] == '.')
                stuffed[at++] = '.';
            stuffed[at++] = body[i];
        }
        memcpy(stuffed + at, ".\r\nX", 4);
        check(slice_of(stuffed, at + 4), slice_of(body, size), true, 1);
    }
}

static void test_chunks(void **state)
{
    struct lmtp_body b;
    struct slice in = SLICE("ab\r\n.\r\ncRSET"), piece;

    lmtp_body_start_chunk(&b, 8);
    assert_int_equal(lmtp_body_feed(&b, &in, &piece), LMTP_BODY_PIECE);
    assert_true(slice_eq(piece, SLICE("ab\r\n.\r\nc")));
    assert_int_equal(lmtp_body_feed(&b, &in, &piece), LMTP_BODY_END);
    assert_true(slice_eq(in, SLICE("RSET")));
    lmtp_body_start_chunk(&b, 0);
    assert_int_equal(lmtp_body_feed(&b, &in, &piece), LMTP_BODY_END);
    lmtp_body_start_chunk(&b, UINT64_MAX / 2);
    assert_int_equal(lmtp_body_feed(&b, &in, &piece), LMTP_BODY_PIECE);
    assert_int_equal(lmtp_body_feed(&b, &in, &piece), LMTP_BODY_MORE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_smuggling),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_chunks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
