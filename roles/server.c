#include "roles/server.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "core/node.h"
#include "net/link/link.h"
#include "net/link/wire.h"
#include "roles/admin/admin.h"
#include "roles/confinement.h"
#include "roles/director/passdb.h"
#include "roles/identity.h"
#include "roles/process.h"
#include "roles/reload.h"
#include "roles/role.h"
#include "roles/settings.h"
#include "roles/supervisor/handover.h"
#include "roles/upgrade.h"
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <unistd.h>

#define STOP_MORE_MS      5000 /* After the clients' time: for the store, to write what it has. */
#define TAKE_POLL_MS      2    /* Once in the life of a process. */
#define LOST_WAIT_MS      200
#define TRIAL_MS          300 /* Of a new server that serves, before the old one gives up what it has kept. */
#define SOCKETS_OF_OTHERS (LINK_INBOUND_MAX + 1024) /* Of a shard, besides clients: links, the operator's. */

struct server {
    const struct config *config;
    struct handover handover;
    struct identity identity;
    struct confinement confinement;
    bool failed, started_log;
    atomic_int reload; /* enum reload_state */
    struct handover_order order;
    struct handover files; /* From ARRIVED to the end of RUNNING: the reload's. */
    /* Of an upgrade, the old process: */
    struct handover_fds ends;
    struct ledger *ends_ledger; /* Of the successor that they lead to. */
    bool asked;                 /* To give: shard 0 takes `ends`. */
    bool giving, given;         /* Shard 0's. given: roles have ended, and sessions wait for a successor. */
    bool lost;                  /* There is no successor any more. */
    char lost_error[HANDOVER_ERROR_MAX];
    /* The new one: */
    bool take;                /* What the old one had open is free. */
    struct ledger *ledger;    /* A part for each shard. */
    atomic_uint taken;        /* Shards that have all that comes. */
    atomic_ullong lost_count; /* Sessions that ended with another one before this one. */
};

enum reload_state { RELOAD_NONE, RELOAD_ARRIVED, RELOAD_RUNNING };

/* ---- On the shards ------------------------------------------------------------------------------------- */

static struct server *server_of(struct shard *s)
{
    return s->node->owner;
}

static void server_say(struct shard *s, enum handover_word word)
{
    handover_say(server_of(s)->handover.control_fd, word);
}

static void certificates_reload(struct shard *s, char error[HANDOVER_ERROR_MAX])
{
    struct server *v = server_of(s);

    _Static_assert(TLS_ERROR_MAX <= HANDOVER_ERROR_MAX, "one holds the other");
    if (v->order.error[0] != '\0') {
        memcpy(error, v->order.error, HANDOVER_ERROR_MAX);
        log_event(LOG_ERROR, "certificates and keys stay as they were", "error=%s",
                  log_quote(slice_str(error)));
        return;
    }
    s->node->given = &v->files.given;
    if (reload_certificates(s, error) < 0)
        log_event(LOG_ERROR, "certificates and keys stay as they were", "error=%s",
                  log_quote(slice_str(error)));
    else
        error[0] = '\0';
    s->node->given = NULL;
}

/* Files can be read by the supervisor alone: whoever asks here makes it send them, and with them this comes again. */
static void server_reload(struct shard *s)
{
    struct server *v = server_of(s);
    char error[HANDOVER_ERROR_MAX] = "";
    int arrived = RELOAD_ARRIVED;

    if (!atomic_compare_exchange_strong(&v->reload, &arrived, RELOAD_RUNNING)) {
        server_say(s, HANDOVER_RELOAD_WANTED);
        return;
    }
    admin_reload_begun(s);
    if (s->slot[SLOT_DIRECTOR] != NULL)
        passdb_reload(s);
    certificates_reload(s, error);
    handover_fini(&v->files);
    admin_reload_ended(s, error);
    atomic_store(&v->reload, RELOAD_NONE);
    server_say(s, HANDOVER_RELOADED);
}

/* ---- Upgrade, the old process -------------------------------------------------------------------------- */

static void server_upgrade(struct shard *s)
{
    server_say(s, HANDOVER_UPGRADE_WANTED);
}

static void shard_stop(struct shard *s)
{
    role_ops.stop(s);
    admin_drain(s);
    role_admin.stop(s);
}

/* By shard 0's fiber, which has taken the order. The ends are its own from here on. */
static bool ends_take(struct server *v, int fds[HANDOVER_FDS_MAX], const struct ledger **ledgers_out)
{
    if (!__atomic_load_n(&v->asked, __ATOMIC_ACQUIRE))
        return false;
    memcpy(fds, v->ends.at, sizeof v->ends.at);
    *ledgers_out = v->ends_ledger;
    __atomic_store_n(&v->asked, false, __ATOMIC_RELEASE);
    return true;
}

/* Nothing is served here any more, and nothing is open but the clients' sockets. They wait for a successor, and if that one dies,
 * for the next; the supervisor says when one serves. */
static void server_keep(struct shard *s, int fds[HANDOVER_FDS_MAX], const struct ledger *ledgers)
{
    struct server *v = server_of(s);

    for (bool again = false;; again = true) {
        int rc = upgrade_send(s, fds, ledgers, again);
        struct upgrade_left left = upgrade_left(s);

        log_event(rc == 0 ? LOG_INFO : LOG_ERROR,
                  rc == 0 ? "sessions are handed to the new server"
                          : "upgrade: the new server has ended before it had all sessions",
                  "sent=%llu lost=%llu kept=%llu", (unsigned long long)left.sent,
                  (unsigned long long)left.lost, (unsigned long long)left.kept);
        while (!ends_take(v, fds, &ledgers)) {
            if (fiber_sleep_ms(TAKE_POLL_MS) < 0)
                return;
        }
    }
}

static void server_leave(struct shard *s, const struct upgrade_result *result, int fds[HANDOVER_FDS_MAX],
                         const struct ledger *ledgers)
{
    log_event(LOG_INFO, "sessions wait for the new server", "sessions=%llu dropped=%llu frozen_ms=%llu",
              (unsigned long long)result->moved, (unsigned long long)result->dropped,
              (unsigned long long)result->frozen_ms);
    server_of(s)->given = true;
    admin_upgrade_ended(s, result, "");
    admin_answer_all(s);
    __atomic_store_n(&s->node->stopping, true, __ATOMIC_RELAXED);
    upgrade_on_all(s, shard_stop);
    dir_unlock_all();
    server_say(s, HANDOVER_GIVEN);
    server_keep(s, fds, ledgers);
}

static void server_give(struct shard *s)
{
    struct server *v = server_of(s);
    struct upgrade_result result = {0};
    const struct ledger *ledgers;
    int fds[HANDOVER_FDS_MAX], rc;

    if (!ends_take(v, fds, &ledgers))
        return;
    v->giving = true;
    rc = upgrade_pack(s, fds, &v->lost, &result);
    for (int ms = 0; rc < 0 && ms < LOST_WAIT_MS && !__atomic_load_n(&v->lost, __ATOMIC_ACQUIRE);
         ms += TAKE_POLL_MS)
        (void)fiber_sleep_ms(TAKE_POLL_MS); /* The supervisor may know why. */
    v->giving = false;
    if (rc < 0) {
        const char *why = v->lost && v->lost_error[0] != '\0' ? v->lost_error : strerror(-rc);

        log_event(LOG_ERROR, "upgrade: failed; all sessions stay here", "error=%s",
                  log_quote(slice_str(why)));
        admin_upgrade_ended(s, &result, why);
        server_say(s, HANDOVER_KEPT);
        return;
    }
    server_leave(s, &result, fds, ledgers);
}

/* What the supervisor says while nothing is given is for the operator who waits. */
static void server_hand_over(struct shard *s)
{
    static const struct upgrade_result none;
    struct server *v = server_of(s);

    if (v->giving || v->given) /* Its fiber looks itself. */
        return;
    if (__atomic_load_n(&v->asked, __ATOMIC_ACQUIRE))
        server_give(s);
    else if (__atomic_load_n(&v->lost, __ATOMIC_ACQUIRE))
        admin_upgrade_ended(s, &none, v->lost_error);
}

/* ---- Upgrade, the new one ------------------------------------------------------------------------------ */

/* Until what the other process has open, `data` above all, is free. */
static int server_wait(struct shard *s)
{
    struct server *v = server_of(s);
    int rc = upgrade_greet(s, v->handover.predecessors[s->index]);

    if (rc < 0)
        log_event(LOG_ERROR, "upgrade: the old server is not understood", "shard=%u error=%s", s->index,
                  log_error(rc));
    while (rc == 0 && !__atomic_load_n(&v->take, __ATOMIC_ACQUIRE))
        rc = fiber_sleep_ms(TAKE_POLL_MS);
    return rc;
}

/* Nobody is served before all shards have all of theirs. */
static void server_take(struct shard *s)
{
    struct server *v = server_of(s);
    struct ledger *ledger = &v->ledger[s->index];
    struct upgrade_taken taken = upgrade_take(s, v->handover.predecessors[s->index], ledger);

    atomic_fetch_add(&v->lost_count, taken.lost);
    atomic_fetch_add(&v->taken, 1);
    while (atomic_load(&v->taken) < s->node->shard_count) {
        if (fiber_sleep_ms(TAKE_POLL_MS) < 0)
            break;
    }
    upgrade_serve(ledger);
    if (taken.count > 0)
        (void)fiber_sleep_ms(TRIAL_MS);
}

/* ---- On the shards, start and stop --------------------------------------------------------------------- */

/* The operator is heard from the first moment to the last. If he cannot be, server_ready() ends the server: the
 * shards open the store in step, and stop in step, so none of them can go alone. */
static int server_start(struct shard *s)
{
    struct server *v = server_of(s);
    int rc = v->handover.predecessor_count > 0 ? server_wait(s) : 0, heard;

    if (rc < 0)
        return rc;
    heard = role_admin.start(s);
    admin_takes_over(s, v->handover.predecessor_count > 0 || v->handover.anew);
    rc = role_ops.start(s);
    if (rc < 0 && heard == 0)
        role_admin.stop(s);
    if (rc < 0)
        return rc;
    if (v->handover.predecessor_count > 0)
        server_take(s);
    if (v->handover.anew)
        admin_begins_anew(s, v->handover.predecessor_count == 0 ? ADMIN_LOST_ALL : v->lost_count);
    admin_takes_over(s, false);
    return 0;
}

static void server_stop(struct shard *s)
{
    if (server_of(s)->given) /* Nothing is left here, or nobody takes it. */
        return;
    if (s->index == 0)
        server_say(s, HANDOVER_STOPPING);
    shard_stop(s);
}

/* ---- On the first thread ------------------------------------------------------------------------------- */

static int server_confine(void *arg)
{
    struct server *v = arg;
    int rc = confinement_enter(&v->confinement);

    if (rc < 0)
        return rc;
    rc = log_start(); /* Its thread is confined like all others. */
    v->started_log = rc == 0;
    return rc;
}

static int server_seal(void *arg)
{
    struct server *v = arg;
    int rc = confinement_seal(&v->confinement);

    if (rc == 0 && v->handover.predecessor_count > 0)
        handover_say(v->handover.control_fd, HANDOVER_STANDBY);
    return rc;
}

static void server_ready(struct node *node, void *arg)
{
    static const char text[] = "trireme: ready\n";
    struct server *v = arg;

    handover_forget(&v->handover);
    node->given = NULL;
    if (node->shards[0]->slot[SLOT_ADMIN] == NULL) { /* It has said why. */
        v->failed = true;
        node_stop(node);
        return;
    }
    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0)
        log_event(LOG_WARN, "standard output cannot be written", "error=%s", log_error(-errno));
    handover_say(v->handover.control_fd, HANDOVER_READY);
}

static void reload_ordered(struct server *v, struct node *node, const struct handover_order *order,
                           struct handover_fds *fds)
{
    if (atomic_load(&v->reload) != RELOAD_NONE)
        return;
    v->order = *order;
    v->files = (struct handover){.control_fd = -1};
    if (order->error[0] == '\0' && handover_receive_files(order, fds, &v->files) < 0)
        snprintf(v->order.error, sizeof v->order.error, "what the supervisor has sent cannot be read");
    atomic_store(&v->reload, RELOAD_ARRIVED);
    node_reload(node);
}

static void give_ordered(struct server *v, struct node *node, struct handover_fds *fds)
{
    bool good = fds->count == node->shard_count + 1 && !__atomic_load_n(&v->asked, __ATOMIC_ACQUIRE);
    struct ledger *ledger = good ? handover_ledger_map(fds->at[node->shard_count], node->shard_count) : NULL;

    if (ledger == NULL) {
        handover_say(v->handover.control_fd, HANDOVER_KEPT);
        return;
    }
    close(fds->at[node->shard_count]);
    v->ends = *fds;
    v->ends_ledger = ledger;
    fds->count = 0;
    v->lost = false;
    v->lost_error[0] = '\0';
    __atomic_store_n(&v->asked, true, __ATOMIC_RELEASE);
    node_hand_over(node);
}

static void server_control(struct node *node, void *arg)
{
    struct server *v = arg;
    struct handover_order order;
    struct handover_fds fds;

    if (!handover_receive(v->handover.control_fd, &order, &fds))
        return;
    order.error[HANDOVER_ERROR_MAX - 1] = '\0';
    switch ((enum handover_order_kind)order.kind) {
    case HANDOVER_RELOAD:
        reload_ordered(v, node, &order, &fds);
        break;
    case HANDOVER_GIVE:
        give_ordered(v, node, &fds);
        break;
    case HANDOVER_NOT_GIVEN:
        memcpy(v->lost_error, order.error, sizeof v->lost_error);
        __atomic_store_n(&v->lost, true, __ATOMIC_RELEASE);
        node_hand_over(node);
        break;
    case HANDOVER_TAKE:
        __atomic_store_n(&v->take, true, __ATOMIC_RELEASE);
        break;
    case HANDOVER_STOP:
        node_stop(node);
        break;
    }
    handover_close(&fds);
}

static int node_start(struct server *v)
{
    static const struct node_ops ops = {server_start, server_stop, server_upgrade};
    const struct config *c = v->config;
    struct handover *h = &v->handover;
    bool clients = (settings_roles(c) & LINK_ROLE_PROXY) != 0;
    const struct node_options options = {
        .config = c,
        .given = &h->given,
        .ops = &ops,
        .owner = v,
        .data = config_string(c, "data"),
        .cpus = h->cpus,
        .shard_count = h->cpu_count,
        .helper_count = (unsigned)config_u64(c, "helpers"),
        .memory = h->memory,
        .ring_rights = confinement_ring_rights(&v->confinement),
        .sockets_max = (clients ? config_u64(c, "limits.connections") / h->cpu_count : 0) + SOCKETS_OF_OTHERS,
        .listeners = h->listeners,
        .listener_count = h->listener_count,
        .signals_from = h->supervisor,
        .confine = server_confine,
        .seal = server_seal,
        .stop_timeout_ms = (uint32_t)config_duration_ms(c, "shutdown.grace") + STOP_MORE_MS,
        .ready = server_ready,
        .reload = server_reload,
        .hand_over = server_hand_over,
        .control = server_control,
        .control_fd = h->control_fd,
        .arg = v,
    };
    char error[NODE_ERROR_MAX];
    int rc = node_run(&options, error);

    if (v->started_log)
        log_stop();
    if (rc < 0 && error[0] != '\0')
        fprintf(stderr, "trireme: %s\n", error);
    if (rc < 0 && v->confinement.required && v->confinement.missing[0] != '\0')
        return EX_UNAVAILABLE;
    if (rc == -EKEYREJECTED) /* Certificates: the log says which. */
        return EX_CONFIG;
    return rc < 0 || v->failed ? EX_OSERR : 0;
}

static int become(struct server *v)
{
    struct config_error error;
    int rc;

    if (!identity_find(v->config, &v->identity, &error)) {
        fprintf(stderr, "trireme: %s\n", error.text);
        return EX_CONFIG;
    }
    rc = identity_become(&v->identity);
    if (rc < 0) {
        fprintf(stderr, "trireme: cannot become the user %s: %s\n", v->identity.user, strerror(-rc));
        return EX_OSERR;
    }
    process_die_with(v->handover.supervisor); /* The kernel has forgotten it. */
    process_harden();
    return 0;
}

static int ledger_map(struct server *v)
{
    if (v->handover.predecessor_count == 0)
        return 0;
    v->ledger = handover_ledger_map(v->handover.ledger_fd, v->handover.cpu_count);
    close(v->handover.ledger_fd);
    if (v->ledger != NULL)
        return 0;
    fprintf(stderr, "trireme: cannot map the memory that a new server shares with the old one: %s\n",
            strerror(errno));
    return EX_OSERR;
}

static int run(struct server *v)
{
    int status = become(v);

    if (status == 0)
        status = ledger_map(v);
    if (status == 0)
        status = confinement_plan(v->config, &v->confinement);
    if (status == 0)
        status = node_start(v);
    confinement_fini(&v->confinement);
    return status;
}

int server_main(const struct options *o, int handover_fd)
{
    struct server v = {.failed = false};
    struct slice file;
    struct config *c;
    int status, rc = handover_read(handover_fd, &v.handover);

    if (rc < 0 || (o->config_file != NULL && !given_find(&v.handover.given, o->config_file, &file))) {
        fprintf(stderr, "trireme: " PROCESS_HANDOVER_OPTION " is not for you\n");
        return EX_USAGE;
    }
    process_die_with(v.handover.supervisor);
    (void)prctl(PR_SET_NAME, "trireme"); /* Not "exe". */
    c = options_config(o, o->config_file != NULL ? &file : NULL, &status);
    if (c != NULL) {
        v.config = c;
        status = run(&v);
        config_free(c);
    }
    handover_fini(&v.handover);
    return status;
}
