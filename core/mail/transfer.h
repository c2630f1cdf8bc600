/* core/mail/transfer.h -- quoted-printable and base64 (RFC 2045 6.7, 6.8) decoded as a stream: chunks of any
 * size give the same bytes. Tolerant: what can't be decoded is passed on (quoted-printable) or skipped
 * (base64).
 * Owner:  one reader of one part; embedded. */
#pragma once
#include "core/base.h"

enum transfer_encoding {
    TRANSFER_IDENTITY, /* 7bit, 8bit, binary, and whatever nobody knows. */
    TRANSFER_QUOTED_PRINTABLE,
    TRANSFER_BASE64,
};

enum transfer_encoding transfer_find(struct slice name);

struct transfer_decoder { /* Private. */
    uint8_t encoding;
    uint8_t held_size; /* Bytes that wait for what follows. */
    char held[3];
    uint32_t blank_count; /* Quoted-printable: blanks that a line end would delete. */
    uint32_t bits, bit_count;
};

#define TRANSFER_BLANK_COUNT_MAX                                                                             \
    1024 /* More in a row stay, line end or not: RFC 2045 lines have 76 bytes.                               \
          */
#define TRANSFER_DECODED_SIZE_MAX(size) ((size) + TRANSFER_BLANK_COUNT_MAX + 4)

void transfer_decoder_init(struct transfer_decoder *d, enum transfer_encoding encoding);
/* `out` has TRANSFER_DECODED_SIZE_MAX(in.size) bytes and is not `in`. Gives how many were written. */
size_t transfer_decode(struct transfer_decoder *d, struct slice in, char *out);
/* The end of the part: what was still held, TRANSFER_DECODED_SIZE_MAX(0) bytes at most. */
size_t transfer_finish(struct transfer_decoder *d, char *out);
