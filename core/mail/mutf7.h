/* core/mail/mutf7.h -- modified UTF-7 (RFC 3501 5.1.3) to UTF-8 and back, strictly, and names of mailboxes.
 * Inside, a mailbox name is UTF-8 with '/' between its levels; modified UTF-7 is only what IMAP4rev1 shows.
 * Owner:  nobody; pure functions.
 * Bounds: outputs go to the caller's buffer, whose size the macros give. */
#pragma once
#include "core/text.h"

#define MAILBOX_SEPARATOR       '/'
#define MAILBOX_NAME_SIZE_MAX   1000 /* Bytes of UTF-8. */
#define MAILBOX_LEVEL_SIZE_MAX  255
#define MAILBOX_LEVEL_COUNT_MAX 64

#define MUTF7_TO_UTF8_SIZE_MAX(size)   ((size) + (size) / 8 + 1) /* 8 digits may hold 9 bytes of UTF-8. */
#define MUTF7_FROM_UTF8_SIZE_MAX(size) (3 * (size))              /* `&AOk-`: 5 bytes for 2. */

/* `out` has MUTF7_TO_UTF8_SIZE_MAX(in.size) bytes. False: not modified UTF-7 as RFC 3501 writes it: 8-bit or
 * control characters, printable ASCII in base64, padding bits set, unpaired surrogates, two adjacent shifts. */
MUST_CHECK bool mutf7_to_utf8(struct slice in, char *out, size_t *size_out);
/* `out` has MUTF7_FROM_UTF8_SIZE_MAX(in.size) bytes. False: not UTF-8, or a control character. */
MUST_CHECK bool mutf7_from_utf8(struct slice in, char *out, size_t *size_out);

enum mailbox_name_result {
    MAILBOX_NAME_OK,
    MAILBOX_NAME_EMPTY,     /* No name, or a level without a name: `a//b`, `/a`, `a/`. */
    MAILBOX_NAME_TOO_LONG,  /* One of the three limits above. */
    MAILBOX_NAME_CHARACTER, /* Not UTF-8, a control character, U+FFFD, a noncharacter, a line separator; `*`
                               or `%`. */
    MAILBOX_NAME_DOTS, /* A level `.` or `..`: nobody needs them and somebody's file system would obey. */
};
/* May a mailbox be created under this (UTF-8) name? */
enum mailbox_name_result mailbox_name_check(struct slice name);
/* INBOX in any case is one name (RFC 3501 5.1). */
bool mailbox_name_is_inbox(struct slice name);
/* A first level that spells INBOX, alone or above others, becomes INBOX: what is below the inbox is reached in any
 * case, too. */
void mailbox_name_inbox_upper(char *name, size_t size);
