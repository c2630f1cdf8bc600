/* The record layer against itself: two sessions with mirrored secrets, as if a handshake had been. Every suite; cuts at
 * every byte; what a peer may not send; sleep between any two records; and that no key ever seals two records with one
 * nonce, whatever happens. */
#include "core/heap.h"
#include "net/tls_boring.h"
#include "tests/unit/net/fd_door.h"
#include "tests/unit/net/nonces.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- Two ends ------------------------------------------------------------------------------------------ */

struct pair {
    struct tls *us, *peer;
    struct tls_output ours, theirs; /* Sealed, not yet fed to the other. */
};

/* As if a handshake had just ended. */
static struct pair pair_open(unsigned suite, uint64_t read_sequence, uint64_t write_sequence)
{
    uint8_t packed[TLS_PACKED_MAX];
    struct pair p = {0};

    p.us = tls_unpack(packed, tls_ends_make(suite, read_sequence, write_sequence, packed, &p.peer));
    assert_non_null(p.us);
    return p;
}

static void pair_close(struct pair *p)
{
    tls_free(p->us);
    tls_free(p->peer);
    tls_output_fini(&p->ours);
    tls_output_fini(&p->theirs);
}

/* Sleeps and wakes, if it can. */
static bool nap(struct tls **t)
{
    uint8_t packed[TLS_PACKED_MAX];
    size_t size = tls_pack(*t, packed);

    if (size == 0)
        return false;
    *t = tls_unpack(packed, size);
    assert_non_null(*t);
    return true;
}

/* The same, and says something in its sleep. False: it would have to wake for that. */
static bool say_asleep(struct tls **t, struct tls_output *out, struct slice text)
{
    uint8_t was[TLS_PACKED_MAX], next[TLS_PACKED_MAX];
    size_t was_size = tls_pack(*t, was), next_size, overhead, before = out->size;

    assert_true(was_size > 0);
    next_size = tls_packed_next(was, was_size, next, &overhead);
    if (next_size > 0) {
        tls_packed_seal(was, was_size, text, out);
        assert_int_equal(out->size, before + text.size + overhead);
        assert_true(overhead <= TLS_RECORD_OVERHEAD_MAX);
    }
    *t = next_size > 0 ? tls_unpack(next, next_size) : tls_unpack(was, was_size);
    assert_non_null(*t);
    return next_size > 0;
}

static void put(struct pair *p, enum tls_content type, const void *body, size_t size)
{
    tls_record_put(&p->peer->record, type, slice_of(body, size), &p->theirs);
}
#define PUT(p, type, ...)                                                                                    \
    do {                                                                                                     \
        static const uint8_t body_[] = {__VA_ARGS__};                                                        \
        put((p), (type), body_, sizeof body_);                                                               \
    } while (0)

static void put_key_update(struct pair *p, bool request)
{
    uint8_t message[5] = {24, 0, 0, 1, request};

    put(p, TLS_HANDSHAKE, message, sizeof message);
    tls_secret_next(&p->peer->record.write, p->peer->record.suite);
}

/* All that `from` holds is fed to *t; data is added to `text`. */
static enum tls_event deliver(struct tls *t, struct tls_output *from, struct tls_output *answer,
                              struct tls_output *text)
{
    struct slice in = slice_of(from->data, from->size), plain;
    enum tls_event event;

    while ((event = tls_feed(t, &in, &plain, answer)) == TLS_DATA)
        tls_output_append(text, plain);
    from->size = 0;
    return event;
}

static void say(struct tls *t, struct tls_output *out, const char *text)
{
    tls_seal(t, slice_str(text), out);
}

static void assert_text(struct tls_output *got, const char *text)
{
    assert_int_equal(got->size, strlen(text));
    if (got->size > 0)
        assert_memory_equal(got->data, text, got->size);
    got->size = 0;
}

/* Both directions work. */
static void assert_talk(struct pair *p)
{
    struct tls_output text = {0};

    say(p->us, &p->ours, "from us");
    assert_int_equal(deliver(p->peer, &p->ours, &p->theirs, &text), TLS_WAIT);
    assert_text(&text, "from us");
    say(p->peer, &p->theirs, "from the peer");
    assert_int_equal(deliver(p->us, &p->theirs, &p->ours, &text), TLS_WAIT);
    assert_text(&text, "from the peer");
    tls_output_fini(&text);
}

/* ---- Tests --------------------------------------------------------------------------------------------- */

static void test_suites(void **state)
{
    static const size_t sizes[TLS_SUITE_COUNT] = {67, 99, 67, 43, 43, 75, 75, 91, 91};
    static char large[TLS_RECORD_MAX];

    for (unsigned suite = 0; suite < TLS_SUITE_COUNT; suite++) {
        struct pair p = pair_open(suite, 0, 3);
        struct tls_output text = {0};
        uint8_t packed[TLS_PACKED_MAX];

        for (unsigned i = 0; i < 3; i++)
            assert_talk(&p);
        memset(large, 'a' + (int)suite, sizeof large);
        tls_seal(p.us, slice_of(large, sizeof large), &p.ours);
        assert_int_equal(p.ours.size, 5 + sizeof large + 16 + (suite < 3 ? 1 : suite < 7 ? 8 : 0));
        assert_int_equal(deliver(p.peer, &p.ours, &p.theirs, &text), TLS_WAIT);
        assert_int_equal(text.size, sizeof large);
        assert_memory_equal(text.data, large, sizeof large);
        tls_output_fini(&text);
        assert_string_equal(tls_cipher(p.us), tls_suites[suite].name);
        assert_string_equal(tls_version(p.us), suite < 3 ? "TLSv1.3" : "TLSv1.2");
        assert_int_equal(tls_pack(p.us, packed), sizes[suite]);
        p.us = tls_unpack(packed, sizes[suite]);
        assert_talk(&p);
        pair_close(&p);
    }
}

/* Not at rest: half a record, half a message, an end on either side. */
static void test_no_rest(void **state)
{
    struct pair p = pair_open(0, 0, 0);
    struct tls_output text = {0};
    uint8_t packed[TLS_PACKED_MAX] = {0};
    struct slice in, plain;

    say(p.peer, &p.theirs, "x");
    for (uint32_t i = 0; i < p.theirs.size; i++) {
        assert_true(i > 0 ? !nap(&p.us) : nap(&p.us));
        in = slice_of(p.theirs.data + i, 1);
        assert_int_equal(tls_feed(p.us, &in, &plain, &p.ours), i + 1 < p.theirs.size ? TLS_WAIT : TLS_DATA);
    }
    p.theirs.size = 0;
    assert_true(nap(&p.us));
    PUT(&p, TLS_HANDSHAKE, 24, 0);
    assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_WAIT);
    assert_false(nap(&p.us));
    PUT(&p, TLS_HANDSHAKE, 0, 1, 1);
    tls_secret_next(&p.peer->record.write, p.peer->record.suite);
    assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_WAIT);
    assert_true(nap(&p.us)); /* The answer is still due, and not forgotten. */
    assert_int_equal(p.ours.size, 0);
    assert_talk(&p);
    assert_int_equal(p.us->record.write.sequence, 1);
    tls_close_notify(p.peer, &p.theirs);
    assert_false(nap(&p.peer));
    assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_ENDED);
    assert_false(nap(&p.us));
    assert_null(tls_unpack(packed, 0));
    assert_null(tls_unpack(packed, 1));
    assert_null(tls_unpack(packed, 66));
    assert_null(tls_unpack(packed, 68));
    packed[0] = TLS_SUITE_COUNT;
    assert_null(tls_unpack(packed, 67));
    packed[0] = 0;
    memset(packed + 1, 0xff, sizeof packed - 1); /* A number that does not end. */
    assert_null(tls_unpack(packed, 67));
    pair_close(&p);
}

static void tell_everything(struct pair *p)
{
    say(p->peer, &p->theirs, "one ");
    put_key_update(p, true);
    put(p, TLS_APPLICATION_DATA, "", 0);
    PUT(p, (enum tls_content)0, 't', 'w', 'o', ' ', TLS_APPLICATION_DATA, 0, 0, 0); /* Padded. */
    PUT(p, TLS_HANDSHAKE, 24);
    PUT(p, TLS_HANDSHAKE, 0, 0, 1);
    PUT(p, TLS_HANDSHAKE, 0);
    tls_secret_next(&p->peer->record.write, p->peer->record.suite);
    PUT(p, TLS_ALERT, 1, 90); /* user_canceled: nothing. */
    say(p->peer, &p->theirs, "three");
    tls_close_notify(p->peer, &p->theirs);
}

/* The same records in two pieces, at every byte, with a nap between them; then one byte at a time. */
static void test_cuts(void **state)
{
    uint32_t size = 1;

    for (uint32_t cut = 0; cut <= size; cut++) {
        struct pair p = pair_open(cut % 3, 0, 0);
        struct tls_output text = {0}, part = {0};

        tell_everything(&p);
        size = p.theirs.size;
        tls_output_append(&part, slice_of(p.theirs.data, cut));
        if (deliver(p.us, &part, &p.ours, &text) == TLS_WAIT) {
            nap(&p.us);
            tls_output_append(&part, slice_of(p.theirs.data + cut, size - cut));
            assert_int_equal(deliver(p.us, &part, &p.ours, &text), TLS_ENDED);
        }
        assert_text(&text, "one two three");
        p.theirs.size = 0;
        tls_output_fini(&text);
        tls_output_fini(&part);
        say(p.us, &p.ours, "answer"); /* He has ended, we have not; his new keys are answered with ours. */
        assert_int_equal(deliver(p.peer, &p.ours, &p.theirs, &text), TLS_WAIT);
        assert_text(&text, "answer");
        tls_output_fini(&text);
        pair_close(&p);
    }
    assert_true(size > 200);
    struct pair p = pair_open(0, 0, 0);
    struct tls_output text = {0};
    enum tls_event event = TLS_WAIT;

    tell_everything(&p);
    for (uint32_t i = 0; i < p.theirs.size; i++) {
        struct slice in = slice_of(p.theirs.data + i, 1), plain;

        assert_int_equal(event, TLS_WAIT);
        while ((event = tls_feed(p.us, &in, &plain, &p.ours)) == TLS_DATA)
            tls_output_append(&text, plain);
        nap(&p.us);
    }
    assert_int_equal(event, TLS_ENDED);
    assert_text(&text, "one two three");
    tls_output_fini(&text);
    pair_close(&p);
}

/* ---- What a peer may not send -------------------------------------------------------------------------- */

/* What `make` sends ends the connection: `why` for the log, and the alert that the peer gets; NULL: none. */
static void assert_fatal(unsigned suite, void (*make)(struct pair *p), const char *why, const char *alert)
{
    struct pair p = pair_open(suite, 5, 7);
    struct tls_output text = {0};

    make(&p);
    assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_FAILED);
    assert_string_equal(tls_error(p.us), why);
    assert_int_equal(text.size, 0);
    assert_int_equal(tls_state(p.us), TLS_CLOSED);
    assert_false(nap(&p.us));
    if (alert == NULL) {
        assert_int_equal(p.ours.size, 0);
    } else {
        assert_int_equal(deliver(p.peer, &p.ours, &p.theirs, &text), TLS_FAILED);
        assert_string_equal(tls_error(p.peer), alert);
    }
    say(p.us, &p.ours, "nothing leaves any more");
    tls_close_notify(p.us, &p.ours);
    assert_int_equal(p.ours.size, 0);
    tls_output_fini(&text);
    pair_close(&p);
}

static void make_flipped(struct pair *p)
{
    say(p->peer, &p->theirs, "text");
    p->theirs.data[p->theirs.size - 1] ^= 1;
}

static void make_flipped_header(struct pair *p)
{
    say(p->peer, &p->theirs, "text");
    p->theirs.data[1] ^= 1; /* The version: ignored by TLS 1.3, yet authenticated. */
}

static void make_skipped(struct pair *p)
{
    put(p, TLS_APPLICATION_DATA, "", 0);
    p->theirs.size = 0; /* It is lost on the way. */
    put(p, TLS_APPLICATION_DATA, "x", 1);
}

static void make_overflow(struct pair *p)
{
    static const char header[] = {23, 3, 3, 0x40, 0x12}; /* One byte more than the largest. */

    tls_output_append(&p->theirs, slice_of(header, sizeof header));
}

static void make_short(struct pair *p)
{
    static const char header[] = {23, 3, 3, 0, 16};

    tls_output_append(&p->theirs, slice_of(header, sizeof header));
}

static void make_plain_change(struct pair *p)
{
    static const char record[] = {20, 3, 3, 0, 1, 1}; /* ChangeCipherSpec: in a handshake only. */

    tls_output_append(&p->theirs, slice_of(record, sizeof record));
}

static void make_clear_alert(struct pair *p)
{
    static const char record[] = {21, 3, 3, 0, 2, 1, 0};

    tls_output_append(&p->theirs, slice_of(record, sizeof record));
}

static void make_no_type(struct pair *p)
{
    PUT(p, (enum tls_content)0, 0, 0, 0);
}

static void make_sealed_change(struct pair *p)
{
    PUT(p, TLS_CHANGE_CIPHER_SPEC, 1);
}

static void make_client_hello(struct pair *p)
{
    PUT(p, TLS_HANDSHAKE, 1, 0, 0, 1, 0);
}

static void make_ticket(struct pair *p)
{
    PUT(p, TLS_HANDSHAKE, 4, 0, 0, 1, 0);
}

static void make_empty_message(struct pair *p)
{
    put(p, TLS_HANDSHAKE, "", 0);
}

static void make_long_update(struct pair *p)
{
    PUT(p, TLS_HANDSHAKE, 24, 0, 0, 2, 0, 0);
}

static void make_odd_update(struct pair *p)
{
    PUT(p, TLS_HANDSHAKE, 24, 0, 0, 1, 2);
}

static void make_more_behind_update(struct pair *p)
{
    PUT(p, TLS_HANDSHAKE, 24, 0, 0, 1, 0, 24);
}

static void make_data_in_update(struct pair *p)
{
    PUT(p, TLS_HANDSHAKE, 24, 0);
    say(p->peer, &p->theirs, "text");
}

static void make_alert_in_update(struct pair *p)
{
    PUT(p, TLS_HANDSHAKE, 24, 0);
    PUT(p, TLS_ALERT, 1, 0);
}

static void make_old_key(struct pair *p)
{
    PUT(p, TLS_HANDSHAKE, 24, 0, 0, 1, 0); /* And goes on with the old one. */
    say(p->peer, &p->theirs, "text");
}

static void make_long_alert(struct pair *p)
{
    PUT(p, TLS_ALERT, 1, 0, 0);
}

static void make_fatal_alert(struct pair *p)
{
    PUT(p, TLS_ALERT, 2, 42);
}

static void make_warning(struct pair *p)
{
    PUT(p, TLS_ALERT, 1, 42); /* Fatal, whatever its first byte says: TLS 1.3. */
}

static void make_empty(struct pair *p)
{
    for (unsigned i = 0; i < 33; i++)
        put(p, TLS_APPLICATION_DATA, "", 0);
}

static void make_updates(struct pair *p)
{
    for (unsigned i = 0; i < 33; i++)
        put_key_update(p, i % 2 == 0);
}

static void make_warnings(struct pair *p)
{
    for (unsigned i = 0; i < 33; i++)
        PUT(p, TLS_ALERT, 1, 90);
}

static void make_other_version(struct pair *p)
{
    static const char header[] = {23, 3, 1, 0, 100};

    tls_output_append(&p->theirs, slice_of(header, sizeof header));
}

static void test_refusals(void **state)
{
    static const char *const bad_mac = "DECRYPTION_FAILED_OR_BAD_RECORD_MAC";

    for (unsigned suite = 0; suite < TLS_SUITE_COUNT; suite++) {
        assert_fatal(suite, make_flipped, bad_mac, "bad record mac");
        assert_fatal(suite, make_skipped, bad_mac, "bad record mac");
        assert_fatal(suite, make_sealed_change, "UNEXPECTED_RECORD", "unexpected_message");
        assert_fatal(suite, make_empty_message, "UNEXPECTED_RECORD", "unexpected_message");
        assert_fatal(suite, make_long_alert, "BAD_ALERT", "decode error");
        assert_fatal(suite, make_fatal_alert, "bad certificate", NULL);
        assert_fatal(suite, make_empty, "TOO_MANY_RECORDS_WITHOUT_DATA", "unexpected_message");
        assert_fatal(suite, make_warnings, "TOO_MANY_RECORDS_WITHOUT_DATA", "unexpected_message");
    }
    assert_fatal(0, make_flipped_header, bad_mac, "bad record mac");
    assert_fatal(0, make_overflow, "DATA_LENGTH_TOO_LONG", "record overflow");
    assert_fatal(7, make_overflow, "DATA_LENGTH_TOO_LONG", "record overflow");
    assert_fatal(0, make_short, "BAD_PACKET_LENGTH", "bad record mac");
    assert_fatal(3, make_short, "BAD_PACKET_LENGTH", "bad record mac");
    assert_fatal(0, make_plain_change, "UNEXPECTED_RECORD", "unexpected_message");
    assert_fatal(0, make_clear_alert, "UNEXPECTED_RECORD", "unexpected_message");
    assert_fatal(0, make_no_type, "NO_CONTENT_TYPE", "unexpected_message");
    assert_fatal(1, make_client_hello, "UNEXPECTED_MESSAGE", "unexpected_message");
    assert_fatal(1, make_ticket, "UNEXPECTED_MESSAGE", "unexpected_message");
    assert_fatal(1, make_long_update, "BAD_KEY_UPDATE", "decode error");
    assert_fatal(1, make_odd_update, "BAD_KEY_UPDATE", "illegal parameter");
    assert_fatal(2, make_more_behind_update, "EXCESS_HANDSHAKE_DATA", "unexpected_message");
    assert_fatal(2, make_data_in_update, "UNEXPECTED_RECORD", "unexpected_message");
    assert_fatal(2, make_alert_in_update, "UNEXPECTED_RECORD", "unexpected_message");
    assert_fatal(2, make_old_key, bad_mac, "bad record mac");
    assert_fatal(0, make_warning, "bad certificate", NULL);
    assert_fatal(0, make_updates, "TOO_MANY_RECORDS_WITHOUT_DATA", "unexpected_message");
    assert_fatal(3, make_other_version, "WRONG_VERSION_NUMBER", "protocol version");
}

/* What comes close to it is served. */
static void test_tolerance(void **state)
{
    struct tls_output text = {0};

    for (unsigned suite = 0; suite < TLS_SUITE_COUNT; suite++) {
        struct pair p = pair_open(suite, 0, 0);

        for (unsigned i = 0; i < 40; i++) {
            for (unsigned k = 0; k < 32; k++)
                put(&p, TLS_APPLICATION_DATA, "", 0);
            say(p.peer, &p.theirs, "x");
        }
        assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_WAIT);
        assert_int_equal(text.size, 40);
        assert_int_equal(p.ours.size, 0);
        text.size = 0;
        pair_close(&p);
    }
    tls_output_fini(&text);
}

/* The count of records without data goes to sleep with the connection. */
static void test_tolerance_asleep(void **state)
{
    struct pair p = pair_open(0, 0, 0);
    struct tls_output text = {0};

    for (unsigned i = 0; i < 32; i++) {
        put_key_update(&p, true);
        assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_WAIT);
        assert_true(nap(&p.us));
    }
    assert_int_equal(p.ours.size, 0); /* However often he asks: one answer, before our next data. */
    put_key_update(&p, true);
    assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_FAILED);
    pair_close(&p);
}

static void test_renegotiation(void **state)
{
    for (unsigned suite = 3; suite < TLS_SUITE_COUNT; suite++) {
        struct pair p = pair_open(suite, 1, 1);
        struct tls_output text = {0};
        uint32_t size;

        make_client_hello(&p);
        assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_WAIT);
        size = p.ours.size;
        assert_true(size > 0);
        assert_true(nap(&p.us));
        make_client_hello(&p); /* Once is enough. */
        assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_WAIT);
        assert_int_equal(p.ours.size, size);
        assert_int_equal(deliver(p.peer, &p.ours, &p.theirs, &text), TLS_WAIT); /* A warning. */
        assert_talk(&p);
        pair_close(&p);
    }
}

/* A key is changed before it has sealed too much; where it cannot be, nothing leaves any more. */
static void test_limits(void **state)
{
    struct tls_output text = {0};

    for (unsigned suite = 0; suite < TLS_SUITE_COUNT; suite++) {
        uint64_t most = tls_suites[suite].records_max;
        struct pair p = pair_open(suite, 0, most - 2);

        for (unsigned i = 0; i < 4; i++) {
            say(p.us, &p.ours, "x");
            nap(&p.us);
        }
        assert_int_equal(deliver(p.peer, &p.ours, &p.theirs, &text), TLS_WAIT);
        if (tls_suites[suite].tls13) {
            assert_text(&text, "xxxx");
            assert_int_equal(p.us->record.write.sequence, 2);
            assert_talk(&p);
        } else {
            assert_text(&text, "xx");
            assert_int_equal(tls_state(p.us), TLS_CLOSED);
        }
        pair_close(&p);
    }
    tls_output_fini(&text);
}

/* As often as it likes, and with each number once; but not with one record more than its keys may seal, nor when new ones are due. */
static void test_words_asleep(void **state)
{
    struct tls_output text = {0};

    for (unsigned suite = 0; suite < TLS_SUITE_COUNT; suite++) {
        struct pair p = pair_open(suite, 0, tls_suites[suite].records_max - 20);

        for (unsigned i = 0; i < 5; i++) {
            assert_true(say_asleep(&p.us, &p.ours, SLICE("wo")));
            assert_true(say_asleep(&p.us, &p.ours, SLICE("rd")));
            assert_int_equal(deliver(p.peer, &p.ours, &p.theirs, &text), TLS_WAIT);
            assert_text(&text, "word");
            assert_talk(&p);
        }
        while (p.us->record.write.sequence < tls_suites[suite].records_max)
            assert_true(say_asleep(&p.us, &p.ours, SLICE("word")));
        assert_false(say_asleep(&p.us, &p.ours, SLICE("word")));
        pair_close(&p);
        if (suite >= 3)
            continue;
        p = pair_open(suite, 0, 0);
        put_key_update(&p, true);
        assert_int_equal(deliver(p.us, &p.theirs, &p.ours, &text), TLS_WAIT);
        assert_false(say_asleep(&p.us, &p.ours, SLICE("word")));
        assert_talk(&p);
        assert_true(say_asleep(&p.us, &p.ours, SLICE("word")));
        assert_int_equal(deliver(p.peer, &p.ours, &p.theirs, &text), TLS_WAIT);
        assert_text(&text, "word");
        pair_close(&p);
    }
    tls_output_fini(&text);
}

/* ---- Nonces -------------------------------------------------------------------------------------------- */

#define PAIRS 300 /* More than a shard keeps ciphers for. */

struct story { /* What each side has said and not yet been heard to say. */
    struct pair p;
    uint32_t said_us, said_peer, heard_us, heard_peer;
};

static void story_begin(struct story *s)
{
    unsigned suite = (unsigned)rand() % TLS_SUITE_COUNT;
    uint64_t start = rand() % 4 == 0 && tls_suites[suite].tls13 ? tls_suites[suite].records_max - 3 : 0;

    *s = (struct story){.p = pair_open(suite, (uint64_t)(rand() % 3), start)};
}

static void story_hear(struct tls *t, struct tls_output *from, struct tls_output *answer, uint32_t *heard)
{
    struct tls_output text = {0};

    assert_int_equal(deliver(t, from, answer, &text), TLS_WAIT);
    for (uint32_t at = 0; at < text.size; at += 4) {
        assert_int_equal(get_u32(text.data + at), *heard);
        (*heard)++;
    }
    tls_output_fini(&text);
}

static void story_step(struct story *s)
{
    struct pair *p = &s->p;
    struct tls_output text = {0};
    char number[4];

    switch (rand() % 13) {
    case 0:
    case 1:
    case 2:
        put_u32(number, s->said_us++);
        tls_seal(p->us, slice_of(number, 4), &p->ours);
        break;
    case 3:
    case 4:
        put_u32(number, s->said_peer++);
        tls_seal(p->peer, slice_of(number, 4), &p->theirs);
        break;
    case 5:
        story_hear(p->peer, &p->ours, &p->theirs, &s->heard_us);
        break;
    case 6:
        story_hear(p->us, &p->theirs, &p->ours, &s->heard_peer);
        break;
    case 7:
        nap(&p->us);
        break;
    case 8:
        nap(&p->peer);
        break;
    case 9:
        if (p->us->record.suite->tls13 && p->peer->record.idle_count + p->us->record.idle_count < 5 &&
            rand() % 2 == 0) {
            put_key_update(p, rand() % 2 == 0);
            put_u32(number, s->said_peer++);
            tls_seal(p->peer, slice_of(number, 4), &p->theirs);
        }
        break;
    case 10: /* The peer's records are spoiled: an alert, and the end. */
        if (rand() % 20 != 0 || p->theirs.size == 0)
            break;
        p->theirs.data[p->theirs.size - 1] ^= 1;
        assert_int_equal(deliver(p->us, &p->theirs, &p->ours, &text), TLS_FAILED);
        tls_output_fini(&text);
        pair_close(p);
        story_begin(s);
        break;
    case 11:
        if (rand() % 20 != 0)
            break;
        tls_close_notify(p->us, &p->ours);
        tls_seal(p->us, SLICE("not any more"), &p->ours);
        pair_close(p);
        story_begin(s);
        break;
    case 12:
        put_u32(number, s->said_us);
        s->said_us += say_asleep(&p->us, &p->ours, slice_of(number, 4));
        break;
    }
}

static void test_nonces(void **state)
{
    static struct story stories[PAIRS];

    for (unsigned i = 0; i < PAIRS; i++)
        story_begin(&stories[i]);
    for (unsigned i = 0; i < 60000; i++)
        story_step(&stories[(unsigned)rand() % PAIRS]);
    for (unsigned i = 0; i < PAIRS; i++)
        pair_close(&stories[i].p);
    assert_int_equal(nonces_repeated(), 0);
    assert_true(nonces_used() > 15000);
}

static int setup(void **state)
{
    srand(1);
    door_start();
    return tls_shard_acquire() ? 0 : -1; /* Ciphers stay, as they do beside a context. */
}

static int teardown(void **state)
{
    tls_shard_release();
    assert_int_equal(heap_used(shard_self()->heap), 0);
    assert_int_equal(nonces_repeated(), 0);
    door_stop();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_suites),        cmocka_unit_test(test_no_rest),
        cmocka_unit_test(test_cuts),          cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_tolerance),     cmocka_unit_test(test_tolerance_asleep),
        cmocka_unit_test(test_renegotiation), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_words_asleep),  cmocka_unit_test(test_nonces),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
