#include "core/mail/mutf7.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

static int digit_value(char c) /* Base64's, but for one: a '/' would end a level. */
{
    return c == ',' ? 63 : c == '/' ? -1 : base64_value(c);
}

static bool is_direct(uint32_t code) /* Stands for itself, '&' as `&-`. */
{
    return code >= 0x20 && code <= 0x7e;
}

static bool is_control(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code <= 0x9f);
}

/* UTF-16 units out of base64, joined to characters, written as UTF-8. */
struct unit_reader {
    uint32_t bits, bit_count; /* Not yet a unit. */
    uint32_t high;            /* A high surrogate that waits for its low one; 0: none. */
};

static bool take_unit(struct unit_reader *r, uint32_t unit, char **out)
{
    uint32_t code = unit;

    if (r->high != 0) {
        if (unit < 0xdc00 || unit > 0xdfff)
            return false;
        code = 0x10000 + ((r->high - 0xd800) << 10) + (unit - 0xdc00);
        r->high = 0;
    } else if (unit >= 0xd800 && unit <= 0xdbff) {
        r->high = unit;
        return true;
    } else if (unit >= 0xdc00 && unit <= 0xdfff) {
        return false;
    }
    if (is_direct(code) || is_control(code))
        return false;
    *out += utf8_encode(code, *out);
    return true;
}

/* The inside of one shift, from behind '&' to '-', which is consumed. */
static bool decode_shift(struct slice *in, char **out)
{
    struct unit_reader r = {0};

    while (in->size > 0 && in->data[0] != '-') {
        int value = digit_value(in->data[0]);

        if (value < 0)
            return false;
        *in = slice_from(*in, 1);
        r.bits = r.bits << 6 | (uint32_t)value;
        r.bit_count += 6;
        if (r.bit_count < 16)
            continue;
        r.bit_count -= 16;
        if (!take_unit(&r, r.bits >> r.bit_count & 0xffff, out))
            return false;
        r.bits &= (1u << r.bit_count) - 1;
    }
    if (in->size == 0 || r.high != 0 || r.bit_count >= 6 || r.bits != 0)
        return false;
    *in = slice_from(*in, 1);
    /* Two adjacent shifts would be two ways to write one name; `&-` is a character, not a shift. */
    return in->size < 2 || in->data[0] != '&' || in->data[1] == '-';
}

bool mutf7_to_utf8(struct slice in, char *out, size_t *size_out)
{
    char *at = out;

    while (in.size > 0) {
        char c = in.data[0];

        if (!is_direct((unsigned char)c))
            return false;
        in = slice_from(in, 1);
        if (c != '&') {
            *at++ = c;
        } else if (in.size > 0 && in.data[0] == '-') {
            *at++ = '&';
            in = slice_from(in, 1);
        } else if (!decode_shift(&in, &at)) {
            return false;
        }
    }
    *size_out = (size_t)(at - out);
    return true;
}

struct unit_writer {
    char *at;
    uint32_t bits, bit_count;
    bool shifted;
};

static void put_unit(struct unit_writer *w, uint32_t unit)
{
    w->bits = w->bits << 16 | unit;
    w->bit_count += 16;
    while (w->bit_count >= 6) {
        w->bit_count -= 6;
        *w->at++ = digits[w->bits >> w->bit_count & 0x3f];
    }
    w->bits &= (1u << w->bit_count) - 1;
}

static void end_shift(struct unit_writer *w)
{
    if (!w->shifted)
        return;
    if (w->bit_count > 0)
        *w->at++ = digits[w->bits << (6 - w->bit_count) & 0x3f];
    *w->at++ = '-';
    w->bits = w->bit_count = 0;
    w->shifted = false;
}

bool mutf7_from_utf8(struct slice in, char *out, size_t *size_out)
{
    struct unit_writer w = {.at = out};

    while (in.size > 0) {
        uint32_t code;
        size_t size = utf8_decode(in, &code);

        if (size == 0 || is_control(code))
            return false;
        in = slice_from(in, size);
        if (is_direct(code)) {
            end_shift(&w);
            *w.at++ = (char)code;
            if (code == '&')
                *w.at++ = '-';
            continue;
        }
        if (!w.shifted)
            *w.at++ = '&';
        w.shifted = true;
        if (code >= 0x10000) {
            put_unit(&w, 0xd800 + ((code - 0x10000) >> 10));
            put_unit(&w, 0xdc00 + ((code - 0x10000) & 0x3ff));
        } else {
            put_unit(&w, code);
        }
    }
    end_shift(&w);
    *size_out = (size_t)(w.at - out);
    return true;
}

static bool name_characters_valid(struct slice name)
{
    while (name.size > 0) {
        uint32_t code;
        size_t size = utf8_decode(name, &code);

        if (size == 0 || is_control(code) || code == '*' || code == '%')
            return false;
        if ((code & 0xfffe) == 0xfffe || code == 0xfffd || code == 0x2028 || code == 0x2029)
            return false;
        name = slice_from(name, size);
    }
    return true;
}

enum mailbox_name_result mailbox_name_check(struct slice name)
{
    struct slice rest = name;

    if (name.size == 0)
        return MAILBOX_NAME_EMPTY;
    if (name.size > MAILBOX_NAME_SIZE_MAX)
        return MAILBOX_NAME_TOO_LONG;
    if (!name_characters_valid(name))
        return MAILBOX_NAME_CHARACTER;
    for (uint32_t level_count = 1;; level_count++) {
        struct slice level = slice_first(rest, slice_find(rest, MAILBOX_SEPARATOR));

        if (level.size == 0)
            return MAILBOX_NAME_EMPTY;
        if (level.size > MAILBOX_LEVEL_SIZE_MAX || level_count > MAILBOX_LEVEL_COUNT_MAX)
            return MAILBOX_NAME_TOO_LONG;
        if (slice_eq(level, SLICE(".")) || slice_eq(level, SLICE("..")))
            return MAILBOX_NAME_DOTS;
        if (level.size == rest.size)
            return MAILBOX_NAME_OK;
        rest = slice_from(rest, level.size + 1);
    }
}

bool mailbox_name_is_inbox(struct slice name)
{
    return slice_eq_nocase(name, SLICE("INBOX"));
}

void mailbox_name_inbox_upper(char *name, size_t size)
{
    struct slice inbox = SLICE("INBOX");

    if (slice_starts_nocase(slice_of(name, size), inbox) &&
        (size == inbox.size || name[inbox.size] == MAILBOX_SEPARATOR))
        memcpy(name, inbox.data, inbox.size);
}
