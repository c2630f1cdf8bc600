/* storage/change.c -- a change from begin to end, and what it does to messages. */
#include "storage/change.h"

#include "core/mail/flags.h"
#include "core/mail/mutf7.h"
#include "storage/change_state.h"

#include <errno.h>

/* ---- Begin and end ------------------------------------------------------------------------------------- */

static struct change_private *private_new(struct change *c, const struct id128 *operation_id)
{
    struct heap *h = c->account->store->heap;
    struct change_private *p = heap_try_alloc(h, sizeof *p);

    if (p == NULL)
        return NULL;
    memset(p, 0, offsetof(struct change_private, bodies));
    p->change = c;
    p->body_count = 0;
    p->body_size = 0;
    memset(&p->commit, 0, sizeof p->commit);
    list_init(&p->keywords);
    list_init(&p->names);
    pack_init(&p->pack, h, CHANGE_SIZE_MAX + CHANGE_RESULT_SIZE_MAX);
    (void)pack_need(&p->pack, CHANGE_HEAD_SIZE);
    if (operation_id != NULL)
        p->operation_id = *operation_id;
    return p;
}

/* The turn is held: what is there now is there until the commit. */
static int change_start(struct change *c)
{
    struct change_private *p = c->private;
    struct account *a = c->account;
    const struct operation_result *o;

    c->modseq = a->modseq + 1;
    p->mailbox_id_next = a->private->mailbox_id_next;
    p->uidvalidity_next = a->private->uidvalidity_next;
    if (a->store->phase != STORE_OPEN)
        return -ESHUTDOWN;
    o = id128_is_zero(&p->operation_id) ? NULL : account_operation(a, &p->operation_id);
    if (o != NULL) {
        c->modseq = o->modseq;
        /* A copy: the ring moves on when the turn is given to others. It takes the place of the record. */
        pack_cut(&p->pack, 0);
        pack_put(&p->pack, o->result, o->result_size);
        c->result = slice_of(p->pack.data, p->pack.size);
        return p->pack.error != 0 ? p->pack.error : -EALREADY;
    }
    if (a->store->stream.failed)
        return -EIO;
    return p->pack.error;
}

int change_begin(struct change *c, struct account *a, const struct id128 *operation_id)
{
    int rc;

    *c = (struct change){.account = a};
    if (a->store->phase != STORE_OPEN)
        return -ESHUTDOWN;
    c->private = private_new(c, operation_id);
    if (c->private == NULL)
        return -ENOMEM;
    rc = turn_take(&a->private->turn);
    if (rc < 0)
        return rc;
    c->private->turn_held = true;
    a->store->open_count++;
    return change_start(c);
}

static void turn_end(struct change *c)
{
    struct store *store = c->account->store;

    if (!c->private->turn_held)
        return;
    c->private->turn_held = false;
    turn_give(&c->account->private->turn);
    store->open_count--;
    if (store->open_count == 0)
        fiber_queue_wake_all(&store->drained, 0);
}

void change_end(struct change *c)
{
    struct change_private *p = c->private;
    struct heap *h = c->account->store->heap;
    struct list *it;

    if (p == NULL)
        return;
    turn_end(c);
    while ((it = list_pop_front(&p->keywords)) != NULL)
        heap_free(h, CONTAINER_OF(it, struct staged_keyword, link));
    while ((it = list_pop_front(&p->names)) != NULL)
        heap_free(h, CONTAINER_OF(it, struct staged_name, link));
    pack_fini(&p->pack);
    heap_free(h, p);
    c->private = NULL;
    c->result = slice_of(NULL, 0);
}

bool change_empty(const struct change *c)
{
    return c->private->pack.size <= CHANGE_HEAD_SIZE;
}

int change_check(struct change *c)
{
    ASSERT(c->private != NULL && c->private->turn_held);
    return c->private->pack.error;
}

int change_packed(struct change *c, uint32_t size)
{
    struct pack *p = &c->private->pack;
    int rc = p->error;

    if (rc == 0 && p->size > CHANGE_SIZE_MAX)
        rc = -E2BIG;
    if (rc < 0)
        pack_cut(p, size);
    return rc;
}

/* ---- Commit -------------------------------------------------------------------------------------------- */

/* What sessions took of \Recent goes along. */
static void pack_recent(struct change *c)
{
    struct account_private *ap = c->account->private;
    struct pack *p = &c->private->pack;

    for (uint32_t i = 0; i < ap->mailbox_count && ap->recent_dirty_count > 0; i++) {
        struct mailbox *m = ap->mailboxes[i];

        if (!m->private->recent_dirty)
            continue;
        pack_u8(p, OP_RECENT);
        pack_varint(p, m->id);
        pack_varint(p, m->recent_uid);
        m->private->recent_dirty = false;
        ap->recent_dirty_count--;
    }
}

/* The bodies that no stream has yet become records before the change's. */
static void commit_collect(struct change_private *p)
{
    unsigned count = 0;

    for (unsigned i = 0; i < p->body_count; i++) {
        struct staged_body *s = &p->bodies[i];

        s->record = -1;
        if (s->body->state == BODY_STORED)
            continue;
        for (unsigned k = 0; k < i && s->record < 0; k++) {
            if (p->bodies[k].body == s->body)
                s->record = p->bodies[k].record;
        }
        if (s->record < 0) {
            s->record = (int)count;
            p->records[count++] = body_record(s->body);
        }
    }
    p->commit.commit.record_count = count;
}

static struct body_location staged_location(const struct change_private *p, const struct staged_body *s)
{
    return s->record < 0 ? s->body->location : body_location_at(s->body, &p->records[s->record].at);
}

/* Each body's place into the operation that names it. */
static void commit_placed(struct change_commit *commit)
{
    struct change_private *p = CONTAINER_OF(commit, struct change_private, commit);

    for (unsigned i = 0; i < p->body_count; i++) {
        struct body_location location = staged_location(p, &p->bodies[i]);
        struct pack at = {.data = p->pack.data + p->bodies[i].location_at,
                          .capacity = BODY_LOCATION_SIZE,
                          .size_max = BODY_LOCATION_SIZE};

        body_location_pack(&at, &location);
    }
}

/* Another change may have stored the same body meanwhile: either copy will do. */
static void bodies_finish(struct change_private *p, int result)
{
    for (unsigned i = 0; i < p->body_count; i++) {
        struct staged_body *s = &p->bodies[i];

        if (s->body->state == BODY_STORED)
            continue;
        if (result == 0) {
            s->body->location = staged_location(p, s);
            s->body->state = BODY_STORED;
        } else if (result == -EINPROGRESS) {
            s->body->state = BODY_UNKNOWN;
        }
    }
}

static void commit_finished(struct change_commit *commit, int result)
{
    bodies_finish(CONTAINER_OF(commit, struct change_private, commit), result);
}

/* A body whose commit has an unknown end, or is on its way in another change, may not become two things at
 * once. */
static bool bodies_usable(const struct change_private *p)
{
    for (unsigned i = 0; i < p->body_count; i++) {
        if (p->bodies[i].body->state == BODY_UNKNOWN)
            return false;
    }
    return true;
}

int change_commit(struct change *c, struct slice result)
{
    struct change_private *p = c->private;
    struct commit_record *record;
    int rc = change_check(c);

    if (rc < 0)
        return rc;
    if (change_empty(c) && id128_is_zero(&p->operation_id))
        return 0;
    if (result.size > CHANGE_RESULT_SIZE_MAX)
        return -E2BIG;
    if (!bodies_usable(p))
        return -EIO;
    pack_recent(c);
    pack_put(&p->pack, result.data, result.size);
    rc = p->pack.error;
    if (rc < 0)
        return rc;
    commit_collect(p);
    record = &p->records[p->commit.commit.record_count++];
    *record = (struct commit_record){.meta = slice_of(p->pack.data, p->pack.size)};
    p->commit.account = c->account;
    p->commit.head =
        (struct change_head){.operation_id = p->operation_id, .result_size = (uint32_t)result.size};
    p->commit.commit.records = p->records;
    p->commit.placed = commit_placed;
    p->commit.finished = commit_finished;
    rc = account_commit(&p->commit);
    account_snapshot_if_due(c->account);
    return rc;
}

/* ---- Staging ------------------------------------------------------------------------------------------- */

struct staged_mailbox *staged_mailbox(struct change *c, struct mailbox *m)
{
    struct change_private *p = c->private;

    for (unsigned i = 0; i < p->mailbox_count; i++) {
        if (p->mailboxes[i].mailbox == m)
            return &p->mailboxes[i];
    }
    if (p->mailbox_count == CHANGE_MAILBOX_MAX)
        return NULL;
    p->mailboxes[p->mailbox_count] =
        (struct staged_mailbox){m, m->uid_next, m->message_count, m->keyword_count};
    return &p->mailboxes[p->mailbox_count++];
}

static int staged_keyword_find(struct change *c, struct mailbox *m, struct slice keyword)
{
    list_each(it, &c->private->keywords)
    {
        struct staged_keyword *k = CONTAINER_OF(it, struct staged_keyword, link);

        if (k->mailbox == m && slice_eq_nocase(slice_of(k->name, k->size), keyword))
            return (int)k->index;
    }
    return mailbox_keyword_find(m, keyword);
}

int change_keyword(struct change *c, struct mailbox *m, struct slice keyword, uint32_t *index_out)
{
    struct staged_mailbox *s = staged_mailbox(c, m);
    struct pack *p = &c->private->pack;
    struct staged_keyword *k;
    uint32_t size = p->size;
    int index, rc = change_check(c);

    if (rc < 0)
        return rc;
    if (s == NULL)
        return -E2BIG;
    if (!mail_keyword_valid(keyword))
        return -EINVAL;
    index = staged_keyword_find(c, m, keyword);
    if (index >= 0) {
        *index_out = (uint32_t)index;
        return 0;
    }
    if (s->keyword_count == MAILBOX_KEYWORD_COUNT_MAX || m->deleted != 0)
        return -ENOSPC;
    k = heap_try_alloc(c->account->store->heap, sizeof *k);
    if (k == NULL)
        return -ENOMEM;
    *k = (struct staged_keyword){.mailbox = m, .index = s->keyword_count++, .size = (uint8_t)keyword.size};
    memcpy(k->name, keyword.data, keyword.size);
    list_push_back(&c->private->keywords, &k->link);
    pack_u8(p, OP_KEYWORD);
    pack_varint(p, m->id);
    pack_bytes(p, keyword);
    *index_out = k->index;
    return change_packed(c, size);
}

/* Room for `count` more messages with UIDs from *first_out on. */
static int staged_uids(struct change *c, struct mailbox *m, uint32_t count, uint32_t *first_out)
{
    struct staged_mailbox *s = staged_mailbox(c, m);

    if (s == NULL)
        return -E2BIG;
    if (m->deleted != 0)
        return -ENOENT;
    if ((uint64_t)s->uid_next + count >= UINT32_MAX ||
        (uint64_t)s->message_count + count > MAILBOX_MESSAGE_COUNT_MAX)
        return -EOVERFLOW;
    *first_out = s->uid_next;
    s->uid_next += count;
    s->message_count += count;
    return 0;
}

/* New messages take memory that stays. */
static int admit_messages(struct change *c)
{
    struct store *store = c->account->store;

    if (!heap_admits(store->heap))
        accounts_trim(store, false);
    return heap_admits(store->heap) ? 0 : -ENOMEM;
}

/* Bodies that would make this change's batch large go ahead of it, in a batch of their own. */
static int bodies_write_ahead(struct change *c)
{
    struct change_private *p = c->private;
    struct commit commit = {.records = p->records};
    int rc;

    if (!bodies_usable(p))
        return -EIO;
    commit_collect(p);
    commit.record_count = p->commit.commit.record_count;
    if (commit.record_count == 0)
        return 0;
    rc = stream_commit(&c->account->store->stream, &commit);
    bodies_finish(p, rc);
    p->body_size = 0;
    return rc == -EINPROGRESS ? -EIO : rc; /* Nothing names them, whether they are there or not. */
}

static uint64_t body_record_size(const struct body *b)
{
    struct commit_record r = body_record(b);

    return b->state == BODY_STORED ? 0 : r.meta.size + r.rest_size + RECORD_HEADER_SIZE;
}

int change_append(struct change *c, struct mailbox *m, const struct change_message *message,
                  uint32_t *uid_out)
{
    struct change_private *p = c->private;
    uint64_t body_size = body_record_size(message->body);
    struct message msg = {.flags = (uint8_t)(message->flags & MAIL_FLAGS_STORABLE),
                          .keywords = message->keywords,
                          .internal_s = message->internal_s,
                          .zone_minutes = message->zone_minutes,
                          .body = message->body->location};
    uint32_t size = p->pack.size;
    int rc = change_check(c);

    if (rc == 0)
        rc = admit_messages(c);
    if (rc == 0 && c->account->store->full)
        rc = -ENOSPC;
    if (rc == 0 && p->body_count == CHANGE_BODY_MAX)
        rc = -E2BIG;
    if (rc == 0 && p->body_size > 0 && p->body_size + body_size > BODY_INLINE_MAX)
        rc = bodies_write_ahead(c);
    if (rc == 0)
        rc = staged_uids(c, m, 1, &msg.uid);
    if (rc < 0)
        return rc;
    random_bytes(msg.emailid.bytes, sizeof msg.emailid.bytes);
    pack_u8(&p->pack, OP_APPEND);
    pack_varint(&p->pack, m->id);
    pack_varint(&p->pack, msg.uid);
    message_pack(&p->pack, &msg); /* Ends with the location, which is not known yet. */
    rc = change_packed(c, size);
    if (rc < 0)
        return rc;
    p->bodies[p->body_count++] = (struct staged_body){message->body, p->pack.size - BODY_LOCATION_SIZE};
    p->body_size += body_size;
    *uid_out = msg.uid;
    return 0;
}

/* ---- UIDs of living messages, as ranges ---------------------------------------------------------------- */

/* Chosen living messages, in order, packed as ranges that cover no other living message. */
struct chosen {
    struct change *change;
    struct mailbox *mailbox;
    struct pack ranges;
    uint32_t range_count, message_count;
    uint32_t range_first, range_last, range_index; /* The open range; the index of its last message. */
    uint32_t previous;                             /* Last UID of the range before. */
    struct uid_set *uids;                          /* Of the chosen; may be NULL. */
    int error;
};

static void chosen_init(struct chosen *s, struct change *c, struct mailbox *m, struct uid_set *uids)
{
    *s = (struct chosen){.change = c, .mailbox = m, .uids = uids};
    pack_init(&s->ranges, c->account->store->heap, CHANGE_SIZE_MAX);
}

static void chosen_end_range(struct chosen *s)
{
    if (s->range_first == 0)
        return;
    pack_varint(&s->ranges, s->range_first - s->previous);
    pack_varint(&s->ranges, s->range_last - s->range_first);
    s->previous = s->range_last;
    s->range_count++;
    s->range_first = 0;
}

static void chosen_add(struct chosen *s, uint32_t index)
{
    uint32_t uid = mailbox_message_at(s->mailbox, index)->uid;

    if (s->range_first == 0 || index != s->range_index + 1) {
        chosen_end_range(s);
        s->range_first = uid;
    }
    s->range_last = uid;
    s->range_index = index;
    s->message_count++;
    if (s->uids != NULL && s->error == 0)
        s->error = uid_set_add(s->uids, uid, uid);
}

static int chosen_finish(struct chosen *s)
{
    chosen_end_range(s);
    return s->error != 0 ? s->error : s->ranges.error;
}

static void chosen_pack(struct chosen *s)
{
    struct pack *p = &s->change->private->pack;

    pack_varint(p, s->range_count);
    pack_put(p, s->ranges.data, s->ranges.size);
}

/* Calls each(arg, index) for the living messages in `uids`, or for all. */
static void each_living(struct mailbox *m, const struct uid_set *uids,
                        void (*each)(void *arg, uint32_t index), void *arg)
{
    struct uid_range all = {1, UINT32_MAX};
    const struct uid_range *ranges = uids != NULL ? uids->ranges : &all;
    uint32_t count = uids != NULL ? uids->range_count : 1;

    for (uint32_t r = 0; r < count; r++) {
        for (uint32_t i = mailbox_message_find(m, ranges[r].first);
             i < m->message_count && mailbox_message_at(m, i)->uid <= ranges[r].last; i++)
            each(arg, i);
    }
}

/* ---- Flags --------------------------------------------------------------------------------------------- */

struct choose_flags {
    struct chosen chosen;
    enum flags_how how;
    uint8_t flags;
    uint64_t keywords, unchanged_since;
    struct uid_set *modified;
    uint32_t changed_count;
};

static bool flags_differ(const struct choose_flags *f, const struct message *msg)
{
    switch (f->how) {
    case FLAGS_ADD:
        return (f->flags & ~msg->flags) != 0 || (f->keywords & ~msg->keywords) != 0;
    case FLAGS_REMOVE:
        return (f->flags & msg->flags) != 0 || (f->keywords & msg->keywords) != 0;
    case FLAGS_REPLACE:
        return f->flags != msg->flags || f->keywords != msg->keywords;
    }
    return false;
}

static void choose_for_flags(void *arg, uint32_t index)
{
    struct choose_flags *f = arg;
    const struct message *msg = mailbox_message_at(f->chosen.mailbox, index);

    if (msg->changed > f->unchanged_since) {
        if (f->modified != NULL && f->chosen.error == 0)
            f->chosen.error = uid_set_add(f->modified, msg->uid, msg->uid);
        return;
    }
    f->changed_count += flags_differ(f, msg);
    chosen_add(&f->chosen, index); /* Those that stay the same, too: fewer ranges. */
}

int change_flags(struct change *c, struct mailbox *m, const struct uid_set *uids, enum flags_how how,
                 uint32_t flags, uint64_t keywords, uint64_t unchanged_since, struct uid_set *modified_out,
                 uint32_t *changed_out)
{
    struct choose_flags f = {.how = how,
                             .flags = (uint8_t)(flags & MAIL_FLAGS_STORABLE),
                             .keywords = keywords,
                             .unchanged_since = unchanged_since,
                             .modified = modified_out};
    struct pack *p = &c->private->pack;
    uint32_t size = p->size;
    int rc = change_check(c);

    if (rc < 0)
        return rc;
    chosen_init(&f.chosen, c, m, NULL);
    each_living(m, uids, choose_for_flags, &f);
    rc = chosen_finish(&f.chosen);
    if (rc == 0 && f.changed_count > 0) {
        pack_u8(p, OP_FLAGS);
        pack_varint(p, m->id);
        pack_varint(p, how);
        pack_varint(p, f.flags);
        pack_varint(p, keywords);
        chosen_pack(&f.chosen);
        rc = change_packed(c, size);
    }
    pack_fini(&f.chosen.ranges);
    if (rc == 0 && changed_out != NULL)
        *changed_out = f.changed_count;
    return rc;
}

/* ---- Expunge, copy, move ------------------------------------------------------------------------------- */

static void choose_any(void *arg, uint32_t index)
{
    chosen_add(arg, index);
}

static void choose_deleted(void *arg, uint32_t index)
{
    struct chosen *s = arg;

    if ((mailbox_message_at(s->mailbox, index)->flags & MAIL_DELETED) != 0)
        chosen_add(s, index);
}

static int pack_expunge(struct change *c, struct mailbox *m, struct chosen *s)
{
    struct pack *p = &c->private->pack;
    uint32_t size = p->size;

    pack_u8(p, OP_EXPUNGE);
    pack_varint(p, m->id);
    chosen_pack(s);
    return change_packed(c, size);
}

int change_expunge(struct change *c, struct mailbox *m, const struct uid_set *uids, bool deleted_only,
                   struct uid_set *expunged_out)
{
    struct chosen s;
    int rc = change_check(c);

    if (rc < 0)
        return rc;
    chosen_init(&s, c, m, expunged_out);
    each_living(m, uids, deleted_only ? choose_deleted : choose_any, &s);
    rc = chosen_finish(&s);
    if (rc == 0 && s.message_count > 0)
        rc = pack_expunge(c, m, &s);
    pack_fini(&s.ranges);
    return rc;
}

struct choose_copy {
    struct chosen chosen;
    uint64_t keywords;
};

static void choose_copied(void *arg, uint32_t index)
{
    struct choose_copy *k = arg;

    k->keywords |= mailbox_message_at(k->chosen.mailbox, index)->keywords;
    chosen_add(&k->chosen, index);
}

/* The destination learns the keywords that come with the messages, as far as its table has room. */
static int copy_keywords(struct change *c, struct mailbox *from, struct mailbox *to, uint64_t keywords)
{
    uint32_t index;
    int rc = 0;

    for (uint32_t i = 0; i < from->keyword_count && (rc == 0 || rc == -ENOSPC); i++) {
        if ((keywords >> i & 1) != 0)
            rc = change_keyword(c, to, mailbox_keyword(from, i), &index);
    }
    return rc == -ENOSPC ? 0 : rc;
}

static int pack_copy(struct change *c, struct choose_copy *k, struct mailbox *to, bool move,
                     uint32_t *first_uid)
{
    struct mailbox *from = k->chosen.mailbox;
    struct pack *p = &c->private->pack;
    uint32_t size;
    int rc = admit_messages(c);

    if (rc == 0 && c->account->store->full && !move)
        rc = -ENOSPC;
    if (rc == 0)
        rc = copy_keywords(c, from, to, k->keywords);
    if (rc == 0)
        rc = staged_uids(c, to, k->chosen.message_count, first_uid);
    if (rc < 0)
        return rc;
    size = p->size;
    pack_u8(p, OP_COPY);
    pack_varint(p, from->id);
    pack_varint(p, to->id);
    pack_varint(p, *first_uid);
    chosen_pack(&k->chosen);
    rc = change_packed(c, size);
    return rc == 0 && move ? pack_expunge(c, from, &k->chosen) : rc;
}

static int stage_copy(struct change *c, struct mailbox *m, const struct uid_set *uids, struct mailbox *to,
                      bool move, struct uid_set *copied_out, uint32_t *first_uid_out)
{
    struct choose_copy k = {.keywords = 0};
    uint32_t first_uid = 0;
    int rc = change_check(c);

    if (rc < 0)
        return rc;
    chosen_init(&k.chosen, c, m, copied_out);
    each_living(m, uids, choose_copied, &k);
    rc = chosen_finish(&k.chosen);
    if (rc == 0 && k.chosen.message_count > 0)
        rc = pack_copy(c, &k, to, move, &first_uid);
    pack_fini(&k.chosen.ranges);
    if (rc == 0 && first_uid_out != NULL)
        *first_uid_out = first_uid;
    return rc;
}

int change_copy(struct change *c, struct mailbox *m, const struct uid_set *uids, struct mailbox *to,
                struct uid_set *copied_out, uint32_t *first_uid_out)
{
    return stage_copy(c, m, uids, to, false, copied_out, first_uid_out);
}

int change_move(struct change *c, struct mailbox *m, const struct uid_set *uids, struct mailbox *to,
                struct uid_set *copied_out, uint32_t *first_uid_out)
{
    return stage_copy(c, m, uids, to, true, copied_out, first_uid_out);
}
