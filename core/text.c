#include "core/text.h"

struct slice slice_trim_front(struct slice s)
{
    while (s.size > 0 && char_is_blank(s.data[0]))
        s = slice_from(s, 1);
    return s;
}

struct slice slice_trim(struct slice s)
{
    s = slice_trim_front(s);
    while (s.size > 0 && char_is_blank(s.data[s.size - 1]))
        s.size--;
    return s;
}

/* ---- UTF-8 --------------------------------------------------------------------------------------------- */

size_t utf8_decode(struct slice text, uint32_t *code_out)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *p = (const unsigned char *)text.data;
    uint32_t code;
    size_t size;

    if (text.size == 0)
        return 0;
    if (p[0] < 0x80) {
        *code_out = p[0];
        return 1;
    }
    size = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || size > text.size)
        return 0;
    code = p[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (p[i] & 0x3f);
    }
    if (code < least[size] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    *code_out = code;
    return size;
}

size_t utf8_encode(uint32_t code, char *out)
{
    ASSERT(code <= 0x10ffff && (code < 0xd800 || code > 0xdfff));
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

bool utf8_valid(struct slice text)
{
    uint32_t code;

    while (text.size > 0) {
        size_t size = utf8_decode(text, &code);

        if (size == 0)
            return false;
        text = slice_from(text, size);
    }
    return true;
}
