#include "roles/proxy/lines.h"

#define NUMBER_AT  2   /* In a line of a message. */
#define COUNT_STEP 128 /* What one byte counts surely: so the compiler counts many bytes at once. */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Any line but `* 7 ...`. */
static bool is_note(struct slice line)
{
    return line.size <= NUMBER_AT || line.data[0] != '*' || line.data[1] != ' ' ||
           !is_digit(line.data[NUMBER_AT]);
}

/* `* 7 FETCH (`: 7. 0: another line. */
static uint64_t fetch_number(struct slice line)
{
    uint64_t number = 0;
    size_t at = NUMBER_AT;

    if (is_note(line))
        return 0;
    while (at < line.size && at < LINES_END_MAX && is_digit(line.data[at]))
        number = number * 10 + (uint64_t)(line.data[at++] - '0');
    return slice_starts_nocase(slice_from(line, at), SLICE(" FETCH (")) ? number : 0;
}

/* Does it end in `{12}` CRLF? */
static bool literal_follows(struct slice line, uint64_t *size_out)
{
    uint64_t size = 0, unit = 1;
    size_t at = line.size;

    if (at < 5 || line.data[at - 1] != '\n' || line.data[at - 2] != '\r' || line.data[at - 3] != '}')
        return false;
    for (at -= 3; at > 0 && unit < UINT64_C(10000000000) && is_digit(line.data[at - 1]); unit *= 10)
        size += (uint64_t)(line.data[--at] - '0') * unit;
    if (unit == 1 || at == 0 || line.data[at - 1] != '{')
        return false;
    *size_out = size;
    return true;
}

/* What a whole line is about. */
static uint64_t line_about(struct slice line)
{
    uint64_t number = fetch_number(line);

    return number != 0 ? number : XXH3_64bits(line.data, line.size);
}

static void message_ended(struct lines *l, uint64_t about)
{
    l->about = about;
    l->whole++;
}

/* One that lies in one piece. */
static void line_ended(struct lines *l, struct slice line)
{
    if (!is_note(line))
        message_ended(l, line_about(line));
}

/* The end of what has been of the line so far: of this piece, and of the one before. */
static void tail_keep(struct lines *l, struct slice piece)
{
    size_t take = MIN(piece.size, (size_t)LINES_END_MAX),
           keep = MIN((size_t)l->tail_size, LINES_END_MAX - take);

    memmove(l->tail, l->tail + l->tail_size - keep, keep);
    memcpy(l->tail + keep, piece.data + piece.size - take, take);
    l->tail_size = (uint8_t)(keep + take);
}

static void piece_take(struct lines *l, struct slice piece)
{
    if (l->part == 0) {
        XXH3_64bits_reset(&l->hash);
        l->head_size = l->tail_size = 0;
    }
    if (l->head_size == l->part && l->head_size < LINES_END_MAX) {
        size_t take = MIN(piece.size, (size_t)LINES_END_MAX - l->head_size);

        memcpy(l->head + l->head_size, piece.data, take);
        l->head_size += (uint8_t)take;
    }
    XXH3_64bits_update(&l->hash, piece.data, piece.size);
    l->part += piece.size;
}

/* Up to and with LF, or what there is. */
static void text_take(struct lines *l, struct slice piece)
{
    struct slice head;
    uint64_t number;

    piece_take(l, piece);
    tail_keep(l, piece);
    if (piece.data[piece.size - 1] != '\n' || literal_follows(slice_of(l->tail, l->tail_size), &l->literal))
        return;
    l->part = 0;
    head = slice_of(l->head, l->head_size);
    number = fetch_number(head);
    if (!is_note(head))
        message_ended(l, number != 0 ? number : XXH3_64bits_digest(&l->hash));
}

/* How many of these whole lines are of messages. */
static uint64_t count_messages(struct slice lines)
{
    size_t end = lines.size > NUMBER_AT ? lines.size - NUMBER_AT - 1 : 0;
    uint64_t count = !is_note(lines);

    for (size_t at = 0; at < end; at += COUNT_STEP) {
        const char *step = lines.data + at;
        size_t size = MIN(end - at, (size_t)COUNT_STEP);
        uint8_t some = 0;

        for (size_t i = 0; i < size; i++)
            some += (uint8_t)((step[i] == '\n') & is_digit(step[i + 1 + NUMBER_AT]));
        count += some;
    }
    return count;
}

/* The whole lines before the first brace, which no literal can follow, at once. Their size. */
static size_t plain_lines_take(struct lines *l, struct slice in)
{
    struct slice plain = slice_first(in, slice_find(in, '}')), last;
    size_t size = slice_after_last(plain, '\n'), end = size;
    uint64_t count;

    if (size == 0)
        return 0;
    plain = slice_first(plain, size);
    count = count_messages(plain);
    if (count == 0)
        return size;
    do {
        size_t begin = slice_after_last(slice_first(plain, end - 1), '\n');

        last = slice_from(slice_first(plain, end), begin);
        end = begin;
    } while (is_note(last));
    l->whole += count - 1;
    message_ended(l, line_about(last));
    return size;
}

/* A line, what there is of one, or some of a literal. Its size. */
static size_t line_take(struct lines *l, struct slice in)
{
    size_t size = slice_find(in, '\n');
    struct slice piece = slice_first(in, MIN(size + 1, in.size));
    uint64_t literal;

    if (l->literal > 0) {
        piece = slice_first(in, MIN(l->literal, in.size));
        piece_take(l, piece);
        l->literal -= piece.size;
        l->tail_size = 0;
    } else if (l->part > 0 || size == in.size || literal_follows(piece, &literal)) {
        text_take(l, piece);
    } else {
        line_ended(l, piece);
    }
    return piece.size;
}

size_t lines_feed(struct lines *l, struct slice in, uint64_t whole)
{
    struct slice rest = in;

    while (rest.size > 0 && l->whole != whole) {
        if (whole == UINT64_MAX && l->part == 0 && l->literal == 0)
            rest = slice_from(rest, plain_lines_take(l, rest));
        if (rest.size > 0)
            rest = slice_from(rest, line_take(l, rest));
    }
    return in.size - rest.size;
}

/* Is what has begun, or begins with `in`, a note? While that cannot be told it may be one. */
static bool note_follows(const struct lines *l, struct slice in)
{
    char begun[NUMBER_AT + 1];
    size_t size = MIN(l->part, sizeof begun), more = MIN(sizeof begun - size, in.size);

    memcpy(begun, l->head, size);
    memcpy(begun + size, in.data, more);
    return size + more < sizeof begun || is_note(slice_of(begun, size + more));
}

size_t lines_pass_notes(struct lines *l, const struct lines *before, struct slice in)
{
    struct slice rest = in;

    if (is_note(slice_of(before->head, MIN(before->part, (uint64_t)before->head_size))))
        return 0;
    while (rest.size > 0 && note_follows(l, rest))
        rest = slice_from(rest, line_take(l, rest));
    return in.size - rest.size;
}

bool lines_part_same(const struct lines *a, const struct lines *b)
{
    return a->part == b->part &&
           (a->part == 0 || XXH3_64bits_digest(&a->hash) == XXH3_64bits_digest(&b->hash));
}
