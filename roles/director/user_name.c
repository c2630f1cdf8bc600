#include "roles/director/user_name.h"

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           (c != '\0' && memchr(".-_+='@", c, sizeof ".-_+='@" - 1) != NULL);
}

bool user_name_parse(struct slice text, struct user_name *name_out)
{
    struct user_name name = {.size = 0};
    unsigned at_signs = 0;
    char previous = '.'; /* So that the first one may not be a dot. */

    if (text.size == 0 || text.size > USER_NAME_MAX)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        char c = text.data[i];

        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        if (!is_letter(c) || (c == '.' && previous == '.'))
            return false;
        at_signs += c == '@';
        name.bytes[i] = previous = c;
    }
    if (at_signs > 1 || name.bytes[0] == '@' || previous == '@')
        return false;
    name.size = (uint8_t)text.size;
    *name_out = name;
    return true;
}
