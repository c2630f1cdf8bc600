/* roles/proxy/packed.h -- a session that sleeps, as bytes: what of it is worth keeping, small numbers in few bytes.
 *
 *     flags 2 | socket | peer | counters | id | what the flags say is there: what few have, tag, token, input, TLS
 *
 * What sessions of one user have in common (his name, his ticket, the history id of his account) is in his record (users.h).
 * In memory only: another process has other sockets. Secret: keys, a ticket, perhaps half a password. */
#pragma once
#include "net/conn.h"
#include "net/imap/framer.h"
#include "roles/words/capability.h"
#include "roles/words/request.h"

#define PACKED_CLIENT_SID_MAX 64 /* FORWARDED_SESSION_MAX */

enum packed_state { PACKED_PROXY_HEADER, PACKED_COMMAND, PACKED_IDLE, PACKED_HANDSHAKE };

struct packed {
    struct conn_packed conn;
    uint8_t state;                  /* enum packed_state */
    bool tls_first, near, forwards; /* As those of a session. */
    bool watches;                   /* The account: it idles, or has asked whether there is something new. */
    uint8_t bad_count;
    uint8_t client_sid_size; /* Said by a server in front. */
    char client_sid[PACKED_CLIENT_SID_MAX];
    uint8_t tag_size; /* Of the IDLE in progress. */
    char tag[IMAP_TAG_SIZE_MAX];
    uint16_t partition;
    uint8_t features; /* Of a session; of nobody who has logged in, LINK_FEATURES_UNSAID. */
    uint64_t id, nonce, operation, commands, known;
    struct token token;
    struct ticket ticket;
};

#define PACKED_SIZE_MAX                                                                                      \
    (2 + 8 + 18 + 8 * 10 + 3 + sizeof(void *) + sizeof(void *) + 2 + PACKED_CLIENT_SID_MAX +                 \
     IMAP_TAG_SIZE_MAX + 1 + TOKEN_SIZE + 24 + TICKET_SIZE + 1 + CONN_PACKED_INPUT_MAX + 1 +                 \
     TLS_PACKED_MAX + 1 + 1)

/* Of a shard's proxy: ids of its sessions lie near each other, and nonces follow from them. */
struct packed_process {
    uint64_t id_base, secret;
};
uint64_t packed_nonce(const struct packed_process *process, uint64_t id);

/* What a session that has the same need not repeat. */
struct packed_shared {
    const struct packed_process *process; /* NULL: for another one. */
    const uint8_t *history;               /* [16], of the user's record. NULL: it has none. */
    const struct ticket *ticket;          /* The same. */
    uint16_t partition;                   /* The same; 0. */
};

/* Bytes written. */
size_t packed_encode(const struct packed *p, struct packed_shared shared, char *out /* [PACKED_SIZE_MAX] */);
/* What packed_encode() wrote, with the same `shared`. Bytes of the record behind its end are not looked at. */
void packed_decode(const char *in, struct packed_shared shared, struct packed *out);
/* Without the rest: cheap. */
enum packed_state packed_state(const char *in);
bool packed_watches(const char *in);
