/* net/proxy_protocol.h -- the PROXY header that a load balancer puts in front of a connection: versions 1 and 2
 * of HAProxy's specification (doc/proxy-protocol.txt). Says who the client is; whom to believe is the caller's
 * business, and only a peer that must send a header may be asked for one.
 * Memory: pure; nothing points into the input afterwards.
 * Bounds: PROXY_HEADER_MAX; of version 1 PROXY_LINE_MAX. TLVs must lie inside of their header and are skipped,
 *         a CRC32c among them too. */
#pragma once
#include "core/io.h"

#define PROXY_LINE_MAX   107
#define PROXY_HEADER_MAX 2048

enum proxy_header_result {
    PROXY_HEADER_MORE,  /* Not all there yet: offer it again with what follows. */
    PROXY_HEADER_WHOLE, /* *header_out and *size_out are set. */
    PROXY_HEADER_BAD,   /* Not a header, malformed, or too long. */
};

struct proxy_header {
    /* Of the client. Family 0: the balancer speaks for itself (LOCAL, a health check), or does not know
     * (UNKNOWN, a Unix socket): the connection's own peer counts. */
    struct net_addr source;
};

/* `in`: what the connection began with. Looks at PROXY_HEADER_MAX bytes at most. */
MUST_CHECK enum proxy_header_result proxy_header_parse(struct slice in, struct proxy_header *header_out,
                                                       size_t *size_out);
