/* A command that is asked of a backend over a wire, until it has answered or there is nothing to be waited for. */
#include "core/log.h"
#include "core/metrics.h"
#include "roles/proxy/session.h"
#include "roles/words/expunge_run.h"
#include "tests/unit/core/fake_door.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static struct shard *shard;
static struct proxy proxy;
static struct session session;
static struct link_stream stream;
static bool sent;    /* Has what was asked left? */
static bool used_up; /* The link's budget. */
static unsigned opened, again, failed, byes;
static char written[100]; /* The last that was. */

/* ---- What surrounds it --------------------------------------------------------------------------------- */

bool session_request_open(struct session *s)
{
    opened++;
    s->stream = &stream;
    return true;
}

void session_run_failed(struct session *s)
{
    s->stream = NULL;
    failed++;
    session_request_drop(s);
}

void session_bye(struct session *s, const char *text)
{
    byes++;
    session_request_drop(s);
}

bool link_stream_sent(const struct link_stream *s)
{
    return sent;
}

void link_stream_reset(struct link_stream *s)
{
}

struct link_stream *link_open(struct link_target to, enum link_kind kind, struct slice head,
                              struct slice data, bool last, const struct link_stream_ops *ops, void *owner)
{
    return NULL; /* Of a ticket's renewal. */
}

void link_frame_release(struct link_frame *f)
{
}

void session_abandon(struct session *s)
{
    s->stream = NULL;
    session_answer_drop(s);
    session_request_drop(s);
}

void session_close(struct session *s)
{
}

void session_ready(struct session *s)
{
}

void session_timed(const struct session *s)
{
}

void session_idle_synced(struct session *s)
{
}

void difference_came(struct session *s, const struct link_frame *f)
{
}

void imap_framer_literal_refuse(struct imap_framer *f)
{
}

size_t conn_queued(const struct conn *c)
{
    return 0;
}

void conn_write(struct conn *c, struct slice data)
{
    assert_true(data.size < sizeof written);
    memcpy(written, data.data, data.size);
    written[data.size] = '\0';
}

void conn_write_loan(struct conn *c, struct slice data, void (*release)(void *arg), void *arg)
{
}

void conn_resume(struct conn *c)
{
}

void conn_linger(struct conn *c)
{
}

struct link_target route_director(struct route *r, struct slice user)
{
    return (struct link_target){.route = 0};
}

struct link_target route_backend(const struct route *r, uint16_t place, bool bulk)
{
    return (struct link_target){.route = place};
}

uint16_t route_place(const struct route *r, uint16_t partition, struct slice user)
{
    return partition;
}

void route_asked(struct link_target to)
{
}

bool route_again(struct route *r, struct link_target to)
{
    again += !used_up;
    return !used_up;
}

void subscriber_renewed(struct subscriptions *t, struct subscriber *s)
{
}

void session_idle_rest(struct session *s)
{
}

uint64_t random_u64(void)
{
    return 0;
}

int64_t time_wall_ms(void) /* The log's. */
{
    return 0;
}

/* ---- Tests --------------------------------------------------------------------------------------------- */

static int setup(void **state)
{
    shard = fake_shard_begin();
    proxy = (struct proxy){.shard = shard, .heap = shard->heap, .limits.outcome_wait_ms = 60000};
    session = (struct session){.proxy = &proxy, .state = SESSION_RUN};
    opened = again = failed = byes = 0;
    sent = used_up = false;
    written[0] = '\0';
    return 0;
}

static int teardown(void **state)
{
    session_request_drop(&session);
    fake_shard_end(shard);
    return 0;
}

static void ask(bool changes)
{
    session_request_keep(&session, LINK_IMAP, SLICE("a SELECT INBOX\r\n"), true, false, NULL);
    session.request->changes = changes;
    assert_int_equal(opened, 1);
}

static void lost(enum link_lost why)
{
    session.stream = NULL;
    assert_true(session_request_lost(&session, why));
}

static void test_never_sent(void **state)
{
    ask(true);
    fake_sleep_ms(shard, 4400);
    assert_int_equal(failed, 0);
    fake_sleep_ms(shard, 200);
    assert_int_equal(failed, 1);
}

/* Again and again, ever less often, until the same moment. */
static void test_refused(void **state)
{
    unsigned refused = 0;

    ask(true);
    for (unsigned ms = 0; ms < 4400; ms += 20) {
        if (refused < opened) {
            refused = opened;
            lost(LINK_LOST_REFUSED);
        }
        fake_sleep_ms(shard, 20);
    }
    assert_int_equal(failed, 0);
    assert_true(opened >= 6 && opened <= 9); /* Not as often as it could be. */
    fake_sleep_ms(shard, 200);
    assert_int_equal(failed, 1);
}

/* When its time was over it had just left once more, and is refused then. */
static void test_refused_late(void **state)
{
    ask(true);
    fake_sleep_ms(shard, 4400);
    sent = true;
    fake_sleep_ms(shard, 200);
    assert_int_equal(failed, 0);
    lost(LINK_LOST_REFUSED);
    sent = false;
    fake_sleep_ms(shard, 5000);
    assert_int_equal(failed, 1);
    assert_int_equal(byes, 0);
}

/* What may have been executed is neither OK nor NO. */
static void test_unknown(void **state)
{
    ask(true);
    sent = true;
    fake_sleep_ms(shard, 20000); /* It is being executed. */
    lost(LINK_LOST_UNKNOWN);
    fake_sleep_ms(shard, 59000);
    assert_true(opened == 2 && failed == 0 && byes == 0);
    fake_sleep_ms(shard, 1100);
    assert_true(failed == 0 && byes == 1);
    assert_int_equal(shard->metrics->outcomes_unknown, 1);
}

static void test_read_lost(void **state)
{
    ask(false);
    sent = true;
    fake_sleep_ms(shard, 20000);
    lost(LINK_LOST_UNKNOWN);
    sent = false;
    fake_sleep_ms(shard, 61000);
    assert_true(failed == 1 && byes == 0);
}

/* Of a link whose budget is used up: what nobody has seen anything of is given up at once. */
static void test_budget(void **state)
{
    ask(true);
    lost(LINK_LOST_REFUSED);
    fake_sleep_ms(shard, 300);
    assert_true(opened == 2 && again == 1 && failed == 0);
    used_up = true;
    lost(LINK_LOST_REFUSED);
    fake_sleep_ms(shard, 500);
    assert_true(opened == 2 && failed == 1 && byes == 0);
}

/* What may have been executed is asked for, less often. */
static void test_budget_unknown(void **state)
{
    ask(true);
    sent = true;
    lost(LINK_LOST_UNKNOWN);
    fake_sleep_ms(shard, 300);
    assert_int_equal(opened, 2);
    used_up = true;
    for (unsigned ms = 0; ms < 20000; ms += 20) {
        if (session.stream != NULL)
            lost(LINK_LOST_REFUSED);
        fake_sleep_ms(shard, 20);
    }
    assert_true(failed == 0 && byes == 0);
    assert_true(opened >= 2 + 20000 / (2 * 2000 + 2 * 1600) && opened <= 2 + 20000 / 2000);
}

/* A ticket that has expired is exchanged by everybody in the same minutes: that is no overload. */
static void test_budget_ticket(void **state)
{
    ask(true);
    used_up = true;
    lost(LINK_LOST_TICKET);
    fake_sleep_ms(shard, 300);
    assert_true(opened == 2 && failed == 0 && again == 0);
}

/* ---- A FETCH that comes again ---------------------------------------------------------------------------- */

static void shown(const char *text, const char *rest)
{
    struct slice data = slice_str(text);

    assert_true(session_request_show(&session, &data, false));
    assert_true(slice_eq(data, slice_str(rest)));
}

static void ended(void)
{
    struct slice data = SLICE("a OK\r\n");
    struct token token = {.appends = 20, .expunges = 20, .flag_changes = 20, .keyword_count = 3};

    token.flags = session.token.flags;
    assert_true(session_request_show(&session, &data, true));
    session_request_token(&session, &token);
    assert_true(session.token.appends == 20 && session.token.expunges == 20);
}

static void fetch(void)
{
    session.token = (struct token){.appends = 9, .expunges = 9, .flag_changes = 9, .keyword_count = 2};
    ask(false);
    session.request->by_lines = true;
}

/* What others have changed is told behind the lines. Of it the client has the first line, which says less by now; so he is to be told of it. */
static void test_lines_again(void **state)
{
    fetch();
    shown("* 1 FETCH (FLAGS ())\r\n* 1 FETCH (FLAGS ())\r\n",
          "* 1 FETCH (FLAGS ())\r\n* 1 FETCH (FLAGS ())\r\n");
    lost(LINK_LOST_UNKNOWN);
    shown("* 1 FETCH (FLAGS (a))\r\n* 1 FETCH (FLAGS (a))\r\n* 2 FETCH (FLAGS ())\r\n",
          "* 2 FETCH (FLAGS ())\r\n");
    ended();
    assert_int_equal(session.token.flag_changes, 9);
    assert_int_equal(session.token.keyword_count, 2);
    assert_string_equal(written, "");
}

static void test_lines_cached(void **state)
{
    fetch();
    session.token.flags = TOKEN_CONDSTORE;
    shown("* 1 FETCH (MODSEQ (12))\r\n* 1 FETCH (", "* 1 FETCH (MODSEQ (12))\r\n* 1 FETCH (");
    lost(LINK_LOST_UNKNOWN);
    shown("* 1 FETCH (MODSEQ (14))\r\n* 1 FETCH (MODSEQ (14))\r\n", "MODSEQ (14))\r\n");
    ended();
    assert_string_equal(written, "* OK [HIGHESTMODSEQ 9] Highest.\r\n");
}

/* Some of what others have changed was expunged since, and is not told a second time: that is nobody's error. */
static void test_lines_fewer(void **state)
{
    char bytes[EXPUNGE_RUN_SIZE];
    struct link_frame frame = {.header = {.type = LINK_DATA, .flags = LINK_RUNS, .size = sizeof bytes},
                               .payload = bytes};
    struct expunge_run run = {2, 1};
    FILE *log = tmpfile();
    int errors = dup(STDERR_FILENO);

    assert_true(log != NULL && errors >= 0);
    expunge_run_encode(&run, bytes);
    fetch();
    list_init(&session.answer);
    shown("* 1 FETCH (FLAGS ())\r\n* 2 FETCH (FLAGS ())\r\n",
          "* 1 FETCH (FLAGS ())\r\n* 2 FETCH (FLAGS ())\r\n");
    lost(LINK_LOST_UNKNOWN);
    shown("* 1 FETCH (FLAGS ())\r\n", "");
    session.stream = NULL; /* The END has come, too. */
    list_push_back(&session.answer, &frame.link);
    assert_true(dup2(fileno(log), STDERR_FILENO) >= 0);
    session_answer_show(&session);
    assert_true(dup2(errors, STDERR_FILENO) >= 0);
    close(errors);
    assert_int_equal(failed, 1);
    rewind(log);
    for (char line[4096]; fgets(line, sizeof line, log) != NULL;)
        assert_null(strstr(line, " error "));
    fclose(log);
}

/* A keyword is new meanwhile: what is announced before what the client has is passed over, and to be announced once more. */
static void test_lines_noted(void **state)
{
    fetch();
    shown("* 1 FETCH (BODY[] {5}\r\n12", "* 1 FETCH (BODY[] {5}\r\n12");
    lost(LINK_LOST_UNKNOWN);
    shown("* FLAGS (Work)\r\n", "");
    shown("* OK [PERMANENTFLAGS (Work)] Limited.\r\n* 1 FETCH (BODY[] {5}\r\n12345)\r\n", "345)\r\n");
    ended();
    assert_int_equal(session.token.keyword_count, 2);
}

static void test_lines_once(void **state)
{
    fetch();
    lost(LINK_LOST_UNKNOWN);
    shown("* 1 FETCH (FLAGS ())\r\n", "* 1 FETCH (FLAGS ())\r\n");
    ended();
    assert_int_equal(session.token.flag_changes, 20);
    assert_int_equal(session.token.keyword_count, 3);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_never_sent),  TEST(test_refused),     TEST(test_refused_late),   TEST(test_unknown),
        TEST(test_read_lost),   TEST(test_budget),      TEST(test_budget_unknown), TEST(test_budget_ticket),
        TEST(test_lines_again), TEST(test_lines_fewer), TEST(test_lines_cached),   TEST(test_lines_noted),
        TEST(test_lines_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
