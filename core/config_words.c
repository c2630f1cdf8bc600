/* core/config_words.c -- words of people as numbers. */
#include "core/config_private.h"

struct unit {
    const char *suffix;
    uint64_t factor;
};

/* `units` ends with a NULL suffix. */
static bool number_with_unit(struct slice text, const struct unit *units, uint64_t *value_out)
{
    size_t digits = 0;
    struct slice suffix;
    uint64_t number;

    while (digits < text.size && text.data[digits] >= '0' && text.data[digits] <= '9')
        digits++;
    if (!slice_to_u64(slice_first(text, digits), UINT64_MAX, &number))
        return false;
    suffix = slice_trim(slice_from(text, digits));
    for (const struct unit *u = units; u->suffix != NULL; u++) {
        if (!slice_eq(suffix, slice_str(u->suffix)))
            continue;
        if (number > UINT64_MAX / u->factor)
            return false;
        *value_out = number * u->factor;
        return true;
    }
    return false;
}

bool config_size_parse(struct slice text, uint64_t *bytes_out)
{
    static const struct unit units[] = {{"", 1},
                                        {"B", 1},
                                        {"KiB", UINT64_C(1) << 10},
                                        {"MiB", UINT64_C(1) << 20},
                                        {"GiB", UINT64_C(1) << 30},
                                        {"TiB", UINT64_C(1) << 40},
                                        {NULL, 0}};

    return number_with_unit(text, units, bytes_out);
}

bool config_duration_parse(struct slice text, uint64_t *ms_out)
{
    static const struct unit units[] = {{"ms", 1},          {"s", 1000},         {"min", 60 * 1000},
                                        {"h", 3600 * 1000}, {"d", 86400 * 1000}, {NULL, 0}};

    if (slice_eq(text, SLICE("0"))) {
        *ms_out = 0;
        return true;
    }
    return number_with_unit(text, units, ms_out);
}

bool config_bool_parse(struct slice text, uint64_t *value_out)
{
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};

    for (size_t i = 0; i < ARRAY_COUNT(yes); i++) {
        if (slice_eq_nocase(text, slice_str(yes[i])) || slice_eq_nocase(text, slice_str(no[i]))) {
            *value_out = slice_eq_nocase(text, slice_str(yes[i]));
            return true;
        }
    }
    return false;
}

bool config_choice_find(const char *choices, struct slice word, size_t *index_out)
{
    struct slice rest = slice_str(choices);

    for (size_t index = 0;; index++) {
        size_t end = slice_find(rest, '|');

        if (slice_eq(slice_first(rest, end), word)) {
            *index_out = index;
            return true;
        }
        if (end == rest.size)
            return false;
        rest = slice_from(rest, end + 1);
    }
}

size_t config_choice_count(const char *choices)
{
    size_t count = 1;

    for (const char *p = choices; *p != '\0'; p++)
        count += *p == '|';
    return count;
}
