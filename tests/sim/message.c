#include "tests/sim/message.h"
#include "core/sim/random.h"
#include <stdio.h>

#define HEADER_SIZE_MAX 256
#define LINE_SIZE       64

static size_t header_write(uint32_t id, char out[HEADER_SIZE_MAX])
{
    int size =
        snprintf(out, HEADER_SIZE_MAX,
                 "From: Sender <sender@sim.example>\r\nTo: Reader <reader@sim.example>\r\n"
                 "Subject: Message %u of the simulator\r\nMessage-ID: <%u@sim.example>\r\n" MESSAGE_FIELD
                 ": %u\r\n\r\n",
                 id, id, id);

    return (size_t)size;
}

static size_t line_count(uint32_t id)
{
    struct sim_random r;

    sim_random_init(&r, id, 77);
    if (sim_random_one_in(&r, 400))
        return (size_t)sim_random_range(&r, 17000, 20000); /* More than a megabyte. */
    if (sim_random_one_in(&r, 20))
        return (size_t)sim_random_range(&r, 100, 2000);
    return (size_t)sim_random_range(&r, 1, 60);
}

size_t message_size(uint32_t id)
{
    char header[HEADER_SIZE_MAX];

    return header_write(id, header) + line_count(id) * LINE_SIZE;
}

/* LINE_SIZE bytes: the message's number and the line's, so that no two lines of the world are equal. */
static void line_write(uint32_t id, size_t line, char *out)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t word = (uint64_t)id << 32 | line;

    memset(out, line % 7 == 0 ? '.' : 'a' + (char)(line % 26), LINE_SIZE - 2);
    for (unsigned k = 0; k < 16; k++)
        out[4 + k] = digits[word >> (60 - 4 * k) & 15];
    memcpy(out + LINE_SIZE - 2, "\r\n", 2);
}

void message_write(uint32_t id, char *out)
{
    size_t count = line_count(id);

    out += header_write(id, out);
    for (size_t k = 0; k < count; k++, out += LINE_SIZE)
        line_write(id, k, out);
}

/* Lines of a header, each of which is whole: "Name: value" or a continuation. */
static bool is_header(struct slice s)
{
    while (s.size > 0) {
        size_t end = slice_find(s, '\n');

        if (end == s.size || end == 0 || s.data[end - 1] != '\r')
            return false;
        if (s.data[0] != ' ' && s.data[0] != '\t' && slice_find(slice_first(s, end), ':') == end)
            return false;
        s = slice_from(s, end + 1);
    }
    return true;
}

bool message_matches(uint32_t id, struct slice text, size_t *prefix_size_out)
{
    char header[HEADER_SIZE_MAX], line[LINE_SIZE];
    size_t header_size = header_write(id, header), count = line_count(id),
           size = header_size + count * LINE_SIZE;
    struct slice own;

    if (text.size < size || !is_header(slice_first(text, text.size - size)))
        return false;
    own = slice_from(text, text.size - size);
    if (memcmp(own.data, header, header_size) != 0)
        return false;
    for (size_t k = 0; k < count; k++) {
        line_write(id, k, line);
        if (memcmp(own.data + header_size + k * LINE_SIZE, line, LINE_SIZE) != 0)
            return false;
    }
    *prefix_size_out = text.size - size;
    return true;
}

bool message_id_parse(struct slice header, uint32_t *id_out)
{
    struct slice name = SLICE(MESSAGE_FIELD ": ");
    uint64_t id;

    if (!slice_starts_nocase(header, name))
        return false;
    header = slice_from(header, name.size);
    if (!slice_to_u64(slice_first(header, slice_find(header, '\r')), UINT32_MAX, &id))
        return false;
    *id_out = (uint32_t)id;
    return true;
}
