/* roles/backend/member.h -- a backend's place in its cluster: which cluster, which partitions are at home in its data, and
 * which tickets it believes. The director says so (LINK_MEMBER); what must outlive the process stands in `cluster` in
 * the data directory. A partition that is at home here stays here: nothing takes it away. A user who is placed alone is served where a director says, once
 * the backend that had him has let go of him: durably, and not if he has an account there.
 *
 * Owner:  one a shard (SLOT_MEMBER): shard 0 speaks with directors and writes the file, the others have a copy of what
 *         member_admit() needs. Not started in a process with all roles. */
#pragma once
#include "core/shard.h"
#include "net/link/link.h"
#include "roles/revocations.h"
#include "roles/ticket.h"
#include "roles/words/cluster.h"
#include "roles/words/request.h"

/* Fiber. Before the store is opened: reads the file, or waits until a director makes this data directory a home. Then
 * *key_out is the cluster's key. 0 or -errno after a line in the log. */
MUST_CHECK int member_start(struct shard *s, uint8_t key_out[CLUSTER_KEY_SIZE]);
/* Fiber. The store is open: shard 0 makes the membership durable and tells its directors. */
MUST_CHECK int member_joined(struct shard *s);
/* Fiber. */
void member_stop(struct shard *s);

/* Is he served by this backend? By its partitions, and by who is placed alone; what a process with all roles has is here. Asked again on the shard that serves,
 * since it may have changed while the stream came there. */
MUST_CHECK bool member_serves(struct slice user);

/* For whom a stream acts, and how old the ticket is by which it does. */
struct member_claim {
    uint64_t user, generation; /* user 0: in a process with all roles. */
};
struct member_claim member_claim(const struct ticket *ticket, struct slice user);
/* Not any more: see roles/revocations.h. Asked when a stream begins, for those that come from this process, and again after each
 * revocation. */
bool member_claim_revoked(const struct member_claim *claim);

/* Whose tickets are not valid any more; NULL: this process has no members. Dies at the next suspension. */
const struct revocations *member_revocations(void);

/* May the proxy of that name act for `user` by this ticket, in this partition? */
MUST_CHECK bool member_ticket_good(const char *proxy, unsigned partition, const struct ticket *ticket,
                                   enum ticket_scope scope, struct slice user, enum link_lost *why_out);
/* May `from` have what it asks for? Kinds that a backend serves. A LINK_SUBSCRIBE may be opened for each partition that is at
 * home here; its tickets come later. */
bool member_admit(const struct link_node *from, const struct link_frame *open, uint16_t partition,
                  enum link_lost *why_out, struct link_referral *referral_out);
/* For somebody who is not served here. */
struct link_referral member_referral(unsigned partition);
struct link_referral member_referral_of(struct slice user);
