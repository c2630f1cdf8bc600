/* The table of keys: consistent in itself, and the checks over several keys. */
#include "roles/settings.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <stdio.h>

static struct config *with(const char *yaml, struct config_error *e)
{
    struct config *c = config_new(settings_keys, settings_key_count);
    bool ok;

    assert_non_null(c);
    e->text[0] = '\0';
    ok = config_parse(c, "t.yml", slice_str(yaml), e);
    if (!ok)
        print_error("%s\n", e->text);
    assert_true(ok);
    return c;
}

static void good(const char *yaml)
{
    struct config_error e;
    struct config *c = with(yaml, &e);
    bool ok = settings_check(c, &e);

    if (!ok)
        print_error("%s\n", e.text);
    assert_true(ok);
    config_free(c);
}

static void bad(const char *yaml, const char *message)
{
    struct config_error e;
    struct config *c = with(yaml, &e);

    assert_false(settings_check(c, &e));
    assert_string_equal(e.text, message);
    config_free(c);
}

static void test_names(void **state)
{
    for (size_t i = 0; i < settings_key_count; i++) {
        char env[2][128];

        assert_non_null(settings_keys[i].help);
        for (size_t k = 0; k < i; k++) { /* Two keys of one environment variable could not be told apart. */
            const char *name[2] = {settings_keys[i].name, settings_keys[k].name};

            for (int n = 0; n < 2; n++) {
                assert_true(strlen(name[n]) < sizeof env[n]);
                for (size_t j = 0; j <= strlen(name[n]); j++)
                    env[n][j] = name[n][j] == '.' ? '_' : name[n][j];
            }
            assert_string_not_equal(env[0], env[1]);
        }
    }
}

#define BASE "role: all\nimap.listen: 127.0.0.1:143\n"

static void test_good(void **state)
{
    good(BASE "auth.passwd_file: /etc/trireme/users\n");
    good(BASE "auth.static_password: x\nlmtp.listen: '[::1]:24'\n");
    good(BASE "auth.static_password: x\nlmtp.listen: ['[::1]:143', 127.0.0.2:143]\ncores: 0-3,8\n");
    good(BASE "auth.static_password: x\nlmtp.listen: [127.0.0.1:0, 127.0.0.1:0]\ncores: 1000\n");
    good("role: [proxy, director, backend]\nimaps.listen: [\"*:993\"]\ntls: {cert: /c, key: /k}\nmemory: "
         "8GiB\n"
         "auth: {passwd_file: users}\ntls.sni: [{name: a, cert: /c, key: /k}]\nuser: mail\ngroup: mail\n"
         "lmtp.from: 10.0.0.0/8\n");
}

static void test_bad(void **state)
{
    static const char *const cores[] = {"0", "1.5", "3-1", "0-99999", "many", "-1"};

    bad("imap.listen: 127.0.0.1:143\nauth.passwd_file: /u\n",
        "default: role: is not set: name one with --role");
    bad("role: all\nauth.passwd_file: /u\n",
        "default: imap.listen: nothing to listen on: set imap.listen, imaps.listen or lmtp.listen");
    bad(BASE, "default: auth.passwd_file: is not set: nobody could log in or get mail");
    bad(BASE "auth.passwd_file: /u\nlmtp.listen: here:24\n",
        "t.yml:4: lmtp.listen: 'here:24' is not ADDR:PORT");
    bad(BASE "auth.static_password: x\nlmtp.listen: '*:24'\n",
        "t.yml:3: auth.static_password: opens every account: allowed only while all listeners are on "
        "loopback "
        "addresses");
    bad(BASE "auth.static_password: x\nauth.passwd_file: /u\n",
        "t.yml:3: auth.static_password: cannot stand beside auth.passwd_file");
    bad(BASE "auth.passwd_file: /u\nimaps.listen: '*:993'\n",
        "t.yml:4: imaps.listen: needs tls.cert and tls.key");
    bad(BASE "auth.passwd_file: /u\ntls.cert: /c\n", "t.yml:4: tls.cert: needs tls.key, too");
    bad(BASE "auth.passwd_file: /u\ntls: {cert: /c, key: /k}\ntls.sni: [{name: a, cert: /c}]\n",
        "t.yml:5: tls.sni: entry 1 needs name, cert and key");
    bad(BASE "auth.passwd_file: /u\ngroup: mail\n", "t.yml:4: group: needs user, too");
    bad(BASE "auth.passwd_file: /u\nmemory: lots\n",
        "t.yml:4: memory: is neither auto nor a size such as 8GiB");
    for (size_t i = 0; i < ARRAY_COUNT(cores); i++) {
        char yaml[256];

        snprintf(yaml, sizeof yaml, BASE "auth.passwd_file: /u\ncores: %s\n", cores[i]);
        bad(yaml, "t.yml:4: cores: is not auto, a number of shards, or a list of CPUs such as 0-3,8");
    }
    bad(BASE "auth.passwd_file: /u\nlmtp.listen: [127.0.0.1:24, '127.0.0.1:143']\n",
        "t.yml:4: lmtp.listen: 127.0.0.1:143 is an address of imap.listen already");
    bad(BASE "auth.passwd_file: /u\nadmin.listen: [127.0.0.1:80, '127.0.0.1:80']\n",
        "t.yml:4: admin.listen: 127.0.0.1:80 is an address of admin.listen already");
    bad(BASE "auth.passwd_file: /u\ndata: mail\n", "t.yml:4: data: is not an absolute path");
    bad(BASE "auth.passwd_file: /u\nlmtp.from: 10.0.0.1/8\n",
        "t.yml:4: lmtp.from: '10.0.0.1/8' is not a network such as 10.0.0.0/8");
}

static void test_later_versions(void **state)
{
    struct config *c = config_new(settings_keys, settings_key_count);
    struct config_error e;

    assert_false(config_set(c, "objects=s3://mail", &e));
    assert_string_equal(e.text, "--set: objects: not supported by this version");
    config_free(c);
}

/* A session counts them in a byte. */
static void test_bad_commands(void **state)
{
    struct config *c = config_new(settings_keys, settings_key_count);
    struct config_error e;

    assert_true(config_set(c, "limits.bad_session=255", &e));
    assert_false(config_set(c, "limits.bad_session=256", &e));
    assert_false(config_set(c, "limits.bad_prelogin=256", &e));
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_commands),   cmocka_unit_test(test_names),
        cmocka_unit_test(test_good),           cmocka_unit_test(test_bad),
        cmocka_unit_test(test_later_versions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
