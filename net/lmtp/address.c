#include "net/lmtp/address.h"
#include "core/mail/mutf7.h"

static bool is_alnum(uint8_t c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

/* Atoms and dots, in any order: addresses with "..", or with a dot at an end, are out there. */
static bool is_local(uint8_t c)
{
    return is_alnum(c) || c >= 0x80 || (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~.", c) != NULL);
}

static bool is_domain(uint8_t c)
{
    return is_alnum(c) || c >= 0x80 || c == '-' || c == '.' || c == '_';
}

static bool is_literal(uint8_t c)
{
    return is_alnum(c) || c == ':' || c == '.' || c == '-';
}

static bool next_is(struct slice in, char c)
{
    return in.size > 0 && in.data[0] == c;
}

/* Takes the longest run of bytes that `belongs` accepts. */
static struct slice take_run(struct slice *in, bool (*belongs)(uint8_t c))
{
    size_t size = 0;

    while (size < in->size && belongs((uint8_t)in->data[size]))
        size++;
    struct slice run = slice_first(*in, size);
    *in = slice_from(*in, size);
    return run;
}

static bool domain_valid(struct slice domain)
{
    if (domain.size == 0 || domain.size > LMTP_DOMAIN_MAX)
        return false;
    if (domain.data[0] == '.' || domain.data[domain.size - 1] == '.')
        return false;
    for (size_t i = 0; i + 1 < domain.size; i++) {
        if (domain.data[i] == '.' && domain.data[i + 1] == '.')
            return false;
    }
    return true;
}

/* A name, or "[address]". */
static bool take_domain(struct slice *in, struct slice *domain_out)
{
    if (!next_is(*in, '[')) {
        *domain_out = take_run(in, is_domain);
        return domain_valid(*domain_out);
    }
    struct slice rest = slice_from(*in, 1);
    struct slice inner = take_run(&rest, is_literal);
    if (inner.size == 0 || inner.size + 2 > LMTP_DOMAIN_MAX || !next_is(rest, ']'))
        return false;
    *domain_out = slice_first(*in, inner.size + 2);
    *in = slice_from(rest, 1);
    return true;
}

/* "@a,@b:" in front of an address: understood and ignored (RFC 5321, appendix C). */
static bool skip_route(struct slice *in)
{
    struct slice domain;

    while (next_is(*in, '@')) {
        *in = slice_from(*in, 1);
        if (!take_domain(in, &domain))
            return false;
        if (next_is(*in, ':')) {
            *in = slice_from(*in, 1);
            return true;
        }
        if (!next_is(*in, ','))
            return false;
        *in = slice_from(*in, 1);
    }
    return false;
}

/* *in is behind the opening quote. */
static bool take_quoted(struct slice *in, char unquoted[LMTP_LOCAL_MAX], struct slice *local_out)
{
    size_t size = 0;

    for (size_t at = 0; at < in->size; at++) {
        uint8_t c = (uint8_t)in->data[at];

        if (c == '"') {
            *in = slice_from(*in, at + 1);
            *local_out = slice_of(unquoted, size);
            return size > 0;
        }
        if (c == '\\' && ++at < in->size)
            c = (uint8_t)in->data[at];
        if (c < 0x20 || c == 0x7f || size == LMTP_LOCAL_MAX)
            return false;
        unquoted[size++] = (char)c;
    }
    return false;
}

static bool take_local(struct slice *in, char unquoted[LMTP_LOCAL_MAX], struct slice *local_out)
{
    if (next_is(*in, '"')) {
        *in = slice_from(*in, 1);
        return take_quoted(in, unquoted, local_out);
    }
    *local_out = take_run(in, is_local);
    return local_out->size > 0 && local_out->size <= LMTP_LOCAL_MAX;
}

static bool has_eight_bit(struct slice text)
{
    for (size_t i = 0; i < text.size; i++) {
        if ((uint8_t)text.data[i] >= 0x80)
            return true;
    }
    return false;
}

bool lmtp_path_parse(struct slice *in, char unquoted[LMTP_LOCAL_MAX], struct lmtp_path *path_out,
                     bool *eight_bit_out)
{
    struct lmtp_path path = {.text = SLICE(""), .local = SLICE(""), .domain = SLICE("")};
    struct slice at = *in, start;

    *eight_bit_out = false;
    if (!next_is(at, '<'))
        return false;
    at = slice_from(at, 1);
    if (!next_is(at, '>')) {
        if (next_is(at, '@') && !skip_route(&at))
            return false;
        start = at;
        if (!take_local(&at, unquoted, &path.local))
            return false;
        if (next_is(at, '@')) {
            at = slice_from(at, 1);
            if (!take_domain(&at, &path.domain))
                return false;
        }
        path.text = slice_first(start, start.size - at.size);
    }
    if (!next_is(at, '>'))
        return false;
    *eight_bit_out = has_eight_bit(path.text);
    if (*eight_bit_out && !(utf8_valid(path.text) && utf8_valid(path.local)))
        return false;
    *in = slice_from(at, 1);
    *path_out = path;
    return true;
}

void lmtp_split_detail(struct slice local, char separator, struct slice *user_out, struct slice *detail_out)
{
    size_t at = slice_find(local, separator);

    if (at == 0 || at == local.size) {
        *user_out = local;
        *detail_out = SLICE("");
        return;
    }
    *user_out = slice_first(local, at);
    *detail_out = slice_from(local, at + 1);
}
