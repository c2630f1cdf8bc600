/* core/mail/mime.h -- the MIME parser (RFC 5322, 2045, 2046): a message is pushed through it once, at
 * delivery, in chunks of any size, and it leaves one small structure blob; core/mail/structure.h reads that.
 * Where a message is cut into chunks makes no difference to the result.
 * Owner:  one fiber or one step; on its heap.
 * Memory: at most MIME_PARSER_MEMORY_MAX, whatever is pushed. The blob is one allocation of the same heap.
 * Bounds: linear in the bytes pushed (each line against at most MIME_DEPTH_MAX boundaries), no recursion.
 *         Offsets and sizes count the bytes as pushed: storage keeps mail byte for byte, so a line may end in
 *         a bare LF and is then one byte shorter than it would be on the wire. An empty line ends a header
 *         and belongs to it; the line end before a boundary belongs to the boundary (RFC 2046 5.1.1). Beyond
 *         a limit nothing is refused: the rest of the message belongs to the part that was open, and a
 *         multipart or message that could not be opened is shown as application/octet-stream. Every message
 *         can be fetched. */
#pragma once
#include "core/base.h"
#include "core/heap.h"

#define MIME_DEPTH_MAX         100          /* Parts inside parts. */
#define MIME_PART_COUNT_MAX    10000        /* Parts of one message, nested ones included. */
#define MIME_PARAM_COUNT_MAX   128          /* Parameters of one field. */
#define MIME_ADDRESS_COUNT_MAX 1000         /* Addresses of one envelope field, repeated fields together. */
#define MIME_FIELD_SIZE_MAX    (64 * 1024)  /* Bytes looked at of one field: most fields have less. */
#define MIME_HEADER_KEPT_MAX   (224 * 1024) /* Bytes kept of one header's fields that matter here. */
#define MIME_BOUNDARY_SIZE_MAX 80           /* RFC 2046: 70. Longer ones are compared by their beginning. */
#define MIME_BLOB_SIZE_MAX     (256 * 1024) /* A blob that would be larger has fewer parts. */
#define MIME_MESSAGE_SIZE_MAX                                                                                \
    ((uint64_t)                                                                                              \
         UINT32_MAX) /* Offsets are 32-bit: RFC822.SIZE is a 32-bit number.                            \
                            */
#define MIME_PARSER_MEMORY_MAX (2 * 1024 * 1024)

struct mime_parser;

struct mime_blob {
    char *data; /* heap_free() it. */
    uint32_t size;
};

/* NULL: the heap is over its budget. */
MUST_CHECK struct mime_parser *mime_parser_new(struct heap *heap);
void mime_parser_free(struct mime_parser *p); /* NULL is fine. */
void mime_parser_feed(struct mime_parser *p, struct slice chunk);
/* The message is complete: once, and then only mime_parser_free(). 0; -ENOMEM: the heap was over its budget,
 * now or earlier; -EFBIG: more than MIME_MESSAGE_SIZE_MAX bytes. */
MUST_CHECK int mime_parser_finish(struct mime_parser *p, struct mime_blob *blob_out);
