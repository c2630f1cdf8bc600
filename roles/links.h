/* roles/links.h -- a node's links to others, by its configuration: certificates, listeners, who may ask what, and which shard
 * answers. */
#pragma once
#include "core/shard.h"
#include "net/tls.h"

/* Fiber. After link_start(), where not all roles are in this process. 0 or -errno after a line in the log. */
MUST_CHECK int links_start(struct shard *s);
/* Certificates as the process has been given them now: made and kept aside; from the loop. 0; or -errno after a line in the log, the
 * reason in `error`. */
MUST_CHECK int links_renew(struct shard *s, char error[TLS_ERROR_MAX]);
/* Connections that begin from now on take them; or they go. */
void links_renewed(struct shard *s, bool use);
/* Opens link.listen: what serves is there by then. */
MUST_CHECK int links_listen(struct shard *s);
/* Fiber. The roles have stopped. Allowed when not started. */
void links_stop(struct shard *s);
