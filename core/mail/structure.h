/* core/mail/structure.h -- reads the structure blob that core/mail/mime.h leaves: envelope, body structure,
 * and where in the message a section is (RFC 3501 6.4.5, 7.4.2).
 * Owner:  nobody; borrows the blob. Errors: structure_open() checks the whole blob; after that nothing fails.
 *         A blob with any bytes whatever gives -EBADMSG or a structure that is safe to use: every walk ends,
 *         nothing is read outside the blob. Whether it is the blob that was written is the store's checksum's
 *         business. Format: see structure_format.h. */
#pragma once
#include "core/base.h"
#include "core/mail/date.h"
#include "core/writer.h"

struct structure { /* Private. */
    struct slice blob;
    uint32_t part_count;
};

struct byte_range { /* Of the message. */
    uint32_t offset, size;
};

/* 0, or -EBADMSG. Linear in the blob. */
MUST_CHECK int structure_open(struct structure *s, struct slice blob);

uint32_t structure_message_size(const struct structure *s); /* RFC822.SIZE. */
/* What the Date field says; false: there is none, or it is not a date. */
bool structure_sent_date(const struct structure *s, struct mail_date *date_out);

/* Envelope fields as they are in the message, unfolded, encoded words untouched. */
enum envelope_text {
    ENVELOPE_DATE,
    ENVELOPE_SUBJECT,
    ENVELOPE_IN_REPLY_TO,
    ENVELOPE_MESSAGE_ID,
};
/* False: the field is missing. */
bool structure_envelope_text(const struct structure *s, enum envelope_text field, struct slice *text_out);

/* What stands between the brackets of BODY[...], the list of HEADER.FIELDS apart. */
enum section_kind {
    SECTION_ALL,               /* `` or `1.2` */
    SECTION_HEADER,            /* `HEADER`, `1.2.HEADER` */
    SECTION_HEADER_FIELDS,     /* `HEADER.FIELDS`: the range is the whole header. */
    SECTION_HEADER_FIELDS_NOT, /* `HEADER.FIELDS.NOT` */
    SECTION_TEXT,              /* `TEXT`, `1.2.TEXT` */
    SECTION_MIME,              /* `1.2.MIME`: needs a number. */
};

#define SECTION_DEPTH_MAX 100 /* Numbers in one section: as deep as a message can be. */

struct section {
    uint8_t kind, depth;
    uint16_t numbers[SECTION_DEPTH_MAX]; /* From 1; numbers too large for any message are UINT16_MAX. */
};

/* `1.2.HEADER.FIELDS`, without brackets and list. False: not a section. */
MUST_CHECK bool section_parse(struct slice text, struct section *section_out);
/* Where it is. False: the message has no such part, or the part no such section. */
MUST_CHECK bool structure_section(const struct structure *s, const struct section *section,
                                  struct byte_range *range_out);

/* For those who look into the text of a message, such as SEARCH: all parts, in order. */
struct structure_part {
    struct byte_range header, body;
    struct slice type, subtype, encoding,
        charset; /* Defaults filled in; `encoding` and `charset` may be empty. */
    bool leaf;   /* Neither multipart nor message/rfc822. */
};
uint32_t structure_part_count(const struct structure *s); /* At least 1. */
void structure_part(const struct structure *s, uint32_t index, struct structure_part *part_out);

/* With their parentheses, without the item's name. */
void structure_write_envelope(const struct structure *s, struct writer *w);
void structure_write_body(const struct structure *s, struct writer *w);          /* BODY */
void structure_write_bodystructure(const struct structure *s, struct writer *w); /* BODYSTRUCTURE */

/* IMAP `string`: quoted when it is printable ASCII, else a literal, NUL as 0x80 in it. */
void imap_string_write(struct writer *w, struct slice text);
