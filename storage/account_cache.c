/* storage/account_cache.c -- accounts come into memory, are shared there, and go when memory is needed. */
#include "storage/account_state.h"

#include "core/log.h"

#include <errno.h>

#define CHAIN_RECORD_MAX      (1024 * 1024)
#define UIDVALIDITY_FIRST_MAX (1u << 30)

/* ---- Reading an account back --------------------------------------------------------------------------- */

/* Records of a chain, newest first; each is one allocation. */
struct chain_link {
    struct chain_link *older;
    char *data;
    uint32_t size;
};

static void chain_free(struct heap *h, struct chain_link *newest)
{
    while (newest != NULL) {
        struct chain_link *older = newest->older;

        heap_free(h, newest->data);
        heap_free(h, newest);
        newest = older;
    }
}

static struct slice link_payload(const struct chain_link *l)
{
    return slice_of(l->data + RECORD_HEADER_SIZE, l->size - RECORD_HEADER_SIZE);
}

/* May `h` come before a record that says so? */
static bool chain_fits(const struct change_head *h, const struct change_head *newer)
{
    if (newer == NULL)
        return true;
    if (newer->part != 0)
        return h->part == newer->part - 1 && h->modseq == newer->modseq;
    return h->modseq + 1 == newer->modseq;
}

/* Follows the log back to its snapshot or root, and turns it round. */
static int chain_read(struct account *a, struct record_location at, struct chain_link **oldest_out)
{
    struct store *store = a->store;
    struct chain_link *oldest = NULL, *l;
    struct change_head head, newer = {0};
    int rc = 0;

    for (unsigned count = 0; at.segment != 0; count++) {
        l = count < CHAIN_RECORD_MAX ? heap_try_alloc(store->heap, sizeof *l) : NULL;
        rc = l != NULL ? record_read(store, &at, 1u << RECORD_CHANGE | 1u << RECORD_SNAPSHOT, &l->data)
                       : -ENOMEM;
        if (rc < 0) {
            heap_free(store->heap, l);
            break;
        }
        l->size = at.size;
        l->older = oldest; /* "older" in the order of reading; the list runs from oldest to newest. */
        oldest = l;
        if (!change_head_decode(link_payload(l), &head) || !id128_eq(&head.account, &a->id) ||
            !chain_fits(&head, count > 0 ? &newer : NULL)) {
            store_report_rot(store, &at, "account record");
            rc = -EBADMSG;
            break;
        }
        if (head.part == 1)
            break;
        newer = head;
        at = head.previous;
    }
    if (rc < 0) {
        chain_free(store->heap, oldest);
        return rc;
    }
    *oldest_out = oldest;
    return 0;
}

static int chain_apply(struct account *a, const struct chain_link *l)
{
    struct account_private *p = a->private;
    struct change_head head;
    int rc = 0;

    for (; l != NULL && rc == 0; l = l->older) {
        if (!change_head_decode(link_payload(l), &head))
            return -EBADMSG;
        rc = account_apply(a, &head, link_payload(l), NULL);
        if (head.part != 0) {
            p->snapshot_size = head.part == 1 ? l->size : p->snapshot_size + l->size;
        } else {
            p->chain_count++;
            p->chain_size += l->size;
        }
    }
    return rc;
}

static int account_load(struct account *a, const struct account_entry *entry)
{
    struct record_location at = {entry->stream, entry->segment, entry->offset, entry->size};
    struct chain_link *chain = NULL;
    uint64_t modseq = entry->modseq;
    int rc = chain_read(a, at, &chain);

    if (rc < 0)
        return rc;
    rc = chain_apply(a, chain);
    chain_free(a->store->heap, chain);
    if (rc == 0 && (a->modseq != modseq || account_mailbox(a, SLICE("INBOX")) == NULL))
        rc = -EBADMSG;
    if (rc == -EBADMSG)
        store_report_rot(a->store, &at, "account");
    a->private->last = at;
    for (uint32_t i = 0; i < a->private->mailbox_count && rc == 0; i++)
        mailbox_trim(a->private->mailboxes[i], (uint32_t)time_wall());
    return rc;
}

/* ---- Committing ---------------------------------------------------------------------------------------- */

void account_entry_set(struct account *a, const struct record_location *at, bool snapshot)
{
    struct account_entry e = {a->id, a->modseq, at->segment, at->offset, at->size, at->stream, snapshot};
    struct account_table *t = &store_partition_of(a->store, &a->id)->table;
    int rc = account_table_update(t, a->store->heap, &e);

    ASSERT(rc == 0); /* There was room: account_create() reserved it. */
    a->private->last = *at;
}

static struct commit_record *change_record(struct change_commit *c)
{
    return &c->commit.records[c->commit.record_count - 1];
}

static void commit_placed(struct commit *commit)
{
    struct change_commit *c = CONTAINER_OF(commit, struct change_commit, commit);

    if (c->placed != NULL)
        c->placed(c);
    change_head_encode(&c->head, (char *)(uintptr_t)change_record(c)->meta.data);
}

/* Durable: now it is shown, and said. In this order, so that whoever is told finds it. */
static void commit_apply(struct change_commit *c)
{
    struct account *a = c->account;
    struct account_private *p = a->private;
    struct commit_record *r = change_record(c);
    struct store_change change = {.modseq = c->head.modseq};
    int rc = account_apply(a, &c->head, r->meta, &change);

    ASSERT(rc == 0); /* It is our own, and memory is taken whatever the budget says. */
    account_entry_set(a, &r->at, false);
    p->chain_count++;
    p->chain_size += r->at.size;
    for (unsigned i = 0; i < change.mailbox_count; i++)
        mailbox_trim(account_mailbox_by_id(a, change.mailboxes[i]), (uint32_t)(c->head.wall_ms / 1000));
    store_notify(a->store, &a->id, &change);
}

static void commit_done(struct commit *commit, int result)
{
    struct change_commit *c = CONTAINER_OF(commit, struct change_commit, commit);

    if (result == 0)
        commit_apply(c);
    if (c->finished != NULL)
        c->finished(c, result);
}

int account_commit(struct change_commit *c)
{
    struct account *a = c->account;
    struct commit_record *r = change_record(c);
    int rc;

    c->head.account = a->id;
    c->head.modseq = a->modseq + 1;
    c->head.previous = a->private->last;
    c->head.part = 0;
    c->head.wall_ms = (uint64_t)time_wall_ms();
    r->type = RECORD_CHANGE;
    r->directory = DIRECTORY_CHANGE;
    r->account = a->id;
    r->modseq = c->head.modseq;
    c->commit.placed = commit_placed;
    c->commit.done = commit_done;
    rc = stream_commit(&a->store->stream, &c->commit);
    store_checkpoint_if_due(a->store);
    return rc;
}

/* ---- Creating ------------------------------------------------------------------------------------------ */

static void root_pack(struct account *a, struct pack *p)
{
    uint32_t uidvalidity = 1 + (uint32_t)(random_u64() % UIDVALIDITY_FIRST_MAX);
    struct id128 history, objectid;

    random_bytes(history.bytes, sizeof history.bytes);
    random_bytes(objectid.bytes, sizeof objectid.bytes);
    (void)pack_need(p, CHANGE_HEAD_SIZE);
    pack_u8(p, OP_ROOT);
    pack_bytes(p, account_user(a));
    pack_put(p, history.bytes, sizeof history.bytes);
    pack_varint(p, 2);
    pack_varint(p, uidvalidity + 1);
    pack_u8(p, OP_MAILBOX_CREATE);
    pack_varint(p, 1);
    pack_varint(p, uidvalidity);
    pack_varint(p, 0);
    pack_put(p, objectid.bytes, sizeof objectid.bytes);
    pack_bytes(p, SLICE("INBOX"));
}

/* Once in the life of an account. */
static int account_create(struct account *a)
{
    struct store *store = a->store;
    struct commit_record record = {0};
    struct change_commit c = {.account = a, .commit = {.records = &record, .record_count = 1}};
    struct pack p;
    int rc = account_table_reserve(&store_partition_of(store, &a->id)->table, store->heap);

    if (rc < 0)
        return rc;
    if (store->full)
        return -ENOSPC;
    if (store->stream.failed)
        return -EIO;
    pack_init(&p, store->heap, 4096);
    root_pack(a, &p);
    record.meta = slice_of(p.data, p.size);
    rc = p.error;
    if (rc == 0) {
        a->private->budgeted = false;
        rc = account_commit(&c);
    }
    pack_fini(&p);
    return rc;
}

/* ---- Opening ------------------------------------------------------------------------------------------- */

static struct account *account_find(struct store *store, const struct id128 *id)
{
    struct map_node *n = map_first(&store->accounts, get_u64(id->bytes + 8));

    for (; n != NULL; n = map_next(n)) {
        struct account_private *p = CONTAINER_OF(n, struct account_private, node);

        if (id128_eq(&p->account->id, id) && p->load_error == 0)
            return p->account;
    }
    return NULL;
}

bool account_loaded(struct store *store, struct slice user)
{
    struct id128 id = store_account_id(store, user);

    return account_find(store, &id) != NULL;
}

static void account_forget(struct account *a)
{
    if (list_linked(&a->private->unused_link)) {
        list_remove(&a->private->unused_link);
        a->store->unused_count--;
    }
    map_remove(&a->store->accounts, &a->private->node);
    account_free(a);
}

static void account_pin(struct account *a)
{
    struct account_private *p = a->private;

    if (p->users++ == 0 && list_linked(&p->unused_link)) {
        list_remove(&p->unused_link);
        a->store->unused_count--;
    }
}

void accounts_trim(struct store *store, bool all)
{
    while (!list_empty(&store->unused) &&
           (all || !heap_admits(store->heap) || store->unused_count > store->config.account_count_max))
        account_forget(CONTAINER_OF(store->unused.next, struct account_private, unused_link)->account);
}

void account_close(struct account *a)
{
    struct account_private *p;

    if (a == NULL)
        return;
    p = a->private;
    ASSERT(p->users > 0);
    if (--p->users > 0)
        return;
    if (p->load_error != 0) {
        account_forget(a);
        return;
    }
    list_push_back(&a->store->unused, &p->unused_link);
    a->store->unused_count++;
    accounts_trim(a->store, false);
}

/* The account is in the map, and others wait for it. */
static int account_begin(struct account *a, unsigned flags)
{
    struct store *store = a->store;
    struct account_entry entry;

    if (!account_table_find(&store_partition_of(store, &a->id)->table, &a->id, &entry))
        return (flags & ACCOUNT_CREATE) != 0 ? account_create(a) : -ENOENT;
    return account_load(a, &entry);
}

static int account_join(struct account *a)
{
    struct account_private *p = a->private;
    int rc = 0;

    while (p->loading && rc == 0)
        rc = fiber_queue_wait(&p->loaded, 0);
    return rc == 0 ? p->load_error : rc;
}

int account_open(struct store *store, struct slice user, unsigned flags, struct account **account_out)
{
    struct id128 id;
    struct account *a;
    int rc;

    if (user.size == 0 || user.size > STORE_USER_SIZE_MAX)
        return -EINVAL;
    id = store_account_id(store, user);
    if (!store_partition_of(store, &id)->served)
        return -ENOTTY;
    if (store->phase != STORE_OPEN)
        return -ESHUTDOWN;
    a = account_find(store, &id);
    if (a != NULL) {
        account_pin(a);
        rc = account_join(a);
    } else {
        accounts_trim(store, false);
        a = account_new(store, &id, user);
        if (a == NULL)
            return -ENOMEM;
        a->private->users = 1;
        map_insert(&store->accounts, &a->private->node, get_u64(id.bytes + 8));
        rc = account_begin(a, flags);
        a->private->load_error = rc;
        a->private->loading = a->private->budgeted = false;
        fiber_queue_wake_all(&a->private->loaded, 0);
    }
    if (rc < 0) {
        account_close(a);
        return rc;
    }
    *account_out = a;
    return 0;
}

/* ---- Snapshots ----------------------------------------------------------------------------------------- */

static void snapshot_run(void *arg)
{
    struct account *a = arg;
    int rc = turn_take(&a->private->turn);

    if (rc == 0) {
        rc = a->store->stream.failed || a->store->full ? 0 : snapshot_write(a);
        turn_give(&a->private->turn);
    }
    if (rc < 0)
        log_event(LOG_WARN, "store: snapshot was not written", "error=%s", log_error(rc));
    a->private->snapshotting = false;
    a->store->open_count--;
    if (a->store->open_count == 0)
        fiber_queue_wake_all(&a->store->drained, 0);
    account_close(a);
}

/* A chain costs a read for each record when the account is loaded; a snapshot costs its size now. */
void account_snapshot_if_due(struct account *a)
{
    struct account_private *p = a->private;

    if (p->snapshotting ||
        (p->chain_count < 128 + p->snapshot_size / 1024 && p->chain_size < 256 * 1024 + p->snapshot_size))
        return;
    p->snapshotting = true;
    account_pin(a);
    a->store->open_count++;
    /* Asked again after the next change. */
    if (fiber_start("store snapshot", RUN_BULK, snapshot_run, a) == NULL) {
        p->snapshotting = false;
        a->store->open_count--;
        account_close(a);
    }
}
