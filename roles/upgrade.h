/* roles/upgrade.h -- a server makes room for its successor, shard by shard, all of them in step (roles/proxy/moving.h, chest.h):
 *
 *   is the other one there? -> wait for what takes long (shutdown.grace) -> freeze -> all at rest are packed -> roles stop
 *      -> the successor's roles start -> sessions go over, batch by batch -> this process ends
 *
 * Until roles stop anything may fail, and this process serves on as if nothing had been. From then on it keeps the sessions, until a
 * successor takes them: if one dies, those that have not gone over go to the next.
 * What takes long has FIRST_WAIT_MS to end. What is frozen waits FREEZE_EASY_MS for those who are in the middle of something; if they are
 * not at rest by then, everybody goes on, and it is tried again, with twice the time to end. At the end of shutdown.grace it is FREEZE_MS, and whoever is not at rest then is dropped.
 * Owner: shard 0. */
#pragma once
#include "core/shard.h"

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
/* Behind the roles' end; `again` with another successor if the one before has ended: whoever went over to that one has ended, too.
 * 0; or -errno, and some are here still. Closes `fds`. */
MUST_CHECK int upgrade_send(struct shard *s, const int *fds, bool again);
struct upgrade_left {
    uint64_t kept; /* Sessions that are here. */
    uint64_t sent; /* That a successor has. */
    uint64_t lost; /* That one had which has ended. */
};
struct upgrade_left upgrade_left(struct shard *s);

/* ---- The successor: fibers of each shard --------------------------------------------------------------- */

/* Before its roles start. 0 or -errno: there is nobody whom it understands. */
MUST_CHECK int upgrade_greet(struct shard *s, int fd);
/* When they serve: whoever comes is served, and fd closed. Sessions that ended with other successors of the same process. */
uint64_t upgrade_take(struct shard *s, int fd);
