/* roles/director/user_name.h -- the one form in which a user's name is looked up, cached, hashed and logged. */
#pragma once
#include "core/base.h"

#define USER_NAME_MAX 254 /* As an address, RFC 5321 4.5.3.1.3. */

/* Normalised: ASCII letters in lower case. */
struct user_name {
    uint8_t size;
    char bytes[USER_NAME_MAX + 1]; /* NUL-terminated, too. */
};

static inline struct slice user_name_slice(const struct user_name *u)
{
    return slice_of(u->bytes, u->size);
}

/* Lower-cases ASCII. False: empty, too long, or with a character that no user name has: allowed are ASCII
 * letters, digits and . - _ + = ' with at most one @ that is neither first nor last, no . in front and no two
 * in a row. So a name is never a path, a format, a pattern or a header. */
MUST_CHECK bool user_name_parse(struct slice text, struct user_name *name_out);
