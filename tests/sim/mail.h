/* tests/sim/mail.h -- the scenarios with real roles: what their virtual clients share. */
#pragma once
#include "tests/sim/imap.h"
#include "tests/sim/ledger.h"

#define MAIL_OPERATIONS(X)                                                                                   \
    X(LOGIN)                                                                                                 \
    X(SELECT)                                                                                                \
    X(FETCH)                                                                                                 \
    X(STORE)                                                                                                 \
    X(SEARCH)                                                                                                \
    X(APPEND)                                                                                                \
    X(COPY)                                                                                                  \
    X(MOVE)                                                                                                  \
    X(EXPUNGE)                                                                                               \
    X(CLOSE)                                                                                                 \
    X(CREATE)                                                                                                \
    X(DELETE)                                                                                                \
    X(STATUS)                                                                                                \
    X(NOOP)                                                                                                  \
    X(IDLE)                                                                                                  \
    X(DELIVER)

enum mail_operation {
#define X(name) MAIL_##name,
    MAIL_OPERATIONS(X)
#undef X
};

#define MAIL_PROXIES_MAX 2
#define MAIL_CLIENTS     (LEDGER_ACCOUNTS * LEDGER_CLIENTS)
#define MAIL_SENDERS     3

struct mail_proxy { /* Where clients and MTAs go. */
    struct sim_node *node;
    struct net_addr imap, lmtp;
};

struct cluster;

struct mail {
    struct sim_world *world;
    struct ledger *ledger;
    struct mail_proxy proxies[MAIL_PROXIES_MAX];
    unsigned proxy_count;
    struct cluster *cluster; /* NULL: one server is all there is. */
    uint32_t patience_ms;    /* Until a client without an answer goes away. */
    uint32_t settle_ms;      /* After that nothing can come of a change of unknown outcome. */
    uint64_t heal_ns;        /* Until everything works, when faults have ended: */
    uint64_t tell_ns;        /* from then on an idling client is told of new mail so soon. */
    uint64_t until_ns;       /* Clients begin nothing after it. */
    bool even;               /* Clients do everything equally often. */
    bool gather;             /* Every so often most of them idle, at the same time. */
    uint32_t step_ms;        /* They act all at once, every so often; 0: each when it likes. */
    unsigned clients_begun, clients_ended, senders_begun, checkers_begun, checkers_ended;
    uint64_t told, checked; /* Messages that an idling client was told of; whole mailboxes compared. */
};

/* A node without faults whose `owner` is `mail`. */
struct sim_node *mail_client_node(struct mail *mail, const char *name, const char *ip,
                                  const struct node_ops *ops);
extern const struct node_ops mail_clients_ops, mail_checkers_ops;
/* Runs until until(mail); false, and a violation, if that does not come within so many seconds. */
bool mail_run_for(struct mail *mail, uint64_t seconds, bool (*until)(void *mail), const char *what);
bool mail_clients_ended(void *mail);
bool mail_checkers_ended(void *mail);
/* Of settings, and what the seed says of sleep; exits where there is a mistake. */
struct config *mail_config(const char *const *assignments, size_t count, uint64_t seed);
/* Connects to one of the proxies, and logs in. As imap_command(). */
MUST_CHECK int mail_login(struct mail *mail, struct imap *c, const struct mail_proxy *proxy);
const struct mail_proxy *mail_proxy_any(const struct mail *mail);
/* A new message, by LMTP. The code of the answer, or -errno. */
MUST_CHECK int mail_deliver(struct mail *mail, const struct mail_proxy *proxy, struct ledger_mailbox *to);

/* One fiber each. */
void mail_client_run(void *mail);
void mail_sender_run(void *mail);
void mail_checker_run(void *mail);

/* An operation of a client, counted. After a change of unknown outcome its client waits until nothing can come of
 * it any more. */
void mail_begin(struct sim_operation *o, enum mail_operation kind, struct imap *c);
int mail_end(struct sim_operation *o, struct imap *c, int rc); /* Returns `rc`. */

/* Creates or deletes the client's own folder. */
MUST_CHECK int mail_act_folder(struct mail *mail, struct imap *c, unsigned client);
/* All folders of the account are as was told. As imap_command(). */
MUST_CHECK int mail_check_folders(struct imap *c);

/* One action, by chance, in the selected mailbox. As imap_command(). */
MUST_CHECK int mail_act(struct mail *mail, struct imap *c, unsigned client);
