#include "roles/proxy/ticket_keys.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/shard_call.h"
#include "roles/proxy/chest.h"
#include "roles/settings.h"
#include <errno.h>

#define KEY_RETRY_MS 5 /* Shard 0 may be a moment behind. */
#define KEY_MS       (12 * 3600 * 1000)

void ticket_keys_take(struct proxy *p, const struct tls_ticket_keys *keys)
{
    if (p->ticket_keys == NULL)
        return;
    for (unsigned i = keys->count; i-- > 0;)
        tls_ticket_keys_add(p->ticket_keys, keys->keys[i]);
    if (p->tls != NULL)
        tls_context_set_ticket_keys(p->tls, p->ticket_keys);
}

static void keys_make(struct tls_ticket_keys *keys)
{
    keys->count = 1;
    random_bytes(keys->keys[0], sizeof keys->keys[0]);
}

/* ---- With all roles in the process --------------------------------------------------------------------- */

static void keys_put(void *arg)
{
    struct proxy *p = shard_self()->slot[SLOT_PROXY];

    if (p != NULL)
        ticket_keys_take(p, arg);
}

static void keys_rotate(void *arg)
{
    struct node *node = shard_self()->node;
    struct tls_ticket_keys keys;

    keys_make(&keys);
    keys_put(&keys);
    for (unsigned i = 1; i < node->shard_count; i++)
        shard_call(node->shards[i], keys_put, &keys);
    bytes_wipe(&keys, sizeof keys);
}

static void rotate_due(struct timer *t)
{
    bool started = fiber_start("ticket keys", RUN_INTERACTIVE, keys_rotate, NULL) != NULL;

    timer_set(t, started ? KEY_MS : KEY_RETRY_MS);
}

/* ---- Start --------------------------------------------------------------------------------------------- */

static void keys_give(void *arg) /* On shard 0. */
{
    const struct proxy *p = shard_self()->slot[SLOT_PROXY];

    if (p != NULL && p->ticket_keys != NULL)
        *(struct tls_ticket_keys *)arg = *p->ticket_keys;
}

int ticket_keys_start(struct proxy *p)
{
    struct node *node = p->shard->node;
    uint32_t rotate_ms = KEY_MS;

    p->ticket_keys = heap_try_map_secret(p->heap, sizeof *p->ticket_keys);
    if (p->ticket_keys == NULL)
        return -ENOMEM;
    timer_init(&p->ticket_timer, rotate_due);
    if (p->shard->index == 0) {
        if (!arrivals_ticket_keys(p->shard, p->ticket_keys, &rotate_ms))
            keys_make(p->ticket_keys);
        if (settings_roles(node->config) == LINK_ROLE_ALL)
            timer_set(&p->ticket_timer, MAX(rotate_ms, 1u));
        return 0;
    }
    for (;;) {
        int rc;

        shard_call(node->shards[0], keys_give, p->ticket_keys);
        if (p->ticket_keys->count > 0)
            return 0;
        rc = node->stopping ? -ECANCELED : fiber_sleep_ms(KEY_RETRY_MS);
        if (rc < 0)
            return rc;
    }
}

void ticket_keys_stop(struct proxy *p)
{
    if (p->ticket_timer.fire != NULL)
        timer_cancel(&p->ticket_timer);
    heap_unmap_secret(p->heap, p->ticket_keys);
}
