/* The passwd-file: names, hashes, lines and their table. */
#include "roles/director/passwd_file.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct heap *heap;

static int setup(void **state)
{
    heap = heap_create("test", 64 << 20);
    return heap == NULL;
}

static int teardown(void **state)
{
    heap_destroy(heap);
    return 0;
}

/* ---- Names --------------------------------------------------------------------------------------------- */

static bool name_ok(const char *text)
{
    struct user_name u;

    return user_name_parse(slice_str(text), &u);
}

static void test_names(void **state)
{
    struct user_name u;
    char longest[USER_NAME_MAX + 1];

    assert_true(user_name_parse(SLICE("Ann.O'Neil+x@Example.COM"), &u));
    assert_string_equal(u.bytes, "ann.o'neil+x@example.com");
    assert_int_equal(u.size, strlen(u.bytes));
    memset(longest, 'a', sizeof longest);
    assert_true(user_name_parse(slice_of(longest, USER_NAME_MAX), &u));
    assert_false(user_name_parse(slice_of(longest, USER_NAME_MAX + 1), &u));
    assert_false(user_name_parse(SLICE("a\0b"), &u));
    assert_true(name_ok("a") && name_ok("a.b") && name_ok("0=1_2-3"));
}

static void test_names_that_are_none(void **state)
{
    static const char *const names[] = {
        "",       ".",    "..",       "../x", "a/../../b", "/etc/x",   "~root",    "a//b",
        "a..b",   "%{x}", "%999999u", "%s%n", "\xff\xfe",  "\xc3",     "a b",      "a\tb",
        "a\r\nb", "a:b",  "a@b@c",    "@b",   "a@",        ".a",       "a*",       "a\"b",
        "a\\b",   "$(x)", "a;b",      "a|b",  "a<b",       "a\x1b[0m", "\xd0\xb0",
    };

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (name_ok(names[i]))
            print_error("taken for a name: '%s'\n", names[i]);
        assert_false(name_ok(names[i]));
    }
}

/* ---- Hashes -------------------------------------------------------------------------------------------- */

static bool right(const char *hash_text, const char *password)
{
    struct password_job *job = calloc(1, password_job_size());
    struct password_hash hash;
    const char *fault = password_hash_parse(slice_str(hash_text), &hash);
    bool result;

    if (fault != NULL)
        print_error("%s: %s\n", hash_text, fault);
    assert_null(fault);
    assert_true(password_job_set(job, &hash, slice_str(password)));
    password_job_run(job);
    result = password_job_right(job);
    free(job);
    return result;
}

static void test_hashes_of_others(void **state)
{
    static const char sha512[] =
        "{SHA512-CRYPT}$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJue"
        "sI68u4OTLiBFdcbYEdFCoEOfaS35inz1";
    static const char sha256[] = "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5";

    assert_true(right("{PLAIN}secret", "secret"));
    assert_true(right("{plain}secret", "secret"));
    assert_true(right("{CLEARTEXT}secret", "secret"));
    assert_false(right("{PLAIN}secret", "secre"));
    assert_false(right("{PLAIN}secret", "secret "));
    assert_false(right("{PLAIN}secret", "SECRET"));
    /* openssl passwd made these. */
    assert_true(right(sha512, "Hello world!"));
    assert_false(right(sha512, "Hello world"));
    assert_true(right(sha256, "Hello world!"));
    assert_false(right(sha256, ""));
}

static void test_hashes_made_here(void **state)
{
    static const char *const schemes[] = {"CRYPT",     "plain",     "SHA512-CRYPT", "SHA256-CRYPT",
                                          "BLF-CRYPT", "MD5-CRYPT", "DES-CRYPT",    "ARGON2ID",
                                          "ARGON2I",   NULL};
    const uint8_t salt[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    char text[PASSWORD_TEXT_MAX];

    for (size_t i = 0; i < ARRAY_COUNT(schemes); i++) {
        assert_int_equal(password_hash_make(schemes[i], "pass w\xc3\xb6rd", salt, text), 0);
        assert_true(right(text, "pass w\xc3\xb6rd"));
        assert_false(right(text, "pass word"));
        assert_false(right(text, ""));
    }
    assert_int_equal(password_hash_make("ROT13", "x", salt, text), -EINVAL);
}

static void test_hashes_that_are_none(void **state)
{
    static const char *const hashes[] = {
        "",
        "{",
        "{PLAIN",
        "{}x",
        "{ROT13}x",
        "{PLAIN}",
        "{CRYPT}",
        "{CRYPT}*",
        "x",
        "$9$a$b",
        "{ARGON2ID}x",
        "{ARGON2ID}$argon2id$v=19$m=,t=1$a$b",
        "{ARGON2ID}$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$aGFzaA",
        "{SHA512-CRYPT.HEX}00",
    };
    char text[PASSWORD_HASH_MAX + 16];
    struct password_hash hash;

    for (size_t i = 0; i < ARRAY_COUNT(hashes); i++) {
        if (password_hash_parse(slice_str(hashes[i]), &hash) == NULL)
            print_error("taken for a hash: '%s'\n", hashes[i]);
        assert_non_null(password_hash_parse(slice_str(hashes[i]), &hash));
    }
    memset(text, 'x', sizeof text);
    memcpy(text, "{PLAIN}", 7);
    assert_null(password_hash_parse(slice_of(text, PASSWORD_HASH_MAX + 7), &hash));
    assert_non_null(password_hash_parse(slice_of(text, PASSWORD_HASH_MAX + 8), &hash));
}

static void test_passwords_that_nobody_has(void **state)
{
    struct password_job *job = calloc(1, password_job_size());
    char longest[PASSWORD_MAX + 1];
    struct password_hash hash;

    memset(longest, 'p', sizeof longest);
    assert_null(password_hash_parse(SLICE("{PLAIN}p"), &hash));
    assert_true(password_job_set(job, &hash, slice_of(longest, PASSWORD_MAX)));
    assert_false(password_job_set(job, &hash, slice_of(longest, PASSWORD_MAX + 1)));
    assert_false(password_job_set(job, &hash, slice_of("p\0", 2)));
    free(job);
}

/* ---- The table ----------------------------------------------------------------------------------------- */

static char reasons[1024];

static void note(void *arg, uint32_t line_number, const char *why)
{
    size_t used = strlen(reasons);

    snprintf(reasons + used, sizeof reasons - used, "%u: %s\n", line_number, why);
}

static struct passwd_table *table(const char *content, size_t size)
{
    char *text = heap_try_map_secret(heap, size + 1);
    struct passwd_table *t;

    assert_non_null(text);
    memcpy(text, content, size);
    reasons[0] = '\0';
    t = passwd_table_new(heap, text, size, 42);
    assert_non_null(t);
    while (passwd_table_build(t, 1, note, NULL))
        ;
    return t;
}

static bool find(const struct passwd_table *t, const char *user, struct passwd_entry *entry)
{
    struct user_name name;

    assert_true(user_name_parse(slice_str(user), &name));
    return passwd_table_find(t, &name, entry);
}

static void test_table(void **state)
{
    static const char content[] =
        "# accounts\n"
        "Demo:{PLAIN}secret:1000:1000:Demo User:/home/demo:/bin/sh:userdb_quota=1G\r\n"
        "\n"
        "bob\n"
        "carol:\n"
        "dave:!{PLAIN}x\n"
        "erin:{PLAIN}x::::::nologin\n"
        "frank:*\n"
        "gina@Example.com:{PLAIN}pa{s}s";
    struct passwd_table *t = table(content, strlen(content));
    struct passwd_entry e;

    assert_string_equal(reasons, "");
    assert_int_equal(t->entry_count, 7);
    assert_true(find(t, "DEMO", &e) && e.has_password && !e.disabled);
    assert_true(slice_eq(e.password.hash, SLICE("secret")));
    assert_true(find(t, "bob", &e) && !e.has_password);
    assert_true(find(t, "carol", &e) && !e.has_password);
    assert_true(find(t, "dave", &e) && e.has_password && e.disabled);
    assert_true(find(t, "erin", &e) && e.has_password && e.disabled);
    assert_true(find(t, "frank", &e) && !e.has_password);
    assert_true(find(t, "gina@example.com", &e) && slice_eq(e.password.hash, SLICE("pa{s}s")));
    assert_false(find(t, "nobody", &e));
    for (uint64_t i = 0; i < 100; i++)
        assert_true(passwd_table_any(t, i, &e) && e.has_password);
    passwd_table_free(t);
}

static void test_lines_left_out(void **state)
{
    static const char content[] = "ok:{PLAIN}x\n"
                                  "a b:{PLAIN}x\n"
                                  "x:{ROT13}x\n"
                                  "ok:{PLAIN}other\n"
                                  "net:{PLAIN}x::::::allow_nets=10.0.0.0/8\n"
                                  "any:::::::userdb_a=b nopassword\n"
                                  ":{PLAIN}x\n"
                                  "\xff:{PLAIN}x\n";
    struct passwd_table *t = table(content, strlen(content));
    struct passwd_entry e;

    assert_string_equal(reasons, "2: not a user name\n3: an unknown scheme\n"
                                 "4: the user has an earlier line, which counts\n"
                                 "5: an extra field that this version does not support\n"
                                 "6: an extra field that this version does not support\n"
                                 "7: not a user name\n8: not a user name\n");
    assert_int_equal(t->good_count, 1);
    assert_true(find(t, "ok", &e) && slice_eq(e.password.hash, SLICE("x")) && !e.broken);
    assert_true(find(t, "x", &e) && !e.has_password && e.broken);
    assert_true(find(t, "net", &e) && !e.has_password && e.broken);
    assert_true(find(t, "any", &e) && !e.has_password && e.broken);
    assert_false(find(t, "a", &e));
    passwd_table_free(t);
}

static void test_table_of_nobody(void **state)
{
    struct passwd_table *t = table("", 0);
    struct passwd_entry e;

    assert_false(find(t, "a", &e));
    assert_false(passwd_table_any(t, 7, &e));
    passwd_table_free(t);
    passwd_table_free(NULL);
}

static void test_many_users(void **state)
{
    size_t space = 40 * 20000, size = 0;
    char *content = malloc(space);
    struct passwd_table *t;
    struct passwd_entry e;

    for (unsigned i = 0; i < 20000; i++)
        size += (size_t)snprintf(content + size, space - size, "u%u:{PLAIN}p%u\n", i, i);
    t = table(content, size);
    assert_int_equal(t->entry_count, 20000);
    for (unsigned i = 0; i < 20000; i += 7) {
        char name[16], password[16];

        snprintf(name, sizeof name, "u%u", i);
        snprintf(password, sizeof password, "p%u", i);
        assert_true(find(t, name, &e) && slice_eq(e.password.hash, slice_str(password)));
    }
    passwd_table_free(t);
    free(content);
}

static void test_cut_at_every_byte(void **state)
{
    static const char content[] =
        "# c\r\na:{PLAIN}x:1:2:g:h:s:nologin\nb:$5$saltstring$5B8vYYiY.CVt1R:\n\r\n:\nc";

    for (size_t i = 0; i < sizeof content; i++)
        passwd_table_free(table(content, i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_names_that_are_none),
        cmocka_unit_test(test_hashes_of_others),
        cmocka_unit_test(test_hashes_made_here),
        cmocka_unit_test(test_hashes_that_are_none),
        cmocka_unit_test(test_passwords_that_nobody_has),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_lines_left_out),
        cmocka_unit_test(test_table_of_nobody),
        cmocka_unit_test(test_many_users),
        cmocka_unit_test(test_cut_at_every_byte),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
