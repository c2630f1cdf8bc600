/* roles/proxy/moving.h -- a proxy comes to rest, so that its sessions can go on in another process (chest.h).
 *
 * Frozen, nobody wakes and nobody is accepted; commands that run go on to their end, and what comes meanwhile waits in the kernel. An MTA
 * has the answers to its transaction, and is sent away in front of the next.
 * Owner: one shard's proxy. */
#pragma once
#include "roles/proxy/proxy.h"

/* Commands, literals and mail that take longer already than a moment: whoever freezes now makes all wait for them. */
unsigned proxy_long_runners(const struct proxy *p);
void proxy_freeze(struct proxy *p);
void proxy_thaw(struct proxy *p);
struct proxy_unrest {
    unsigned count; /* Connections that have not come to rest; those that only close are not counted. */
    unsigned
        theirs; /* Of them: nothing is awaited but their clients, who are to finish what they have begun, or to read. */
    uint64_t moved; /* Bytes to and from these. */
};
/* Pushes them. */
struct proxy_unrest proxy_unrest(struct proxy *p);
/* Ends those who have not come to rest. Their number. */
unsigned proxy_cut(struct proxy *p);
