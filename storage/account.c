/* storage/account.c -- an account's memory, and looking things up in it. */
#include "storage/account_state.h"

#include "core/mail/flags.h"
#include "core/mail/mutf7.h"

#include <errno.h>

void *account_grow(struct account *a, void *p, size_t old_size, size_t size)
{
    struct heap *h = a->store->heap;
    void *larger = heap_try_realloc(h, p, size);

    if (larger != NULL || a->private->budgeted)
        return larger;
    larger = heap_alloc(h, size);
    if (old_size > 0)
        memcpy(larger, p, old_size);
    heap_free(h, p);
    return larger;
}

struct account *account_new(struct store *store, const struct id128 *id, struct slice user)
{
    struct heap *h = store->heap;
    struct account *a = heap_try_alloc(h, sizeof *a);
    struct account_private *p = heap_try_alloc(h, sizeof *p);
    char *name = heap_try_alloc(h, user.size);

    if (a == NULL || p == NULL || name == NULL) {
        heap_free(h, a);
        heap_free(h, p);
        heap_free(h, name);
        return NULL;
    }
    *a = (struct account){.id = *id, .store = store, .private = p};
    *p = (struct account_private){
        .account = a, .user = name, .user_size = (uint32_t)user.size, .loading = true, .budgeted = true};
    memcpy(name, user.data, user.size);
    p->mailbox_id_next = 1;
    p->uidvalidity_next = 1;
    list_init(&p->unused_link);
    fiber_queue_init(&p->loaded);
    turn_init(&p->turn);
    store->shard->metrics->accounts++;
    return a;
}

static void mailbox_free(struct heap *h, struct mailbox *m)
{
    struct mailbox_private *p = m->private;

    ASSERT(p->view_count == 0);
    for (uint32_t i = 0; i < m->keyword_count; i++)
        heap_free(h, p->keywords[i]);
    heap_free(h, p->ghosts);
    heap_free(h, p->live);
    heap_free(h, p->dead);
    heap_free(h, p);
    heap_free(h, m->name);
    heap_free(h, m);
}

void account_free(struct account *a)
{
    struct account_private *p = a->private;
    struct heap *h = a->store->heap;

    for (uint32_t i = 0; i < p->mailbox_count; i++)
        mailbox_free(h, p->mailboxes[i]);
    for (uint32_t i = 0; i < p->subscription_count; i++)
        heap_free(h, p->subscriptions[i].name);
    for (uint32_t i = 0; i < p->operation_count; i++)
        heap_free(h, p->operations[(p->operation_first + i) % p->operation_capacity].result);
    heap_free(h, p->mailboxes);
    heap_free(h, p->names);
    heap_free(h, p->subscriptions);
    heap_free(h, p->operations);
    heap_free(h, p->operation_keys);
    heap_free(h, p->user);
    a->store->shard->metrics->accounts--;
    heap_free(h, p);
    heap_free(h, a);
}

struct mailbox *mailbox_new(struct account *a, uint64_t id)
{
    struct mailbox *m = account_grow(a, NULL, 0, sizeof *m);
    struct mailbox_private *p = account_grow(a, NULL, 0, sizeof *p);

    if (m == NULL || p == NULL) {
        heap_free(a->store->heap, m);
        heap_free(a->store->heap, p);
        return NULL;
    }
    *m = (struct mailbox){.id = id, .uid_next = 1, .private = p};
    memset(p, 0, sizeof *p);
    p->account = a;
    p->seen_below = 1;
    return m;
}

struct slice account_user(const struct account *a)
{
    return slice_of(a->private->user, a->private->user_size);
}

/* ---- Names --------------------------------------------------------------------------------------------- */

static int slice_compare(struct slice a, struct slice b)
{
    int order = memcmp(a.data, b.data, MIN(a.size, b.size));

    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static int name_compare(struct slice a, struct slice b)
{
    bool a_inbox = slice_eq(a, SLICE("INBOX")), b_inbox = slice_eq(b, SLICE("INBOX"));

    return a_inbox || b_inbox ? b_inbox - a_inbox : slice_compare(a, b);
}

uint32_t account_name_find(const struct account *a, struct slice name, bool *found)
{
    uint32_t low = 0, high = a->mailbox_count;

    *found = false;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = name_compare(mailbox_name(a->private->names[middle]), name);

        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct mailbox *account_mailbox(const struct account *a, struct slice name)
{
    bool found;
    uint32_t i;

    if (name.size == 0)
        return NULL;
    i = account_name_find(a, mailbox_name_is_inbox(name) ? SLICE("INBOX") : name, &found);
    return found ? a->private->names[i] : NULL;
}

struct mailbox *account_mailbox_by_id(const struct account *a, uint64_t id)
{
    uint32_t low = 0, high = a->private->mailbox_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct mailbox *m = a->private->mailboxes[middle];

        if (m->id == id)
            return m;
        if (m->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

struct mailbox *account_mailbox_at(const struct account *a, uint32_t index)
{
    ASSERT(index < a->mailbox_count);
    return a->private->names[index];
}

/* Where `name` stands beside what begins with `below` and the separator: before it, in it or behind it. */
static int below_compare(struct slice name, struct slice below)
{
    int order = memcmp(name.data, below.data, MIN(name.size, below.size));

    if (order != 0 || name.size <= below.size)
        return order != 0 ? order : -1;
    return (uint8_t)name.data[below.size] - MAILBOX_SEPARATOR;
}

bool account_has_children(const struct account *a, struct slice name)
{
    uint32_t low = 0, high = a->mailbox_count;

    /* Not adjacent to its children: names sort bytewise, and `a-b` comes between `a` and `a/b`. */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct slice other = mailbox_name(a->private->names[middle]);
        int order = mailbox_name_is_inbox(other) ? -1 : below_compare(other, name); /* INBOX comes first. */

        if (order == 0)
            return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

uint32_t account_subscription_find(const struct account *a, struct slice name, bool *found)
{
    uint32_t low = 0, high = a->private->subscription_count;

    *found = false;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = slice_compare(account_subscription_at(a, middle), name);

        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t account_subscription_count(const struct account *a)
{
    return a->private->subscription_count;
}

struct slice account_subscription_at(const struct account *a, uint32_t index)
{
    ASSERT(index < a->private->subscription_count);
    return slice_of(a->private->subscriptions[index].name, a->private->subscriptions[index].size);
}

bool account_subscribed(const struct account *a, struct slice name)
{
    bool found;

    (void)account_subscription_find(a, mailbox_name_is_inbox(name) ? SLICE("INBOX") : name, &found);
    return found;
}

struct slice mailbox_keyword(const struct mailbox *m, uint32_t index)
{
    ASSERT(index < m->keyword_count);
    return slice_of(m->private->keywords[index], m->private->keyword_sizes[index]);
}

int mailbox_keyword_find(const struct mailbox *m, struct slice keyword)
{
    for (uint32_t i = 0; i < m->keyword_count; i++) {
        if (slice_eq_nocase(mailbox_keyword(m, i), keyword))
            return (int)i;
    }
    return -1;
}

/* ---- Messages ------------------------------------------------------------------------------------------ */

const struct message *mailbox_message_at(const struct mailbox *m, uint32_t index)
{
    ASSERT(index < m->message_count);
    return &m->private->live[index];
}

uint32_t mailbox_message_find(const struct mailbox *m, uint32_t uid)
{
    const struct message *live = m->private->live;
    uint32_t low = 0, high = m->message_count;

    if (high > 0 && live[high - 1].uid < uid) /* Most often it is asked for what is new. */
        return high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (live[middle].uid < uid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t mailbox_first_unseen(struct mailbox *m)
{
    struct mailbox_private *p = m->private;
    uint32_t i;

    if (m->unseen_count == 0)
        return 0;
    i = mailbox_message_find(m, p->seen_below);
    while (i < m->message_count && (p->live[i].flags & MAIL_SEEN) != 0)
        i++;
    ASSERT(i < m->message_count);
    p->seen_below = p->live[i].uid;
    return p->seen_below;
}

void mailbox_count_message(struct mailbox *m, const struct message *msg, int sign)
{
    uint32_t one = (uint32_t)sign;

    if ((msg->flags & MAIL_SEEN) == 0) {
        m->unseen_count += one;
        m->private->seen_below = MIN(m->private->seen_below, msg->uid);
    }
    if ((msg->flags & MAIL_DELETED) != 0)
        m->deleted_count += one;
    m->size += (uint64_t)((int64_t)msg->body.size * sign);
}

uint32_t account_take_recent(struct account *a, struct mailbox *m, bool peek)
{
    uint32_t first = MIN(m->recent_uid + 1, m->uid_next);

    if (peek || first == m->uid_next)
        return first;
    m->recent_uid = m->uid_next - 1;
    if (!m->private->recent_dirty)
        a->private->recent_dirty_count++;
    m->private->recent_dirty = true;
    return first;
}

const struct message *mailbox_tombstone_since(const struct mailbox *m, uint64_t since, uint32_t index)
{
    const struct mailbox_private *p = m->private;
    const struct message *dead;
    uint32_t low = 0, high = p->dead_count;

    if (high == 0)
        return NULL;
    dead = p->dead + p->dead_start;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (dead[middle].expunged <= since)
            low = middle + 1;
        else
            high = middle;
    }
    return index < p->dead_count - low ? &dead[low + index] : NULL;
}

void mailbox_trim(struct mailbox *m, uint32_t now_s)
{
    struct mailbox_private *p = m->private;
    const struct store_config *config = &p->account->store->config;

    if (p->view_count > 0)
        return; /* A view may see them. The next change looks again. */
    while (p->dead_count > 0) {
        const struct message *oldest = &p->dead[p->dead_start];

        if (p->dead_count <= config->tombstone_count_max &&
            (now_s < oldest->expunged_s || now_s - oldest->expunged_s < config->tombstone_age_s))
            break;
        m->floor = oldest->expunged;
        p->dead_start++;
        p->dead_count--;
    }
    if (p->dead_start > p->dead_count) {
        memmove(p->dead, p->dead + p->dead_start, p->dead_count * sizeof *p->dead);
        p->dead_start = 0;
    }
}

/* ---- Operation ids ------------------------------------------------------------------------------------- */

uint64_t operation_key(const struct id128 *id)
{
    return get_u64(id->bytes) ^ get_u64(id->bytes + 8) * 0x9e3779b97f4a7c15u;
}

const struct operation_result *account_operation(const struct account *a, const struct id128 *id)
{
    const struct account_private *p = a->private;
    uint64_t key = operation_key(id);

    for (uint32_t i = 0; i < p->operation_count; i++) {
        uint32_t at = (p->operation_first + i) % p->operation_capacity;

        if (p->operation_keys[at] == key && id128_eq(&p->operations[at].id, id))
            return &p->operations[at];
    }
    return NULL;
}
