/* core/mail/mime_value.h -- the values of Content-Type and Content-Disposition (RFC 2045 5.1, RFC 2183),
 * pieces of long parameters put together (RFC 2231 3) but nothing decoded: IMAP shows parameters as they were
 * written.
 * Owner:  the parser of one header; embedded (4 KiB: not on a fiber's stack).
 * Memory: texts live in the caller's arena, about three times the value.
 * Bounds: MIME_PARAM_COUNT_MAX parameters; the rest of the value is ignored. */
#pragma once
#include "core/base.h"
#include "core/heap.h"
#include "core/mail/mime.h"

struct mime_param {
    struct slice name, value;
};

struct mime_value {
    struct slice type, subtype; /* Content-Disposition has no subtype. */
    uint32_t param_count;
    struct mime_param params[MIME_PARAM_COUNT_MAX];
};

/* False: not a type, so the field says nothing (RFC 2045 5.2) and *out has no type. */
MUST_CHECK bool mime_type_parse(struct mime_value *out, struct slice value, struct arena *arena);
MUST_CHECK bool mime_disposition_parse(struct mime_value *out, struct slice value, struct arena *arena);
/* NULL: no such parameter. */
const struct mime_param *mime_param_find(const struct mime_value *v, struct slice name);
