/* roles/director/director.c -- answers 'who is this, and which partition holds his mail': LINK_LOGIN and
 * LINK_LOOKUP.
 *
 * A question is a record while it waits for a fiber, and a fiber while the password is verified. */
#include "core/config.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "core/metrics.h"
#include "core/shard_call.h"
#include "net/link/link.h"
#include "roles/director/cluster.h"
#include "roles/director/control.h"
#include "roles/director/digest.h"
#include "roles/director/passdb.h"
#include "roles/role.h"
#include "roles/words/place.h"
#include "roles/words/request.h"
#include <errno.h>

#define STOP_POLL_MS     5
#define REVOKING_WAIT_MS 1000
#define REVOKING_STEP_MS 10
#define QUESTIONS_MAX    16384 /* A shard: what waits for a fiber or a password hash. */

struct director {
    struct passdb *passdb;
    struct slab questions;
    /* In a process with all roles; elsewhere the cluster's: */
    uint64_t generation;         /* Of logins. */
    struct revocations *revoked; /* On shard 0. NULL: nobody. */
    struct fiber_queue ended;
    bool revoking;
};

struct question {
    struct director *director;
    struct link_stream *stream; /* NULL once the proxy has given up. */
    struct link_frame *open;    /* Holds the bytes of the request, the password among them. */
    struct login_request request;
    bool renew; /* LINK_RENEW: no password, but a ticket. */
    struct ticket ticket;
    char asker[LINK_NODE_NAME_MAX + 1]; /* The node that asks, which a ticket names. */
    uint64_t generation;                /* When it was asked. */
    struct fiber_waiter waiter;
    uint64_t began_ns;
    bool waiting; /* For a fiber. */
};

static void question_free(struct question *q)
{
    bytes_wipe(q->open->payload, q->open->header.size);
    link_frame_release(q->open);
    slab_give(&q->director->questions, q);
}

static void question_answer(struct question *q, const struct login_reply *reply)
{
    char trailer[HEAD_SIZE_SMALL];

    if (q->stream != NULL)
        link_end(q->stream, NULL, 0, slice_of(trailer, login_reply_encode(reply, trailer)));
    question_free(q);
}

static enum login_result login_result_of(int rc)
{
    switch (rc) {
    case 0:
        return LOGIN_OK;
    case -EACCES:
    case -ENOENT:
        return LOGIN_REFUSED;
    case -EPERM:
        return LOGIN_DISABLED;
    default:
        return LOGIN_UNAVAILABLE;
    }
}

/* A recipient is the user of that full name or, if there is none, of his local part. A static password makes
 * every name a user, and then the local part alone decides. */
static int recipient_find(struct passdb *passdb, struct slice address, struct passdb_result *result)
{
    size_t at = slice_find(address, '@');
    int rc = passdb_exists(passdb, address, result);

    if (at == address.size || (rc == 0 && !result->any_user) || (rc < 0 && rc != -ENOENT))
        return rc;
    return passdb_exists(passdb, slice_first(address, at), result);
}

/* Where his mail is and, in a cluster, the ticket for it. */
static void question_route(const struct question *q, uint64_t fingerprint, struct login_reply *reply)
{
    struct ticket_claim claim = {.scope = q->request.lookup ? TICKET_DELIVER : TICKET_SESSION,
                                 .generation = q->generation,
                                 .fingerprint = fingerprint,
                                 .proxy = slice_str(q->asker),
                                 .user = reply->user};

    if (!cluster_running()) {
        reply->partition = (uint16_t)place_self()->partition(reply->user);
        ticket_make_plain(q->generation, &reply->ticket);
        return;
    }
    if (q->renew && !cluster_ticket_renewable(&q->ticket, &claim))
        reply->result = LOGIN_REFUSED;
    else if (!cluster_partition(claim.user, &reply->partition))
        reply->result = LOGIN_UNAVAILABLE;
    else
        cluster_ticket(&claim, &reply->ticket);
}

static int question_ask(const struct question *q, struct passdb *passdb, struct passdb_result *result)
{
    int rc;

    if (q->request.lookup)
        return recipient_find(passdb, q->request.user, result);
    if (!q->renew)
        return passdb_verify(passdb, q->request.user, q->request.password, result);
    rc = passdb_exists(passdb, q->request.user, result);
    return rc == 0 && result->disabled ? -EPERM : rc;
}

/* From before the password is looked at. Whoever is just being revoked, and comes with his new password, waits for the disk: a ticket of
 * before would end with those that he had. */
static uint64_t generation_of(const struct question *q)
{
    for (unsigned ms = 0; cluster_running() && cluster_revoking(q->request.user) && ms < REVOKING_WAIT_MS;
         ms += REVOKING_STEP_MS) {
        if (fiber_sleep_ms(REVOKING_STEP_MS) < 0)
            break;
    }
    return cluster_running() ? cluster_generation() : q->director->generation;
}

static void question_run(void *arg)
{
    struct question *q = arg;
    struct passdb *passdb = q->director->passdb;
    struct metrics *metrics = shard_self()->metrics;
    struct login_reply reply = {0};
    struct passdb_result result;
    int rc;

    q->generation = generation_of(q);
    rc = question_ask(q, passdb, &result);
    reply.result = login_result_of(rc);
    if (rc == 0) {
        reply.user = user_name_slice(&result.user);
        question_route(q, result.fingerprint, &reply);
    }
    if (!q->request.lookup && !q->renew) {
        metrics->logins += rc == 0;
        metrics->logins_failed += rc == -EACCES || rc == -EPERM;
        if (rc == -EACCES || rc == -EPERM)
            reply.delay_ms = passdb_failure_delay_ms(passdb);
        metric_elapsed(&metrics->login_check_time, q->began_ns, time_ns());
    }
    question_answer(q, &reply);
}

static void question_start(struct question *q);

static void on_fiber_free(struct fiber_waiter *w)
{
    struct question *q = CONTAINER_OF(w, struct question, waiter);

    q->waiting = false;
    question_start(q);
}

static void question_start(struct question *q)
{
    if (fiber_start("login", RUN_INTERACTIVE, question_run, q) != NULL)
        return;
    q->waiting = true;
    q->waiter.free_done = on_fiber_free;
    fiber_when_free(&q->waiter);
}

static void on_frame(struct link_stream *s,
                     struct link_frame *f) /* A question is one frame: nothing follows it. */
{
    link_frame_release(f);
}

static void on_credit(struct link_stream *s)
{
}

static void
on_lost(struct link_stream *s) /* The client is gone. A hash that is being computed is finished. */
{
    struct question *q = s->owner;

    q->stream = NULL;
    if (q->waiting) {
        fiber_when_free_cancel(&q->waiter);
        question_free(q);
    }
}

static const struct link_stream_ops question_ops = {on_frame, on_credit, on_lost};

/* This node, unless the question came over a wire. */
static void asker_keep(struct question *q, const struct link_frame *open)
{
    const char *self = config_string(shard_self()->node->config, "node");
    struct link_node node;
    struct slice name = slice_str(link_frame_origin(open, &node) ? node.name : self != NULL ? self : "");

    memcpy(q->asker, name.data, MIN(name.size, LINK_NODE_NAME_MAX));
}

/* False: not understood. */
static bool question_read(struct question *q, const struct link_frame *open)
{
    struct renew_request renew;

    asker_keep(q, open);
    if (open->header.kind != LINK_RENEW)
        return login_request_decode(link_frame_head(open), &q->request);
    if (!cluster_running() || !renew_request_decode(link_frame_head(open), &renew))
        return false;
    q->renew = true;
    q->ticket = renew.ticket;
    q->request.user = renew.user;
    return true;
}

static void director_serve(struct link_stream *s, struct link_frame *open)
{
    struct director *d = shard_self()->slot[SLOT_DIRECTOR];
    struct question *q = slab_take(&d->questions);

    if (q != NULL)
        q->director = d;
    if (q == NULL || !question_read(q, open)) {
        if (q != NULL)
            slab_give(&d->questions, q);
        link_frame_release(open);
        link_stream_refuse(s, LINK_LOST_REFUSED);
        return;
    }
    q->stream = s;
    q->open = open;
    q->began_ns = time_ns();
    s->ops = &question_ops;
    s->owner = q;
    question_start(q);
}

void director_control_user(struct control_user *user)
{
    struct director *d = shard_self()->slot[SLOT_DIRECTOR];
    struct passdb_result result;

    user->rc = d != NULL ? passdb_exists(d->passdb, user->name, &result) : -EAGAIN;
    if (user->rc < 0)
        return;
    user->disabled = result.disabled;
    user->size = result.user.size;
    memcpy(user->canonical, result.user.bytes, result.user.size);
}

/* ---- Another password, in a process with all roles ------------------------------------------------------
 *
 * The sessions of before end. Each change of an entry takes the next generation; a shard that has it checks passwords by the new
 * table. */

static void revoked_take(void *arg)
{
    struct director *d = shard_self()->slot[SLOT_DIRECTOR];
    const struct revocations *revoked = arg;

    if (d != NULL)
        d->generation = revoked->generation;
    if (control_self() != NULL)
        control_self()->revoked(revoked);
}

static void revoke_run(void *arg)
{
    struct director *d = arg;
    struct shard *self = shard_self();
    struct revocations *now = heap_alloc(self->heap, sizeof *now);

    fiber_mask();
    while (d->generation < d->revoked->generation) { /* More may come meanwhile. */
        *now = *d->revoked;
        for (unsigned i = 0; i < self->node->shard_count; i++)
            shard_call(self->node->shards[i], revoked_take, now);
    }
    fiber_unmask();
    heap_free(self->heap, now);
    d->revoking = false;
    fiber_queue_wake_all(&d->ended, 0);
}

static void revoke_here(struct slice user)
{
    struct director *d = shard_self()->slot[SLOT_DIRECTOR];

    if (d->revoked == NULL)
        d->revoked = heap_zalloc(shard_self()->heap, sizeof *d->revoked);
    revocations_add(d->revoked, control_user_hash(user), d->revoked->generation + 1);
    if (!d->revoking)
        d->revoking = fiber_start("revoke", RUN_INTERACTIVE, revoke_run, d) != NULL;
}

/* ---- Start and stop ------------------------------------------------------------------------------------ */

static void questions_serve(link_serve_fn *serve)
{
    link_serve(LINK_LOGIN, serve);
    link_serve(LINK_LOOKUP, serve);
    link_serve(LINK_RENEW, serve);
}

static int director_start(struct shard *s)
{
    struct director *d = heap_zalloc(s->heap, sizeof *d);
    uint8_t key[DIGEST_SIZE];
    int rc;

    if (cluster_running())
        cluster_fingerprint_key(key);
    else
        random_bytes(key, sizeof key);
    rc = passdb_open(s, key, &d->passdb);
    bytes_wipe(key, sizeof key);
    if (rc < 0) {
        heap_free(s->heap, d);
        return rc;
    }
    slab_init(&d->questions, s->heap, sizeof(struct question), QUESTIONS_MAX);
    s->slot[SLOT_DIRECTOR] = d;
    fiber_queue_init(&d->ended);
    if (s->index == 0)
        passdb_watch(s, cluster_running() ? cluster_revoke : revoke_here);
    questions_serve(director_serve);
    return 0;
}

/* Other nodes go on asking: they are refused from here on, and whoever has asked before gets his answer. */
static void director_stop(struct shard *s)
{
    struct director *d = s->slot[SLOT_DIRECTOR];

    if (d == NULL)
        return;
    questions_serve(NULL);
    fiber_mask();
    while (d->questions.used_count > 0)
        (void)fiber_sleep_ms(STOP_POLL_MS);
    fiber_unmask();
    if (s->index == 0)
        passdb_watch(s, NULL);
    while (d->revoking)
        (void)fiber_queue_wait(&d->ended, 0);
    s->slot[SLOT_DIRECTOR] = NULL;
    passdb_close(d->passdb);
    slab_fini(&d->questions);
    heap_free(s->heap, d->revoked);
    heap_free(s->heap, d);
}

const struct role role_director = {"director", director_start, director_stop};
