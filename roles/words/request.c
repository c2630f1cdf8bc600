#include "roles/words/request.h"

/* A slice is its size in two bytes, then its bytes. A decoder takes all of its input or says false. */
struct encoder {
    char *out;
    size_t at;
};

struct decoder {
    struct slice in; /* What is left. */
    bool bad;
};

static struct encoder encode_begin(char *out)
{
    out[0] = WORDS_VERSION;
    return (struct encoder){out, 1};
}

static void encode_bytes(struct encoder *e, const void *data, size_t size)
{
    ASSERT(size <= HEAD_SIZE_MAX - e->at);
    if (size > 0)
        memcpy(e->out + e->at, data, size);
    e->at += size;
}

static void encode_u8(struct encoder *e, uint8_t v)
{
    encode_bytes(e, &v, sizeof v);
}

static void encode_u16(struct encoder *e, uint16_t v)
{
    char bytes[sizeof v];

    put_u16(bytes, v);
    encode_bytes(e, bytes, sizeof bytes);
}

static void encode_u32(struct encoder *e, uint32_t v)
{
    char bytes[sizeof v];

    put_u32(bytes, v);
    encode_bytes(e, bytes, sizeof bytes);
}

static void encode_u64(struct encoder *e, uint64_t v)
{
    char bytes[sizeof v];

    put_u64(bytes, v);
    encode_bytes(e, bytes, sizeof bytes);
}

static void encode_slice(struct encoder *e, struct slice s)
{
    ASSERT(s.size <= UINT16_MAX);
    encode_u16(e, (uint16_t)s.size);
    encode_bytes(e, s.data, s.size);
}

static struct slice decode_bytes(struct decoder *d, size_t size)
{
    struct slice bytes;

    if (d->bad || d->in.size < size) {
        d->bad = true;
        return (struct slice){0};
    }
    bytes = slice_first(d->in, size);
    d->in = slice_from(d->in, size);
    return bytes;
}

static uint8_t decode_u8(struct decoder *d)
{
    struct slice s = decode_bytes(d, 1);

    return s.size > 0 ? (uint8_t)s.data[0] : 0;
}

static uint16_t decode_u16(struct decoder *d)
{
    struct slice s = decode_bytes(d, sizeof(uint16_t));

    return s.size > 0 ? get_u16(s.data) : 0;
}

static uint32_t decode_u32(struct decoder *d)
{
    struct slice s = decode_bytes(d, sizeof(uint32_t));

    return s.size > 0 ? get_u32(s.data) : 0;
}

static uint64_t decode_u64(struct decoder *d)
{
    struct slice s = decode_bytes(d, sizeof(uint64_t));

    return s.size > 0 ? get_u64(s.data) : 0;
}

static struct slice decode_slice(struct decoder *d, size_t size_max)
{
    struct slice s = decode_bytes(d, decode_u16(d));

    if (s.size > size_max)
        d->bad = true;
    return s;
}

static bool decode_bool(struct decoder *d)
{
    uint8_t v = decode_u8(d);

    if (v > 1)
        d->bad = true;
    return v == 1;
}

static struct decoder decode_begin(struct slice in)
{
    struct decoder d = {.in = in};

    if (decode_u8(&d) != WORDS_VERSION)
        d.bad = true;
    return d;
}

static bool decode_end(const struct decoder *d)
{
    return !d->bad && d->in.size == 0;
}

/* ---- LINK_LOGIN, LINK_LOOKUP --------------------------------------------------------------------------- */

size_t login_request_encode(const struct login_request *r, char *out)
{
    struct encoder e = encode_begin(out);

    encode_u8(&e, r->lookup);
    encode_u8(&e, r->secure);
    encode_slice(&e, r->user);
    encode_slice(&e, r->password);
    return e.at;
}

bool login_request_decode(struct slice in, struct login_request *out)
{
    struct decoder d = decode_begin(in);
    struct login_request r = {0};

    r.lookup = decode_bool(&d);
    r.secure = decode_bool(&d);
    r.user = decode_slice(&d, HEAD_SIZE_MAX);
    r.password = decode_slice(&d, HEAD_SIZE_MAX);
    if (!decode_end(&d))
        return false;
    *out = r;
    return true;
}

size_t login_reply_encode(const struct login_reply *r, char *out)
{
    struct encoder e = encode_begin(out);

    encode_u8(&e, (uint8_t)r->result);
    encode_u32(&e, r->delay_ms);
    encode_u16(&e, r->partition);
    encode_slice(&e, r->user);
    return e.at;
}

bool login_reply_decode(struct slice in, struct login_reply *out)
{
    struct decoder d = decode_begin(in);
    struct login_reply r = {0};
    uint8_t result = decode_u8(&d);

    r.delay_ms = decode_u32(&d);
    r.partition = decode_u16(&d);
    r.user = decode_slice(&d, USER_SIZE_MAX);
    if (!decode_end(&d) || result > LOGIN_UNAVAILABLE)
        return false;
    r.result = (enum login_result)result;
    *out = r;
    return true;
}

/* ---- LINK_IMAP, LINK_SYNC ------------------------------------------------------------------------------ */

static void encode_token(struct encoder *e, const struct token *t)
{
    char bytes[TOKEN_SIZE];

    token_encode(t, bytes);
    encode_bytes(e, bytes, sizeof bytes);
}

static void decode_token(struct decoder *d, struct token *out)
{
    if (!token_decode(decode_bytes(d, TOKEN_SIZE), out))
        d->bad = true;
}

size_t imap_request_encode(const struct imap_request *r, char *out)
{
    struct encoder e = encode_begin(out);

    encode_bytes(&e, r->operation_id, sizeof r->operation_id);
    encode_token(&e, &r->token);
    encode_u8(&e, r->more_follows);
    encode_slice(&e, r->user);
    return e.at;
}

bool imap_request_decode(struct slice in, struct imap_request *out)
{
    struct decoder d = decode_begin(in);
    struct imap_request r = {0};
    struct slice id = decode_bytes(&d, sizeof r.operation_id);

    decode_token(&d, &r.token);
    r.more_follows = decode_bool(&d);
    r.user = decode_slice(&d, USER_SIZE_MAX);
    if (!decode_end(&d))
        return false;
    memcpy(r.operation_id, id.data, sizeof r.operation_id);
    *out = r;
    return true;
}

size_t imap_reply_encode(const struct imap_reply *r, char *out)
{
    struct encoder e = encode_begin(out);

    encode_token(&e, &r->token);
    encode_u8(&e, r->flags);
    return e.at;
}

bool imap_reply_decode(struct slice in, struct imap_reply *out)
{
    struct decoder d = decode_begin(in);
    struct imap_reply r = {0};

    decode_token(&d, &r.token);
    r.flags = decode_u8(&d);
    if (!decode_end(&d))
        return false;
    *out = r;
    return true;
}

/* ---- LINK_SUBSCRIBE ------------------------------------------------------------------------------------ */

size_t subscribe_request_encode(const struct subscribe_request *r, char *out)
{
    struct encoder e = encode_begin(out);

    encode_u64(&e, r->known);
    encode_slice(&e, r->user);
    return e.at;
}

bool subscribe_request_decode(struct slice in, struct subscribe_request *out)
{
    struct decoder d = decode_begin(in);
    struct subscribe_request r = {0};

    r.known = decode_u64(&d);
    r.user = decode_slice(&d, USER_SIZE_MAX);
    if (!decode_end(&d))
        return false;
    *out = r;
    return true;
}

size_t subscribe_notice_encode(const struct subscribe_notice *r, char *out)
{
    struct encoder e = encode_begin(out);

    encode_u64(&e, r->modseq);
    encode_u64(&e, r->mailbox_id);
    return e.at;
}

bool subscribe_notice_decode(struct slice in, struct subscribe_notice *out)
{
    struct decoder d = decode_begin(in);
    struct subscribe_notice r = {0};

    r.modseq = decode_u64(&d);
    r.mailbox_id = decode_u64(&d);
    if (!decode_end(&d))
        return false;
    *out = r;
    return true;
}

/* ---- LINK_DELIVER -------------------------------------------------------------------------------------- */

size_t deliver_request_encode(const struct deliver_request *r, char *out)
{
    struct encoder e = encode_begin(out);

    encode_bytes(&e, r->operation_id, sizeof r->operation_id);
    encode_u64(&e, r->size_hint);
    encode_slice(&e, r->user);
    encode_slice(&e, r->folder);
    encode_slice(&e, r->return_path);
    encode_slice(&e, r->recipient);
    encode_slice(&e, r->received);
    return e.at;
}

bool deliver_request_decode(struct slice in, struct deliver_request *out)
{
    struct decoder d = decode_begin(in);
    struct deliver_request r = {0};
    struct slice id = decode_bytes(&d, sizeof r.operation_id);

    r.size_hint = decode_u64(&d);
    r.user = decode_slice(&d, USER_SIZE_MAX);
    r.folder = decode_slice(&d, HEAD_SIZE_MAX);
    r.return_path = decode_slice(&d, HEAD_SIZE_MAX);
    r.recipient = decode_slice(&d, HEAD_SIZE_MAX);
    r.received = decode_slice(&d, HEAD_SIZE_MAX);
    if (!decode_end(&d))
        return false;
    memcpy(r.operation_id, id.data, sizeof r.operation_id);
    *out = r;
    return true;
}

size_t deliver_reply_encode(const struct deliver_reply *r, char *out)
{
    struct encoder e = encode_begin(out);

    encode_u16(&e, r->code);
    encode_slice(&e, r->text);
    return e.at;
}

bool deliver_reply_decode(struct slice in, struct deliver_reply *out)
{
    struct decoder d = decode_begin(in);
    struct deliver_reply r = {0};

    r.code = decode_u16(&d);
    r.text = decode_slice(&d, HEAD_SIZE_MAX);
    if (!decode_end(&d))
        return false;
    *out = r;
    return true;
}
