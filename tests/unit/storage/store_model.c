/* tests/unit/storage/store_model.c -- see store_model.h. */
#include "tests/unit/storage/store_model.h"

#include "core/mail/flags.h"
#include "core/shard.h"
#include "storage/account_state.h"

#include <errno.h>
#include <stdarg.h>

struct store_config test_config = {.node_name = "test", .segment_size = 1024 * 1024, .reserve_size = 4096};

void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
    abort();
}

struct store *test_store_open(void)
{
    struct store *store;

    CHECK_RC(store_open(&test_config, &store), 0);
    CHECK(store_self() == store);
    return store;
}

struct account *test_account(struct store *store, const char *user)
{
    struct account *a;

    CHECK_RC(account_open(store, slice_str(user), ACCOUNT_CREATE, &a), 0);
    return a;
}

struct id128 test_id(uint64_t number)
{
    struct id128 id = {{0}};

    put_u64(id.bytes, number);
    put_u64(id.bytes + 8, 0x5eed);
    return id;
}

static void test_bytes(unsigned number, size_t offset, char *out, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        size_t at = offset + i;

        out[i] = at % 64 == 63 ? '\n' : (char)('a' + (number * 7 + at * 3 + at / 64) % 26);
    }
    if (offset == 0 && size >= 10)
        memcpy(out, "A: b\r\n\r\n", 8);
}

long test_append(struct account *a, const char *mailbox, unsigned number, size_t size,
                 const struct id128 *operation)
{
    struct change_message message = {.internal_s = 1000000 + number, .zone_minutes = -90};
    struct body_writer *w;
    struct change c;
    uint32_t uid = 0;
    char result[16];
    int rc = body_begin(a->store, 0, &w);

    if (rc < 0)
        return rc;
    for (size_t at = 0; at < size && rc == 0; at += 1000) {
        char chunk[1000];
        size_t part = MIN(size - at, sizeof chunk);

        test_bytes(number, at, chunk, part);
        rc = body_write(w, slice_of(chunk, part));
    }
    if (rc == 0)
        rc = body_finish(w, &message.body);
    if (rc < 0) {
        body_abort(w);
        return rc;
    }
    rc = change_begin(&c, a, operation);
    if (rc == -EALREADY) {
        CHECK(c.result.size == 4);
        uid = get_u32(c.result.data);
    } else if (rc == 0) {
        rc = change_append(&c, account_mailbox(a, slice_str(mailbox)), &message, &uid);
        put_u32(result, uid);
        if (rc == 0)
            rc = change_commit(&c, slice_of(result, 4));
    }
    change_end(&c);
    body_free(message.body);
    return rc == 0 || rc == -EALREADY ? (long)uid : rc;
}

int test_body_is(struct account *a, const char *mailbox, uint32_t uid, unsigned number, size_t size)
{
    struct mailbox *m = account_mailbox(a, slice_str(mailbox));
    uint32_t index = mailbox_message_find(m, uid);
    struct body_location location = mailbox_message_at(m, index)->body;
    struct body_reader *r;
    char *got = malloc(size + 1), *wanted = malloc(size + 1);
    ssize_t rc = body_open(a->store, &location, &r);
    bool same;

    if (rc < 0) {
        free(got);
        free(wanted);
        return (int)rc;
    }
    test_bytes(number, 0, wanted, size);
    for (size_t at = 0; at < size && rc >= 0; at += (size_t)MAX(rc, 0)) { /* Ranges across blocks. */
        rc = body_read(r, got + at, MIN(size - at, (size_t)10007), at);
        if (rc == 0)
            break;
    }
    same = rc >= 0 && body_reader_size(r) == size && (size == 0 || memcmp(got, wanted, size) == 0);
    body_close(r);
    free(got);
    free(wanted);
    return rc < 0 ? (int)rc : same;
}

static void set_of(struct uid_set *s, struct account *a, uint32_t first, uint32_t last)
{
    uid_set_init(s, a->store->heap, 0);
    CHECK_RC(uid_set_add(s, first, last), 0);
}

static int finish(struct change *c, int rc)
{
    if (rc == 0)
        rc = change_commit(c, SLICE(""));
    change_end(c);
    return rc;
}

int test_flags(struct account *a, const char *mailbox, uint32_t first, uint32_t last, enum flags_how how,
               uint32_t flags, const char *keyword)
{
    struct mailbox *m = account_mailbox(a, slice_str(mailbox));
    struct uid_set set;
    struct change c;
    uint32_t index = 0;
    int rc = change_begin(&c, a, NULL);

    set_of(&set, a, first, last);
    if (rc == 0 && keyword != NULL)
        rc = change_keyword(&c, m, slice_str(keyword), &index);
    if (rc == 0)
        rc = change_flags(&c, m, &set, how, flags, keyword != NULL ? UINT64_C(1) << index : 0, UINT64_MAX,
                          NULL, NULL);
    uid_set_fini(&set);
    return finish(&c, rc);
}

int test_expunge(struct account *a, const char *mailbox, uint32_t first, uint32_t last)
{
    struct uid_set set;
    struct change c;
    int rc = change_begin(&c, a, NULL);

    set_of(&set, a, first, last);
    if (rc == 0)
        rc = change_expunge(&c, account_mailbox(a, slice_str(mailbox)), &set, false, NULL);
    uid_set_fini(&set);
    return finish(&c, rc);
}

int test_copy(struct account *a, const char *from, const char *to, uint32_t first, uint32_t last, bool move)
{
    struct mailbox *m = account_mailbox(a, slice_str(from)), *t = account_mailbox(a, slice_str(to));
    struct uid_set set;
    struct change c;
    int rc = change_begin(&c, a, NULL);

    set_of(&set, a, first, last);
    if (rc == 0)
        rc = t == NULL ? -ENOENT
             : move    ? change_move(&c, m, &set, t, NULL, NULL)
                       : change_copy(&c, m, &set, t, NULL, NULL);
    uid_set_fini(&set);
    return finish(&c, rc);
}

int test_create(struct account *a, const char *name)
{
    struct change c;
    int rc = change_begin(&c, a, NULL);

    return finish(&c, rc == 0 ? change_mailbox_create(&c, slice_str(name), 0, NULL) : rc);
}

int test_delete(struct account *a, const char *name)
{
    struct mailbox *m = account_mailbox(a, slice_str(name));
    struct change c;
    int rc = change_begin(&c, a, NULL);

    return finish(&c, rc != 0 ? rc : m == NULL ? -ENOENT : change_mailbox_delete(&c, m));
}

int test_rename(struct account *a, const char *from, const char *to)
{
    struct change c;
    int rc = change_begin(&c, a, NULL);

    return finish(&c, rc == 0 ? change_mailbox_rename(&c, slice_str(from), slice_str(to)) : rc);
}

int test_subscribe(struct account *a, const char *name, bool subscribe)
{
    struct change c;
    int rc = change_begin(&c, a, NULL);

    if (rc == 0)
        rc = subscribe ? change_subscribe(&c, slice_str(name)) : change_unsubscribe(&c, slice_str(name));
    return finish(&c, rc);
}

/* ---- Description --------------------------------------------------------------------------------------- */

struct text {
    char *data;
    size_t size, capacity;
};

static void PRINTF_LIKE(2, 3) put(struct text *t, const char *format, ...)
{
    va_list args;

    if (t->capacity - t->size < 1024) {
        t->capacity = t->capacity * 2 + 4096;
        t->data = realloc(t->data, t->capacity);
    }
    va_start(args, format);
    t->size += (size_t)vsnprintf(t->data + t->size, t->capacity - t->size, format, args);
    va_end(args);
}

static void put_id(struct text *t, const struct id128 *id)
{
    for (unsigned i = 0; i < 16; i++)
        put(t, "%02x", id->bytes[i]);
}

static void put_message(struct text *t, const struct message *m)
{
    put(t, "  %u f%x k%llx c%llu h%llu x%llu d%lld z%d s%u e%u at %u/%u/%u+%u %u ", m->uid, m->flags,
        (unsigned long long)m->keywords, (unsigned long long)m->created, (unsigned long long)m->changed,
        (unsigned long long)m->expunged, (long long)m->internal_s, m->zone_minutes, m->saved_s, m->expunged_s,
        m->body.stream, m->body.segment, m->body.offset, m->body.meta_size, m->body.size);
    put_id(t, &m->emailid);
    put(t, "\n");
}

static void put_mailbox(struct text *t, struct mailbox *m)
{
    const struct message *dead;

    put(t, " %llu %.*s ", (unsigned long long)m->id, (int)m->name_size, m->name);
    put_id(t, &m->objectid);
    put(t, " su%x sub%d v%u n%u r%u c%llu h%llu fl%llu d%llu count %u %u %u %llu first %u\n", m->special_use,
        m->deleted == 0 && m->subscribed, m->uidvalidity, m->uid_next, m->recent_uid,
        (unsigned long long)m->created, (unsigned long long)m->highest, (unsigned long long)m->floor,
        (unsigned long long)m->deleted, m->message_count, m->unseen_count, m->deleted_count,
        (unsigned long long)m->size, mailbox_first_unseen(m));
    for (uint32_t i = 0; i < m->keyword_count; i++)
        put(t, "  keyword %.*s\n", (int)mailbox_keyword(m, i).size, mailbox_keyword(m, i).data);
    for (uint32_t i = 0; i < m->message_count; i++)
        put_message(t, mailbox_message_at(m, i));
    for (uint32_t i = 0; (dead = mailbox_tombstone_since(m, 0, i)) != NULL; i++)
        put_message(t, dead);
}

char *test_describe(struct account *a)
{
    struct text t = {0};
    const struct account_private *p = a->private;

    put(&t, "%.*s ", (int)account_user(a).size, account_user(a).data);
    put_id(&t, &a->history);
    put(&t, " n%llu mailboxes %u next %llu %u\n", (unsigned long long)a->modseq, a->mailbox_count,
        (unsigned long long)p->mailbox_id_next, p->uidvalidity_next);
    for (uint32_t i = 0; i < p->mailbox_count; i++)
        put_mailbox(&t, p->mailboxes[i]);
    for (uint32_t i = 0; i < a->mailbox_count; i++)
        put(&t, " name %llu\n", (unsigned long long)account_mailbox_at(a, i)->id);
    for (uint32_t i = 0; i < account_subscription_count(a); i++)
        put(&t, " subscribed %.*s\n", (int)account_subscription_at(a, i).size,
            account_subscription_at(a, i).data);
    for (uint32_t i = 0; i < p->operation_count; i++) {
        const struct operation_result *o = &p->operations[(p->operation_first + i) % p->operation_capacity];

        put(&t, " operation ");
        put_id(&t, &o->id);
        put(&t, " %llu %llu %u\n", (unsigned long long)o->modseq, (unsigned long long)o->wall_ms,
            o->result_size);
    }
    return t.data;
}
