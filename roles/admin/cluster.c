/* roles/admin/cluster.c -- what an operator asks of a director about the whole cluster. */
#include "core/heap.h"
#include "core/log.h"
#include "roles/admin/admin.h"
#include "roles/words/control.h"
#include <errno.h>
#include <stdio.h>

#define DEAL_WAIT_MS  20000
#define PLACE_WAIT_MS 20000 /* For a backend to let go of a user. */
#define POLL_MS       20

static void cluster_show(const struct control_cluster *cluster, struct reply *r)
{
    reply_begin(r, ' ');
    reply_bool(r, "dealt", cluster->dealt);
    reply_u64(r, "backends", cluster->backends);
    reply_end(r);
}

/* Waits for backends that have not been heard so far. */
static void cluster_deal(struct reply *r)
{
    struct control_cluster cluster = {.deal = true};

    for (unsigned ms = 0; ms < DEAL_WAIT_MS && !cluster.dealt && !cluster.twice; ms += POLL_MS) {
        if (fiber_sleep_ms(POLL_MS) < 0 || control_self() == NULL) {
            reply_error(r, 503, ADMIN_NOT_READY);
            return;
        }
        control_self()->cluster(&cluster);
    }
    if (!cluster.dealt) {
        cluster.deal = false;
        control_self()->cluster(&cluster);
    }
    if (cluster.dealt)
        cluster_show(&cluster, r);
    else
        reply_error(r, 503, cluster.twice ? "two backends have one name" : "not all backends have answered");
}

void cluster_init_command(struct admin *a, struct slice argument, struct reply *r)
{
    struct control_cluster cluster = {.deal = false};

    if (control_self() == NULL) {
        reply_error(r, 503, ADMIN_NOT_READY);
        return;
    }
    control_self()->cluster(&cluster);
    if (!cluster.here)
        reply_error(r, 404, "this is no director of a cluster");
    else if (cluster.dealt)
        reply_error(r, 409, "the partitions have been dealt already");
    else
        cluster_deal(r);
}

/* ---- Users who are placed alone -------------------------------------------------------------------------- */

static const struct {
    int rc;
    unsigned status;
    const char *text;
} refusals[] = {
    {-ENOSYS, 409, "this is no director of a cluster"},
    {-EAGAIN, 503, "the partitions have not been dealt"},
    {-ENOENT, 400, "no such backend"},
    {-EALREADY, 409, "he is where all of his partition are"},
    {-EHOSTUNREACH, 503, "that backend is not there, or of a release that knows no exceptions"},
    {-EBUSY, 503, "too many are on their way; wait for their backends, or unplace some"},
    {-ENOSPC, 503, "too many are placed alone already"},
    {0, 503, ADMIN_NOT_READY},
};

static void place_refused(const struct control_place *place, struct reply *r)
{
    unsigned i = 0;

    while (refusals[i].rc != place->rc && refusals[i].rc != 0)
        i++;
    reply_error(r, refusals[i].status, refusals[i].text);
}

/* Until it is known. A backend that does not answer is asked on, when nobody waits any more. */
static void place_wait(struct control_place *place, struct reply *r)
{
    char text[160 + CONTROL_NAME];

    for (unsigned ms = 0; ms < PLACE_WAIT_MS && place->rc == 0 && !place->done && !place->refused;
         ms += POLL_MS) {
        if (fiber_sleep_ms(POLL_MS) < 0 || control_self() == NULL) {
            reply_error(r, 503, ADMIN_NOT_READY);
            return;
        }
        control_self()->place(place);
    }
    if (place->rc < 0) {
        place_refused(place, r);
    } else if (place->refused) {
        snprintf(text, sizeof text, "he has mail on %s, and moving it is not possible yet", place->at);
        reply_error(r, 409, text);
    } else if (!place->done) {
        snprintf(text, sizeof text,
                 "%s has not let go of him yet; it is asked until it answers, or he is unplaced", place->at);
        reply_error(r, 503, text);
    } else {
        reply_begin(r, ' ');
        reply_slice(r, "user", place->user);
        reply_slice(r, "node", slice_str(place->at));
        reply_bool(r, "exception", place->node.size > 0);
        reply_end(r);
    }
}

/* `node` empty: where the hash says. */
static void user_place(struct slice name, struct slice node, struct reply *r)
{
    struct control_user user = {.name = name};
    struct control_place place = {.node = node};

    if (control_self() == NULL) {
        reply_error(r, 503, ADMIN_NOT_READY);
        return;
    }
    control_self()->place(&place);
    if (place.rc == -ENOSYS || place.rc == -EAGAIN) {
        place_refused(&place, r);
        return;
    }
    control_self()->user(&user);
    if (user.rc < 0) {
        reply_error(r, user.rc == -ENOENT ? 404 : 503, user.rc == -ENOENT ? "no such user" : ADMIN_NOT_READY);
        return;
    }
    place.user = slice_of(user.canonical, user.size);
    log_event(LOG_INFO, "operator places a user", "user=%s node=%s", log_quote(place.user),
              node.size > 0 ? log_quote(node) : "by_hash");
    place.begin = true;
    control_self()->place(&place);
    place.begin = false;
    place_wait(&place, r);
}

void cluster_place_command(struct admin *a, struct slice argument, struct reply *r)
{
    size_t space = slice_find(argument, ' ');

    if (space == 0 || space + 1 >= argument.size)
        reply_error(r, 400, "place whom where? USER BACKEND");
    else
        user_place(slice_first(argument, space), slice_from(argument, space + 1), r);
}

void cluster_unplace_command(struct admin *a, struct slice argument, struct reply *r)
{
    if (argument.size == 0)
        reply_error(r, 400, "unplace whom? USER");
    else
        user_place(argument, slice_of(NULL, 0), r);
}

void cluster_exceptions_command(struct admin *a, struct slice argument, struct reply *r)
{
    struct control_exceptions *page = heap_zalloc(a->shard->heap, sizeof *page);
    uint32_t count = 0;

    reply_begin(r, ' ');
    reply_array(r, "exceptions");
    do {
        if (control_self() != NULL)
            control_self()->exceptions(page);
        for (uint32_t i = 0; i < page->count; i++) {
            const struct control_exception *row = &page->rows[i];

            reply_record(r);
            reply_slice(r, "user", slice_of(row->user, row->user_size));
            reply_slice(r, "node", slice_str(row->at));
            if (strcmp(row->at, row->to) != 0)
                reply_slice(r, "moving_to", slice_str(row->to));
            reply_record_end(r);
        }
        count += page->count;
    } while (page->more);
    reply_array_end(r);
    reply_u64(r, "count", count);
    if (page->here)
        reply_end(r);
    else
        reply_error(r, 409, "this is no director of a cluster");
    heap_free(a->shard->heap, page);
}
