#include "core/text.h"

bool slice_eq_nocase(struct slice a, struct slice b)
{
    return a.size == b.size && slice_starts_nocase(a, b);
}

bool slice_starts_nocase(struct slice s, struct slice prefix)
{
    if (s.size < prefix.size)
        return false;
    for (size_t i = 0; i < prefix.size; i++) {
        if (char_lower(s.data[i]) != char_lower(prefix.data[i]))
            return false;
    }
    return true;
}

bool slice_to_u64(struct slice s, uint64_t max, uint64_t *value_out)
{
    uint64_t value = 0;

    if (s.size == 0)
        return false;
    for (size_t i = 0; i < s.size; i++) {
        unsigned digit = (unsigned char)s.data[i] - (unsigned)'0';

        if (digit > 9 || value > (max - MIN(max, digit)) / 10)
            return false;
        value = value * 10 + digit;
        if (value > max)
            return false;
    }
    *value_out = value;
    return true;
}

void bytes_wipe(void *data, size_t size)
{
    if (size > 0)
        explicit_bzero(data, size);
}

bool bytes_equal_secret(const void *a, const void *b, size_t size)
{
    const volatile uint8_t *x = a, *y = b;
    uint8_t difference = 0;

    for (size_t i = 0; i < size; i++)
        difference |= x[i] ^ y[i];
    return difference == 0;
}
