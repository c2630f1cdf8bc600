/* roles/proxy/tls_setup.h -- certificates and ticket keys of one shard. */
#pragma once
#include "roles/proxy/proxy.h"

/* Fiber. Takes what the process was given as tls.cert, tls.key and tls.sni; sets p->tls (NULL: none configured). 0, or
 * -errno after a log line that names the file. */
MUST_CHECK int tls_setup(struct proxy *p);
