#include "core/mail/transfer.h"
#include "core/text.h"

enum transfer_encoding transfer_find(struct slice name)
{
    if (slice_eq_nocase(name, SLICE("quoted-printable")))
        return TRANSFER_QUOTED_PRINTABLE;
    return slice_eq_nocase(name, SLICE("base64")) ? TRANSFER_BASE64 : TRANSFER_IDENTITY;
}

void transfer_decoder_init(struct transfer_decoder *d, enum transfer_encoding encoding)
{
    *d = (struct transfer_decoder){.encoding = (uint8_t)encoding};
}

static char *put_blanks(struct transfer_decoder *d, char *out)
{
    memset(out, ' ', d->blank_count); /* Tabs become blanks: who searches won't mind. */
    out += d->blank_count;
    d->blank_count = 0;
    return out;
}

static char *put_held(struct transfer_decoder *d, char *out)
{
    memcpy(out, d->held, d->held_size);
    out += d->held_size;
    d->held_size = 0;
    return out;
}

/* Outside of an escape. A CR is passed on; blanks before it are not. */
static char *decode_plain(struct transfer_decoder *d, char c, char *out)
{
    if (c == '=') {
        out = put_blanks(d, out);
        d->held[d->held_size++] = c;
        return out;
    }
    if (c == ' ' || c == '\t') {
        if (d->blank_count == TRANSFER_BLANK_COUNT_MAX)
            out = put_blanks(d, out);
        d->blank_count++;
        return out;
    }
    if (c == '\r' || c == '\n')
        d->blank_count = 0;
    out = put_blanks(d, out);
    *out++ = c;
    return out;
}

/* Behind a `=`: two hexadecimal digits, or a line end, blanks before it allowed. */
static char *decode_escape(struct transfer_decoder *d, char c, char *out)
{
    char last = d->held[d->held_size - 1];

    if (c == '\n') { /* A soft line break. */
        if (d->held_size == 1 || last == '\r' || last == ' ') {
            d->held_size = 0;
            return out;
        }
    } else if (d->held_size == 1) {
        if (c == ' ' || c == '\t')
            c = ' ';
        if (hex_value(c) >= 0 || c == '\r' || c == ' ') {
            d->held[d->held_size++] = c;
            return out;
        }
    } else if (hex_value(last) >= 0 && hex_value(c) >= 0) {
        *out++ = (char)(hex_value(last) << 4 | hex_value(c));
        d->held_size = 0;
        return out;
    } else if (last == ' ' && (c == ' ' || c == '\t')) {
        return out; /* One stands for all. */
    } else if (last == ' ' && c == '\r') {
        d->held[d->held_size - 1] = c;
        return out;
    }
    return decode_plain(d, c, put_held(d, out)); /* Not an escape: it stands for itself. */
}

static char *decode_base64(struct transfer_decoder *d, char c, char *out)
{
    int value = base64_value(c);

    if (c == '=') /* Padding ends a group; some programs join several encoded texts. */
        d->bit_count = 0;
    if (value < 0)
        return out;
    d->bits = (d->bits << 6 | (uint32_t)value) & 0xffff;
    d->bit_count += 6;
    if (d->bit_count >= 8) {
        d->bit_count -= 8;
        *out++ = (char)(d->bits >> d->bit_count);
    }
    return out;
}

size_t transfer_decode(struct transfer_decoder *d, struct slice in, char *out)
{
    char *at = out;

    if (d->encoding == TRANSFER_IDENTITY) {
        if (in.size > 0)
            memcpy(out, in.data, in.size);
        return in.size;
    }
    for (size_t i = 0; i < in.size; i++) {
        if (d->encoding == TRANSFER_BASE64)
            at = decode_base64(d, in.data[i], at);
        else if (d->held_size > 0)
            at = decode_escape(d, in.data[i], at);
        else
            at = decode_plain(d, in.data[i], at);
    }
    return (size_t)(at - out);
}

size_t transfer_finish(struct transfer_decoder *d, char *out)
{
    d->blank_count = 0;
    d->bit_count = 0;
    return (size_t)(put_held(d, out) - out);
}
