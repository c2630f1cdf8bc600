/* roles/upgrade.h -- a server makes room for its successor, shard by shard, all of them in step (roles/proxy/moving.h, chest.h):
 *
 *   is the other one there? -> wait for what takes long (shutdown.grace) -> freeze -> all at rest are packed -> roles stop
 *      -> the successor's roles start -> sessions go over, batch by batch -> all are there: it thaws, and serves -> this process ends
 *
 * Until roles stop anything may fail, and this process serves on as if nothing had been. From then on it keeps the sessions: if a
 * successor dies, all go to the next but those that it has used (chest.h). It uses nobody before all are there, and for TRIAL_MS it serves
 * while this process still has them: an executable that the first commands make crash takes with it those who gave them, and nobody else.
 * What takes long has FIRST_WAIT_MS to end. What is frozen waits FREEZE_EASY_MS for those who are in the middle of something; if they are
 * not at rest by then, everybody goes on, and it is tried again, with twice the time to end. At the end of shutdown.grace it is FREEZE_MS, and whoever is not at rest then is dropped.
 * Owner: shard 0. */
#pragma once
#include "core/shard.h"
#include "roles/words/ledger.h"

struct upgrade_result {
    uint64_t moved, dropped; /* Sessions. */
    uint64_t frozen_ms;
};

/* ---- The old process: fibers of shard 0; each suspends. `fds`: an end for each shard ------------------- */

/* Until roles may stop. Closes `fds` if it fails. `lost`: becomes true when there is no successor any more. 0; or -errno: everything is as it was. */
MUST_CHECK int upgrade_pack(struct shard *s, const int *fds, const bool *lost,
                            struct upgrade_result *result_out);
/* On every shard, in a fiber, at the same time; until all have returned. */
void upgrade_on_all(struct shard *s, void (*run)(struct shard *s));
/* Behind the roles' end; `again` with another successor if the one before has died: whom that one has used has ended with it. `ledgers`: the
 * successor's, one a shard, until the end of this process. 0 or -errno. Closes `fds`. */
MUST_CHECK int upgrade_send(struct shard *s, const int *fds, const struct ledger *ledgers, bool again);
struct upgrade_left {
    uint64_t kept; /* Sessions that are here alone. */
    uint64_t sent; /* That a successor has. */
    uint64_t lost; /* That one had used which has died. */
};
struct upgrade_left upgrade_left(struct shard *s);

/* ---- The successor: fibers of each shard --------------------------------------------------------------- */

/* Before its roles start. 0 or -errno: there is nobody whom it understands. */
MUST_CHECK int upgrade_greet(struct shard *s, int fd);
struct upgrade_taken {
    uint64_t count; /* Sessions. */
    uint64_t lost;  /* Those that ended with other successors of the same process. */
};
/* When they serve: takes whoever comes, and closes fd. From here on nobody new is heard, and who has come sleeps. */
struct upgrade_taken upgrade_take(struct shard *s, int fd, struct ledger *ledger);
/* When all shards have: this one serves. */
void upgrade_serve(struct ledger *ledger);
