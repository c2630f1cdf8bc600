/* tests/unit/storage/test_view.c -- views against the rule itself: visible(m) = created <= A and (not
 * expunged or expunged > E), counted by hand; tombstones, their floor; many fibers on one account; watches.
 */
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

#define MODEL_MAX 4096

static int setup(void **state)
{
    fake_disk_reset();
    fake_set_wall(1700000000);
    test_config.tombstone_count_max = 0;
    test_config.tombstone_age_s = 0;
    test_config.account_count_max = 0;
    return 0;
}

/* ---- The model: every message that ever was ------------------------------------------------------------ */

struct model_message {
    uint32_t uid;
    uint64_t created, changed, expunged;
};

struct model {
    struct model_message messages[MODEL_MAX];
    unsigned count;
};

static struct model model;

static void model_follow(struct mailbox *m)
{
    for (unsigned i = 0; i < model.count; i++) { /* Dead unless found below. */
        if (model.messages[i].expunged == 0)
            model.messages[i].expunged = UINT64_MAX;
    }
    for (uint32_t i = 0; i < m->message_count; i++) {
        const struct message *msg = mailbox_message_at(m, i);
        unsigned k = 0;

        while (k < model.count && model.messages[k].uid != msg->uid)
            k++;
        CHECK(k < MODEL_MAX);
        if (k == model.count)
            model.messages[model.count++] = (struct model_message){.uid = msg->uid, .created = msg->created};
        CHECK(model.messages[k].created == msg->created);
        model.messages[k].changed = msg->changed;
        model.messages[k].expunged = 0;
    }
    for (unsigned i = 0; i < model.count; i++) {
        if (model.messages[i].expunged == UINT64_MAX)
            model.messages[i].expunged = m->highest;
    }
}

static bool model_visible(const struct model_message *m, uint64_t appends, uint64_t expunges)
{
    return m->created <= appends && (m->expunged == 0 || m->expunged > expunges);
}

static void compare_walk(struct view *v)
{
    uint32_t uid = 0, seq, wanted = 0;
    unsigned k = 0;
    const struct message *msg;

    while ((msg = view_next(v, &uid, &seq)) != NULL) {
        while (k < model.count && !model_visible(&model.messages[k], v->appends, v->expunges))
            k++;
        CHECK(k < model.count && model.messages[k].uid == msg->uid);
        CHECK(seq == ++wanted);
        CHECK((msg->expunged != 0) == (model.messages[k].expunged != 0));
        k++;
    }
    CHECK(wanted == view_count(v));
}

static void compare_each(struct view *v)
{
    uint32_t seq = 0, gone = 0, gone_seq, last = 0;

    for (unsigned i = 0; i < model.count; i++) {
        const struct model_message *m = &model.messages[i];

        CHECK(view_rank(v, m->uid) == seq);
        if (!model_visible(m, v->appends, v->expunges)) {
            CHECK(view_seq(v, m->uid) == 0 && view_find(v, m->uid) == NULL);
            continue;
        }
        seq++;
        last = m->uid;
        CHECK(view_seq(v, m->uid) == seq);
        CHECK(view_at(v, seq)->uid == m->uid && view_find(v, m->uid)->uid == m->uid);
        if (m->expunged != 0) {
            CHECK(view_gone_at(v, gone, &gone_seq)->uid == m->uid && gone_seq == seq);
            gone++;
        }
    }
    CHECK(view_count(v) == seq && view_gone_count(v) == gone && view_last_uid(v) == last);
    CHECK(view_at(v, 0) == NULL && view_at(v, seq + 1) == NULL && view_gone_at(v, gone, &gone_seq) == NULL);
}

static void compare_changed(struct view *v, uint64_t since)
{
    uint32_t uid = 0, seq, first, added = 0, first_wanted = 0;
    const struct message *msg;
    unsigned k = 0;
    bool more;

    do {
        while ((msg = view_next_changed(v, since, &uid, &seq, &more)) != NULL) {
            while (k < model.count &&
                   !(model.messages[k].expunged == 0 && model.messages[k].changed > since &&
                     model.messages[k].created <= v->appends))
                k++;
            CHECK(k < model.count && model.messages[k++].uid == msg->uid);
            CHECK(view_seq(v, msg->uid) == seq);
        }
    } while (more);
    for (; k < model.count; k++)
        CHECK(model.messages[k].expunged != 0 || model.messages[k].changed <= since ||
              model.messages[k].created > v->appends);
    for (k = model.count; k > 0; k--) {
        if (model.messages[k - 1].expunged == 0 && model.messages[k - 1].created > v->appends) {
            added++;
            first_wanted = model.messages[k - 1].uid;
        }
    }
    CHECK(view_new_count(v, &first) == added && first == first_wanted);
}

static void compare(struct account *a, struct mailbox *m, uint64_t appends, uint64_t expunges)
{
    struct view v, again;
    int rc = view_open(&v, a, m, appends, expunges);

    if (expunges < m->floor) {
        CHECK_RC(rc, -ESTALE);
        return;
    }
    CHECK_RC(rc, 0);
    CHECK_RC(view_open(&again, a, m, appends, expunges), 0);
    compare_walk(&v);
    compare_each(&again);
    view_close(&again);
    compare_changed(&v, random_u64() % (a->modseq + 1));
    compare_each(&v);
    view_close(&v);
}

/* One random change of the mailbox `name`. */
static void change_something(struct account *a, const char *name)
{
    struct mailbox *m = account_mailbox(a, slice_str(name));
    uint32_t first = 1 + (uint32_t)(random_u64() % m->uid_next), last = first + (uint32_t)(random_u64() % 5);

    switch (random_u64() % 8) {
    case 0:
    case 1:
        CHECK(test_append(a, name, 1, 10, NULL) > 0);
        break;
    case 2:
        CHECK_RC(test_copy(a, name, name, first, last, false), 0);
        break;
    case 3:
        CHECK_RC(test_copy(a, name, name, first, last, true), 0);
        break;
    case 4:
    case 5:
        CHECK_RC(test_expunge(a, name, first, last), 0);
        break;
    default:
        CHECK_RC(test_flags(a, name, first, last, random_u64() % 3, random_u64() % 32, NULL), 0);
        break;
    }
}

static void life_random(void *arg)
{
    struct store *store = test_store_open();
    struct account *a = test_account(store, "alice");
    struct mailbox *m = account_mailbox(a, SLICE("INBOX"));
    struct view old;

    memset(&model, 0, sizeof model);
    for (unsigned round = 0; round < 600; round++) {
        if (round % 97 == 0) { /* A view that stays, and keeps its meaning. */
            if (round > 0)
                view_close(&old);
            CHECK_RC(view_open(&old, a, m, a->modseq, a->modseq), 0);
        }
        change_something(a, "INBOX");
        model_follow(m);
        compare_each(&old);
        for (unsigned i = 0; i < 4; i++)
            compare(a, m, random_u64() % (a->modseq + 1), random_u64() % (a->modseq + 1));
        compare(a, m, a->modseq, a->modseq);
    }
    view_close(&old);
    CHECK_RC(view_open(&old, a, m, a->modseq + 1, 0), -EINVAL);
    account_close(a);
    accounts_trim(store, true);
    a = test_account(store, "alice"); /* The same from the disk. */
    m = account_mailbox(a, SLICE("INBOX"));
    for (unsigned i = 0; i < 200; i++)
        compare(a, m, random_u64() % (a->modseq + 1), random_u64() % (a->modseq + 1));
    account_close(a);
}

static void test_random(void **state)
{
    assert_true(fake_run(life_random, NULL, 0));
}

/* With few tombstones allowed: the floor rises, and below it no numbers are given out. */
static void test_random_floor(void **state)
{
    test_config.tombstone_count_max = 20;
    assert_true(fake_run(life_random, NULL, 0));
}

/* ---- The floor ----------------------------------------------------------------------------------------- */

static void life_floor(void *arg)
{
    struct store *store = test_store_open();
    struct account *a = test_account(store, "alice");
    struct mailbox *m = account_mailbox(a, SLICE("INBOX"));
    struct view v;
    uint64_t before;

    for (unsigned i = 0; i < 4; i++)
        CHECK(test_append(a, "INBOX", i, 10, NULL) > 0);
    before = a->modseq;
    CHECK_RC(view_open(&v, a, m, before, before), 0);
    CHECK_RC(test_expunge(a, "INBOX", 1, 1), 0);
    fake_set_wall(1700000000 + 8 * 24 * 3600); /* Too old now, but a view sees it. */
    CHECK_RC(test_flags(a, "INBOX", 2, 2, FLAGS_ADD, MAIL_SEEN, NULL), 0);
    CHECK(view_count(&v) == 4 && view_at(&v, 1)->uid == 1);
    view_close(&v);
    CHECK_RC(view_open(&v, a, m, before, before), 0);
    view_close(&v);
    CHECK_RC(test_flags(a, "INBOX", 2, 2, FLAGS_ADD, MAIL_FLAGGED, NULL), 0);
    CHECK(m->floor == before + 1);
    CHECK_RC(view_open(&v, a, m, before, before), -ESTALE);
    CHECK_RC(view_open(&v, a, m, a->modseq, m->floor), 0);
    CHECK(view_count(&v) == 3);
    view_close(&v);
    CHECK_RC(snapshot_write(a), 0);
    account_close(a);
    accounts_trim(store, true);
    a = test_account(store, "alice"); /* The snapshot has the floor. */
    m = account_mailbox(a, SLICE("INBOX"));
    CHECK(m->floor == before + 1);
    CHECK_RC(view_open(&v, a, m, before, before), -ESTALE);
    account_close(a);
}

static void test_floor(void **state)
{
    assert_true(fake_run(life_floor, NULL, 0));
}

/* ---- A deleted mailbox --------------------------------------------------------------------------------- */

static void life_deleted(void *arg)
{
    struct store *store = test_store_open();
    struct account *a = test_account(store, "alice");
    struct mailbox *m;
    uint32_t uidvalidity;
    struct view v;

    CHECK_RC(test_create(a, "Box"), 0);
    CHECK(test_append(a, "Box", 1, 10, NULL) == 1);
    CHECK(test_append(a, "Box", 2, 10, NULL) == 2);
    m = account_mailbox(a, SLICE("Box"));
    uidvalidity = m->uidvalidity;
    CHECK_RC(view_open(&v, a, m, a->modseq, a->modseq), 0);
    CHECK_RC(test_delete(a, "Box"), 0);
    CHECK(account_mailbox(a, SLICE("Box")) == NULL && m->deleted == a->modseq);
    CHECK(view_count(&v) == 2 && view_gone_count(&v) == 2);
    view_close(&v);
    CHECK_RC(test_create(a, "Box"), 0);
    CHECK(account_mailbox(a, SLICE("Box")) != m);
    CHECK(account_mailbox(a, SLICE("Box"))->uidvalidity > uidvalidity);
    CHECK(account_mailbox_by_id(a, m->id) == m);
    account_close(a);
}

static void test_deleted(void **state)
{
    assert_true(fake_run(life_deleted, NULL, 0));
}

/* ---- Conditions and results ---------------------------------------------------------------------------- */

static void life_conditions(void *arg)
{
    struct store *store = test_store_open();
    struct account *a = test_account(store, "alice");
    struct mailbox *m = account_mailbox(a, SLICE("INBOX"));
    struct uid_set all, modified, moved;
    struct id128 id = test_id(3);
    uint32_t changed, first;
    uint64_t since;
    struct change c;

    uid_set_init(&all, store->heap, 0);
    uid_set_init(&modified, store->heap, 0);
    uid_set_init(&moved, store->heap, 0);
    CHECK_RC(uid_set_add(&all, 1, 100), 0);
    for (unsigned i = 0; i < 6; i++)
        CHECK(test_append(a, "INBOX", i, 10, NULL) > 0);
    since = a->modseq;
    CHECK_RC(test_flags(a, "INBOX", 3, 4, FLAGS_ADD, MAIL_SEEN, NULL), 0);
    CHECK_RC(change_begin(&c, a, &id), 0);
    CHECK_RC(change_flags(&c, m, &all, FLAGS_ADD, MAIL_FLAGGED, 0, since, &modified, &changed), 0);
    CHECK(changed == 4 && modified.range_count == 1 && modified.ranges[0].first == 3 &&
          modified.ranges[0].last == 4);
    CHECK(mailbox_message_at(m, 0)->flags == 0); /* Nothing is shown before it is durable. */
    CHECK_RC(change_commit(&c, SLICE("the result")), 0);
    change_end(&c);
    CHECK(mailbox_message_at(m, 0)->flags == MAIL_FLAGGED && mailbox_message_at(m, 2)->flags == MAIL_SEEN);
    CHECK(mailbox_message_at(m, 0)->changed == a->modseq && mailbox_message_at(m, 2)->changed < a->modseq);

    CHECK_RC(change_begin(&c, a, &id), -EALREADY); /* Said again, not done again. */
    CHECK(slice_eq(c.result, SLICE("the result")) && c.modseq == a->modseq);
    change_end(&c);

    CHECK_RC(change_begin(&c, a, NULL), 0); /* Nothing to do is no record. */
    CHECK_RC(change_flags(&c, m, &all, FLAGS_ADD, 0, 0, UINT64_MAX, NULL, &changed), 0);
    CHECK(changed == 0 && change_empty(&c));
    since = a->modseq;
    CHECK_RC(change_commit(&c, SLICE("")), 0);
    change_end(&c);
    CHECK(a->modseq == since);

    CHECK_RC(test_create(a, "To"), 0);
    CHECK_RC(test_expunge(a, "INBOX", 2, 2), 0);
    CHECK_RC(change_begin(&c, a, NULL), 0);
    CHECK_RC(change_move(&c, m, &all, account_mailbox(a, SLICE("To")), &moved, &first), 0);
    CHECK(first == 1 && uid_set_count(&moved) == 5 && !uid_set_has(&moved, 2));
    change_end(&c); /* Not committed: nothing happened. */
    CHECK(m->message_count == 5 && account_mailbox(a, SLICE("To"))->message_count == 0);

    CHECK_RC(test_flags(a, "INBOX", 4, 6, FLAGS_ADD, MAIL_DELETED, NULL), 0);
    uid_set_clear(&moved);
    CHECK_RC(change_begin(&c, a, NULL), 0);
    CHECK_RC(change_expunge(&c, m, NULL, true, &moved), 0);
    CHECK_RC(change_commit(&c, SLICE("")), 0);
    change_end(&c);
    CHECK(m->message_count == 2 && m->deleted_count == 0 && uid_set_count(&moved) == 3);
    uid_set_fini(&all);
    uid_set_fini(&modified);
    uid_set_fini(&moved);
    account_close(a);
}

static void test_conditions(void **state)
{
    assert_true(fake_run(life_conditions, NULL, 0));
}

/* Copies carry keywords by name, and drop what does not fit. */
static void life_keywords(void *arg)
{
    struct store *store = test_store_open();
    struct account *a = test_account(store, "alice");
    struct mailbox *to;
    struct change c;
    uint32_t index;
    char word[16];

    CHECK_RC(test_create(a, "To"), 0);
    CHECK(test_append(a, "INBOX", 1, 10, NULL) == 1);
    CHECK_RC(test_flags(a, "INBOX", 1, 1, FLAGS_ADD, 0, "first"), 0);
    CHECK_RC(test_flags(a, "INBOX", 1, 1, FLAGS_ADD, 0, "second"), 0);
    CHECK_RC(test_flags(a, "INBOX", 1, 1, FLAGS_ADD, 0, "FIRST"), 0);
    to = account_mailbox(a, SLICE("To"));
    CHECK_RC(change_begin(&c, a, NULL), 0);
    for (unsigned i = 0; i < MAILBOX_KEYWORD_COUNT_MAX - 1; i++) {
        snprintf(word, sizeof word, "w%u", i);
        CHECK_RC(change_keyword(&c, to, slice_str(word), &index), 0);
        CHECK(index == i);
    }
    CHECK_RC(change_keyword(&c, to, SLICE("W5"), &index), 0);
    CHECK(index == 5);
    CHECK_RC(change_keyword(&c, to, SLICE("\\bad"), &index), -EINVAL);
    CHECK_RC(change_commit(&c, SLICE("")), 0);
    change_end(&c);
    CHECK_RC(test_copy(a, "INBOX", "To", 1, 1, false), 0);
    CHECK(to->keyword_count == MAILBOX_KEYWORD_COUNT_MAX);
    CHECK(mailbox_message_at(to, 0)->keywords == UINT64_C(1) << 63); /* "first"; "second" had no room. */
    CHECK_RC(change_begin(&c, a, NULL), 0);
    CHECK_RC(change_keyword(&c, to, SLICE("one-more"), &index), -ENOSPC);
    change_end(&c);
    account_close(a);
}

static void test_keywords(void **state)
{
    assert_true(fake_run(life_keywords, NULL, 0));
}

/* ---- Many at once -------------------------------------------------------------------------------------- */

#define WRITERS 20

static unsigned writers_left, notified;
static uint64_t notified_modseq;
static struct fiber_queue all_done;

static void writer_run(void *arg)
{
    struct store *store = store_self();
    unsigned number = (unsigned)(uintptr_t)arg;

    for (unsigned i = 0; i < 10; i++) {
        struct account *a = test_account(store, number % 2 ? "alice" : "bob");
        struct id128 id = test_id(number * 100 + i);
        long uid = test_append(a, "INBOX", number, 30, &id);

        CHECK(uid > 0);
        CHECK(test_append(a, "INBOX", number, 30, &id) == uid);
        account_close(a);
    }
    if (--writers_left == 0)
        fiber_queue_wake_all(&all_done, 0);
}

static void watch_changed(unsigned partition, uint64_t account, const struct store_change *change, void *arg)
{
    if (account != store_account_hash(store_self(), SLICE("alice")))
        return;
    CHECK(partition == store_partition(store_self(), SLICE("alice")));
    notified++;
    CHECK(change->modseq > notified_modseq);
    notified_modseq = change->modseq;
    CHECK(store_user_modseq(store_self(), SLICE("alice")) == change->modseq);
    if (notified == 50) /* The watch may go while it is told. */
        store_watch(store_self(), NULL, NULL);
}

static void life_many(void *arg)
{
    struct store *store = test_store_open();
    struct account *a;

    notified = 0;
    notified_modseq = 0;
    fiber_queue_init(&all_done);
    writers_left = WRITERS;
    store_watch(store, watch_changed, NULL);
    CHECK(store_user_modseq(store, SLICE("alice")) == 0); /* Nobody has seen her yet. */
    for (uintptr_t i = 0; i < WRITERS; i++)
        CHECK(fiber_start("writer", RUN_INTERACTIVE, writer_run, (void *)i) != NULL);
    while (writers_left > 0)
        CHECK_RC(fiber_queue_wait(&all_done, 0), 0);
    CHECK(notified == 50);
    CHECK(shard_self()->metrics->commit_batches <
          shard_self()->metrics->commit_records / 2); /* They shared flushes. */
    a = test_account(store, "alice");
    CHECK(account_mailbox_at(a, 0)->message_count == WRITERS / 2 * 10);
    CHECK(store_user_modseq(store, SLICE("alice")) == a->modseq);
    account_close(a);
    store_close(store);
}

static void test_many(void **state)
{
    test_config.account_count_max = 1; /* And they are evicted and read back all the time. */
    assert_true(fake_run(life_many, NULL, 0));
}

/* Over the budget: refused, and nothing is broken by it. */
static void life_budget(void *arg)
{
    struct store *store = test_store_open();
    unsigned stored = 0, refused = 0;

    for (unsigned i = 0; i < 60; i++) {
        char user[16];
        struct account *a;
        int rc;

        snprintf(user, sizeof user, "user%u", i % 20);
        rc = account_open(store, slice_str(user), ACCOUNT_CREATE, &a);
        if (rc < 0) {
            CHECK_RC(rc, -ENOMEM);
            refused++;
            continue;
        }
        rc = (int)test_append(a, "INBOX", i, 900000, NULL);
        CHECK(rc > 0 || rc == -ENOMEM);
        stored += rc > 0;
        refused += rc < 0;
        account_close(a);
    }
    CHECK(stored == 60 || refused > 0);
    store_close(store);
}

static void test_budget(void **state)
{
    for (uint64_t budget = 1536 * 1024; budget < 5 * 1024 * 1024; budget += 300000) {
        fake_disk_reset();
        assert_true(fake_run(life_budget, NULL, budget));
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_random, setup),     cmocka_unit_test_setup(test_random_floor, setup),
        cmocka_unit_test_setup(test_floor, setup),      cmocka_unit_test_setup(test_deleted, setup),
        cmocka_unit_test_setup(test_conditions, setup), cmocka_unit_test_setup(test_keywords, setup),
        cmocka_unit_test_setup(test_many, setup),       cmocka_unit_test_setup(test_budget, setup),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
