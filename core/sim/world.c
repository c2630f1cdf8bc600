/* core/sim/world.c -- time, the trace, the counters. */
#define XXH_INLINE_ALL
#include "core/sim/world.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

static struct sim_world *current;

struct sim_world *sim_world_current(void)
{
    ASSERT(current != NULL);
    return current;
}

/* ---- Events ------------------------------------------------------------------------------------------- */

static bool earlier(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void heap_put(struct sim_world *w, size_t place, struct sim_event *e)
{
    w->heap[place] = e;
    e->place = place;
}

static void heap_up(struct sim_world *w, struct sim_event *e, size_t place)
{
    for (; place > 1 && earlier(e, w->heap[place / 2]); place /= 2)
        heap_put(w, place, w->heap[place / 2]);
    heap_put(w, place, e);
}

static void heap_down(struct sim_world *w, struct sim_event *e, size_t place)
{
    for (size_t child; (child = place * 2) <= w->event_count; place = child) {
        if (child < w->event_count && earlier(w->heap[child + 1], w->heap[child]))
            child++;
        if (!earlier(w->heap[child], e))
            break;
        heap_put(w, place, w->heap[child]);
    }
    heap_put(w, place, e);
}

void sim_event_cancel(struct sim_event *e)
{
    struct sim_world *w = current;
    size_t place = e->place;
    struct sim_event *last;

    if (place == 0)
        return;
    e->place = 0;
    last = w->heap[w->event_count--];
    if (last == e)
        return;
    heap_up(w, last, place);
    heap_down(w, last, last->place);
}

/* Events of the same instant come in an order that the seed chooses. */
void sim_event_set(struct sim_event *e, uint64_t at_ns)
{
    struct sim_world *w = current;

    sim_event_cancel(e);
    e->at_ns = MAX(at_ns, w->now_ns);
    e->order = (sim_random_u64(&w->random) << 40) | (w->order++ & ((1ull << 40) - 1));
    if (w->event_count + 2 > w->event_capacity) {
        w->event_capacity = w->event_capacity * 2 + 256;
        w->heap = realloc(w->heap, w->event_capacity * sizeof(struct sim_event *));
        ASSERT(w->heap != NULL);
    }
    heap_up(w, e, ++w->event_count);
}

void sim_event_after(struct sim_event *e, uint64_t delay_ns)
{
    sim_event_set(e, current->now_ns + delay_ns);
}

bool sim_run(struct sim_world *w, uint64_t time_ns, bool (*until)(void *arg), void *arg)
{
    while (w->event_count > 0 && w->heap[1]->at_ns <= time_ns && w->violation_count == 0) {
        struct sim_event *e = w->heap[1];

        w->now_ns = e->at_ns;
        sim_event_cancel(e);
        w->counters->events++;
        e->fire(e);
        if (until != NULL && until(arg))
            return true;
    }
    if (w->violation_count == 0)
        w->now_ns = MAX(w->now_ns, time_ns);
    return false;
}

struct after {
    struct list link;
    struct sim_event event;
    void (*fire)(void *arg);
    void *arg;
};

static void after_fire(struct sim_event *e)
{
    struct after *a = CONTAINER_OF(e, struct after, event);
    struct after copy = *a;

    list_remove(&a->link);
    free(a);
    copy.fire(copy.arg);
}

void sim_after(struct sim_world *w, uint64_t delay_ns, void (*fire)(void *arg), void *arg)
{
    struct after *a = calloc(1, sizeof *a);

    ASSERT(a != NULL);
    *a = (struct after){.event.fire = after_fire, .fire = fire, .arg = arg};
    list_push_back(&w->timers, &a->link);
    sim_event_after(&a->event, delay_ns);
}

void sim_smooth_network(struct sim_world *w)
{
    w->smooth = true;
}

void sim_memory(const struct sim_world *w, struct sim_memory *out)
{
    *out = (struct sim_memory){.network = sim_net_memory(w)};
    for (unsigned k = 0; k < w->node_count; k++)
        out->disks += sim_disk_memory(&w->nodes[k]->disk);
}

/* ---- The trace ---------------------------------------------------------------------------------------- */

static const char *const trace_names[TRACE_KIND_COUNT] = {
    "turn",   "listen", "accept", "connect",   "poll",   "recv",   "send",    "shutdown", "close",
    "cancel", "done",   "file",   "file-done", "random", "helper", "message", "node",     "fault",
};

void sim_trace(enum sim_trace_kind kind, unsigned node, unsigned shard, uint64_t a, uint64_t b, uint64_t c)
{
    struct sim_world *w = current;
    uint64_t words[6] = {w->now_ns, (uint64_t)kind << 32 | node << 16 | shard, a, b, c, 0};

    w->hash = XXH64(words, sizeof words, w->hash);
    if (w->trace_fd >= 0)
        dprintf(w->trace_fd, "%llu.%09llu %u.%u %s %llx %llx %llx\n", (unsigned long long)(w->now_ns / SIM_S),
                (unsigned long long)(w->now_ns % SIM_S), node, shard, trace_names[kind],
                (unsigned long long)a, (unsigned long long)b, (unsigned long long)c);
}

void sim_trace_shard(enum sim_trace_kind kind, uint64_t a, uint64_t b, uint64_t c)
{
    struct shard_private *p = sim_private();

    sim_trace(kind, p->node->id, p->shard->index, a, b, c);
}

void sim_trace_to(struct sim_world *w, int fd)
{
    w->trace_fd = fd;
}

void sim_story_to(struct sim_world *w, int fd)
{
    w->story_fd = fd;
}

void sim_tell(struct sim_world *w, const char *format, ...)
{
    char text[256];
    va_list args;

    if (w->story_fd < 0)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    dprintf(w->story_fd, "%llu.%06llu ## %s\n", (unsigned long long)(w->now_ns / SIM_S),
            (unsigned long long)(w->now_ns % SIM_S / 1000), text);
}

/* ---- Counters ----------------------------------------------------------------------------------------- */

static const char *const fault_names[] = {
#define X(name, text) text,
    SIM_FAULTS(X)
#undef X
};

const char *sim_fault_name(enum sim_fault fault)
{
    return fault_names[fault];
}

bool sim_outstanding(const struct sim_world *w, const struct sim_operation *o)
{
    return o->connection == 0 || sim_net_lives(w, o->connection);
}

bool sim_takes_part(const struct sim_operation *o, uint32_t nodes)
{
    return o->nodes == 0 || (nodes & ~o->nodes) == 0;
}

uint32_t sim_outstanding_kinds(const struct sim_world *w, const struct sim_hit *hit)
{
    uint32_t kinds = 0;

    list_each(l, &w->operations)
    {
        const struct sim_operation *o = CONTAINER_OF(l, struct sim_operation, link);

        if (sim_takes_part(o, hit->nodes) && (hit->connection == 0 || hit->connection == o->connection) &&
            sim_outstanding(w, o))
            kinds |= 1u << o->kind;
    }
    return kinds;
}

/* "partition, p0 b1": whom it struck. */
static void tell_hit(struct sim_world *w, const char *what, const struct sim_hit *hit)
{
    char names[128] = "";

    for (unsigned k = 0; k < w->node_count; k++)
        if (hit->nodes >> k & 1)
            snprintf(names + strlen(names), sizeof names - strlen(names), " %s", w->nodes[k]->options.name);
    sim_tell(w, "%s%s,%s", what, sim_fault_name(hit->fault), names);
}

/* Once for each kind that is outstanding. */
void sim_strike_kinds(struct sim_world *w, const struct sim_hit *hit, uint32_t kinds)
{
    sim_trace(TRACE_FAULT, 0, 0, hit->fault, hit->connection, hit->nodes);
    tell_hit(w, "", hit);
    w->struck_ns = w->now_ns;
    if (hit->site < 0)
        return;
    w->counters->struck[hit->site][hit->fault]++;
    for (unsigned k = 0; k < SIM_OPERATIONS_MAX; k++)
        w->met[hit->site][hit->fault][k] += kinds >> k & 1;
}

void sim_strike(struct sim_world *w, const struct sim_hit *hit)
{
    sim_strike_kinds(w, hit, sim_outstanding_kinds(w, hit));
}

struct lasting_hit {
    struct list link;
    struct sim_hit hit;
};

void sim_lasting_begin(struct sim_world *w, const struct sim_hit *hit)
{
    struct lasting_hit *l = calloc(1, sizeof *l);

    ASSERT(l != NULL);
    sim_strike(w, hit);
    l->hit = *hit;
    list_push_back(&w->lasting, &l->link);
}

void sim_lasting_end(struct sim_world *w, const struct sim_hit *hit)
{
    list_each_safe(it, &w->lasting)
    {
        struct lasting_hit *l = CONTAINER_OF(it, struct lasting_hit, link);

        if (l->hit.fault != hit->fault || l->hit.nodes != hit->nodes)
            continue;
        tell_hit(w, "end of ", hit);
        w->struck_ns = w->now_ns;
        list_remove(&l->link);
        free(l);
        return;
    }
    ASSERT(!"a fault ends that has begun");
}

/* What lasts meets it, each once. */
static void lasting_meet(struct sim_world *w, const struct sim_operation *o)
{
    uint32_t met[SIM_SITES_MAX] = {0};

    list_each(it, &w->lasting)
    {
        const struct sim_hit *hit = &CONTAINER_OF(it, struct lasting_hit, link)->hit;

        if (hit->site < 0 || !sim_takes_part(o, hit->nodes) || (met[hit->site] >> hit->fault & 1))
            continue;
        met[hit->site] |= 1u << hit->fault;
        w->met[hit->site][hit->fault][o->kind]++;
    }
}

void sim_operation_begin_at(struct sim_operation *o, unsigned kind, struct sock sock, uint32_t nodes)
{
    struct sim_world *w = current;

    ASSERT(kind < SIM_OPERATIONS_MAX);
    o->kind = kind;
    o->nodes = nodes;
    o->connection = sock_valid(sock) ? sim_net_connection(sim_private(), sock) : 0;
    list_push_back(&w->operations, &o->link);
    w->counters->operations[kind]++;
    if (!sim_outstanding(w, o))
        return;
    lasting_meet(w, o);
    sim_nemesis_see(w, o);
}

void sim_operation_begin(struct sim_operation *o, unsigned kind, struct sock sock)
{
    sim_operation_begin_at(o, kind, sock, 0);
}

void sim_operation_end(struct sim_operation *o)
{
    list_remove(&o->link);
}

void sim_violation(struct sim_world *w, const char *format, ...)
{
    va_list args;

    if (w->violation_count == SIM_VIOLATIONS_MAX)
        return;
    va_start(args, format);
    if (vasprintf(&w->violations[w->violation_count], format, args) < 0)
        abort();
    va_end(args);
    w->violation_count++;
}

unsigned sim_violation_count(const struct sim_world *w)
{
    return w->violation_count;
}

const char *sim_violation_text(const struct sim_world *w, unsigned index)
{
    ASSERT(index < w->violation_count);
    return w->violations[index];
}

/* ---- Life --------------------------------------------------------------------------------------------- */

enum stream { STREAM_WORLD, STREAM_SCENARIO, STREAM_NEMESIS };

static const struct sim_site anywhere = {.faults = UINT32_MAX};

struct sim_world *sim_world_new(uint64_t seed, struct sim_counters *counters)
{
    struct sim_world *w = calloc(1, sizeof *w);

    ASSERT(w != NULL && current == NULL);
    current = w;
    w->seed = seed;
    w->hash = seed;
    w->counters = counters;
    w->trace_fd = w->story_fd = -1;
    w->now_ns = SIM_S;
    w->next_connection = 1;
    w->next_port = 32768;
    sim_random_init(&w->random, seed, STREAM_WORLD);
    sim_random_init(&w->scenario_random, seed, STREAM_SCENARIO);
    sim_random_init(&w->nemesis_random, seed, STREAM_NEMESIS);
    list_init(&w->connections);
    list_init(&w->listeners);
    list_init(&w->operations);
    list_init(&w->timers);
    list_init(&w->lasting);
    list_init(&w->nemesis.lasting);
    w->sites = &anywhere;
    w->site_count = 1;
    return w;
}

uint64_t sim_now_ns(const struct sim_world *w)
{
    return w->now_ns;
}

uint64_t sim_seed(const struct sim_world *w)
{
    return w->seed;
}

uint64_t sim_hash(const struct sim_world *w)
{
    return w->hash;
}

uint64_t sim_below(struct sim_world *w, uint64_t bound)
{
    return sim_random_below(&w->scenario_random, bound);
}

uint64_t sim_range(struct sim_world *w, uint64_t low, uint64_t high)
{
    return sim_random_range(&w->scenario_random, low, high);
}

void sim_world_free(struct sim_world *w)
{
    w->counters->simulated_ns += w->now_ns;
    w->counters->sites = w->sites;
    w->counters->site_count = w->site_count;
    for (unsigned s = 0; s < w->site_count; s++)
        for (unsigned f = 0; f < SIM_FAULT_COUNT; f++)
            for (unsigned k = 0; k < SIM_OPERATIONS_MAX; k++)
                w->counters->met[s][f][k] += w->met[s][f][k];
    for (unsigned k = 0; k < w->node_count; k++)
        sim_node_free(w->nodes[k]);
    sim_net_fini(w);
    sim_nemesis_fini(w);
    list_each_safe(l, &w->timers) free(CONTAINER_OF(l, struct after, link));
    list_each_safe(l, &w->lasting) free(CONTAINER_OF(l, struct lasting_hit, link));
    for (unsigned k = 0; k < w->violation_count; k++)
        free(w->violations[k]);
    free(w->heap);
    free(w);
    current = NULL;
}
