/* core/mail/header.h -- the fields of a header (RFC 5322 2.2), line ends CRLF or LF, and their encoded words
 * (RFC 2047) decoded for searching.
 * Owner:  nobody; an iterator is embedded where it is used.
 * Memory: everything points into the header, or into the caller's buffer. */
#pragma once
#include "core/base.h"
#include "core/mail/charset.h"

struct header_field {
    struct slice name;  /* Blanks before the colon removed; empty for a line without a colon. */
    struct slice value; /* Behind the colon, blanks there removed, still folded, the last line end removed. */
    struct slice raw;   /* All its lines, with their ends. */
};

struct header_iter { /* Private. */
    struct slice rest;
};

/* `header` ends at its end, or at an empty line. */
void header_iter_init(struct header_iter *it, struct slice header);
MUST_CHECK bool header_next(struct header_iter *it, struct header_field *field_out);

/* Removes line ends: `out` has value.size bytes. */
size_t header_unfold(struct slice value, char *out);

#define HEADER_DECODED_SIZE_MAX(size) (4 * (size))
/* Unfolds and decodes, for searching: blanks between encoded words vanish, others become one space; words that can't be
 * decoded stay as they are.
 * `out` has HEADER_DECODED_SIZE_MAX(value.size) bytes. `converter`, for other character sets, may be NULL. */
size_t header_decode(struct slice value, const struct charset_converter *converter, char *out);
