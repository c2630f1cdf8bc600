#include "tests/unit/net/nonces.h"
#include <pthread.h>
#include <stdlib.h>

struct use {
    uint8_t key[32], nonce[TLS_NONCE_SIZE];
    bool taken;
};

#define USES_MAX  (1u << 20)
#define KEYED_MAX 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct use uses[USES_MAX]; /* A hash table with open addressing. */
static unsigned use_count, repeat_count, secret_count;
static struct keyed {
    const EVP_AEAD_CTX *ctx;
    uint8_t key[32];
} keyed[KEYED_MAX];
static unsigned keyed_count;

int __real_EVP_AEAD_CTX_init(EVP_AEAD_CTX *ctx, const EVP_AEAD *aead, const uint8_t *key, size_t key_size,
                             size_t tag_size, ENGINE *engine);
int __wrap_EVP_AEAD_CTX_init(EVP_AEAD_CTX *ctx, const EVP_AEAD *aead, const uint8_t *key, size_t key_size,
                             size_t tag_size, ENGINE *engine);
int __real_EVP_AEAD_CTX_seal_scatter(const EVP_AEAD_CTX *ctx, uint8_t *out, uint8_t *tag, size_t *tag_size,
                                     size_t tag_size_max, const uint8_t *nonce, size_t nonce_size,
                                     const uint8_t *in, size_t in_size, const uint8_t *more, size_t more_size,
                                     const uint8_t *ad, size_t ad_size);
int __wrap_EVP_AEAD_CTX_seal_scatter(const EVP_AEAD_CTX *ctx, uint8_t *out, uint8_t *tag, size_t *tag_size,
                                     size_t tag_size_max, const uint8_t *nonce, size_t nonce_size,
                                     const uint8_t *in, size_t in_size, const uint8_t *more, size_t more_size,
                                     const uint8_t *ad, size_t ad_size);

unsigned nonces_used(void)
{
    return use_count;
}

unsigned nonces_repeated(void)
{
    return repeat_count;
}

static struct keyed *keyed_find(const EVP_AEAD_CTX *ctx)
{
    for (unsigned i = 0; i < keyed_count; i++) {
        if (keyed[i].ctx == ctx)
            return &keyed[i];
    }
    return NULL;
}

int __wrap_EVP_AEAD_CTX_init(EVP_AEAD_CTX *ctx, const EVP_AEAD *aead, const uint8_t *key, size_t key_size,
                             size_t tag_size, ENGINE *engine)
{
    struct keyed *k;

    pthread_mutex_lock(&lock);
    k = keyed_find(ctx);
    if (k == NULL) {
        ASSERT(keyed_count < KEYED_MAX);
        k = &keyed[keyed_count++];
    }
    *k = (struct keyed){.ctx = ctx};
    memcpy(k->key, key, key_size);
    pthread_mutex_unlock(&lock);
    return __real_EVP_AEAD_CTX_init(ctx, aead, key, key_size, tag_size, engine);
}

int __wrap_EVP_AEAD_CTX_seal_scatter(const EVP_AEAD_CTX *ctx, uint8_t *out, uint8_t *tag, size_t *tag_size,
                                     size_t tag_size_max, const uint8_t *nonce, size_t nonce_size,
                                     const uint8_t *in, size_t in_size, const uint8_t *more, size_t more_size,
                                     const uint8_t *ad, size_t ad_size)
{
    struct use u = {.taken = true};
    const struct keyed *k;
    size_t at;

    ASSERT(nonce_size == TLS_NONCE_SIZE);
    pthread_mutex_lock(&lock);
    k = keyed_find(ctx);
    ASSERT(k != NULL);
    memcpy(u.key, k->key, sizeof u.key);
    memcpy(u.nonce, nonce, sizeof u.nonce);
    at = (get_u64(u.key) ^ get_u64(u.nonce + 4) * UINT64_C(0x9e3779b97f4a7c15)) >> 7;
    while (uses[at % USES_MAX].taken && memcmp(&uses[at % USES_MAX], &u, sizeof u) != 0)
        at++;
    repeat_count += uses[at % USES_MAX].taken;
    uses[at % USES_MAX] = u;
    ASSERT(++use_count < USES_MAX / 2);
    pthread_mutex_unlock(&lock);
    return __real_EVP_AEAD_CTX_seal_scatter(ctx, out, tag, tag_size, tag_size_max, nonce, nonce_size, in,
                                            in_size, more, more_size, ad, ad_size);
}

size_t tls_ends_make(unsigned suite, uint64_t read_sequence, uint64_t write_sequence,
                     uint8_t packed_out[TLS_PACKED_MAX], struct tls **peer_out)
{
    struct tls_record us = {.suite = &tls_suites[suite]}, peer = us;
    uint8_t packed[TLS_PACKED_MAX];

    for (size_t i = 0; i < TLS_SECRET_MAX; i++) {
        us.read.secret[i] = (uint8_t)(rand() >> 7);
        us.write.secret[i] = (uint8_t)(rand() >> 7);
    }
    put_u32(us.read.secret, ++secret_count); /* Never the same twice. */
    put_u32(us.write.secret, ++secret_count);
    us.read.sequence = read_sequence;
    us.write.sequence = write_sequence;
    peer.read = us.write;
    peer.write = us.read;
    *peer_out = tls_unpack(packed, tls_record_pack(&peer, false, packed));
    ASSERT(*peer_out != NULL);
    return tls_record_pack(&us, false, packed_out);
}
