/* storage/apply_message.c -- messages appended, flagged, expunged and copied, as a record says. */
#include "core/mail/flags.h"
#include "storage/apply.h"

#include <errno.h>

void apply_message_unpack(struct unpack *u, struct message *msg)
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

int apply_live_reserve(struct account *a, struct mailbox *m, uint32_t more)
{
    struct mailbox_private *mp = m->private;

    return apply_array_grow(a, (void **)&mp->live, &mp->live_capacity, m->message_count, more,
                            sizeof *mp->live);
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

int apply_append(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    struct message msg = {.created = p->head->modseq, .changed = p->head->modseq, .saved_s = p->now_s};

    msg.uid = (uint32_t)unpack_varint(&p->u, UINT32_MAX);
    apply_message_unpack(&p->u, &msg);
    if (p->u.bad || !uid_is_next(m, msg.uid))
        return -EBADMSG;
    if (apply_live_reserve(p->a, m, 1) < 0)
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

int apply_flags(struct apply *p)
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

    if (apply_array_grow(p->a, (void **)&mp->dead, &mp->dead_capacity, mp->dead_start + mp->dead_count, 1,
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

int apply_expunge(struct apply *p)
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

int apply_mailbox_delete(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    uint32_t from = 0, to = 0;
    int rc;

    if (p->u.bad || m->deleted != 0)
        return -EBADMSG;
    rc = apply_names_remove(p->a, m);
    if (rc == 0)
        rc = expunge_range(p, m, &from, &to, 0, UINT32_MAX);
    if (rc < 0)
        return rc;
    m->deleted = m->highest = p->head->modseq;
    m->private->deleted_s = p->now_s;
    apply_touch_all(p);
    return expunge_finish(p, m, from, to);
}

/* Keywords by name: bit i of the source is bit map[i] of the destination; what it does not have is dropped. */
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

int apply_copy(struct apply *p)
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
        if (apply_live_reserve(p->a, to, end - begin) < 0)
            return -ENOMEM;
        for (uint32_t i = begin; i < end;
             i++, uid++) /* `from` may be `to`: by index, and only the old ones. */
            copy_message(p, &from->private->live[i], to, (uint32_t)uid, map);
    }
    return 0;
}

int apply_recent(struct apply *p)
{
    struct mailbox *m = account_mailbox_by_id(p->a, unpack_varint(&p->u, INT64_MAX));
    uint32_t uid = (uint32_t)unpack_varint(&p->u, UINT32_MAX);

    if (p->u.bad || m == NULL)
        return -EBADMSG;
    m->recent_uid = MAX(m->recent_uid, MIN(uid, m->uid_next - 1));
    return 0;
}
