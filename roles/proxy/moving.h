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
/* Connections that have not come to rest; those that only close are not counted. Pushes them. */
unsigned proxy_restless(struct proxy *p);
/* Ends those who have not come to rest. Their number. */
unsigned proxy_cut(struct proxy *p);
