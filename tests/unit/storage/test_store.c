/* tests/unit/storage/test_store.c -- accounts, changes, bodies, and what a restart finds. */
#include "core/heap.h"
#include "core/mail/flags.h"
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

static char *kept; /* A description, from one life of the store to the next. */

static int setup(void **state)
{
    fake_disk_reset();
    fake_set_wall(1700000000);
    free(kept);
    kept = NULL;
    return 0;
}

static void everything(struct store *store)
{
    struct account *a = test_account(store, "alice");
    struct id128 id = test_id(7);

    CHECK_RC(test_append(a, "INBOX", 1, 100, &id), 1);
    CHECK_RC(test_append(a, "INBOX", 2, 20000, NULL), 2);
    CHECK_RC(test_append(a, "INBOX", 1, 100, &id), 1); /* The same again. */
    CHECK_RC(test_append(a, "INBOX", 3, 3 * 1024 * 1024 + 17, NULL), 3);
    CHECK_RC(test_append(a, "INBOX", 4, 0, NULL), 4);
    CHECK_RC(test_append(a, "INBOX", 5, 300000, NULL), 5);
    CHECK_RC(test_create(a, "Work"), 0);
    CHECK_RC(test_create(a, "Work"), -EEXIST);
    CHECK_RC(test_create(a, "Work/Deep"), 0);
    CHECK_RC(test_create(a, "a//b"), -EINVAL);
    CHECK_RC(test_flags(a, "inbox", 1, 3, FLAGS_ADD, MAIL_SEEN, "$Junk"), 0);
    CHECK_RC(test_copy(a, "INBOX", "Work", 2, 4, false), 0);
    CHECK_RC(test_copy(a, "INBOX", "Work/Deep", 4, 4, true), 0);
    CHECK_RC(test_copy(a, "Work", "Work", 1, 9, true), 0);
    CHECK_RC(test_expunge(a, "INBOX", 1, 1), 0);
    CHECK_RC(test_rename(a, "Work", "Play"), 0);
    CHECK_RC(test_rename(a, "nothing", "else"), -ENOENT);
    CHECK_RC(test_rename(a, "Play", "Play/More"), -EINVAL);
    CHECK_RC(test_subscribe(a, "Play", true), 0);
    CHECK_RC(test_subscribe(a, "never made", true), 0);
    CHECK_RC(test_subscribe(a, "INBOX", true), 0);
    CHECK_RC(test_create(a, "Gone"), 0);
    CHECK_RC(test_copy(a, "INBOX", "Gone", 1, 9, false), 0);
    CHECK_RC(test_delete(a, "Gone"), 0);
    CHECK_RC(test_create(a, "Gone"), 0);
    CHECK_RC(test_delete(a, "INBOX"), -EPERM);
    CHECK_RC(test_rename(a, "INBOX", "Old"), 0);
    CHECK_RC(test_append(a, "INBOX", 6, 50, NULL), 6);
    CHECK(account_take_recent(a, account_mailbox(a, SLICE("INBOX")), true) == 1);
    CHECK(account_take_recent(a, account_mailbox(a, SLICE("INBOX")), false) == 1);
    CHECK(account_take_recent(a, account_mailbox(a, SLICE("INBOX")), false) == 7);
    CHECK_RC(test_flags(a, "INBOX", 6, 6, FLAGS_REPLACE, MAIL_FLAGGED, NULL), 0);
    CHECK(test_body_is(a, "INBOX", 6, 6, 50) == 1);
    CHECK(test_body_is(a, "Old", 1, 2, 20000) == 1);
    CHECK(test_body_is(a, "Old", 2, 3, 3 * 1024 * 1024 + 17) == 1);
    CHECK(test_body_is(a, "Old", 3, 5, 300000) == 1);
    CHECK(test_body_is(a, "Play/Deep", 1, 4, 0) == 1);
    kept = test_describe(a);
    account_close(a);
}

static void same_as_kept(struct store *store)
{
    struct account *a;
    char *now;

    CHECK_RC(account_open(store, SLICE("alice"), 0, &a), 0);
    now = test_describe(a);
    if (strcmp(now, kept) != 0)
        fprintf(stderr, "--- was\n%s--- is\n%s", kept, now);
    CHECK(strcmp(now, kept) == 0);
    CHECK(test_body_is(a, "Old", 2, 3, 3 * 1024 * 1024 + 17) == 1);
    free(now);
    account_close(a);
}

static void life_everything(void *arg)
{
    struct store *store = test_store_open();

    everything(store);
    accounts_trim(store, true); /* Evicted, and read back. */
    same_as_kept(store);
    if (arg != NULL)
        store_close(store);
}

static void life_same(void *arg)
{
    struct store *store = test_store_open();
    struct account *a;

    CHECK_RC(account_open(store, SLICE("bob"), 0, &a), -ENOENT);
    same_as_kept(store);
    if (arg != NULL)
        store_close(store);
}

static void test_everything(void **state)
{
    assert_true(fake_run(life_everything, "close", 0));
    assert_true(fake_run(life_same, "close", 0));
    assert_true(fake_run(life_same, NULL, 0));
}

static void test_everything_killed(void **state)
{
    assert_true(fake_run(life_everything, NULL, 0));
    fake_disk_crash(CRASH_LOSE_ALL, 1);
    assert_true(fake_run(life_same, NULL, 0));
    fake_disk_crash(CRASH_KEEP_ALL, 1);
    assert_true(fake_run(life_same, "close", 0));
}

/* ---- Snapshots ----------------------------------------------------------------------------------------- */

static void life_snapshot(void *arg)
{
    struct store *store = test_store_open();
    struct account *a;

    everything(store);
    CHECK_RC(account_open(store, SLICE("alice"), 0, &a), 0);
    CHECK_RC(snapshot_write(a), 0);
    account_close(a);
    accounts_trim(store, true);
    same_as_kept(store);
    CHECK_RC(account_open(store, SLICE("alice"), 0, &a), 0);
    CHECK_RC(test_append(a, "Old", 9, 10, NULL), 4);
    free(kept);
    kept = test_describe(a);
    account_close(a);
}

static void test_snapshot(void **state)
{
    assert_true(fake_run(life_snapshot, NULL, 0));
    fake_disk_crash(CRASH_LOSE_ALL, 1);
    assert_true(fake_run(life_same, "close", 0));
    assert_true(fake_run(life_same, "close", 0));
}

/* Enough changes that snapshots are made by themselves, of more than one part. */
static void life_long(void *arg)
{
    struct store *store = test_store_open();
    struct account *a = test_account(store, "alice");

    CHECK_RC(test_create(a, "Old"), 0);
    CHECK_RC(test_append(a, "Old", 2, 20, NULL), 1);
    CHECK_RC(test_append(a, "Old", 3, 3 * 1024 * 1024 + 17, NULL), 2);
    for (unsigned i = 1; i <= 300; i++) {
        struct id128 id = test_id(i);

        CHECK_RC(test_append(a, "INBOX", i, 64 + i % 100, &id), i);
        if (i % 10 == 0)
            CHECK_RC(test_expunge(a, "INBOX", i - 5, i - 4), 0);
    }
    for (unsigned i = 0; i < 6; i++) /* 15,000 messages. */
        CHECK_RC(test_copy(a, "INBOX", "Old", 1, 300, false), 0);
    CHECK(a->private->chain_count < 300);
    CHECK_RC(snapshot_write(a), 0);
    kept = test_describe(a);
    account_close(a);
}

static void test_long(void **state)
{
    assert_true(fake_run(life_long, NULL, 0));
    assert_true(fake_run(life_same, "close", 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_everything, setup),
        cmocka_unit_test_setup(test_everything_killed, setup),
        cmocka_unit_test_setup(test_snapshot, setup),
        cmocka_unit_test_setup(test_long, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
