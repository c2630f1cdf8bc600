#include "roles/director/digest.h"
#include <openssl/sha.h>

#define BLOCK_SIZE 64

_Static_assert(DIGEST_SIZE == SHA256_DIGEST_LENGTH, "HMAC-SHA256");

static void pad_start(SHA256_CTX *c, const uint8_t key[DIGEST_SIZE], uint8_t pad)
{
    uint8_t block[BLOCK_SIZE];

    memset(block, pad, sizeof block);
    for (size_t i = 0; i < DIGEST_SIZE; i++)
        block[i] ^= key[i];
    SHA256_Init(c);
    SHA256_Update(c, block, sizeof block);
    bytes_wipe(block, sizeof block);
}

void digest_hmac(const uint8_t key[DIGEST_SIZE], const struct slice *parts, size_t count,
                 uint8_t digest_out[DIGEST_SIZE])
{
    uint8_t inner[DIGEST_SIZE];
    SHA256_CTX c;

    pad_start(&c, key, 0x36);
    for (size_t i = 0; i < count; i++)
        SHA256_Update(&c, parts[i].data, parts[i].size);
    SHA256_Final(inner, &c);
    pad_start(&c, key, 0x5c);
    SHA256_Update(&c, inner, sizeof inner);
    SHA256_Final(digest_out, &c);
    bytes_wipe(&c, sizeof c);
    bytes_wipe(inner, sizeof inner);
}

bool digest_equal_text(const uint8_t key[DIGEST_SIZE], struct slice a, struct slice b)
{
    uint8_t x[DIGEST_SIZE], y[DIGEST_SIZE];

    digest_hmac(key, &a, 1, x);
    digest_hmac(key, &b, 1, y);
    return bytes_equal_secret(x, y, sizeof x);
}
