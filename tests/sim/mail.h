/* tests/sim/mail.h -- the scenario with real roles: what its virtual clients share. */
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

struct mail {
    struct sim_world *world;
    struct ledger *ledger;
    struct sim_node *server;
    struct net_addr imap, lmtp;
    uint64_t until_ns; /* Clients begin nothing after it. */
    bool even;         /* Clients do everything equally often. */
    uint32_t step_ms;  /* They act all at once, every so often; 0: each when it likes. */
    unsigned clients_begun, clients_ended, senders_begun, checkers_begun, checkers_ended;
    uint64_t told, checked; /* Messages that an idling client was told of; whole mailboxes compared. */
};

/* One fiber each. */
void mail_client_run(void *mail);
void mail_sender_run(void *mail);
void mail_checker_run(void *mail);

/* An operation of a client, counted. After a change of unknown outcome its client waits until nothing can come of
 * it any more. */
#define MAIL_SETTLE_MS 6000
void mail_begin(struct sim_operation *o, enum mail_operation kind, struct imap *c);
int mail_end(struct sim_operation *o, struct imap *c, int rc); /* Returns `rc`. */

/* Creates or deletes the client's own folder. */
MUST_CHECK int mail_act_folder(struct mail *mail, struct imap *c, unsigned client);
/* All folders of the account are as was told. As imap_command(). */
MUST_CHECK int mail_check_folders(struct imap *c);

/* One action, by chance, in the selected mailbox. As imap_command(). */
MUST_CHECK int mail_act(struct mail *mail, struct imap *c, unsigned client);
