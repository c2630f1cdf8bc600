/* roles/proxy/ticket_keys.h -- the keys of TLS tickets on one shard. A process begins with a key of its own, or with those of the
 * process whose sessions it takes over; directors send those of all proxies, and new ones as they change. With all roles in one process
 * its first shard changes them. */
#pragma once
#include "roles/proxy/proxy.h"

/* Fiber. The same on all shards, so that a session resumes on whatever core its next connection lands. 0 or -errno. */
MUST_CHECK int ticket_keys_start(struct proxy *p);
void ticket_keys_stop(struct proxy *p);
/* A director's: they come before those that are here. */
void ticket_keys_take(struct proxy *p, const struct tls_ticket_keys *keys);
