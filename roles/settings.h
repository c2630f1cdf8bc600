/* roles/settings.h -- every key of the configuration, with type, default and help: the table that docs,
 * `--help` and the checks are made of. A key that a later version brings is in it as unsupported, so that it
 * is refused by name rather than accepted without effect. */
#pragma once
#include "core/config.h"

extern const struct config_key settings_keys[];
extern const size_t settings_key_count;

/* What only several keys together show: addresses, pairs of files, what may be open to the world. */
MUST_CHECK bool settings_check(const struct config *c, struct config_error *error);

/* Calls each() for every address that the configuration listens on, until one of them is not 0, and returns that. */
struct net_addr;
int settings_each_listener(const struct config *c,
                           int (*each)(void *arg, const char *key, const char *text,
                                       const struct net_addr *addr),
                           void *arg);

/* enum link_role (net/link/link.h): those of `role`. */
/* What this node offers at most (roles/words/capability.h). */
uint16_t settings_features(const struct config *c);
uint8_t settings_roles(const struct config *c);
