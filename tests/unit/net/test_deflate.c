/* COMPRESS=DEFLATE against zlib's own streams with history, cut at every byte, and sleeping whenever they rest. */
#include "core/heap.h"
#include "net/deflate.h"
#include "tests/unit/net/fd_door.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

#include <cmocka.h>

#define TEXT_SIZE 100000

static struct heap *heap(void)
{
    return shard_self()->heap;
}

static unsigned draw; /* A generator of its own: the same every time. */

static unsigned next_random(void)
{
    draw = draw * 1103515245 + 12345;
    return draw >> 16;
}

/* Words that come again and again, with noise between them. */
static void text_make(char *text, size_t size)
{
    static const char *const words[] = {"FETCH ", "FLAGS (\\Seen) ", "UID ", "* OK Still here\r\n",
                                        "a STORE 1:* "};
    size_t at = 0;

    while (at < size) {
        char number[16];
        const char *word = words[next_random() % 5];

        if (next_random() % 3 == 0) {
            snprintf(number, sizeof number, "%u ", next_random());
            word = number;
        }
        for (; *word != '\0' && at < size; word++)
            text[at++] = *word;
    }
}

/* ---- Out: an ordinary inflater reads the pieces one behind the other ----------------------------------- */

static void test_out(void **state)
{
    char *text = malloc(TEXT_SIZE), *got = malloc(TEXT_SIZE);
    struct tls_output out = {0};
    z_stream in = {0};
    size_t at = 0, plain_total = 0, packed_total = 0;

    draw = 1;
    text_make(text, TEXT_SIZE);
    assert_int_equal(inflateInit2(&in, -MAX_WBITS), Z_OK);
    in.next_out = (Bytef *)got;
    in.avail_out = TEXT_SIZE;
    while (at < TEXT_SIZE) {
        size_t size = MIN(1 + next_random() % 20000, TEXT_SIZE - at);
        size_t first = next_random() % size;

        if (first > 0)
            deflate_append(slice_of(text + at, first), false, &out);
        deflate_append(slice_of(text + at + first, size - first), true, &out);
        at += size;
        plain_total += size;
        packed_total += out.size;
        in.next_in = (Bytef *)out.data;
        in.avail_in = out.size;
        assert_int_equal(inflate(&in, Z_SYNC_FLUSH), Z_OK);
        assert_int_equal(in.total_out, at); /* All of it, at once. */
        out.size = 0;
    }
    assert_memory_equal(text, got, TEXT_SIZE);
    assert_true(packed_total < plain_total / 2);
    inflateEnd(&in);
    tls_output_fini(&out);
    free(text);
    free(got);
}

/* ---- In: a client with history ------------------------------------------------------------------------- */

struct client {
    z_stream out;
    char text[TEXT_SIZE], got[TEXT_SIZE], packed[TEXT_SIZE];
    size_t got_size;
};

static size_t client_say(struct client *c, size_t at, size_t size)
{
    c->out.next_in = (Bytef *)c->text + at;
    c->out.avail_in = (unsigned)size;
    c->out.next_out = (Bytef *)c->packed;
    c->out.avail_out = sizeof c->packed;
    assert_int_equal(deflate(&c->out, Z_SYNC_FLUSH), Z_OK);
    return sizeof c->packed - c->out.avail_out;
}

static void take(struct client *c, struct inflater *i)
{
    struct slice plain;

    do {
        assert_int_equal(inflater_next(i, &plain), 0);
        assert_true(plain.size <= DEFLATE_PLAIN_MAX);
        if (plain.size > 0)
            memcpy(c->got + c->got_size, plain.data, plain.size);
        c->got_size += plain.size;
    } while (plain.size > 0);
}

static struct inflater *sleep_and_wake(struct inflater *i)
{
    struct deflate_history *h = inflater_pack(i);

    assert_true(h->size <= DEFLATE_HISTORY_MAX);
    i = inflater_unpack(heap(), h);
    assert_non_null(i);
    return i;
}

static void run_in(int level, bool bytewise, bool sleeps)
{
    struct client *c = calloc(1, sizeof *c);
    struct inflater *i = inflater_new(heap());
    size_t at = 0;

    draw = 7;
    text_make(c->text, TEXT_SIZE);
    assert_int_equal(deflateInit2(&c->out, level, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_non_null(i);
    assert_true(inflater_rests(i));
    while (at < TEXT_SIZE) {
        size_t size = MIN(1 + next_random() % 30000, TEXT_SIZE - at), packed = client_say(c, at, size);
        size_t step = bytewise ? 1 : packed;

        for (size_t k = 0; k < packed; k += step) {
            inflater_add(i, slice_of(c->packed + k, step));
            take(c, i);
            assert_int_equal(inflater_pending(i), 0);
            if (sleeps && inflater_rests(i))
                i = sleep_and_wake(i);
        }
        at += size;
        assert_int_equal(c->got_size, at);
        assert_true(inflater_rests(i));
    }
    assert_memory_equal(c->text, c->got, TEXT_SIZE);
    deflateEnd(&c->out);
    inflater_free(i);
    free(c);
}

static void test_in(void **state)
{
    for (int level = 0; level <= 9; level += 3) {
        run_in(level, false, false);
        run_in(level, true, false);
        run_in(level, false, true);
        run_in(level, true, true);
    }
}

/* A little that becomes a lot comes out in pieces, as they are asked for. */
static void test_bomb(void **state)
{
    struct inflater *i = inflater_new(heap());
    size_t size = 64 * 1024 * 1024, total = 0;
    char *zeros = calloc(1, size), *packed = malloc(size);
    z_stream out = {.next_in = (Bytef *)zeros, .avail_in = (unsigned)size};
    struct slice plain;

    out.next_out = (Bytef *)packed;
    out.avail_out = (unsigned)size;
    assert_int_equal(deflateInit2(&out, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&out, Z_SYNC_FLUSH), Z_OK);
    inflater_add(i, slice_of(packed, size - out.avail_out));
    do {
        assert_int_equal(inflater_next(i, &plain), 0);
        assert_true(plain.size <= DEFLATE_PLAIN_MAX);
        total += plain.size;
    } while (plain.size > 0);
    assert_int_equal(total, size);
    assert_true(inflater_rests(i));
    inflater_free(i);
    deflateEnd(&out);
    free(zeros);
    free(packed);
}

static void test_bad(void **state)
{
    struct inflater *i = inflater_new(heap());
    struct slice plain;
    int rc;

    inflater_add(i, SLICE("\x07 this is no DEFLATE"));
    while ((rc = inflater_next(i, &plain)) == 0 && plain.size > 0)
        ;
    assert_int_equal(rc, -EBADMSG);
    inflater_free(i);
    i = inflater_new(heap());
    inflater_add(i, SLICE("\x03\x00")); /* The last block: a peer who ends his stream. */
    assert_int_equal(inflater_next(i, &plain), -EBADMSG);
    inflater_free(i);
}

static int start(void **state)
{
    door_start();
    return 0;
}

static int stop(void **state)
{
    deflate_stop();
    door_stop();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_out),
        cmocka_unit_test(test_in),
        cmocka_unit_test(test_bomb),
        cmocka_unit_test(test_bad),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
