/* core/text.h -- characters: case, blanks, digits, UTF-8. What needs no locale.
 * Owner: nobody; pure functions. */
#pragma once
#include "core/base.h"

/* ASCII letters alone. */
static inline char char_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

static inline bool char_is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Or the end of a line. */
static inline bool char_is_space(char c)
{
    return char_is_blank(c) || c == '\r' || c == '\n';
}

/* Without blanks in front; at both ends. */
struct slice slice_trim_front(struct slice s);
struct slice slice_trim(struct slice s);

/* The value of a digit, or -1. */
static inline int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static inline int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Well-formed UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF. */
bool utf8_valid(struct slice text);
/* One character at text.data[0], or 0 when it is not well-formed; *code_out is written on success. */
size_t utf8_decode(struct slice text, uint32_t *code_out);
/* Writes 1 to 4 bytes. `code` must be a scalar value. */
size_t utf8_encode(uint32_t code, char *out);
