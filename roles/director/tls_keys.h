/* roles/director/tls_keys.h -- the keys under which all proxies make TLS tickets: made here, changed every TLS_KEY_MS, three
 * of them accepted. They live in memory alone: after a restart there are new ones, and a proxy goes on accepting those
 * that it has.
 * Owner: the cluster, on shard 0. */
#pragma once
#include "net/link/link.h"
#include "net/tls.h"

#define TLS_KEY_MS (12 * 3600 * 1000)

struct tls_keys {
    struct tls_ticket_keys keys;
    uint64_t rotate_ms;
    uint32_t version; /* Grows with every change. */
};

/* Makes a new key when it is time. At the first call it is. */
void tls_keys_step(struct tls_keys *k);
/* To a proxy that has `*version_sent`, if it has credit. */
void tls_keys_send(const struct tls_keys *k, struct link_stream *s, uint32_t *version_sent);
