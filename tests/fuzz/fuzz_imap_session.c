/* A client's stream after login. The first byte: the size of the pieces that it comes in. */
#include "tests/fuzz/imap_differential.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0)
        fuzz_stream(slice_of(data + 1, size - 1), &imap_framer_session, 1 + data[0] % 16);
    return 0;
}
