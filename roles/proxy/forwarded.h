/* roles/proxy/forwarded.h -- what a server in front says of the client behind it (xclient.from): his address, which is the peer from then
 * on, for the log, who and kick; and that server's name for the session, for the log. Whether a password needs TLS, and who may
 * deliver, is decided by the connection itself. */
#pragma once
#include "roles/proxy/lmtp_session.h"
#include "roles/proxy/session.h"

struct imap_id; /* net/imap/grammar.h */

#define FORWARDED_SESSION_MAX 64

/* Is it in xclient.from? */
bool forwarded_from(const struct proxy *p, const struct net_addr *peer);
/* Dovecot's fields in ID, before the login. Others' are left alone. */
void forwarded_by_id(struct session *s, const struct imap_id *id);
/* `arguments` of XCLIENT. False: not understood, and nothing was taken. */
MUST_CHECK bool forwarded_by_xclient(struct lmtp_session *l, struct slice arguments);
/* " client_sid=..." for a line of the log, or "". */
#define FORWARDED_LOG_MAX (FORWARDED_SESSION_MAX * 2 + 32) /* Quoted. */
const char *forwarded_log(const char *session, char buffer[FORWARDED_LOG_MAX]);
