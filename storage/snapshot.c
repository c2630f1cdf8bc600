/* storage/snapshot.c -- an account written down as a whole: operations that build it from nothing, in parts,
 * so that a large one needs no large buffer. Only the last part is in a directory: an unfinished snapshot is
 * not found. */
#include "storage/account_state.h"

#include <errno.h>

#define PART_SIZE              (512 * 1024) /* A part ends behind the operation that passes this. */
#define PART_SIZE_MAX          (4 * 1024 * 1024)
#define MESSAGES_PER_OPERATION 4096

struct snapshot {
    struct account *a;
    struct pack pack;
    struct change_head head;
    uint64_t size;
    int error;
};

static void part_begin(struct snapshot *s)
{
    pack_cut(&s->pack, 0);
    (void)pack_need(&s->pack, CHANGE_HEAD_SIZE);
    s->head.part++;
}

/* Writes what is packed, and waits. */
static void part_end(struct snapshot *s, bool last)
{
    struct commit_record record = {.type = RECORD_SNAPSHOT,
                                   .directory = last ? DIRECTORY_SNAPSHOT : 0,
                                   .account = s->a->id,
                                   .modseq = s->a->modseq};
    struct commit c = {.records = &record, .record_count = 1};

    if (s->error == 0)
        s->error = s->pack.error;
    if (s->error != 0)
        return;
    change_head_encode(&s->head, s->pack.data);
    record.meta = slice_of(s->pack.data, s->pack.size);
    s->error = stream_commit(&s->a->store->stream, &c);
    s->head.previous = record.at;
    s->size += record.at.size;
}

static void part_end_if_full(struct snapshot *s)
{
    if (s->pack.size < PART_SIZE || s->error != 0)
        return;
    if (s->head.part == UINT16_MAX) {
        s->error = -E2BIG;
        return;
    }
    part_end(s, false);
    part_begin(s);
}

static void put_root(struct snapshot *s)
{
    struct account *a = s->a;

    pack_u8(&s->pack, OP_ROOT);
    pack_bytes(&s->pack, account_user(a));
    pack_put(&s->pack, a->history.bytes, sizeof a->history.bytes);
    pack_varint(&s->pack, a->private->mailbox_id_next);
    pack_varint(&s->pack, a->private->uidvalidity_next);
}

static void put_mailbox(struct snapshot *s, const struct mailbox *m)
{
    struct pack *p = &s->pack;

    pack_u8(p, OP_MAILBOX_CREATE);
    pack_varint(p, m->id);
    pack_varint(p, m->uidvalidity);
    pack_varint(p, m->special_use);
    pack_put(p, m->objectid.bytes, sizeof m->objectid.bytes);
    pack_bytes(p, mailbox_name(m));
    pack_u8(p, OP_MAILBOX_STATE);
    pack_varint(p, m->id);
    pack_varint(p, m->created);
    pack_varint(p, m->highest);
    pack_varint(p, m->floor);
    pack_varint(p, m->deleted);
    pack_varint(p, m->uid_next);
    pack_varint(p, m->recent_uid);
    pack_varint(p, m->private->deleted_s);
    for (uint32_t i = 0; i < m->keyword_count; i++) {
        pack_u8(p, OP_KEYWORD);
        pack_varint(p, m->id);
        pack_bytes(p, mailbox_keyword(m, i));
    }
}

static void put_message(struct pack *p, const struct message *msg)
{
    pack_varint(p, msg->uid);
    pack_varint(p, msg->created);
    pack_varint(p, msg->changed);
    pack_varint(p, msg->expunged);
    pack_varint(p, msg->expunged_s);
    pack_varint(p, msg->saved_s);
    message_pack(p, msg);
}

/* The living, then the tombstones. Nothing changes meanwhile: the account's turn is held, and nothing else
 * moves them. */
static void put_messages(struct snapshot *s, const struct mailbox *m)
{
    const struct mailbox_private *mp = m->private;
    uint32_t total = m->message_count + mp->dead_count, at = 0;

    while (at < total && s->error == 0) {
        uint32_t count = MIN(total - at, (uint32_t)MESSAGES_PER_OPERATION);

        pack_u8(&s->pack, OP_MESSAGES);
        pack_varint(&s->pack, m->id);
        pack_varint(&s->pack, count);
        for (; count > 0; count--, at++) {
            if (at < m->message_count)
                put_message(&s->pack, &mp->live[at]);
            else
                put_message(&s->pack, &mp->dead[mp->dead_start + (at - m->message_count)]);
        }
        part_end_if_full(s);
        if (fiber_work(MESSAGES_PER_OPERATION) < 0)
            s->error = -ECANCELED;
    }
}

static void put_subscriptions(struct snapshot *s)
{
    for (uint32_t i = 0; i < account_subscription_count(s->a); i++) {
        pack_u8(&s->pack, OP_SUBSCRIBE);
        pack_bytes(&s->pack, account_subscription_at(s->a, i));
        part_end_if_full(s);
    }
}

static void put_operations(struct snapshot *s)
{
    const struct account_private *p = s->a->private;

    for (uint32_t i = 0; i < p->operation_count; i++) {
        const struct operation_result *o = &p->operations[(p->operation_first + i) % p->operation_capacity];

        pack_u8(&s->pack, OP_OPERATION_ID);
        pack_put(&s->pack, o->id.bytes, sizeof o->id.bytes);
        pack_varint(&s->pack, o->modseq);
        pack_varint(&s->pack, o->wall_ms);
        pack_bytes(&s->pack, slice_of(o->result, o->result_size));
        part_end_if_full(s);
    }
}

/* A deleted mailbox is kept as long as a tombstone; of many, the newest. */
static bool mailbox_is_kept(const struct account *a, const struct mailbox *m, uint32_t deleted_behind,
                            uint32_t now_s)
{
    uint32_t deleted_s = m->private->deleted_s;

    if (m->deleted == 0)
        return true;
    return deleted_behind < DELETED_MAILBOX_MAX &&
           (now_s < deleted_s || now_s - deleted_s < a->store->config.tombstone_age_s);
}

static void put_mailboxes(struct snapshot *s)
{
    const struct account_private *p = s->a->private;
    uint32_t deleted_behind = p->mailbox_count - s->a->mailbox_count,
             now_s = (uint32_t)(s->head.wall_ms / 1000);

    for (uint32_t i = 0; i < p->mailbox_count && s->error == 0; i++) {
        const struct mailbox *m = p->mailboxes[i];

        deleted_behind -= m->deleted != 0;
        if (!mailbox_is_kept(s->a, m, deleted_behind, now_s))
            continue;
        put_mailbox(s, m);
        put_messages(s, m);
        part_end_if_full(s);
    }
}

int snapshot_write(struct account *a)
{
    struct snapshot s = {.a = a};

    s.head = (struct change_head){.account = a->id, .modseq = a->modseq, .wall_ms = (uint64_t)time_wall_ms()};
    pack_init(&s.pack, a->store->heap, PART_SIZE_MAX);
    part_begin(&s);
    put_root(&s);
    put_subscriptions(&s);
    put_mailboxes(&s);
    put_operations(&s);
    part_end(&s, true);
    pack_fini(&s.pack);
    if (s.error < 0)
        return s.error;
    account_entry_set(a, &s.head.previous, true);
    a->private->snapshot_size = s.size;
    a->private->chain_count = 0;
    a->private->chain_size = 0;
    return 0;
}
