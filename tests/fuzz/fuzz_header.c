/* Fields and encoded words, transfer encodings, the search: cut anywhere, the result is the same. */
#include "core/mail/header.h"
#include "core/mail/search_text.h"
#include "core/mail/transfer.h"
#include <stdlib.h>

static void fields(struct slice input)
{
    char *out = malloc(HEADER_DECODED_SIZE_MAX(input.size) + 1);
    struct header_field field;
    struct header_iter it;
    size_t total = 0;

    header_iter_init(&it, input);
    while (header_next(&it, &field)) {
        total += field.raw.size;
        ASSERT(field.raw.size > 0);
        ASSERT(header_unfold(field.value, out) <= field.value.size);
        ASSERT(header_decode(field.value, NULL, out) <= HEADER_DECODED_SIZE_MAX(field.value.size));
    }
    ASSERT(total <= input.size);
    ASSERT(header_decode(input, NULL, out) <= HEADER_DECODED_SIZE_MAX(input.size));
    free(out);
}

static void transfer(struct slice input, enum transfer_encoding encoding)
{
    char *whole = malloc(TRANSFER_DECODED_SIZE_MAX(input.size)), *pieces = malloc(input.size * 2 + 2048);
    struct transfer_decoder d;
    size_t whole_size, pieces_size = 0;

    transfer_decoder_init(&d, encoding);
    whole_size = transfer_decode(&d, input, whole);
    ASSERT(whole_size <= input.size);
    whole_size += transfer_finish(&d, whole + whole_size);
    transfer_decoder_init(&d, encoding);
    for (size_t i = 0; i < input.size; i++)
        pieces_size += transfer_decode(&d, slice_of(input.data + i, 1), pieces + pieces_size);
    pieces_size += transfer_finish(&d, pieces + pieces_size);
    ASSERT(slice_eq(slice_of(whole, whole_size), slice_of(pieces, pieces_size)));
    free(whole);
    free(pieces);
}

static bool found_by_looking(struct slice needle, struct slice text)
{
    for (size_t i = 0; i + needle.size <= text.size; i++)
        if (slice_eq_nocase(needle, slice_of(text.data + i, needle.size)))
            return true;
    return false;
}

static void search(struct slice input)
{
    struct search_text *s = malloc(sizeof *s);
    struct slice needle, text;
    bool ascii = true, found = false;

    if (input.size > 0) {
        needle =
            slice_first(slice_from(input, 1), MIN(input.size - 1, (size_t)(unsigned char)input.data[0] % 32));
        text = slice_from(input, 1 + needle.size);
        for (size_t i = 0; i < input.size; i++)
            ascii = ascii && (input.data[i] & 0x80) == 0;
        ASSERT(search_text_init(s, needle));
        for (size_t i = 0; i < text.size; i += 3)
            found = search_text_feed(s, slice_of(text.data + i, MIN((size_t)3, text.size - i)));
        found = search_text_feed(s, SLICE(""));
        ASSERT(!ascii || found == found_by_looking(needle, text));
    }
    free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice input = slice_of(data, size);

    fields(input);
    transfer(input, TRANSFER_QUOTED_PRINTABLE);
    transfer(input, TRANSFER_BASE64);
    search(input);
    return 0;
}
