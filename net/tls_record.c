#include "net/tls_record.h"
#include "core/varint.h"
#include <openssl/ssl.h>

/* Records in a row without data (empty ones, KeyUpdates, warnings) that a peer may send: more is an attack. */
#define IDLE_COUNT_MAX 32

enum alert {
    CLOSE_NOTIFY = 0,
    UNEXPECTED_MESSAGE = 10,
    BAD_RECORD_MAC = 20,
    RECORD_OVERFLOW = 22,
    ILLEGAL_PARAMETER = 47,
    DECODE_ERROR = 50,
    PROTOCOL_VERSION = 70,
    USER_CANCELED = 90,
    NO_RENEGOTIATION = 100,
};

#define KEY_UPDATE 24 /* A message of the handshake's type. */

static void put_be16(uint8_t *p, size_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static void put_be64(uint8_t *p, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        p[i] = (uint8_t)(value >> (56 - 8 * i));
}

/* Bytes that TLS 1.2's AES-GCM sends along of every nonce: the record's number, as no other may ever repeat. */
static size_t explicit_size(const struct tls_suite *suite)
{
    return TLS_NONCE_SIZE - suite->salt_size;
}

/* Salt and number make the nonce: side by side, or one over the other. */
static void nonce_make(const struct tls_suite *suite, const struct tls_cipher *c, const uint8_t number[8],
                       uint8_t nonce[TLS_NONCE_SIZE])
{
    memcpy(nonce, c->salt, suite->salt_size);
    if (explicit_size(suite) > 0) {
        memcpy(nonce + suite->salt_size, number, 8);
        return;
    }
    for (unsigned i = 0; i < 8; i++)
        nonce[4 + i] ^= number[i];
}

/* What is authenticated beside the text. TLS 1.3: the header; 1.2: number, type, version, size of the text. */
struct extra {
    uint8_t bytes[13];
    size_t size;
};

static struct extra extra_of(const struct tls_suite *suite, const uint8_t header[TLS_HEADER_SIZE],
                             uint64_t sequence, size_t text_size)
{
    struct extra e = {.size = TLS_HEADER_SIZE};

    if (suite->tls13) {
        memcpy(e.bytes, header, TLS_HEADER_SIZE);
        return e;
    }
    put_be64(e.bytes, sequence);
    memcpy(e.bytes + 8, header, 3);
    put_be16(e.bytes + 11, text_size);
    e.size = sizeof e.bytes;
    return e;
}

/* ---- Sealing ------------------------------------------------------------------------------------------- */

void tls_record_put(struct tls_record *r, enum tls_content type, struct slice body, struct tls_output *out)
{
    const struct tls_suite *suite = r->suite;
    const struct tls_cipher *c = tls_cipher_of(&r->write, suite);
    size_t shown = explicit_size(suite), hidden = suite->tls13, tag_size;
    size_t size = shown + body.size + hidden + TLS_TAG_SIZE;
    uint8_t *p = (uint8_t *)tls_output_room(out, TLS_HEADER_SIZE + size);
    uint8_t nonce[TLS_NONCE_SIZE], number[8], inner = (uint8_t)type;
    struct extra extra;

    ASSERT(body.size <= TLS_RECORD_MAX);
    p[0] = suite->tls13 ? TLS_APPLICATION_DATA : inner;
    p[1] = p[2] = 3;
    put_be16(p + 3, size);
    extra = extra_of(suite, p, r->write.sequence, body.size);
    put_be64(number, r->write.sequence);
    r->write.sequence++;
    nonce_make(suite, c, number, nonce);
    p += TLS_HEADER_SIZE;
    memcpy(p, number, shown);
    p += shown;
    /* TLS 1.3's type stands behind the text, sealed with it. It fails for wrong sizes only. */
    ASSERT(EVP_AEAD_CTX_seal_scatter(&c->aead, p, p + body.size, &tag_size, hidden + TLS_TAG_SIZE, nonce,
                                     sizeof nonce, (const uint8_t *)body.data, body.size, &inner, hidden,
                                     extra.bytes, extra.size) == 1);
    ASSERT(tag_size == hidden + TLS_TAG_SIZE);
    out->size += (uint32_t)(TLS_HEADER_SIZE + size);
}

void tls_record_alert(struct tls_record *r, bool fatal, uint8_t alert, struct tls_output *out)
{
    uint8_t body[2] = {fatal ? 2 : 1, alert};

    tls_record_put(r, TLS_ALERT, slice_of(body, sizeof body), out);
}

static bool worn_out_by_now(const struct tls_record *r)
{
    return r->write.sequence >= r->suite->records_max;
}

size_t tls_record_overhead(const struct tls_record *r)
{
    return TLS_HEADER_SIZE + explicit_size(r->suite) + r->suite->tls13 + TLS_TAG_SIZE;
}

bool tls_record_steady(const struct tls_record *r)
{
    return !r->update_due && !worn_out_by_now(r);
}

bool tls_record_seal(struct tls_record *r, struct slice plain, struct tls_output *out)
{
    static const uint8_t update[5] = {KEY_UPDATE, 0, 0, 1, 0}; /* It asks for none in return. */
    bool worn_out = worn_out_by_now(r);

    if (worn_out && !r->suite->tls13)
        return false;
    if (worn_out || r->update_due) {
        tls_record_put(r, TLS_HANDSHAKE, slice_of(update, sizeof update), out);
        tls_secret_next(&r->write, r->suite);
        r->update_due = false;
    }
    tls_record_put(r, TLS_APPLICATION_DATA, plain, out);
    return true;
}

static enum tls_event fail(struct tls_record *r, enum alert alert, const char *why, const char **why_out,
                           struct tls_output *out)
{
    *why_out = why;
    tls_record_alert(r, true, (uint8_t)alert, out);
    return TLS_FAILED;
}

/* ---- What is not data ---------------------------------------------------------------------------------- */

static enum tls_event on_alert(struct tls_record *r, struct slice body, const char **why_out,
                               struct tls_output *out)
{
    bool warning;
    uint8_t alert;

    if (body.size != 2)
        return fail(r, DECODE_ERROR, "BAD_ALERT", why_out, out);
    alert = (uint8_t)body.data[1];
    if (alert == CLOSE_NOTIFY)
        return TLS_ENDED;
    /* TLS 1.3 has no other warnings, whatever the first byte says. */
    warning = r->suite->tls13 ? alert == USER_CANCELED : body.data[0] == 1;
    if (warning)
        return TLS_WAIT;
    *why_out = SSL_alert_desc_string_long(alert);
    return TLS_FAILED;
}

/* TLS 1.3: of the messages that may come behind the handshake we have asked for none but KeyUpdate. It may arrive
 * in pieces, and must be the last of its record: what follows is under another key. */
static enum tls_event on_message(struct tls_record *r, struct slice body, const char **why_out,
                                 struct tls_output *out)
{
    size_t take = MIN(body.size, sizeof r->message - r->message_size);

    memcpy(r->message + r->message_size, body.data, take);
    r->message_size += (uint8_t)take;
    if (r->message[0] != KEY_UPDATE)
        return fail(r, UNEXPECTED_MESSAGE, "UNEXPECTED_MESSAGE", why_out, out);
    if (r->message_size >= 4 && (r->message[1] != 0 || r->message[2] != 0 || r->message[3] != 1))
        return fail(r, DECODE_ERROR, "BAD_KEY_UPDATE", why_out, out);
    if (r->message_size < sizeof r->message)
        return TLS_WAIT;
    if (take < body.size)
        return fail(r, UNEXPECTED_MESSAGE, "EXCESS_HANDSHAKE_DATA", why_out, out);
    if (r->message[4] > 1)
        return fail(r, ILLEGAL_PARAMETER, "BAD_KEY_UPDATE", why_out, out);
    r->message_size = 0;
    tls_secret_next(&r->read, r->suite);
    r->update_due |= r->message[4] == 1;
    return TLS_WAIT;
}

/* TLS 1.2: only a renegotiation can begin here (RFC 5746). Refused, a peer goes on or gives up. */
static enum tls_event on_renegotiation(struct tls_record *r, struct tls_output *out)
{
    if (!r->refused)
        tls_record_alert(r, false, NO_RENEGOTIATION, out);
    r->refused = true;
    return TLS_WAIT;
}

static enum tls_event on_record(struct tls_record *r, uint8_t type, struct slice body,
                                struct slice *plain_out, const char **why_out, struct tls_output *out)
{
    bool data = type == TLS_APPLICATION_DATA && body.size > 0;

    r->idle_count = data ? 0 : r->idle_count + 1;
    if (r->idle_count > IDLE_COUNT_MAX)
        return fail(r, UNEXPECTED_MESSAGE, "TOO_MANY_RECORDS_WITHOUT_DATA", why_out, out);
    if (type == TLS_HANDSHAKE && body.size > 0)
        return r->suite->tls13 ? on_message(r, body, why_out, out) : on_renegotiation(r, out);
    if (r->message_size > 0 || body.size > TLS_RECORD_MAX)
        return fail(r, UNEXPECTED_MESSAGE, "UNEXPECTED_RECORD", why_out, out);
    if (type == TLS_ALERT)
        return on_alert(r, body, why_out, out);
    if (type != TLS_APPLICATION_DATA)
        return fail(r, UNEXPECTED_MESSAGE, "UNEXPECTED_RECORD", why_out, out);
    *plain_out = body;
    return data ? TLS_DATA : TLS_WAIT;
}

/* ---- Opening ------------------------------------------------------------------------------------------- */

size_t tls_record_size(struct tls_record *r, const char *header, const char **why_out, struct tls_output *out)
{
    const uint8_t *h = (const uint8_t *)header;
    size_t size = (size_t)h[3] << 8 | h[4];
    size_t around = explicit_size(r->suite) + r->suite->tls13 + TLS_TAG_SIZE;

    /* The outer type of TLS 1.3 is always the same; its version is ignored, but authenticated. */
    if (r->suite->tls13 && h[0] != TLS_APPLICATION_DATA)
        fail(r, UNEXPECTED_MESSAGE, "UNEXPECTED_RECORD", why_out, out);
    else if (!r->suite->tls13 && (h[1] != 3 || h[2] != 3))
        fail(r, PROTOCOL_VERSION, "WRONG_VERSION_NUMBER", why_out, out);
    else if (size > TLS_RECORD_MAX + around) /* None of our ciphers has more around the text than this. */
        fail(r, RECORD_OVERFLOW, "DATA_LENGTH_TOO_LONG", why_out, out);
    else if (size < around)
        fail(r, BAD_RECORD_MAC, "BAD_PACKET_LENGTH", why_out, out);
    else
        return TLS_HEADER_SIZE + size;
    return 0;
}

/* TLS 1.3: the type is the last byte that is not padding. False: there is none. */
static bool inner_type(struct slice *text, uint8_t *type_out)
{
    while (text->size > 0 && text->data[text->size - 1] == 0)
        text->size--;
    if (text->size == 0)
        return false;
    *type_out = (uint8_t)text->data[--text->size];
    return true;
}

enum tls_event tls_record_open(struct tls_record *r, struct slice record, struct slice *plain_out,
                               const char **why_out, struct tls_output *out)
{
    const struct tls_suite *suite = r->suite;
    const struct tls_cipher *c = tls_cipher_of(&r->read, suite);
    const uint8_t *header = (const uint8_t *)record.data, *body = header + TLS_HEADER_SIZE;
    size_t shown = explicit_size(suite), size = record.size - TLS_HEADER_SIZE - shown, plain_size;
    uint8_t *plain = (uint8_t *)tls_shard()->plain, nonce[TLS_NONCE_SIZE], number[8], type = header[0];
    struct extra extra = extra_of(suite, header, r->read.sequence, size - TLS_TAG_SIZE);
    struct slice text;

    put_be64(number, r->read.sequence);
    nonce_make(suite, c, shown > 0 ? body : number, nonce);
    if (!EVP_AEAD_CTX_open(&c->aead, plain, &plain_size, TLS_RECORD_MAX + 1, nonce, sizeof nonce,
                           body + shown, size, extra.bytes, extra.size))
        return fail(r, BAD_RECORD_MAC, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC", why_out, out);
    r->read.sequence++;
    text = slice_of(plain, plain_size);
    if (suite->tls13 && !inner_type(&text, &type))
        return fail(r, UNEXPECTED_MESSAGE, "NO_CONTENT_TYPE", why_out, out);
    return on_record(r, type, text, plain_out, why_out, out);
}

/* ---- Sleep ----------------------------------------------------------------------------------------------
 * Suite 4 bits and flags 1, idle_count 1 if a flag says so, numbers read and write, secrets read and write. */

#define PACKED_SUITE   0x0f
#define PACKED_UPDATE  0x10
#define PACKED_REFUSED 0x20
#define PACKED_FLAG    0x40
#define PACKED_IDLE    0x80

_Static_assert(TLS_SUITE_COUNT <= PACKED_SUITE + 1, "a suite has four bits");
_Static_assert(2 + 2 * VARINT_SIZE_MAX + 2 * TLS_SECRET_MAX <= TLS_PACKED_MAX, "the largest fits");

bool tls_record_rests(const struct tls_record *r)
{
    return r->message_size == 0;
}

size_t tls_record_pack(const struct tls_record *r, bool flag, uint8_t *out)
{
    size_t size = r->suite->secret_size;
    char *at = (char *)out;

    ASSERT(tls_record_rests(r));
    *at++ = (char)((r->suite - tls_suites) | (r->update_due ? PACKED_UPDATE : 0) |
                   (r->refused ? PACKED_REFUSED : 0) | (flag ? PACKED_FLAG : 0) |
                   (r->idle_count > 0 ? PACKED_IDLE : 0));
    if (r->idle_count > 0)
        *at++ = (char)r->idle_count;
    at = varint_put(at, r->read.sequence);
    at = varint_put(at, r->write.sequence);
    memcpy(at, r->read.secret, size);
    memcpy(at + size, r->write.secret, size);
    return (size_t)(at - (char *)out) + 2 * size;
}

bool tls_record_unpack(struct tls_record *r, bool *flag_out, const uint8_t *in, size_t size)
{
    unsigned flags = size > 1 ? in[0] : PACKED_SUITE, suite = flags & PACKED_SUITE;
    const char *at = (const char *)in + 1, *end = (const char *)in + size;
    size_t secret_size;

    if (suite >= TLS_SUITE_COUNT)
        return false;
    secret_size = tls_suites[suite].secret_size;
    *r = (struct tls_record){.suite = &tls_suites[suite]};
    if ((flags & PACKED_IDLE) != 0)
        r->idle_count = (uint8_t)*at++;
    at = varint_get(at, end, &r->read.sequence);
    at = at != NULL ? varint_get(at, end, &r->write.sequence) : NULL;
    if (at == NULL || (size_t)(end - at) != 2 * secret_size || r->idle_count > IDLE_COUNT_MAX)
        return false;
    r->update_due = (flags & PACKED_UPDATE) != 0;
    r->refused = (flags & PACKED_REFUSED) != 0;
    memcpy(r->read.secret, at, secret_size);
    memcpy(r->write.secret, at + secret_size, secret_size);
    *flag_out = (flags & PACKED_FLAG) != 0;
    return true;
}

void tls_record_fini(struct tls_record *r)
{
    tls_cipher_drop(&r->read);
    tls_cipher_drop(&r->write);
}
