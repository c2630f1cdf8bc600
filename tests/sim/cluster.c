/* tests/sim/cluster.c -- the scenario `cluster`: proxies, a director and backends, each a node of its own with a disk of its own,
 * and the clients of `mail`. Links are plain, or the stand-in's mutual TLS. Faults strike nodes by their role, and what goes between
 * two of them; never a client, nor its way to its proxy: whatever happens, it may expect answers there. */
#include "tests/sim/cluster.h"
#include "core/config.h"
#include "core/fiber.h"
#include "roles/role.h"
#include "roles/words/control.h"
#include "tests/sim/scenario.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define FAULTS_S         32
#define CALM_S           4 /* After the last fault, clients go on. */
#define HEAL_S           30
#define TELL_S           5
#define NOTICE_S         9  /* A link's silence, a tick, the longest pause. */
#define RESTART_S        3  /* A node that died is down for so long, at most, */
#define RESTART_LATE_S   12 /* or, in one world of three, for so long. */
#define OUTCOME_WAIT_MS  60000
#define OUTCOME_SOON_MS  8000
#define PATIENCE_S       300
#define PROBE_S          60
#define STOP_S           60
#define OPERATOR_MS      3000
#define OPERATOR_FIRST_S 12 /* Users wait for him for so long, in half of the worlds. */

static const char *const operations[] = {
#define X(name) #name,
    MAIL_OPERATIONS(X)
#undef X
        NULL};

/* ---- Faults -------------------------------------------------------------------------------------------- */

enum kind { PROXY, DIRECTOR, BACKEND };

#define BIT(fault)     (1u << SIM_##fault)
#define OF_PROCESSES   (BIT(KILL) | BIT(POWER) | BIT(STOP) | BIT(CLOCK))
#define OF_POWER       (BIT(LOST) | BIT(TORN) | BIT(REORDERED))
#define OF_DISKS       (BIT(WRITE_ERROR) | BIT(FLUSH_ERROR) | BIT(FULL) | BIT(SLOW_DISK))
#define OF_CONNECTIONS (BIT(PARTITION) | BIT(RESET) | BIT(HALF_OPEN) | BIT(DELAY))

static const struct sim_site sites[] = {
    {"proxy", OF_PROCESSES, PROXY},
    {"director", OF_PROCESSES | OF_DISKS, DIRECTOR},
    {"backend", OF_PROCESSES | OF_POWER | OF_DISKS | BIT(READ_ERROR), BACKEND},
    {"proxy>backend", BIT(PARTITION), PROXY, BACKEND, false},
    {"backend>proxy", BIT(PARTITION), BACKEND, PROXY, false},
    {"proxy=backend", OF_CONNECTIONS, PROXY, BACKEND, true},
    {"proxy>director", BIT(PARTITION), PROXY, DIRECTOR, false},
    {"director>proxy", BIT(PARTITION), DIRECTOR, PROXY, false},
    {"proxy=director", OF_CONNECTIONS, PROXY, DIRECTOR, true},
    {"director>backend", BIT(PARTITION), DIRECTOR, BACKEND, false},
    {"backend>director", BIT(PARTITION), BACKEND, DIRECTOR, false},
    {"director=backend", OF_CONNECTIONS, DIRECTOR, BACKEND, true},
};
_Static_assert(ARRAY_COUNT(sites) <= SIM_SITES_MAX, "all sites are counted");

/* ---- The operator: makes the cluster, and goes on giving the director something to write ----------------- */

static void homes_ask(struct cluster *cl)
{
    for (unsigned k = 0; k < LEDGER_ACCOUNTS; k++) {
        struct control_route route = {.known = false};
        char user[8];

        snprintf(user, sizeof user, "u%u", k);
        route.user = slice_str(user);
        control_self()->route(&route);
        for (unsigned s = 0; route.known && s < cl->server_count; s++)
            if (strcmp(cl->servers[s].name, route.node) == 0)
                cl->mail->ledger->homes[k] = cl->servers[s].node;
    }
}

static bool pause_ms(uint32_t ms)
{
    return fiber_sleep_ms(ms) == 0 && control_self() != NULL;
}

/* `ctl cluster place`. True: it is done, or the account was made before. */
static bool user_place(const struct cluster *cl, unsigned k, bool *begun)
{
    struct control_place place = {.begin = !*begun};
    char user[8];

    if (cl->placed[k] == NULL)
        return true;
    snprintf(user, sizeof user, "u%u", k);
    place.user = slice_str(user);
    place.node = slice_str(cl->placed[k]);
    control_self()->place(&place);
    *begun = place.rc == 0 || place.rc == -EALREADY;
    return *begun && (place.done || place.refused || place.rc == -EALREADY);
}

/* All of them, by each director anew. A backend may not be there so far. */
static bool users_place(struct cluster *cl)
{
    bool begun[LEDGER_ACCOUNTS] = {false};
    unsigned settled;

    do {
        settled = 0;
        for (unsigned k = 0; k < LEDGER_ACCOUNTS; k++)
            settled += user_place(cl, k, &begun[k]);
    } while (settled < LEDGER_ACCOUNTS && pause_ms(5));
    cl->settled = cl->settled || settled == LEDGER_ACCOUNTS;
    return settled == LEDGER_ACCOUNTS;
}

/* `ctl cluster init`, until it has succeeded; then he revokes tickets. */
static void operator_run(void *arg)
{
    struct mail *mail = arg;
    struct control_cluster cluster = {.deal = true};

    do {
        if (!pause_ms(20))
            return;
        control_self()->cluster(&cluster);
    } while (!cluster.dealt || !cluster.settled);
    if (!users_place(mail->cluster))
        return;
    homes_ask(mail->cluster);
    while (pause_ms(1 + (uint32_t)(random_u64() % OPERATOR_MS)) && cluster_revoke_one(mail->cluster))
        ;
}

static int director_start(struct shard *s)
{
    int rc = role_ops.start(s);

    if (rc == 0 && s->index == 0)
        ASSERT(fiber_start("operator", RUN_INTERACTIVE, operator_run, s->node->owner) != NULL);
    return rc;
}

static void director_stop(struct shard *s)
{
    role_ops.stop(s);
}

static const struct node_ops director_ops = {director_start, director_stop};

/* ---- Nodes --------------------------------------------------------------------------------------------- */

struct lines { /* Of a configuration. */
    char text[16][96];
    const char *pointers[16];
    size_t count;
};

static void line(struct lines *l, const char *format, ...) PRINTF_LIKE(2, 3);
static void line(struct lines *l, const char *format, ...)
{
    va_list args;

    ASSERT(l->count < ARRAY_COUNT(l->text));
    va_start(args, format);
    vsnprintf(l->text[l->count], sizeof l->text[0], format, args);
    va_end(args);
    l->pointers[l->count] = l->text[l->count];
    l->count++;
}

static void lines_of_links(struct lines *l, const struct cluster *cl)
{
    if (!cl->tls)
        return;
    line(l, "cluster.cert=/data/node.crt");
    line(l, "cluster.key=/data/node.key");
    line(l, "cluster.ca=/data/ca.crt");
}

static void lines_of_proxy(struct lines *l, const struct cluster_server *s, const struct cluster *cl)
{
    line(l, "imap.listen=%s:143", s->ip);
    line(l, "lmtp.listen=%s:24", s->ip);
    line(l, "limits.outcome_wait=%us", cl->outcome_wait_ms / 1000);
    line(l, "directors=127.0.1.%u:%u", cl->mail->proxy_count, CLUSTER_LINK_PORT);
}

static void lines_of_director(struct lines *l, const struct cluster_server *s, const struct cluster *cl)
{
    unsigned first = cl->mail->proxy_count + 1;
    char backends[64] = "";

    for (unsigned k = 0; k < cl->backend_count; k++)
        snprintf(backends + strlen(backends), sizeof backends - strlen(backends), "%s127.0.1.%u:%u",
                 k > 0 ? "," : "", first + k, CLUSTER_LINK_PORT);
    line(l, "link.listen=%s:%u", s->ip, CLUSTER_LINK_PORT);
    line(l, "backends=%s", backends);
    line(l, "auth.static_password=secret");
    line(l, "auth.cache_size=64");
}

static const char *const role_names[] = {"proxy", "director", "backend"};

static struct config *server_config(const struct cluster_server *s, enum kind kind, const struct cluster *cl)
{
    struct lines l = {.count = 0};

    line(&l, "role=%s", role_names[kind]);
    line(&l, "node=%s", s->name);
    line(&l, "data=/data");
    lines_of_links(&l, cl);
    if (kind == PROXY)
        lines_of_proxy(&l, s, cl);
    else if (kind == DIRECTOR)
        lines_of_director(&l, s, cl);
    else
        line(&l, "link.listen=%s:%u", s->ip, CLUSTER_LINK_PORT);
    return mail_config(l.pointers, l.count, sim_seed(cl->mail->world));
}

/* The stand-in's certificate is a line: the node's name and its roles. */
static const struct given *certificates(struct cluster_server *s, enum kind kind)
{
    int size = snprintf(s->certificate, sizeof s->certificate, "%s %s", s->name, role_names[kind]);

    s->files[0] = (struct given_file){SLICE("/data/node.crt"), slice_of(s->certificate, (size_t)size)};
    s->files[1] = (struct given_file){SLICE("/data/node.key"), SLICE("key")};
    s->files[2] = (struct given_file){SLICE("/data/ca.crt"), SLICE("ca")};
    s->given = (struct given){s->files, ARRAY_COUNT(s->files)};
    return &s->given;
}

static const char *const names[][3] = {
    {"p0", "d0", NULL}, {"p1", NULL, "b0"}, {NULL, NULL, "b1"}, {NULL, NULL, "b2"}};
static const char *const ips[] = {"127.0.1.0", "127.0.1.1", "127.0.1.2",
                                  "127.0.1.3", "127.0.1.4", "127.0.1.5"};

/* Their addresses are in order: proxies, the director, backends. */
static void server_add(struct cluster *cl, enum kind kind)
{
    struct cluster_server *s = &cl->servers[cl->server_count];
    unsigned shards_max = kind == BACKEND ? 3 : 2;

    s->name = names[cl->server_count - (kind == PROXY ? 0 : cl->mail->proxy_count)][kind];
    s->ip = ips[cl->server_count++];
    s->config = server_config(s, kind, cl);
    s->node = sim_node_new(
        cl->mail->world,
        &(struct sim_node_options){.name = s->name,
                                   .ip = s->ip,
                                   .shard_count = 1 + (unsigned)sim_below(cl->mail->world, shards_max),
                                   .ops = kind == DIRECTOR ? &director_ops : &role_ops,
                                   .config = s->config,
                                   .given = cl->tls ? certificates(s, kind) : NULL,
                                   .owner = cl->mail,
                                   .kind = kind});
}

static void proxy_add(struct cluster *cl, struct mail_proxy *p)
{
    const struct cluster_server *s = &cl->servers[cl->server_count];
    char text[32];

    server_add(cl, PROXY);
    p->node = s->node;
    snprintf(text, sizeof text, "%s:143", s->ip);
    ASSERT(net_addr_parse(slice_str(text), &p->imap));
    snprintf(text, sizeof text, "%s:24", s->ip);
    ASSERT(net_addr_parse(slice_str(text), &p->lmtp));
}

/* One of each, or two proxies and three backends. */
static void servers_make(struct cluster *cl)
{
    struct mail *mail = cl->mail;
    bool small = sim_below(mail->world, 2) == 0;

    mail->proxy_count = small ? 1 : 2;
    cl->backend_count = small ? 1 : 3;
    cl->tls = sim_below(mail->world, 2) == 0;
    cl->outcome_wait_ms = sim_below(mail->world, 2) == 0 ? OUTCOME_WAIT_MS : OUTCOME_SOON_MS;
    for (unsigned k = 0; k < mail->proxy_count; k++)
        proxy_add(cl, &mail->proxies[k]);
    server_add(cl, DIRECTOR);
    cl->director = cl->servers[cl->server_count - 1].node;
    for (unsigned k = 0; k < cl->backend_count; k++)
        server_add(cl, BACKEND);
    for (unsigned k = 0; k < LEDGER_ACCOUNTS; k++) {
        unsigned backend = (unsigned)sim_below(mail->world, 2 * cl->backend_count);

        if (backend < cl->backend_count)
            cl->placed[k] = cl->servers[cl->server_count - 1 - backend].name;
    }
}

/* ---- Clients ------------------------------------------------------------------------------------------- */

static int idlers_start(struct shard *shard)
{
    struct mail *mail = shard->node->owner;

    for (unsigned k = 0; k < LEDGER_ACCOUNTS * mail->proxy_count; k++)
        if (fiber_start("idler", RUN_INTERACTIVE, cluster_idler_run, mail) == NULL)
            return -EAGAIN;
    return 0;
}

static int watchers_start(struct shard *shard)
{
    for (unsigned k = 0; k < CLUSTER_WATCHERS; k++)
        if (fiber_start("watcher", RUN_INTERACTIVE, cluster_watcher_run, shard->node->owner) == NULL)
            return -EAGAIN;
    return 0;
}

static int probes_start(struct shard *shard)
{
    for (unsigned k = 0; k < LEDGER_ACCOUNTS; k++)
        if (fiber_start("probe", RUN_INTERACTIVE, cluster_probe_run, shard->node->owner) == NULL)
            return -EAGAIN;
    return 0;
}

static int rogue_start(struct shard *shard)
{
    return fiber_start("rogue", RUN_INTERACTIVE, cluster_rogue_run, shard->node->owner) != NULL ? 0 : -EAGAIN;
}

static const struct node_ops idlers_ops = {.start = idlers_start}, probes_ops = {.start = probes_start},
                             watchers_ops = {.start = watchers_start}, rogue_ops = {.start = rogue_start};

/* ---- The run ------------------------------------------------------------------------------------------- */

/* Who comes first: the users, or the operator who places them. */
static bool users_may_come(void *arg)
{
    const struct mail *mail = arg;

    return mail->cluster->settled || sim_now_ns(mail->world) >= mail->cluster->users_ns;
}

static bool all_ready(void *arg)
{
    const struct cluster *cl = ((struct mail *)arg)->cluster;

    for (unsigned k = 0; k < cl->server_count; k++)
        if (!sim_node_ready(cl->servers[k].node))
            return false;
    return true;
}

/* Each has ended since it was told to; some may have been started again by now. */
static bool all_stopped(void *arg)
{
    const struct cluster *cl = ((struct mail *)arg)->cluster;

    for (unsigned k = 0; k < cl->server_count; k++) {
        const struct cluster_server *s = &cl->servers[k];

        if (sim_node_up(s->node) && sim_node_lives(s->node) == s->life)
            return false;
    }
    return true;
}

static bool calm(void *arg)
{
    const struct mail *mail = arg;

    return sim_now_ns(mail->world) >= mail->until_ns && sim_calm(mail->world) && all_ready(arg);
}

static bool look_at_all(struct mail *mail, struct sim_node *checkers)
{
    struct cluster *cl = mail->cluster;
    bool ended;

    for (unsigned k = 0; k < cl->server_count; k++)
        if (!sim_node_up(cl->servers[k].node))
            sim_node_start(cl->servers[k].node);
    if (!mail_run_for(mail, PATIENCE_S, all_ready, "not all nodes start when everything is to be looked at"))
        return false;
    mail->checkers_ended = mail->checkers_begun = 0;
    sim_node_start(checkers);
    ended = mail_run_for(mail, PATIENCE_S, mail_checkers_ended, "the accounts cannot be looked at");
    sim_node_kill(checkers);
    return ended;
}

/* All nodes end as an operator would end them, and everything is looked at; then the power fails everywhere, and what was
 * acknowledged is still there. */
static void check(struct mail *mail)
{
    struct sim_node *checkers = mail_client_node(mail, "checkers", "127.0.0.3", &mail_checkers_ops);
    struct cluster *cl = mail->cluster;

    for (unsigned k = 0; k < cl->server_count; k++) {
        cl->servers[k].life = sim_node_lives(cl->servers[k].node);
        sim_node_stop(cl->servers[k].node);
    }
    if (!mail_run_for(mail, STOP_S, all_stopped, "not all nodes stop") || !look_at_all(mail, checkers))
        return;
    for (unsigned k = 0; k < cl->server_count; k++)
        sim_node_power(cl->servers[k].node);
    (void)look_at_all(mail, checkers);
}

/* A store whose disk has failed may refuse changes until it is opened again: the operator is told, and does that. */
static void restart_failed(struct mail *mail)
{
    struct cluster *cl = mail->cluster;

    for (unsigned k = 0; k < cl->server_count; k++) {
        if (sim_node_disk_faults(cl->servers[k].node) == 0)
            continue;
        sim_node_kill(cl->servers[k].node);
        sim_node_start(cl->servers[k].node);
    }
}

/* Faults have ended: everything works soon, and whoever idles hears of new mail. */
static bool heals(struct mail *mail)
{
    struct sim_node *probes;
    bool ok;

    if (!mail_run_for(mail, FAULTS_S + HEAL_S, calm, "not all nodes are up again"))
        return false;
    restart_failed(mail);
    ok = mail_run_for(mail, HEAL_S, all_ready, "not all nodes that were restarted are up again") &&
         mail_run_for(mail, HEAL_S, cluster_all_idle, "not everybody idles again") &&
         mail_run_for(mail, PATIENCE_S, mail_clients_ended, "the clients have not ended");
    if (!ok)
        return false;
    probes = mail_client_node(mail, "probes", "127.0.0.4", &probes_ops);
    sim_node_start(probes);
    ok = mail_run_for(mail, PROBE_S, cluster_probes_ended, "new mail does not come");
    mail->cluster->idlers_stop = mail->cluster->watchers_stop = true;
    ok = ok && mail_run_for(mail, PROBE_S, cluster_idlers_ended, "those who idle do not end") &&
         mail_run_for(mail, PROBE_S, cluster_watchers_ended, "sessions of those who are revoked do not end");
    return ok;
}

static void nemesis_start(const struct mail *mail)
{
    struct sim_world *w = mail->world;

    sim_nemesis_start(w, &(struct sim_nemesis_options){
                             .faults = UINT32_MAX,
                             .sites = sites,
                             .site_count = ARRAY_COUNT(sites),
                             .mean_ns = sim_range(w, 60, 1000) * SIM_MS,
                             .until_ns = sim_now_ns(w) + FAULTS_S * SIM_S,
                             .restart_ns = (sim_below(w, 3) == 0 ? RESTART_LATE_S : RESTART_S) * SIM_S});
}

static void cluster_run(struct sim_world *w)
{
    struct mail mail = {.world = w,
                        .ledger = ledger_new(w),
                        .patience_ms = 150000,
                        .settle_ms = 60000,
                        .heal_ns = HEAL_S * SIM_S,
                        .tell_ns = TELL_S * SIM_S};
    struct cluster cl = {.mail = &mail};
    struct sim_node *clients, *idlers, *rogue, *watchers;

    mail.cluster = &cl;
    mail.ledger->notice_ns = NOTICE_S * SIM_S;
    mail.even = sim_below(w, 2) == 0;
    mail.gather = sim_seed(w) / 3 % 2 == 0;
    mail.until_ns = sim_now_ns(w) + (FAULTS_S + CALM_S) * SIM_S;
    servers_make(&cl);
    clients = mail_client_node(&mail, "clients", "127.0.0.1", &mail_clients_ops);
    idlers = mail_client_node(&mail, "idlers", "127.0.0.2", &idlers_ops);
    rogue = mail_client_node(&mail, "rogue", "127.0.0.5", &rogue_ops);
    watchers = mail_client_node(&mail, "watchers", "127.0.0.6", &watchers_ops);
    nemesis_start(&mail);
    for (unsigned k = 0; k < cl.server_count; k++)
        sim_node_start(cl.servers[k].node);
    cluster_look(&cl);
    cl.users_ns = sim_now_ns(w) + sim_below(w, 2) * OPERATOR_FIRST_S * SIM_S;
    if (!mail_run_for(&mail, OPERATOR_FIRST_S + 1, users_may_come, "time does not pass"))
        return;
    sim_node_start(clients);
    sim_node_start(idlers);
    sim_node_start(rogue);
    sim_node_start(watchers);
    cluster_revoked_look(&cl);
    if (heals(&mail))
        check(&mail);
    ledger_free(mail.ledger);
    for (unsigned k = 0; k < cl.server_count; k++)
        config_free(cl.servers[k].config);
}

const struct scenario scenario_cluster = {
    "cluster", "proxies, a director and backends, each a node; clients, MTAs, faults", operations,
    cluster_run, false};
