/* roles/backend/header_fields.h -- what HEADER.FIELDS and HEADER.FIELDS.NOT leave of a header (RFC 3501
 * 6.4.5).
 * Owner:  nobody; a pure function. */
#pragma once
#include "core/base.h"

#define HEADER_FIELDS_SIZE_MAX (1024 * 1024) /* Of a header: what is beyond is not looked at. */

/* Moves the fields that stay to the front of `header` (so it must be writable) and returns them, with the
 * empty line that ends a header. `except`: all but those named. Field names compare without case; a folded
 * field is one. */
struct slice header_fields_keep(struct slice header, const struct slice *fields, uint32_t field_count,
                                bool except);
