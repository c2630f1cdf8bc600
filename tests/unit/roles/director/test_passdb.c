/* The passdb on two shards of a real node: the table goes to both, hashes run on helpers, a changed file is
 * noticed. */
#include "core/config.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/metrics.h"
#include "core/node.h"
#include "roles/director/passdb.h"
#include "roles/settings.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/on_fiber.h"

static char directory[] = "/tmp/trireme-passdb-XXXXXX";
static int bodies_left;
static void (*test_body)(struct shard *s, struct passdb *p);

static void body_run(void *arg)
{
    struct shard *s = arg;

    test_body(s, s->slot[SLOT_OTHER]);
    if (__atomic_sub_fetch(&bodies_left, 1, __ATOMIC_ACQ_REL) == 0)
        node_stop(s->node);
}

static int start(struct shard *s)
{
    static const uint8_t key[DIGEST_SIZE] = {1, 2, 3};
    struct passdb *p;
    int rc = passdb_open(s, key, &p);

    if (rc < 0)
        return rc;
    s->slot[SLOT_OTHER] = p;
    return fiber_start("test", RUN_INTERACTIVE, body_run, s) != NULL ? 0 : -EAGAIN;
}

static void stop(struct shard *s)
{
    passdb_close(s->slot[SLOT_OTHER]);
}

static int run(void (*body)(struct shard *s, struct passdb *p), const char *const *sets)
{
    static const struct node_ops ops = {start, stop};
    struct config *c = config_new(settings_keys, settings_key_count);
    struct node_options options = {.config = c,
                                   .ops = &ops,
                                   .data = directory,
                                   .shard_count = 2,
                                   .helper_count = 2,
                                   .memory = 256 << 20,
                                   .stop_timeout_ms = 5000};
    struct config_error e;
    char error[NODE_ERROR_MAX];
    int rc;

    for (; *sets != NULL; sets++)
        assert_true(config_set(c, *sets, &e));
    failures = 0;
    bodies_left = 2;
    test_body = body;
    rc = node_run(&options, error);
    config_free(c);
    assert_int_equal(failures, 0);
    return rc;
}

static void users_write(const char *content)
{
    char path[128], before[128];
    FILE *f;

    snprintf(path, sizeof path, "%s/users", directory);
    snprintf(before, sizeof before, "%s/users.new", directory);
    f = fopen(before, "w");
    fputs(content, f);
    fclose(f);
    rename(before, path);
}

static int verify(struct passdb *p, const char *user, const char *password)
{
    struct passdb_result r;
    int rc = passdb_verify(p, slice_str(user), slice_str(password), &r);

    if (rc == 0)
        CHECK(slice_eq_nocase(user_name_slice(&r.user), slice_str(user)));
    return rc;
}

#define USERS                                                                                                \
    "plain:{PLAIN}secret\n"                                                                                  \
    "sha:{SHA256-CRYPT}$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5\n"                          \
    "off:{PLAIN}secret::::::nologin\n"                                                                       \
    "mailonly:\n"

static void verify_body(struct shard *s, struct passdb *p)
{
    uint64_t lookups;
    struct passdb_result r;

    CHECK(verify(p, "plain", "secret") == 0);
    CHECK(verify(p, "PLAIN", "secret") == 0);
    CHECK(verify(p, "plain", "Secret") == -EACCES);
    CHECK(verify(p, "plain", "") == -EACCES);
    CHECK(verify(p, "nobody", "secret") == -EACCES);
    CHECK(verify(p, "mailonly", "") == -EACCES);
    CHECK(verify(p, "mailonly", "secret") == -EACCES);
    CHECK(verify(p, "off", "secret") == -EPERM);
    CHECK(verify(p, "off", "wrong") == -EACCES);
    CHECK(verify(p, "../plain", "secret") == -EACCES);
    CHECK(passdb_verify(p, SLICE("plain"), slice_of("secret\0", 7), &r) == -EACCES);
    /* A hash is computed once; a wrong password is computed each time, and takes nothing away. */
    CHECK(verify(p, "sha", "Hello world!") == 0);
    lookups = s->metrics->passdb_lookups;
    CHECK(verify(p, "sha", "Hello world!") == 0);
    CHECK(s->metrics->passdb_lookups == lookups);
    CHECK(verify(p, "sha", "hello world!") == -EACCES);
    CHECK(s->metrics->passdb_lookups == lookups + 1);
    CHECK(verify(p, "sha", "Hello world!") == 0);
    CHECK(s->metrics->passdb_lookups == lookups + 1);
    /* Another user's right password is of no use. */
    CHECK(verify(p, "plain", "Hello world!") == -EACCES);
    CHECK(passdb_exists(p, SLICE("Mailonly"), &r) == 0 &&
          slice_eq(user_name_slice(&r.user), SLICE("mailonly")));
    CHECK(passdb_exists(p, SLICE("off"), &r) == 0 && r.disabled);
    CHECK(passdb_exists(p, SLICE("nobody"), &r) == -ENOENT);
    CHECK(passdb_exists(p, SLICE("a b"), &r) == -ENOENT);
    CHECK(passdb_failure_delay_ms(p) == 2000);
}

static const char *const with_file[] = {"auth.passwd_file=users", NULL};

static void test_verify(void **state)
{
    users_write(USERS);
    assert_int_equal(run(verify_body, with_file), 0);
}

/* Many at once with the same password: one computation. */
static int waiting;
static struct passdb *shared_passdb;

static void one_of_many(void *arg)
{
    CHECK(verify(shared_passdb, "sha", "Hello world!") == 0);
    waiting--;
}

static void flight_body(struct shard *s, struct passdb *p)
{
    uint64_t lookups = s->metrics->passdb_lookups;

    if (s->index != 0)
        return;
    shared_passdb = p;
    for (waiting = 0; waiting < 100; waiting++)
        CHECK(fiber_start("one of many", RUN_INTERACTIVE, one_of_many, NULL) != NULL);
    while (waiting > 0)
        fiber_sleep_ms(1);
    CHECK(s->metrics->passdb_lookups == lookups + 1);
}

static void test_same_at_once(void **state)
{
    users_write(USERS);
    assert_int_equal(run(flight_body, with_file), 0);
}

static bool becomes(struct passdb *p, const char *user, const char *password, int rc)
{
    for (int i = 0; i < 300; i++) {
        if (verify(p, user, password) == rc)
            return true;
        fiber_sleep_ms(10);
    }
    return false;
}

static int changes;

static void change_body(struct shard *s, struct passdb *p)
{
    CHECK(verify(p, "plain", "secret") == 0);
    __atomic_add_fetch(&changes, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&changes, __ATOMIC_RELAXED) < 2)
        fiber_sleep_ms(1);
    fiber_sleep_ms(1100); /* A shard asks at most once a second. */
    if (s->index == 0)
        users_write("plain:{PLAIN}second\nnew:{PLAIN}x\n");
    CHECK(becomes(p, "plain", "second", 0));
    CHECK(verify(p, "plain", "secret") == -EACCES);
    CHECK(becomes(p, "new", "x", 0));
    CHECK(verify(p, "sha", "Hello world!") == -EACCES);
}

static void test_file_changes(void **state)
{
    users_write(USERS);
    changes = 0;
    assert_int_equal(run(change_body, with_file), 0);
}

/* A file that has gone leaves the table as it was; SIGHUP's way reads it when it is back. */
static void gone_body(struct shard *s, struct passdb *p)
{
    char path[128];

    if (s->index != 0)
        return;
    snprintf(path, sizeof path, "%s/users", directory);
    unlink(path);
    passdb_reload(s);
    fiber_sleep_ms(50);
    CHECK(verify(p, "plain", "secret") == 0);
    users_write("plain:{PLAIN}third\n");
    passdb_reload(s);
    CHECK(becomes(p, "plain", "third", 0));
}

static void test_file_goes(void **state)
{
    users_write(USERS);
    assert_int_equal(run(gone_body, with_file), 0);
}

/* What is no passwd-file, or half of one, changes nothing; a line that is not understood defers mail. */
static void broken_body(struct shard *s, struct passdb *p)
{
    static const char *const broken[] = {"", ":::\n/etc\n", "plain:{PLAIN}sec", "plain:{ROT13}secret\n"};
    struct passdb_result r;

    if (s->index != 0)
        return;
    for (size_t i = 0; i < ARRAY_COUNT(broken); i++) {
        users_write(broken[i]);
        passdb_reload(s);
        fiber_sleep_ms(50);
        CHECK(verify(p, "plain", "secret") == 0);
        CHECK(passdb_exists(p, SLICE("mailonly"), &r) == 0);
    }
    users_write("plain:{ROT13}secret\nnew:{PLAIN}x\n");
    passdb_reload(s);
    CHECK(becomes(p, "new", "x", 0));
    CHECK(verify(p, "plain", "secret") == -EACCES);
    CHECK(passdb_exists(p, SLICE("plain"), &r) == -EAGAIN);
    CHECK(passdb_exists(p, SLICE("mailonly"), &r) == -ENOENT);
}

static void test_file_breaks(void **state)
{
    users_write(USERS);
    assert_int_equal(run(broken_body, with_file), 0);
}

static void nothing_body(struct shard *s, struct passdb *p)
{
    CHECK(false);
}

static void test_no_file(void **state)
{
    static const char *const sets[] = {"auth.passwd_file=nowhere", NULL};

    assert_int_equal(run(nothing_body, sets), -ENOENT);
}

static void static_body(struct shard *s, struct passdb *p)
{
    struct passdb_result r;

    CHECK(verify(p, "u17", "pass") == 0);
    CHECK(verify(p, "u17", "wrong") == -EACCES);
    CHECK(verify(p, "a/b", "pass") == -EACCES);
    CHECK(passdb_exists(p, SLICE("Anybody@example.com"), &r) == 0 && r.any_user);
    CHECK(passdb_exists(p, SLICE(".."), &r) == -ENOENT);
}

static void test_static(void **state)
{
    static const char *const sets[] = {"auth.static_password=pass", NULL};

    assert_int_equal(run(static_body, sets), 0);
}

static int setup(void **state)
{
    return mkdtemp(directory) == NULL;
}

static int teardown(void **state)
{
    char path[128];

    snprintf(path, sizeof path, "%s/users", directory);
    unlink(path);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify),       cmocka_unit_test(test_same_at_once),
        cmocka_unit_test(test_file_changes), cmocka_unit_test(test_file_goes),
        cmocka_unit_test(test_file_breaks),  cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_static),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
