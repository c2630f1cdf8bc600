/* core/mail/flags.h -- message flags as bits, and what a keyword may look like (RFC 3501 2.3.2, 9).
 * Owner:  nobody; pure functions. */
#pragma once
#include "core/base.h"
#include "core/writer.h"

enum mail_flag {
    MAIL_ANSWERED = 1 << 0,
    MAIL_FLAGGED = 1 << 1,
    MAIL_DELETED = 1 << 2,
    MAIL_SEEN = 1 << 3,
    MAIL_DRAFT = 1 << 4,
    MAIL_RECENT = 1 << 5, /* Belongs to a session, never to a message: no client may store it. */
};

#define MAIL_FLAGS_STORABLE (MAIL_ANSWERED | MAIL_FLAGGED | MAIL_DELETED | MAIL_SEEN | MAIL_DRAFT)
#define MAIL_FLAGS_ALL      (MAIL_FLAGS_STORABLE | MAIL_RECENT)
#define KEYWORD_SIZE_MAX    64 /* Bytes of one keyword. */

/* The bit of `\Seen` and its like, in any case; 0: not a system flag. \Recent is found too. */
uint32_t mail_flag_find(struct slice name);
/* The name of exactly one bit, backslash included. */
struct slice mail_flag_name(enum mail_flag flag);
/* Names of all bits in `flags`, blanks between, no parentheses. Unknown bits are left out. */
void mail_flags_write(struct writer *w, uint32_t flags);
/* An atom of 1 to KEYWORD_SIZE_MAX bytes that does not begin with a backslash. */
bool mail_keyword_valid(struct slice name);
