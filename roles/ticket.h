/* roles/ticket.h -- what a proxy shows a backend so that it may act for a user who logged in through it (I-9).
 *
 *     key id 4 | scope 1 | zeros 3 | generation 8 | MAC 16 | renewal MAC 16
 *
 * The MAC is HMAC-SHA256, cut to 16 bytes, over scope, generation, the proxy's node name and the user, under a key that the
 * director makes and pushes to that one backend; a new one every TICKET_KEY_MS, two are accepted, so nobody needs a clock. The renewal
 * MAC says the same under a key that only the director has: with it an expired ticket is exchanged. A backend believes the
 * node name of the link's certificate, so a ticket is worth nothing on another proxy's link.
 *
 * The generation is the director's count of revocations (roles/revocations.h) when the ticket was made.
 *
 * Streams within a process carry no ticket and are not asked for one: whoever could forge one could as well read the store
 * that is in the same memory. */
#pragma once
#include "roles/words/cluster.h"
#include "roles/words/request.h"

#define TICKET_KEY_MS (30 * 60 * 1000)

enum ticket_scope {
    TICKET_SESSION = 1, /* All that a user may do himself. */
    TICKET_DELIVER = 2, /* Append only, no reading. */
};

struct ticket_claim { /* What a ticket says. */
    enum ticket_scope scope;
    uint64_t generation;
    struct slice proxy, user;
};

void ticket_make(const struct ticket_claim *claim, const struct ticket_key *key,
                 const uint8_t renewal_key[CLUSTER_KEY_SIZE], struct ticket *out);

enum ticket_verdict { TICKET_GOOD, TICKET_EXPIRED, TICKET_BAD };

/* For the two `keys`, the newest first: does it let `proxy` do that for `user`? EXPIRED: its key is none of these. */
MUST_CHECK enum ticket_verdict ticket_check(const struct ticket *t, const struct ticket_key *keys,
                                            enum ticket_scope scope, struct slice proxy, struct slice user);
/* What it says of its age; of no worth before it was checked. */
uint64_t ticket_generation(const struct ticket *t);
/* By the director: is it one of his, whatever its age? Writes what it says. */
MUST_CHECK bool ticket_renewable(const struct ticket *t, const uint8_t renewal_key[CLUSTER_KEY_SIZE],
                                 struct slice proxy, struct slice user, enum ticket_scope *scope_out,
                                 uint64_t *generation_out);
