/* core/sim/fault.c -- faults that last, faults by chance, and how they end. */
#include "core/sim/world.h"
#include <stdlib.h>

#define CHECK_NS          (100 * SIM_MS) /* How often the dead are counted. */
#define SLOW_NETWORK_MAX  100
#define SLOW_DISK_MAX     50
#define LASTS_MAX_NS      (8 * SIM_S)
#define CLOCK_JUMP_MAX_MS (20 * 24 * 3600 * 1000ll)
#define LIVES_MAX         500
#define AIM_DELAY_NS      (8 * SIM_MS)
#define AIM_CALLS_MAX     10
#define DOOM_CALLS_MAX    30
#define DOOM_DELAY_NS     (100 * SIM_US)

/* ---- Sites -------------------------------------------------------------------------------------------- */

static bool is_between(enum sim_fault fault)
{
    return fault == SIM_RESET || fault == SIM_HALF_OPEN || fault == SIM_PARTITION || fault == SIM_DELAY;
}

static bool site_fits(const struct sim_site *s, unsigned from, unsigned to, bool both)
{
    return s->both == both && ((s->from == from && s->to == to) || (both && s->from == to && s->to == from));
}

struct sim_hit sim_hit_node(const struct sim_node *n, enum sim_fault fault)
{
    const struct sim_world *w = n->world;
    struct sim_hit hit = {.fault = fault, .site = -1, .nodes = sim_node_bit(n)};

    for (unsigned k = 0; k < w->site_count && hit.site < 0; k++)
        if ((w->sites[k].faults >> fault & 1) &&
            (w->sites[k].name == NULL || w->sites[k].from == n->options.kind))
            hit.site = (int)k;
    return hit;
}

struct sim_hit sim_hit_pair(const struct sim_node *a, const struct sim_node *b, bool both,
                            enum sim_fault fault)
{
    const struct sim_world *w = a->world;
    struct sim_hit hit = {.fault = fault, .site = -1, .nodes = sim_node_bit(a) | sim_node_bit(b)};

    for (unsigned k = 0; k < w->site_count && hit.site < 0; k++)
        if ((w->sites[k].faults >> fault & 1) &&
            (w->sites[k].name == NULL || site_fits(&w->sites[k], a->options.kind, b->options.kind, both)))
            hit.site = (int)k;
    return hit;
}

/* ---- Links -------------------------------------------------------------------------------------------- */

void sim_partition(struct sim_node *a, struct sim_node *b, bool both)
{
    struct sim_hit hit = sim_hit_pair(a, b, both, SIM_PARTITION);
    struct sim_world *w = a->world;

    if (w->links[a->id][b->id].cut || w->links[b->id][a->id].cut)
        return;
    w->links[a->id][b->id].cut = true;
    w->links[b->id][a->id].cut = both;
    w->links[a->id][b->id].changes++;
    sim_lasting_begin(w, &hit);
}

unsigned sim_reach_changes(const struct sim_node *from, const struct sim_node *to)
{
    const struct sim_world *w = from->world;

    return w->links[from->id][to->id].changes + w->links[to->id][from->id].changes + to->changes;
}

bool sim_partitioned(const struct sim_node *from, const struct sim_node *to)
{
    return from->world->links[from->id][to->id].cut;
}

void sim_heal(struct sim_node *a, struct sim_node *b)
{
    struct sim_hit hit = sim_hit_pair(a, b, true, SIM_PARTITION);
    struct sim_world *w = a->world;

    if (!w->links[a->id][b->id].cut && !w->links[b->id][a->id].cut)
        return;
    w->links[a->id][b->id].cut = w->links[b->id][a->id].cut = false;
    w->links[a->id][b->id].changes++;
    sim_lasting_end(w, &hit);
    sim_net_links_changed(w);
}

bool sim_slowed(const struct sim_node *a, const struct sim_node *b)
{
    return a->world->links[a->id][b->id].factor > 1;
}

unsigned sim_link_strikes(const struct sim_node *a, const struct sim_node *b)
{
    return a->world->links[a->id][b->id].strikes + a->world->links[b->id][a->id].strikes;
}

void sim_slow_network(struct sim_node *a, struct sim_node *b, uint32_t factor)
{
    struct sim_hit hit = sim_hit_pair(a, b, true, SIM_DELAY);
    struct sim_world *w = a->world;
    bool was_slow = w->links[a->id][b->id].factor > 1;

    w->links[a->id][b->id].factor = w->links[b->id][a->id].factor = factor;
    w->links[a->id][b->id].strikes++;
    if (factor > 1 && !was_slow)
        sim_lasting_begin(w, &hit);
    if (factor == 1 && was_slow)
        sim_lasting_end(w, &hit);
}

void sim_clock_jump(struct sim_node *n, int64_t by_ms)
{
    struct sim_hit hit = sim_hit_node(n, SIM_CLOCK);

    n->wall_offset_ms += by_ms;
    n->clock_jumps++;
    sim_strike(n->world, &hit);
}

/* ---- What lasts, ends --------------------------------------------------------------------------------- */

struct lasting {
    struct list link;
    struct sim_event event;
    enum sim_fault fault;
    struct sim_node *a, *b;
};

static void lasting_end(enum sim_fault fault, struct sim_node *a, struct sim_node *b)
{
    switch (fault) {
    case SIM_PARTITION:
        sim_heal(a, b);
        break;
    case SIM_DELAY:
        sim_slow_network(a, b, 1);
        break;
    case SIM_FULL:
        sim_disk_full(a, false);
        break;
    case SIM_SLOW_DISK:
        sim_disk_slow(a, 1);
        break;
    case SIM_STOP:
        sim_node_thaw(a);
        break;
    default: /* An error that has not struck by now will not. */
        sim_disk_errors(a, fault, 0);
        break;
    }
}

static void lasting_fire(struct sim_event *e)
{
    struct lasting *l = CONTAINER_OF(e, struct lasting, event);

    lasting_end(l->fault, l->a, l->b);
    list_remove(&l->link);
    free(l);
}

static void lasting_begin(struct sim_world *w, enum sim_fault fault, struct sim_node *a, struct sim_node *b)
{
    struct lasting *l = malloc(sizeof *l);

    ASSERT(l != NULL);
    *l = (struct lasting){.event.fire = lasting_fire, .fault = fault, .a = a, .b = b};
    list_push_back(&w->nemesis.lasting, &l->link);
    sim_event_after(&l->event, sim_random_range(&w->nemesis_random, 10 * SIM_MS, LASTS_MAX_NS));
}

void sim_nemesis_fini(struct sim_world *w)
{
    list_each_safe(l, &w->nemesis.lasting) free(CONTAINER_OF(l, struct lasting, link));
}

/* ---- Deaths ------------------------------------------------------------------------------------------- */

_Static_assert(SIM_KILL == 0 && SIM_REORDERED == 4, "the first faults end a node");

static bool is_death(enum sim_fault fault)
{
    return fault <= SIM_REORDERED;
}

/* What a power failure does to the disk. */
static bool is_outcome(enum sim_fault fault)
{
    return fault >= SIM_LOST && fault <= SIM_REORDERED;
}

static void die(struct sim_node *n, enum sim_fault fault)
{
    struct sim_hit hit = sim_hit_node(n, SIM_KILL);

    if (fault != SIM_KILL) {
        sim_node_power_toward(n, fault);
        return;
    }
    sim_strike(n->world, &hit);
    sim_node_kill(n);
}

static void doom_fire(struct sim_event *e)
{
    struct sim_node *n = CONTAINER_OF(e, struct sim_node, doom);

    die(n, n->doom_fault);
}

void sim_node_doom(struct sim_node *n, enum sim_fault fault, unsigned file_operations)
{
    ASSERT(is_death(fault));
    n->doom_fault = fault;
    n->doom_calls = file_operations;
    n->doom.fire = doom_fire;
}

static void doom_count(struct sim_node *n)
{
    if (n->doom_calls > 0 && --n->doom_calls == 0)
        sim_event_after(&n->doom, sim_random_below(&n->world->nemesis_random, DOOM_DELAY_NS));
}

/* ---- Strikes ------------------------------------------------------------------------------------------ */

/* A node of that kind (where sites are told apart) that is no client, runs, and takes part in `o` (NULL: in anything). NULL:
 * there is none. */
static struct sim_node *victim(struct sim_world *w, const struct sim_site *s, unsigned kind,
                               const struct sim_operation *o)
{
    struct sim_node *found = NULL;
    uint64_t seen = 0;

    for (unsigned k = 0; k < w->node_count; k++) {
        struct sim_node *n = w->nodes[k];

        if (n->options.client || !n->up || (s->name != NULL && n->options.kind != kind) ||
            (o != NULL && !sim_takes_part(o, sim_node_bit(n))))
            continue;
        if (sim_random_one_in(&w->nemesis_random, ++seen))
            found = n;
    }
    return found;
}

/* Another node than `n`: where sites are not told apart, a client too. */
static struct sim_node *other(struct sim_world *w, const struct sim_site *s, const struct sim_node *n,
                              const struct sim_operation *o)
{
    unsigned k;

    if (s->name != NULL)
        return victim(w, s, s->to, o);
    if (w->node_count < 2)
        return NULL;
    k = (unsigned)sim_random_below(&w->nemesis_random, w->node_count - 1);
    return w->nodes[k >= n->id ? k + 1 : k];
}

static void strike_partition(struct sim_world *w, const struct sim_site *s, struct sim_node *n,
                             struct sim_node *o)
{
    struct sim_random *r = &w->nemesis_random;

    if (s->name != NULL)
        sim_partition(n, o, s->both);
    else if (sim_random_one_in(r, 2))
        sim_partition(n, o, true);
    else if (sim_random_one_in(r, 2))
        sim_partition(n, o, false);
    else
        sim_partition(o, n, false);
}

static void strike_between(struct sim_world *w, enum sim_fault fault, const struct sim_site *s,
                           const struct sim_operation *operation)
{
    struct sim_random *r = &w->nemesis_random;
    bool named = s->name != NULL;
    struct sim_node *n = victim(w, s, s->from, operation);
    struct sim_node *o = n != NULL ? other(w, s, n, operation) : NULL;
    uint64_t connection = operation != NULL && !named ? operation->connection : 0;

    if (o == NULL)
        return;
    switch (fault) {
    case SIM_RESET:
        (void)sim_reset(w, named ? n : NULL, o, connection);
        break;
    case SIM_HALF_OPEN:
        (void)sim_half_open(w, named ? n : NULL, o, connection);
        break;
    case SIM_DELAY:
        sim_slow_network(n, o, (uint32_t)sim_random_range(r, 10, SLOW_NETWORK_MAX));
        lasting_begin(w, fault, n, o);
        break;
    default:
        strike_partition(w, s, n, o);
        lasting_begin(w, fault, n, o);
        break;
    }
}

static void strike_disk(struct sim_world *w, enum sim_fault fault, struct sim_node *n)
{
    struct sim_random *r = &w->nemesis_random;

    if (fault == SIM_FULL)
        sim_disk_full(n, true);
    else if (fault == SIM_SLOW_DISK)
        sim_disk_slow(n, (uint32_t)sim_random_range(r, 10, SLOW_DISK_MAX));
    else
        sim_disk_errors(n, fault, (unsigned)sim_random_range(r, 1, 3));
    lasting_begin(w, fault, n, NULL);
}

static void strike_clock(struct sim_world *w, struct sim_node *n)
{
    struct sim_random *r = &w->nemesis_random;
    int64_t by_ms = (int64_t)sim_random_below(r, 2 * CLOCK_JUMP_MAX_MS) - CLOCK_JUMP_MAX_MS;

    sim_clock_jump(n, sim_random_one_in(r, 2) ? by_ms / 10000 : by_ms);
}

/* `operation` is outstanding; NULL: nobody's matters. */
static void strike_node(struct sim_world *w, enum sim_fault fault, struct sim_node *n,
                        const struct sim_operation *operation)
{
    struct sim_random *r = &w->nemesis_random;

    switch (fault) {
    case SIM_KILL:
    case SIM_POWER:
    case SIM_LOST:
    case SIM_TORN:
    case SIM_REORDERED:
        if (operation != NULL || sim_random_one_in(r, 4))
            die(n, fault);
        else
            sim_node_doom(n, fault, (unsigned)sim_random_range(r, 1, DOOM_CALLS_MAX));
        break;
    case SIM_STOP:
        if (n->frozen)
            return;
        sim_node_freeze(n);
        lasting_begin(w, fault, n, NULL);
        break;
    case SIM_ROT:
        (void)sim_rot(n);
        break;
    case SIM_CLOCK:
        strike_clock(w, n);
        break;
    default:
        strike_disk(w, fault, n);
        break;
    }
}

static void strike(struct sim_world *w, enum sim_fault fault, unsigned site,
                   const struct sim_operation *operation)
{
    const struct sim_site *s = &w->sites[site];
    struct sim_node *n;

    w->nemesis.aims[site][fault].set = false;
    if (is_between(fault)) {
        strike_between(w, fault, s, operation);
        return;
    }
    n = victim(w, s, s->from, operation);
    if (n != NULL)
        strike_node(w, fault, n, operation);
}

/* ---- Aims --------------------------------------------------------------------------------------------- */

/* Of that kind, in which these nodes take part. */
static const struct sim_operation *outstanding(const struct sim_world *w, unsigned kind, uint32_t nodes)
{
    list_each(l, &w->operations)
    {
        const struct sim_operation *o = CONTAINER_OF(l, struct sim_operation, link);

        if (o->kind == kind && sim_takes_part(o, nodes) && sim_outstanding(w, o))
            return o;
    }
    return NULL;
}

/* The aim of that fault at this node's disk. NULL: there is none. */
static struct sim_aim *disk_aim(const struct sim_node *n, enum sim_fault fault)
{
    struct sim_hit hit = sim_hit_node(n, fault);
    struct sim_aim *a = hit.site >= 0 ? &n->world->nemesis.aims[hit.site][fault] : NULL;

    return a != NULL && a->set && a->node == n ? a : NULL;
}

bool sim_aim_waits(const struct sim_node *n, enum sim_fault fault)
{
    const struct sim_aim *a = disk_aim(n, fault);

    return a != NULL && outstanding(n->world, a->kind, sim_node_bit(n)) == NULL;
}

void sim_aim_struck(struct sim_node *n, enum sim_fault fault)
{
    struct sim_aim *a = disk_aim(n, fault);

    if (a != NULL)
        a->set = false;
}

bool sim_aim_fills(const struct sim_node *n)
{
    return disk_aim(n, SIM_FULL) != NULL && !sim_aim_waits(n, SIM_FULL);
}

void sim_aim_filled(struct sim_node *n)
{
    sim_aim_struck(n, SIM_FULL);
    sim_disk_full(n, true);
    lasting_begin(n->world, SIM_FULL, n, NULL);
}

/* These strike when a call of the disk meets them. */
static bool is_of_calls(enum sim_fault fault)
{
    return fault >= SIM_READ_ERROR && fault <= SIM_FULL;
}

/* Of the kinds of operations that there are, one that the fault has met least there in this world. */
static unsigned kind_least_met(struct sim_world *w, enum sim_fault fault, unsigned site)
{
    uint32_t least = UINT32_MAX;
    uint64_t seen = 0;
    unsigned found = 0;

    for (unsigned k = 0; k < SIM_OPERATIONS_MAX; k++) {
        uint32_t met = w->met[site][fault][k];

        if (!(w->nemesis.kinds_seen >> k & 1) || met > least)
            continue;
        if (met < least)
            seen = 0;
        least = met;
        if (sim_random_one_in(&w->nemesis_random, ++seen))
            found = k;
    }
    return found;
}

static void aim(struct sim_world *w, enum sim_fault fault, unsigned site)
{
    struct sim_aim *a = &w->nemesis.aims[site][fault];
    struct sim_random *r = &w->nemesis_random;

    a->node = victim(w, &w->sites[site], w->sites[site].from, NULL);
    if (a->node == NULL)
        return;
    a->set = true;
    a->kind = kind_least_met(w, fault, site);
    /* An outcome needs something that was just written. */
    a->at_disk = is_outcome(fault) || (is_death(fault) && sim_random_one_in(r, 2));
    a->calls = is_outcome(fault) ? 1 : (unsigned)sim_random_range(r, 1, AIM_CALLS_MAX);
    if (is_of_calls(fault) && fault != SIM_FULL)
        sim_disk_errors(a->node, fault, (unsigned)sim_random_range(r, 1, 3));
}

/* The operation may have ended since: then the next one is waited for. */
static void aim_fire(struct sim_event *e)
{
    struct sim_aim *a = CONTAINER_OF(e, struct sim_aim, strike);
    struct sim_world *w = sim_world_current();
    const struct sim_operation *o = outstanding(w, a->kind, 0);

    if (a->set && o != NULL && w->nemesis.active)
        strike(w, a->fault, a->site, o);
}

void sim_nemesis_see(struct sim_world *w, const struct sim_operation *o)
{
    struct sim_random *r = &w->nemesis_random;

    w->nemesis.kinds_seen |= 1u << o->kind;
    for (unsigned k = 0; k < w->site_count * SIM_FAULT_COUNT; k++) {
        struct sim_aim *a = &w->nemesis.aims[k / SIM_FAULT_COUNT][k % SIM_FAULT_COUNT];

        if (!a->set || a->kind != o->kind || a->at_disk || is_of_calls(a->fault) ||
            sim_event_armed(&a->strike))
            continue;
        /* Most often soon: many operations are short. */
        sim_event_after(&a->strike, sim_random_below(r, sim_random_range(r, 1, AIM_DELAY_NS)));
    }
}

/* `written`: a sector is whole or not there, so what is to be torn is larger. */
static bool aim_fits(const struct sim_aim *a, const struct sim_node *n, size_t written)
{
    if (!a->set || !a->at_disk || sim_event_armed(&a->strike))
        return false;
    if (is_outcome(a->fault) && written <= (a->fault == SIM_LOST ? 0 : SIM_SECTOR_SIZE))
        return false;
    return outstanding(n->world, a->kind, sim_node_bit(n)) != NULL;
}

void sim_nemesis_file(struct sim_node *n, size_t written)
{
    doom_count(n);
    for (unsigned f = 0; is_death((enum sim_fault)f); f++) {
        struct sim_hit hit = sim_hit_node(n, (enum sim_fault)f);
        struct sim_aim *a = hit.site >= 0 ? &n->world->nemesis.aims[hit.site][f] : NULL;

        if (a != NULL && aim_fits(a, n, written) && --a->calls == 0) {
            a->calls = 1;
            sim_event_after(&a->strike, sim_random_below(&n->world->nemesis_random, DOOM_DELAY_NS));
        }
    }
}

/* ---- By chance ---------------------------------------------------------------------------------------- */

/* One of all faults at all sites. */
static void strike_any(struct sim_world *w)
{
    struct sim_nemesis *m = &w->nemesis;
    struct sim_random *r = &w->nemesis_random;
    unsigned site, fault;

    do {
        unsigned at = (unsigned)sim_random_below(r, w->site_count * SIM_FAULT_COUNT);

        site = at / SIM_FAULT_COUNT;
        fault = at % SIM_FAULT_COUNT;
    } while (!(m->options.faults & w->sites[site].faults & (1u << fault)));
    if (m->kinds_seen != 0 && (is_outcome((enum sim_fault)fault) || !sim_random_one_in(r, 3)))
        aim(w, (enum sim_fault)fault, site);
    else
        strike(w, (enum sim_fault)fault, site, NULL);
}

static void restart_dead(struct sim_world *w)
{
    for (unsigned k = 0; k < w->node_count; k++) {
        struct sim_node *n = w->nodes[k];

        if (n->options.client || n->up || sim_event_armed(&n->restart) || n->lives >= LIVES_MAX)
            continue;
        if (n->error != 0 && n->disk_faults == 0)
            sim_violation(w, "node %s did not start: %d, and its disk had no fault", n->options.name,
                          n->error);
        sim_node_restart_after(n, sim_random_below(&w->nemesis_random, w->nemesis.options.restart_ns));
    }
}

static void end_all(struct sim_world *w)
{
    for (unsigned k = 0; k < w->site_count * SIM_FAULT_COUNT; k++)
        w->nemesis.aims[k / SIM_FAULT_COUNT][k % SIM_FAULT_COUNT].set = false;
    for (unsigned k = 0; k < w->node_count; k++) {
        sim_node_thaw(w->nodes[k]);
        sim_event_cancel(&w->nodes[k]->doom);
        w->nodes[k]->doom_calls = 0;
        for (unsigned f = SIM_READ_ERROR; f <= SIM_FLUSH_ERROR; f++)
            sim_disk_errors(w->nodes[k], (enum sim_fault)f, 0);
        sim_disk_full(w->nodes[k], false);
        sim_disk_slow(w->nodes[k], 1);
        for (unsigned o = 0; o < w->node_count; o++) {
            sim_heal(w->nodes[k], w->nodes[o]);
            sim_slow_network(w->nodes[k], w->nodes[o], 1);
        }
    }
}

static void nemesis_fire(struct sim_event *e)
{
    struct sim_world *w = CONTAINER_OF(e, struct sim_world, nemesis.strike);
    struct sim_nemesis *m = &w->nemesis;

    restart_dead(w);
    if (w->now_ns >= m->options.until_ns) {
        if (m->active)
            end_all(w);
        m->active = false;
        sim_event_after(e, CHECK_NS);
        return;
    }
    if (sim_random_below(&w->nemesis_random, m->options.mean_ns) < CHECK_NS)
        strike_any(w);
    sim_event_after(e, sim_random_range(&w->nemesis_random, 1, 2 * MIN(CHECK_NS, m->options.mean_ns)));
}

void sim_nemesis_start(struct sim_world *w, const struct sim_nemesis_options *options)
{
    const uint32_t outcomes = 1u << SIM_LOST | 1u << SIM_TORN | 1u << SIM_REORDERED; /* Of SIM_POWER. */
    struct sim_nemesis *m = &w->nemesis;

    m->options = *options;
    m->options.faults &= ((1u << SIM_FAULT_COUNT) - 1) & ~m->forbidden;
    if (!(m->options.faults & 1u << SIM_POWER))
        m->options.faults &= ~outcomes;
    m->active = true;
    if (m->options.faults == 0)
        m->options.until_ns = w->now_ns;
    m->strike.fire = nemesis_fire;
    if (options->sites != NULL) {
        w->sites = options->sites;
        w->site_count = options->site_count;
    }
    ASSERT(w->site_count <= SIM_SITES_MAX);
    for (unsigned s = 0; s < w->site_count; s++)
        for (unsigned f = 0; f < SIM_FAULT_COUNT; f++)
            m->aims[s][f] = (struct sim_aim){.fault = (enum sim_fault)f, .site = s, .strike.fire = aim_fire};
    sim_event_after(&m->strike, CHECK_NS);
}

void sim_forbid(struct sim_world *w, uint32_t faults)
{
    w->nemesis.forbidden |= faults;
}

bool sim_calm(const struct sim_world *w)
{
    if (!list_empty(&w->lasting) || w->nemesis.active)
        return false;
    for (unsigned k = 0; k < w->node_count; k++)
        if (!sim_node_ready(w->nodes[k]))
            return false;
    return true;
}

uint64_t sim_quiet_since_ns(const struct sim_world *w)
{
    if (!list_empty(&w->lasting))
        return UINT64_MAX;
    for (unsigned k = 0; k < w->node_count; k++)
        if (!sim_node_ready(w->nodes[k]) || w->nodes[k]->disk_is_full)
            return UINT64_MAX;
    return w->struck_ns;
}
