/* net/imap/chars.h -- the character classes of IMAP's grammar (RFC 3501, 9). 8-bit bytes are in none of them. */
#pragma once
#include "core/base.h"

enum imap_char_class {
    IMAP_CHAR_TAG = 1 << 0,     /* `tag`: an astring character but '+'. */
    IMAP_CHAR_ATOM = 1 << 1,    /* ATOM-CHAR */
    IMAP_CHAR_ASTRING = 1 << 2, /* ASTRING-CHAR: with ']'. */
    IMAP_CHAR_LIST = 1 << 3,    /* list-char: with ']', '%' and '*'. */
    IMAP_CHAR_QUOTED = 1 << 4,  /* Written in a quoted string as it is: printable, no '"', no '\'. */
    /* Means nothing to the framer, inside and outside of quotes; 8-bit bytes too. */
    IMAP_CHAR_PLAIN = 1 << 5,
};

extern const uint8_t imap_char_classes[256];

static inline bool imap_is_tag_char(char c)
{
    return imap_char_classes[(unsigned char)c] & IMAP_CHAR_TAG;
}

static inline bool imap_is_atom_char(char c)
{
    return imap_char_classes[(unsigned char)c] & IMAP_CHAR_ATOM;
}
