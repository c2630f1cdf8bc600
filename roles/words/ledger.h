/* roles/words/ledger.h -- which of the sessions that it was given a new server has used, so that the others can be had by another one if it
 * dies (roles/proxy/chest.h). In memory that both servers map: what is written there is true still when the writer has ended in the middle of
 * anything. The new server writes first, and then uses; the old one reads when the new one has died, and never before.
 *
 * Owner: one shard of the new server writes its part. No locks. */
#pragma once
#include "core/base.h"

#define LEDGER_IDS                                                                                           \
    (32u * 1024 *                                                                                            \
     1024) /* Records of a shard (core/records.h): half as many sessions. The pages that nobody writes are none. */

struct ledger {
    uint32_t begun; /* Before it nothing was used. */
    uint8_t used[LEDGER_IDS / 8];
};

static inline void ledger_begin(struct ledger *l)
{
    __atomic_store_n(&l->begun, 1, __ATOMIC_RELEASE);
}

static inline bool ledger_begun(const struct ledger *l)
{
    return __atomic_load_n(&l->begun, __ATOMIC_ACQUIRE) != 0;
}

/* For good: whoever sleeps in that record afterwards is somebody else, or has moved on. NULL: this server was given nobody. */
static inline void ledger_use(struct ledger *l, uint32_t id)
{
    if (l != NULL && id < LEDGER_IDS)
        __atomic_store_n(&l->used[id / 8], (uint8_t)(l->used[id / 8] | 1u << id % 8), __ATOMIC_RELEASE);
}

static inline bool ledger_used(const struct ledger *l, uint32_t id)
{
    return id >= LEDGER_IDS || (__atomic_load_n(&l->used[id / 8], __ATOMIC_ACQUIRE) & 1u << id % 8) != 0;
}
