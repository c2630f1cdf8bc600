/* net/tls_keys.h -- keys of TLS records: the cipher suites, what a traffic secret yields, and the ready ciphers of
 * those connections that spoke last. A connection at rest is secrets and numbers; what they yield is derived
 * when it speaks, a microsecond a direction. Private to net/tls_record.c and the BoringSSL half.
 *
 * Owner:  one shard; no locks.
 * Memory: TLS_CIPHERS_MAX ciphers a shard, in secret pages, for as long as the shard has contexts or sessions. */
#pragma once
#include "core/shard.h"
#include "net/tls.h"
#include <openssl/aead.h>
#include <openssl/digest.h>

#define TLS_SECRET_MAX  48
#define TLS_NONCE_SIZE  12
#define TLS_TAG_SIZE    16
#define TLS_CIPHERS_MAX 256

struct tls_suite {
    uint16_t id; /* IANA's. */
    bool tls13;
    uint8_t key_size;
    uint8_t salt_size;   /* TLS 1.2: of the nonce's secret part, 4 (the rest is sent along) or 12. */
    uint8_t secret_size; /* TLS 1.3: a traffic secret; TLS 1.2: key and salt. */
    const char *name;
    const EVP_AEAD *(*aead)(void);
    const EVP_MD *(*hash)(void);
    uint64_t records_max; /* What one key may seal (RFC 8446 5.5, rounded down). */
};

/* The index of a suite is part of what tls_pack() writes. */
#define TLS_SUITE_COUNT 9
extern const struct tls_suite tls_suites[TLS_SUITE_COUNT];
const struct tls_suite *tls_suite_find(uint16_t id); /* NULL: none of ours. */

struct tls_direction {
    uint64_t sequence; /* Of the next record. */
    uint8_t secret[TLS_SECRET_MAX];
    uint16_t cipher; /* Where its cipher was last, if it is still there. */
};

struct tls_cipher {
    const struct tls_direction *owner; /* NULL: free. */
    bool used;                         /* Since the search for a victim came by. */
    uint8_t salt[TLS_NONCE_SIZE];
    EVP_AEAD_CTX aead;
};

/* Lives until the next call for another direction. */
const struct tls_cipher *tls_cipher_of(struct tls_direction *d, const struct tls_suite *suite);
/* Before d's secret or place changes. */
void tls_cipher_drop(const struct tls_direction *d);
/* RFC 8446 7.2: the next generation of keys, from sequence 0 on. */
void tls_secret_next(struct tls_direction *d, const struct tls_suite *suite);

/* ---- What the sessions of a shard share ---------------------------------------------------------------- */

struct tls_shard { /* In SLOT_TLS and in secret pages; made by net/tls_boring.c. */
    uint32_t references;
    uint32_t victim; /* Where to look next for a cipher to give up. */
    struct slab sessions;
    struct tls_cipher ciphers[TLS_CIPHERS_MAX];
    char plain[TLS_RECORD_MAX + 1]; /* Of the last call. */
};

static inline struct tls_shard *tls_shard(void)
{
    return shard_self()->slot[SLOT_TLS];
}
