#include "roles/backend/pattern.h"
#include "core/mail/mutf7.h"

#define WORD_BITS 64

static void bit_set(uint64_t *words, uint32_t bit)
{
    words[bit / WORD_BITS] |= 1ull << (bit % WORD_BITS);
}

static bool is_wild(char c)
{
    return c == '*' || c == '%';
}

/* Runs of wildcards become one: `*` if there is one among them. So none follows another. */
static size_t collapse(struct slice text, char *out)
{
    size_t size = 0;

    for (size_t i = 0; i < text.size; i++) {
        if (is_wild(text.data[i]) && size > 0 && is_wild(out[size - 1])) {
            if (text.data[i] == '*')
                out[size - 1] = '*';
            continue;
        }
        out[size++] = text.data[i];
    }
    return size;
}

/* A first level that spells INBOX is one name in any case. */
static void inbox_upper(char *text, size_t size)
{
    static const struct slice inbox = {"INBOX", 5};

    if (slice_starts_nocase(slice_of(text, size), inbox) &&
        (size == 5 || text[5] == MAILBOX_SEPARATOR || is_wild(text[5])))
        memcpy(text, inbox.data, inbox.size);
}

bool pattern_init(struct pattern *p, struct arena *a, struct slice text)
{
    char *chars;
    size_t size, rows = 1;

    if (text.size > PATTERN_SIZE_MAX)
        return false;
    memset(p, 0, sizeof *p);
    chars = arena_alloc(a, text.size);
    size = collapse(text, chars);
    inbox_upper(chars, size);
    p->end = (uint32_t)size;
    p->word_count = (uint32_t)(size / WORD_BITS + 1);
    for (size_t i = 0; i < size; i++)
        if (!is_wild(chars[i]) && p->row[(uint8_t)chars[i]] == 0)
            p->row[(uint8_t)chars[i]] = (uint8_t)rows++;
    p->places = arena_zalloc(a, (rows + 3) * p->word_count * sizeof(uint64_t));
    p->any = p->places + rows * p->word_count;
    p->level = p->any + p->word_count;
    p->state = p->level + p->word_count;
    for (uint32_t i = 0; i < size; i++) {
        if (chars[i] == '*')
            bit_set(p->any, i);
        else if (chars[i] == '%')
            bit_set(p->level, i);
        else
            bit_set(p->places + (size_t)p->row[(uint8_t)chars[i]] * p->word_count, i);
    }
    return true;
}

/* A wildcard may match nothing: whoever stands before one also stands behind it. */
static void state_close(struct pattern *p)
{
    uint64_t carry = 0;

    for (uint32_t i = 0; i < p->word_count; i++) {
        uint64_t wild = p->state[i] & (p->any[i] | p->level[i]);

        p->state[i] |= wild << 1 | carry;
        carry = wild >> (WORD_BITS - 1);
    }
}

static bool state_step(struct pattern *p, char c)
{
    const uint64_t *place = p->places + (size_t)p->row[(uint8_t)c] * p->word_count;
    uint64_t carry = 0, alive = 0;

    for (uint32_t i = 0; i < p->word_count; i++) {
        uint64_t matched = p->state[i] & place[i];
        uint64_t stay = p->state[i] & (c == MAILBOX_SEPARATOR ? p->any[i] : p->any[i] | p->level[i]);

        p->state[i] = matched << 1 | carry | stay;
        carry = matched >> (WORD_BITS - 1);
        alive |= p->state[i];
    }
    state_close(p);
    return alive != 0;
}

bool pattern_match(struct pattern *p, struct slice name)
{
    memset(p->state, 0, p->word_count * sizeof(uint64_t));
    p->state[0] = 1;
    state_close(p);
    for (size_t i = 0; i < name.size; i++)
        if (!state_step(p, name.data[i]))
            return false;
    return (p->state[p->end / WORD_BITS] >> (p->end % WORD_BITS) & 1) != 0;
}
