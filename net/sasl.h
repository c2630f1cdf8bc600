/* net/sasl.h -- the server's side of SASL (RFC 4422): PLAIN (RFC 4616) and LOGIN, from the base64 lines that
 * IMAP, POP3, SMTP and LMTP carry. It finds out who claims to be whom with which password, and checks
 * nothing.
 *
 * r = sasl_start(&s, mechanism, initial, &challenge) r is SASL_CHALLENGE: write "+ " challenge CRLF, r =
 * sasl_next(&s, line, &challenge) and give the next line to sasl_next()
 *
 * Owner:  one login attempt; about a KiB that holds a password: take it when the attempt begins, sasl_wipe()
 *         it when the attempt ends, however it ends.
 * Errors: the peer's are results. The line itself holds the password too, and its owner wipes that. */
#pragma once
#include "core/base.h"

#define SASL_LINE_MAX     1368 /* Base64 of SASL_RESPONSE_MAX. */
#define SASL_RESPONSE_MAX 1024
#define SASL_USER_MAX     255
#define SASL_PASSWORD_MAX 512

enum sasl_mechanism { SASL_PLAIN, SASL_LOGIN };

enum sasl_result {
    SASL_CHALLENGE, /* Send the challenge, already in base64 (PLAIN's is empty). */
    SASL_DONE,      /* s->user and s->password are there. */
    SASL_CANCELLED, /* The client sent "*". IMAP: BAD. */
    SASL_MALFORMED, /* Not base64, too long, not what the mechanism says. IMAP: BAD. */
    SASL_REFUSED,   /* Understood, and not allowed here: to act for somebody else. IMAP: NO. */
};

struct sasl {
    enum sasl_mechanism mechanism;
    uint8_t step;
    struct slice user;     /* UTF-8, 1..SASL_USER_MAX bytes, no control bytes. In `bytes`. */
    struct slice password; /* 1..SASL_PASSWORD_MAX bytes, no NUL, otherwise as sent. In `bytes`. */
    uint32_t used;
    char bytes[SASL_RESPONSE_MAX + SASL_USER_MAX];
};

/* Names compare without case. False: none of ours. */
MUST_CHECK bool sasl_mechanism_parse(struct slice name, enum sasl_mechanism *mechanism_out);
/* `initial` (SASL-IR, RFC 4959; the AUTH command's argument): data NULL: none; "=": an empty one. Initialises
 * s. */
MUST_CHECK enum sasl_result sasl_start(struct sasl *s, enum sasl_mechanism mechanism, struct slice initial,
                                       struct slice *challenge_out);
/* `line` without its CRLF. After SASL_CHALLENGE only. */
MUST_CHECK enum sasl_result sasl_next(struct sasl *s, struct slice line, struct slice *challenge_out);
void sasl_wipe(struct sasl *s);
