/* roles/reload.h -- certificates and keys as they are now, on every shard or on none: each makes contexts of them, and only when all
 * have made theirs do new handshakes take them. Connections that are open go on with what they have.
 * Owner: shard 0. */
#pragma once
#include "core/shard.h"
#include "net/tls.h"

/* Fiber of shard 0; suspends. node->given has the files. 0; or -errno: nothing has changed, a line in the log says why, and so does
 * `error`. */
MUST_CHECK int reload_certificates(struct shard *s, char error[TLS_ERROR_MAX]);
