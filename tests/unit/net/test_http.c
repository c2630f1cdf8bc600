#include "net/http/http.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static unsigned refused(struct slice in)
{
    struct http_request r;
    size_t size;
    unsigned status = 0;

    return http_request_next(in, &r, &size, &status) == HTTP_BAD ? status : 0;
}

static void whole(struct slice in, struct http_request *r, size_t *size)
{
    unsigned status;

    assert_int_equal(http_request_next(in, r, size, &status), HTTP_WHOLE);
    for (size_t cut = 0; cut < *size; cut++) { /* At every byte: not yet, whatever is missing. */
        struct http_request part;
        size_t part_size;

        assert_int_equal(http_request_next(slice_first(in, cut), &part, &part_size, &status), HTTP_MORE);
    }
}

static void test_good(void **state)
{
    struct slice get = SLICE("GET /metrics?a=b?c HTTP/1.1\r\nHost: x\r\nAccept:\t*/* \r\n\r\nGET");
    struct slice post =
        SLICE("POST /ctl/who HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nCONNECTION: Close\r\n\r\nu0*");
    struct slice old = SLICE("HEAD / HTTP/1.0\r\n\r\n");
    struct http_request r;
    size_t size;

    whole(get, &r, &size);
    assert_int_equal(size, get.size - 3);
    assert_true(r.method == HTTP_GET && r.keep_alive && r.body.size == 0);
    assert_true(slice_eq(r.path, SLICE("/metrics")) && slice_eq(r.query, SLICE("a=b?c")));
    whole(post, &r, &size);
    assert_int_equal(size, post.size);
    assert_true(r.method == HTTP_POST && !r.keep_alive && slice_eq(r.body, SLICE("u0*")) &&
                r.query.size == 0);
    whole(old, &r, &size);
    assert_true(r.method == HTTP_HEAD && !r.keep_alive && slice_eq(r.path, SLICE("/")));
}

static void test_bad(void **state)
{
    static const struct {
        const char *text;
        unsigned status;
    } cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", 400}, /* RFC 9112 3.2: Host. */
        {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
        {"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505},
        {"GET / http/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET /\r\n\r\n", 400},
        {"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 505},
        {"GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET /#f HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"PUT / HTTP/1.1\r\nHost: x\r\n\r\n", 501},
        {"get / HTTP/1.1\r\nHost: x\r\n\r\n", 501},
        {" GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: \001\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\nx", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4097\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        unsigned status = refused(slice_str(cases[i].text));

        if (status != cases[i].status)
            print_error("%s: %u\n", cases[i].text, status);
        assert_int_equal(status, cases[i].status);
    }
}

static void test_bounds(void **state)
{
    static char text[HTTP_HEAD_MAX * 2];
    struct http_request r;
    unsigned status;
    size_t size;

    memset(text, 'a', sizeof text);
    assert_int_equal(refused(slice_of(text, HTTP_HEAD_MAX)), 431);
    assert_int_equal(http_request_next(slice_of(text, HTTP_HEAD_MAX - 1), &r, &size, &status), HTTP_MORE);
    size = (size_t)sprintf(text, "GET / HTTP/1.1\r\nHost: x\r\n");
    for (unsigned i = 1; i < HTTP_HEADERS_MAX; i++)
        size += (size_t)sprintf(text + size, "a: b\r\n");
    strcpy(text + size, "\r\n");
    assert_int_equal(http_request_next(slice_str(text), &r, &size, &status), HTTP_WHOLE);
    strcpy(text + strlen(text) - 2, "a: b\r\n\r\n");
    assert_int_equal(refused(slice_str(text)), 431);
}

static void test_reply(void **state)
{
    char head[WRITER_NEED_MAX];
    struct writer w;

    writer_fixed(&w, head, sizeof head);
    http_reply_head(&w, 431, "text/plain", UINT64_MAX, true);
    head[writer_used(&w)] = '\0';
    assert_non_null(strstr(head, "HTTP/1.1 431 Request Header Fields Too Large\r\n"));
    assert_non_null(strstr(head, "Content-Length: 18446744073709551615\r\n"));
    assert_string_equal(head + writer_used(&w) - 4, "\r\n\r\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_reply),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
