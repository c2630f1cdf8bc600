#include "net/imap/chars.h"

#define QUOTED IMAP_CHAR_QUOTED
#define LIST   (IMAP_CHAR_LIST | QUOTED)
#define WORD   (IMAP_CHAR_TAG | IMAP_CHAR_ATOM | IMAP_CHAR_ASTRING | LIST)

const uint8_t imap_char_classes[256] = {
    [' '] = QUOTED,        ['!'] = WORD,
    ['#' ... '$'] = WORD,  ['%'] = LIST,
    ['&' ... '\''] = WORD, ['(' ... ')'] = QUOTED,
    ['*'] = LIST,          ['+'] = WORD & ~IMAP_CHAR_TAG,
    [',' ... '['] = WORD,  [']'] = WORD & ~IMAP_CHAR_ATOM,
    ['^' ... 'z'] = WORD,  ['{'] = QUOTED,
    ['|' ... '~'] = WORD,
};
