#include "roles/backend/backend.h"
#include "core/config.h"
#include "core/log.h"
#include "roles/backend/command.h"
#include "roles/backend/deliver.h"
#include "roles/role.h"
#include "storage/change.h"
#include <errno.h>

static const struct {
    struct slice name;
    uint32_t special_use;
} default_folders[] = {
    {{"Drafts", 6}, SPECIAL_DRAFTS}, {{"Sent", 4}, SPECIAL_SENT},       {{"Junk", 4}, SPECIAL_JUNK},
    {{"Trash", 5}, SPECIAL_TRASH},   {{"Archive", 7}, SPECIAL_ARCHIVE},
};

/* Nothing has happened in this account since it was made, INBOX and all. */
static bool account_is_new(const struct account *a)
{
    return a->mailbox_count == 1 && account_mailbox_at(a, 0)->created == a->modseq;
}

static int stage_folders(struct change *change)
{
    int rc = change_subscribe(change, SLICE("INBOX"));
    uint64_t id;

    for (unsigned i = 0; i < ARRAY_COUNT(default_folders) && rc == 0; i++) {
        rc = change_mailbox_create(change, default_folders[i].name, default_folders[i].special_use, &id);
        if (rc == 0)
            rc = change_subscribe(change, default_folders[i].name);
    }
    return rc;
}

static int make_folders(struct account *a)
{
    struct change change;
    int rc = change_begin(&change, a, NULL);

    if (rc == 0 &&
        account_is_new(a)) { /* Somebody else may have made them while this fiber waited its turn. */
        rc = stage_folders(&change);
        if (rc == 0)
            rc = change_commit(&change, (struct slice){0});
    }
    change_end(&change);
    return rc;
}

int backend_account_open(struct backend *b, struct slice user, struct account **account_out)
{
    struct account *a;
    int rc = account_open(b->store, user, ACCOUNT_CREATE, &a);

    if (rc < 0)
        return rc;
    if (UNLIKELY(account_is_new(a)))
        rc = make_folders(a);
    if (rc < 0) {
        account_close(a);
        return rc;
    }
    *account_out = a;
    return 0;
}

/* ---- The role ------------------------------------------------------------------------------------------ */

static bool nothing_in_flight(const struct backend *b)
{
    return list_empty(&b->command_list) && list_empty(&b->delivery_list);
}

void backend_record_gone(struct backend *b)
{
    if (b->stopping && nothing_in_flight(b))
        fiber_queue_wake_all(&b->stopped, 0);
}

static int backend_start(struct shard *s)
{
    struct backend *b = heap_zalloc(s->heap, sizeof *b);

    b->heap = s->heap;
    b->store = store_self();
    b->message_size_max = config_size(s->node->config, "limits.message_size");
    slab_init(&b->commands, s->heap, sizeof(struct command), BACKEND_COMMANDS_MAX);
    slab_init(&b->deliveries, s->heap, sizeof(struct delivery), BACKEND_DELIVERIES_MAX);
    list_init(&b->command_list);
    list_init(&b->delivery_list);
    list_init(&b->sources);
    fiber_queue_init(&b->stopped);
    subscribe_start(b);
    s->slot[SLOT_BACKEND] = b;
    link_serve(LINK_IMAP, command_serve);
    link_serve(LINK_SYNC, command_serve);
    link_serve(LINK_DELIVER, deliver_serve);
    link_serve(LINK_SUBSCRIBE, subscribe_serve);
    return 0;
}

/* What changes something is finished; everything else ends. */
static void backend_stop(struct shard *s)
{
    struct backend *b = s->slot[SLOT_BACKEND];

    if (b == NULL)
        return;
    b->stopping = true;
    subscribe_stop(b);
    command_stop_all(b);
    deliver_stop_all(b);
    while (!nothing_in_flight(b))
        (void)fiber_queue_wait(&b->stopped, 0);
    for (unsigned kind = LINK_IMAP; kind <= LINK_SUBSCRIBE; kind++)
        link_serve(kind, NULL);
    s->slot[SLOT_BACKEND] = NULL;
    heap_free(s->heap, b->subscriptions);
    slab_fini(&b->commands);
    slab_fini(&b->deliveries);
    heap_free(s->heap, b);
}

const struct role role_backend = {"backend", backend_start, backend_stop};
