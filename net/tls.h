/* net/tls.h -- TLS in memory: ciphertext in, plaintext out, and back. No sockets here; see net/conn.h.
 * Two implementations, chosen at link time: net/tls_boring.c (BoringSSL shakes hands, net/tls_record.c serves
 * the connection from then on), and net/tls_sim.c, the simulator's stand-in, which has the same record sizes, keeps
 * nothing secret, and replays.
 *
 * TLS 1.2 and 1.3 (RFC 5246, 8446), AEAD suites only; no renegotiation, no compression, no session ids;
 * tickets (RFC 5077, 8446) under keys that the caller shares between shards; SNI (RFC 6066); ALPN (RFC 7301).
 *
 * Owner:  one shard; no locks. Call it from the loop's own stack: a handshake needs some 10 KiB of it.
 * Memory: a session shaking hands costs some 5 KiB of what core/secret.h gives, then a record of 250 bytes in pages of
 *         secrets; one that asks for tickets (a client's) a few KiB to its end. Plaintext that comes out dies at the
 *         next call for any session of the shard.
 * Errors: what the peer does wrong is TLS_FAILED, never an -errno; the alert for him is in the output. */
#pragma once
#include "core/base.h"
#include "core/heap.h"

#define TLS_RECORD_MAX          16384 /* Plaintext of a record: what one call of tls_seal() takes. */
#define TLS_RECORD_OVERHEAD     22    /* TLS 1.3: header 5, type 1, tag 16. */
#define TLS_RECORD_OVERHEAD_MAX 29    /* TLS 1.2 with GCM. */
#define TLS_TICKET_KEY_SIZE     48    /* Name 16, MAC key 16, cipher key 16. */
#define TLS_TICKET_KEYS_MAX     3
#define TLS_NAME_MAX            255
#define TLS_ERROR_MAX           256
#define TLS_TICKET_MAX          4096 /* What a client keeps of a session, to resume it. */
#define TLS_PACKED_MAX          128 /* What a sleeping session is, at most; with TLS 1.3 and AES-128: some 67. */

/* ---- Contexts ------------------------------------------------------------------------------------------ */

struct tls_context;

struct tls_pair {
    struct slice name; /* "mail.example.org" or "*.example.org"; empty: for whoever names nothing known. */
    struct slice cert; /* PEM: the certificate, then its chain. */
    struct slice key;  /* PEM, not encrypted. */
};

struct tls_ticket_keys {
    uint8_t count;
    uint8_t keys[TLS_TICKET_KEYS_MAX]
                [TLS_TICKET_KEY_SIZE]; /* The newest first: it makes tickets, all are taken. */
};
/* Makes it the newest. One more than TLS_TICKET_KEYS_MAX, and the oldest is forgotten. */
void tls_ticket_keys_add(struct tls_ticket_keys *k, const uint8_t key[TLS_TICKET_KEY_SIZE]);

/* Needs no shard. True: the certificate is one, and the key is its. False: *of_key says whose fault it is, `error` what. */
MUST_CHECK bool tls_pair_check(const struct tls_pair *pair, bool *of_key, char error[TLS_ERROR_MAX]);

/* For servers. The first pair is the default. Copies what it needs. 0; -EINVAL with a line in `error` that
 * says which pair is wrong and why; -ENOMEM. */
MUST_CHECK int tls_context_create(const struct tls_pair *pairs, unsigned count,
                                  const struct tls_ticket_keys *ticket_keys, struct tls_context **context_out,
                                  char error[TLS_ERROR_MAX]);
void tls_context_set_ticket_keys(struct tls_context *c, const struct tls_ticket_keys *keys);
/* For clients. `ca` in PEM: who must have signed the server's certificate; empty: anybody (for load
 * generators). */
MUST_CHECK int tls_context_create_client(struct slice ca, struct tls_context **context_out,
                                         char error[TLS_ERROR_MAX]);
/* For connections between the nodes of a cluster: both sides show a certificate that one of `ca` has signed, and are
 * asked for it by tls_peer(). No tickets: such connections are few and live long. */
MUST_CHECK int tls_context_create_node(const struct tls_pair *pair, struct slice ca, bool server,
                                       struct tls_context **context_out, char error[TLS_ERROR_MAX]);
/* When the first of its certificates expires, in seconds since 1970; 0: none is known. */
int64_t tls_context_expiry(const struct tls_context *c);
/* Gives up the caller's reference: the context goes with its last session. NULL is allowed. */
void tls_context_release(struct tls_context *c);

/* ---- Sessions ------------------------------------------------------------------------------------------ */

struct tls;

/* A server's session. `alpn` is a literal: the one protocol that is spoken here. A client that offers a list
 * without it is refused (one that offers nothing is not): RFC 7301, and ALPACA. NULL: no memory. */
MUST_CHECK struct tls *tls_accept(struct tls_context *c, struct slice alpn);
/* A client's session. `name` is checked in the certificate when the context has a CA. `ticket` of an earlier
 * session, or empty. */
MUST_CHECK struct tls *tls_connect(struct tls_context *c, struct slice name, struct slice alpn,
                                   struct slice ticket);
/* Wipes. Sends nothing. NULL is allowed. */
void tls_free(struct tls *t);

/* Ciphertext for the peer. Calls append to it; its owner sends data[0, size) and then sets size to 0 or calls
 * tls_output_fini(). One per session suffices. Zeroed is empty. */
struct tls_output {
    char *data;
    uint32_t size, capacity;
};
void tls_output_fini(struct tls_output *o);
/* For implementations. */
void tls_output_append(struct tls_output *o, struct slice bytes);
/* Where `size` > 0 bytes more may be written; then add to o->size. */
char *tls_output_room(struct tls_output *o, size_t size);

enum tls_event {
    TLS_WAIT,    /* All of *in is taken; more is needed. */
    TLS_SECURED, /* The handshake is done, once. Call again. */
    TLS_DATA,    /* *plain_out is plaintext, at most a record. Call again. */
    TLS_ENDED,   /* The peer's close_notify: nothing more will come. */
    TLS_FAILED,  /* Not TLS, or a bad record. Send the output (an alert), and close. */
};

/* Of a client's first message with its records: with keys against quantum computers it has some 2 KiB, and padding perhaps. Kept, it is
 * an allocation of so many bytes at most. */
#define TLS_HELLO_MAX 4096
enum tls_hello {
    TLS_HELLO_MORE,  /* The beginning of one, or nothing yet. */
    TLS_HELLO_WHOLE, /* A server's tls_feed() has what it needs for its answer. */
    TLS_HELLO_BAD,   /* No TLS, or too much of it. */
};
/* Is `in`, all that a client has sent, a whole ClientHello? Only its frame is looked at, so nothing is allocated before it is there. */
MUST_CHECK enum tls_hello tls_hello(struct slice in);
/* The alert for a client whose hello is BAD. Not sealed: nothing is agreed upon yet. */
void tls_hello_refuse(struct tls_output *out);

/* Takes ciphertext off the front of *in and appends answers to *out. Call until TLS_WAIT, TLS_ENDED or
 * TLS_FAILED. A client calls it first with nothing, to begin. */
MUST_CHECK enum tls_event tls_feed(struct tls *t, struct slice *in, struct slice *plain_out,
                                   struct tls_output *out);

/* Appends `plain`, at most TLS_RECORD_MAX bytes, as one record. Only between TLS_SECURED and the end. Ask
 * tls_state() behind it: TLS_CLOSED if nothing can be sealed any more. */
void tls_seal(struct tls *t, struct slice plain, struct tls_output *out);
/* Appends close_notify, once; nothing can be sealed after it. Before TLS_SECURED it appends nothing. */
void tls_close_notify(struct tls *t, struct tls_output *out);

/* Bytes of memory for a record that has come in part. */
size_t tls_held(const struct tls *t);

enum tls_state { TLS_HANDSHAKING, TLS_OPEN, TLS_CLOSED };
enum tls_state tls_state(const struct tls *t);

/* ---- Sleep --------------------------------------------------------------------------------------------- */

/* Packs the TLS of a connection that is at rest (secured, not ended, nothing of a record received or unsent), and
 * frees it. 0: it is not at rest, nothing was done. Else the bytes written to `out`. They are secret: wipe them.
 * What is lost: tls_server_name(), tls_peer(), tls_ticket(). */
size_t tls_pack(struct tls *t, void *out /* [TLS_PACKED_MAX] */);
/* The same of one that may have received a part of a record, at most part_max bytes: it is written to `part`, and what wakes is fed with
 * it before all else. */
size_t tls_pack_part(struct tls *t, void *out /* [TLS_PACKED_MAX] */, char *part, size_t part_max,
                     size_t *part_size_out);
/* The other way, on any shard, of any process: once. NULL: no memory, or another release packed it. */
MUST_CHECK struct tls *tls_unpack(const void *in, size_t size);

/* For a few words of one who sleeps on. What he will be when one record of data more was sealed: bytes written to `out`; 0: it needs more
 * than a record, so wake him. *overhead_out: how much longer the record is than its text. Then, once `out` is all that is kept of him, and
 * once only: the record, of what he was, appended. */
size_t tls_packed_next(const void *in, size_t size, void *out /* [TLS_PACKED_MAX] */, size_t *overhead_out);
void tls_packed_seal(const void *in, size_t size, struct slice plain, struct tls_output *out);

/* ---- What is known of a session, from TLS_SECURED on --------------------------------------------------- */

const char *tls_version(const struct tls *t); /* "TLSv1.3" */
const char *tls_cipher(const struct tls *t);  /* "TLS_AES_128_GCM_SHA256" */
bool tls_resumed(const struct tls *t);
struct slice tls_server_name(const struct tls *t); /* What the client asked for; empty: nothing. */
/* The subject of the peer's certificate, in a context of tls_context_create_node(). */
#define TLS_UNITS_MAX 4
#define TLS_UNIT_MAX  31
struct tls_identity {
    char name[TLS_NAME_MAX + 1];                 /* CN */
    char units[TLS_UNITS_MAX][TLS_UNIT_MAX + 1]; /* OU, in their order. */
    unsigned unit_count;
};
/* False: there is no certificate, or its subject has no name, more or longer units, or a NUL in them. */
MUST_CHECK bool tls_peer(const struct tls *t, struct tls_identity *identity_out);
/* After TLS_FAILED: why, for the log. A literal or text of the session. */
const char *tls_error(const struct tls *t);
/* A client's newest ticket, to resume with; empty: none came yet. Lives as long as the session. */
struct slice tls_ticket(const struct tls *t);
