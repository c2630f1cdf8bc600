/* tests/sim/mail.c -- the scenario `mail`: one server of all roles, several accounts, several clients each,
 * an MTA, and every fault there is. */
#include "tests/sim/mail.h"
#include "core/config.h"
#include "roles/role.h"
#include "roles/settings.h"
#include "tests/sim/scenario.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define FAULTS_S    32
#define CALM_S      8 /* After the last fault, clients go on. */
#define ROT_EVERY_S 8
#define STEP_MAX_MS 500
#define STOP_S      40
#define PATIENCE_S  300

static const char *const operations[] = {
#define X(name) #name,
    MAIL_OPERATIONS(X)
#undef X
        NULL};

static const char *const server_assignments[] = {
    "role=all",
    "node=server",
    "data=/data",
    "imap.listen=127.0.0.1:143",
    "lmtp.listen=127.0.0.1:24",
    "auth.static_password=secret",
    "auth.cache_size=64", /* Cleared whenever the server starts: the default costs a sixth of the simulator's time. */
};

/* One run of three each: sessions sleep when their clients are quiet, after each command, after each piece of one. */
static const char *const sleeps[] = {"debug.sleep_after=idle", "debug.sleep_after=command",
                                     "debug.sleep_after=record"};

struct config *mail_config(const char *const *assignments, size_t count, uint64_t seed)
{
    struct config *config = config_new(settings_keys, settings_key_count);
    struct config_error error;
    bool ok = config != NULL;

    for (size_t k = 0; ok && k < count; k++)
        ok = config_set(config, assignments[k], &error);
    ok = ok && config_set(config, sleeps[seed % ARRAY_COUNT(sleeps)], &error);
    if (!ok || !settings_check(config, &error)) {
        fprintf(stderr, "%s\n", config != NULL ? error.text : "no memory");
        exit(70);
    }
    return config;
}

static int clients_start(struct shard *shard)
{
    struct mail *mail = shard->node->owner;

    for (unsigned k = 0; k < MAIL_CLIENTS; k++)
        if (fiber_start("client", RUN_INTERACTIVE, mail_client_run, mail) == NULL)
            return -EAGAIN;
    for (unsigned k = 0; k < MAIL_SENDERS; k++)
        if (fiber_start("sender", RUN_INTERACTIVE, mail_sender_run, mail) == NULL)
            return -EAGAIN;
    return 0;
}

static int checkers_start(struct shard *shard)
{
    for (unsigned k = 0; k < LEDGER_ACCOUNTS; k++)
        if (fiber_start("checker", RUN_INTERACTIVE, mail_checker_run, shard->node->owner) == NULL)
            return -EAGAIN;
    return 0;
}

const struct node_ops mail_clients_ops = {.start = clients_start},
                      mail_checkers_ops = {.start = checkers_start};

struct sim_node *mail_client_node(struct mail *mail, const char *name, const char *ip,
                                  const struct node_ops *ops)
{
    return sim_node_new(mail->world, &(struct sim_node_options){.name = name,
                                                                .ip = ip,
                                                                .shard_count = 1,
                                                                .ops = ops,
                                                                .owner = mail,
                                                                .client = true,
                                                                .kind = UINT8_MAX});
}

bool mail_clients_ended(void *arg)
{
    return ((struct mail *)arg)->clients_ended == MAIL_CLIENTS + MAIL_SENDERS;
}

bool mail_checkers_ended(void *arg)
{
    const struct mail *mail = arg;

    return mail->checkers_ended > 0 && mail->checkers_ended == mail->checkers_begun;
}

static bool server_ready(void *arg)
{
    return sim_node_ready(((struct mail *)arg)->proxies[0].node);
}

bool mail_run_for(struct mail *mail, uint64_t seconds, bool (*until)(void *arg), const char *what)
{
    if (sim_run(mail->world, sim_now_ns(mail->world) + seconds * SIM_S, until, mail))
        return true;
    if (sim_violation_count(mail->world) == 0 && !mail->ledger->rot)
        sim_violation(mail->world, "%s, after %llu s", what, (unsigned long long)seconds);
    return false;
}

static bool server_down(void *arg)
{
    return !sim_node_up(((struct mail *)arg)->proxies[0].node);
}

/* Restarts the server in order, as an operator would, and looks at everything; then the power fails, and what
 * was acknowledged is still there. */
static void check(struct mail *mail)
{
    struct sim_node *checkers = mail_client_node(mail, "checkers", "127.0.0.3", &mail_checkers_ops);
    struct sim_node *server = mail->proxies[0].node;

    sim_node_stop(server);
    if (!mail_run_for(mail, STOP_S, server_down, "the server does not stop"))
        return;
    if (!sim_node_up(server))
        sim_node_start(server);
    if (!mail_run_for(mail, PATIENCE_S, server_ready, "the server does not start after it was stopped"))
        return;
    sim_node_start(checkers);
    if (!mail_run_for(mail, PATIENCE_S, mail_checkers_ended, "the accounts cannot be looked at"))
        return;
    sim_node_kill(checkers);
    sim_node_power(server);
    sim_node_start(server);
    if (!mail_run_for(mail, PATIENCE_S, server_ready,
                      "the server does not start after the last power failure"))
        return;
    mail->checkers_ended = mail->checkers_begun = 0;
    sim_node_start(checkers);
    (void)mail_run_for(mail, PATIENCE_S, mail_checkers_ended, "the accounts cannot be looked at again");
}

/* Bits flip all the time, and some just before everything is looked at. */
static void rot_fire(void *arg)
{
    struct mail *mail = arg;

    (void)sim_rot(mail->proxies[0].node);
    if (sim_now_ns(mail->world) < mail->until_ns)
        sim_after(mail->world, sim_range(mail->world, 1, ROT_EVERY_S) * SIM_S, rot_fire, mail);
}

static void mail_run(struct sim_world *w)
{
    const uint32_t disk_errors =
        1u << SIM_READ_ERROR | 1u << SIM_WRITE_ERROR | 1u << SIM_FLUSH_ERROR | 1u << SIM_FULL;
    struct mail mail = {.world = w,
                        .ledger = ledger_new(w),
                        .proxy_count = 1,
                        .patience_ms = 15000,
                        .settle_ms = 6000,
                        .tell_ns = 3 * SIM_S};
    struct config *config = mail_config(server_assignments, ARRAY_COUNT(server_assignments), sim_seed(w));
    struct sim_node *clients, *server;
    uint32_t faults = UINT32_MAX;

    /* Rot in one run of three, without other disk errors: what was acknowledged may be unavailable there, not wrong, and
     * not silently gone. */
    mail.ledger->rot = sim_below(w, 3) == 0;
    mail.even = sim_below(w, 2) == 0;
    mail.gather = sim_seed(w) / 3 % 2 == 0; /* Whatever the sessions do about sleep. */
    mail.step_ms = sim_below(w, 2) == 0 ? (uint32_t)sim_range(w, 20, STEP_MAX_MS) : 0;
    faults &= mail.ledger->rot ? ~disk_errors : ~(1u << SIM_ROT);
    if (!net_addr_parse(SLICE("127.0.0.1:143"), &mail.proxies[0].imap) ||
        !net_addr_parse(SLICE("127.0.0.1:24"), &mail.proxies[0].lmtp))
        abort();
    mail.until_ns = sim_now_ns(w) + (FAULTS_S + CALM_S) * SIM_S;
    server = sim_node_new(w, &(struct sim_node_options){.name = "server",
                                                        .ip = "127.0.0.1",
                                                        .shard_count = 1 + (unsigned)sim_below(w, 3),
                                                        .ops = &role_ops,
                                                        .config = config});
    mail.proxies[0].node = server;
    for (unsigned k = 0; k < LEDGER_ACCOUNTS; k++)
        mail.ledger->homes[k] = server;
    clients = mail_client_node(&mail, "clients", "127.0.0.2", &mail_clients_ops);
    sim_nemesis_start(w, &(struct sim_nemesis_options){.faults = faults,
                                                       .mean_ns = sim_range(w, 200, 1200) * SIM_MS,
                                                       .until_ns = sim_now_ns(w) + FAULTS_S * SIM_S,
                                                       .restart_ns = SIM_S});
    sim_node_start(server);
    sim_node_start(clients);
    if (mail.ledger->rot)
        sim_after(w, ROT_EVERY_S * SIM_S, rot_fire, &mail);
    if (mail_run_for(&mail, FAULTS_S + CALM_S + PATIENCE_S, mail_clients_ended, "the clients have not ended"))
        check(&mail);
    ledger_free(mail.ledger);
    config_free(config);
}

const struct scenario scenario_mail = {"mail",
                                       "proxy, director and backend in one process, clients, an MTA, faults",
                                       operations, mail_run, false};
