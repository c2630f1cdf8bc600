/* roles/director/login_cache.h -- passwords that were right a short while ago, as keyed MACs: a login that is
 * in it needs no hash. The MAC covers user, the user's entry and password, so one user's password never opens
 * another's mail, and a changed entry is another MAC. Only right passwords are put in; a wrong one changes
 * nothing.
 * Owner:  one shard.
 * Memory: one block of the shard's heap, wiped at the end.
 * Bounds: `size` logins; sets of LOGIN_CACHE_WAYS, the one that ends soonest gives way. */
#pragma once
#include "core/heap.h"
#include "roles/director/digest.h"

#define LOGIN_CACHE_WAYS 8

struct login_cache_slot;
struct login_cache { /* Private. */
    struct heap *heap;
    struct login_cache_slot *slots;
    uint32_t set_count;
    uint64_t ttl_ms;
};

/* size 0 or ttl 0: caches nothing. */
void login_cache_init(struct login_cache *c, struct heap *heap, uint32_t size, uint64_t ttl_ms);
void login_cache_fini(struct login_cache *c);

/* `tag`: keyed hash of the user. */
bool login_cache_has(const struct login_cache *c, uint64_t tag, const uint8_t mac[DIGEST_SIZE],
                     uint64_t now_ms);
void login_cache_put(struct login_cache *c, uint64_t tag, const uint8_t mac[DIGEST_SIZE], uint64_t now_ms);
