#include "core/mail/header.h"
#include "core/mail/transfer.h"
#include "core/text.h"

#define WORD_SIZE_MAX 1024 /* RFC 2047 says 75; longer ones exist. */

void header_iter_init(struct header_iter *it, struct slice header)
{
    it->rest = header;
}

static struct slice first_line(struct slice s)
{
    size_t lf = slice_find(s, '\n');

    return slice_first(s, lf < s.size ? lf + 1 : lf);
}

static struct slice without_line_end(struct slice s)
{
    if (s.size > 0 && s.data[s.size - 1] == '\n')
        s.size--;
    if (s.size > 0 && s.data[s.size - 1] == '\r')
        s.size--;
    return s;
}

bool header_next(struct header_iter *it, struct header_field *field_out)
{
    struct slice line = first_line(it->rest), raw = line;
    size_t colon = slice_find(without_line_end(line), ':');

    if (without_line_end(line).size == 0)
        return false;
    while (raw.size < it->rest.size && char_is_blank(it->rest.data[raw.size]))
        raw.size += first_line(slice_from(it->rest, raw.size)).size;
    it->rest = slice_from(it->rest, raw.size);
    field_out->raw = raw;
    field_out->name = slice_first(line, 0);
    field_out->value = without_line_end(raw);
    if (colon == without_line_end(line).size)
        return true;
    field_out->name = slice_first(line, colon);
    while (field_out->name.size > 0 && char_is_space(line.data[field_out->name.size - 1]))
        field_out->name.size--;
    field_out->value = slice_trim_front(slice_from(field_out->value, colon + 1));
    return true;
}

size_t header_unfold(struct slice value, char *out)
{
    size_t size = 0;

    for (size_t i = 0; i < value.size; i++)
        if (value.data[i] != '\r' && value.data[i] != '\n')
            out[size++] = value.data[i];
    return size;
}

struct encoded_word { /* `=?charset?Q?text?=` */
    struct slice charset, text;
    bool base64;
    size_t size;
};

/* One at the beginning of `s`? */
static bool find_word(struct slice s, struct encoded_word *word)
{
    size_t mark, end;

    s = slice_first(s, MIN(s.size, WORD_SIZE_MAX));
    if (s.size < 8 || s.data[0] != '=' || s.data[1] != '?')
        return false;
    word->charset = slice_from(s, 2);
    mark = slice_find(word->charset, '?');
    if (mark == 0 || mark + 3 > word->charset.size || word->charset.data[mark + 2] != '?')
        return false;
    word->base64 = (word->charset.data[mark + 1] & ~0x20) == 'B';
    if (!word->base64 && (word->charset.data[mark + 1] & ~0x20) != 'Q')
        return false;
    word->text = slice_from(word->charset, mark + 3);
    word->charset = slice_first(word->charset, mark);
    end = slice_find(word->text, '?');
    if (end + 2 > word->text.size || word->text.data[end + 1] != '=')
        return false;
    word->text = slice_first(word->text, end);
    word->size = (size_t)(word->text.data + end + 2 - s.data);
    for (size_t i = 0; i < word->size; i++)
        if (char_is_space(s.data[i]))
            return !word->base64 && i > 2 + mark; /* Blanks in Q are wrong, and common. */
    return true;
}

/* `out` has text.size bytes. */
static size_t decode_q(struct slice text, char *out)
{
    size_t size = 0;

    for (size_t i = 0; i < text.size; i++) {
        int high = -1, low = -1;

        if (text.data[i] == '=' && i + 2 < text.size) {
            high = hex_value(text.data[i + 1]);
            low = hex_value(text.data[i + 2]);
        }
        if (high >= 0 && low >= 0) {
            out[size++] = (char)(high << 4 | low);
            i += 2;
        } else {
            out[size++] = text.data[i] == '_' ? ' ' : text.data[i];
        }
    }
    return size;
}

/* Gives false when the word must stay as it is. */
static bool decode_word(const struct encoded_word *word, const struct charset_converter *converter, char *out,
                        size_t *size_out)
{
    char bytes[WORD_SIZE_MAX + 8];
    enum charset charset = charset_find(word->charset);
    size_t size;

    if (word->base64) {
        struct transfer_decoder d;

        transfer_decoder_init(&d, TRANSFER_BASE64);
        size = transfer_decode(&d, word->text, bytes); /* Never longer than its source. */
    } else {
        size = decode_q(word->text, bytes);
    }
    if (charset != CHARSET_UNKNOWN) {
        *size_out = charset_to_utf8(charset, slice_of(bytes, size), out);
        return true;
    }
    return converter != NULL &&
           converter->convert(converter->context, word->charset, slice_of(bytes, size), out, size_out);
}

/* Blanks and the folding among them are one space. */
static size_t put_plain(char *out, size_t size, char c)
{
    if (!char_is_space(c))
        out[size++] = c;
    else if (size > 0 && out[size - 1] != ' ')
        out[size++] = ' ';
    return size;
}

size_t header_decode(struct slice value, const struct charset_converter *converter, char *out)
{
    size_t size = 0, word_end = 0; /* word_end: of the last word, in `out`; 0: no word before these blanks. */

    while (value.size > 0) {
        struct encoded_word word;
        size_t word_size;

        if (value.data[0] == '=' && find_word(value, &word)) {
            size_t start = word_end > 0 ? word_end : size;

            if (decode_word(&word, converter, out + start, &word_size)) {
                size = word_end = start + word_size;
                value = slice_from(value, word.size);
                continue;
            }
        }
        size = put_plain(out, size, value.data[0]);
        if (!char_is_space(value.data[0]))
            word_end = 0;
        value = slice_from(value, 1);
    }
    return size;
}
