#include "roles/director/renewal.h"
#include "core/io.h"
#include "roles/director/digest.h"

_Static_assert(CLUSTER_KEY_SIZE == DIGEST_SIZE, "a digest is a key");

void renewal_make(struct renewal *r)
{
    random_bytes(r->keys, sizeof r->keys); /* Nothing was made under the second: it is as good as none. */
    random_bytes(r->fingerprint_key, sizeof r->fingerprint_key);
    r->age = 0;
}

void renewal_step(struct renewal *r, uint32_t steps_max)
{
    if (++r->age < steps_max)
        return;
    memcpy(r->keys[1], r->keys[0], sizeof r->keys[1]);
    random_bytes(r->keys[0], sizeof r->keys[0]);
    r->age = 0;
}

void renewal_encode(const struct renewal *r, char out[RENEWAL_SIZE])
{
    memcpy(out, r->keys, sizeof r->keys);
    memcpy(out + sizeof r->keys, r->fingerprint_key, CLUSTER_KEY_SIZE);
    put_u32(out + sizeof r->keys + CLUSTER_KEY_SIZE, r->age);
}

void renewal_decode(const char in[RENEWAL_SIZE], struct renewal *r)
{
    memcpy(r->keys, in, sizeof r->keys);
    memcpy(r->fingerprint_key, in + sizeof r->keys, CLUSTER_KEY_SIZE);
    r->age = get_u32(in + sizeof r->keys + CLUSTER_KEY_SIZE);
}

void renewal_from_one(const uint8_t key[CLUSTER_KEY_SIZE], struct renewal *r)
{
    const struct slice what = SLICE("passwd-file");

    renewal_make(r);
    memcpy(r->keys[0], key, CLUSTER_KEY_SIZE);
    digest_hmac(key, &what, 1, r->fingerprint_key);
}
