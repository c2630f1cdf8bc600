/* storage/account_apply.c -- the meaning of a record: what a change does to an account in memory. The same
 * code runs when a change has become durable and when an account is read back, so the two cannot differ.
 * Records come from a disk: everything is checked, nothing asserted. */
#include "storage/apply.h"
#include <errno.h>

void change_head_encode(const struct change_head *h, char out[CHANGE_HEAD_SIZE])
{
    memcpy(out, h->account.bytes, 16);
    put_u64(out + 16, h->modseq);
    put_u16(out + 24, h->previous.stream);
    put_u16(out + 26, h->part);
    put_u32(out + 28, h->previous.segment);
    put_u32(out + 32, h->previous.offset);
    put_u32(out + 36, h->previous.size);
    put_u64(out + 40, h->wall_ms);
    memcpy(out + 48, h->operation_id.bytes, 16);
    put_u32(out + 64, h->result_size);
}

bool change_head_decode(struct slice payload, struct change_head *h)
{
    const char *in = payload.data;

    if (payload.size < CHANGE_HEAD_SIZE)
        return false;
    *h = (struct change_head){
        .modseq = get_u64(in + 16),
        .previous = {get_u16(in + 24), get_u32(in + 28), get_u32(in + 32), get_u32(in + 36)},
        .part = get_u16(in + 26),
        .wall_ms = get_u64(in + 40),
        .result_size = get_u32(in + 64)};
    memcpy(h->account.bytes, in, 16);
    memcpy(h->operation_id.bytes, in + 48, 16);
    return h->result_size <= payload.size - CHANGE_HEAD_SIZE && h->modseq <= INT64_MAX;
}

void change_touch(struct store_change *change, uint64_t mailbox_id)
{
    if (change == NULL || change->all_mailboxes)
        return;
    for (unsigned i = 0; i < change->mailbox_count; i++) {
        if (change->mailboxes[i] == mailbox_id)
            return;
    }
    if (change->mailbox_count == STORE_CHANGE_MAILBOX_MAX)
        change->all_mailboxes = true;
    else
        change->mailboxes[change->mailbox_count++] = mailbox_id;
}

void apply_touch_all(struct apply *p)
{
    if (p->touched != NULL)
        p->touched->all_mailboxes = true;
}

struct mailbox *apply_mailbox(struct apply *p)
{
    uint64_t id = unpack_varint(&p->u, INT64_MAX);
    struct mailbox *m = account_mailbox_by_id(p->a, id);

    if (m == NULL)
        p->u.bad = true;
    else
        change_touch(p->touched, id);
    return m;
}

int apply_array_grow(struct account *a, void **array, uint32_t *capacity, uint32_t count, uint32_t more,
                     size_t size)
{
    uint64_t wanted = MAX((uint64_t)count + more, (uint64_t)*capacity + *capacity / 2);
    void *larger;

    if ((uint64_t)count + more <= *capacity)
        return 0;
    wanted = MAX(wanted, 8u);
    if (wanted > UINT32_MAX)
        return -ENOMEM;
    larger = account_grow(a, *array, count * size, wanted * size);
    if (larger == NULL)
        return -ENOMEM;
    *array = larger;
    *capacity = (uint32_t)wanted;
    return 0;
}

char *apply_copy_text(struct account *a, struct slice s)
{
    char *text = account_grow(a, NULL, 0, MAX(s.size, (size_t)1));

    if (text != NULL && s.size > 0)
        memcpy(text, s.data, s.size);
    return text;
}

/* ---- Snapshots ----------------------------------------------------------------------------------------- */

static int apply_mailbox_state(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    uint64_t v[7];
    uint32_t deleted_s;

    for (unsigned i = 0; i < ARRAY_COUNT(v); i++)
        v[i] = unpack_varint(&p->u, i < 4 ? INT64_MAX : UINT32_MAX);
    deleted_s = (uint32_t)v[6];
    if (p->u.bad || p->head->part == 0 || v[4] == 0 || account_mailbox(p->a, mailbox_name(m)) == m)
        return -EBADMSG;
    m->created = v[0];
    m->highest = v[1];
    m->floor = v[2];
    m->deleted = v[3];
    m->uid_next = (uint32_t)v[4];
    m->recent_uid = (uint32_t)v[5];
    m->private->deleted_s = deleted_s;
    m->private->flag_changes_since = p->head->modseq;
    return m->deleted != 0 ? 0 : apply_names_insert(p->a, m);
}

static int snapshot_message(struct apply *p, struct mailbox *m)
{
    struct mailbox_private *mp = m->private;
    struct message msg = {.uid = (uint32_t)unpack_varint(&p->u, UINT32_MAX)};
    struct message *dead;

    msg.created = unpack_varint(&p->u, p->head->modseq);
    msg.changed = unpack_varint(&p->u, p->head->modseq);
    msg.expunged = unpack_varint(&p->u, p->head->modseq);
    msg.expunged_s = (uint32_t)unpack_varint(&p->u, UINT32_MAX);
    msg.saved_s = (uint32_t)unpack_varint(&p->u, UINT32_MAX);
    apply_message_unpack(&p->u, &msg);
    if (p->u.bad || msg.uid == 0 || msg.uid >= m->uid_next)
        return -EBADMSG;
    if (msg.expunged == 0) {
        if (m->deleted != 0 || (m->message_count > 0 && mp->live[m->message_count - 1].uid >= msg.uid))
            return -EBADMSG;
        if (apply_live_reserve(p->a, m, 1) < 0)
            return -ENOMEM;
        mp->live[m->message_count++] = msg;
        mailbox_count_message(m, &msg, 1);
        return 0;
    }
    if (mp->dead_count > 0 && mp->dead[mp->dead_start + mp->dead_count - 1].expunged > msg.expunged)
        return -EBADMSG;
    if (apply_array_grow(p->a, (void **)&mp->dead, &mp->dead_capacity, mp->dead_start + mp->dead_count, 1,
                         sizeof *mp->dead) < 0)
        return -ENOMEM;
    dead = &mp->dead[mp->dead_start + mp->dead_count++];
    *dead = msg;
    return 0;
}

static int apply_messages(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    uint64_t count = unpack_varint(&p->u, MAILBOX_MESSAGE_COUNT_MAX);
    int rc = 0;

    if (p->u.bad || p->head->part == 0)
        return -EBADMSG;
    for (uint64_t i = 0; i < count && rc == 0; i++)
        rc = snapshot_message(p, m);
    return rc;
}

/* ---- Operation ids ------------------------------------------------------------------------------------- */

static void operations_drop_oldest(struct account *a)
{
    struct account_private *p = a->private;
    struct operation_result *o = &p->operations[p->operation_first];

    p->operation_size -= o->result_size;
    heap_free(a->store->heap, o->result);
    p->operation_first = (p->operation_first + 1) % p->operation_capacity;
    p->operation_count--;
}

/* The last 1,024, and those of the last hour, within bounds. */
static void operations_expire(struct account *a, uint64_t now_ms)
{
    struct account_private *p = a->private;

    while (p->operation_count > 1) {
        const struct operation_result *oldest = &p->operations[p->operation_first];
        bool young = now_ms < oldest->wall_ms || now_ms - oldest->wall_ms < OPERATION_AGE_MS;

        if (p->operation_size <= OPERATION_SIZE_MAX && (p->operation_count <= OPERATION_COUNT_MIN ||
                                                        (young && p->operation_count <= OPERATION_COUNT_MAX)))
            return;
        operations_drop_oldest(a);
    }
}

static int operations_grow(struct account *a)
{
    struct account_private *p = a->private;
    uint32_t capacity = MAX(p->operation_capacity * 2, 16u);
    struct operation_result *larger = account_grow(a, NULL, 0, capacity * sizeof *larger);
    uint64_t *keys = account_grow(a, NULL, 0, capacity * sizeof *keys);

    if (larger == NULL || keys == NULL) {
        heap_free(a->store->heap, larger);
        heap_free(a->store->heap, keys);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < p->operation_count; i++) {
        larger[i] = p->operations[(p->operation_first + i) % p->operation_capacity];
        keys[i] = operation_key(&larger[i].id);
    }
    heap_free(a->store->heap, p->operations);
    heap_free(a->store->heap, p->operation_keys);
    p->operations = larger;
    p->operation_keys = keys;
    p->operation_first = 0;
    p->operation_capacity = capacity;
    return 0;
}

static int operation_add(struct account *a, const struct id128 *id, uint64_t modseq, uint64_t wall_ms,
                         struct slice result)
{
    struct account_private *p = a->private;
    uint32_t at;
    char *text;

    if (p->operation_count == p->operation_capacity && operations_grow(a) < 0)
        return -ENOMEM;
    text = apply_copy_text(a, result);
    if (text == NULL)
        return -ENOMEM;
    at = (p->operation_first + p->operation_count) % p->operation_capacity;
    p->operations[at] = (struct operation_result){*id, modseq, wall_ms, text, (uint32_t)result.size};
    p->operation_keys[at] = operation_key(id);
    p->operation_count++;
    p->operation_size += result.size;
    return 0;
}

static int apply_operation_id(struct apply *p)
{
    struct id128 id;
    uint64_t modseq, wall_ms;
    struct slice result;

    unpack_copy(&p->u, id.bytes, 16);
    modseq = unpack_varint(&p->u, p->head->modseq);
    wall_ms = unpack_varint(&p->u, UINT64_MAX);
    result = unpack_bytes(&p->u, UINT32_MAX);
    if (p->u.bad || p->head->part == 0)
        return -EBADMSG;
    return operation_add(p->a, &id, modseq, wall_ms, result);
}

/* ---- Records ------------------------------------------------------------------------------------------- */

static int apply_one(struct apply *p)
{
    switch (unpack_u8(&p->u)) {
    case OP_ROOT:
        return apply_root(p);
    case OP_MAILBOX_CREATE:
        return apply_mailbox_create(p);
    case OP_MAILBOX_DELETE:
        return apply_mailbox_delete(p);
    case OP_MAILBOX_RENAME:
        return apply_mailbox_rename(p);
    case OP_SPECIAL_USE:
        return apply_special_use(p);
    case OP_SUBSCRIBE:
        return apply_subscribe(p);
    case OP_UNSUBSCRIBE:
        return apply_unsubscribe(p);
    case OP_KEYWORD:
        return apply_keyword(p);
    case OP_APPEND:
        return apply_append(p);
    case OP_FLAGS:
        return apply_flags(p);
    case OP_EXPUNGE:
        return apply_expunge(p);
    case OP_COPY:
        return apply_copy(p);
    case OP_RECENT:
        return apply_recent(p);
    case OP_MAILBOX_STATE:
        return apply_mailbox_state(p);
    case OP_MESSAGES:
        return apply_messages(p);
    case OP_OPERATION_ID:
        return apply_operation_id(p);
    }
    return -EBADMSG;
}

int account_apply(struct account *a, const struct change_head *h, struct slice payload,
                  struct store_change *touched)
{
    struct apply p = {.a = a, .head = h, .touched = touched, .now_s = (uint32_t)(h->wall_ms / 1000)};
    struct slice result = slice_from(payload, payload.size - h->result_size);
    int rc = 0;

    ASSERT(payload.size >= CHANGE_HEAD_SIZE + (size_t)h->result_size);
    unpack_init(&p.u,
                slice_of(payload.data + CHANGE_HEAD_SIZE, payload.size - CHANGE_HEAD_SIZE - h->result_size));
    while (unpack_left(&p.u) > 0 && rc == 0) {
        rc = apply_one(&p);
        if (p.u.bad && rc == 0)
            rc = -EBADMSG;
    }
    if (rc == 0 && h->part == 0 && !id128_is_zero(&h->operation_id))
        rc = operation_add(a, &h->operation_id, h->modseq, h->wall_ms, result);
    if (rc < 0)
        return rc;
    if (h->part == 0)
        operations_expire(a, h->wall_ms);
    a->modseq = h->modseq;
    return 0;
}
