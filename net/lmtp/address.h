/* net/lmtp/address.h -- paths of MAIL and RCPT (RFC 5321 4.1.2, RFC 6531 3.3). Private to net/lmtp/. */
#pragma once
#include "net/lmtp/lmtp.h"

/* Takes "<...>" off the front of *in. Source routes are skipped. `unquoted` holds path_out->local when it was
 * quoted. *eight_bit_out: it has bytes that only SMTPUTF8 allows (and then they are valid UTF-8). */
MUST_CHECK bool lmtp_path_parse(struct slice *in, char unquoted[LMTP_LOCAL_MAX], struct lmtp_path *path_out,
                                bool *eight_bit_out);
