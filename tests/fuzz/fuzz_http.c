/* HTTP: requests one after the other. What is whole is whole with nothing behind it, and not a byte earlier. */
#include "net/http/http.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static bool inside(struct slice part, struct slice whole)
{
    return part.size == 0 || (part.data >= whole.data && part.data + part.size <= whole.data + whole.size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice in = slice_of(data, size);
    struct http_request r, again;
    size_t taken, taken_again;
    unsigned status = 0;

    while (http_request_next(in, &r, &taken, &status) == HTTP_WHOLE) {
        struct slice whole = slice_first(in, taken);

        check(taken <= in.size && taken <= HTTP_HEAD_MAX + HTTP_BODY_MAX);
        check(r.path.size > 0 && r.path.data[0] == '/' && inside(r.path, whole) && inside(r.query, whole));
        check(r.body.size <= HTTP_BODY_MAX && inside(r.body, whole));
        check(http_request_next(whole, &again, &taken_again, &status) == HTTP_WHOLE && taken_again == taken);
        check(http_request_next(slice_first(in, taken - 1), &again, &taken_again, &status) == HTTP_MORE);
        in = slice_from(in, taken);
    }
    if (status != 0)
        check(status >= 400 && status < 600 && strcmp(http_status_text(status), "Unknown") != 0);
    return 0;
}
