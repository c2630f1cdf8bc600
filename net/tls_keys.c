#include "net/tls_keys.h"
#include <openssl/hkdf.h>

/* AES-GCM: 2^24.5 records of full size. ChaCha20-Poly1305: as many as can be counted, and an alert. */
#define RECORDS_GCM    (UINT64_C(1) << 24)
#define RECORDS_CHACHA (UINT64_MAX - 2)

#define AES_128(id, name)                                                                                    \
    {                                                                                                        \
        id, false, 16, 4, 20, name, EVP_aead_aes_128_gcm, EVP_sha256, RECORDS_GCM                            \
    }
#define AES_256(id, name)                                                                                    \
    {                                                                                                        \
        id, false, 32, 4, 36, name, EVP_aead_aes_256_gcm, EVP_sha384, RECORDS_GCM                            \
    }
#define CHACHA(id, name)                                                                                     \
    {                                                                                                        \
        id, false, 32, 12, 44, name, EVP_aead_chacha20_poly1305, EVP_sha256, RECORDS_CHACHA                  \
    }

const struct tls_suite tls_suites[TLS_SUITE_COUNT] = {
    {0x1301, true, 16, 12, 32, "TLS_AES_128_GCM_SHA256", EVP_aead_aes_128_gcm, EVP_sha256, RECORDS_GCM},
    {0x1302, true, 32, 12, 48, "TLS_AES_256_GCM_SHA384", EVP_aead_aes_256_gcm, EVP_sha384, RECORDS_GCM},
    {0x1303, true, 32, 12, 32, "TLS_CHACHA20_POLY1305_SHA256", EVP_aead_chacha20_poly1305, EVP_sha256,
     RECORDS_CHACHA},
    AES_128(0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    AES_128(0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    AES_256(0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    AES_256(0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    CHACHA(0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    CHACHA(0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
};

const struct tls_suite *tls_suite_find(uint16_t id)
{
    for (unsigned i = 0; i < TLS_SUITE_COUNT; i++) {
        if (tls_suites[i].id == id)
            return &tls_suites[i];
    }
    return NULL;
}

/* ---- Secrets ------------------------------------------------------------------------------------------- */

/* RFC 8446 7.1, HKDF-Expand-Label without a context. `label` has its "tls13 " before it. */
static void expand(const struct tls_suite *suite, const uint8_t *secret, struct slice label, uint8_t *out,
                   size_t size)
{
    uint8_t info[32] = {0, (uint8_t)size, (uint8_t)label.size};

    ASSERT(label.size + 4 <= sizeof info && size <= TLS_SECRET_MAX);
    memcpy(info + 3, label.data, label.size);
    ASSERT(HKDF_expand(out, size, suite->hash(), secret, suite->secret_size, info, label.size + 4) == 1);
}

void tls_secret_next(struct tls_direction *d, const struct tls_suite *suite)
{
    uint8_t next[TLS_SECRET_MAX];

    ASSERT(suite->tls13);
    tls_cipher_drop(d);
    expand(suite, d->secret, SLICE("tls13 traffic upd"), next, suite->secret_size);
    memcpy(d->secret, next, suite->secret_size);
    bytes_wipe(next, sizeof next);
    d->sequence = 0;
}

/* ---- Ciphers ------------------------------------------------------------------------------------------- */

static void cipher_clear(struct tls_cipher *c)
{
    if (c->owner != NULL)
        EVP_AEAD_CTX_cleanup(&c->aead);
    bytes_wipe(c, sizeof *c);
}

void tls_cipher_drop(const struct tls_direction *d)
{
    struct tls_cipher *c = &tls_shard()->ciphers[d->cipher];

    if (c->owner == d)
        cipher_clear(c);
}

static void cipher_make(struct tls_cipher *c, const struct tls_direction *d, const struct tls_suite *suite)
{
    uint8_t key[32];

    if (suite->tls13) {
        expand(suite, d->secret, SLICE("tls13 key"), key, suite->key_size);
        expand(suite, d->secret, SLICE("tls13 iv"), c->salt, suite->salt_size);
    } else {
        memcpy(key, d->secret, suite->key_size);
        memcpy(c->salt, d->secret + suite->key_size, suite->salt_size);
    }
    /* It fails for keys of a wrong size only. */
    ASSERT(EVP_AEAD_CTX_init(&c->aead, suite->aead(), key, suite->key_size, TLS_TAG_SIZE, NULL) == 1);
    bytes_wipe(key, sizeof key);
    c->owner = d;
}

const struct tls_cipher *tls_cipher_of(struct tls_direction *d, const struct tls_suite *suite)
{
    struct tls_shard *shared = tls_shard();
    struct tls_cipher *c = &shared->ciphers[d->cipher];

    while (c->owner != d) { /* The second chance: who was used since the last round is passed over once. */
        d->cipher = (uint16_t)(shared->victim++ % TLS_CIPHERS_MAX);
        c = &shared->ciphers[d->cipher];
        if (c->used) {
            c->used = false;
            continue;
        }
        cipher_clear(c);
        cipher_make(c, d, suite);
    }
    c->used = true;
    return c;
}
