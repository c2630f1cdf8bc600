/* What a peer who has the keys may send: any records, whole and in pieces, good and spoiled, between naps and words of
 * our own. The input is a program: first the suite, then steps. Whatever comes, little is answered that was not asked
 * for, what we seal the peer can open, and a nap changes nothing. */
#include "net/tls_boring.h"
#include "tests/unit/net/fd_door.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STREAM_MAX 65536
/* A refused renegotiation and a fatal alert, each with the most that is around a record. */
#define ANSWER_MAX (2 * (5 + 8 + 2 + TLS_TAG_SIZE))
#define PART_MAX   127 /* Of a record, with who sleeps. */

enum step { STEP_RAW, STEP_SEAL, STEP_ROLL, STEP_NAP, STEP_SAY, STEP_SPOIL, STEP_DELIVER, STEP_COUNT };

static struct tls *us, *peer;
static struct tls_output ours, theirs;

static struct tls *session(unsigned suite, bool mirrored)
{
    struct tls_record r = {.suite = &tls_suites[suite]};
    uint8_t packed[TLS_PACKED_MAX];
    struct tls *t;

    memset(r.read.secret, mirrored ? 'a' : 'b', sizeof r.read.secret);
    memset(r.write.secret, mirrored ? 'b' : 'a', sizeof r.write.secret);
    t = tls_unpack(packed, tls_record_pack(&r, false, packed));
    ASSERT(t != NULL);
    return t;
}

/* Up to `size` bytes of what is left of the program. */
static struct slice bytes_take(struct slice *program, size_t size)
{
    struct slice taken = slice_first(*program, MIN(size, program->size));

    *program = slice_from(*program, taken.size);
    return taken;
}

static uint8_t byte_take(struct slice *program)
{
    struct slice s = bytes_take(program, 1);

    return s.size > 0 ? (uint8_t)s.data[0] : 0;
}

static void nap(void)
{
    uint8_t packed[TLS_PACKED_MAX], again[TLS_PACKED_MAX];
    char part[PART_MAX];
    size_t part_size, size = tls_pack_part(us, packed, part, sizeof part, &part_size), size_again;
    struct slice in, plain;

    if (size == 0)
        return;
    us = tls_unpack(packed, size);
    ASSERT(us != NULL);
    size_again = tls_pack(us, again);
    ASSERT(slice_eq(slice_of(packed, size), slice_of(again, size_again)));
    us = tls_unpack(again, size);
    ASSERT(us != NULL);
    in = slice_of(part, part_size); /* Of no whole record. */
    ASSERT(tls_feed(us, &in, &plain, &ours) == TLS_WAIT && in.size == 0);
}

/* What we sealed arrives; the peer may be told of an error, but never finds a record that he cannot open. */
static void peer_hears(void)
{
    struct slice in = slice_of(ours.data, ours.size), plain;
    struct tls_output answer = {0};
    enum tls_event event;

    while ((event = tls_feed(peer, &in, &plain, &answer)) == TLS_DATA)
        continue;
    ASSERT(event != TLS_FAILED || answer.size == 0); /* He has nothing to object. */
    ours.size = 0;
    tls_output_fini(&answer);
}

static void deliver(size_t piece)
{
    struct slice rest = slice_of(theirs.data, theirs.size);
    uint32_t before = ours.size;

    while (rest.size > 0) {
        struct slice in = slice_first(rest, MIN(piece, rest.size)), plain;
        size_t size = in.size;
        enum tls_event event;

        while ((event = tls_feed(us, &in, &plain, &ours)) == TLS_DATA)
            ASSERT(plain.size > 0 && plain.size <= TLS_RECORD_MAX);
        if (event != TLS_WAIT)
            break;
        ASSERT(in.size == 0);
        rest = slice_from(rest, size);
    }
    theirs.size = 0;
    ASSERT(ours.size - before <= ANSWER_MAX);
}

static void step(enum step what, struct slice *program)
{
    static const char zeros[TLS_RECORD_MAX];
    size_t size = byte_take(program);

    switch (what) {
    case STEP_RAW:
        tls_output_append(&theirs, bytes_take(program, size));
        break;
    case STEP_SEAL: /* 255: as large as can be. */
        tls_record_put(&peer->record, (enum tls_content)byte_take(program),
                       size == 255 ? slice_of(zeros, sizeof zeros) : bytes_take(program, size), &theirs);
        break;
    case STEP_ROLL:
        if (peer->record.suite->tls13)
            tls_secret_next(&peer->record.write, peer->record.suite);
        break;
    case STEP_NAP:
        nap();
        break;
    case STEP_SAY:
        tls_seal(us, slice_of(zeros, size + 1), &ours);
        break;
    case STEP_SPOIL:
        if (theirs.size > 0)
            theirs.data[size % theirs.size] ^= (char)byte_take(program);
        break;
    default:
        deliver(size + 1);
        peer_hears();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool started;
    struct slice program = slice_of(data, size);
    unsigned suite = byte_take(&program) % TLS_SUITE_COUNT;

    if (!started) {
        door_start();
        started = tls_shard_acquire();
    }
    us = session(suite, false);
    peer = session(suite, true);
    while (program.size > 0 && theirs.size < STREAM_MAX && ours.size < STREAM_MAX)
        step((enum step)(byte_take(&program) % STEP_COUNT), &program);
    deliver(SIZE_MAX);
    tls_close_notify(us, &ours);
    peer_hears();
    tls_free(us);
    tls_free(peer);
    tls_output_fini(&ours);
    tls_output_fini(&theirs);
    return 0;
}
