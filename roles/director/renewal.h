/* roles/director/renewal.h -- the keys by which a director knows an old ticket again as one of his own, and exchanges it for a valid
 * one (roles/ticket.h). Durable, and no other node has them. Tickets are made under the newest; the one before is accepted, too.
 * They age by steps of the director's running time, not by a clock: a key is the newest for half of ticket.renew_max, and is
 * accepted for as long again. */
#pragma once
#include "roles/words/cluster.h"

#define RENEWAL_SIZE                                                                                         \
    (3 * CLUSTER_KEY_SIZE + 4) /* As bytes: newest key, the one before, fingerprints' key, age 4. */

struct renewal {
    uint8_t keys[2][CLUSTER_KEY_SIZE];         /* The newest first. */
    uint8_t fingerprint_key[CLUSTER_KEY_SIZE]; /* Of what a user's entry was; as old as the cluster. */
    uint32_t age;                              /* Steps of the newest. */
};

void renewal_make(struct renewal *r);
/* A step has passed: after `steps_max` of them there is a new key. */
void renewal_step(struct renewal *r, uint32_t steps_max);
void renewal_encode(const struct renewal *r, char out[RENEWAL_SIZE]);
void renewal_decode(const char in[RENEWAL_SIZE], struct renewal *r);
/* Of a file that has one key for all of it: what tickets there are stay good. */
void renewal_from_one(const uint8_t key[CLUSTER_KEY_SIZE], struct renewal *r);
