/* A client's stream before login: commands, then the same bytes as the lines of a SASL exchange. The first
 * byte: the size of the pieces that it comes in. */
#include "tests/fuzz/imap_differential.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_lines(struct slice stream, size_t piece)
{
    struct imap_frame frame;
    struct imap_framer f;
    size_t size = 0; /* Received. */

    imap_framer_init(&f, &imap_framer_prelogin);
    while (size < stream.size) {
        char *exact;

        size = MIN(size + piece, stream.size);
        exact = malloc(size);
        memcpy(exact, stream.data, size);
        imap_framer_line(&f, slice_of(exact, size), IMAP_SASL_LINE_MAX, &frame);
        demand(frame.consumed <= size);
        demand(frame.text.size <= IMAP_SASL_LINE_MAX + 1);
        free(exact);
        if (frame.kind == IMAP_FRAME_TOO_BIG)
            return;
        stream = slice_from(stream, frame.consumed);
        size -= frame.consumed;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice stream;

    if (size == 0)
        return 0;
    stream = slice_of(data + 1, size - 1);
    fuzz_stream(stream, &imap_framer_prelogin, 1 + data[0] % 16);
    fuzz_lines(stream, 1 + data[0] % 16);
    return 0;
}
