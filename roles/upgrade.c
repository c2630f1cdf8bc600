#include "roles/upgrade.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/heap.h"
#include "core/io.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "roles/proxy/chest.h"
#include "roles/proxy/moving.h"
#include <errno.h>
#include <string.h>

#define FIRST_WAIT_MS  500 /* For what takes long, before the first freeze; each time twice as long. */
#define FREEZE_EASY_MS 1000
#define FREEZE_MS      5000
#define STILL_MS                                                                                             \
    500 /* So long nothing comes of those whose clients alone are waited for: they are not, while all are frozen. */
#define POLL_MS 2
#define LONG_MS 50 /* Between looks at those who take long. */

/* Of one shard, on shard 0's heap. Its fibers are its own shard's; shard 0 looks by shard_call(). */
struct giving {
    struct shard *shard;
    const bool *lost;
    void (*step)(struct giving *g); /* What its fiber does. */
    void (*run)(struct shard *s);
    bool again; /* Another successor was here before this one. */
    const struct ledger *ledger;
    int fd, rc;
    bool done;
    uint64_t until_ms;
    unsigned count; /* Of whom was asked for. */
    struct chest_count chest;
};

static struct proxy *proxy_here(void)
{
    return shard_self()->slot[SLOT_PROXY];
}

static bool is_lost(const struct giving *g)
{
    return __atomic_load_n(g->lost, __ATOMIC_ACQUIRE);
}

/* ---- On each shard ------------------------------------------------------------------------------------- */

static void count_long_runners(void *arg)
{
    struct giving *g = arg;

    g->count = proxy_here() != NULL ? proxy_long_runners(proxy_here()) : 0;
}

static void open_chest(void *arg)
{
    chest_open(shard_self(), proxy_here());
}

static void unpack(void *arg)
{
    if (proxy_here() != NULL)
        chest_unpack(proxy_here());
}

static void drop_chest(void *arg)
{
    chest_drop(shard_self());
}

static void freeze(void *arg)
{
    if (proxy_here() != NULL)
        proxy_freeze(proxy_here());
}

static void thaw(void *arg)
{
    if (proxy_here() != NULL)
        proxy_thaw(proxy_here());
}

static void cut(void *arg)
{
    struct giving *g = arg;

    g->count = proxy_here() != NULL ? proxy_cut(proxy_here()) : 0;
}

static void look(void *arg)
{
    struct giving *g = arg;

    g->chest = chest_count(shard_self());
}

static void trim(void *arg)
{
    heap_trim(shard_self()->heap);
}

static void take_back(void *arg)
{
    chest_take_back(shard_self());
}

static void hello_run(struct giving *g)
{
    g->rc = chest_hello(g->shard, g->fd);
}

static void rest_run(struct giving *g)
{
    struct proxy *p = proxy_here();
    struct proxy_unrest before = {0};
    uint64_t still_ms = 0;

    g->rc = 0;
    g->count = 0;
    while (g->rc == 0 && p != NULL) {
        struct proxy_unrest now = proxy_unrest(p);
        bool still = now.count == now.theirs && memcmp(&now, &before, sizeof now) == 0;

        g->count = now.count;
        still_ms = still ? still_ms : time_ms();
        before = now;
        if (g->count == 0 || time_ms() >= g->until_ms || time_ms() - still_ms >= STILL_MS)
            break;
        g->rc = is_lost(g) ? -EPIPE : fiber_sleep_ms(POLL_MS);
    }
}

static void pack_run(struct giving *g)
{
    g->rc = proxy_here() != NULL ? chest_pack(proxy_here()) : 0;
}

static void send_run(struct giving *g)
{
    g->rc = g->again ? chest_hello(g->shard, g->fd) : 0;
    if (g->rc == 0)
        g->rc = chest_send(g->shard, g->fd, g->ledger);
}

static void plain_run(struct giving *g)
{
    g->run(g->shard);
}

static void fiber_run(void *arg)
{
    struct giving *g = arg;

    g->step(g);
    __atomic_store_n(&g->done, true, __ATOMIC_RELEASE);
}

/* ---- On shard 0 ---------------------------------------------------------------------------------------- */

struct start {
    struct giving *giving;
    bool started;
};

static void start_there(void *arg)
{
    struct start *start = arg;

    start->started = fiber_start("upgrade", RUN_INTERACTIVE, fiber_run, start->giving) != NULL;
}

/* Runs on a fiber of every shard; all have ended when it returns. The first error of any. */
static int run_all(struct node *node, struct giving *all, void (*step)(struct giving *g))
{
    int rc = 0;

    for (unsigned i = 0; i < node->shard_count; i++) {
        struct start start = {.giving = &all[i]};

        all[i].step = step;
        all[i].done = false;
        while (!start.started) {
            shard_call(node->shards[i], start_there, &start);
            if (!start.started)
                (void)fiber_sleep_ms(POLL_MS);
        }
    }
    for (unsigned i = 0; i < node->shard_count; i++) {
        while (!__atomic_load_n(&all[i].done, __ATOMIC_ACQUIRE))
            (void)fiber_sleep_ms(POLL_MS);
        rc = rc < 0 ? rc : all[i].rc;
    }
    return rc;
}

/* The sum of what was counted. */
static uint64_t call_all(struct node *node, struct giving *all, void (*run)(void *arg))
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < node->shard_count; i++) {
        all[i].count = 0;
        shard_call(node->shards[i], run, &all[i]);
        sum += all[i].count;
    }
    return sum;
}

static struct giving *givings(struct shard *s, const int *fds, const bool *lost)
{
    struct node *node = s->node;
    struct giving *all = heap_zalloc(s->heap, node->shard_count * sizeof *all);

    for (unsigned i = 0; i < node->shard_count; i++)
        all[i] = (struct giving){.shard = node->shards[i], .fd = fds != NULL ? fds[i] : -1, .lost = lost};
    return all;
}

/* `again`: they were frozen before, and in vain. Everybody else is served for a while. */
static int wait_long_runners(struct node *node, struct giving *all, uint64_t until_ms, bool again)
{
    int rc = 0;

    while (rc == 0 && (again || call_all(node, all, count_long_runners) > 0) && time_ms() < until_ms)
        rc = is_lost(all) ? -EPIPE : fiber_sleep_ms(LONG_MS);
    return rc;
}

/* Frozen, everybody has come to rest; or not, and time is over: 0. -errno: thawed. */
static int come_to_rest(struct node *node, struct giving *all, uint64_t *frozen_ms_out)
{
    uint64_t until_ms = time_ms() + config_duration_ms(node->config, "shutdown.grace");

    for (uint64_t wait_ms = FIRST_WAIT_MS;; wait_ms *= 2) {
        uint64_t restless = 0;
        bool late;
        int rc = wait_long_runners(node, all, MIN(until_ms, time_ms() + wait_ms), wait_ms > FIRST_WAIT_MS);

        if (rc < 0)
            return rc;
        *frozen_ms_out = time_ms();
        late = *frozen_ms_out >= until_ms;
        for (unsigned i = 0; i < node->shard_count; i++)
            all[i].until_ms = *frozen_ms_out + (late ? FREEZE_MS : FREEZE_EASY_MS);
        (void)call_all(node, all, freeze);
        rc = run_all(node, all, rest_run);
        for (unsigned i = 0; i < node->shard_count; i++)
            restless += all[i].count;
        if (rc == 0 && (restless == 0 || late))
            return 0;
        (void)call_all(node, all, thaw);
        if (rc < 0)
            return rc;
    }
}

static int pack_all(struct node *node, struct giving *all, struct upgrade_result *result)
{
    uint64_t frozen_ms;
    int rc = come_to_rest(node, all, &frozen_ms);

    if (rc < 0)
        return rc;
    rc = run_all(node, all, pack_run);
    if (rc == 0 && is_lost(all))
        rc = -EPIPE;
    result->frozen_ms = time_ms() - frozen_ms;
    if (rc < 0) {
        (void)call_all(node, all, unpack);
        (void)call_all(node, all, thaw);
        return rc;
    }
    result->dropped = call_all(node, all, cut); /* From here on there is no way back. */
    (void)run_all(node, all, pack_run);         /* Who has come to rest in the last moment. */
    (void)call_all(node, all, look);
    for (unsigned i = 0; i < node->shard_count; i++)
        result->moved += all[i].chest.here;
    return 0;
}

static void close_all(struct node *node, const int *fds)
{
    for (unsigned i = 0; i < node->shard_count; i++)
        pass_close(fds[i]);
}

int upgrade_pack(struct shard *s, const int *fds, const bool *lost, struct upgrade_result *result_out)
{
    struct node *node = s->node;
    struct giving *all = givings(s, fds, lost);
    int rc;

    *result_out = (struct upgrade_result){0};
    (void)call_all(node, all, open_chest);
    rc = run_all(node, all, hello_run);
    if (rc == 0)
        rc = pack_all(node, all, result_out);
    if (rc < 0) {
        (void)call_all(node, all, drop_chest);
        close_all(node, fds);
    }
    heap_free(s->heap, all);
    return rc;
}

void upgrade_on_all(struct shard *s, void (*run)(struct shard *s))
{
    struct giving *all = givings(s, NULL, NULL);

    for (unsigned i = 0; i < s->node->shard_count; i++)
        all[i].run = run;
    (void)run_all(s->node, all, plain_run);
    heap_free(s->heap, all);
}

int upgrade_send(struct shard *s, const int *fds, const struct ledger *ledgers, bool again)
{
    struct giving *all = givings(s, fds, NULL);
    int rc;

    if (again)
        (void)call_all(s->node, all, take_back);
    for (unsigned i = 0; i < s->node->shard_count; i++) {
        all[i].again = again;
        all[i].ledger = &ledgers[i];
    }
    rc = run_all(s->node, all, send_run);
    close_all(s->node, fds);
    (void)call_all(s->node, all, trim); /* What roles have freed: the successor grows. */
    heap_free(s->heap, all);
    return rc;
}

struct upgrade_left upgrade_left(struct shard *s)
{
    struct giving *all = givings(s, NULL, NULL);
    struct upgrade_left left = {0};

    (void)call_all(s->node, all, look);
    for (unsigned i = 0; i < s->node->shard_count; i++) {
        left.kept += all[i].chest.here;
        left.sent += all[i].chest.sent;
        left.lost += all[i].chest.lost;
    }
    heap_free(s->heap, all);
    return left;
}

/* ---- The successor ------------------------------------------------------------------------------------- */

int upgrade_greet(struct shard *s, int fd)
{
    int rc = arrivals_hello(s, fd);

    if (rc < 0)
        pass_close(fd);
    return rc;
}

struct upgrade_taken upgrade_take(struct shard *s, int fd, struct ledger *ledger)
{
    struct arrivals arrivals;
    int rc;

    freeze(NULL);
    rc = arrivals_receive(s, proxy_here(), fd, ledger, &arrivals);
    pass_close(fd);
    chest_drop(s);
    log_event(rc < 0 || arrivals.dropped > 0 ? LOG_ERROR : LOG_INFO, "sessions have come",
              "shard=%u sessions=%llu dropped=%llu error=%s", s->index, (unsigned long long)arrivals.count,
              (unsigned long long)arrivals.dropped, rc < 0 ? log_error(rc) : "none");
    return (struct upgrade_taken){arrivals.count, arrivals.lost};
}

void upgrade_serve(struct ledger *ledger)
{
    ledger_begin(ledger);
    thaw(NULL);
}
