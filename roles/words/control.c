#include "roles/words/control.h"
#include "core/text.h"

/* Goes back to the last star alone: what an earlier one took need not be tried again. */
bool control_mask_matches(struct slice mask, struct slice user)
{
    size_t m = 0, u = 0, star = SIZE_MAX, taken = 0;

    while (u < user.size) {
        if (m < mask.size && mask.data[m] == '*') {
            star = m++;
            taken = u;
        } else if (m < mask.size &&
                   (mask.data[m] == '?' || char_lower(mask.data[m]) == char_lower(user.data[u]))) {
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
