/* core/mail/mime_header.h -- one header on its way through the MIME parser: keeps what the structure blob
 * wants of it, already in the blob's form (core/mail/structure_format.h).
 * Owner:  a struct mime_parser; embedded.
 * Bounds: what is kept of one header has limits of its own per field, MIME_HEADER_KEPT_MAX in all. A field
 *         that comes twice counts once, the first time; address lists are joined, as if by commas, so that
 *         nobody can show one From to a filter and another to the reader. */
#pragma once
#include "core/heap.h"
#include "core/mail/date.h"
#include "core/mail/mime_value.h"
#include "core/mail/structure_format.h"

/* Bytes that grow up to a limit. */
struct growing {
    struct heap *heap;
    char *data;
    uint32_t size, capacity, size_max;
    int error; /* 0; -ENOMEM for good. Going over size_max is no error. */
};

void growing_init(struct growing *g, struct heap *heap, uint32_t size_max);
void growing_fini(struct growing *g);
/* False: over size_max, or no memory; nothing is added. */
bool growing_put(struct growing *g, const void *data, size_t size);

enum mime_field {
    FIELD_DATE, /* The texts of an envelope, in the blob's order. */
    FIELD_SUBJECT,
    FIELD_IN_REPLY_TO,
    FIELD_MESSAGE_ID,
    FIELD_FROM, /* Its lists. */
    FIELD_SENDER,
    FIELD_REPLY_TO,
    FIELD_TO,
    FIELD_CC,
    FIELD_BCC,
    FIELD_TYPE, /* Texts of a part, in the blob's order. */
    FIELD_ID,
    FIELD_DESCRIPTION,
    FIELD_ENCODING,
    FIELD_MD5,
    FIELD_DISPOSITION,
    FIELD_LANGUAGE,
    FIELD_LOCATION,
    FIELD_KEPT_COUNT,
    FIELD_MIME_VERSION = FIELD_KEPT_COUNT, /* Only whether it is there. */
    FIELD_COUNT,
    FIELD_NONE = FIELD_COUNT,
};

struct kept_field {       /* Runs of bytes in `kept`, each behind its size and the offset of the next one. */
    uint32_t first, last; /* Offsets + 1; 0: none. */
    uint32_t size, address_count;
};

struct mime_header { /* Read below `error`; the rest is private. */
    struct growing value, kept;
    struct arena arena;
    struct kept_field fields[FIELD_KEPT_COUNT];
    struct mime_value parsed;
    enum mime_field field; /* The one being read. */
    bool naming, wants_envelope;
    uint8_t name_size;
    char name[32];

    bool type_seen, mime_version_seen;
    bool is_text, is_multipart, is_digest, is_message; /* What a valid Content-Type says. */
    bool dated;
    struct mail_date date;
    uint8_t boundary_size; /* 0: none. */
    char boundary[MIME_BOUNDARY_SIZE_MAX];
};

void mime_header_init(struct mime_header *h, struct heap *heap);
void mime_header_fini(struct mime_header *h);
int mime_header_error(const struct mime_header *h); /* 0 or -ENOMEM. */

void mime_header_begin(struct mime_header *h, bool wants_envelope);
/* A piece of a line, without its line end; `begins`: its first. */
void mime_header_piece(struct mime_header *h, struct slice piece, bool begins);
void mime_header_line_end(struct mime_header *h);
void mime_header_end(struct mime_header *h);

#define MIME_TEXTS_EMPTY_SIZE    11 /* A part without any field. */
#define MIME_ENVELOPE_EMPTY_SIZE 10
/* Appends the texts of a part, or of an envelope. `empty`: as if no field had been there. False: no room. */
bool mime_header_write_texts(const struct mime_header *h, struct growing *out, bool empty);
bool mime_header_write_envelope(const struct mime_header *h, struct growing *out, bool empty);
