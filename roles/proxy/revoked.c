#include "roles/proxy/revoked.h"
#include "core/io.h"
#include "roles/proxy/proxy.h"
#include "roles/proxy/session.h"
#include "roles/ticket.h"

#define STEP_VISITS 4096 /* Sessions looked at in one turn. */
#define STEP_WAKES  256  /* Sleepers of named users ended in one. */
#define RETRY_MS    100  /* While they are frozen. */

/* ---- Names --------------------------------------------------------------------------------------------- */

bool revoked_is(const struct proxy *p, struct slice user, const struct ticket *ticket)
{
    const struct revocations *known = p->revoked.known;
    uint64_t generation = ticket_generation(ticket);

    if (known == NULL || generation >= known->generation)
        return false;
    return (p->route.alone && generation < known->floor) ||
           revocations_name(known, users_hash(&p->users, user), generation);
}

/* ---- The walk ------------------------------------------------------------------------------------------ */

static bool sleeper_is_revoked(const struct proxy *p, struct slice user, const struct packed *packed)
{
    return revoked_is(p, user, &packed->ticket);
}

/* All of them, a step further. False: that was not all. */
static bool sleepers_end_all(struct proxy *p)
{
    struct revoked *r = &p->revoked;

    for (unsigned visits = 0; visits < STEP_VISITS; visits++) {
        uint32_t id = sleepers_next(&p->sleepers, r->sleeper);
        struct packed packed;
        bool is;

        r->sleeper = id == RECORD_NONE ? 0 : id + 1;
        if (id == RECORD_NONE)
            return true;
        sleepers_look(&p->sleepers, id, &packed);
        is = sleepers_user(&p->sleepers, id).size > 0 &&
             revoked_is(p, sleepers_user(&p->sleepers, id), &packed.ticket);
        bytes_wipe(&packed, sizeof packed);
        if (is)
            sleepers_kick(&p->sleepers, id);
    }
    return false;
}

/* False: there may be more. */
static bool sleepers_end(struct proxy *p)
{
    const struct revoked *r = &p->revoked;
    unsigned left = STEP_WAKES;

    if (p->route.alone && r->known->floor > r->done)
        return sleepers_end_all(p);
    for (uint32_t i = revocations_after(r->known, r->done); i < r->known->count; i++) {
        uint64_t hash = r->known->entries[i].user;

        for (uint32_t id = users_named(&p->users, hash, RECORD_NONE), next; id != RECORD_NONE; id = next) {
            next = users_named(&p->users, hash, id);
            left -= sleepers_kick_user(&p->sleepers, id, left, sleeper_is_revoked);
            if (left == 0)
                return false;
        }
    }
    return true;
}

static void sessions_end(struct proxy *p)
{
    struct revoked *r = &p->revoked;

    for (unsigned visits = 0; r->at != &p->session_list && visits < STEP_VISITS; visits++) {
        struct session *s = CONTAINER_OF(r->at, struct session, link);

        r->at = r->at->next;
        if (s->user_size > 0 && revoked_is(p, session_user(s), &s->ticket))
            session_kick(s);
    }
}

static void on_step(struct timer *timer)
{
    struct revoked *r = CONTAINER_OF(timer, struct revoked, step);
    struct proxy *p = CONTAINER_OF(r, struct proxy, revoked);

    if (p->sleepers.frozen) { /* If it thaws. Otherwise the process that they move to asks for all. */
        timer_set(&r->step, RETRY_MS);
        return;
    }
    if (r->at == NULL) {
        r->until = r->known->generation;
        if (!sleepers_end(p)) {
            timer_set(&r->step, 0);
            return;
        }
        r->at = p->session_list.next;
    }
    sessions_end(p);
    if (r->at == &p->session_list) {
        r->at = NULL;
        r->done = r->until;
    }
    if (r->done < r->known->generation)
        timer_set(&r->step, 0);
}

static void walk_soon(struct revoked *r)
{
    if (r->done < r->known->generation && !timer_armed(&r->step))
        timer_set(&r->step, 0);
}

void revoked_leave(struct proxy *p, const struct list *link)
{
    if (p->revoked.at == link)
        p->revoked.at = link->next;
}

/* ---- What a director says ------------------------------------------------------------------------------ */

static struct revocations *known_get(struct proxy *p)
{
    if (p->revoked.known == NULL)
        p->revoked.known = heap_zalloc(p->heap, sizeof *p->revoked.known);
    return p->revoked.known;
}

void revoked_take(struct proxy *p, const struct member_revoked *piece)
{
    struct revocations *known = known_get(p);

    if (piece->all) {
        memset(known, 0, sizeof *known);
        p->revoked.done = 0;
    }
    for (unsigned i = 0; i < piece->count; i++) {
        if (piece->entries[i].generation > known->generation)
            revocations_add(known, piece->entries[i].user, piece->entries[i].generation);
    }
    if (piece->last)
        walk_soon(&p->revoked);
}

uint64_t revoked_generation(const struct proxy *p)
{
    return p->revoked.known != NULL ? p->revoked.known->generation : 0;
}

void revoked_take_all(struct proxy *p, const struct revocations *all)
{
    *known_get(p) = *all;
    walk_soon(&p->revoked);
}

/* ---- Start and stop ------------------------------------------------------------------------------------ */

void revoked_init(struct proxy *p)
{
    timer_init(&p->revoked.step, on_step);
}

void revoked_fini(struct proxy *p)
{
    timer_cancel(&p->revoked.step);
    heap_free(p->heap, p->revoked.known);
}
