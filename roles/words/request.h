/* roles/words/request.h -- what roles say to each other: heads and trailers of link streams (net/link/link.h).
 * Little-endian, each begins with a version byte; a decoder accepts any bytes and says false to what it does not
 * understand. Slices of a decoded value point into the input. */
#pragma once
#include "roles/words/token.h"

#define WORDS_VERSION     1
#define USER_SIZE_MAX     255
#define OPERATION_ID_SIZE 16
#define PASSWORD_SIZE_MAX 512
#define TICKET_SIZE                                                                                          \
    48 /* roles/ticket.h; all zero where director and backend are in one process with the proxy. */

struct ticket {
    uint8_t bytes[TICKET_SIZE];
};

/* ---- LINK_LOGIN, LINK_LOOKUP: proxy -> director -------------------------------------------------------- */

struct login_request {
    bool lookup; /* Of a recipient: no password. */
    bool secure; /* TLS, or a loopback peer. */
    struct slice user, password;
};

enum login_result {
    LOGIN_OK,
    LOGIN_REFUSED, /* Unknown user or wrong password; LOOKUP: no such user. */
    LOGIN_DISABLED,
    LOGIN_UNAVAILABLE, /* Ask later. */
};

struct login_reply { /* Trailer of the END. */
    enum login_result result;
    uint32_t delay_ms;    /* Wait that long before answering the client: the price of a wrong password. */
    uint16_t partition;   /* Of the account: which backend core to ask. */
    struct ticket ticket; /* What the backend wants to see. */
    struct slice user;    /* Canonical name: what goes into requests. */
};

/* ---- LINK_IMAP, LINK_SYNC: proxy -> backend ------------------------------------------------------------ */

/* Head of the OPEN. The data is the command as on the wire: tag to final CRLF with its literals in place. For the
 * APPEND family the data stops after `{n}` CRLF: the backend answers with a DATA frame of no bytes (the ask: send '+'
 * to the client if the literal is synchronising, then n bytes and what follows them), or ends with NO.
 * LINK_SYNC has no data: the answer is what is new, untagged. */
struct imap_request {
    uint8_t operation_id
        [OPERATION_ID_SIZE]; /* Session nonce, number: changing commands are executed once per id. */
    struct token token;
    bool more_follows; /* Another command is already buffered behind this one: leave expunges for that one. */
    /* Was it executed? Then its answer is repeated; if not, it is NO, and never will be executed. */
    bool outcome;
    /* It may have been executed: whoever cannot find out resets the stream, and says neither OK nor NO. */
    bool again;
    struct ticket ticket;
    struct slice user;
};

enum imap_reply_flag {
    IMAP_REPLY_BYE = 1 << 0, /* The data ends with an untagged BYE: close after it. */
};

/* Trailer of the END. The data before it, tagged line included, goes to the client as it is. */
struct imap_reply {
    struct token token;
    uint8_t flags;
};

/* ---- LINK_RENEW: proxy -> director ----------------------------------------------------------------------- */

/* Answered by a login_reply. */
struct renew_request {
    struct ticket ticket;
    struct slice user;
};

/* ---- LINK_DELIVER: proxy -> backend -------------------------------------------------------------------- */

struct deliver_request { /* Head; the data is the message, byte for byte as received (dots unstuffed). */
    uint8_t operation_id[OPERATION_ID_SIZE];
    uint64_t size_hint; /* 0: unknown. */
    bool outcome;       /* No message: was it delivered? If not, it never will be, and the answer is 451. */
    struct ticket ticket;
    struct slice user;
    struct slice folder;                 /* The detail of user+folder; empty: INBOX. */
    struct slice return_path, recipient; /* Of the envelope, without angle brackets. */
    struct slice received; /* The Received: header field that the proxy has written, with its CRLF. */
};

struct deliver_reply { /* Trailer of the END: an LMTP reply. */
    uint16_t code;     /* 250, 451, 452, 550, 552, 554 */
    struct slice text; /* Enhanced status code and text: "2.0.0 <u@d> saved", one line, no CRLF. */
};

/* Each encode writes at most HEAD_SIZE_MAX bytes and returns how many; the slices' sizes are the caller's promise. */
#define HEAD_SIZE_MAX 4096
/* What the small ones need, on a stack: everything but a delivery. */
#define HEAD_SIZE_SMALL 1024
_Static_assert(HEAD_SIZE_SMALL >= OPERATION_ID_SIZE + TOKEN_SIZE + TICKET_SIZE + USER_SIZE_MAX + 64,
               "an IMAP request fits");
_Static_assert(HEAD_SIZE_SMALL >= USER_SIZE_MAX + PASSWORD_SIZE_MAX + 64, "a login fits");
size_t login_request_encode(const struct login_request *r, char *out);
MUST_CHECK bool login_request_decode(struct slice in, struct login_request *out);
size_t login_reply_encode(const struct login_reply *r, char *out);
MUST_CHECK bool login_reply_decode(struct slice in, struct login_reply *out);
size_t renew_request_encode(const struct renew_request *r, char *out);
MUST_CHECK bool renew_request_decode(struct slice in, struct renew_request *out);
size_t imap_request_encode(const struct imap_request *r, char *out);
MUST_CHECK bool imap_request_decode(struct slice in, struct imap_request *out);
size_t imap_reply_encode(const struct imap_reply *r, char *out);
MUST_CHECK bool imap_reply_decode(struct slice in, struct imap_reply *out);
size_t deliver_request_encode(const struct deliver_request *r, char *out);
MUST_CHECK bool deliver_request_decode(struct slice in, struct deliver_request *out);
size_t deliver_reply_encode(const struct deliver_reply *r, char *out);
MUST_CHECK bool deliver_reply_decode(struct slice in, struct deliver_reply *out);
