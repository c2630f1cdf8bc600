#include "roles/backend/header_fields.h"
#include "core/mail/header.h"

static bool is_named(struct slice name, const struct slice *fields, uint32_t field_count)
{
    for (uint32_t i = 0; i < field_count; i++)
        if (slice_eq_nocase(name, fields[i]))
            return true;
    return false;
}

struct slice header_fields_keep(struct slice header, const struct slice *fields, uint32_t field_count,
                                bool except)
{
    char *out = (char *)header.data;
    size_t kept = 0, at = 0;
    struct header_field field;
    struct header_iter it;

    header_iter_init(&it, header);
    while (header_next(&it, &field)) {
        at += field.raw.size;
        if (is_named(field.name, fields, field_count) == except)
            continue;
        memmove(out + kept, field.raw.data, field.raw.size);
        kept += field.raw.size;
    }
    memmove(out + kept, header.data + at, header.size - at); /* The empty line. */
    return slice_of(out, kept + header.size - at);
}
