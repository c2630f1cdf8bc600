#include "roles/backend/member.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "roles/backend/backend.h"
#include "roles/backend/member_state.h"
#include "roles/ticket.h"
#include <errno.h>

#define WAIT_LOG_MS   30000
#define DIRECTORS_MAX 64 /* Streams of directors at once. */

/* ---- Every shard's copy -------------------------------------------------------------------------------- */

static void view_make(struct member *m)
{
    partition_secret(m->grant.cluster_key, m->view.secret);
    memcpy(m->view.partitions, m->grant.partitions, sizeof m->view.partitions);
    memcpy(m->view.ticket_keys, m->grant.ticket_keys, sizeof m->view.ticket_keys);
}

/* Ends what is under way by a ticket that is not valid any more. */
static void revoked_end(void)
{
    struct backend *b = backend_self();

    if (b != NULL) {
        subscribe_end_revoked(b);
        command_end_revoked(b);
    }
}

static void view_take(void *arg)
{
    struct member *m = member_self();

    if (m == NULL)
        return;
    m->view = *(const struct membership *)arg;
    revoked_end();
}

void member_spread(struct member *m)
{
    view_make(m);
    for (unsigned i = 1; i < m->shard->node->shard_count; i++)
        shard_call(m->shard->node->shards[i], view_take, &m->view);
}

/* ---- Grants -------------------------------------------------------------------------------------------- */

static void state_send(struct member *m, struct member_director *d)
{
    struct member_state state = {0};
    struct link_frame *f;

    if (link_credit(d->stream) <= 0)
        return; /* He reads nothing: he will ask again by another stream. */
    if (m->joined)
        memcpy(state.cluster_id, m->grant.cluster_id, CLUSTER_ID_SIZE);
    memcpy(state.store_id, m->store_id, CLUSTER_ID_SIZE);
    f = link_frame_new(MEMBER_SIZE_MAX);
    link_send(d->stream, f, member_state_encode(&state, f->payload), 0);
}

static void state_tell(struct member *m)
{
    list_each_safe(it, &m->director_list)
    {
        state_send(m, CONTAINER_OF(it, struct member_director, link));
    }
}

/* What is at home here stays. */
static void partitions_keep(struct member_grant *to, const struct member_grant *kept)
{
    for (size_t i = 0; i < sizeof to->partitions; i++)
        to->partitions[i] |= kept->partitions[i];
}

static void grant_take(struct member *m)
{
    struct member_grant *next = &m->next;
    bool other = m->granted && memcmp(next->cluster_id, m->grant.cluster_id, CLUSTER_ID_SIZE) != 0;
    bool changed;

    if (other || (!m->granted && !next->first)) {
        log_event(LOG_ERROR, "a director's word is refused", "why=\"%s\"",
                  other ? "this data directory is of another cluster"
                        : "this data directory is new, it should not be");
        return;
    }
    partitions_keep(next, &m->grant);
    changed = !m->granted || memcmp(next->partitions, m->grant.partitions, sizeof next->partitions) != 0;
    m->grant = *next;
    m->view.epoch = MAX(m->view.epoch, next->table_version);
    m->granted = true;
    if (changed && m->joined && member_file_save(m) < 0)
        return;
    member_spread(m);
}

void member_revoked_take(struct member *m)
{
    m->revoked = false;
    m->view.revoked = m->coming;
    revoked_end();
    member_spread(m);
}

static void words_run(void *arg)
{
    struct member *m = arg;

    while ((m->due || m->revoked || m->placed_next != NULL) && !m->stopping) {
        bool due = m->due;

        m->due = false;
        if (m->revoked) /* They come before the keys. */
            member_revoked_take(m);
        if (due)
            grant_take(m);
        if (!m->due && !m->revoked && m->placed_next != NULL)
            member_placed_take(m);
    }
    m->running = false;
    fiber_queue_wake_all(&m->idle, 0);
}

/* ---- Directors ----------------------------------------------------------------------------------------- */

static void director_gone(struct member_director *d)
{
    list_remove(&d->link);
    slab_give(&member_self()->directors, d);
}

static void revoked_add(struct member *m, const struct member_revoked *piece)
{
    if (piece->all)
        memset(&m->coming, 0, sizeof m->coming);
    for (unsigned i = 0; i < piece->count; i++) {
        if (piece->entries[i].generation > m->coming.generation)
            revocations_add(&m->coming, piece->entries[i].user, piece->entries[i].generation);
    }
    m->coming.floor = MAX(m->coming.floor, piece->floor);
    m->revoked = m->revoked || piece->last;
}

static void on_frame(struct link_stream *s, struct link_frame *f)
{
    struct member *m = member_self();
    struct member_revoked *piece = heap_alloc(m->shard->heap, sizeof *piece);
    struct member_placed placed;
    struct member_grant grant;

    if (f->header.type == LINK_DATA && member_grant_decode(link_frame_data(f), &grant)) {
        m->next = grant;
        m->due = true;
    } else if (f->header.type == LINK_DATA && member_revoked_decode(link_frame_data(f), piece)) {
        revoked_add(m, piece);
    } else if (f->header.type == LINK_DATA && member_placed_decode(link_frame_data(f), &placed)) {
        member_placed_add(m, &placed);
    }
    bytes_wipe(&grant, sizeof grant);
    heap_free(m->shard->heap, piece);
    if ((m->due || m->revoked || m->placed_next != NULL) && !m->running)
        m->running = fiber_start("member", RUN_INTERACTIVE, words_run, m) != NULL;
    bytes_wipe(f->payload, f->header.size);
    link_frame_release(f);
}

static void on_credit(struct link_stream *s)
{
}

static void on_lost(struct link_stream *s)
{
    director_gone(s->owner);
}

static const struct link_stream_ops director_ops = {on_frame, on_credit, on_lost};

static void member_serve(struct link_stream *s, struct link_frame *open)
{
    struct member *m = member_self();
    struct member_director *d = m->stopping ? NULL : slab_take(&m->directors);

    link_frame_release(open);
    if (d == NULL) {
        link_stream_refuse(s, LINK_LOST_REFUSED);
        return;
    }
    d->stream = s;
    s->ops = &director_ops;
    s->owner = d;
    list_push_back(&m->director_list, &d->link);
    state_send(m, d);
}

/* ---- Start and stop ------------------------------------------------------------------------------------ */

static int grant_wait(struct member *m)
{
    for (uint32_t ms = 0; !m->granted; ms += MEMBER_POLL_MS) {
        int rc = m->shard->node->stopping ? -ECANCELED : fiber_sleep_ms(MEMBER_POLL_MS);

        if (rc < 0)
            return rc;
        if (ms % WAIT_LOG_MS == 0)
            log_event(LOG_WARN, "waiting for a director", "why=\"the data directory is new\"");
    }
    return 0;
}

struct key_call {
    bool known;
    struct member_grant grant;
    struct exceptions placed;
};

static void key_give(void *arg) /* On shard 0. */
{
    struct member *m = member_self();
    struct key_call *call = arg;

    call->known = m != NULL && m->granted;
    if (!call->known)
        return;
    call->grant = m->grant;
    call->placed = m->view.placed;
}

static int key_fetch(struct member *m)
{
    struct key_call *call = heap_zalloc(m->shard->heap, sizeof *call);
    int rc = 0;

    do {
        shard_call(m->shard->node->shards[0], key_give, call);
        if (!call->known)
            rc = m->shard->node->stopping ? -ECANCELED : fiber_sleep_ms(MEMBER_POLL_MS);
    } while (rc == 0 && !call->known);
    m->grant = call->grant;
    m->view.placed = call->placed;
    bytes_wipe(call, sizeof *call);
    heap_free(m->shard->heap, call);
    return rc;
}

int member_start(struct shard *s, uint8_t key_out[CLUSTER_KEY_SIZE])
{
    struct member *m = heap_try_map_secret(s->heap, sizeof *m);
    int rc;

    if (m == NULL)
        return -ENOMEM;
    m->shard = s;
    slab_init(&m->directors, s->heap, sizeof(struct member_director), DIRECTORS_MAX);
    list_init(&m->director_list);
    fiber_queue_init(&m->idle);
    s->slot[SLOT_MEMBER] = m;
    if (s->index > 0) {
        rc = key_fetch(m);
    } else {
        rc = member_file_load(m);
        if (rc == 0) {
            link_serve(LINK_MEMBER, member_serve);
            rc = grant_wait(m);
        }
    }
    if (rc < 0)
        return rc;
    view_make(m);
    memcpy(key_out, m->grant.cluster_key, CLUSTER_KEY_SIZE);
    return 0;
}

int member_joined(struct shard *s)
{
    struct member *m = s->slot[SLOT_MEMBER];
    int rc;

    if (s->index > 0 || m->joined)
        return 0;
    rc = member_file_save(m);
    if (rc < 0)
        return rc;
    m->joined = true;
    member_spread(m);
    state_tell(m);
    return 0;
}

void member_stop(struct shard *s)
{
    struct member *m = s->slot[SLOT_MEMBER];

    if (m == NULL)
        return;
    m->stopping = true;
    if (s->index == 0)
        link_serve(LINK_MEMBER, NULL);
    while (m->running)
        (void)fiber_queue_wait(&m->idle, 0);
    list_each_safe(it, &m->director_list)
    {
        struct member_director *d = CONTAINER_OF(it, struct member_director, link);

        link_stream_reset(d->stream);
        director_gone(d);
    }
    s->slot[SLOT_MEMBER] = NULL;
    slab_fini(&m->directors);
    member_placed_fini(m);
    heap_unmap_secret(s->heap, m);
}

/* ---- Who is served here ---------------------------------------------------------------------------------- */

static bool at_home(const struct member *m, unsigned partition)
{
    return partition < PARTITION_COUNT && partition_bit(m->view.partitions, partition);
}

static bool serves(const struct member *m, unsigned partition, struct slice user)
{
    const struct exceptions *placed = &m->view.placed;
    const struct exception *e =
        placed->count > 0 ? exceptions_find(placed, partition_user(m->view.secret, user)) : NULL;

    return e != NULL ? e->node == EXCEPTION_HERE : at_home(m, partition);
}

bool member_serves(struct slice user)
{
    const struct member *m = member_self();

    return m == NULL || serves(m, partition_of(m->view.secret, user), user);
}

/* ---- Claims --------------------------------------------------------------------------------------------- */

struct member_claim member_claim(const struct ticket *ticket, struct slice user)
{
    const struct member *m = member_self();

    if (m == NULL)
        return (struct member_claim){0};
    return (struct member_claim){partition_user(m->view.secret, user), ticket_generation(ticket)};
}

bool member_claim_revoked(const struct member_claim *claim)
{
    const struct member *m = member_self();

    return m != NULL && claim->user != 0 &&
           revocations_refuse(&m->view.revoked, claim->user, claim->generation);
}

const struct revocations *member_revocations(void)
{
    const struct member *m = member_self();

    return m != NULL ? &m->view.revoked : NULL;
}

/* ---- Admission ----------------------------------------------------------------------------------------- */

bool member_ticket_good(const char *proxy, unsigned partition, const struct ticket *ticket,
                        enum ticket_scope scope, struct slice user, enum link_lost *why_out)
{
    const struct member *m = member_self();

    *why_out = LINK_LOST_REFUSED;
    if (m == NULL || m->view.ticket_keys[0].id == 0)
        return false;
    if (partition != partition_of(m->view.secret, user) || !serves(m, partition, user)) {
        *why_out = LINK_LOST_ELSEWHERE;
        return false;
    }
    switch (ticket_check(ticket, m->view.ticket_keys, scope, slice_str(proxy), user)) {
    case TICKET_GOOD:
        if (!revocations_refuse(&m->view.revoked, partition_user(m->view.secret, user),
                                ticket_generation(ticket)))
            return true;
        *why_out = LINK_LOST_TICKET;
        return false;
    case TICKET_EXPIRED:
        *why_out = LINK_LOST_TICKET;
        return false;
    default:
        log_event(LOG_WARN, "ticket refused", "node=%s user=%s", log_quote(slice_str(proxy)),
                  log_quote(user));
        return false;
    }
}

/* Or there is somebody of that partition who is placed here alone. */
static bool subscribe_admit(uint16_t partition, enum link_lost *why_out)
{
    const struct member *m = member_self();
    bool here = m != NULL && at_home(m, partition);

    for (unsigned i = 0; m != NULL && !here && m->view.placed.count > 0 && i < EXCEPTIONS_MAX; i++) {
        const struct exception *e = &m->view.placed.entries[i];

        here = e->used && e->node == EXCEPTION_HERE && e->partition == partition;
    }
    *why_out = m == NULL ? LINK_LOST_REFUSED : LINK_LOST_ELSEWHERE;
    return here;
}

struct link_referral member_referral(unsigned partition)
{
    const struct member *m = member_self();

    return (struct link_referral){.epoch = m != NULL ? m->view.epoch : 0, .partition = (uint16_t)partition};
}

struct link_referral member_referral_of(struct slice user)
{
    const struct member *m = member_self();

    return member_referral(m != NULL ? partition_of(m->view.secret, user) : 0);
}

bool member_admit(const struct link_node *from, const struct link_frame *open, uint16_t partition,
                  enum link_lost *why_out, struct link_referral *referral_out)
{
    struct deliver_request deliver;
    struct imap_request imap;

    *referral_out = member_referral(partition);
    *why_out = LINK_LOST_REFUSED;
    switch (open->header.kind) {
    case LINK_SUBSCRIBE:
        return subscribe_admit(partition, why_out);
    case LINK_DELIVER:
        return deliver_request_decode(link_frame_head(open), &deliver) &&
               member_ticket_good(from->name, partition, &deliver.ticket, TICKET_DELIVER, deliver.user,
                                  why_out);
    default:
        return imap_request_decode(link_frame_head(open), &imap) &&
               member_ticket_good(from->name, partition, &imap.ticket, TICKET_SESSION, imap.user, why_out);
    }
}
