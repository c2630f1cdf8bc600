/* core/mail/structure_format.h -- the structure blob: written by core/mail/mime.c, read by
 * core/mail/structure.c, known to nobody else. Little-endian; offsets are from the beginning of the blob.
 *
 *   header | part records, in the order in which the parts begin | texts of part 0, 1, 2...
 *
 * A part's texts: type, subtype, parameters, id, description, encoding, md5, disposition, its parameters,
 * languages, location; then, if the part is a message, its envelope: date, subject, in-reply-to, message-id,
 * and the lists from, sender, reply-to, to, cc, bcc, each address name, mailbox, host. A text is a tag, a
 * varint: 0 is NIL, 1 to TEXT_TAG_FIRST - 1 the words below, n + TEXT_TAG_FIRST means n bytes, which follow.
 * A list is a varint count and its items; parameters are counted in pairs. A part's descendants are the
 * records up to `end`: so every subtree is one run of records. */
#pragma once
#include "core/base.h"

#define STRUCTURE_VERSION 1

enum {                                /* Offsets in the header. */
       STRUCTURE_AT_VERSION = 0,      /* u8; flags u8; u16 zero. */
       STRUCTURE_AT_FLAGS = 1,        /* STRUCTURE_DATED */
       STRUCTURE_AT_ZONE = 2,         /* i16, minutes: of the Date field. */
       STRUCTURE_AT_SIZE = 4,         /* u32: the whole blob. */
       STRUCTURE_AT_MESSAGE_SIZE = 8, /* u32 */
       STRUCTURE_AT_PART_COUNT = 12,  /* u32 */
       STRUCTURE_AT_DATE = 16,        /* i64, seconds since 1970. */
       STRUCTURE_HEADER_SIZE = 24,
};
#define STRUCTURE_DATED 1

enum {                            /* Offsets in a part's record. */
       PART_AT_HEADER_OFFSET = 0, /* u32; the body begins where the header ends. */
       PART_AT_HEADER_SIZE = 4,   /* u32 */
       PART_AT_BODY_SIZE = 8,     /* u32 */
       PART_AT_BODY_LINES = 12,   /* u32 */
       PART_AT_TEXTS = 16,        /* u32 */
       PART_AT_ENVELOPE = 20,     /* u32; 0: the part is not a message. */
       PART_AT_END = 24,          /* u16 */
       PART_AT_KIND = 26,         /* u8, enum part_kind; u8 zero. */
       PART_RECORD_SIZE = 28,
};

enum part_kind {
    PART_LEAF,
    PART_TEXT,      /* A leaf whose lines are shown. */
    PART_MULTIPART, /* May have no part inside. */
    PART_MESSAGE,   /* message/rfc822: exactly one child, the message. */
    PART_OPAQUE,    /* Would be one of the two above, but for a limit. */
    PART_KIND_COUNT,
};

enum text_tag {
    TEXT_TAG_NIL,
    TEXT_TAG_MISSING_MAILBOX,
    TEXT_TAG_MISSING_HOST,
    TEXT_TAG_SYNTAX_ERROR,
    TEXT_TAG_FIRST,
};

enum { /* The order of addresses in an envelope. */
       ENVELOPE_FROM,
       ENVELOPE_SENDER,
       ENVELOPE_REPLY_TO,
       ENVELOPE_TO,
       ENVELOPE_CC,
       ENVELOPE_BCC,
       ENVELOPE_LIST_COUNT,
};
#define ENVELOPE_TEXT_COUNT 4
