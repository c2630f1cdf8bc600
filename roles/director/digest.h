/* roles/director/digest.h -- HMAC-SHA256 (RFC 2104) over BoringSSL's SHA-256: no allocation, a shallow stack,
 * so a fiber may call it. */
#pragma once
#include "core/base.h"

#define DIGEST_SIZE 32

/* Of the parts one after the other; the caller makes the boundaries clear. */
void digest_hmac(const uint8_t key[DIGEST_SIZE], const struct slice *parts, size_t count,
                 uint8_t digest_out[DIGEST_SIZE]);
/* Equal? Takes a time that depends on the sizes alone, and not on where they differ. */
MUST_CHECK bool digest_equal_text(const uint8_t key[DIGEST_SIZE], struct slice a, struct slice b);
