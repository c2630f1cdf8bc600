#include "core/mail/search_text.h"

/* A byte, folded: ASCII letters by themselves, U+00C0..U+00DE by the byte behind their lead. */
static char fold(char c, bool *lead)
{
    unsigned char byte = (unsigned char)c;

    if (byte >= 'A' && byte <= 'Z')
        byte |= 0x20;
    else if (*lead && byte >= 0x80 && byte <= 0x9e && byte != 0x97) /* 0x97: the multiplication sign. */
        byte |= 0x20;
    *lead = byte == 0xc3;
    return (char)byte;
}

static bool advance(struct search_text *s, char c)
{
    while (s->matched_size > 0 && s->needle[s->matched_size] != c)
        s->matched_size = s->fallback[s->matched_size - 1];
    if (s->needle[s->matched_size] == c)
        s->matched_size++;
    return s->matched_size == s->needle_size;
}

bool search_text_init(struct search_text *s, struct slice needle)
{
    bool lead = false;

    if (needle.size > SEARCH_NEEDLE_SIZE_MAX)
        return false;
    s->needle_size = (uint16_t)needle.size;
    for (size_t i = 0; i < needle.size; i++)
        s->needle[i] = fold(needle.data[i], &lead);
    /* The table is the search of the needle, from its second byte on, in itself. */
    s->matched_size = 0;
    s->fallback[0] = 0;
    for (uint16_t i = 1; i < s->needle_size; i++) {
        (void)advance(s, s->needle[i]);
        s->fallback[i] = s->matched_size;
    }
    search_text_begin(s);
    return true;
}

void search_text_begin(struct search_text *s)
{
    s->matched_size = 0;
    s->lead = false;
    s->found = s->needle_size == 0;
}

bool search_text_feed(struct search_text *s, struct slice chunk)
{
    for (size_t i = 0; i < chunk.size && !s->found; i++)
        s->found = advance(s, fold(chunk.data[i], &s->lead));
    return s->found;
}
