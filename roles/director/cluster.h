/* roles/director/cluster.h -- the director's half of a cluster: the table of partitions (4,096 of them to backends), durable in
 * `director` in its data directory; what each backend is told (its partitions, the cluster's key, keys of tickets); what
 * proxies are told (the table, at once and after each change).
 *
 * `ctl cluster init`: once every node of `backends` has said its name, the partitions are dealt to them by weight. From then on
 * where a partition is at home is data: the table is read from the disk, and nothing here moves a partition.
 *
 * Owner:  one a shard (SLOT_CLUSTER): one fiber of shard 0 changes it, the others have a copy of what answers need. Not
 *         started in a process with all roles.
 * Bounds: CLUSTER_NODES_MAX backends; CLUSTER_PROXIES_MAX streams of proxy cores. */
#pragma once
#include "core/shard.h"
#include "roles/ticket.h"

#define CLUSTER_PROXIES_MAX 4096

/* Fiber. Reads or makes what the director keeps; does not wait for backends. 0 or -errno after a line in the log. */
MUST_CHECK int cluster_start(struct shard *s);
void cluster_stop(struct shard *s); /* Fiber. */
static inline bool cluster_running(void)
{
    return shard_self()->slot[SLOT_CLUSTER] != NULL;
}

/* Where the user's mail is. False: not dealt so far. */
MUST_CHECK bool cluster_partition(struct slice user, uint16_t *partition_out);
/* What a ticket's claim says of its age: asked for before the password is looked at. */
uint64_t cluster_generation(void);
/* Has he been revoked since, in what is not on the disk yet? */
bool cluster_revoking(struct slice user);
/* On shard 0: the user's tickets are not valid any more. Takes effect at once here, and at the backends as soon as it is on the
 * disk; then cluster_settled() is true. */
void cluster_revoke(struct slice user);
/* A ticket for the backend that has the claim's user. */
void cluster_ticket(const struct ticket_claim *claim, struct ticket *out);
/* Is it one of ours for the claim's proxy, user and fingerprint, and not revoked? Writes the scope that it was made for. */
MUST_CHECK bool cluster_ticket_renewable(const struct ticket *t, struct ticket_claim *claim);
/* Of the fingerprints in tickets: outlives the process, as tickets do. */
void cluster_fingerprint_key(uint8_t key_out[CLUSTER_KEY_SIZE]);
