/* net/tls_record.h -- TLS records from the end of the handshake to the close: seals, opens, answers what is not
 * data (KeyUpdate, alerts, attempts to renegotiate), and can be written down in some 67 bytes.
 * TLS 1.3 (RFC 8446) and the AEAD suites of TLS 1.2 (RFC 5246, 5288, 7905). Private to the BoringSSL half.
 *
 * A write key has one holder: the numbers of records cannot skip, so whoever goes on from a packed state must be
 * the only one that ever does.
 *
 * Owner:  a session, embedded in it; one shard, no locks. It stays where it is: ciphers are found by its address. */
#pragma once
#include "net/tls_keys.h"

enum tls_content { TLS_CHANGE_CIPHER_SPEC = 20, TLS_ALERT, TLS_HANDSHAKE, TLS_APPLICATION_DATA };

#define TLS_HEADER_SIZE 5

struct tls_record {
    const struct tls_suite *suite;
    struct tls_direction read, write;
    bool update_due;    /* The peer wants new keys from us before our next data. */
    bool refused;       /* A renegotiation, with an alert: once. */
    uint8_t idle_count; /* Records in a row that brought no data. */
    uint8_t message[5]; /* Of a KeyUpdate that is arriving. */
    uint8_t message_size;
};

/* The size of the record that begins with `header` (TLS_HEADER_SIZE bytes), its header included. 0: not a record
 * that can be good; *why_out says so, and the alert is in *out. */
size_t tls_record_size(struct tls_record *r, const char *header, const char **why_out,
                       struct tls_output *out);
/* One whole record. TLS_WAIT: nothing in it for the caller. *plain_out lies in tls_shard()->plain. On TLS_FAILED
 * *why_out is a literal, and the alert is in *out if one is due. */
MUST_CHECK enum tls_event tls_record_open(struct tls_record *r, struct slice record, struct slice *plain_out,
                                          const char **why_out, struct tls_output *out);
/* Appends data, at most TLS_RECORD_MAX bytes, as one record, behind a KeyUpdate where one is due. False: the key
 * is worn out (TLS 1.2 only), nothing can be sealed any more. */
MUST_CHECK bool tls_record_seal(struct tls_record *r, struct slice plain, struct tls_output *out);
void tls_record_alert(struct tls_record *r, bool fatal, uint8_t alert, struct tls_output *out);
void tls_record_put(struct tls_record *r, enum tls_content type, struct slice body, struct tls_output *out);

/* Nothing has arrived of what spans records. */
bool tls_record_rests(const struct tls_record *r);
/* Writes at most TLS_PACKED_MAX bytes; r must rest. One bit more is kept for the caller. */
size_t tls_record_pack(const struct tls_record *r, bool flag, uint8_t *out);
/* False: not what tls_record_pack() writes. */
MUST_CHECK bool tls_record_unpack(struct tls_record *r, bool *flag_out, const uint8_t *in, size_t size);
/* The next data is one record, under the key that there is. */
bool tls_record_steady(const struct tls_record *r);
/* Bytes of a record that are not its text. */
size_t tls_record_overhead(const struct tls_record *r);
/* Before its memory is given back. */
void tls_record_fini(struct tls_record *r);
