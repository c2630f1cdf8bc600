#include "core/config.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static const struct config_key keys[] = {
    {"cores", CONFIG_STRING, "auto", "scalar and parent at once"},
    {"cores.shared", CONFIG_BOOL, "false", ""},
    {"helpers", CONFIG_U64, "2", "", 1, 64},
    {"limits.line_size", CONFIG_SIZE, "64KiB", "", 1024, 1 << 20},
    {"shutdown.grace", CONFIG_DURATION, "30s", "", 0, 3600 * 1000},
    {"data", CONFIG_STRING, NULL, ""},
    {"imap.listen", CONFIG_LIST, NULL, ""},
    {"log.level", CONFIG_STRING, "info", "", .choices = "debug|info|warn"},
    {"tls.sni", CONFIG_RECORDS, NULL, "", .choices = "name|cert|key"},
    {"pop3.listen", CONFIG_UNSUPPORTED, NULL, ""},
};

static struct config *fresh(void)
{
    struct config *c = config_new(keys, ARRAY_COUNT(keys));

    assert_non_null(c);
    return c;
}

static struct config *good(const char *text)
{
    struct config *c = fresh();
    struct config_error e = {""};
    bool ok = config_parse(c, "t.yml", slice_str(text), &e);

    if (!ok)
        print_error("%s\n", e.text);
    assert_true(ok);
    return c;
}

static void bad(const char *text, const char *message)
{
    struct config *c = fresh();
    struct config_error e = {""};

    assert_false(config_parse(c, "t.yml", slice_str(text), &e));
    assert_string_equal(e.text, message);
    config_free(c);
}

static void test_defaults(void **state)
{
    struct config *c = good("# nothing\n");

    assert_string_equal(config_string(c, "cores"), "auto");
    assert_false(config_bool(c, "cores.shared"));
    assert_int_equal(config_size(c, "limits.line_size"), 65536);
    assert_int_equal(config_duration_ms(c, "shutdown.grace"), 30000);
    assert_null(config_string(c, "data"));
    assert_int_equal(config_list_count(c, "imap.listen"), 0);
    assert_false(config_is_set(c, "cores"));
    config_free(c);
    config_free(good(""));
    config_free(NULL);
}

static void test_nested_and_dotted(void **state)
{
    struct config *c =
        good("cores: 0-3,8\ncores.shared: yes\nlimits:\n  line_size: 8KiB\nshutdown: {grace: 5min}\n"
             "imap:\n  listen: [127.0.0.1:143, '[::1]:143']\nhelpers: 3\nlog.level: debug\n");

    assert_string_equal(config_string(c, "cores"), "0-3,8");
    assert_true(config_bool(c, "cores.shared"));
    assert_int_equal(config_size(c, "limits.line_size"), 8192);
    assert_int_equal(config_duration_ms(c, "shutdown.grace"), 300000);
    assert_int_equal(config_list_count(c, "imap.listen"), 2);
    assert_string_equal(config_list_item(c, "imap.listen", 1), "[::1]:143");
    assert_int_equal(config_u64(c, "helpers"), 3);
    assert_true(config_is_set(c, "cores"));
    config_free(c);
    c = good("imap.listen: 127.0.0.1:143 , *:1143\n");
    assert_int_equal(config_list_count(c, "imap.listen"), 2);
    assert_string_equal(config_list_item(c, "imap.listen", 1), "*:1143");
    config_free(c);
    c = good("imap:\n  listen: []\n");
    assert_int_equal(config_list_count(c, "imap.listen"), 0);
    config_free(c);
}

static void test_records(void **state)
{
    struct config *c =
        good("tls:\n  sni:\n  - {name: a.example, cert: /a}\n  - key: /k\n    name: b.example\n");

    assert_int_equal(config_record_count(c, "tls.sni"), 2);
    assert_string_equal(config_record_field(c, "tls.sni", 0, "cert"), "/a");
    assert_null(config_record_field(c, "tls.sni", 0, "key"));
    assert_string_equal(config_record_field(c, "tls.sni", 1, "name"), "b.example");
    config_free(c);
    c = good("tls.sni: name=a,cert=/c; name=b , key=/k\n");
    assert_int_equal(config_record_count(c, "tls.sni"), 2);
    assert_string_equal(config_record_field(c, "tls.sni", 1, "name"), "b");
    assert_string_equal(config_record_field(c, "tls.sni", 1, "key"), "/k");
    config_free(c);
    bad("tls.sni:\n- name: a\n  color: red\n",
        "t.yml:3: tls.sni: 'color' is not one of the fields name|cert|key");
    bad("tls.sni:\n- name: a\n  name: b\n", "t.yml:3: tls.sni: field 'name' is given twice");
    bad("tls.sni:\n- a\n", "t.yml:2: tls.sni: wants a list of maps with the fields name|cert|key");
    bad("tls.sni:\n- name: {a: b}\n", "t.yml:2: tls.sni: is nested too deeply");
    bad("tls.sni: a\n", "t.yml:1: tls.sni: is not written as 'field=value,...; ...'");
}

static void test_errors_name_place_and_key(void **state)
{
    bad("\nimap:\n  lisen: x\n", "t.yml:3: imap.lisen: unknown key");
    bad("imp:\n  listen: x\n", "t.yml:2: imp: unknown key");
    bad("helpers: 2\nhelpers: 3\n", "t.yml:2: helpers: given twice; first in line 1");
    bad("helpers: many\n", "t.yml:1: helpers: 'many' is not a whole number");
    bad("helpers: -1\n", "t.yml:1: helpers: '-1' is not a whole number");
    bad("helpers: 18446744073709551616\n", "t.yml:1: helpers: '18446744073709551616' is not a whole number");
    bad("helpers: 65\n", "t.yml:1: helpers: is above the greatest value, 64");
    bad("helpers: 0\n", "t.yml:1: helpers: is below the least value, 1");
    bad("helpers: [1, 2]\n", "t.yml:1: helpers: wants one value, not a list");
    bad("helpers:\n  a: 1\n", "t.yml:2: helpers: wants a value, not keys of its own");
    bad("helpers:\n", "t.yml:1: helpers: has no value");
    bad("cores.shared: maybe\n", "t.yml:1: cores.shared: 'maybe' is not true or false");
    bad("limits.line_size: 64kb\n",
        "t.yml:1: limits.line_size: '64kb' is not a size, such as 64KiB, 10MiB or 8GiB");
    bad("shutdown.grace: 30\n",
        "t.yml:1: shutdown.grace: '30' is not a duration, such as 500ms, 30s, 5min or 2h");
    bad("log:\n  level: loud\n", "t.yml:2: log.level: 'loud' is not one of debug|info|warn");
    bad("pop3:\n  listen: x\n", "t.yml:2: pop3.listen: not supported by this version");
    bad("pop3.listen: [x]\n", "t.yml:1: pop3.listen: not supported by this version");
    bad("data: ''\n", "t.yml:1: data: is empty");
    bad("data: \"a\\0b\"\n", "t.yml:1: data: holds a control character");
    bad("just text\n", "t.yml:1: wants 'key: value' lines");
    bad("- a\n", "t.yml:1: a list has no place here");
    bad("imap.listen: [[a]]\n", "t.yml:1: imap.listen: a list has no place here");
    bad("imap.listen: [{a: b}]\n", "t.yml:1: imap.listen: wants a list of plain values, not of maps");
    bad("? {a: b}\n: c\n", "t.yml:1: a key must be plain text");
    bad("\"\\n\": c\n", "t.yml:1: ?: unknown key");
}

static void test_yaml_traps(void **state)
{
    bad("data: &a x\n", "t.yml:1: data: anchors (&) and aliases (*) are not supported");
    bad("helpers: 2\ndata: *a\n", "t.yml:2: data: anchors (&) and aliases (*) are not supported");
    bad("data: !!str x\n", "t.yml:1: data: tags (!) are not supported");
    bad("helpers: 2\n---\nhelpers: 3\n", "t.yml:2: a second document (---) has no place here");
    bad("imap.listen: [\n", "t.yml:2: not valid YAML: did not find expected node content");
    bad("data: b: c\n", "t.yml:1: not valid YAML: mapping values are not allowed in this context");
}

static void test_bounds(void **state)
{
    size_t size = CONFIG_FILE_SIZE_MAX + 1;
    char *text = malloc(size);
    struct config *c = fresh();
    struct config_error e;

    memset(text, '#', size);
    assert_false(config_parse(c, "t.yml", slice_of(text, size), &e));
    assert_string_equal(e.text, "t.yml:1: the file is larger than 1 MiB");
    memset(text, '[', size);
    assert_false(config_parse(c, "t.yml", slice_of(text, 100000), &e));
    memset(text, 'x', size);
    memcpy(text, "data: ", 6);
    assert_false(config_parse(c, "t.yml", slice_of(text, 5000), &e));
    assert_string_equal(e.text, "t.yml:1: data: longer than 4096 bytes");
    config_free(c);
    c = fresh();
    memcpy(text, "imap.listen: [", 14);
    for (size_t i = 14; i < 5000; i += 2)
        memcpy(text + i, "a,", 2);
    assert_false(config_parse(c, "t.yml", slice_of(text, 5000), &e));
    assert_string_equal(e.text, "t.yml:1: imap.listen: has more than 1024 items");
    config_free(c);
    free(text);
}

/* Every beginning of a good file is good or says what is wrong; none crashes. */
static void test_cut_at_every_byte(void **state)
{
    static const char text[] = "cores: 2\nlimits: {line_size: 8KiB}\nimap:\n  listen: [\"a:1\", 'b:2']\n"
                               "tls:\n  sni:\n  - {name: a, cert: /a, key: /k}\n";

    for (size_t i = 0; i <= strlen(text); i++) {
        struct config *c = fresh();
        struct config_error e = {""};

        if (!config_parse(c, "t.yml", slice_of(text, i), &e))
            assert_memory_equal(e.text, "t.yml:", 6);
        config_free(c);
    }
}

static void test_precedence(void **state)
{
    struct config *c = good("helpers: 3\nlimits.line_size: 4KiB\ncores: 1\n");
    struct config_error e;
    char *environment[] = {"PATH=/bin",
                           "TRIREME_HELPERS=4",
                           "TRIREME_LIMITS_LINE_SIZE=16KiB",
                           "TRIREME_SERVICE_HOST=10.0.0.1",
                           "TRIREME_PROXY_PORT_143_TCP=tcp://10.0.0.1:143",
                           "TRIREME_PORT=x",
                           NULL};
    char *typo[] = {"TRIREME_HELPER=4", NULL}, *wrong[] = {"TRIREME_HELPERS=x", NULL};

    assert_true(config_environment(c, environment, &e));
    assert_true(config_set(c, "helpers=5", &e));
    assert_true(config_set(c, "helpers=6", &e));
    assert_int_equal(config_u64(c, "helpers"), 6);
    assert_int_equal(config_size(c, "limits.line_size"), 16384);
    assert_string_equal(config_string(c, "cores"), "1");
    assert_false(config_set(c, "helpers", &e));
    assert_string_equal(e.text, "--set: helpers: wants KEY=VALUE");
    assert_false(config_set(c, "nothing=1", &e));
    assert_string_equal(e.text, "--set: nothing: unknown key");
    config_free(c);
    c = fresh();
    assert_false(config_environment(c, typo, &e));
    assert_string_equal(e.text, "environment: TRIREME_HELPER: unknown key");
    assert_false(config_environment(c, wrong, &e));
    assert_string_equal(e.text, "TRIREME_HELPERS: helpers: 'x' is not a whole number");
    config_free(c);
}

static void test_later_errors_have_a_place(void **state)
{
    struct config *c = good("\nhelpers: 3\n");
    struct config_error e;

    assert_false(config_wrong(c, "helpers", &e, "does not go with %s", "that"));
    assert_string_equal(e.text, "t.yml:2: helpers: does not go with that");
    assert_false(config_wrong(c, "data", &e, "is missing"));
    assert_string_equal(e.text, "default: data: is missing");
    config_free(c);
}

static void test_load(void **state)
{
    char path[] = "/tmp/trireme-config-XXXXXX";
    int fd = mkstemp(path);
    struct config *c = fresh();
    struct config_error e;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, "helpers: 7\n", 11), 11);
    close(fd);
    assert_true(config_load(c, path, &e));
    assert_int_equal(config_u64(c, "helpers"), 7);
    unlink(path);
    config_free(c);
    c = fresh();
    assert_false(config_load(c, "/nowhere/t.yml", &e));
    assert_string_equal(e.text, "/nowhere/t.yml: cannot be opened: No such file or directory");
    assert_false(config_load(c, "/", &e));
    config_free(c);
}

static void test_numbers(void **state)
{
    uint64_t v;

    assert_true(config_size_parse(SLICE("0"), &v) && v == 0);
    assert_true(config_size_parse(SLICE("1 GiB"), &v) && v == 1 << 30);
    assert_true(config_size_parse(SLICE("16777215TiB"), &v));
    assert_false(config_size_parse(SLICE("16777216TiB"), &v));
    assert_false(config_size_parse(SLICE("1K"), &v));
    assert_false(config_size_parse(SLICE(""), &v));
    assert_false(config_size_parse(SLICE("KiB"), &v));
    assert_true(config_duration_parse(SLICE("2h"), &v) && v == 7200000);
    assert_true(config_duration_parse(SLICE("0"), &v) && v == 0);
    assert_false(config_duration_parse(SLICE("5"), &v));
    assert_false(config_duration_parse(SLICE("1.5s"), &v));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_nested_and_dotted),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_errors_name_place_and_key),
        cmocka_unit_test(test_yaml_traps),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_cut_at_every_byte),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_later_errors_have_a_place),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
