#include "core/mail/address.h"
#include "tests/unit/core/mail/mail_test.h"

/* `name|mailbox|host` with ~ for NIL, a semicolon behind each. */
static const char *list(struct slice value)
{
    char *scratch = malloc(ADDRESS_SCRATCH_SIZE(value.size) + 1);
    struct writer w = test_writer();
    struct address_parser p;
    struct address a;

    address_parser_init(&p, value, scratch);
    while (address_next(&p, &a)) {
        writer_slice(&w, a.name.data != NULL ? a.name : SLICE("~"));
        writer_char(&w, '|');
        writer_slice(&w, a.mailbox.data != NULL ? a.mailbox : SLICE("~"));
        writer_char(&w, '|');
        writer_slice(&w, a.host.data != NULL ? a.host : SLICE("~"));
        writer_char(&w, ';');
    }
    free(scratch);
    return test_written(&w);
}

static void test_lists(void **state)
{
    static const struct {
        const char *value, *addresses;
    } cases[] = {
        {"a@b", "~|a|b;"},
        {"  a@b , c@d ", "~|a|b;~|c|d;"},
        {"Real Name <a@b>", "Real Name|a|b;"},
        {"\"Name, Real\" <a@b>", "Name, Real|a|b;"},
        {"\"q\\\"\\\\\" <a@b>", "q\"\\|a|b;"},
        {"a@b (Real (nested) Name)", "Real (nested) Name|a|b;"},
        {"=?utf-8?q?x?= <a@b>", "=?utf-8?q?x?=|a|b;"},
        {"\"quoted local\"@b", "~|quoted local|b;"},
        {"a .b @ c . d", "~|a.b|c.d;"},
        {"a@[1.2.3.4]", "~|a|[1.2.3.4];"},
        {"<@r1,@r2:a@b>", "~|a|b;"},
        {"Mr. X <a@b>", "Mr. X|a|b;"},
        {"\xc3\xa4 <a@b>", "\xc3\xa4|a|b;"},
        {"Fold\r\n ed <a@b>,\r\n\tc@d", "Fold ed|a|b;~|c|d;"},
        {"g: a@b, C <c@d>;, e@f", "~|g|~;~|a|b;C|c|d;~|~|~;~|e|f;"},
        {"undisclosed-recipients:;", "~|undisclosed-recipients|~;~|~|~;"},
        {"g: a@b", "~|g|~;~|a|b;~|~|~;"},
        {"g:", "~|g|~;~|~|~;"},
        {"a..b.@c", "~|a..b.|c;"},
        /* Broken: shown, never with a NIL host. */
        {"a", "~|a|MISSING_DOMAIN;"},
        {"a b", "a b|MISSING_MAILBOX|MISSING_DOMAIN;"},
        {"\"a b\"", "a b|MISSING_MAILBOX|MISSING_DOMAIN;"},
        {"a@", "~|a|MISSING_DOMAIN;"},
        {"@b", "~|MISSING_MAILBOX|b;"},
        {"<>", "~|MISSING_MAILBOX|MISSING_DOMAIN;"},
        {"x <a@b", "x|a|SYNTAX_ERROR;"},
        {"<@,@:x>", "~|MISSING_MAILBOX|SYNTAX_ERROR;~|MISSING_MAILBOX|MISSING_DOMAIN;"},
        {"a@b c@d", "~|a|b;"},
        {"a@b,,c@d", "~|a|b;~|MISSING_MAILBOX|MISSING_DOMAIN;~|c|d;"},
        {"a@b,", "~|a|b;"},
        {"(unclosed", ""},
        {"a@b (unclosed", "~|a|MISSING_DOMAIN;"},
        {"", ""},
        {" \r\n ", ""},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        assert_string_equal(list(slice_str(cases[i].value)), cases[i].addresses);
        for (size_t size = 0; size < strlen(cases[i].value);
             size++) { /* Cut: safe, in memory of its exact size. */
            char *cut = malloc(size + 1);

            memcpy(cut, cases[i].value, size);
            (void)list(slice_of(cut, size));
            free(cut);
        }
    }
    assert_string_equal(list(slice_of("\"a\0b\"@c", 7)), "~|a\x80"
                                                         "b|c;");
}

/* Linear: as many of anything as fit into a megabyte. */
static void test_long(void **state)
{
    static const char *const pieces[] = {"(",  "\"", "a ", "<",  "a@b,", "@",
                                         "g:", "a.", ",",  "\\", "[",    "(\\)"};
    size_t size = 200000;
    char *text = malloc(size), *scratch = malloc(ADDRESS_SCRATCH_SIZE(size));

    for (size_t i = 0; i < ARRAY_COUNT(pieces); i++) {
        struct address_parser p;
        struct address a;

        for (size_t at = 0; at < size; at++)
            text[at] = pieces[i][at % strlen(pieces[i])];
        address_parser_init(&p, slice_of(text, size), scratch);
        while (address_next(&p, &a))
            ;
    }
    free(text);
    free(scratch);
}

static void test_paths(void **state)
{
    static const struct {
        const char *text, *local, *domain, *rest;
    } good[] = {
        {"<a@b>", "a", "b", ""},
        {"<a@b.c> SIZE=1", "a", "b.c", " SIZE=1"},
        {"<>", "", "", ""},
        {"<Postmaster>", "Postmaster", "", ""},
        {"<@x,@y.z:a.b+c@d>", "a.b+c", "d", ""},
        {"<\"a b\\\"\"@c>", "a b\"", "c", ""},
        {"<a@[IPv6:::1]>", "a", "[IPv6:::1]", ""},
        {"<\xc3\xa4@\xc3\xb6>", "\xc3\xa4", "\xc3\xb6", ""},
    };
    static const char *const bad[] = {"",       "a@b",      "<a@b",     "<a>",     "<a@>",       "<@b>",
                                      "<.a@b>", "<a.@b>",   "<a..b@c>", "<a@b.>",  "<a@.b>",     "<a b@c>",
                                      "< a@b>", "<a@b >",   "<\"a@b>",  "<a\r@b>", "<\"\n\"@b>", "<\"\"@b>",
                                      "<a@[]>", "<\xff@b>", "<@x a@b>"};
    char text[PATH_LOCAL_SIZE_MAX + 8];
    struct path path;
    struct slice rest;

    for (size_t i = 0; i < ARRAY_COUNT(good); i++) {
        rest = slice_str(good[i].text);
        assert_true(path_parse(&rest, &path));
        assert_slice(slice_of(path.local, path.local_size), good[i].local);
        assert_slice(path.domain, good[i].domain);
        assert_slice(rest, good[i].rest);
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        rest = slice_str(bad[i]);
        assert_false(path_parse(&rest, &path));
        assert_int_equal(rest.size, strlen(bad[i]));
    }
    for (size_t size = PATH_LOCAL_SIZE_MAX; size <= PATH_LOCAL_SIZE_MAX + 1; size++) {
        text[0] = '<';
        memset(text + 1, 'a', size);
        memcpy(text + 1 + size, "@b>", 3);
        rest = slice_of(text, size + 4);
        assert_int_equal(path_parse(&rest, &path), size == PATH_LOCAL_SIZE_MAX);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_paths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
