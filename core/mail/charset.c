#include "core/mail/charset.h"
#include "core/mail/mutf7.h"

/* 0x80..0x9f of windows-1252; its five holes are what Latin 1 has there. */
static const uint16_t windows_1252_high[32] = {
    0x20ac, 0x0081, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160,
    0x2039, 0x0152, 0x008d, 0x017d, 0x008f, 0x0090, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
    0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x009d, 0x017e, 0x0178,
};

/* ISO-8859-15: Latin 1 with the euro sign, and the letters that French and Finnish miss in it. */
static uint16_t latin9(unsigned char c)
{
    switch (c) {
    case 0xa4:
        return 0x20ac;
    case 0xa6:
        return 0x0160;
    case 0xa8:
        return 0x0161;
    case 0xb4:
        return 0x017d;
    case 0xb8:
        return 0x017e;
    case 0xbc:
        return 0x0152;
    case 0xbd:
        return 0x0153;
    case 0xbe:
        return 0x0178;
    default:
        return c;
    }
}

enum charset charset_find(struct slice name)
{
    static const struct {
        struct slice name;
        enum charset charset;
    } charsets[] = {
        {{"us-ascii", 8}, CHARSET_UTF8},
        {{"utf-8", 5}, CHARSET_UTF8},
        {{"iso-8859-1", 10}, CHARSET_LATIN1},
        {{"windows-1252", 12}, CHARSET_WINDOWS_1252},
        {{"iso-8859-15", 11}, CHARSET_LATIN9},
        {{"ascii", 5}, CHARSET_UTF8},
        {{"utf8", 4}, CHARSET_UTF8},
        {{"latin1", 6}, CHARSET_LATIN1},
        {{"latin-9", 7}, CHARSET_LATIN9},
        {{"cp1252", 6}, CHARSET_WINDOWS_1252},
        {{"", 0}, CHARSET_UTF8},
    };

    name = slice_first(name, slice_find(name, '*'));
    for (size_t i = 0; i < ARRAY_COUNT(charsets); i++)
        if (slice_eq_nocase(name, charsets[i].name))
            return charsets[i].charset;
    return CHARSET_UNKNOWN;
}

size_t charset_to_utf8(enum charset charset, struct slice in, char *out)
{
    char *at = out;

    ASSERT(charset != CHARSET_UNKNOWN);
    if (charset == CHARSET_UTF8) {
        if (in.size > 0)
            memcpy(out, in.data, in.size);
        return in.size;
    }
    for (size_t i = 0; i < in.size; i++) {
        unsigned char c = (unsigned char)in.data[i];

        if (charset == CHARSET_WINDOWS_1252 && c >= 0x80 && c <= 0x9f)
            at += utf8_encode(windows_1252_high[c - 0x80], at);
        else
            at += utf8_encode(charset == CHARSET_LATIN9 ? latin9(c) : c, at);
    }
    return (size_t)(at - out);
}
