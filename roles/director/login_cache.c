#include "roles/director/login_cache.h"

struct login_cache_slot {
    uint64_t tag;
    uint64_t ends_ms; /* 0: free. */
    uint8_t mac[DIGEST_SIZE];
};

void login_cache_init(struct login_cache *c, struct heap *heap, uint32_t size, uint64_t ttl_ms)
{
    *c = (struct login_cache){.heap = heap, .ttl_ms = ttl_ms};
    if (size == 0 || ttl_ms == 0)
        return;
    c->set_count = (size - 1) / LOGIN_CACHE_WAYS + 1;
    c->slots = heap_zalloc(heap, (size_t)c->set_count * LOGIN_CACHE_WAYS * sizeof c->slots[0]);
}

void login_cache_fini(struct login_cache *c)
{
    if (c->slots != NULL)
        bytes_wipe(c->slots, (size_t)c->set_count * LOGIN_CACHE_WAYS * sizeof c->slots[0]);
    heap_free(c->heap, c->slots);
    *c = (struct login_cache){.heap = NULL};
}

static struct login_cache_slot *set_of(const struct login_cache *c, uint64_t tag)
{
    return &c->slots[tag % c->set_count * LOGIN_CACHE_WAYS];
}

bool login_cache_has(const struct login_cache *c, uint64_t tag, const uint8_t mac[DIGEST_SIZE],
                     uint64_t now_ms)
{
    const struct login_cache_slot *set;

    if (c->slots == NULL)
        return false;
    set = set_of(c, tag);
    for (unsigned i = 0; i < LOGIN_CACHE_WAYS; i++) {
        if (set[i].tag == tag && set[i].ends_ms > now_ms && bytes_equal_secret(set[i].mac, mac, DIGEST_SIZE))
            return true;
    }
    return false;
}

void login_cache_put(struct login_cache *c, uint64_t tag, const uint8_t mac[DIGEST_SIZE], uint64_t now_ms)
{
    struct login_cache_slot *set, *victim;

    if (c->slots == NULL)
        return;
    set = victim = set_of(c, tag);
    for (unsigned i = 0; i < LOGIN_CACHE_WAYS; i++) {
        if (set[i].tag == tag && set[i].ends_ms != 0) { /* One a user: the last one that was right. */
            victim = &set[i];
            break;
        }
        if (set[i].ends_ms < victim->ends_ms)
            victim = &set[i];
    }
    victim->tag = tag;
    victim->ends_ms = now_ms + c->ttl_ms;
    memcpy(victim->mac, mac, DIGEST_SIZE);
}
