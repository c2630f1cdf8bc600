/* The bodies of DATA and BDAT, cut anywhere. */
#include "net/lmtp/lmtp.h"

/* What the last bytes were:
 *
 *   LINE ---"."---> DOT ---CR---> DOT_CR ---LF---> the end
 *     |              | not CR       | not LF: the CR was text after all
 *     v              v              v
 *   TEXT <-------- (that "." is dropped) -> CR
 *     |
 *     +--CRLF--> LINE     (CR: one CR was seen, its LF may come with the next bytes) */
enum body_state { BODY_LINE, BODY_DOT, BODY_DOT_CR, BODY_TEXT, BODY_CR, BODY_CHUNK };

void lmtp_body_start_data(struct lmtp_body *b)
{
    b->state = BODY_LINE;
    b->left = 0;
}

void lmtp_body_start_chunk(struct lmtp_body *b, uint64_t size)
{
    b->state = BODY_CHUNK;
    b->left = size;
}

static struct slice take(struct slice *in, size_t size)
{
    struct slice taken = slice_first(*in, size);

    *in = slice_from(*in, size);
    return taken;
}

/* True if text[at] begins a line, `before` being the state at text[0]. */
static bool begins_line(const char *text, size_t at, enum body_state before)
{
    if (at >= 2)
        return text[at - 2] == '\r' && text[at - 1] == '\n';
    return at == 1 && text[0] == '\n' && before == BODY_CR;
}

/* Takes text up to the next "." that begins a line. Only dots are looked for: base64 has none, and of the
 * CRLFs in between nobody wants to know. */
static struct slice take_text(struct lmtp_body *b, struct slice *in)
{
    for (size_t at = 0; at < in->size; at++) {
        at += slice_find(slice_from(*in, at), '.');
        if (!begins_line(in->data, at, b->state))
            continue;
        b->state = BODY_LINE;
        return take(in, at);
    }
    b->state = in->data[in->size - 1] == '\r' ? BODY_CR : BODY_TEXT;
    return take(in, in->size);
}

static enum lmtp_body_next data_feed(struct lmtp_body *b, struct slice *in, struct slice *out_out)
{
    while (in->size > 0) {
        char c = in->data[0];

        switch ((enum body_state)b->state) {
        case BODY_LINE:
            b->state = c == '.' ? BODY_DOT : BODY_TEXT;
            if (c == '.')
                take(in, 1);
            break;
        case BODY_DOT:
            b->state = c == '\r' ? BODY_DOT_CR : BODY_TEXT;
            if (c == '\r')
                take(in, 1);
            break;
        case BODY_DOT_CR:
            if (c == '\n') {
                take(in, 1);
                return LMTP_BODY_END;
            }
            b->state = BODY_CR;
            *out_out = SLICE("\r");
            return LMTP_BODY_PIECE;
        default:
            *out_out = take_text(b, in);
            return LMTP_BODY_PIECE;
        }
    }
    return LMTP_BODY_MORE;
}

enum lmtp_body_next lmtp_body_feed(struct lmtp_body *b, struct slice *in, struct slice *out_out)
{
    if (b->state != BODY_CHUNK)
        return data_feed(b, in, out_out);
    if (b->left == 0)
        return LMTP_BODY_END;
    if (in->size == 0)
        return LMTP_BODY_MORE;
    *out_out = take(in, MIN(in->size, b->left));
    b->left -= out_out->size;
    return LMTP_BODY_PIECE;
}
