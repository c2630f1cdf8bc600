/* net/base64.h -- RFC 4648 base64, strict and bounded. */
#pragma once
#include "core/base.h"

/* Padding required, no white space, no other alphabet, unused bits zero: one text for one value. False, and
 * `out` unspecified, if `text` is anything else or decodes to more than out_max bytes. Secrets leave no copy. */
MUST_CHECK bool base64_decode(struct slice text, char *out, size_t out_max, size_t *size_out);

#define BASE64_SIZE(n) (((n) + 2) / 3 * 4)
/* Writes BASE64_SIZE(in.size) bytes, no NUL. Returns how many. */
size_t base64_encode(struct slice in, char *out);
