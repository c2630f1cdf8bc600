/* roles/words/place.h -- where accounts are: user -> partition -> shard that serves it. The process that
 * starts the roles provides it on each shard: with --role=all from the store in the same process. So neither
 * proxy nor director needs the store itself. Does not suspend. */
#pragma once
#include "core/shard.h"

#define PARTITION_COUNT 4096

struct place {
    unsigned (*partition)(struct slice user); /* `user` in canonical form. */
    uint64_t (*user)(struct slice user);      /* A keyed hash, the same on all shards. */
    unsigned (*shard)(unsigned partition);    /* Index of the shard of this node that serves it. */
};

static inline const struct place *place_self(void)
{
    return shard_self()->slot[SLOT_OTHER];
}
