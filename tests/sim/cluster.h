/* tests/sim/cluster.h -- the scenario whose roles are nodes of their own: what its files share.
 * Owner: cluster.c, on its stack, for as long as the world lives. */
#pragma once
#include "core/given.h"
#include "tests/sim/mail.h"

#define CLUSTER_LINK_PORT    1143
#define CLUSTER_BACKENDS_MAX 3
#define CLUSTER_SERVERS_MAX  (MAIL_PROXIES_MAX + 1 + CLUSTER_BACKENDS_MAX)
#define CLUSTER_IDLERS_MAX   (MAIL_PROXIES_MAX * LEDGER_ACCOUNTS)

struct cluster_reach {           /* When a proxy last could not reach a node, so far as anybody looked. */
    uint64_t since_ns, until_ns; /* until < since: it cannot now. 0: it always could. */
    unsigned changes;            /* At the last look. */
};

struct cluster_server {
    struct sim_node *node;
    struct config *config;
    struct given given; /* Certificates of links. */
    struct given_file files[3];
    char certificate[32];
    const char *name, *ip;
    unsigned life;                                /* That was to end. */
    struct cluster_reach reach[MAIL_PROXIES_MAX]; /* By each proxy. */
};

#define CLUSTER_REVOKED_USERS 2 /* Whom the operator ends the sessions of; they have no part in the ledger. */
#define CLUSTER_WATCHERS      (6 * CLUSTER_REVOKED_USERS)

struct cluster_path {  /* From the director to a proxy. */
    uint64_t clear_ns; /* Since then bytes have passed all the time. */
    unsigned changes;  /* At the last look. */
};

struct cluster_watcher { /* A session of theirs. */
    uint64_t since_ns;   /* When it had logged in; 0: it has not. */
    uint64_t doomed_ns;  /* When its user was revoked, durably; 0: he was not. */
    unsigned user, proxy;
};

struct cluster_idler { /* One for each account, by each proxy: it idles for as long as it can. */
    bool idles;
    size_t count; /* Messages that it was told of. */
};

struct cluster {
    struct mail *mail;
    struct cluster_server servers[CLUSTER_SERVERS_MAX]; /* Proxies, the director, backends. */
    unsigned server_count, backend_count;
    struct sim_node *director;
    uint64_t ran_ns[MAIL_PROXIES_MAX]; /* Since when the proxy has not been standing still. */
    bool tls;
    bool settled;      /* The operator is done with `placed`; */
    uint64_t users_ns; /* users come then, or at that time. */
    const char *placed
        [LEDGER_ACCOUNTS]; /* By the operator, on that backend, if its account is not there before him; NULL: by the hash. */
    uint32_t outcome_wait_ms;
    struct cluster_idler idlers[CLUSTER_IDLERS_MAX];
    unsigned idlers_begun, idlers_ended, probes_begun, probes_ended;
    bool idlers_stop;
    struct cluster_path paths[MAIL_PROXIES_MAX];
    struct cluster_watcher watchers[CLUSTER_WATCHERS];
    unsigned watcher_count, watchers_ended;
    bool watchers_stop;
    uint64_t doomed;       /* Sessions that were to end. */
    uint64_t cut, unknown; /* Connections that ended within an answer; by an outcome that stayed unknown. */
};

/* ---- cluster_judge.c: what clients may expect of a proxy that lives ------------------------------------- */

void cluster_look(void *cluster); /* Every so often, from now on: who reaches whom. */
/* From here on, how each command of this client ends. */
void cluster_judges(struct cluster *cl, struct imap *c);
/* The same of a question that an MTA has put at `asked_ns`, which needs `needs` (NULL: nobody, or several). */
void cluster_judge_sender(const struct cluster *cl, const struct mail_proxy *proxy, unsigned proxy_life,
                          uint64_t asked_ns, const struct sim_node *needs, int rc);
/* Waits until nothing can come any more of what a client has asked for. */
void cluster_settle(const struct cluster *cl, const struct imap *c);
/* Who takes part in what is asked about that account by that proxy: of struct sim_operation. */
uint32_t cluster_nodes(const struct cluster *cl, const struct mail_proxy *proxy, unsigned account);

/* ---- cluster_rogue.c ----------------------------------------------------------------------------------- */

void cluster_rogue_run(void *mail); /* A fiber of a node of its own. */

/* ---- cluster_revoked.c: whose sessions the operator ends -------------------------------------------------- */

void cluster_watcher_run(void *mail);          /* A fiber each. */
void cluster_revoked_look(struct cluster *cl); /* From now on. */
/* By the director: one of these users. False: it stops. */
MUST_CHECK bool cluster_revoke_one(struct cluster *cl);
bool cluster_watchers_ended(void *mail); /* After watchers_stop. */

/* ---- cluster_idle.c: those who idle, and new mail for them ---------------------------------------------- */

void cluster_idler_run(void *mail); /* A fiber each. */
bool cluster_all_idle(void *mail);
bool cluster_idlers_ended(void *mail); /* After idlers_stop. */
/* One for each account, once everything works again: mail comes by each proxy, and idlers hear of it in time. */
void cluster_probe_run(void *mail);
bool cluster_probes_ended(void *mail);
