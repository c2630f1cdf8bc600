/* roles/ticket.h -- what a proxy shows a backend so that it may act for a user who logged in through it (I-9).
 *
 *     key id 4 | scope 1 | zeros 3 | generation 8 | MAC 16 | renewal MAC 16
 *
 * The MAC is HMAC-SHA256, cut to 16 bytes, over scope, generation, the proxy's node name and the user, under a key that the
 * director makes and pushes to that one backend; a new one every TICKET_KEY_MS, two are accepted, so nobody needs a clock. The renewal
 * MAC says the same under a key that only the director has, and what the user's entry in the password database was: with it an
 * expired ticket is exchanged, for ticket.renew_max (roles/director/renewal.h) and unless the password was changed, even while no director ran. A backend believes the node name of
 * the link's certificate, so a ticket is worth nothing on another proxy's link.
 *
 * The generation is the director's count of revocations (roles/revocations.h) when the ticket was made.
 *
 * Of streams within a process nothing but the ticket's age is looked at, for the sake of revocations: whoever could forge one could as
 * well read the store that is in the same memory. */
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
    uint64_t fingerprint; /* Of the user's entry; in the renewal MAC alone. */
    struct slice proxy, user;
};

void ticket_make(const struct ticket_claim *claim, const struct ticket_key *key,
                 const uint8_t renewal_key[CLUSTER_KEY_SIZE], struct ticket *out);

/* Within a process with all roles: nothing but its age. */
void ticket_make_plain(uint64_t generation, struct ticket *out);

enum ticket_verdict { TICKET_GOOD, TICKET_EXPIRED, TICKET_BAD };

/* For the two `keys`, the newest first: does it let `proxy` do that for `user`? EXPIRED: its key is none of these. */
MUST_CHECK enum ticket_verdict ticket_check(const struct ticket *t, const struct ticket_key *keys,
                                            enum ticket_scope scope, struct slice proxy, struct slice user);
/* What it says of its age; of no worth before it was checked. */
uint64_t ticket_generation(const struct ticket *t);
/* By the director: is it one of his for that proxy, user and fingerprint, whatever its age? Writes scope and generation into *claim. */
MUST_CHECK bool ticket_renewable(const struct ticket *t, const uint8_t renewal_key[CLUSTER_KEY_SIZE],
                                 struct ticket_claim *claim);
