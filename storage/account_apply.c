/* storage/account_apply.c -- the meaning of a record: what a change does to an account in memory. The same
 * code runs when a change has become durable and when an account is read back, so the two cannot differ.
 * Records come from a disk: everything is checked, nothing asserted. */
#include "storage/account_state.h"

#include "core/mail/flags.h"
#include "core/mail/mutf7.h"

#include <errno.h>

struct apply {
    struct account *a;
    const struct change_head *head;
    struct unpack u;
    struct store_change *touched;
    uint32_t now_s;
};

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

static void touch_all(struct apply *p)
{
    if (p->touched != NULL)
        p->touched->all_mailboxes = true;
}

static struct mailbox *apply_mailbox(struct apply *p)
{
    uint64_t id = unpack_varint(&p->u, INT64_MAX);
    struct mailbox *m = account_mailbox_by_id(p->a, id);

    if (m == NULL)
        p->u.bad = true;
    else
        change_touch(p->touched, id);
    return m;
}

/* Grows *array so that one more fits. */
static int array_grow(struct account *a, void **array, uint32_t *capacity, uint32_t count, uint32_t more,
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

static char *copy_text(struct account *a, struct slice s)
{
    char *text = account_grow(a, NULL, 0, MAX(s.size, (size_t)1));

    if (text != NULL && s.size > 0)
        memcpy(text, s.data, s.size);
    return text;
}

/* ---- Mailboxes
 * ---------------------------------------------------------------------------------------------- */

static int names_insert(struct account *a, struct mailbox *m)
{
    struct account_private *p = a->private;
    bool found;
    uint32_t at = account_name_find(a, mailbox_name(m), &found);

    if (found)
        return -EBADMSG;
    if (array_grow(a, (void **)&p->names, &p->name_capacity, a->mailbox_count, 1, sizeof *p->names) < 0)
        return -ENOMEM;
    memmove(p->names + at + 1, p->names + at, (a->mailbox_count - at) * sizeof *p->names);
    p->names[at] = m;
    a->mailbox_count++;
    m->subscribed = account_subscribed(a, mailbox_name(m));
    return 0;
}

/* -EBADMSG: it is not among them. */
static int names_remove(struct account *a, struct mailbox *m)
{
    struct account_private *p = a->private;
    bool found;
    uint32_t at = account_name_find(a, mailbox_name(m), &found);

    if (!found || p->names[at] != m)
        return -EBADMSG;
    a->mailbox_count--;
    memmove(p->names + at, p->names + at + 1, (a->mailbox_count - at) * sizeof *p->names);
    return 0;
}

static int mailbox_set_name(struct account *a, struct mailbox *m, struct slice name)
{
    char *text;

    if (name.size == 0 || name.size > MAILBOX_NAME_SIZE_MAX)
        return -EBADMSG;
    text = copy_text(a, name);
    if (text == NULL)
        return -ENOMEM;
    heap_free(a->store->heap, m->name);
    m->name = text;
    m->name_size = (uint16_t)name.size;
    return 0;
}

static int apply_root(struct apply *p)
{
    struct slice name = unpack_bytes(&p->u, STORE_USER_SIZE_MAX);

    unpack_copy(&p->u, p->a->history.bytes, 16);
    p->a->private->mailbox_id_next = unpack_varint(&p->u, INT64_MAX);
    p->a->private->uidvalidity_next = (uint32_t)unpack_varint(&p->u, UINT32_MAX);
    return slice_eq(name, account_user(p->a)) ? 0 : -EBADMSG;
}

static int apply_mailbox_create(struct apply *p)
{
    struct account_private *ap = p->a->private;
    uint64_t id = unpack_varint(&p->u, INT64_MAX);
    uint32_t uidvalidity = (uint32_t)unpack_varint(&p->u, UINT32_MAX);
    uint32_t special_use = (uint32_t)unpack_varint(&p->u, SPECIAL_USE_ALL);
    struct id128 objectid;
    struct mailbox *m;
    int rc;

    unpack_copy(&p->u, objectid.bytes, 16);
    if (p->u.bad || (ap->mailbox_count > 0 && ap->mailboxes[ap->mailbox_count - 1]->id >= id))
        return -EBADMSG;
    if (array_grow(p->a, (void **)&ap->mailboxes, &ap->mailbox_capacity, ap->mailbox_count, 1,
                   sizeof *ap->mailboxes) < 0)
        return -ENOMEM;
    m = mailbox_new(p->a, id);
    if (m == NULL)
        return -ENOMEM;
    ap->mailboxes[ap->mailbox_count++] = m;
    m->objectid = objectid;
    m->uidvalidity = uidvalidity;
    m->special_use = (uint8_t)special_use;
    m->created = m->highest = m->floor = p->head->modseq;
    rc = mailbox_set_name(p->a, m, unpack_bytes(&p->u, MAILBOX_NAME_SIZE_MAX));
    if (rc < 0)
        return rc;
    ap->mailbox_id_next = MAX(ap->mailbox_id_next, id + 1);
    ap->uidvalidity_next = MAX(ap->uidvalidity_next, uidvalidity + 1);
    touch_all(p);
    /* In a snapshot it may turn out to be a deleted one, whose name another has by now: OP_MAILBOX_STATE
     * enters it. */
    return p->head->part != 0 ? 0 : names_insert(p->a, m);
}

static int apply_mailbox_rename(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    struct slice name = unpack_bytes(&p->u, MAILBOX_NAME_SIZE_MAX);
    int rc;

    if (p->u.bad || m->deleted != 0)
        return -EBADMSG;
    touch_all(p);
    rc = names_remove(p->a, m);
    if (rc == 0)
        rc = mailbox_set_name(p->a, m, name);
    return rc == 0 ? names_insert(p->a, m) : rc;
}

static int apply_special_use(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    uint32_t special_use = (uint32_t)unpack_varint(&p->u, SPECIAL_USE_ALL);

    if (p->u.bad)
        return -EBADMSG;
    m->special_use = (uint8_t)special_use;
    touch_all(p);
    return 0;
}

static void subscribed_set(struct apply *p, struct slice name, bool subscribed)
{
    struct mailbox *m = account_mailbox(p->a, name);

    if (m != NULL)
        m->subscribed = subscribed;
    touch_all(p);
}

static int apply_subscribe(struct apply *p)
{
    struct account_private *ap = p->a->private;
    struct slice name = unpack_bytes(&p->u, MAILBOX_NAME_SIZE_MAX);
    bool found;
    uint32_t at;
    char *text;

    if (p->u.bad)
        return -EBADMSG;
    at = account_subscription_find(p->a, name, &found);
    if (found)
        return 0;
    text = copy_text(p->a, name);
    if (text == NULL || array_grow(p->a, (void **)&ap->subscriptions, &ap->subscription_capacity,
                                   ap->subscription_count, 1, sizeof *ap->subscriptions) < 0) {
        heap_free(p->a->store->heap, text);
        return -ENOMEM;
    }
    memmove(ap->subscriptions + at + 1, ap->subscriptions + at,
            (ap->subscription_count - at) * sizeof *ap->subscriptions);
    ap->subscriptions[at] = (struct subscription){text, (uint32_t)name.size};
    ap->subscription_count++;
    subscribed_set(p, name, true);
    return 0;
}

static int apply_unsubscribe(struct apply *p)
{
    struct account_private *ap = p->a->private;
    struct slice name = unpack_bytes(&p->u, MAILBOX_NAME_SIZE_MAX);
    bool found;
    uint32_t at;

    if (p->u.bad)
        return -EBADMSG;
    at = account_subscription_find(p->a, name, &found);
    if (!found)
        return 0;
    heap_free(p->a->store->heap, ap->subscriptions[at].name);
    ap->subscription_count--;
    memmove(ap->subscriptions + at, ap->subscriptions + at + 1,
            (ap->subscription_count - at) * sizeof *ap->subscriptions);
    subscribed_set(p, name, false);
    return 0;
}

static int apply_keyword(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    struct slice keyword = unpack_bytes(&p->u, KEYWORD_SIZE_MAX);
    char *text;

    if (p->u.bad || keyword.size == 0 || m->keyword_count == MAILBOX_KEYWORD_COUNT_MAX)
        return -EBADMSG;
    text = copy_text(p->a, keyword);
    if (text == NULL)
        return -ENOMEM;
    m->private->keywords[m->keyword_count] = text;
    m->private->keyword_sizes[m->keyword_count] = (uint8_t)keyword.size;
    m->keyword_count++;
    return 0;
}

/* ---- Messages
 * ----------------------------------------------------------------------------------------------- */

/* From `flags` on, as append and messages have it. */
static void message_unpack(struct unpack *u, struct message *msg)
{
    msg->flags = (uint8_t)unpack_varint(u, MAIL_FLAGS_STORABLE);
    msg->keywords = unpack_varint(u, UINT64_MAX);
    msg->internal_s = unpack_zigzag(u);
    msg->zone_minutes = (int16_t)unpack_zigzag(u);
    unpack_copy(u, msg->emailid.bytes, 16);
    msg->body = body_location_unpack(u);
}

void message_pack(struct pack *p, const struct message *msg)
{
    pack_varint(p, msg->flags);
    pack_varint(p, msg->keywords);
    pack_zigzag(p, msg->internal_s);
    pack_zigzag(p, msg->zone_minutes);
    pack_put(p, msg->emailid.bytes, 16);
    body_location_pack(p, &msg->body);
}

static int live_reserve(struct account *a, struct mailbox *m, uint32_t more)
{
    struct mailbox_private *mp = m->private;

    return array_grow(a, (void **)&mp->live, &mp->live_capacity, m->message_count, more, sizeof *mp->live);
}

/* The newest; there is room. */
static void live_push(struct apply *p, struct mailbox *m, const struct message *msg)
{
    m->private->live[m->message_count++] = *msg;
    mailbox_count_message(m, msg, 1);
    m->uid_next = msg->uid + 1;
    m->highest = p->head->modseq;
    m->private->generation++;
}

static bool uid_is_next(const struct mailbox *m, uint32_t uid)
{
    return uid >= m->uid_next && uid < UINT32_MAX && m->deleted == 0;
}

static int apply_append(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    struct message msg = {.created = p->head->modseq, .changed = p->head->modseq, .saved_s = p->now_s};

    msg.uid = (uint32_t)unpack_varint(&p->u, UINT32_MAX);
    message_unpack(&p->u, &msg);
    if (p->u.bad || !uid_is_next(m, msg.uid))
        return -EBADMSG;
    if (live_reserve(p->a, m, 1) < 0)
        return -ENOMEM;
    live_push(p, m, &msg);
    return 0;
}

/* Walks packed UID ranges. */
struct ranges {
    uint64_t count, last;
};

static void ranges_begin(struct apply *p, struct ranges *r)
{
    r->count = unpack_varint(&p->u, CHANGE_RECORD_SIZE_MAX);
    r->last = 0;
}

static bool ranges_next(struct apply *p, struct ranges *r, uint32_t *first, uint32_t *last)
{
    uint64_t from, to;

    if (r->count == 0 || p->u.bad)
        return false;
    r->count--;
    from = r->last + unpack_varint(&p->u, UINT32_MAX);
    to = from + unpack_varint(&p->u, UINT32_MAX);
    if (p->u.bad || from <= r->last || to > UINT32_MAX) {
        p->u.bad = true;
        return false;
    }
    *first = (uint32_t)from;
    *last = (uint32_t)to;
    r->last = to;
    return true;
}

/* So that 'what has changed since F' looks at few messages. */
static void flag_change_remember(struct mailbox *m, uint64_t modseq, uint32_t first, uint32_t last)
{
    struct mailbox_private *p = m->private;
    struct flag_change *newest = &p->flag_changes[(p->flag_change_count - 1) % RECENT_CHANGE_COUNT];

    if (p->flag_change_count > 0 && newest->modseq == modseq) {
        newest->first = MIN(newest->first, first);
        newest->last = MAX(newest->last, last);
        return;
    }
    newest = &p->flag_changes[p->flag_change_count % RECENT_CHANGE_COUNT];
    if (p->flag_change_count >= RECENT_CHANGE_COUNT)
        p->flag_changes_since = newest->modseq;
    *newest = (struct flag_change){modseq, first, last};
    p->flag_change_count++;
}

static bool message_set_flags(struct message *msg, unsigned how, uint8_t flags, uint64_t keywords)
{
    uint8_t new_flags = how == 0 ? msg->flags | flags : how == 1 ? msg->flags & (uint8_t)~flags : flags;
    uint64_t new_keywords = how == 0   ? msg->keywords | keywords
                            : how == 1 ? msg->keywords & ~keywords
                                       : keywords;
    bool differs = new_flags != msg->flags || new_keywords != msg->keywords;

    msg->flags = new_flags;
    msg->keywords = new_keywords;
    return differs;
}

static void flags_range(struct apply *p, struct mailbox *m, uint32_t first, uint32_t last, unsigned how,
                        uint8_t flags, uint64_t keywords)
{
    struct message *live = m->private->live;

    for (uint32_t i = mailbox_message_find(m, first); i < m->message_count && live[i].uid <= last; i++) {
        struct message before = live[i];

        if (!message_set_flags(&live[i], how, flags, keywords))
            continue;
        mailbox_count_message(m, &before, -1);
        mailbox_count_message(m, &live[i], 1);
        live[i].changed = m->highest = p->head->modseq;
        flag_change_remember(m, p->head->modseq, live[i].uid, live[i].uid);
    }
}

static int apply_flags(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    unsigned how = (unsigned)unpack_varint(&p->u, 2);
    uint8_t flags = (uint8_t)unpack_varint(&p->u, MAIL_FLAGS_STORABLE);
    uint64_t keywords = unpack_varint(&p->u, UINT64_MAX);
    struct ranges r;
    uint32_t first, last;

    ranges_begin(p, &r);
    if (p->u.bad)
        return -EBADMSG;
    while (ranges_next(p, &r, &first, &last))
        flags_range(p, m, first, last, how, flags, keywords);
    m->private->generation++;
    return 0;
}

static int dead_push(struct apply *p, struct mailbox *m, const struct message *msg)
{
    struct mailbox_private *mp = m->private;
    struct message *dead;

    if (array_grow(p->a, (void **)&mp->dead, &mp->dead_capacity, mp->dead_start + mp->dead_count, 1,
                   sizeof *mp->dead) < 0)
        return -ENOMEM;
    dead = &mp->dead[mp->dead_start + mp->dead_count++];
    *dead = *msg;
    dead->expunged = p->head->modseq;
    dead->expunged_s = p->now_s;
    return 0;
}

/* Living messages from index `from` on with UIDs up to `last` become tombstones; those that are kept behind
 * `*to` are moved down. */
static int expunge_range(struct apply *p, struct mailbox *m, uint32_t *from, uint32_t *to, uint32_t first,
                         uint32_t last)
{
    struct message *live = m->private->live;
    int rc;

    while (*from < m->message_count && live[*from].uid < first)
        live[(*to)++] = live[(*from)++];
    while (*from < m->message_count && live[*from].uid <= last) {
        rc = dead_push(p, m, &live[*from]);
        if (rc < 0)
            return rc;
        mailbox_count_message(m, &live[*from], -1);
        (*from)++;
    }
    return 0;
}

static int expunge_finish(struct apply *p, struct mailbox *m, uint32_t from, uint32_t to)
{
    struct message *live = m->private->live;

    if (from == to)
        return 0;
    memmove(live + to, live + from, (m->message_count - from) * sizeof *live);
    m->message_count -= from - to;
    m->highest = p->head->modseq;
    m->private->generation++;
    return 0;
}

static int apply_expunge(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    struct ranges r;
    uint32_t first, last, from = 0, to = 0;
    bool begun = false;
    int rc;

    ranges_begin(p, &r);
    while (ranges_next(p, &r, &first, &last)) {
        if (!begun)
            from = to = mailbox_message_find(m, first);
        begun = true;
        rc = expunge_range(p, m, &from, &to, first, last);
        if (rc < 0)
            return rc;
    }
    return p->u.bad ? -EBADMSG : expunge_finish(p, m, from, to);
}

static int apply_mailbox_delete(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    uint32_t from = 0, to = 0;
    int rc;

    if (p->u.bad || m->deleted != 0)
        return -EBADMSG;
    rc = names_remove(p->a, m);
    if (rc == 0)
        rc = expunge_range(p, m, &from, &to, 0, UINT32_MAX);
    if (rc < 0)
        return rc;
    m->deleted = m->highest = p->head->modseq;
    m->private->deleted_s = p->now_s;
    touch_all(p);
    return expunge_finish(p, m, from, to);
}

/* Keywords by name: bit i of the source is bit map[i] of the destination; what it does not have is dropped.
 */
static uint64_t keywords_map(const int8_t map[MAILBOX_KEYWORD_COUNT_MAX], uint64_t keywords)
{
    uint64_t mapped = 0;

    for (unsigned i = 0; keywords != 0; i++, keywords >>= 1) {
        if ((keywords & 1) != 0 && map[i] >= 0)
            mapped |= UINT64_C(1) << map[i];
    }
    return mapped;
}

static void copy_message(struct apply *p, const struct message *from, struct mailbox *to, uint32_t uid,
                         const int8_t map[MAILBOX_KEYWORD_COUNT_MAX])
{
    struct message msg = *from;

    msg.uid = uid;
    msg.created = msg.changed = p->head->modseq;
    msg.expunged = 0;
    msg.saved_s = p->now_s;
    msg.keywords = keywords_map(map, msg.keywords);
    live_push(p, to, &msg);
}

static int apply_copy(struct apply *p)
{
    struct mailbox *from = apply_mailbox(p), *to = apply_mailbox(p);
    uint64_t uid = unpack_varint(&p->u, UINT32_MAX);
    int8_t map[MAILBOX_KEYWORD_COUNT_MAX];
    struct ranges r;
    uint32_t first, last;

    ranges_begin(p, &r);
    if (p->u.bad || !uid_is_next(to, (uint32_t)uid))
        return -EBADMSG;
    memset(map, -1, sizeof map);
    for (uint32_t i = 0; i < from->keyword_count; i++)
        map[i] = (int8_t)mailbox_keyword_find(to, mailbox_keyword(from, i));
    while (ranges_next(p, &r, &first, &last)) {
        uint32_t begin = mailbox_message_find(from, first), end = mailbox_message_find(from, last);

        end += end < from->message_count && from->private->live[end].uid == last;
        if (uid + (end - begin) >= UINT32_MAX)
            return -EBADMSG;
        if (live_reserve(p->a, to, end - begin) < 0)
            return -ENOMEM;
        for (uint32_t i = begin; i < end;
             i++, uid++) /* `from` may be `to`: by index, and only the old ones. */
            copy_message(p, &from->private->live[i], to, (uint32_t)uid, map);
    }
    return 0;
}

/* Touches nothing: it rides with a change of another mailbox, and there is nothing that anybody would be shown. */
static int apply_recent(struct apply *p)
{
    struct mailbox *m = account_mailbox_by_id(p->a, unpack_varint(&p->u, INT64_MAX));
    uint32_t uid = (uint32_t)unpack_varint(&p->u, UINT32_MAX);

    if (p->u.bad || m == NULL)
        return -EBADMSG;
    m->recent_uid = MAX(m->recent_uid, MIN(uid, m->uid_next - 1));
    return 0;
}

/* ---- Snapshots
 * ---------------------------------------------------------------------------------------------- */

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
    return m->deleted != 0 ? 0 : names_insert(p->a, m);
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
    message_unpack(&p->u, &msg);
    if (p->u.bad || msg.uid == 0 || msg.uid >= m->uid_next)
        return -EBADMSG;
    if (msg.expunged == 0) {
        if (m->deleted != 0 || (m->message_count > 0 && mp->live[m->message_count - 1].uid >= msg.uid))
            return -EBADMSG;
        if (live_reserve(p->a, m, 1) < 0)
            return -ENOMEM;
        mp->live[m->message_count++] = msg;
        mailbox_count_message(m, &msg, 1);
        return 0;
    }
    if (mp->dead_count > 0 && mp->dead[mp->dead_start + mp->dead_count - 1].expunged > msg.expunged)
        return -EBADMSG;
    if (array_grow(p->a, (void **)&mp->dead, &mp->dead_capacity, mp->dead_start + mp->dead_count, 1,
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

/* ---- Operation ids
 * ------------------------------------------------------------------------------------------ */

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
    text = copy_text(a, result);
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

/* ---- Records
 * ------------------------------------------------------------------------------------------------ */

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
