#include "roles/backend/header_fields.h"

static size_t line_size(struct slice rest)
{
    size_t end = slice_find(rest, '\n');

    return end < rest.size ? end + 1 : rest.size;
}

static bool line_is_empty(struct slice line)
{
    return slice_eq(line, SLICE("\r\n")) || slice_eq(line, SLICE("\n"));
}

static bool field_is_named(struct slice line, const struct slice *fields, uint32_t field_count)
{
    size_t end = slice_find(line, ':');

    if (end == line.size)
        return false;
    while (end > 0 && (line.data[end - 1] == ' ' || line.data[end - 1] == '\t')) /* Obsolete, and seen. */
        end--;
    for (uint32_t i = 0; i < field_count; i++)
        if (slice_eq_nocase(slice_first(line, end), fields[i]))
            return true;
    return false;
}

struct slice header_fields_keep(struct slice header, const struct slice *fields, uint32_t field_count,
                                bool except)
{
    char *out = (char *)header.data;
    size_t kept_size = 0, size;
    bool keep = false;

    for (size_t at = 0; at < header.size; at += size) {
        struct slice line = slice_from(header, at);

        size = line_size(line);
        line.size = size;
        if (line_is_empty(line))
            keep = true;
        else if (line.data[0] != ' ' && line.data[0] != '\t')
            keep = field_is_named(line, fields, field_count) != except;
        if (!keep)
            continue;
        memmove(out + kept_size, line.data, size);
        kept_size += size;
    }
    return slice_of(out, kept_size);
}
