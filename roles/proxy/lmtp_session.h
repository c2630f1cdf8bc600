/* roles/proxy/lmtp_session.h -- LMTP at the proxy (RFC 2033): one stream a recipient to his backend, replies
 * in the order of RCPT. A record; each state is named for what it waits for.
 *
 *   PROXY_HEADER -> COMMAND
 *   HANDSHAKE -> COMMAND --RCPT--> LOOKUP --director answered--> COMMAND
 *                  |--DATA, BDAT--> BODY --end, or chunk--> COMMAND
 *                                     +--end of the message--> REPLIES --all recipients answered--> COMMAND
 *   any state --deadline, QUIT, end of stream--> CLOSING
 *
 * Owner: one shard of the proxy; from its slab. */
#pragma once
#include "core/list.h"
#include "core/shard.h"
#include "net/conn.h"
#include "net/link/link.h"
#include "net/lmtp/lmtp.h"
#include "roles/proxy/proxy.h"
#include "roles/words/request.h"

enum lmtp_state {
    LMTP_AT_PROXY_HEADER,
    LMTP_AT_HANDSHAKE,
    LMTP_AT_COMMAND,
    LMTP_AT_LOOKUP,
    LMTP_AT_BODY,
    LMTP_AT_REPLIES,
    LMTP_AT_CLOSING
};

#define LMTP_REPLY_TEXT_MAX 256

struct lmtp_recipient {
    struct lmtp_session *session;
    struct link_stream *stream; /* NULL: not opened, or answered. */
    uint16_t partition;         /* Of the account. */
    bool waited;                /* For the budget of its backend's link, long enough. */
    struct ticket ticket;
    uint8_t operation_id[OPERATION_ID_SIZE];
    bool asked;         /* ... at least once. */
    struct timer again; /* Its link was lost after the message had left: what became of it is asked for. */
    uint16_t code;      /* 0: no answer yet. */
    char *user, *folder, *address; /* NUL-terminated, in the transaction's arena. */
    char text[LMTP_REPLY_TEXT_MAX];
};

struct lmtp_session {
    struct conn conn; /* First. */
    struct proxy *proxy;
    struct list link;
    struct handshake handshake; /* HANDSHAKE: its place among those of the shard. */
    struct lmtp_parser parser;
    struct lmtp_body body;
    struct timer timer;   /* Deadline of the state. */
    struct timer silence; /* BODY: of a stream without credit. */
    uint8_t state;
    bool greeted; /* LHLO was said. */
    bool in_mail, smtputf8;
    bool streaming; /* The recipients' streams are open: a message is under way. */
    bool chunked, last_chunk;
    bool too_large;
    bool forwards; /* Its other end may say by XCLIENT who the client is. */
    bool helo_forwarded;
    bool kicked; /* REPLIES: the session ends behind them. */
    uint16_t errors;
    struct arena arena; /* Of the transaction. */
    char *return_path;
    char helo[LMTP_DOMAIN_MAX + 1];
    /* Of a chunk that nobody wants: the reply when it has passed. LMTP_REPLY_COUNT: it is wanted. */
    enum lmtp_reply_id refused;
    struct lmtp_recipient *recipients; /* limits.recipients of them, allocated at the first RCPT. */
    uint32_t recipient_count, pending;
    uint64_t received; /* Bytes of the message. */
    uint64_t mail_ns;  /* When the transaction began. */
    uint64_t began_ns; /* REPLIES: when the message was complete. */
    struct link_stream *lookup;
    char *client_sid; /* What a server in front calls this session. NULL: nothing. */
    uint64_t id, messages;
};

/* Takes the socket. */
void lmtp_accept(struct proxy *p, struct sock sock, const struct net_addr *peer);
/* `421` and a graceful close. */
void lmtp_bye(struct lmtp_session *l, enum lmtp_reply_id reply);
/* The client's name of himself, for Received. */
void lmtp_helo_keep(struct lmtp_session *l, struct slice domain);
/* The operator ends it. A message that is complete has its replies first: else it would be sent again. */
void lmtp_kick(struct lmtp_session *l);
