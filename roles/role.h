/* roles/role.h -- a role is what a process does on each of its shards. Roles never include each other: they
 * speak by link frames (net/link/link.h) whose heads are in roles/words/. */
#pragma once
#include "core/shard.h"

/* Start order: what serves comes before what asks. stop() in the reverse order; both on a fiber. start() logs
 * why it fails and returns -errno. */
struct role {
    const char *name;
    int (*start)(struct shard *s);
    void (*stop)(struct shard *s);
};

extern const struct role role_backend, role_director, role_proxy;

/* The roles of the configuration's `role` on every shard; `all`, or none named: store, backend, director and proxy, which
 * then speak in memory. */
extern const struct node_ops role_ops;
