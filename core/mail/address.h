/* core/mail/address.h -- addresses: lists in header fields (RFC 5322 3.4 and 4.4, read tolerantly) as
 * ENVELOPE shows them (RFC 3501 7.4.2), and the paths of SMTP and LMTP (RFC 5321 4.1.2, read strictly).
 * Owner:  the reader of one field; embedded.
 * Memory: borrows the value and a scratch buffer; an address dies when the next one is read.
 * Bounds: linear in the value, no recursion. Counting addresses is the caller's. */
#pragma once
#include "core/base.h"
#include "core/mail/token.h"

/* A slice whose data is NULL is NIL. Routes are dropped: RFC 5322 4.4 says to ignore them.
 * Group: {NIL, its name, NIL}, its members, {NIL, NIL, NIL}. Anything else has mailbox and host, for a client
 * would take it for a group: what is missing is one of the words below, whose address shows it, as in
 * Dovecot. */
struct address {
    struct slice name, mailbox, host;
};

#define ADDRESS_MISSING_MAILBOX "MISSING_MAILBOX"
#define ADDRESS_MISSING_HOST    "MISSING_DOMAIN"
#define ADDRESS_SYNTAX_ERROR    "SYNTAX_ERROR" /* As host. */

struct address_parser { /* Private. */
    struct token_reader reader;
    struct text_buffer text, comment;
    uint8_t state;
};

#define ADDRESS_SCRATCH_SIZE(value_size) (2 * (value_size))

/* `scratch` has ADDRESS_SCRATCH_SIZE(value.size) bytes and lives as long as the parser. The value may be
 * folded. */
void address_parser_init(struct address_parser *p, struct slice value, char *scratch);
/* False: no more. After something that can't be understood up to its comma the list ends. */
MUST_CHECK bool address_next(struct address_parser *p, struct address *address_out);

#define PATH_LOCAL_SIZE_MAX  64 /* RFC 5321 4.5.3.1. */
#define PATH_DOMAIN_SIZE_MAX 255

struct path {
    char local[PATH_LOCAL_SIZE_MAX]; /* Quotes and backslashes removed. */
    uint8_t local_size;
    struct slice domain; /* Borrowed from the text; empty in `<>` and `<Postmaster>`. */
};

/* `<local@domain>` at the beginning of *text, which moves behind it; route and quotes are known, 8-bit bytes
 * must be UTF-8 (RFC 6531). `<>`: both empty. False: not a path, and *text stays. */
MUST_CHECK bool path_parse(struct slice *text, struct path *path_out);
