#include "roles/words/control.h"

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* Goes back to the last star alone: what an earlier one took need not be tried again. */
bool control_mask_matches(struct slice mask, struct slice user)
{
    size_t m = 0, u = 0, star = SIZE_MAX, taken = 0;

    while (u < user.size) {
        if (m < mask.size && mask.data[m] == '*') {
            star = m++;
            taken = u;
        } else if (m < mask.size && (mask.data[m] == '?' || lower(mask.data[m]) == lower(user.data[u]))) {
            m++;
            u++;
        } else if (star != SIZE_MAX) {
            m = star + 1;
            u = ++taken;
        } else {
            return false;
        }
    }
    while (m < mask.size && mask.data[m] == '*')
        m++;
    return m == mask.size;
}
