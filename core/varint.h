/* core/varint.h -- numbers in as few bytes as they need, seven bits in each, the lowest first; all but the last have the
 * eighth bit. */
#pragma once
#include "core/base.h"

#define VARINT_SIZE_MAX 10

static inline char *varint_put(char *out, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *out++ = (char)(v | 0x80);
    *out++ = (char)v;
    return out;
}

/* What follows it. NULL: it does not end before `end`, or is larger than 64 bits. */
static inline const char *varint_get(const char *in, const char *end, uint64_t *v_out)
{
    uint64_t v = 0;

    for (unsigned shift = 0; in < end && shift < 64; shift += 7) {
        uint64_t bits = (uint8_t)*in & 0x7f;

        if (bits << shift >> shift != bits)
            return NULL;
        v |= bits << shift;
        if ((*in++ & 0x80) == 0) {
            *v_out = v;
            return in;
        }
    }
    return NULL;
}
