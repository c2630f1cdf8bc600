/* roles/proxy/keep_alive.h -- what an idle client hears every now and then, so that whoever counts silence (a NAT, he himself) does not
 * end the connection. One who sleeps hears it out of his record, in which only numbers move on, and sleeps on. */
#pragma once
#include "roles/proxy/sleepers.h"

/* `* OK Still here`. */
extern const struct slice keep_alive_text;

/* Until the next one. Sessions of one user and address get theirs in the same instant, whichever cores they are on, so that his radio
 * wakes once; those of others in other ones, also when all have begun to idle at once. */
uint64_t keep_alive_wait_ms(const struct proxy *p, struct slice user, const struct net_addr *peer);

/* Sends it to sleeper `id`, who is `packed` (which changes), and idles. False: wake him for it, for he compresses, or keys are due, or he
 * needs a larger record, or the process ends. */
MUST_CHECK bool keep_alive_asleep(struct sleepers *t, uint32_t id, struct packed *packed);
