/* roles/revocations.h -- whose tickets are not valid any more, though their key is: who was kicked or disabled, has another
 * password, or is gone. Each revocation takes the next generation; a ticket carries the generation at which it was made, and one
 * that is older than its user's revocation is refused. The director has them on its disk, backends hear of them.
 *
 * Bounds: REVOCATIONS_MAX users. One more, and the oldest is forgotten: then tickets that were made before it are refused,
 *         whoever's they are, and everybody whose ticket is that old logs in again. */
#pragma once
#include "core/base.h"

#define REVOCATIONS_MAX     4096
#define REVOCATIONS_BUCKETS 8192
#define REVOCATION_SIZE     16 /* As bytes: user 8, generation 8. */

struct revocation {
    uint64_t user; /* Keyed hash of the name: partition_user(). */
    uint64_t generation;
};

struct revocations {     /* Zeroed: none. */
    uint64_t generation; /* Of tickets that are made now. */
    uint64_t floor;      /* Older ones are refused. */
    uint32_t count;
    struct revocation entries[REVOCATIONS_MAX]; /* The oldest first. */
    uint16_t buckets[REVOCATIONS_BUCKETS]; /* 1 + index into entries, by user; 0: free. Linear probing. */
};

/* generation: above all others. */
void revocations_add(struct revocations *r, uint64_t user, uint64_t generation);
/* Is a ticket of that generation too old for its user? */
bool revocations_refuse(const struct revocations *r, uint64_t user, uint64_t generation);
/* Was that done to the user himself, since? So, too, of those who are not known any more: false. */
bool revocations_name(const struct revocations *r, uint64_t user, uint64_t generation);
/* Index of the first that is newer than `generation`; count: none. */
uint32_t revocations_after(const struct revocations *r, uint64_t generation);
