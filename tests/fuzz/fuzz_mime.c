/* The MIME parser and the reader of its blob. However a message is cut, the blob is the same; every blob that
 * the parser writes is read; no blob, whatever its bytes, is read outside of itself. */
#include "core/mail/mime.h"
#include "core/mail/structure.h"

static char window[4096];

static void drop(struct writer *w)
{
    w->at = w->start;
}

static void walk(struct slice blob)
{
    static const char *const names[] = {"",    "1",          "TEXT",       "HEADER", "1.MIME",
                                        "1.1", "2.1.HEADER", "1.2.1.TEXT", "3.MIME"};
    struct writer w = {window, window, window + sizeof window, drop};
    struct structure s;

    if (structure_open(&s, blob) < 0)
        return;
    structure_write_envelope(&s, &w);
    structure_write_body(&s, &w);
    structure_write_bodystructure(&s, &w);
    for (uint32_t i = 0; i < structure_part_count(&s); i++) {
        struct structure_part part;

        structure_part(&s, i, &part);
        writer_slice(&w, part.type);
        writer_slice(&w, part.charset);
    }
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        struct section section;
        struct byte_range range;

        ASSERT(section_parse(slice_str(names[i]), &section));
        if (structure_section(&s, &section, &range))
            ASSERT((uint64_t)range.offset + range.size <= structure_message_size(&s));
    }
}

/* Chunks of `step`, `step` + 1, ... bytes. */
static struct mime_blob parse(struct heap *heap, struct slice message, size_t step)
{
    struct mime_parser *p = mime_parser_new(heap);
    struct mime_blob blob;

    ASSERT(p != NULL);
    while (message.size > 0) {
        size_t size = MIN(message.size, step);

        mime_parser_feed(p, slice_first(message, size));
        message = slice_from(message, size);
        step = step % 7 == 6 ? 1 : step + 1;
    }
    ASSERT(mime_parser_finish(p, &blob) == 0);
    mime_parser_free(p);
    return blob;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct heap *heap = heap_create("fuzz", 0);
    struct slice input = slice_of(data, size);
    struct mime_blob whole = parse(heap, input, size + 1), pieces = parse(heap, input, 1);
    struct structure s;

    ASSERT(slice_eq(slice_of(whole.data, whole.size), slice_of(pieces.data, pieces.size)));
    ASSERT(structure_open(&s, slice_of(whole.data, whole.size)) == 0);
    ASSERT(structure_message_size(&s) == size);
    walk(slice_of(whole.data, whole.size));
    walk(input);
    for (size_t i = 0; i + 2 < size && i < 64; i += 3) { /* The input as changes to a good blob. */
        pieces.data[(data[i] << 8 | data[i + 1]) % pieces.size] = (char)data[i + 2];
        walk(slice_of(pieces.data, pieces.size));
    }
    heap_free(heap, whole.data);
    heap_free(heap, pieces.data);
    heap_destroy(heap);
    return 0;
}
