/* The mailbox list at the backend, subscriptions to changes, and what a restart keeps. */
#include "core/shard.h"
#include "roles/words/feed.h"
#include "storage/store.h"
#include "tests/unit/roles/backend_client.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define MESSAGE "Subject: x\r\n\r\ny\r\n"
#define OK_LIST "t OK List completed.\r\n"

static struct client a, b;

static void lists(void)
{
    SAY(&a, "t LIST \"\" *",
        "* LIST (\\HasNoChildren) \"/\" INBOX\r\n* LIST (\\HasNoChildren \\Archive) \"/\" Archive\r\n"
        "* LIST (\\HasNoChildren \\Drafts) \"/\" Drafts\r\n* LIST (\\HasNoChildren \\Junk) \"/\" Junk\r\n"
        "* LIST (\\HasNoChildren \\Sent) \"/\" Sent\r\n* LIST (\\HasNoChildren \\Trash) \"/\" "
        "Trash\r\n" OK_LIST);
    SAY(&a, "t LIST \"\" \"\"", "* LIST (\\Noselect) \"/\" \"\"\r\n" OK_LIST);
    SAY(&a, "t CREATE one/two/three", "t OK Create completed.\r\n");
    SAY(&a, "t LIST \"\" o%", "* LIST (\\HasChildren) \"/\" one\r\n" OK_LIST);
    SAY(&a, "t LIST one/ %", "* LIST (\\HasChildren) \"/\" one/two\r\n" OK_LIST);
    SAY(&a, "t DELETE one", "t OK Delete completed.\r\n");
    SAY(&a, "t DELETE one/two", "t OK Delete completed.\r\n");
    SAY(&a, "t LIST \"\" o*",
        "* LIST (\\Noselect \\HasChildren) \"/\" one\r\n* LIST (\\Noselect \\HasChildren) \"/\" one/two\r\n"
        "* LIST (\\HasNoChildren) \"/\" one/two/three\r\n" OK_LIST);
    SAY(&a, "t LIST \"\" o% RETURN (CHILDREN)", "* LIST (\\NonExistent \\HasChildren) \"/\" one\r\n" OK_LIST);
    SAY(&a, "t DELETE one", "t NO [NONEXISTENT] Mailbox doesn't exist.\r\n");
    SAY(&a, "t CREATE one/two", "t OK Create completed.\r\n");
    SAY(&a, "t LIST \"\" (inbox *three)",
        "* LIST () \"/\" INBOX\r\n* LIST () \"/\" one/two/three\r\n" OK_LIST);
    SAY(&a, "t LIST (SPECIAL-USE) \"\" J* RETURN (STATUS (MESSAGES))",
        "* LIST (\\Junk) \"/\" Junk\r\n* STATUS Junk (MESSAGES 0)\r\n" OK_LIST);
    SAY(&a, "t CREATE inBox/Below", "t OK Create completed.\r\n");
    SAY(&a, "t LIST \"\" Inbox/%", "* LIST (\\HasNoChildren) \"/\" INBOX/Below\r\n" OK_LIST);
    SAY(&a, "t DELETE INBOX/Below", "t OK Delete completed.\r\n");
    SAY(&a, "t LIST \"\" &AOQ-", OK_LIST);
    SAY(&a, "t CREATE &AOQ-", "t OK Create completed.\r\n");
    SAY(&a, "t LIST \"\" &AOQ-", "* LIST (\\HasNoChildren) \"/\" \"&AOQ-\"\r\n" OK_LIST);
    SAY(&a, "t NAMESPACE", "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\nt OK Namespace completed.\r\n");
}

static void subscribed(void)
{
    SAY(&a, "t UNSUBSCRIBE INBOX", "t OK Unsubscribe completed.\r\n");
    SAY(&a, "t SUBSCRIBE x/y/z", "t OK Subscribe completed.\r\n");
    SAY(&a, "t LSUB \"\" x*", "* LSUB () \"/\" x/y/z\r\nt OK Lsub completed.\r\n");
    SAY(&a, "t LSUB \"\" x%", "* LSUB (\\Noselect) \"/\" x\r\nt OK Lsub completed.\r\n");
    SAY(&a, "t LIST (SUBSCRIBED) \"\" x*", "* LIST (\\NonExistent \\Subscribed) \"/\" x/y/z\r\n" OK_LIST);
    SAY(&a, "t LIST (SUBSCRIBED RECURSIVEMATCH) \"\" x%",
        "* LIST (\\NonExistent) \"/\" x (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n" OK_LIST);
    SAY(&a, "t SUBSCRIBE x", "t OK Subscribe completed.\r\n");
    SAY(&a, "t LIST (SUBSCRIBED RECURSIVEMATCH) \"\" x%",
        "* LIST (\\NonExistent \\Subscribed) \"/\" x (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n" OK_LIST);
    SAY(&a, "t LIST \"\" INBOX RETURN (SUBSCRIBED)", "* LIST () \"/\" INBOX\r\n" OK_LIST);
    SAY(&a, "t LIST \"\" Sent RETURN (SUBSCRIBED)", "* LIST (\\Subscribed) \"/\" Sent\r\n" OK_LIST);
}

static void names(void)
{
    SAY(&a, "t CREATE inbox", "t NO [ALREADYEXISTS] Mailbox already exists.\r\n");
    SAY(&a, "t DELETE inbox", "t NO [CANNOT] INBOX can't be deleted.\r\n");
    SAY(&a, "t CREATE a//b", "t NO [CANNOT] Invalid mailbox name.\r\n");
    SAY(&a, "t CREATE \"a\\\"b\"", "t OK Create completed.\r\n");
    SAY(&a, "t LIST \"\" a*", "* LIST (\\HasNoChildren) \"/\" \"a\\\"b\"\r\n" OK_LIST);
    SAY(&a, "t CREATE level/", "t OK Create completed.\r\n");
    SAY(&a, "t CREATE use (USE (\\Important))", "t NO [USEATTR] Special use is not supported.\r\n");
    SAY(&a, "t CREATE use (USE (\\Sent))", "t OK Create completed.\r\n");
    SAY(&a, "t LIST \"\" use", "* LIST (\\HasNoChildren \\Sent) \"/\" use\r\n" OK_LIST);
    SAY(&a, "t RENAME use other/place", "t OK Rename completed.\r\n");
    SAY(&a, "t LIST \"\" o*",
        "* LIST (\\HasChildren) \"/\" other\r\n* LIST (\\HasNoChildren \\Sent) \"/\" "
        "other/place\r\n" OK_LIST);
    SAY(&a, "t RENAME other thing", "t OK Rename completed.\r\n");
    SAY(&a, "t LIST \"\" %/place", "* LIST (\\HasNoChildren \\Sent) \"/\" thing/place\r\n" OK_LIST);
    SAY(&a, "t RENAME thing Sent", "t NO [ALREADYEXISTS] Mailbox already exists.\r\n");
    SAY(&a, "t RENAME thing thing/below", "t NO [CANNOT] Invalid mailbox name.\r\n");
    SAY(&a, "t RENAME none where", "t NO [NONEXISTENT] Mailbox doesn't exist.\r\n");
    client_append(&a, "t APPEND INBOX {17+}", SLICE(MESSAGE));
    SAY(&a, "t RENAME INBOX old", "t OK Rename completed.\r\n");
    SAY(&a, "t STATUS INBOX (MESSAGES UIDNEXT)",
        "* STATUS INBOX (MESSAGES 0 UIDNEXT 2)\r\nt OK Status completed.\r\n");
    SAY(&a, "t STATUS old (MESSAGES RECENT UNSEEN)",
        "* STATUS old (MESSAGES 1 RECENT 1 UNSEEN 1)\r\nt OK Status completed.\r\n");
}

/* A rename does not touch who has the mailbox selected. */
static void renamed_while_selected(void)
{
    client_append(&a, "t APPEND Sent {17+}", SLICE(MESSAGE));
    client_say(&b, "t SELECT Sent");
    SAY(&a, "t RENAME Sent Away", "t OK Rename completed.\r\n");
    client_append(&a, "t APPEND Away {17+}", SLICE(MESSAGE));
    SAY(&b, "t NOOP", "* 2 EXISTS\r\n* 2 RECENT\r\nt OK NOOP completed.\r\n");
    client_say(&a, "t CREATE Sent");
    client_say(&b, "t STATUS Sent (MESSAGES)");
    HAS(&b, "(MESSAGES 0)");
}

/* Ten thousand names, and a pattern that other servers died of (CVE-2021-40110). */
static void many_names(void)
{
    char command[256], stars[130] = "";

    for (int i = 0; i < 2000; i++) {
        snprintf(command, sizeof command, "t CREATE aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa%d",
                 i);
        client_say(&a, command);
        HAS(&a, "t OK");
    }
    for (int i = 0; i < 64; i++)
        strcat(stars, "*a");
    snprintf(command, sizeof command, "t LIST \"\" \"%sb\"", stars);
    SAY(&a, command, OK_LIST);
    b.keeps_frames = true; /* Nobody reads: the rest waits. */
    client_begin(&b, LINK_IMAP, "t LIST \"\" * RETURN (STATUS (MESSAGES UIDNEXT UNSEEN SIZE))");
    (void)fiber_sleep_ms(100);
    CHECK(!b.ended);
    b.keeps_frames = false;
    for (struct list *n = list_pop_front(&b.frames); n != NULL; n = list_pop_front(&b.frames))
        link_frame_release(CONTAINER_OF(n, struct link_frame, link));
    client_finish(&b);
    HAS(&b, "a0\r\n* STATUS aaaa");
    HAS(&b, "a1999\r\n* STATUS aaaa");
    HAS(&b, OK_LIST);
}

/* ---- LINK_SUBSCRIBE ------------------------------------------------------------------------------------ */

#define COOKIES 5000

struct notices { /* Of one feed. */
    unsigned ready, count, expired, gone;
    bool lost;
    struct feed_item last; /* AT */
    uint64_t at[COOKIES];  /* By cookie: the last AT. */
};

static void notice_on_frame(struct link_stream *s, struct link_frame *f)
{
    struct notices *n = s->owner;
    struct slice in = link_frame_data(f);
    struct feed_item item;

    CHECK(f->header.type == LINK_DATA);
    CHECK(feed_open(&in));
    while (feed_item_decode(&in, &item)) {
        n->ready += item.kind == FEED_READY;
        n->expired += item.kind == FEED_EXPIRED;
        n->gone += item.kind == FEED_GONE;
        if (item.kind != FEED_AT)
            continue;
        n->count++;
        n->last = item;
        CHECK(item.cookie < COOKIES);
        n->at[item.cookie] = item.modseq;
    }
    CHECK(in.size == 0);
    link_frame_release(f);
}

static void notice_on_credit(struct link_stream *s)
{
}

static void notice_on_lost(struct link_stream *s)
{
    ((struct notices *)s->owner)->lost = true;
}

static struct link_stream *feed_to(struct notices *n, const char *user)
{
    static const struct link_stream_ops ops = {notice_on_frame, notice_on_credit, notice_on_lost};
    char head[FEED_HEAD_SIZE];
    struct link_stream *s;

    memset(n, 0, sizeof *n);
    feed_head_encode((uint16_t)store_partition(store_self(), slice_str(user)), head);
    s = link_open(link_to_shard(shard_self()), LINK_SUBSCRIBE, slice_of(head, sizeof head), (struct slice){0},
                  false, &ops, n);
    settle();
    CHECK(n->ready == 1);
    return s;
}

static void feed_say(struct link_stream *s, enum feed_kind kind, uint32_t cookie, const char *user)
{
    const struct feed_item item = {.kind = kind, .cookie = cookie, .user = slice_str(user)};
    struct link_frame *f = link_frame_new(FEED_HEADER_SIZE + FEED_ITEM_SIZE_MAX);
    size_t size = feed_begin(f->payload);

    size += feed_item_encode(&item, f->payload + size);
    link_send(s, f, size, 0);
}

static void feed_tell(struct link_stream *s, enum feed_kind kind, uint32_t cookie, const char *user)
{
    feed_say(s, kind, cookie, user);
    settle();
}

static struct notices n, m, k;

static void notices(void)
{
    struct link_stream *s, *other, *unknown;
    uint64_t before;

    client_say(&a, "t SELECT INBOX");
    s = feed_to(&n, "anna");
    feed_tell(s, FEED_WATCH, 3, "anna"); /* Where it stands is said at once. */
    CHECK(n.count == 1 && n.last.cookie == 3 && n.last.modseq == a.token.appends);
    other = feed_to(&m, "anna");
    feed_tell(other, FEED_WATCH, 0, "anna");
    CHECK(m.count == 1);
    before = n.last.modseq;
    CHECK(deliver("anna", "", 0, SLICE(MESSAGE)) == 250);
    CHECK(n.count == 2 && n.last.modseq > before && n.last.mailbox_id == a.token.mailbox_id);
    CHECK(m.count == 2);
    client_sync(&a);
    HAS(&a, "* 1 EXISTS");
    CHECK(a.token.appends == n.last.modseq);
    client_say(&a, "t STORE 1 +FLAGS.SILENT \\Deleted");
    CHECK(n.count == 3);
    client_say(&a, "t EXPUNGE");
    CHECK(n.count == 4);
    client_say(&a, "t NOOP");
    CHECK(n.count == 4);
    /* A user without an account yet is told of its first mail. */
    unknown = feed_to(&k, "new");
    feed_tell(unknown, FEED_WATCH, 9, "new");
    CHECK(k.count == 1 && k.last.modseq == 0);
    CHECK(deliver("new", "", 0, SLICE(MESSAGE)) == 250);
    CHECK(k.count > 1 && k.last.modseq > 0 && k.last.cookie == 9);
    feed_tell(s, FEED_LEAVE, 3, "anna");
    CHECK(n.gone == 1);
    CHECK(deliver("anna", "", 0, SLICE(MESSAGE)) == 250);
    CHECK(n.count == 4 && m.count == 5);
    link_stream_reset(s);
    link_stream_reset(other);
    link_stream_reset(unknown);
    settle();
}

/* Many accounts on one feed, coming and going: who is there hears, who has left does not. */
static void many_notices(void)
{
    struct link_stream *s = feed_to(&n, "anna");
    char user[32];

    for (uint32_t i = 0; i < COOKIES; i++) {
        snprintf(user, sizeof user, "user%u", i % (COOKIES - 1)); /* The last one has the first one's name. */
        feed_say(s, FEED_WATCH, i, user);
        if (i % 100 == 0)
            settle();
    }
    settle();
    CHECK(n.count == COOKIES);
    for (uint32_t i = 0; i < COOKIES - 1; i += 2) {
        snprintf(user, sizeof user, "user%u", i);
        feed_say(s, FEED_LEAVE, i, user);
        if (i % 100 == 0)
            settle();
    }
    settle();
    CHECK(n.gone == COOKIES / 2);
    feed_tell(s, FEED_WATCH, 1, "anna"); /* Another one of the same cookie; the proxy would not. */
    CHECK(deliver("anna", "", 0, SLICE(MESSAGE)) == 250);
    CHECK(n.last.cookie == 1 && n.at[1] > 0);
    CHECK(n.at[0] == 0 && n.at[2] == 0 && !n.lost);
    link_stream_reset(s);
    settle();
}

/* A proxy that is not understood is cut off; nothing of him is left. */
static void feed_not_understood(void)
{
    struct link_stream *s = feed_to(&n, "anna");
    struct link_frame *f = link_frame_new(FEED_HEADER_SIZE);

    feed_tell(s, FEED_WATCH, 1, "anna");
    CHECK(n.count == 1);
    link_send(s, f, feed_begin(f->payload), 0); /* No item: nothing comes of it. */
    settle();
    CHECK(!n.lost);
    f = link_frame_new(4);
    memcpy(f->payload, "\1\77ab", 4);
    link_send(s, f, 4, 0); /* Not understood. */
    settle();
    CHECK(n.lost);
    n.count = 0;
    CHECK(deliver("anna", "", 0, SLICE(MESSAGE)) == 250);
    CHECK(n.count == 0);
}

/* ---- Restart ------------------------------------------------------------------------------------------- */

static struct token kept;

static void before_restart(void)
{
    client_init(&a, "anna");
    client_say(&a, "t SELECT INBOX");
    for (int i = 0; i < 3; i++)
        CHECK(deliver("anna", "", 100 + (uint64_t)i, SLICE(MESSAGE)) == 250);
    client_say(&a, "t NOOP");
    kept = a.token;
    client_say(&a, "t STORE 1 +FLAGS (\\Deleted kw)");
    client_say(&a, "t UID EXPUNGE 1");
    client_say(&a, "t STORE 1 +FLAGS (kw)");
    client_fini(&a);
}

/* A session outlives the backend: its next command finds the same account, and a delivery that is repeated
 * was done. */
static void after_restart(void)
{
    client_init(&a, "anna");
    a.token = kept;
    a.nonce = 1000;
    CHECK(deliver("anna", "", 101, SLICE(MESSAGE)) == 250);
    SAY(&a, "t FETCH 1:* UID",
        "* 1 FETCH (UID 1)\r\n* 2 FETCH (UID 2)\r\n* 3 FETCH (UID 3)\r\nt OK Fetch completed.\r\n");
    client_say(&a, "t NOOP");
    HAS(&a, "* 1 EXPUNGE\r\n");
    HAS(&a, "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft kw)\r\n");
    HAS(&a, "* 1 FETCH (FLAGS (\\Recent kw))\r\nt OK");
    HAS_NOT(&a, "EXISTS");
    client_fini(&a);
}

static void test_restart(void **state)
{
    assert_int_equal(backend_test_keep(before_restart), 0);
    assert_int_equal(backend_test_again(after_restart), 0);
    backend_test_remove();
}

/* One node a scenario. */
#define SCENARIO(name)                                                                                       \
    static void name##_run(void)                                                                             \
    {                                                                                                        \
        client_init(&a, "anna");                                                                             \
        client_init(&b, "anna");                                                                             \
        name();                                                                                              \
        client_fini(&a);                                                                                     \
        client_fini(&b);                                                                                     \
    }                                                                                                        \
    static void test_##name(void **state)                                                                    \
    {                                                                                                        \
        assert_int_equal(backend_test(name##_run), 0);                                                       \
    }

SCENARIO(lists)
SCENARIO(subscribed)
SCENARIO(names)
SCENARIO(renamed_while_selected)
SCENARIO(many_names)
SCENARIO(notices)
SCENARIO(many_notices)
SCENARIO(feed_not_understood)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists),        cmocka_unit_test(test_subscribed),
        cmocka_unit_test(test_names),        cmocka_unit_test(test_renamed_while_selected),
        cmocka_unit_test(test_many_names),   cmocka_unit_test(test_notices),
        cmocka_unit_test(test_many_notices), cmocka_unit_test(test_feed_not_understood),
        cmocka_unit_test(test_restart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
