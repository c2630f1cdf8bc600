/* core/net_prefix.h -- networks as people write them: "10.0.0.0/8", "2001:db8::/32", or one address. */
#pragma once
#include "core/io.h"

struct net_prefix {
    uint8_t ip[16];
    uint8_t family, bits;
};

/* False: no address, or bits set behind the prefix, which is always a slip. */
MUST_CHECK bool net_prefix_parse(struct slice text, struct net_prefix *prefix_out);
/* An IPv4 address mapped into IPv6 counts as the IPv4 address that it is. */
bool net_prefix_contains(const struct net_prefix *prefix, const struct net_addr *addr);
