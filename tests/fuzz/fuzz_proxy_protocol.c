/* PROXY headers: what is whole is whole with nothing behind it, and not a byte earlier; within its bounds. */
#include "net/proxy_protocol.h"
#include <stdlib.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice in = slice_of(data, size);
    struct proxy_header header, again;
    size_t taken, taken_again;
    enum proxy_header_result result = proxy_header_parse(in, &header, &taken);

    if (result == PROXY_HEADER_MORE)
        check(size < PROXY_HEADER_MAX);
    if (result != PROXY_HEADER_WHOLE)
        return 0;
    check(taken <= size && taken <= PROXY_HEADER_MAX);
    check(header.source.family == 0 || header.source.family == AF_INET || header.source.family == AF_INET6);
    check(proxy_header_parse(slice_first(in, taken), &again, &taken_again) == PROXY_HEADER_WHOLE);
    check(taken_again == taken && again.source.family == header.source.family &&
          again.source.port == header.source.port && memcmp(again.source.ip, header.source.ip, 16) == 0);
    check(proxy_header_parse(slice_first(in, taken - 1), &again, &taken_again) == PROXY_HEADER_MORE);
    return 0;
}
