#include "net/imap/chars.h"

#define PLAIN   IMAP_CHAR_PLAIN
#define SPECIAL (IMAP_CHAR_QUOTED | PLAIN)
#define LIST    (IMAP_CHAR_LIST | SPECIAL)
#define WORD    (IMAP_CHAR_TAG | IMAP_CHAR_ATOM | IMAP_CHAR_ASTRING | LIST)

const uint8_t imap_char_classes[256] = {
    [0x01 ... 0x09] = PLAIN,
    [0x0b ... 0x0c] = PLAIN, /* LF and CR: in none. */
    [0x0e ... 0x1f] = PLAIN,
    [' '] = IMAP_CHAR_QUOTED,
    ['!'] = WORD,
    ['#' ... '$'] = WORD,
    ['%'] = LIST,
    ['&' ... '\''] = WORD,
    ['(' ... ')'] = SPECIAL,
    ['*'] = LIST,
    ['+'] = WORD & ~IMAP_CHAR_TAG,
    [',' ... '['] = WORD,
    [']'] = WORD & ~IMAP_CHAR_ATOM,
    ['^' ... 'z'] = WORD,
    ['{'] = IMAP_CHAR_QUOTED,
    ['|' ... '~'] = WORD,
    [0x7f ... 0xff] = PLAIN,
};
