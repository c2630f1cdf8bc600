/* The simulator's TLS: one round trip, records and flights of the real sizes, nothing secret. A record's tag
 * is a checksum of its direction, number, header and bytes, so what is cut, repeated, reordered or was never
 * sealed is found, as an AEAD finds it. All randomness is the seed's.
 *
 *   client                                       server
 *     HELLO name, protocol, ticket   (300 bytes) ->
 *                                                <- HELLO resumed?      (1,100 bytes; resumed: 250)
 *     FINISHED                        (70 bytes) ->
 *                                                <- TICKET              (two, 230 bytes)
 *     DATA                                       <-> DATA, ALERT */
#include "core/io.h"
#include "core/shard.h"
#include "net/tls.h"
#include <errno.h>
#include <stdio.h>
#include <xxhash.h>

enum record { RECORD_ALERT = 21, RECORD_HANDSHAKE = 22, RECORD_DATA = 23 };
enum message { MESSAGE_HELLO = 1, MESSAGE_FINISHED = 20, MESSAGE_TICKET = 4 };
enum alert { ALERT_CLOSE = 0, ALERT_BAD_RECORD = 20, ALERT_UNEXPECTED = 10, ALERT_NO_PROTOCOL = 120 };

#define HEADER_SIZE    5
#define TAG_SIZE       16
#define BODY_MAX       (TLS_RECORD_MAX + 1 + TAG_SIZE)
#define HELLO_CLIENT   300
#define HELLO_FULL     1100
#define HELLO_RESUMED  250
#define FINISHED_SIZE  70
#define TICKET_MESSAGE 230
#define TICKET_SIZE    32 /* Key name 16, number 8, checksum under the key 8. */
#define PACKED_SIZE    67 /* As that of TLS 1.3: flags 1, count of records opened 8, sealed 8, zeros. */
#define PACKED_SERVER  1  /* Flags. */
#define PACKED_RESUMED 2

struct tls_context {
    uint32_t references;
    bool server;
    bool node;            /* Both sides show who they are, */
    uint8_t subject_size; /* which is the certificate's text: "NAME UNIT..." */
    char subject[TLS_NAME_MAX];
    struct tls_ticket_keys ticket_keys;
};

struct tls_shard { /* In SLOT_TLS, as long as the shard has a session. */
    uint32_t sessions;
    char plain[TLS_RECORD_MAX]; /* Of the last call. */
};

struct tls {
    struct tls_context *context; /* NULL: it has slept. */
    uint8_t state;               /* enum tls_state */
    bool server, begun, resumed, peer_ended;
    uint64_t sealed_count, opened_count;
    struct slice alpn;
    struct tls_output partial; /* Of the record that is arriving. */
    const char *error;
    uint8_t name_size, ticket_size;
    char name[TLS_NAME_MAX];
    char ticket[TICKET_SIZE]; /* A client: to resume with, then the newest. */
    uint8_t peer_size;        /* Between nodes: the other's subject. */
    char peer[TLS_NAME_MAX];
};

/* ---- Contexts ------------------------------------------------------------------------------------------ */

static struct tls_context *context_new(bool server)
{
    struct tls_context *c = heap_zalloc(shard_self()->heap, sizeof *c);

    c->references = 1;
    c->server = server;
    return c;
}

int tls_context_create(const struct tls_pair *pairs, unsigned count,
                       const struct tls_ticket_keys *ticket_keys, struct tls_context **context_out,
                       char error[TLS_ERROR_MAX])
{
    for (unsigned i = 0; i < count; i++) {
        if (pairs[i].cert.size == 0 || pairs[i].key.size == 0) {
            snprintf(error, TLS_ERROR_MAX, "not a certificate in PEM");
            return -EINVAL;
        }
    }
    *context_out = context_new(true);
    tls_context_set_ticket_keys(*context_out, ticket_keys);
    return 0;
}

int tls_context_create_client(struct slice ca, struct tls_context **context_out, char error[TLS_ERROR_MAX])
{
    *context_out = context_new(false);
    return 0;
}

int tls_context_create_node(const struct tls_pair *pair, struct slice ca, bool server,
                            struct tls_context **context_out, char error[TLS_ERROR_MAX])
{
    struct tls_context *c;

    if (pair->cert.size == 0 || pair->cert.size > TLS_NAME_MAX || pair->key.size == 0 || ca.size == 0) {
        snprintf(error, TLS_ERROR_MAX, "not a certificate in PEM");
        return -EINVAL;
    }
    c = context_new(server);
    c->node = true;
    memcpy(c->subject, pair->cert.data, pair->cert.size);
    c->subject_size = (uint8_t)pair->cert.size;
    *context_out = c;
    return 0;
}

void tls_context_set_ticket_keys(struct tls_context *c, const struct tls_ticket_keys *keys)
{
    ASSERT(keys->count > 0);
    c->ticket_keys = *keys;
}

int64_t tls_context_expiry(const struct tls_context *c)
{
    return 0;
}

void tls_context_release(struct tls_context *c)
{
    if (c != NULL && --c->references == 0)
        heap_free(shard_self()->heap, c);
}

/* ---- Sessions ------------------------------------------------------------------------------------------ */

static struct tls *session_alloc(void)
{
    struct shard *s = shard_self();
    struct tls *t = heap_try_alloc(s->heap, sizeof *t);
    struct tls_shard *shared = s->slot[SLOT_TLS];

    if (t == NULL)
        return NULL;
    if (shared == NULL)
        shared = s->slot[SLOT_TLS] = heap_zalloc(s->heap, sizeof *shared);
    shared->sessions++;
    memset(t, 0, sizeof *t);
    t->error = "";
    return t;
}

static struct tls *session_new(struct tls_context *c, struct slice alpn)
{
    struct tls *t = session_alloc();

    if (t == NULL)
        return NULL;
    t->context = c;
    t->server = c->server;
    t->alpn = alpn;
    c->references++;
    return t;
}

struct tls *tls_accept(struct tls_context *c, struct slice alpn)
{
    ASSERT(c->server);
    return session_new(c, alpn);
}

struct tls *tls_connect(struct tls_context *c, struct slice name, struct slice alpn, struct slice ticket)
{
    struct tls *t;

    ASSERT(!c->server);
    if (name.size > TLS_NAME_MAX || alpn.size > TLS_NAME_MAX)
        return NULL;
    t = session_new(c, alpn);
    if (t == NULL)
        return NULL;
    if (name.size > 0)
        memcpy(t->name, name.data, name.size);
    t->name_size = (uint8_t)name.size;
    if (ticket.size == TICKET_SIZE) {
        memcpy(t->ticket, ticket.data, TICKET_SIZE);
        t->ticket_size = TICKET_SIZE;
    }
    return t;
}

void tls_free(struct tls *t)
{
    struct shard *s = shard_self();
    struct tls_shard *shared = s->slot[SLOT_TLS];

    if (t == NULL)
        return;
    tls_output_fini(&t->partial);
    tls_context_release(t->context);
    heap_free(s->heap, t);
    if (--shared->sessions > 0)
        return;
    s->slot[SLOT_TLS] = NULL;
    heap_free(s->heap, shared);
}

size_t tls_pack_part(struct tls *t, void *out, char *part, size_t part_max, size_t *part_size_out)
{
    const struct tls_output *p = &t->partial;
    uint8_t *bytes = out;

    if (t->state != TLS_OPEN || t->peer_ended || p->size > part_max)
        return 0;
    *part_size_out = p->size;
    if (p->size > 0)
        memcpy(part, p->data, p->size);
    memset(bytes, 0, PACKED_SIZE);
    bytes[0] = (uint8_t)((t->server ? PACKED_SERVER : 0) | (t->resumed ? PACKED_RESUMED : 0));
    put_u64(bytes + 1, t->opened_count);
    put_u64(bytes + 9, t->sealed_count);
    tls_free(t);
    return PACKED_SIZE;
}

size_t tls_pack(struct tls *t, void *out)
{
    size_t none;

    return tls_pack_part(t, out, NULL, 0, &none);
}

struct tls *tls_unpack(const void *in, size_t size)
{
    const uint8_t *bytes = in;
    struct tls *t;

    ASSERT(size == PACKED_SIZE);
    t = session_alloc();
    if (t == NULL)
        return NULL;
    t->state = TLS_OPEN;
    t->server = (bytes[0] & PACKED_SERVER) != 0;
    t->resumed = (bytes[0] & PACKED_RESUMED) != 0;
    t->begun = true;
    t->opened_count = get_u64(bytes + 1);
    t->sealed_count = get_u64(bytes + 9);
    return t;
}

/* ---- Records ------------------------------------------------------------------------------------------- */

/* What stands for the AEAD's tag. `from_server`: the two directions have keys of their own. */
static void record_tag(bool from_server, uint64_t number, struct slice record, uint8_t tag[TAG_SIZE])
{
    uint64_t seed = number * 2 + from_server;

    put_u64(tag, XXH3_64bits_withSeed(record.data, record.size, seed));
    put_u64(tag + 8, XXH3_64bits_withSeed(record.data, record.size, ~seed));
}

static void record_put(struct tls *t, enum record type, struct slice body, struct tls_output *out)
{
    size_t size = body.size + 1 + TAG_SIZE, start = out->size;
    uint8_t header[HEADER_SIZE] = {(uint8_t)type, 3, 3, (uint8_t)(size >> 8), (uint8_t)size};
    uint8_t inner = (uint8_t)type, tag[TAG_SIZE];

    tls_output_append(out, slice_of(header, sizeof header));
    tls_output_append(out, body);
    tls_output_append(out, slice_of(&inner, 1));
    record_tag(t->server, t->sealed_count++, slice_of(out->data + start, out->size - start), tag);
    tls_output_append(out, slice_of(tag, sizeof tag));
}

static enum tls_event fail(struct tls *t, const char *why, enum alert alert, struct tls_output *out)
{
    uint8_t body[2] = {2, (uint8_t)alert};

    t->error = why;
    t->state = TLS_CLOSED;
    record_put(t, RECORD_ALERT, slice_of(body, sizeof body), out);
    return TLS_FAILED;
}

/* Gathers one record out of *in. 1: t->partial holds a whole one; 0: more is needed; -1: not TLS. */
static int record_gather(struct tls *t, struct slice *in)
{
    struct tls_output *p = &t->partial;

    for (;;) {
        size_t want = HEADER_SIZE, take;

        if (p->size >= HEADER_SIZE) {
            size_t body = (size_t)(uint8_t)p->data[3] << 8 | (uint8_t)p->data[4];

            if (p->data[1] != 3 || p->data[2] != 3 || body <= TAG_SIZE || body > BODY_MAX)
                return -1;
            want += body;
            if (p->size == want)
                return 1;
        }
        take = MIN(want - p->size, in->size);
        if (take == 0)
            return 0;
        tls_output_append(p, slice_first(*in, take));
        *in = slice_from(*in, take);
    }
}

/* The record in t->partial: its type, its bytes. False: not what the other side sealed. */
static bool record_open(struct tls *t, enum record *type_out, struct slice *body_out)
{
    struct slice record = slice_of(t->partial.data, t->partial.size - TAG_SIZE);
    uint8_t tag[TAG_SIZE];

    record_tag(!t->server, t->opened_count++, record, tag);
    if (memcmp(tag, record.data + record.size, TAG_SIZE) != 0)
        return false;
    *type_out = (enum record)(uint8_t)record.data[record.size - 1];
    *body_out = slice_of(record.data + HEADER_SIZE, record.size - HEADER_SIZE - 1);
    return true;
}

enum tls_hello tls_hello(struct slice in)
{
    size_t size;

    if (in.size > TLS_HELLO_MAX || (in.size > 0 && in.data[0] != RECORD_HANDSHAKE))
        return TLS_HELLO_BAD;
    if (in.size < HEADER_SIZE)
        return TLS_HELLO_MORE;
    size = HEADER_SIZE + ((size_t)(uint8_t)in.data[3] << 8 | (uint8_t)in.data[4]);
    if (size > TLS_HELLO_MAX)
        return TLS_HELLO_BAD;
    return in.size >= size ? TLS_HELLO_WHOLE : TLS_HELLO_MORE;
}

void tls_hello_refuse(struct tls_output *out)
{
    static const char alert[] = {RECORD_ALERT, 3, 3, 0, 2, 2, ALERT_UNEXPECTED};

    tls_output_append(out, slice_of(alert, sizeof alert));
}

/* ---- Handshake messages -------------------------------------------------------------------------------- */

/* A message: kind, then fields of one byte of size and so many bytes, then zeros up to its usual size. */
struct fields {
    char bytes[HELLO_FULL]; /* A client's longest: two names, 600 bytes. */
    size_t size;
};

static void field_put(struct fields *f, struct slice value)
{
    ASSERT(value.size <= 255 && f->size + 1 + value.size <= sizeof f->bytes);
    f->bytes[f->size++] = (char)value.size;
    if (value.size > 0)
        memcpy(f->bytes + f->size, value.data, value.size);
    f->size += value.size;
}

static bool field_take(struct slice *in, struct slice *value_out)
{
    size_t size = in->size > 0 ? (uint8_t)in->data[0] : 0;

    if (in->size < 1 + size)
        return false;
    *value_out = slice_of(in->data + 1, size);
    *in = slice_from(*in, 1 + size);
    return true;
}

static void message_put(struct tls *t, struct fields *f, size_t size, struct tls_output *out)
{
    record_put(t, RECORD_HANDSHAKE, slice_of(f->bytes, MAX(f->size, size)), out);
}

static void message_start(struct fields *f, enum message kind)
{
    memset(f, 0, sizeof *f);
    f->bytes[f->size++] = (char)kind;
}

static void client_hello(struct tls *t, struct tls_output *out)
{
    struct fields f;
    uint8_t random[32];

    message_start(&f, MESSAGE_HELLO);
    random_bytes(random, sizeof random);
    field_put(&f, slice_of(random, sizeof random));
    field_put(&f, slice_of(t->name, t->name_size));
    field_put(&f, t->alpn);
    field_put(&f, slice_of(t->ticket, t->ticket_size));
    field_put(&f, slice_of(t->context->subject, t->context->subject_size));
    message_put(t, &f, HELLO_CLIENT, out);
    t->begun = true;
}

static void ticket_check(const uint8_t key[TLS_TICKET_KEY_SIZE], const char *ticket, char check[8])
{
    put_u64(check, XXH3_64bits_withSeed(ticket, 24, get_u64(key + 16) ^ get_u64(key + 32)));
}

static bool ticket_good(const struct tls_context *c, struct slice ticket)
{
    char check[8];

    for (unsigned i = 0; i < c->ticket_keys.count && ticket.size == TICKET_SIZE; i++) {
        const uint8_t *key = c->ticket_keys.keys[i];

        ticket_check(key, ticket.data, check);
        if (memcmp(ticket.data, key, 16) == 0 && memcmp(ticket.data + 24, check, 8) == 0)
            return true;
    }
    return false;
}

static void send_ticket(struct tls *t, struct tls_output *out)
{
    struct fields f;
    char ticket[TICKET_SIZE];

    message_start(&f, MESSAGE_TICKET);
    memcpy(ticket, t->context->ticket_keys.keys[0], 16);
    random_bytes(ticket + 16, 8);
    ticket_check(t->context->ticket_keys.keys[0], ticket, ticket + 24);
    field_put(&f, slice_of(ticket, sizeof ticket));
    message_put(t, &f, TICKET_MESSAGE, out);
}

/* Between nodes a side that shows nothing is refused. */
static bool peer_keep(struct tls *t, struct slice subject)
{
    if (subject.size > 0)
        memcpy(t->peer, subject.data, subject.size);
    t->peer_size = (uint8_t)subject.size;
    return subject.size > 0 || !t->context->node;
}

static enum tls_event server_message(struct tls *t, struct slice body, struct tls_output *out)
{
    struct slice random, name, alpn, ticket, subject, fields = slice_from(body, 1);
    struct fields f;

    if (body.data[0] == MESSAGE_FINISHED && t->begun && t->state == TLS_HANDSHAKING) {
        t->state = TLS_OPEN;
        for (unsigned i = 0; i < 2 && !t->context->node; i++)
            send_ticket(t, out);
        return TLS_SECURED;
    }
    if (body.data[0] != MESSAGE_HELLO || t->begun || !field_take(&fields, &random) ||
        !field_take(&fields, &name) || !field_take(&fields, &alpn) || !field_take(&fields, &ticket) ||
        !field_take(&fields, &subject) || !peer_keep(t, subject))
        return fail(t, "UNEXPECTED_MESSAGE", ALERT_UNEXPECTED, out);
    if (alpn.size > 0 && !slice_eq(alpn, t->alpn))
        return fail(t, "NO_APPLICATION_PROTOCOL", ALERT_NO_PROTOCOL, out);
    if (name.size > 0)
        memcpy(t->name, name.data, name.size);
    t->name_size = (uint8_t)name.size;
    t->resumed = ticket_good(t->context, ticket);
    t->begun = true;
    message_start(&f, MESSAGE_HELLO);
    field_put(&f, slice_of(&t->resumed, 1));
    field_put(&f, slice_of(t->context->subject, t->context->subject_size));
    message_put(t, &f, t->resumed ? HELLO_RESUMED : HELLO_FULL, out);
    return TLS_WAIT;
}

static enum tls_event client_message(struct tls *t, struct slice body, struct tls_output *out)
{
    struct slice value, subject, fields = slice_from(body, 1);
    struct fields f;

    if (body.data[0] == MESSAGE_TICKET && t->state == TLS_OPEN && field_take(&fields, &value) &&
        value.size == TICKET_SIZE) {
        memcpy(t->ticket, value.data, TICKET_SIZE);
        t->ticket_size = TICKET_SIZE;
        return TLS_WAIT;
    }
    if (body.data[0] != MESSAGE_HELLO || t->state != TLS_HANDSHAKING || !field_take(&fields, &value) ||
        value.size != 1 || !field_take(&fields, &subject) || !peer_keep(t, subject))
        return fail(t, "UNEXPECTED_MESSAGE", ALERT_UNEXPECTED, out);
    t->resumed = value.data[0] != 0;
    t->ticket_size = 0; /* It was for one use. */
    t->state = TLS_OPEN;
    message_start(&f, MESSAGE_FINISHED);
    message_put(t, &f, FINISHED_SIZE, out);
    return TLS_SECURED;
}

/* ---- The interface ------------------------------------------------------------------------------------- */

/* TLS_WAIT: nothing for the caller in this record. */
static enum tls_event record_take(struct tls *t, enum record type, struct slice body, struct slice *plain_out,
                                  struct tls_output *out)
{
    struct tls_shard *shared;

    if (type == RECORD_ALERT && body.size == 2 && body.data[1] == ALERT_CLOSE) {
        t->peer_ended = true;
        return TLS_ENDED;
    }
    if (type == RECORD_ALERT) {
        t->error = "ALERT";
        t->state = TLS_CLOSED;
        return TLS_FAILED;
    }
    if (type == RECORD_HANDSHAKE && body.size > 0)
        return t->server ? server_message(t, body, out) : client_message(t, body, out);
    if (type != RECORD_DATA || t->state == TLS_HANDSHAKING || body.size > TLS_RECORD_MAX)
        return fail(t, "UNEXPECTED_MESSAGE", ALERT_UNEXPECTED, out);
    if (body.size == 0)
        return TLS_WAIT;
    shared = shard_self()->slot[SLOT_TLS];
    memcpy(shared->plain, body.data, body.size);
    *plain_out = slice_of(shared->plain, body.size);
    return TLS_DATA;
}

enum tls_event tls_feed(struct tls *t, struct slice *in, struct slice *plain_out, struct tls_output *out)
{
    enum tls_event event = TLS_WAIT;

    if (t->peer_ended)
        return TLS_ENDED;
    if (t->state == TLS_CLOSED && t->error[0] != '\0')
        return TLS_FAILED;
    if (!t->server && !t->begun)
        client_hello(t, out);
    while (event == TLS_WAIT) {
        enum record type;
        struct slice body;
        int rc = record_gather(t, in);

        if (rc < 0)
            return fail(t, "WRONG_VERSION_NUMBER", ALERT_UNEXPECTED, out);
        if (rc == 0)
            break;
        if (!record_open(t, &type, &body))
            return fail(t, "BAD_DECRYPT", ALERT_BAD_RECORD, out);
        event = record_take(t, type, body, plain_out, out);
        tls_output_fini(&t->partial);
    }
    return event;
}

void tls_seal(struct tls *t, struct slice plain, struct tls_output *out)
{
    ASSERT(plain.size > 0 && plain.size <= TLS_RECORD_MAX);
    if (t->state != TLS_OPEN)
        return;
    record_put(t, RECORD_DATA, plain, out);
}

size_t tls_packed_next(const void *in, size_t size, void *out, size_t *overhead_out)
{
    uint8_t *bytes = memcpy(out, in, size);

    put_u64(bytes + 9, get_u64(bytes + 9) + 1);
    *overhead_out = HEADER_SIZE + 1 + TAG_SIZE;
    return size;
}

void tls_packed_seal(const void *in, size_t size, struct slice plain, struct tls_output *out)
{
    const uint8_t *bytes = in;
    struct tls t = {.server = (bytes[0] & PACKED_SERVER) != 0, .sealed_count = get_u64(bytes + 9)};

    record_put(&t, RECORD_DATA, plain, out);
}

void tls_close_notify(struct tls *t, struct tls_output *out)
{
    uint8_t body[2] = {1, ALERT_CLOSE};

    if (t->state != TLS_OPEN)
        return;
    t->state = TLS_CLOSED;
    record_put(t, RECORD_ALERT, slice_of(body, sizeof body), out);
}

size_t tls_held(const struct tls *t)
{
    return t->partial.capacity;
}

enum tls_state tls_state(const struct tls *t)
{
    return t->state;
}

const char *tls_version(const struct tls *t)
{
    return "simulated";
}

const char *tls_cipher(const struct tls *t)
{
    return "none";
}

bool tls_resumed(const struct tls *t)
{
    return t->resumed;
}

struct slice tls_server_name(const struct tls *t)
{
    return slice_of(t->name, t->name_size);
}

const char *tls_error(const struct tls *t)
{
    return t->error;
}

struct slice tls_ticket(const struct tls *t)
{
    return slice_of(t->ticket, t->server ? 0 : t->ticket_size);
}

bool tls_peer(const struct tls *t, struct tls_identity *identity_out)
{
    struct slice rest = slice_of(t->peer, t->peer_size), word;
    struct tls_identity out = {.unit_count = 0};

    for (unsigned i = 0; rest.size > 0; i++) {
        word = slice_first(rest, slice_find(rest, ' '));
        rest = slice_from(rest, MIN(word.size + 1, rest.size));
        if (i == 0) {
            memcpy(out.name, word.data, word.size);
        } else if (out.unit_count < TLS_UNITS_MAX && word.size <= TLS_UNIT_MAX) {
            memcpy(out.units[out.unit_count++], word.data, word.size);
        } else {
            return false;
        }
    }
    if (out.name[0] == '\0')
        return false;
    *identity_out = out;
    return true;
}
