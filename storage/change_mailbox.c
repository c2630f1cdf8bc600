/* storage/change_mailbox.c -- what a change does to mailboxes and subscriptions. */
#include "core/mail/mutf7.h"
#include "storage/change_state.h"

#include <errno.h>

/* ---- Names as they will be ----------------------------------------------------------------------------- */

static struct slice canonical(struct slice name)
{
    return mailbox_name_is_inbox(name) ? SLICE("INBOX") : name;
}

bool staged_exists(struct change *c, struct slice name)
{
    name = canonical(name);
    list_each(it, &c->private->names)
    {
        struct staged_name *s = CONTAINER_OF(it, struct staged_name, link);

        if (slice_eq(slice_of(s->name, s->size), name))
            return s->present;
    }
    return account_mailbox(c->account, name) != NULL;
}

int staged_name_set(struct change *c, struct slice name, bool present)
{
    struct staged_name *s;

    name = canonical(name);
    s = heap_try_alloc(c->account->store->heap, sizeof *s + name.size);
    if (s == NULL)
        return -ENOMEM;
    s->present = present;
    s->size = (uint16_t)name.size;
    memcpy(s->name, name.data, name.size);
    list_push_front(&c->private->names, &s->link);
    c->private->mailbox_count_delta += present ? 1 : -1;
    return 0;
}

/* Takes back what was staged since `mark` was the newest. */
static void staged_names_drop(struct change *c, const struct list *mark)
{
    struct list *names = &c->private->names;

    while (names->next != mark) {
        struct staged_name *s = CONTAINER_OF(names->next, struct staged_name, link);

        c->private->mailbox_count_delta -= s->present ? 1 : -1;
        list_remove(&s->link);
        heap_free(c->account->store->heap, s);
    }
}

/* ---- Creating and deleting ----------------------------------------------------------------------------- */

static int pack_create(struct change *c, struct slice name, uint32_t special_use, uint64_t *id_out)
{
    struct change_private *p = c->private;
    struct id128 objectid;
    uint32_t size = p->pack.size;
    int rc;

    if ((int64_t)c->account->mailbox_count + p->mailbox_count_delta >= ACCOUNT_MAILBOX_COUNT_MAX)
        return -EDQUOT;
    if (p->uidvalidity_next == 0 || p->uidvalidity_next == UINT32_MAX)
        return -EOVERFLOW;
    random_bytes(objectid.bytes, sizeof objectid.bytes);
    pack_u8(&p->pack, OP_MAILBOX_CREATE);
    pack_varint(&p->pack, p->mailbox_id_next);
    pack_varint(&p->pack, p->uidvalidity_next);
    pack_varint(&p->pack, special_use & SPECIAL_USE_ALL);
    pack_put(&p->pack, objectid.bytes, sizeof objectid.bytes);
    pack_bytes(&p->pack, name);
    rc = change_packed(c, size);
    if (rc == 0)
        rc = staged_name_set(c, name, true);
    if (rc < 0) {
        pack_cut(&p->pack, size);
        return rc;
    }
    *id_out = p->mailbox_id_next++;
    p->uidvalidity_next++;
    return 0;
}

int change_mailbox_create(struct change *c, struct slice name, uint32_t special_use, uint64_t *id_out)
{
    int rc = change_check(c);
    uint64_t id;

    if (rc < 0)
        return rc;
    if (mailbox_name_check(name) != MAILBOX_NAME_OK)
        return -EINVAL;
    if (staged_exists(c, name))
        return -EEXIST;
    rc = pack_create(c, name, special_use, &id);
    if (rc == 0 && id_out != NULL)
        *id_out = id;
    return rc;
}

int change_mailbox_delete(struct change *c, struct mailbox *m)
{
    struct pack *p = &c->private->pack;
    uint32_t size = p->size;
    int rc = change_check(c);

    if (rc < 0)
        return rc;
    if (mailbox_name_is_inbox(mailbox_name(m)))
        return -EPERM;
    if (m->deleted != 0 || !staged_exists(c, mailbox_name(m)))
        return -ENOENT;
    pack_u8(p, OP_MAILBOX_DELETE);
    pack_varint(p, m->id);
    rc = change_packed(c, size);
    if (rc == 0)
        rc = staged_name_set(c, mailbox_name(m), false);
    if (rc < 0)
        pack_cut(p, size);
    return rc;
}

int change_mailbox_special_use(struct change *c, struct mailbox *m, uint32_t special_use)
{
    struct pack *p = &c->private->pack;
    uint32_t size = p->size;
    int rc = change_check(c);

    if (rc < 0)
        return rc;
    if (m->deleted != 0)
        return -ENOENT;
    pack_u8(p, OP_SPECIAL_USE);
    pack_varint(p, m->id);
    pack_varint(p, special_use & SPECIAL_USE_ALL);
    return change_packed(c, size);
}

/* ---- Renaming ------------------------------------------------------------------------------------------ */

/* `name` is `from`, or below it. */
static bool is_in_subtree(struct slice name, struct slice from)
{
    return name.size >= from.size && memcmp(name.data, from.data, from.size) == 0 &&
           (name.size == from.size || name.data[from.size] == MAILBOX_SEPARATOR);
}

/* One mailbox of the subtree. The names of all are checked before any is staged. */
struct rename {
    struct slice from, to;
    char name[MAILBOX_NAME_SIZE_MAX];
    size_t name_size;
};

/* False: the new name would be too long. */
static bool rename_name(struct rename *r, struct slice name)
{
    struct slice rest = slice_from(name, r->from.size);

    if (r->to.size + rest.size > sizeof r->name)
        return false;
    memcpy(r->name, r->to.data, r->to.size);
    memcpy(r->name + r->to.size, rest.data, rest.size);
    r->name_size = r->to.size + rest.size;
    return true;
}

static int rename_check(struct change *c, struct rename *r, uint32_t *count_out)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < c->account->mailbox_count; i++) {
        struct slice name = mailbox_name(account_mailbox_at(c->account, i));

        if (!is_in_subtree(name, r->from))
            continue;
        count++;
        if (!rename_name(r, name) || mailbox_name_check(slice_of(r->name, r->name_size)) != MAILBOX_NAME_OK)
            return -EINVAL;
        if (staged_exists(c, slice_of(r->name, r->name_size)))
            return -EEXIST;
    }
    *count_out = count;
    return 0;
}

static int rename_one(struct change *c, struct rename *r, struct mailbox *m)
{
    struct pack *p = &c->private->pack;
    struct slice new_name;
    int rc;

    if (!rename_name(r, mailbox_name(m)))
        return -EINVAL;
    new_name = slice_of(r->name, r->name_size);
    pack_u8(p, OP_MAILBOX_RENAME);
    pack_varint(p, m->id);
    pack_bytes(p, new_name);
    rc = staged_name_set(c, mailbox_name(m), false);
    return rc == 0 ? staged_name_set(c, new_name, true) : rc;
}

static int rename_subtree(struct change *c, struct rename *r)
{
    uint32_t size = c->private->pack.size, count;
    struct list *mark = c->private->names.next;
    int rc = rename_check(c, r, &count);

    if (rc < 0)
        return rc;
    if (count == 0)
        return -ENOENT;
    for (uint32_t i = 0; i < c->account->mailbox_count && rc == 0; i++) {
        struct mailbox *m = account_mailbox_at(c->account, i);

        if (is_in_subtree(mailbox_name(m), r->from))
            rc = rename_one(c, r, m);
    }
    if (rc == 0)
        rc = change_packed(c, size);
    if (rc < 0) {
        pack_cut(&c->private->pack, size);
        staged_names_drop(c, mark);
    }
    return rc;
}

/* The inbox stays: what is in it moves to a new mailbox, which learns the inbox's keywords first. */
static int rename_inbox(struct change *c, struct slice to)
{
    struct mailbox *inbox = account_mailbox(c->account, SLICE("INBOX"));
    struct list *mark = c->private->names.next;
    struct pack *p = &c->private->pack;
    uint32_t size = p->size;
    uint64_t id;
    int rc = pack_create(c, to, 0, &id);

    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < inbox->keyword_count; i++) {
        pack_u8(p, OP_KEYWORD);
        pack_varint(p, id);
        pack_bytes(p, mailbox_keyword(inbox, i));
    }
    if (inbox->message_count > 0) {
        pack_u8(p, OP_COPY);
        pack_varint(p, inbox->id);
        pack_varint(p, id);
        pack_varint(p, 1);
        pack_varint(p, 1); /* One range: 1 to the last UID. */
        pack_varint(p, 1);
        pack_varint(p, mailbox_message_at(inbox, inbox->message_count - 1)->uid - 1);
        pack_u8(p, OP_EXPUNGE);
        pack_varint(p, inbox->id);
        pack_varint(p, 1);
        pack_varint(p, 1);
        pack_varint(p, mailbox_message_at(inbox, inbox->message_count - 1)->uid - 1);
    }
    rc = change_packed(c, size);
    if (rc < 0)
        staged_names_drop(c, mark);
    return rc;
}

int change_mailbox_rename(struct change *c, struct slice from, struct slice to)
{
    struct heap *h = c->account->store->heap;
    struct rename *r;
    int rc = change_check(c);

    if (rc < 0)
        return rc;
    if (mailbox_name_check(to) != MAILBOX_NAME_OK || from.size == 0)
        return -EINVAL;
    if (staged_exists(c, to))
        return -EEXIST;
    if (mailbox_name_is_inbox(from))
        return rename_inbox(c, to);
    if (is_in_subtree(to, from))
        return -EINVAL;
    r = heap_try_alloc(h, sizeof *r);
    if (r == NULL)
        return -ENOMEM;
    r->from = from;
    r->to = to;
    rc = rename_subtree(c, r);
    heap_free(h, r);
    return rc;
}

/* ---- Subscriptions ------------------------------------------------------------------------------------- */

static int pack_subscription(struct change *c, enum operation op, struct slice name)
{
    struct pack *p = &c->private->pack;
    uint32_t size = p->size;

    pack_u8(p, (uint8_t)op);
    pack_bytes(p, canonical(name));
    return change_packed(c, size);
}

int change_subscribe(struct change *c, struct slice name)
{
    int rc = change_check(c);

    if (rc < 0)
        return rc;
    if (mailbox_name_check(name) != MAILBOX_NAME_OK)
        return -EINVAL;
    if (account_subscribed(c->account, name))
        return 0;
    if (account_subscription_count(c->account) >= ACCOUNT_SUBSCRIPTION_COUNT_MAX)
        return -EDQUOT;
    return pack_subscription(c, OP_SUBSCRIBE, name);
}

int change_unsubscribe(struct change *c, struct slice name)
{
    int rc = change_check(c);

    if (rc < 0)
        return rc;
    return account_subscribed(c->account, name) ? pack_subscription(c, OP_UNSUBSCRIBE, name) : 0;
}
