/* bench/sim/world.c -- a proxy, a director, a backend and clients; a certificate; the partitions dealt. */
#include "bench/sim/sessions.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/given.h"
#include "core/log.h"
#include "net/link/wire.h"
#include "roles/authority.h"
#include "roles/role.h"
#include "roles/settings.h"
#include "roles/words/control.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define START_S        60
#define SOCKETS_BESIDE 2000 /* Of links, MTAs. */

static const char *const names[PART_COUNT] = {"proxy", "director", "backend", "clients"};
static const char *const ips[PART_COUNT] = {"127.0.1.0", "127.0.1.1", "127.0.1.2", "127.0.0.1"};

bool world_run(struct sessions *b, uint64_t seconds, bool (*until)(void *arg))
{
    return sim_run(b->world, sim_now_ns(b->world) + seconds * SIM_S, until, b);
}

/* ---- Configurations ------------------------------------------------------------------------------------ */

static void set(struct config *config, const char *format, ...) PRINTF_LIKE(2, 3);
static void set(struct config *config, const char *format, ...)
{
    struct config_error error;
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!config_set(config, text, &error)) {
        fprintf(stderr, "%s\n", error.text);
        exit(70);
    }
}

static struct config *config_of(const struct sessions *b, enum part role)
{
    struct config *config = config_new(settings_keys, settings_key_count);
    struct config_error error;

    ASSERT(config != NULL);
    set(config, "role=%s", names[role]);
    set(config, "node=%s", names[role]);
    set(config, "data=/data");
    if (role != PROXY)
        set(config, "link.listen=%s:1143", ips[role]);
    if (role == PROXY) {
        set(config, "imaps.listen=%s:993", ips[role]);
        set(config, "lmtp.listen=%s:24", ips[role]);
        set(config, "directors=%s:1143", ips[DIRECTOR]);
        set(config, "tls.cert=/data/tls.crt");
        set(config, "tls.key=/data/tls.key");
        set(config, "limits.connections=%u", b->options.count + 10000);
    } else if (role == DIRECTOR) {
        set(config, "backends=%s:1143", ips[BACKEND]);
        set(config, "auth.static_password=" PASSWORD);
    }
    if (!settings_check(config, &error)) {
        fprintf(stderr, "%s\n", error.text);
        exit(70);
    }
    return config;
}

/* NULL: the system gave no memory. */
static const struct given *certificate(void)
{
    static struct authority_pem cert, key;
    static struct given_file files[2];
    static struct given given = {files, ARRAY_COUNT(files)};
    struct authority a = {0};
    bool ok = authority_make(&a) && authority_issue(&a, names[PROXY], LINK_ROLE_PROXY, &cert, &key);

    authority_fini(&a);
    files[0] = (struct given_file){SLICE("/data/tls.crt"), slice_of(cert.text, cert.size)};
    files[1] = (struct given_file){SLICE("/data/tls.key"), slice_of(key.text, key.size)};
    return ok ? &given : NULL;
}

/* ---- Nodes --------------------------------------------------------------------------------------------- */

/* `ctl cluster init`, until it has succeeded. */
static void deal_run(void *arg)
{
    struct control_cluster cluster = {.deal = true};
    struct sessions *b = arg;

    do {
        if (fiber_sleep_ms(20) < 0 || control_self() == NULL)
            return;
        control_self()->cluster(&cluster);
    } while (!cluster.dealt || !cluster.settled);
    b->dealt = true;
}

static int role_start(struct shard *s)
{
    struct sessions *b = s->node->owner;
    int rc = role_ops.start(s);

    for (unsigned r = 0; rc == 0 && r < PART_COUNT; r++)
        if (b->nodes[r] == sim_node_of(s))
            b->shards[r] = s;
    if (rc == 0 && s == b->shards[DIRECTOR])
        ASSERT(fiber_start("deal", RUN_INTERACTIVE, deal_run, b) != NULL);
    return rc;
}

static void role_stop(struct shard *s)
{
    role_ops.stop(s);
}

static int client_shard_start(struct shard *s)
{
    struct sessions *b = s->node->owner;

    b->shards[CLIENTS] = s;
    clients_start(b);
    return 0;
}

static const struct node_ops role_node_ops = {role_start, role_stop},
                             client_node_ops = {.start = client_shard_start};

static bool all_ready(void *arg)
{
    const struct sessions *b = arg;

    for (unsigned r = 0; r < PART_COUNT; r++)
        if (!sim_node_ready(b->nodes[r]))
            return false;
    return b->dealt;
}

static void node_add(struct sessions *b, enum part part, const struct given *given)
{
    struct sim_node_options o = {.name = names[part], .ip = ips[part], .shard_count = 1, .owner = b};

    o.ops = part == CLIENTS ? &client_node_ops : &role_node_ops;
    if (part != CLIENTS)
        o.config = b->configs[part] = config_of(b, part);
    if (part == PROXY)
        o.given = given;
    if (part == PROXY || part == CLIENTS)
        o.socket_count = b->options.count + SOCKETS_BESIDE;
    b->nodes[part] = sim_node_new(b->world, &o);
}

bool world_start(struct sessions *b)
{
    const struct given *given = certificate();
    bool parsed =
        net_addr_parse(SLICE("127.0.1.0:993"), &b->imaps) && net_addr_parse(SLICE("127.0.1.0:24"), &b->lmtp);

    log_set_level(LOG_WARN);
    b->world = sim_world_new(b->options.seed, &b->counters);
    sim_smooth_network(b->world);
    sim_count_cpu(b->world);
    for (unsigned r = 0; r < PART_COUNT; r++)
        node_add(b, r, given);
    if (!parsed || given == NULL)
        return false;
    for (unsigned r = 0; r < PART_COUNT; r++)
        sim_node_start(b->nodes[r]);
    return world_run(b, START_S, all_ready);
}

void world_end(struct sessions *b)
{
    sim_world_free(b->world);
    for (unsigned r = 0; r < PART_COUNT; r++)
        if (b->configs[r] != NULL)
            config_free(b->configs[r]);
}
