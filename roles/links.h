/* roles/links.h -- a node's links to others, by its configuration: certificates, listeners, who may ask what, and which shard
 * answers. */
#pragma once
#include "core/shard.h"

/* Fiber. After link_start(), where not all roles are in this process. 0 or -errno after a line in the log. */
MUST_CHECK int links_start(struct shard *s);
/* Opens link.listen: what serves is there by then. */
MUST_CHECK int links_listen(struct shard *s);
/* Fiber. The roles have stopped. Allowed when not started. */
void links_stop(struct shard *s);
