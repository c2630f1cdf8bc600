/* XCLIENT (Postfix's XCLIENT_README): `XCLIENT name=xtext ...`. */
#include "net/lmtp/lmtp.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* RFC 3461, 4: printable ASCII without '=', and +XX; what it stands for must be printable, too. */
static bool xtext_decode(struct lmtp_xclient *x, struct slice in, struct slice *out)
{
    char *begin = x->text + x->used;

    for (size_t i = 0; i < in.size; i++) {
        int c = in.data[i];

        if (c == '+') {
            int high = i + 2 < in.size ? hex_digit(in.data[i + 1]) : -1;
            int low = i + 2 < in.size ? hex_digit(in.data[i + 2]) : -1;

            if (high < 0 || low < 0)
                return false;
            c = high * 16 + low;
            i += 2;
        }
        if (c <= ' ' || c >= 0x7f || x->used == sizeof x->text)
            return false;
        x->text[x->used++] = (char)c;
    }
    *out = slice_of(begin, (size_t)(x->text + x->used - begin));
    return true;
}

/* An attribute that is understood, if only to be left out; NULL: none. */
static struct slice *member_of(struct lmtp_xclient *x, struct slice name)
{
    static const struct slice ignored[] = {SLICE("NAME"),     SLICE("PROTO"), SLICE("DESTADDR"),
                                           SLICE("DESTPORT"), SLICE("TTL"),   SLICE("TIMEOUT")};

    if (slice_eq_nocase(name, SLICE("ADDR")))
        return &x->addr;
    if (slice_eq_nocase(name, SLICE("PORT")))
        return &x->port;
    if (slice_eq_nocase(name, SLICE("HELO")))
        return &x->helo;
    if (slice_eq_nocase(name, SLICE("LOGIN")))
        return &x->login;
    if (slice_eq_nocase(name, SLICE("SESSION")))
        return &x->session;
    for (size_t i = 0; i < ARRAY_COUNT(ignored); i++) {
        if (slice_eq_nocase(name, ignored[i]))
            return &x->rest;
    }
    return NULL;
}

static bool attribute_take(struct lmtp_xclient *x, struct slice word)
{
    size_t at = slice_find(word, '=');
    struct slice value, *to = at < word.size ? member_of(x, slice_first(word, at)) : NULL;

    if (to == NULL || !xtext_decode(x, slice_from(word, at + 1), &value))
        return false;
    if (!slice_eq_nocase(value, SLICE("[UNAVAILABLE]")) && !slice_eq_nocase(value, SLICE("[TEMPUNAVAIL]")))
        *to = value;
    return true;
}

bool lmtp_xclient_parse(struct slice in, struct lmtp_xclient *out)
{
    memset(out, 0, sizeof *out);
    while (in.size > 0) {
        size_t size = slice_find(in, ' ');

        if (size > 0 && !attribute_take(out, slice_first(in, size)))
            return false;
        in = slice_from(in, MIN(size + 1, in.size));
    }
    return out->used > 0;
}
