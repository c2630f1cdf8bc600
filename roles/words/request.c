#include "roles/words/request.h"
#include "roles/words/coder.h"

static void encode_ticket(struct encoder *e, const struct ticket *t)
{
    encode_bytes(e, t->bytes, sizeof t->bytes);
}

static void decode_ticket(struct decoder *d, struct ticket *out)
{
    struct slice bytes = decode_bytes(d, sizeof out->bytes);

    if (bytes.size > 0)
        memcpy(out->bytes, bytes.data, sizeof out->bytes);
}

/* ---- LINK_LOGIN, LINK_LOOKUP --------------------------------------------------------------------------- */

size_t login_request_encode(const struct login_request *r, char *out)
{
    struct encoder e = encode_begin(out, HEAD_SIZE_MAX, WORDS_VERSION);

    encode_u8(&e, r->lookup);
    encode_u8(&e, r->secure);
    encode_slice(&e, r->user);
    encode_slice(&e, r->password);
    return e.at;
}

bool login_request_decode(struct slice in, struct login_request *out)
{
    struct decoder d = decode_begin(in, WORDS_VERSION);
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
    struct encoder e = encode_begin(out, HEAD_SIZE_MAX, WORDS_VERSION);

    encode_u8(&e, (uint8_t)r->result);
    encode_u32(&e, r->delay_ms);
    encode_u16(&e, r->partition);
    encode_ticket(&e, &r->ticket);
    encode_slice(&e, r->user);
    return e.at;
}

bool login_reply_decode(struct slice in, struct login_reply *out)
{
    struct decoder d = decode_begin(in, WORDS_VERSION);
    struct login_reply r = {0};
    uint8_t result = decode_u8(&d);

    r.delay_ms = decode_u32(&d);
    r.partition = decode_u16(&d);
    decode_ticket(&d, &r.ticket);
    r.user = decode_slice(&d, USER_SIZE_MAX);
    if (!decode_end(&d) || result > LOGIN_UNAVAILABLE)
        return false;
    r.result = (enum login_result)result;
    *out = r;
    return true;
}

/* ---- LINK_RENEW ---------------------------------------------------------------------------------------- */

size_t renew_request_encode(const struct renew_request *r, char *out)
{
    struct encoder e = encode_begin(out, HEAD_SIZE_MAX, WORDS_VERSION);

    encode_ticket(&e, &r->ticket);
    encode_slice(&e, r->user);
    return e.at;
}

bool renew_request_decode(struct slice in, struct renew_request *out)
{
    struct decoder d = decode_begin(in, WORDS_VERSION);
    struct renew_request r = {0};

    decode_ticket(&d, &r.ticket);
    r.user = decode_slice(&d, USER_SIZE_MAX);
    if (!decode_end(&d))
        return false;
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
    struct encoder e = encode_begin(out, HEAD_SIZE_MAX, WORDS_VERSION);

    encode_bytes(&e, r->operation_id, sizeof r->operation_id);
    encode_token(&e, &r->token);
    encode_u8(&e, r->more_follows);
    encode_u8(&e, r->outcome);
    encode_u8(&e, r->again);
    encode_ticket(&e, &r->ticket);
    encode_slice(&e, r->user);
    return e.at;
}

bool imap_request_decode(struct slice in, struct imap_request *out)
{
    struct decoder d = decode_begin(in, WORDS_VERSION);
    struct imap_request r = {0};
    struct slice id = decode_bytes(&d, sizeof r.operation_id);

    decode_token(&d, &r.token);
    r.more_follows = decode_bool(&d);
    r.outcome = decode_bool(&d);
    r.again = decode_bool(&d);
    decode_ticket(&d, &r.ticket);
    r.user = decode_slice(&d, USER_SIZE_MAX);
    if (!decode_end(&d))
        return false;
    memcpy(r.operation_id, id.data, sizeof r.operation_id);
    *out = r;
    return true;
}

size_t imap_reply_encode(const struct imap_reply *r, char *out)
{
    struct encoder e = encode_begin(out, HEAD_SIZE_MAX, WORDS_VERSION);

    encode_token(&e, &r->token);
    encode_u8(&e, r->flags);
    return e.at;
}

bool imap_reply_decode(struct slice in, struct imap_reply *out)
{
    struct decoder d = decode_begin(in, WORDS_VERSION);
    struct imap_reply r = {0};

    decode_token(&d, &r.token);
    r.flags = decode_u8(&d);
    if (!decode_end(&d))
        return false;
    *out = r;
    return true;
}

/* ---- LINK_DELIVER -------------------------------------------------------------------------------------- */

size_t deliver_request_encode(const struct deliver_request *r, char *out)
{
    struct encoder e = encode_begin(out, HEAD_SIZE_MAX, WORDS_VERSION);

    encode_bytes(&e, r->operation_id, sizeof r->operation_id);
    encode_u64(&e, r->size_hint);
    encode_u8(&e, r->outcome);
    encode_ticket(&e, &r->ticket);
    encode_slice(&e, r->user);
    encode_slice(&e, r->folder);
    encode_slice(&e, r->return_path);
    encode_slice(&e, r->recipient);
    encode_slice(&e, r->received);
    return e.at;
}

bool deliver_request_decode(struct slice in, struct deliver_request *out)
{
    struct decoder d = decode_begin(in, WORDS_VERSION);
    struct deliver_request r = {0};
    struct slice id = decode_bytes(&d, sizeof r.operation_id);

    r.size_hint = decode_u64(&d);
    r.outcome = decode_bool(&d);
    decode_ticket(&d, &r.ticket);
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
    struct encoder e = encode_begin(out, HEAD_SIZE_MAX, WORDS_VERSION);

    encode_u16(&e, r->code);
    encode_slice(&e, r->text);
    return e.at;
}

bool deliver_reply_decode(struct slice in, struct deliver_reply *out)
{
    struct decoder d = decode_begin(in, WORDS_VERSION);
    struct deliver_reply r = {0};

    r.code = decode_u16(&d);
    r.text = decode_slice(&d, HEAD_SIZE_MAX);
    if (!decode_end(&d))
        return false;
    *out = r;
    return true;
}
