/* roles/director/cluster_exceptions.c -- users who are placed alone, against the hash.
 *
 * A user is `at` a node, and goes `to` one; there he is at rest. He is told to leave first: his node makes it durable that it does not
 * serve him any more, and refuses if he has an account there, for nothing moves mail so far. Only when it has answered does he arrive,
 * and only what is on the disk here is told to anybody. So there is no moment at which two nodes would serve him (I-7), whoever dies
 * when; a node that cannot be asked keeps him.
 *
 *     at home, to b2   --home has let go--> at b2    --the operator--> at b2, to home   --b2 has let go--> no exception any more
 *          |--home refuses, or the operator--> no exception                  |--b2 refuses, or the operator--> at b2 */
#include "core/log.h"
#include "roles/director/cluster_state.h"
#include "roles/director/control.h"
#include <errno.h>

#define PENDING_MAX   MEMBER_REFUSED_MAX /* Who are on their way: an answer can name all of them. */
#define NOT_SAVED     UINT64_MAX
#define ENCODED_FRONT 7 /* Place 2, at 2, to 2, size of the name 1. */

static struct slice name_of(const struct placement *p)
{
    return slice_of(p->name, p->name_size);
}

static bool on_its_way(const struct placement *p)
{
    return p->name_size > 0 && p->at != p->to;
}

static uint16_t home_of(const struct cluster *c, struct slice user)
{
    return c->table.owners[partition_of(c->view.secret, user)];
}

static struct placement *placement_find(const struct cluster *c, struct slice user)
{
    for (unsigned i = 0; c->placements != NULL && user.size > 0 && i < EXCEPTIONS_MAX; i++) {
        if (slice_eq(name_of(&c->placements[i]), user))
            return &c->placements[i];
    }
    return NULL;
}

static struct placement *placement_new(struct cluster *c, struct slice user)
{
    if (c->placements == NULL)
        c->placements = heap_zalloc(c->shard->heap, EXCEPTIONS_MAX * sizeof *c->placements);
    for (unsigned i = 0; i < EXCEPTIONS_MAX; i++) {
        struct placement *p = &c->placements[i];

        if (p->name_size > 0)
            continue;
        p->name_size = (uint8_t)user.size;
        memcpy(p->name, user.data, user.size);
        return p;
    }
    return NULL;
}

/* Whoever is at rest where the hash says is none. */
static void placement_settle(struct cluster *c, struct placement *p)
{
    p->since = NOT_SAVED;
    if (p->at == p->to && p->at == home_of(c, name_of(p)))
        memset(p, 0, sizeof *p);
    c->placed = true;
}

/* ---- The file ------------------------------------------------------------------------------------------ */

size_t cluster_exceptions_size(const struct cluster *c)
{
    size_t size = 0;

    for (unsigned i = 0; c->placements != NULL && i < EXCEPTIONS_MAX; i++)
        size += c->placements[i].name_size > 0 ? ENCODED_FRONT + (size_t)c->placements[i].name_size : 0;
    return size;
}

void cluster_exceptions_write(const struct cluster *c, char *out)
{
    for (unsigned i = 0; c->placements != NULL && i < EXCEPTIONS_MAX; i++) {
        const struct placement *p = &c->placements[i];

        if (p->name_size == 0)
            continue;
        put_u16(out, (uint16_t)i);
        put_u16(out + 2, p->at);
        put_u16(out + 4, p->to);
        out[6] = (char)p->name_size;
        memcpy(out + ENCODED_FRONT, p->name, p->name_size);
        out += ENCODED_FRONT + p->name_size;
    }
}

bool cluster_exceptions_read(struct cluster *c, struct slice in)
{
    while (in.size > ENCODED_FRONT) {
        uint16_t place = get_u16(in.data), at = get_u16(in.data + 2), to = get_u16(in.data + 4);
        uint8_t size = (uint8_t)in.data[6];
        struct placement *p;

        if (place >= EXCEPTIONS_MAX || at >= c->table.node_count || to >= c->table.node_count || size == 0 ||
            size > USER_NAME_MAX || size > in.size - ENCODED_FRONT)
            return false;
        if (c->placements == NULL)
            c->placements = heap_zalloc(c->shard->heap, EXCEPTIONS_MAX * sizeof *c->placements);
        p = &c->placements[place];
        if (p->name_size > 0)
            return false;
        *p = (struct placement){.at = at, .to = to, .since = c->table.version, .name_size = size};
        memcpy(p->name, in.data + ENCODED_FRONT, size);
        in = slice_from(in, ENCODED_FRONT + (size_t)size);
    }
    return in.size == 0;
}

/* ---- What is on the disk ------------------------------------------------------------------------------- */

static void since_change(struct cluster *c, uint64_t from, uint64_t to)
{
    for (unsigned i = 0; c->placements != NULL && i < EXCEPTIONS_MAX; i++) {
        if (c->placements[i].name_size > 0 && c->placements[i].since == from)
            c->placements[i].since = to;
    }
}

void cluster_exceptions_saving(struct cluster *c)
{
    since_change(c, NOT_SAVED, c->table.version);
}

void cluster_exceptions_not_saved(struct cluster *c, uint64_t version)
{
    since_change(c, version, NOT_SAVED);
}

void cluster_exceptions_view(struct cluster *c)
{
    struct exceptions *view = &c->view.exceptions;

    memset(view, 0, sizeof *view);
    for (unsigned i = 0; c->placements != NULL && i < EXCEPTIONS_MAX; i++) {
        const struct placement *p = &c->placements[i];
        struct slice user = name_of(p);

        if (p->name_size > 0 && p->at != home_of(c, user))
            exceptions_put(view, i, partition_user(c->view.secret, user),
                           (uint16_t)partition_of(c->view.secret, user), p->at);
    }
}

/* ---- Backends ------------------------------------------------------------------------------------------ */

/* What that node is told of him. False: nothing. As long as it is not on the disk that he is to go, he is where he was. */
static bool concerns(const struct cluster *c, const struct placement *p, int node, enum exception_here *here)
{
    bool goes = on_its_way(p) && p->since != NOT_SAVED;
    int home = p->name_size > 0 ? home_of(c, name_of(p)) : -1;

    *here = p->at == node && !goes ? EXCEPTION_HERE : EXCEPTION_AWAY;
    return home >= 0 && (goes || p->at != home) && (p->at == node || home == node);
}

static void piece_send(struct member *m, struct member_placed *piece, bool last)
{
    struct link_frame *f = link_frame_new(MEMBER_PLACED_SIZE_MAX);

    piece->last = last;
    link_send(m->stream, f, member_placed_encode(piece, f->payload), 0);
    piece->first = false;
    piece->count = 0;
}

void cluster_exceptions_tell(struct cluster *c, struct member *m)
{
    struct member_placed piece = {.version = c->table.version, .first = true};

    if (m->stream == NULL || !m->placed_due || m->grant_due || link_credit(m->stream) <= 0)
        return;
    m->placed_due = false;
    for (unsigned i = 0; c->placements != NULL && i < EXCEPTIONS_MAX; i++) {
        enum exception_here here;

        if (!concerns(c, &c->placements[i], m->node, &here))
            continue;
        if (piece.count == MEMBER_PLACED_MAX)
            piece_send(m, &piece, false);
        piece.entries[piece.count].here = here;
        piece.entries[piece.count++].user = name_of(&c->placements[i]);
    }
    piece_send(m, &piece, true);
}

static bool refuses(const struct member_answer *a, uint64_t user)
{
    for (unsigned i = 0; i < a->refused_count; i++) {
        if (a->refused[i] == user)
            return true;
    }
    return false;
}

static void answer_take(struct cluster *c, struct member *m, struct placement *p)
{
    bool refused = refuses(&m->answer, partition_user(c->view.secret, name_of(p)));

    log_event(refused ? LOG_WARN : LOG_INFO, refused ? "a user stays where he is" : "a user is placed alone",
              "user=%s node=%s", log_quote(name_of(p)),
              log_quote(slice_str(c->table.nodes[refused ? p->at : p->to].name)));
    if (refused)
        p->to = p->at;
    else
        p->at = p->to;
    placement_settle(c, p);
}

void cluster_exceptions_settle(struct cluster *c)
{
    for (size_t k = 0; k < c->member_count; k++) {
        struct member *m = &c->members[k];

        for (unsigned i = 0; m->answered && m->node >= 0 && c->placements != NULL && i < EXCEPTIONS_MAX;
             i++) {
            struct placement *p = &c->placements[i];

            if (on_its_way(p) && p->at == m->node && p->since <= m->answer.version)
                answer_take(c, m, p);
        }
        m->answered = false;
    }
}

/* ---- Proxies ------------------------------------------------------------------------------------------- */

void cluster_exceptions_send(const struct cluster *c, struct reader *l)
{
    const struct exceptions *view = &c->view.exceptions;
    struct cluster_exceptions *piece;
    uint32_t at = 0;

    if (!l->named || c->table.node_count == 0 || l->exceptions_version == c->exceptions_version ||
        link_credit(l->stream) <= 0)
        return;
    piece = heap_zalloc(c->shard->heap, sizeof *piece);
    piece->version = c->exceptions_version;
    piece->first = true;
    do {
        struct link_frame *f = link_frame_new(CLUSTER_PIECE_HEADER + CLUSTER_EXCEPTIONS_SIZE_MAX);

        for (piece->count = 0; at < EXCEPTIONS_MAX && piece->count < CLUSTER_EXCEPTIONS_MAX; at++) {
            if (!view->entries[at].used)
                continue;
            piece->entries[piece->count].place = (uint16_t)at;
            piece->entries[piece->count++].exception = view->entries[at];
        }
        piece->last = at == EXCEPTIONS_MAX;
        put_u32(f->payload, CLUSTER_PIECE_EXCEPTIONS);
        put_u32(f->payload + 4, 0);
        link_send(l->stream, f,
                  CLUSTER_PIECE_HEADER + cluster_exceptions_encode(piece, f->payload + CLUSTER_PIECE_HEADER),
                  0);
        piece->first = false;
    } while (!piece->last);
    heap_free(c->shard->heap, piece);
    l->exceptions_version = c->exceptions_version;
}

/* ---- The operator --------------------------------------------------------------------------------------- */

static unsigned pending_count(const struct cluster *c)
{
    unsigned count = 0;

    for (unsigned i = 0; c->placements != NULL && i < EXCEPTIONS_MAX; i++)
        count += on_its_way(&c->placements[i]);
    return count;
}

/* Can he be served there? */
static bool takes_users(const struct cluster *c, uint16_t node)
{
    for (size_t i = 0; i < c->member_count; i++) {
        if (c->members[i].stream != NULL && c->members[i].node == node)
            return c->members[i].places;
    }
    return false;
}

static int place_begin(struct cluster *c, struct slice user, uint16_t to)
{
    struct placement *p = placement_find(c, user);
    uint16_t home = home_of(c, user);

    if (p == NULL ? to == home : p->to == to)
        return p == NULL ? -EALREADY : 0;
    if (to != home && !takes_users(c, to))
        return -EHOSTUNREACH;
    if ((p == NULL || !on_its_way(p)) && pending_count(c) >= PENDING_MAX)
        return -EBUSY;
    if (p == NULL) {
        p = placement_new(c, user);
        if (p == NULL)
            return -ENOSPC;
        p->at = home;
    }
    p->to = to;
    placement_settle(c, p);
    cluster_wake(c);
    return 0;
}

static void name_copy(const struct cluster *c, uint16_t node, char out[CONTROL_NAME])
{
    memcpy(out, c->table.nodes[node].name, CONTROL_NAME);
}

/* Index in the table; PARTITION_NOWHERE: there is none of that name. No name: where the hash says. */
static uint16_t node_named(const struct cluster *c, struct slice user, struct slice name)
{
    if (name.size == 0)
        return home_of(c, user);
    for (uint16_t i = 0; i < c->table.node_count; i++) {
        if (slice_eq(slice_str(c->table.nodes[i].name), name))
            return i;
    }
    return PARTITION_NOWHERE;
}

void director_control_place(struct control_place *place)
{
    struct cluster *c = cluster_self();
    const struct placement *p;
    uint16_t to;

    place->rc = c == NULL ? -ENOSYS : c->running && c->view.ready ? 0 : -EAGAIN;
    if (place->rc < 0)
        return;
    to = node_named(c, place->user, place->node);
    if (to == PARTITION_NOWHERE) {
        place->rc = -ENOENT;
        return;
    }
    if (place->begin)
        place->rc = place_begin(c, place->user, to);
    p = placement_find(c, place->user);
    place->done = (p != NULL ? p->at : home_of(c, place->user)) == to && !c->due && !c->placed && !c->working;
    place->refused = (p != NULL ? p->to : home_of(c, place->user)) != to;
    name_copy(c, p != NULL ? p->at : home_of(c, place->user), place->at);
}

void director_control_exceptions(struct control_exceptions *page)
{
    const struct cluster *c = cluster_self();

    page->here = c != NULL && c->running;
    page->count = 0;
    page->more = false;
    for (; page->here && c->placements != NULL && page->from < EXCEPTIONS_MAX; page->from++) {
        const struct placement *p = &c->placements[page->from];
        struct control_exception *row = &page->rows[page->count];

        if (p->name_size == 0)
            continue;
        if (page->count == CONTROL_ROWS) {
            page->more = true;
            return;
        }
        page->count++;
        row->user_size = p->name_size;
        memcpy(row->user, p->name, p->name_size);
        name_copy(c, p->at, row->at);
        name_copy(c, p->to, row->to);
    }
}

void cluster_exceptions_route(const struct cluster *c, struct control_route *route)
{
    const struct placement *p = placement_find(c, route->user);

    if (p == NULL)
        return;
    route->exception = true;
    name_copy(c, p->at, route->node);
    if (on_its_way(p))
        name_copy(c, p->to, route->to);
}
