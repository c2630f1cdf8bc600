/* tests/unit/storage/test_recovery.c -- what a start makes of a disk that was cut, damaged, or that failed.
 *
 * The oracle: a workload writes down what it was told, before and after every change. After a crash the
 * account must be as it was after the last acknowledged change, or as after the one that was in flight; never
 * anything else. */
#include "core/mail/flags.h"
#include "core/metrics.h"
#include "core/shard.h"
#include "storage/account_state.h"
#include "tests/unit/storage/fake_door.h"
#include "tests/unit/storage/store_model.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#define STEP_COUNT 24
#define ACCOUNTS   2

/* What an account was like after each of its modification sequences: the history that must never be
 * rewritten. */
static char *history[ACCOUNTS][STEP_COUNT * 4];
static uint64_t acknowledged[ACCOUNTS];
static uint64_t found[ACCOUNTS]; /* After the restart; UINT64_MAX: refused with -EBADMSG. */
static uint64_t reported;        /* Checksum errors of the last life. */
static bool unclear;             /* A commit ended with -EINPROGRESS. */
static bool opened;

static void forget(void)
{
    for (unsigned i = 0; i < ACCOUNTS; i++) {
        for (unsigned k = 0; k < STEP_COUNT * 4; k++) {
            free(history[i][k]);
            history[i][k] = NULL;
        }
        acknowledged[i] = 0;
    }
    unclear = false;
}

static int setup(void **state)
{
    fake_disk_reset();
    forget();
    test_config.checkpoint_size = 0;
    test_config.segment_size = 64 * 1024; /* Copied often. */
    return 0;
}

static const char *user_of(unsigned i)
{
    return i == 0 ? "alice" : "bob";
}

/* Two lives may reach the same modification sequence in different ways only if the first was never
 * acknowledged. */
static void remember(unsigned i, struct account *a)
{
    char *now = test_describe(a);

    CHECK(a->modseq < STEP_COUNT * 4);
    free(history[i][a->modseq]);
    history[i][a->modseq] = now;
    acknowledged[i] = a->modseq;
}

static int step(struct account *a, unsigned n)
{
    struct id128 id = test_id(n);
    long rc;

    switch (n % 8) {
    case 0:
        return test_create(a, n % 16 == 0 ? "Work" : "Play");
    case 1:
    case 2:
    case 5:
        rc = test_append(a, "INBOX", n, 40 + n * 30, &id);
        return (int)MIN(rc, 0);
    case 3:
        return test_flags(a, "INBOX", 1, n, FLAGS_ADD, n % 2 ? MAIL_SEEN : MAIL_DELETED, "key");
    case 4:
        return test_copy(a, "INBOX", "Work", 1, 99, n % 16 > 8);
    case 6:
        return test_expunge(a, "INBOX", n - 4, n - 3);
    default:
        rc = test_subscribe(a, "INBOX", n % 16 > 8);
        return (int)rc;
    }
}

static void workload(struct store *store, unsigned from, unsigned to)
{
    for (unsigned n = from; n < to; n++) {
        struct account *a;
        int rc = account_open(store, slice_str(user_of(n % ACCOUNTS)), ACCOUNT_CREATE, &a);

        if (rc < 0) {
            unclear |= rc == -EINPROGRESS;
            continue;
        }
        remember(n % ACCOUNTS, a);
        rc = step(a, n / ACCOUNTS);
        unclear |= rc == -EINPROGRESS;
        CHECK(rc == 0 || rc == -EIO || rc == -EINPROGRESS || rc == -EEXIST || rc == -ENOENT || rc == -ENOSPC);
        if (rc != -EINPROGRESS)
            remember(n % ACCOUNTS, a);
        account_close(a);
    }
}

static void life_workload(void *arg)
{
    struct store *store;
    unsigned *range = arg;

    opened = store_open(&test_config, &store) == 0;
    if (!opened)
        return;
    workload(store, range[0], range[1]);
    if (range[2])
        store_close(store);
}

static uint64_t look_at(struct store *store, unsigned i)
{
    struct account *a;
    int rc = account_open(store, slice_str(user_of(i)), 0, &a);
    uint64_t modseq;
    char *now;

    if (rc == -EBADMSG)
        return UINT64_MAX;
    if (rc == -ENOENT)
        return 0;
    CHECK_RC(rc, 0);
    modseq = a->modseq;
    now = test_describe(a);
    if (history[i][modseq] != NULL) {
        if (strcmp(now, history[i][modseq]) != 0)
            fprintf(stderr, "--- was\n%s--- is\n%s", history[i][modseq], now);
        CHECK(strcmp(now, history[i][modseq]) == 0);
    }
    free(now);
    for (uint32_t k = 0; k < account_mailbox_at(a, 0)->message_count;
         k++) { /* Bodies too: -EBADMSG, or the bytes. */
        struct body_location at = mailbox_message_at(account_mailbox_at(a, 0), k)->body;
        struct body_reader *r;
        char bytes[512];

        rc = body_open(store, &at, &r);
        CHECK(rc == 0 || rc == -EBADMSG);
        if (rc < 0)
            continue;
        for (uint32_t offset = 0; offset < at.size; offset += sizeof bytes) {
            ssize_t got = body_read(r, bytes, sizeof bytes, offset);

            CHECK(got > 0 || got == -EBADMSG);
        }
        body_close(r);
    }
    account_close(a);
    return modseq;
}

static void life_look(void *arg)
{
    struct store *store;

    shard_self()->metrics->checksum_errors = 0;
    opened = store_open(&test_config, &store) == 0;
    if (opened) {
        for (unsigned i = 0; i < ACCOUNTS; i++)
            found[i] = look_at(store, i);
    }
    reported = shard_self()->metrics->checksum_errors;
    if (opened && arg != NULL)
        store_close(store);
}

/* Everything acknowledged is there, at most what was in flight besides, and the disk works again. */
static void check_after_crash(unsigned at)
{
    unsigned more[3] = {100, 106, 1};

    assert_true(fake_run(life_look, NULL, 0));
    assert_true(opened);
    for (unsigned i = 0; i < ACCOUNTS; i++) {
        if (found[i] < acknowledged[i] || found[i] > acknowledged[i] + 1) {
            fprintf(stderr, "cut at %u: account %u is at %llu, acknowledged was %llu\n", at, i,
                    (unsigned long long)found[i], (unsigned long long)acknowledged[i]);
            fail();
        }
    }
    assert_int_equal(reported, 0);
    assert_true(fake_run(life_workload, more, 0));
    assert_true(fake_run(life_look, NULL, 0));
    for (unsigned i = 0; i < ACCOUNTS; i++)
        assert_int_equal(found[i], acknowledged[i]);
    assert_int_equal(reported, 0);
}

/* ---- The power goes at every operation of the disk ----------------------------------------------------- */

static void crash_everywhere(enum fake_crash how, unsigned stride, bool second_life)
{
    unsigned range[3] = {0, STEP_COUNT, 1};
    bool done = false;

    for (unsigned at = 1 + stride / 2; !done; at += stride) {
        fake_disk_reset();
        forget();
        if (second_life) { /* The cut comes in a start that has something to recover. */
            unsigned first[3] = {0, 9, 0};

            assert_true(fake_run(life_workload, first, 0));
            fake_disk_crash(how, at);
            range[0] = 9;
        }
        fake_cut_at(at);
        done = fake_run(life_workload, range, 0);
        fake_disk_crash(how, at);
        check_after_crash(at);
    }
}

static void test_crash_lose(void **state)
{
    crash_everywhere(CRASH_LOSE_ALL, 1, false);
}

static void test_crash_keep(void **state)
{
    crash_everywhere(CRASH_KEEP_ALL, 1, false);
}

static void test_crash_random(void **state)
{
    crash_everywhere(CRASH_RANDOM, 1, false);
}

static void test_crash_again(void **state)
{
    crash_everywhere(CRASH_RANDOM, 1, true);
    crash_everywhere(CRASH_KEEP_ALL, 3, true);
}

/* With a checkpoint after every few records. */
static void test_crash_checkpoints(void **state)
{
    test_config.checkpoint_size = 2000;
    crash_everywhere(CRASH_RANDOM, 1, true);
}

/* ---- The disk fails ------------------------------------------------------------------------------------ */

static void fail_everywhere(int error)
{
    unsigned range[3] = {0, STEP_COUNT, 0}, operations;

    assert_true(fake_run(life_workload, range, 0));
    operations = fake_operations();
    for (unsigned at = 1; at < operations; at++) {
        fake_disk_reset();
        forget();
        fake_fail_at(at, error);
        assert_true(fake_run(life_workload, range, 0));
        fake_disk_crash(at % 2 ? CRASH_LOSE_ALL : CRASH_KEEP_ALL, at);
        if (!unclear) {
            check_after_crash(at);
            for (unsigned i = 0; i < ACCOUNTS; i++)
                assert_true(found[i] != UINT64_MAX);
        }
    }
}

/* Nothing of a failed commit comes back: found is exactly what was acknowledged (see check_after_crash), for
 * the descriptions of later states were remembered over those of failed ones. */
static void test_disk_fails(void **state)
{
    fail_everywhere(-EIO);
}

/* ---- Damage -------------------------------------------------------------------------------------------- */

/* The stream's newest segment with something in it. */
static const char *segment_name(void)
{
    return "streams/0000/00000001.log";
}

static void make_small_stream(bool witnessed)
{
    unsigned range[3] = {0, 16, witnessed};

    assert_true(fake_run(life_workload, range, 0));
    fake_disk_crash(CRASH_KEEP_ALL, 1);
    fake_disk_save();
}

static size_t used_size(void)
{
    size_t size;
    unsigned char *data = fake_file(segment_name(), &size);

    while (size > 0 && data[size - 1] == 0)
        size--;
    return size;
}

/* Cut anywhere, what is left is a prefix of what was acknowledged: a tail that is gone is a crash before it.
 */
static void truncate_everywhere(void *arg)
{
    size_t used = used_size();

    for (size_t size = 0; size <= used; size += size % 512 > 8 && size % 512 < 500 ? 13 : 1) {
        fake_disk_restore();
        fake_file_truncate(segment_name(), size);
        life_look("close");
        CHECK(opened);
        for (unsigned i = 0; i < ACCOUNTS; i++)
            CHECK(found[i] <= acknowledged[i] || found[i] == UINT64_MAX);
    }
}

static void test_truncated_everywhere(void **state)
{
    make_small_stream(false);
    assert_true(fake_run(truncate_everywhere, NULL, 0));
    for (unsigned i = 0; i < ACCOUNTS; i++)
        assert_int_equal(found[i], acknowledged[i]);
}

/* One bit. */
static void flip(size_t at, bool witnessed, size_t used)
{
    size_t size;

    fake_disk_restore();
    if (witnessed) /* Without the checkpoint, so that all of it is read. */
        fake_file_truncate("checkpoints/0000.checkpoint", 0);
    fake_file(segment_name(), &size)[at] ^= (unsigned char)(1u << at % 8);
    life_look("close");
    CHECK(opened);
    for (unsigned i = 0; i < ACCOUNTS; i++) {
        bool right = found[i] == acknowledged[i] || found[i] == UINT64_MAX;

        if (!right)
            fprintf(stderr, "flipped at %zu of %zu: account %u is at %llu, not %llu; reported %llu\n", at,
                    used, i, (unsigned long long)found[i], (unsigned long long)acknowledged[i],
                    (unsigned long long)reported);
        CHECK(right);
    }
    /* What lies before the batches, and the witness, behind which is nothing, may be silent: nothing is lost with it. */
    if (at >= 4096 && at + 512 < used)
        CHECK(reported > witnessed); /* The checkpoint is one. */
}

static void flip_work(void *arg)
{
    bool witnessed = arg != NULL;
    size_t used = used_size(), stride = witnessed ? 1 : 5;

    for (size_t at = 0; at < used;
         at += at < 4096 && at % 512 >= 64 ? 512 - at % 512 : (at % 512 < 128 ? 1 : 11) * stride)
        flip(at, witnessed, used);
}

/* A flipped bit is found and said, wherever it is, and what it hit is refused or not needed: no older state
 * is served. Also in the last batch of a stream that was killed: it has no gaps, as a torn one would. */
static void flip_everywhere(bool witnessed)
{
    make_small_stream(witnessed);
    assert_true(fake_run(flip_work, witnessed ? "witnessed" : NULL, 0));
}

static void test_flipped_everywhere(void **state)
{
    flip_everywhere(true);
}

static void test_flipped_after_kill(void **state)
{
    flip_everywhere(false);
}

/* ---- The disk is full ---------------------------------------------------------------------------------- */

static void life_full(void *arg)
{
    struct store *store = test_store_open();
    struct account *a = test_account(store, "alice");
    unsigned n = 1;
    long rc = 0;

    CHECK_RC(test_append(a, "INBOX", 1, 1000, NULL), 1);
    fake_set_full(true);
    while ((rc = test_append(a, "INBOX", n + 1, 20000, NULL)) > 0)
        CHECK(++n < 100);
    CHECK_RC(rc, -ENOSPC);
    CHECK_RC(test_append(a, "INBOX", 2, 10, NULL), -ENOSPC);
    CHECK_RC(test_copy(a, "INBOX", "INBOX", 1, 1, false), -ENOSPC);
    /* The reserve: what leads to more space goes on, and so does reading. */
    CHECK_RC(test_flags(a, "INBOX", 1, 1, FLAGS_ADD, MAIL_DELETED, NULL), 0);
    CHECK_RC(test_expunge(a, "INBOX", 1, 1), 0);
    CHECK(test_body_is(a, "INBOX", n, n, 20000) == 1);
    fake_set_full(false);
    CHECK(test_append(a, "INBOX", 3, 10, NULL) > 0);
    account_close(a);
    store_close(store);
}

/* There is no space when it is opened: what is kept for that day is from a run before. */
static void life_full_again(void *arg)
{
    struct store *store;
    struct account *a;

    fake_set_full(true);
    store = test_store_open();
    a = test_account(store, "alice");
    CHECK(account_mailbox_at(a, 0)->message_count > 0);
    CHECK_RC(test_append(a, "INBOX", 4, 10, NULL), -ENOSPC);
    CHECK_RC(test_expunge(a, "INBOX", 2, 2), 0);
    account_close(a);
    store_close(store);
    fake_set_full(false);
}

static void test_full(void **state)
{
    test_config.reserve_size = 70 * 1024;
    assert_true(fake_run(life_full, NULL, 0));
    assert_true(fake_run(life_full_again, NULL, 0));
}

/* ---- More or fewer cores ------------------------------------------------------------------------------- */

static unsigned shards_writing;

static void life_shard(void *arg)
{
    struct store *store = test_store_open();
    unsigned mine = 0;

    for (unsigned i = 0; i < 60; i++) {
        char user[16];
        struct account *a;
        int rc;

        snprintf(user, sizeof user, "user%u", i);
        rc = account_open(store, slice_str(user), ACCOUNT_CREATE, &a);
        if (rc == -ENOTTY) {
            CHECK(store_partition_shard(store, store_partition(store, slice_str(user))) !=
                  shard_self()->index);
            continue;
        }
        CHECK_RC(rc, 0);
        mine++;
        CHECK_RC(test_append(a, "INBOX", i, 100, NULL), *(unsigned *)arg);
        CHECK(test_body_is(a, "INBOX", 1, i, 100) == 1);
        CHECK_RC((long)store_partition_epoch(store, store_partition(store, slice_str(user))),
                 *(unsigned *)arg);
        account_close(a);
    }
    shards_writing += mine > 0;
    if (*(unsigned *)arg % 2 == 0)
        store_close(store);
}

static void test_shards(void **state)
{
    static const unsigned counts[] = {1, 4, 2, 3, 1, 1, 4};

    for (unsigned life = 1; life <= ARRAY_COUNT(counts); life++) {
        shards_writing = 0;
        assert_true(fake_run_shards(counts[life - 1], life_shard, &life, 0));
        assert_int_equal(shards_writing, counts[life - 1]);
        fake_disk_crash(life % 3 ? CRASH_LOSE_ALL : CRASH_KEEP_ALL, life);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_crash_lose, setup),
        cmocka_unit_test_setup(test_crash_keep, setup),
        cmocka_unit_test_setup(test_crash_random, setup),
        cmocka_unit_test_setup(test_crash_again, setup),
        cmocka_unit_test_setup(test_crash_checkpoints, setup),
        cmocka_unit_test_setup(test_disk_fails, setup),
        cmocka_unit_test_setup(test_truncated_everywhere, setup),
        cmocka_unit_test_setup(test_flipped_everywhere, setup),
        cmocka_unit_test_setup(test_flipped_after_kill, setup),
        cmocka_unit_test_setup(test_full, setup),
        cmocka_unit_test_setup(test_shards, setup),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
