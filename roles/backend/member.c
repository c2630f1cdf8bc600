#include "roles/backend/member.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "roles/backend/backend.h"
#include "roles/small_file.h"
#include "roles/ticket.h"
#include <errno.h>
#include <xxhash.h>

#define FILE_NAME     "cluster"
#define FILE_MAGIC    "TRCLUST1"
#define FILE_SIZE_MAX (MEMBER_SIZE_MAX + 64)
#define WAIT_POLL_MS  20
#define WAIT_LOG_MS   30000
#define DIRECTORS_MAX 64 /* Streams of directors at once. */

struct membership { /* What every shard has a copy of. */
    uint8_t secret[PARTITION_SECRET_SIZE];
    uint8_t partitions[PARTITION_COUNT / 8];
    struct ticket_key ticket_keys[2];
    struct revocations revoked;
};

struct member_director { /* A stream of a director. */
    struct list link;
    struct link_stream *stream;
};

struct member {
    struct membership view;
    /* Shard 0: */
    struct shard *shard;
    struct slab directors;
    struct list director_list;
    uint8_t store_id[CLUSTER_ID_SIZE];
    struct member_grant grant; /* The last one that was taken; its cluster_id is zero before the first. */
    struct member_grant next;  /* To be taken. */
    struct revocations coming; /* Counts when its last piece is there. */
    bool granted, due, revoked, running, joined, stopping;
    struct fiber_queue idle; /* Whoever waits for the end of the fiber that takes grants. */
};

static struct member *member_self(void)
{
    return shard_self()->slot[SLOT_MEMBER];
}

/* ---- The file: magic 8, store id 16, grant without keys of tickets, checksum 8 ------------------------- */

static int file_save(struct member *m)
{
    struct member_grant kept = m->grant;
    char bytes[FILE_SIZE_MAX];
    size_t size = 8 + CLUSTER_ID_SIZE;
    int rc;

    memset(kept.ticket_keys, 0, sizeof kept.ticket_keys);
    memcpy(bytes, FILE_MAGIC, 8);
    memcpy(bytes + 8, m->store_id, CLUSTER_ID_SIZE);
    size += member_grant_encode(&kept, bytes + size);
    put_u64(bytes + size, XXH3_64bits(bytes, size));
    rc = small_file_store(".", FILE_NAME, slice_of(bytes, size + 8));
    bytes_wipe(&kept, sizeof kept);
    if (rc < 0)
        log_event(LOG_ERROR, "cannot write what is known of the cluster", "file=%s error=%s", FILE_NAME,
                  log_error(rc));
    return rc;
}

static bool file_parse(struct member *m, struct slice in)
{
    size_t size = in.size - MIN(in.size, 8u);

    if (in.size < 16 + CLUSTER_ID_SIZE || memcmp(in.data, FILE_MAGIC, 8) != 0 ||
        get_u64(in.data + size) != XXH3_64bits(in.data, size) ||
        !member_grant_decode(slice_of(in.data + 8 + CLUSTER_ID_SIZE, size - 8 - CLUSTER_ID_SIZE), &m->grant))
        return false;
    memcpy(m->store_id, in.data + 8, CLUSTER_ID_SIZE);
    return true;
}

/* Without a file its data directory is new, or was never granted: it is named anew. */
static int file_load(struct member *m)
{
    struct arena arena;
    struct slice bytes;
    int rc;

    arena_init(&arena, m->shard->heap);
    rc = small_file_load(FILE_NAME, &arena, FILE_SIZE_MAX, &bytes);
    if (rc == -ENOENT) {
        random_bytes(m->store_id, sizeof m->store_id);
        rc = 0;
    } else if (rc == 0 && file_parse(m, bytes)) {
        m->granted = m->joined = true;
    } else {
        rc = rc < 0 ? rc : -EBADMSG;
        log_event(LOG_ERROR, "what is known of the cluster cannot be read; restore it from a backup",
                  "file=%s error=%s", FILE_NAME, log_error(rc));
    }
    arena_wipe(&arena);
    arena_fini(&arena);
    return rc;
}

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

static void view_spread(struct member *m)
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
    m->granted = true;
    if (changed && m->joined && file_save(m) < 0)
        return;
    view_spread(m);
}

static void revoked_take(struct member *m)
{
    m->view.revoked = m->coming;
    revoked_end();
    view_spread(m);
}

static void words_run(void *arg)
{
    struct member *m = arg;

    while ((m->due || m->revoked) && !m->stopping) {
        bool due = m->due;

        m->due = false;
        if (m->revoked) { /* They come before the keys. */
            m->revoked = false;
            revoked_take(m);
        }
        if (due)
            grant_take(m);
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
    struct member_grant grant;

    if (f->header.type == LINK_DATA && member_grant_decode(link_frame_data(f), &grant)) {
        m->next = grant;
        m->due = true;
    } else if (f->header.type == LINK_DATA && member_revoked_decode(link_frame_data(f), piece)) {
        revoked_add(m, piece);
    }
    bytes_wipe(&grant, sizeof grant);
    heap_free(m->shard->heap, piece);
    if ((m->due || m->revoked) && !m->running)
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
    for (uint32_t ms = 0; !m->granted; ms += WAIT_POLL_MS) {
        int rc = m->shard->node->stopping ? -ECANCELED : fiber_sleep_ms(WAIT_POLL_MS);

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
};

static void key_give(void *arg) /* On shard 0. */
{
    struct member *m = member_self();
    struct key_call *call = arg;

    call->known = m != NULL && m->granted;
    if (call->known)
        call->grant = m->grant;
}

static int key_fetch(struct member *m)
{
    struct key_call *call = heap_zalloc(m->shard->heap, sizeof *call);
    int rc = 0;

    do {
        shard_call(m->shard->node->shards[0], key_give, call);
        if (!call->known)
            rc = m->shard->node->stopping ? -ECANCELED : fiber_sleep_ms(WAIT_POLL_MS);
    } while (rc == 0 && !call->known);
    m->grant = call->grant;
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
        rc = file_load(m);
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
    rc = file_save(m);
    if (rc < 0)
        return rc;
    m->joined = true;
    view_spread(m);
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
    heap_unmap_secret(s->heap, m);
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

static bool at_home(const struct member *m, unsigned partition)
{
    return partition < PARTITION_COUNT && partition_bit(m->view.partitions, partition);
}

bool member_ticket_good(const char *proxy, unsigned partition, const struct ticket *ticket,
                        enum ticket_scope scope, struct slice user, enum link_lost *why_out)
{
    const struct member *m = member_self();

    *why_out = LINK_LOST_REFUSED;
    if (m == NULL || m->view.ticket_keys[0].id == 0)
        return false;
    if (!at_home(m, partition) || partition != partition_of(m->view.secret, user)) {
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

static bool subscribe_admit(uint16_t partition, enum link_lost *why_out)
{
    const struct member *m = member_self();

    *why_out = m == NULL ? LINK_LOST_REFUSED : LINK_LOST_ELSEWHERE;
    return m != NULL && at_home(m, partition);
}

bool member_admit(const struct link_node *from, const struct link_frame *open, uint16_t partition,
                  enum link_lost *why_out)
{
    struct deliver_request deliver;
    struct imap_request imap;

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
