/* roles/proxy/tls_setup.h -- certificates and ticket keys of one shard. */
#pragma once
#include "roles/proxy/proxy.h"

/* Fiber. Takes what the process was given as tls.cert, tls.key and tls.sni; sets p->tls (NULL: none configured). 0, or
 * -errno after a log line that names the file. */
MUST_CHECK int tls_setup(struct proxy *p);

/* Of what the process was given now: made and kept aside. From the loop. 0; or -errno after such a line, and the reason in `error`. */
MUST_CHECK int tls_renew(struct proxy *p, char error[TLS_ERROR_MAX]);
/* New handshakes take it from here on; or it goes. */
void tls_renewed(struct proxy *p, bool use);
