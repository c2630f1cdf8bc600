#include "net/link/link.h"
#include "roles/authority.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct pair {
    struct authority_pem cert, key;
};

static struct slice text_of(const struct authority_pem *pem)
{
    return slice_of(pem->text, pem->size);
}

static void test_names(void **state)
{
    char longest[AUTHORITY_NAME_MAX + 2] = "";

    memset(longest, 'a', AUTHORITY_NAME_MAX);
    assert_true(authority_name_good(longest));
    longest[AUTHORITY_NAME_MAX] = 'a';
    assert_false(authority_name_good(longest));
    assert_true(authority_name_good("Proxy-1.mail_de"));
    assert_true(authority_name_good("9"));
    for (const char *const *bad =
             (const char *const[]){"", ".", "..", "-a", "_a", "a/b", "a b", "a\nb", "\xc3\xa4", "a,", NULL};
         *bad != NULL; bad++)
        assert_false(authority_name_good(*bad));
}

static void test_issued(void **state)
{
    struct authority a, other;
    struct pair one, again;
    int days = -1;

    assert_true(authority_make(&a));
    assert_true(authority_make(&other));
    assert_true(authority_issue(&a, "b1", LINK_ROLE_BACKEND, &one.cert, &one.key));
    assert_true(authority_issued(&a, text_of(&one.cert), "b1", LINK_ROLE_BACKEND, &days));
    assert_in_range(days, AUTHORITY_NODE_DAYS - 1, AUTHORITY_NODE_DAYS);
    assert_false(authority_issued(&other, text_of(&one.cert), "b1", LINK_ROLE_BACKEND, &days));
    assert_false(authority_issued(&a, text_of(&one.cert), "b2", LINK_ROLE_BACKEND, &days));
    assert_false(authority_issued(&a, text_of(&one.cert), "b1", LINK_ROLE_PROXY, &days));
    assert_false(authority_issued(&a, text_of(&one.cert), "b1", LINK_ROLE_BACKEND | LINK_ROLE_PROXY, &days));
    assert_false(authority_issued(&a, text_of(&one.key), "b1", LINK_ROLE_BACKEND, &days));
    assert_true(
        authority_issue(&a, "b1", LINK_ROLE_BACKEND, &again.cert, &again.key)); /* Nothing is used twice. */
    assert_false(slice_eq(text_of(&one.cert), text_of(&again.cert)));
    assert_false(slice_eq(text_of(&one.key), text_of(&again.key)));
    authority_fini(&a);
    authority_fini(&other);
}

static void test_read_back(void **state)
{
    struct authority a, b;
    struct pair ca, other, node;
    int days;

    assert_true(authority_make(&a));
    assert_true(authority_write(&a, &ca.cert, &ca.key));
    assert_true(authority_issue(&a, "p1", LINK_ROLE_PROXY, &node.cert, &node.key));
    assert_true(authority_parse(text_of(&ca.cert), text_of(&ca.key), &b));
    assert_true(authority_issued(&b, text_of(&node.cert), "p1", LINK_ROLE_PROXY, &days));
    authority_fini(&b);
    assert_true(authority_make(&b));
    assert_true(authority_write(&b, &other.cert, &other.key));
    authority_fini(&b);
    assert_false(authority_parse(text_of(&ca.cert), text_of(&other.key), &b)); /* Of two authorities. */
    assert_false(authority_parse(text_of(&ca.key), text_of(&ca.cert), &b));
    assert_false(authority_parse(text_of(&node.cert), text_of(&node.key), &b)); /* May not sign. */
    assert_false(authority_parse(slice_of("", 0), text_of(&ca.key), &b));
    for (size_t size = 0; size + 1 < ca.cert.size; size += 7) /* The last byte is the end of a line. */
        assert_false(authority_parse(slice_of(ca.cert.text, size), text_of(&ca.key), &b));
    authority_fini(&b); /* Once more does nothing. */
    authority_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_issued),
        cmocka_unit_test(test_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
