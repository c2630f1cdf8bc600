/* storage/apply_mailbox.c -- mailboxes made, renamed, subscribed to, and their keywords, as a record says. */
#include "core/mail/flags.h"
#include "core/mail/mutf7.h"
#include "storage/apply.h"
#include <errno.h>

int apply_names_insert(struct account *a, struct mailbox *m)
{
    struct account_private *p = a->private;
    bool found;
    uint32_t at = account_name_find(a, mailbox_name(m), &found);

    if (found)
        return -EBADMSG;
    if (apply_array_grow(a, (void **)&p->names, &p->name_capacity, a->mailbox_count, 1, sizeof *p->names) < 0)
        return -ENOMEM;
    memmove(p->names + at + 1, p->names + at, (a->mailbox_count - at) * sizeof *p->names);
    p->names[at] = m;
    a->mailbox_count++;
    m->subscribed = account_subscribed(a, mailbox_name(m));
    return 0;
}

int apply_names_remove(struct account *a, struct mailbox *m)
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
    text = apply_copy_text(a, name);
    if (text == NULL)
        return -ENOMEM;
    heap_free(a->store->heap, m->name);
    m->name = text;
    m->name_size = (uint16_t)name.size;
    return 0;
}

int apply_root(struct apply *p)
{
    struct slice name = unpack_bytes(&p->u, STORE_USER_SIZE_MAX);

    unpack_copy(&p->u, p->a->history.bytes, 16);
    p->a->private->mailbox_id_next = unpack_varint(&p->u, INT64_MAX);
    p->a->private->uidvalidity_next = (uint32_t)unpack_varint(&p->u, UINT32_MAX);
    return slice_eq(name, account_user(p->a)) ? 0 : -EBADMSG;
}

int apply_mailbox_create(struct apply *p)
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
    if (apply_array_grow(p->a, (void **)&ap->mailboxes, &ap->mailbox_capacity, ap->mailbox_count, 1,
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
    apply_touch_all(p);
    /* In a snapshot it may turn out to be a deleted one, whose name another has by now: OP_MAILBOX_STATE
     * enters it. */
    return p->head->part != 0 ? 0 : apply_names_insert(p->a, m);
}

int apply_mailbox_rename(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    struct slice name = unpack_bytes(&p->u, MAILBOX_NAME_SIZE_MAX);
    int rc;

    if (p->u.bad || m->deleted != 0)
        return -EBADMSG;
    apply_touch_all(p);
    rc = apply_names_remove(p->a, m);
    if (rc == 0)
        rc = mailbox_set_name(p->a, m, name);
    return rc == 0 ? apply_names_insert(p->a, m) : rc;
}

int apply_special_use(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    uint32_t special_use = (uint32_t)unpack_varint(&p->u, SPECIAL_USE_ALL);

    if (p->u.bad)
        return -EBADMSG;
    m->special_use = (uint8_t)special_use;
    apply_touch_all(p);
    return 0;
}

static void subscribed_set(struct apply *p, struct slice name, bool subscribed)
{
    struct mailbox *m = account_mailbox(p->a, name);

    if (m != NULL)
        m->subscribed = subscribed;
    apply_touch_all(p);
}

int apply_subscribe(struct apply *p)
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
    text = apply_copy_text(p->a, name);
    if (text == NULL || apply_array_grow(p->a, (void **)&ap->subscriptions, &ap->subscription_capacity,
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

int apply_unsubscribe(struct apply *p)
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

int apply_keyword(struct apply *p)
{
    struct mailbox *m = apply_mailbox(p);
    struct slice keyword = unpack_bytes(&p->u, KEYWORD_SIZE_MAX);
    char *text;

    if (p->u.bad || keyword.size == 0 || m->keyword_count == MAILBOX_KEYWORD_COUNT_MAX)
        return -EBADMSG;
    text = apply_copy_text(p->a, keyword);
    if (text == NULL)
        return -ENOMEM;
    m->private->keywords[m->keyword_count] = text;
    m->private->keyword_sizes[m->keyword_count] = (uint8_t)keyword.size;
    m->keyword_count++;
    return 0;
}
