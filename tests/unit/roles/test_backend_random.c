/* Several sessions of one account do at random what clients do, each with a model of what it was told. The
 * model must never be contradicted: numbers stay in range, EXPUNGE comes only where it may, a number means
 * the UID that it meant when it was learned, and once everything is quiet every model is the mailbox. Seeded:
 * a failure names its seed. */
#include "tests/unit/roles/backend_client.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define SESSIONS     4
#define STEPS        400
#define MESSAGES_MAX 4096
#define FLAG_UNKNOWN 0x80

struct model {
    struct client client;
    unsigned count;
    uint32_t uids[MESSAGES_MAX]; /* By sequence number - 1; 0: not learned yet. */
    uint8_t flags[MESSAGES_MAX]; /* Bits as below, or FLAG_UNKNOWN. */
    bool may_expunge;            /* By the command that is running. */
    bool uid_command;
};

static struct model models[SESSIONS];
static uint64_t seed_now;
static unsigned seed;

static const char *const flag_names[] = {"\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"};

static unsigned draw(unsigned below)
{
    seed_now = seed_now * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(seed_now >> 33) % below;
}

static void wrong(struct model *m, const char *what)
{
    char text[640];

    snprintf(text, sizeof text, "seed %u session %d: %s", seed, (int)(m - models), what);
    check_failed(__FILE__, __LINE__, text, m->client.text);
}

/* ---- Reading answers ----------------------------------------------------------------------------------- */

static void on_exists(struct model *m, unsigned n)
{
    if (n < m->count || n > MESSAGES_MAX) {
        wrong(m, "EXISTS shrinks");
        return;
    }
    for (; m->count < n; m->count++) {
        m->uids[m->count] = 0;
        m->flags[m->count] = FLAG_UNKNOWN;
    }
}

static void on_expunge(struct model *m, unsigned seq)
{
    if (!m->may_expunge)
        wrong(m, "EXPUNGE where none may be");
    if (seq == 0 || seq > m->count) {
        wrong(m, "EXPUNGE out of range");
        return;
    }
    m->count--;
    memmove(m->uids + seq - 1, m->uids + seq, (m->count - seq + 1) * sizeof m->uids[0]);
    memmove(m->flags + seq - 1, m->flags + seq, (m->count - seq + 1) * sizeof m->flags[0]);
}

static uint8_t flags_read(const char *list)
{
    const char *end = strchr(list, ')');
    uint8_t bits = 0;

    for (unsigned i = 0; i < 5; i++) {
        const char *at = strstr(list, flag_names[i]);

        if (at != NULL && at < end)
            bits |= (uint8_t)(1u << i);
    }
    return bits;
}

static void on_fetch(struct model *m, unsigned seq, const char *items)
{
    const char *uid = strstr(items, "UID "), *flags = strstr(items, "FLAGS (");

    if (seq == 0 || seq > m->count) {
        wrong(m, "FETCH out of range");
        return;
    }
    if (uid != NULL) {
        uint32_t n = (uint32_t)strtoul(uid + 4, NULL, 10);

        if (m->uids[seq - 1] != 0 && m->uids[seq - 1] != n)
            wrong(m, "a number has changed its message");
        m->uids[seq - 1] = n;
    } else if (m->uid_command && flags != NULL) {
        wrong(m, "no UID in the answer to a UID command");
    }
    if (flags != NULL)
        m->flags[seq - 1] = flags_read(flags + 7);
}

static void answer_read(struct model *m)
{
    char *line = m->client.text, *next;

    for (; *line != '\0'; line = next) {
        unsigned n;
        char word[32];

        next = strstr(line, "\r\n");
        if (next == NULL) {
            wrong(m, "no line end");
            return;
        }
        *next = '\0';
        next += 2;
        if (sscanf(line, "* %u %31s", &n, word) != 2)
            continue;
        if (strcmp(word, "EXISTS") == 0)
            on_exists(m, n);
        else if (strcmp(word, "EXPUNGE") == 0)
            on_expunge(m, n);
        else if (strcmp(word, "FETCH") == 0)
            on_fetch(m, n, line);
    }
}

static void say(struct model *m, bool may_expunge, bool uid_command, const char *format, ...)
{
    char command[512];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    m->may_expunge = may_expunge;
    m->uid_command = uid_command;
    client_say(&m->client, command);
    if (strstr(m->client.text, "t OK") == NULL && strstr(m->client.text, "t NO [EXPUNGEISSUED]") == NULL)
        wrong(m, command);
    answer_read(m);
}

/* ---- What clients do ----------------------------------------------------------------------------------- */

static void model_select(struct model *m)
{
    m->count = 0;
    say(m, false, false, "t SELECT INBOX");
    if (draw(2) == 0)
        say(m, false, false, "t ENABLE CONDSTORE");
}

static void model_append(struct model *m)
{
    m->may_expunge = true;
    m->uid_command = false;
    client_append(&m->client, "t APPEND INBOX {9+}", SLICE("a: b\r\n\r\nx"));
    answer_read(m);
}

static void model_store(struct model *m)
{
    unsigned first = 1 + draw(m->count), last = first + draw(m->count - first + 1);
    const char *sign = (const char *[]){"+", "-", ""}[draw(3)], *silent = draw(2) ? ".SILENT" : "";
    const char *flag = flag_names[draw(5)];
    bool quiet = silent[0] != '\0';

    if (draw(2) == 0) {
        say(m, false, false, "t STORE %u:%u %sFLAGS%s (%s)", first, last, sign, silent, flag);
    } else if (m->uids[first - 1] != 0) {
        say(m, true, true, "t UID STORE %u %sFLAGS%s (%s)", m->uids[first - 1], sign, silent, flag);
        for (unsigned i = 0; silent[0] != '\0' && i < m->count; i++)
            m->flags[i] = FLAG_UNKNOWN;
        return;
    } else {
        return;
    }
    for (unsigned i = first; quiet && i <= last; i++) /* The model does not say what .SILENT left unsaid. */
        m->flags[i - 1] = FLAG_UNKNOWN;
}

static void model_step(struct model *m)
{
    unsigned what = draw(100), seq = m->count > 0 ? 1 + draw(m->count) : 0;

    m->client.more_follows = draw(8) == 0;
    if (what < 15)
        model_append(m);
    else if (what < 20)
        CHECK(deliver("anna", "", 0, SLICE("a: b\r\n\r\nx")) == 250);
    else if (what < 30)
        say(m, true, false, "t NOOP");
    else if (what < 33)
        model_select(m);
    else if (seq == 0)
        return;
    else if (what < 50)
        say(m, false, false, "t FETCH %u:* (UID FLAGS)", seq);
    else if (what < 55)
        say(m, true, true, "t UID FETCH 1:* (FLAGS)");
    else if (what < 75)
        model_store(m);
    else if (what < 80)
        say(m, false, false, "t STORE %u +FLAGS (\\Deleted)", seq);
    else if (what < 85)
        say(m, true, false, "t EXPUNGE");
    else if (what < 88)
        say(m, false, false, "t SEARCH UNSEEN");
    else if (what < 91)
        say(m, true, false, "t COPY %u INBOX", seq);
    else if (what < 94)
        say(m, true, false, "t MOVE %u INBOX", seq);
    else if (what < 97)
        say(m, false, false, "t FETCH %u BODY[TEXT]", seq);
    else
        say(m, true, false, "t CHECK");
}

/* ---- The end ------------------------------------------------------------------------------------------- */

/* What the session knows of flags, it must know right. */
static void model_compare(struct model *m)
{
    static uint8_t flags[MESSAGES_MAX];
    static uint32_t uids[MESSAGES_MAX];
    unsigned count;

    m->client.more_follows = false;
    say(m, true, false, "t NOOP");
    count = m->count;
    memcpy(flags, m->flags, sizeof flags);
    memcpy(uids, m->uids, sizeof uids);
    say(m, false, false, "t FETCH 1:* (UID FLAGS)");
    if (m->count != count)
        wrong(m, "the mailbox changed by itself");
    for (unsigned i = 0; i < count; i++) {
        if (uids[i] != 0 && uids[i] != m->uids[i])
            wrong(m, "a UID differs");
        if (flags[i] != FLAG_UNKNOWN && flags[i] != m->flags[i])
            wrong(m, "flags differ");
    }
}

static unsigned sessions_running;

static void session_run(void *arg)
{
    for (unsigned i = 0; i < STEPS / SESSIONS; i++)
        model_step(arg);
    sessions_running--;
}

/* Odd seeds: all at once; even ones: one after the other. */
static void steps_run(void)
{
    if (seed % 2 == 0) {
        for (unsigned i = 0; i < STEPS; i++)
            model_step(&models[draw(SESSIONS)]);
        return;
    }
    for (unsigned i = 0; i < SESSIONS; i++)
        sessions_running += fiber_start("session", RUN_INTERACTIVE, session_run, &models[i]) != NULL;
    while (sessions_running > 0)
        (void)fiber_sleep_ms(1);
}

static void random_run(void)
{
    for (unsigned i = 0; i < SESSIONS; i++) {
        client_init(&models[i].client, "anna");
        model_select(&models[i]);
    }
    steps_run();
    for (unsigned i = 0; i < SESSIONS; i++)
        model_compare(&models[i]);
    for (unsigned i = 1; i < SESSIONS; i++)
        if (models[i].count != models[0].count ||
            memcmp(models[i].uids, models[0].uids, models[0].count * sizeof(uint32_t)) != 0 ||
            memcmp(models[i].flags, models[0].flags, models[0].count) != 0)
            wrong(&models[i], "sessions differ in the end");
    for (unsigned i = 0; i < SESSIONS; i++)
        client_fini(&models[i].client);
}

static void test_random(void **state)
{
    unsigned first = getenv("SEED") != NULL ? (unsigned)atoi(getenv("SEED")) : 1;
    unsigned count = getenv("SEEDS") != NULL ? (unsigned)atoi(getenv("SEEDS")) : 5;

    for (seed = first; seed < first + count; seed++) {
        seed_now = seed;
        assert_int_equal(backend_test(random_run), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
