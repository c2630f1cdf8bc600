/* core/mail/search_text.h -- does a text contain a string, letters' case apart (RFC 3501 6.4.4)? The text
 * comes in chunks of any size, and a match may lie across them. Both are UTF-8; ASCII and Latin 1 letters are
 * folded, all other bytes are compared as they are.
 * Owner:  one search of one text; embedded in a heap record (3 KiB: not on a fiber's stack).
 * Bounds: linear in needle and text (Knuth, Morris, Pratt), whatever they are. */
#pragma once
#include "core/base.h"

#define SEARCH_NEEDLE_SIZE_MAX 1024

struct search_text { /* Private. */
    uint16_t needle_size, matched_size;
    bool found, lead; /* lead: the last byte was 0xC3, the first of a Latin 1 letter from U+00C0 on. */
    char needle[SEARCH_NEEDLE_SIZE_MAX];
    /* Of needle[0..i]: the longest end that is also a beginning. */
    uint16_t fallback[SEARCH_NEEDLE_SIZE_MAX];
};

/* False: a needle over SEARCH_NEEDLE_SIZE_MAX. An empty one is in every text. */
MUST_CHECK bool search_text_init(struct search_text *s, struct slice needle);
/* Another text, the same needle. */
void search_text_begin(struct search_text *s);
/* True as soon as the needle was seen. */
bool search_text_feed(struct search_text *s, struct slice chunk);
