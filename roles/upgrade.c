#include "roles/upgrade.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "roles/proxy/moving.h"
#include <errno.h>

#define FREEZE_MS 5000
#define POLL_MS   5
#define LONG_MS   50 /* Between looks at those who take long. */

/* Of one shard, on shard 0's heap. Its fibers are its own shard's; shard 0 looks by shard_call(). */
struct giving {
    struct shard *shard;
    const bool *lost;
    int fd, rc;
    bool done;
    uint64_t until_ms, moved, dropped;
    unsigned long_runners;
};

static struct proxy *proxy_here(void)
{
    return shard_self()->slot[SLOT_PROXY];
}

static bool is_lost(const struct giving *g)
{
    return __atomic_load_n(g->lost, __ATOMIC_RELAXED);
}

/* ---- On each shard ------------------------------------------------------------------------------------- */

static void count_long_runners(void *arg)
{
    struct giving *g = arg;

    g->long_runners = proxy_here() != NULL ? proxy_long_runners(proxy_here()) : 0;
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

static void move_run(void *arg)
{
    struct giving *g = arg;
    struct proxy *p = proxy_here();
    unsigned restless = 1;

    while (p != NULL && g->rc == 0 && restless > 0 && time_ms() < g->until_ms) {
        restless = proxy_restless(p);
        g->rc = proxy_move(p, g->fd);
        if (g->rc == 0 && restless > 0)
            g->rc = fiber_sleep_ms(POLL_MS);
        if (g->rc == 0 && is_lost(g))
            g->rc = -EPIPE;
    }
    if (g->rc == 0 && p != NULL)
        g->rc = proxy_move(p, g->fd); /* Who has come to rest since. */
    if (g->rc == 0)
        g->rc = proxy_move_ready(g->fd);
    __atomic_store_n(&g->done, true, __ATOMIC_RELEASE);
}

static void commit_run(void *arg)
{
    struct giving *g = arg;

    proxy_move_commit(proxy_here(), g->fd, &g->moved, &g->dropped);
    __atomic_store_n(&g->done, true, __ATOMIC_RELEASE);
}

struct start {
    void (*run)(void *arg);
    struct giving *giving;
    bool started;
};

static void start_there(void *arg)
{
    struct start *start = arg;

    start->started = fiber_start("upgrade", RUN_INTERACTIVE, start->run, start->giving) != NULL;
}

/* ---- On shard 0 ---------------------------------------------------------------------------------------- */

/* Runs on a fiber of every shard; all have ended when it returns. */
static void run_all(struct node *node, struct giving *all, void (*run)(void *arg))
{
    for (unsigned i = 0; i < node->shard_count; i++) {
        struct start start = {.run = run, .giving = &all[i]};

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
    }
}

static void call_all(struct node *node, struct giving *all, void (*run)(void *arg))
{
    for (unsigned i = 0; i < node->shard_count; i++)
        shard_call(node->shards[i], run, &all[i]);
}

static int wait_long_runners(struct node *node, struct giving *all)
{
    uint64_t until_ms = time_ms() + config_duration_ms(node->config, "shutdown.grace");

    for (;;) {
        unsigned count = 0;
        int rc;

        call_all(node, all, count_long_runners);
        for (unsigned i = 0; i < node->shard_count; i++)
            count += all[i].long_runners;
        if (is_lost(all))
            return -EPIPE;
        if (count == 0 || time_ms() >= until_ms)
            return 0;
        rc = fiber_sleep_ms(LONG_MS);
        if (rc < 0)
            return rc;
    }
}

static int move_all(struct node *node, struct giving *all)
{
    int rc = 0;

    for (unsigned i = 0; i < node->shard_count; i++)
        all[i].until_ms = time_ms() + FREEZE_MS;
    call_all(node, all, freeze);
    run_all(node, all, move_run);
    for (unsigned i = 0; i < node->shard_count; i++)
        rc = all[i].rc < 0 ? all[i].rc : rc;
    if (rc == 0 && is_lost(all))
        rc = -EPIPE;
    if (rc < 0)
        call_all(node, all, thaw);
    return rc;
}

int upgrade_give(struct shard *s, const int *fds, const bool *lost, struct upgrade_result *result_out)
{
    struct node *node = s->node;
    struct giving *all = heap_zalloc(s->heap, node->shard_count * sizeof *all);
    uint64_t frozen_ms = 0;
    int rc;

    for (unsigned i = 0; i < node->shard_count; i++)
        all[i] = (struct giving){.shard = node->shards[i], .fd = fds[i], .lost = lost};
    rc = wait_long_runners(node, all);
    frozen_ms = time_ms();
    if (rc == 0)
        rc = move_all(node, all);
    if (rc == 0)
        run_all(node, all, commit_run);
    *result_out = (struct upgrade_result){.frozen_ms = time_ms() - frozen_ms};
    for (unsigned i = 0; i < node->shard_count; i++) {
        result_out->moved += all[i].moved;
        result_out->dropped += all[i].dropped;
        pass_close(fds[i]);
    }
    heap_free(s->heap, all);
    return rc;
}

/* ---- The successor ------------------------------------------------------------------------------------- */

int upgrade_take(struct shard *s, int fd)
{
    int rc = arrivals_receive(s, fd);

    pass_close(fd);
    return rc;
}

void upgrade_taken(struct shard *s)
{
    if (s->slot[SLOT_PROXY] != NULL)
        (void)arrivals_settle(s->slot[SLOT_PROXY]);
    arrivals_drop(s);
}
