#include "core/mail/flags.h"

static const struct slice flag_names[] = {
    {"\\Answered", 9}, {"\\Flagged", 8}, {"\\Deleted", 8}, {"\\Seen", 5}, {"\\Draft", 6}, {"\\Recent", 7},
};
_Static_assert(MAIL_FLAGS_ALL == (1 << ARRAY_COUNT(flag_names)) - 1, "a name for every bit");

uint32_t mail_flag_find(struct slice name)
{
    for (size_t i = 0; i < ARRAY_COUNT(flag_names); i++)
        if (slice_eq_nocase(name, flag_names[i]))
            return 1u << i;
    return 0;
}

struct slice mail_flag_name(enum mail_flag flag)
{
    for (size_t i = 0; i < ARRAY_COUNT(flag_names); i++)
        if (flag == 1u << i)
            return flag_names[i];
    ASSERT(!"one bit of enum mail_flag");
    return SLICE("");
}

void mail_flags_write(struct writer *w, uint32_t flags)
{
    bool first = true;

    for (size_t i = 0; i < ARRAY_COUNT(flag_names); i++) {
        if ((flags & 1u << i) == 0)
            continue;
        if (!first)
            writer_char(w, ' ');
        first = false;
        writer_slice(w, flag_names[i]);
    }
}

bool mail_keyword_valid(struct slice name)
{
    if (name.size == 0 || name.size > KEYWORD_SIZE_MAX)
        return false;
    for (size_t i = 0; i < name.size; i++) {
        unsigned char c = (unsigned char)name.data[i];

        /* `atom`, RFC 3501 9: no specials, no controls, no 8-bit. The backslash is a quoted-special. */
        if (c <= ' ' || c >= 0x7f || strchr("(){%*\"\\]", c) != NULL)
            return false;
    }
    return true;
}
