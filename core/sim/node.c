/* core/sim/node.c -- processes and hosts: their shards' turns, messages, helper threads, clocks, lives and
 * deaths. */
#include "core/fiber.h"
#include "core/sim/world.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>

#define TURN_JITTER_NS   (10 * SIM_US)
#define MESSAGE_DELAY_NS (20 * SIM_US)
#define HELPER_TIME_NS   (5 * SIM_MS)
#define WALL_START_MS    1790000000000ll /* September 2026. */
#define CLOCK_OFFSET_NS  (24 * 3600 * SIM_S)
#define WALL_SKEW_MS     2000

/* ---- Turns --------------------------------------------------------------------------------------------- */

static void start_run(void *arg)
{
    struct shard_private *p = arg;
    struct sim_node *n = p->node;
    int rc = n->options.ops->start(p->shard);

    sim_trace_shard(TRACE_NODE, 1, (uint64_t)(int64_t)rc, 0);
    if (rc == 0) {
        n->ready_count++;
        return;
    }
    if (n->error == 0)
        n->error = rc;
    sim_event_after(&n->end, 0);
}

static void stop_run(void *arg)
{
    struct shard_private *p = arg;
    struct sim_node *n = p->node;

    n->options.ops->stop(p->shard);
    if (++n->stopped_count == n->options.shard_count)
        sim_event_after(&n->end, 0);
}

static void deliver_done(struct shard_private *p)
{
    struct list batch;

    list_init(&batch);
    while (!list_empty(&p->done))
        list_push_back(&batch, list_pop_front(&p->done));
    for (struct list *l; (l = list_pop_front(&batch)) != NULL;) {
        struct sim_done *d = CONTAINER_OF(l, struct sim_done, link);

        d->run(d);
    }
}

/* Of the thread that runs the world. */
static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * SIM_S + (uint64_t)t.tv_nsec;
}

static void shard_turn(struct shard_private *p)
{
    struct sim_world *w = p->node->world;
    uint64_t next_ms;
    bool runnable;

    if (p->node->frozen) /* Its thaw makes up for it. */
        return;
    scheduler_enter(p->shard);
    sim_trace_shard(TRACE_TURN, 0, 0, 0);
    if (!p->begun) {
        struct fiber *f = fiber_start("start", RUN_INTERACTIVE, start_run, p);

        ASSERT(f != NULL);
        p->begun = true;
    }
    deliver_done(p);
    runnable = scheduler_turn(p->shard) || !list_empty(&p->done);
    next_ms = runnable ? 0 : scheduler_next_ms(p->shard);
    scheduler_leave();
    if (runnable) {
        sim_event_after(&p->turn, sim_random_below(&w->random, TURN_JITTER_NS));
    } else if (next_ms != UINT64_MAX) {
        uint64_t at = next_ms * SIM_MS;

        sim_event_set(&p->turn, at > p->node->clock_offset_ns ? at - p->node->clock_offset_ns : 0);
    }
}

static void turn_fire(struct sim_event *e)
{
    struct shard_private *p = CONTAINER_OF(e, struct shard_private, turn);
    struct sim_node *n = p->node;
    uint64_t begin;

    if (!n->world->counts_cpu) {
        shard_turn(p);
        return;
    }
    begin = cpu_ns();
    shard_turn(p);
    n->cpu_ns += cpu_ns() - begin;
}

void sim_count_cpu(struct sim_world *w)
{
    w->counts_cpu = true;
}

uint64_t sim_node_cpu_ns(const struct sim_node *n)
{
    return n->cpu_ns;
}

void sim_call(struct shard *s, void (*call)(void *arg), void *arg)
{
    scheduler_enter(s);
    call(arg);
    scheduler_leave();
    sim_shard_wake(s->private);
}

void sim_shard_wake(struct shard_private *p)
{
    struct sim_world *w = p->node->world;
    uint64_t at = w->now_ns + sim_random_below(&w->random, TURN_JITTER_NS);

    if (!sim_event_armed(&p->turn) || p->turn.at_ns > at)
        sim_event_set(&p->turn, at);
}

void sim_shard_done(struct shard_private *p, struct sim_done *d)
{
    list_push_back(&p->done, &d->link);
    sim_shard_wake(p);
}

void sim_shard_done_quiet(struct shard_private *p, struct sim_done *d)
{
    list_push_back(&p->done, &d->link);
}

/* ---- Messages ------------------------------------------------------------------------------------------ */

struct message {
    struct list link;
    struct sim_event event;
    struct shard_private *to;
    struct shard_message *m;
};

static void message_fire(struct sim_event *e)
{
    struct message *m = CONTAINER_OF(e, struct message, event);

    scheduler_deliver(m->to->shard, m->m);
    sim_shard_wake(m->to);
    list_remove(&m->link);
    free(m);
}

/* What is on its way has not been sent yet, as far as anybody can tell. */
bool door_inbox_empty(struct shard *s)
{
    return true;
}

void door_shard_send(struct shard *to, struct shard_message *message)
{
    struct shard_private *p = sim_private();
    struct sim_world *w = p->node->world;
    struct message *m = calloc(1, sizeof *m);
    uint64_t at = w->now_ns + sim_random_below(&w->random, MESSAGE_DELAY_NS);

    ASSERT(m != NULL && to->node == p->shard->node);
    *m = (struct message){.event.fire = message_fire, .to = to->private, .m = message};
    list_push_back(&p->messages, &m->link);
    p->message_ns[to->index] = MAX(at, p->message_ns[to->index] + 1);
    sim_trace_shard(TRACE_MESSAGE, to->index, 0, 0);
    sim_event_set(&m->event, p->message_ns[to->index]);
}

/* ---- Helper threads ------------------------------------------------------------------------------------ */

struct helper_work { /* On the stack of the fiber that waits. */
    struct list link;
    struct sim_event event;
    struct sim_done done;
    struct shard_private *p;
    struct fiber *fiber;
    void (*fn)(void *arg);
    void *arg;
};

static void helper_done(struct sim_done *d)
{
    fiber_wake(CONTAINER_OF(d, struct helper_work, done)->fiber, 0);
}

static void helper_fire(struct sim_event *e)
{
    struct helper_work *h = CONTAINER_OF(e, struct helper_work, event);
    struct sim_world *w = h->p->node->world;

    if (h->p->node->frozen) {
        sim_event_after(e, HELPER_TIME_NS);
        return;
    }
    w->helper_node = h->p->node;
    h->fn(h->arg);
    w->helper_node = NULL;
    h->p->node->helper_calls--;
    list_remove(&h->link);
    sim_shard_done(h->p, &h->done);
}

int helper_call(void (*fn)(void *arg), void *arg)
{
    struct shard_private *p = sim_private();
    struct sim_node *n = p->node;
    struct helper_work h = {.event.fire = helper_fire,
                            .done.run = helper_done,
                            .p = p,
                            .fiber = fiber_self(),
                            .fn = fn,
                            .arg = arg};
    unsigned first = n->helper_free_ns[0] <= n->helper_free_ns[1] ? 0 : 1;
    uint64_t start;

    sim_trace_shard(TRACE_HELPER, n->helper_calls, 0, 0);
    if (n->helper_calls >= SIM_HELPER_QUEUE_MAX)
        return -EAGAIN;
    n->helper_calls++;
    start = MAX(n->world->now_ns, n->helper_free_ns[first]);
    n->helper_free_ns[first] = start + sim_random_below(&n->world->random, HELPER_TIME_NS);
    list_push_back(&p->helper_calls, &h.link);
    sim_event_set(&h.event, n->helper_free_ns[first]);
    return fiber_suspend_operation(NULL, NULL);
}

/* ---- Time and randomness ------------------------------------------------------------------------------- */

static struct sim_node *node_self(void)
{
    struct shard *s = shard_self();

    return s != NULL ? s->private->node : sim_world_current()->helper_node;
}

uint64_t time_ns(void)
{
    const struct sim_node *n = node_self();

    return sim_world_current()->now_ns + (n != NULL ? n->clock_offset_ns : 0);
}

int64_t time_wall_ms(void)
{
    const struct sim_node *n = node_self();

    return WALL_START_MS + (int64_t)(sim_world_current()->now_ns / SIM_MS) +
           (n != NULL ? n->wall_offset_ms : 0);
}

int64_t time_wall(void)
{
    return time_wall_ms() / 1000;
}

uint64_t random_u64(void)
{
    struct sim_node *n = node_self();
    uint64_t value;

    ASSERT(n != NULL);
    value = sim_random_u64(&n->random);
    sim_trace(TRACE_RANDOM, n->id, 0, value, 0, 0);
    return value;
}

void random_bytes(void *data, size_t size)
{
    for (size_t at = 0; at < size; at += 8) {
        uint64_t value = random_u64();

        memcpy((char *)data + at, &value, MIN(size - at, sizeof value));
    }
}

/* ---- Birth --------------------------------------------------------------------------------------------- */

static void end_fire(struct sim_event *e)
{
    sim_node_kill(CONTAINER_OF(e, struct sim_node, end));
}

static void restart_fire(struct sim_event *e)
{
    struct sim_node *n = CONTAINER_OF(e, struct sim_node, restart);

    if (!n->up)
        sim_node_start(n);
}

static void links_draw(struct sim_world *w, unsigned id)
{
    for (unsigned k = 0; k <= id; k++) {
        uint64_t latency_ns = k == id ? 20 * SIM_US : sim_random_range(&w->random, 50 * SIM_US, 3 * SIM_MS);

        w->links[id][k] = w->links[k][id] = (struct sim_link){.latency_ns = latency_ns, .factor = 1};
    }
}

struct sim_node *sim_node_new(struct sim_world *w, const struct sim_node_options *options)
{
    struct sim_node *n = calloc(1, sizeof *n);
    char text[NET_ADDR_TEXT_MAX];

    ASSERT(n != NULL && w->node_count < SIM_NODES_MAX);
    ASSERT(options->shard_count > 0 && options->shard_count <= SIM_SHARDS_MAX);
    n->world = w;
    n->id = w->node_count;
    n->options = *options;
    ASSERT(strlen(options->ip) < sizeof text - 8);
    strcpy(text, options->ip);
    strcat(text, ":0");
    ASSERT(net_addr_parse(slice_str(text), &n->address));
    sim_random_init(&n->random, w->seed, 1000 + n->id);
    sim_disk_init(&n->disk, &w->random, &w->now_ns);
    n->powered = true;
    n->disk_factor = 1;
    n->end.fire = end_fire;
    n->restart.fire = restart_fire;
    list_init(&n->locks);
    w->nodes[w->node_count++] = n;
    links_draw(w, n->id);
    ASSERT(sim_disk_make_dir(&n->disk, "/data") == 0 && sim_disk_flush_dir(&n->disk, "/") == 0);
    return n;
}

void sim_node_put_file(struct sim_node *n, const char *path, struct slice content)
{
    struct sim_inode *i;

    ASSERT(sim_disk_open(&n->disk, path, O_CREAT | O_TRUNC | O_RDWR, &i) == 0);
    ASSERT(sim_disk_write(&n->disk, i, content.data, content.size, 0) == 0);
    sim_stage_commit(&n->disk, sim_disk_stage(i));
    sim_inode_unref(&n->disk, i);
    ASSERT(sim_disk_flush_dir(&n->disk, "/") == 0 && sim_disk_flush_dir(&n->disk, "/data") == 0);
}

static void shard_start(struct sim_node *n, unsigned index)
{
    struct shard_private *p = calloc(1, sizeof *p);
    struct shard *s = shard_create(&n->node, index, n->options.memory);

    ASSERT(p != NULL && s != NULL);
    p->shard = s;
    p->node = n;
    p->turn.fire = turn_fire;
    list_init(&p->done);
    list_init(&p->helper_calls);
    list_init(&p->messages);
    s->private = p;
    sim_net_shard_init(p);
    sim_file_shard_init(p);
    n->shards[index] = s;
}

void sim_node_start(struct sim_node *n)
{
    struct sim_world *w = n->world;
    bool was_powered = n->powered;

    ASSERT(!n->up);
    sim_trace(TRACE_NODE, n->id, 0, 2, n->lives, 0);
    sim_tell(w, "%s starts", n->options.name);
    if (!was_powered || n->lives == 0) {
        n->clock_offset_ns = sim_random_below(&w->random, CLOCK_OFFSET_NS);
        n->wall_offset_ms = (int64_t)sim_random_below(&w->random, 2 * WALL_SKEW_MS) - WALL_SKEW_MS;
    }
    n->up = n->powered = true;
    n->changes++;
    n->stopping = false;
    n->ready_count = n->stopped_count = 0;
    n->error = 0;
    n->lives++;
    n->helper_calls = 0;
    memset(n->helper_free_ns, 0, sizeof n->helper_free_ns);
    n->node = (struct node){.config = n->options.config,
                            .given = n->options.given,
                            .shards = n->shards,
                            .shard_count = n->options.shard_count,
                            .ops = n->options.ops,
                            .owner = n->options.owner};
    for (unsigned k = 0; k < n->options.shard_count; k++)
        shard_start(n, k);
    for (unsigned k = 0; k < n->options.shard_count; k++)
        sim_shard_wake(n->shards[k]->private);
    if (!was_powered)
        sim_net_node_returned(n);
}

/* ---- Standing still ------------------------------------------------------------------------------------ */

void sim_node_freeze(struct sim_node *n)
{
    struct sim_hit hit = sim_hit_node(n, SIM_STOP);

    if (!n->up || n->frozen)
        return;
    sim_trace(TRACE_NODE, n->id, 0, 5, 0, 0);
    n->frozen = true;
    n->changes++;
    sim_lasting_begin(n->world, &hit);
}

void sim_node_thaw(struct sim_node *n)
{
    struct sim_hit hit = sim_hit_node(n, SIM_STOP);

    if (!n->frozen)
        return;
    sim_trace(TRACE_NODE, n->id, 0, 6, 0, 0);
    n->frozen = false;
    n->changes++;
    sim_lasting_end(n->world, &hit);
    for (unsigned k = 0; k < n->options.shard_count; k++)
        sim_shard_wake(n->shards[k]->private);
}

bool sim_node_frozen(const struct sim_node *n)
{
    return n->frozen;
}

/* ---- Death --------------------------------------------------------------------------------------------- */

static void shard_end(struct sim_node *n, unsigned index, bool silent)
{
    struct shard *s = n->shards[index];
    struct shard_private *p = s->private;

    sim_event_cancel(&p->turn);
    sim_net_shard_fini(p, silent);
    sim_file_shard_fini(p);
    list_each(l, &p->helper_calls) sim_event_cancel(&CONTAINER_OF(l, struct helper_work, link)->event);
    list_each_safe(l, &p->messages)
    {
        struct message *m = CONTAINER_OF(l, struct message, link);

        sim_event_cancel(&m->event);
        free(m);
    }
    free(p);
    s->private = NULL;
    shard_drop(s);
    n->shards[index] = NULL;
}

static void node_end(struct sim_node *n, bool silent)
{
    ASSERT(shard_self() == NULL || &n->node != shard_self()->node);
    sim_trace(TRACE_NODE, n->id, 0, 3, silent, 0);
    sim_tell(n->world, "%s ends, error %d", n->options.name, n->error);
    sim_node_thaw(n);
    sim_event_cancel(&n->end);
    sim_event_cancel(&n->doom);
    n->doom_calls = 0;
    for (unsigned k = 0; k < n->options.shard_count; k++)
        shard_end(n, k, silent);
    sim_file_node_down(n);
    n->up = false;
    n->changes++;
}

void sim_node_kill(struct sim_node *n)
{
    if (n->up)
        node_end(n, false);
}

static enum sim_disk_keep keep_toward(struct sim_node *n, enum sim_fault outcome)
{
    if (outcome == SIM_REORDERED)
        return SIM_KEEP_ANY;
    if (outcome == SIM_TORN)
        return sim_random_one_in(&n->world->random, 2) ? SIM_KEEP_PREFIX : SIM_KEEP_ANY;
    if (outcome == SIM_LOST)
        return sim_random_one_in(&n->world->random, 2) ? SIM_KEEP_NONE : SIM_KEEP_PREFIX;
    return SIM_KEEP_COUNT;
}

static void power_struck(struct sim_node *n, enum sim_fault fault, uint32_t kinds)
{
    struct sim_hit hit = sim_hit_node(n, fault);

    sim_strike_kinds(n->world, &hit, kinds);
}

void sim_node_power_toward(struct sim_node *n, enum sim_fault outcome)
{
    const struct sim_hit hit = sim_hit_node(n, SIM_POWER);
    uint32_t kinds = sim_outstanding_kinds(n->world, &hit); /* Their connections die with the host. */
    struct sim_disk_loss loss;

    if (n->up)
        node_end(n, true);
    n->powered = false;
    sim_disk_power_failure(&n->disk, keep_toward(n, outcome), &loss);
    sim_trace(TRACE_NODE, n->id, 0, 4, loss.sectors_kept, loss.sectors_lost);
    power_struck(n, SIM_POWER, kinds);
    sim_tell(n->world, "sectors kept %u, lost %u, names lost %u", loss.sectors_kept, loss.sectors_lost,
             loss.names_lost);
    if (loss.sectors_lost > 0 || loss.names_lost > 0)
        power_struck(n, SIM_LOST, kinds);
    if (loss.torn)
        power_struck(n, SIM_TORN, kinds);
    if (loss.reordered)
        power_struck(n, SIM_REORDERED, kinds);
}

void sim_node_power(struct sim_node *n)
{
    sim_node_power_toward(n, SIM_POWER);
}

void sim_node_stop(struct sim_node *n)
{
    if (!n->up || n->stopping)
        return;
    sim_node_thaw(n);
    n->stopping = n->node.stopping = true;
    for (unsigned k = 0; k < n->options.shard_count; k++) {
        struct shard_private *p = n->shards[k]->private;

        scheduler_enter(p->shard);
        if (n->options.ops->stop == NULL || fiber_start("stop", RUN_INTERACTIVE, stop_run, p) == NULL)
            sim_event_after(&n->end, 0);
        scheduler_leave();
        sim_shard_wake(p);
    }
}

void sim_node_free(struct sim_node *n)
{
    if (n->up)
        node_end(n, true);
    sim_event_cancel(&n->restart);
    sim_disk_fini(&n->disk);
    free(n);
}

void sim_node_restart_after(struct sim_node *n, uint64_t delay_ns)
{
    sim_event_after(&n->restart, delay_ns);
}

/* ---- Questions ----------------------------------------------------------------------------------------- */

struct sim_node *sim_node_of(const struct shard *s)
{
    return s->private->node;
}

struct sim_world *sim_world_of(const struct shard *s)
{
    return s->private->node->world;
}

bool sim_node_up(const struct sim_node *n)
{
    return n->up;
}

bool sim_node_ready(const struct sim_node *n)
{
    return n->up && n->ready_count == n->options.shard_count;
}

int sim_node_error(const struct sim_node *n)
{
    return n->error;
}

unsigned sim_node_disk_faults(const struct sim_node *n)
{
    return n->disk_faults;
}

unsigned sim_node_clock_jumps(const struct sim_node *n)
{
    return n->clock_jumps;
}

unsigned sim_node_lives(const struct sim_node *n)
{
    return n->lives;
}

uint32_t sim_node_bit(const struct sim_node *n)
{
    return 1u << n->id;
}
