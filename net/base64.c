#include "net/base64.h"
#include "core/text.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* One group of four digits, of which `count` are not padding. Its bits, or -1. */
static int32_t group_value(const char *digits, unsigned count)
{
    uint32_t bits = 0;

    for (unsigned i = 0; i < count; i++) {
        int value = base64_value(digits[i]);

        if (value < 0)
            return -1;
        bits |= (uint32_t)value << (18 - 6 * i);
    }
    if ((count == 3 && (bits & 0xff) != 0) || (count == 2 && (bits & 0xffff) != 0))
        return -1; /* Bits that no byte uses must be zero. */
    return (int32_t)bits;
}

bool base64_decode(struct slice text, char *out, size_t out_max, size_t *size_out)
{
    size_t used = 0;

    if (text.size % 4 != 0)
        return false;
    for (size_t at = 0; at < text.size; at += 4) {
        const char *digits = text.data + at;
        unsigned count = 4;
        int32_t bits;

        if (at + 4 == text.size && digits[3] == '=')
            count = digits[2] == '=' ? 2 : 3;
        bits = group_value(digits, count);
        if (bits < 0 || used + count - 1 > out_max)
            return false;
        for (unsigned i = 0; i + 1 < count; i++)
            out[used++] = (char)(bits >> (16 - 8 * i));
    }
    *size_out = used;
    return true;
}

size_t base64_encode(struct slice in, char *out)
{
    char *at = out;

    for (size_t i = 0; i < in.size; i += 3) {
        size_t left = in.size - i;
        uint32_t bits = (uint32_t)(uint8_t)in.data[i] << 16;

        if (left > 1)
            bits |= (uint32_t)(uint8_t)in.data[i + 1] << 8;
        if (left > 2)
            bits |= (uint8_t)in.data[i + 2];
        *at++ = alphabet[bits >> 18];
        *at++ = alphabet[bits >> 12 & 63];
        *at++ = left > 1 ? alphabet[bits >> 6 & 63] : '=';
        *at++ = left > 2 ? alphabet[bits & 63] : '=';
    }
    return (size_t)(at - out);
}
