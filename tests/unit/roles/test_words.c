/* The words of the link: what is encoded is decoded again, and nothing else is. */
#include "roles/words/expunge_run.h"
#include "roles/words/feed.h"
#include "roles/words/request.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct token a_token = {
    .history = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
    .mailbox_id = 0x1122334455667788,
    .appends = UINT64_MAX,
    .expunges = 7,
    .flag_changes = 1ull << 62,
    .uidvalidity = 0xdeadbeef,
    .recent_first = 3,
    .recent_last = UINT32_MAX,
    .keyword_count = 900,
    .flags = TOKEN_READ_ONLY | TOKEN_CONDSTORE | TOKEN_QRESYNC,
};

static void assert_token(const struct token *t)
{
    assert_memory_equal(t->history, a_token.history, sizeof t->history);
    assert_true(t->mailbox_id == a_token.mailbox_id);
    assert_true(t->appends == a_token.appends);
    assert_true(t->expunges == a_token.expunges);
    assert_true(t->flag_changes == a_token.flag_changes);
    assert_int_equal(t->uidvalidity, a_token.uidvalidity);
    assert_int_equal(t->recent_first, a_token.recent_first);
    assert_int_equal(t->recent_last, a_token.recent_last);
    assert_int_equal(t->keyword_count, a_token.keyword_count);
    assert_int_equal(t->flags, a_token.flags);
}

static void assert_slice(struct slice s, const char *text)
{
    assert_true(slice_eq(s, slice_str(text)));
}

static void test_token(void **state)
{
    char bytes[TOKEN_SIZE + 1] = {0};
    struct token t = {0};

    token_encode(&a_token, bytes);
    assert_true(token_decode(slice_of(bytes, TOKEN_SIZE), &t));
    assert_token(&t);
    for (size_t size = 0; size < TOKEN_SIZE; size++)
        assert_false(token_decode(slice_of(bytes, size), &t));
    assert_false(token_decode(slice_of(bytes, TOKEN_SIZE + 1), &t));
    bytes[0] = TOKEN_VERSION + 1;
    assert_false(token_decode(slice_of(bytes, TOKEN_SIZE), &t));
}

/* Every cut of a head is refused, and so is one byte too many and another version. The copy has exactly the
 * size tested, so that a sanitizer sees a read past it. */
#define ASSERT_WHOLE_ONLY(decode, head, size, type)                                                          \
    do {                                                                                                     \
        type cut_;                                                                                           \
        for (size_t n_ = 0; n_ <= (size) + 1; n_++) {                                                        \
            char *copy_ = malloc(n_ > 0 ? n_ : 1);                                                           \
            memcpy(copy_, (head), n_);                                                                       \
            assert_int_equal(decode(slice_of(copy_, n_), &cut_), n_ == (size));                              \
            copy_[0] = 2;                                                                                    \
            assert_false(decode(slice_of(copy_, n_), &cut_));                                                \
            free(copy_);                                                                                     \
        }                                                                                                    \
    } while (0)

static void test_login(void **state)
{
    struct login_request r = {.lookup = false, .secure = true, .user = SLICE("anna"), .password = SLICE("")},
                         q;
    struct login_reply p = {
        .result = LOGIN_DISABLED, .delay_ms = 1500, .partition = 4095, .user = SLICE("anna@example.org")};
    struct login_reply o;
    char head[HEAD_SIZE_MAX] = {0};
    size_t size = login_request_encode(&r, head);

    assert_true(login_request_decode(slice_of(head, size), &q));
    assert_true(q.secure && !q.lookup);
    assert_slice(q.user, "anna");
    assert_slice(q.password, "");
    ASSERT_WHOLE_ONLY(login_request_decode, head, size, struct login_request);

    memset(head, 0, sizeof head);
    size = login_reply_encode(&p, head);
    assert_true(login_reply_decode(slice_of(head, size), &o));
    assert_int_equal(o.result, LOGIN_DISABLED);
    assert_int_equal(o.delay_ms, 1500);
    assert_int_equal(o.partition, 4095);
    assert_slice(o.user, "anna@example.org");
    ASSERT_WHOLE_ONLY(login_reply_decode, head, size, struct login_reply);
    head[1] = LOGIN_UNAVAILABLE + 1;
    assert_false(login_reply_decode(slice_of(head, size), &o));
}

static void test_imap(void **state)
{
    struct imap_request r = {.operation_id = {9, 8, 7},
                             .token = a_token,
                             .more_follows = true,
                             .again = true,
                             .user = SLICE("anna")};
    struct imap_request q;
    struct imap_reply p = {.token = a_token, .flags = IMAP_REPLY_BYE}, o;
    char head[HEAD_SIZE_MAX] = {0};
    size_t size = imap_request_encode(&r, head);

    assert_true(imap_request_decode(slice_of(head, size), &q));
    assert_memory_equal(q.operation_id, r.operation_id, OPERATION_ID_SIZE);
    assert_token(&q.token);
    assert_true(q.more_follows && q.again && !q.outcome);
    assert_slice(q.user, "anna");
    ASSERT_WHOLE_ONLY(imap_request_decode, head, size, struct imap_request);

    memset(head, 0, sizeof head);
    size = imap_reply_encode(&p, head);
    assert_true(imap_reply_decode(slice_of(head, size), &o));
    assert_token(&o.token);
    assert_int_equal(o.flags, IMAP_REPLY_BYE);
    ASSERT_WHOLE_ONLY(imap_reply_decode, head, size, struct imap_reply);
}

static void test_user_too_long(void **state)
{
    char name[USER_SIZE_MAX + 1], head[HEAD_SIZE_MAX];
    struct imap_request r = {.token = a_token}, q;

    memset(name, 'a', sizeof name);
    r.user = slice_of(name, USER_SIZE_MAX);
    assert_true(imap_request_decode(slice_of(head, imap_request_encode(&r, head)), &q));
    r.user = slice_of(name, USER_SIZE_MAX + 1);
    assert_false(imap_request_decode(slice_of(head, imap_request_encode(&r, head)), &q));
}

static void test_feed(void **state)
{
    const struct feed_item items[] = {
        {.kind = FEED_READY},
        {.kind = FEED_WATCH, .cookie = 7, .user = SLICE("anna"), .ticket = {{1, 2, 3}}},
        {.kind = FEED_LEAVE, .cookie = UINT32_MAX, .user = SLICE("bert")},
        {.kind = FEED_AT, .cookie = 1, .modseq = UINT64_MAX, .mailbox_id = 5},
        {.kind = FEED_EXPIRED, .cookie = 2},
        {.kind = FEED_GONE, .cookie = 3},
    };
    char bytes[ARRAY_COUNT(items) * FEED_ITEM_SIZE_MAX];
    size_t size = feed_begin(bytes);
    struct feed_item item;
    struct slice in;
    uint16_t partition;

    for (unsigned i = 0; i < ARRAY_COUNT(items); i++)
        size += feed_item_encode(&items[i], bytes + size);
    for (size_t cut = 1; cut <= size; cut++) { /* At each byte: whole items, then none, and never beyond. */
        unsigned count = 0;

        in = slice_of(bytes, cut);
        assert_true(feed_open(&in));
        while (feed_item_decode(&in, &item)) {
            assert_int_equal(item.kind, items[count].kind);
            assert_int_equal(item.cookie, items[count].cookie);
            assert_true(slice_eq(item.user, items[count].user));
            assert_memory_equal(&item.ticket, &items[count].ticket, sizeof item.ticket);
            assert_true(item.modseq == items[count].modseq && item.mailbox_id == items[count].mailbox_id);
            count++;
        }
        assert_true(count < ARRAY_COUNT(items) || (cut == size && in.size == 0));
    }
    bytes[0]++;
    in = slice_of(bytes, size);
    assert_false(feed_open(&in)); /* Another version. */
    in = SLICE("\x07\0\0\0\0");
    assert_false(feed_item_decode(&in, &item)); /* Another kind. */
    feed_head_encode(4095, bytes);
    assert_true(feed_head_decode(slice_of(bytes, FEED_HEAD_SIZE), &partition));
    assert_int_equal(partition, 4095);
    assert_false(feed_head_decode(slice_of(bytes, FEED_HEAD_SIZE - 1), &partition));
}

static void test_deliver(void **state)
{
    struct deliver_request r = {.operation_id = {1},
                                .size_hint = 1ull << 40,
                                .user = SLICE("anna"),
                                .folder = SLICE("lists"),
                                .return_path = SLICE(""),
                                .recipient = SLICE("anna+lists@example.org"),
                                .received = SLICE("Received: from a by b; date\r\n")};
    struct deliver_request q;
    struct deliver_reply p = {.code = 250, .text = SLICE("2.0.0 <anna> saved")}, o;
    char head[HEAD_SIZE_MAX] = {0};
    size_t size = deliver_request_encode(&r, head);

    assert_true(deliver_request_decode(slice_of(head, size), &q));
    assert_memory_equal(q.operation_id, r.operation_id, OPERATION_ID_SIZE);
    assert_true(q.size_hint == 1ull << 40);
    assert_slice(q.user, "anna");
    assert_slice(q.folder, "lists");
    assert_slice(q.return_path, "");
    assert_slice(q.recipient, "anna+lists@example.org");
    assert_slice(q.received, "Received: from a by b; date\r\n");
    ASSERT_WHOLE_ONLY(deliver_request_decode, head, size, struct deliver_request);

    memset(head, 0, sizeof head);
    size = deliver_reply_encode(&p, head);
    assert_true(deliver_reply_decode(slice_of(head, size), &o));
    assert_int_equal(o.code, 250);
    assert_slice(o.text, "2.0.0 <anna> saved");
    ASSERT_WHOLE_ONLY(deliver_reply_decode, head, size, struct deliver_reply);
}

static void test_expunge_run(void **state)
{
    struct expunge_run run = {0}, got;
    char out[EXPUNGE_RUN_SIZE];

    (void)state;
    assert_false(expunge_run_add(&run, 9)); /* There is none yet. */
    run = (struct expunge_run){9, 1};
    assert_true(expunge_run_add(&run, 8));
    assert_false(expunge_run_add(&run, 8));
    assert_false(expunge_run_add(&run, 9));
    assert_false(expunge_run_add(&run, 6));
    assert_true(expunge_run_add(&run, 7));
    expunge_run_encode(&run, out);
    assert_true(expunge_run_decode(slice_of(out, sizeof out), &got));
    assert_int_equal(got.last, 9);
    assert_int_equal(got.count, 3);
    assert_false(expunge_run_decode(slice_of(out, sizeof out - 1), &got));
    expunge_run_encode(&(struct expunge_run){9, 0}, out);
    assert_false(expunge_run_decode(slice_of(out, sizeof out), &got));
    expunge_run_encode(&(struct expunge_run){9, 10}, out); /* Down to 0. */
    assert_false(expunge_run_decode(slice_of(out, sizeof out), &got));
    expunge_run_encode(&(struct expunge_run){9, 9}, out);
    assert_true(expunge_run_decode(slice_of(out, sizeof out), &got));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token),         cmocka_unit_test(test_login), cmocka_unit_test(test_imap),
        cmocka_unit_test(test_user_too_long), cmocka_unit_test(test_feed),  cmocka_unit_test(test_deliver),
        cmocka_unit_test(test_expunge_run),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
