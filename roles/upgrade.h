/* roles/upgrade.h -- a server makes room for its successor, shard by shard, all of them in step (roles/proxy/moving.h):
 *
 *   wait for what takes long (shutdown.grace) -> freeze -> all at rest go over -> READY of all -> COMMIT -> this process ends
 *
 * Until COMMIT anything may fail, and this process serves on as if nothing had been; behind it there is no way back. What is frozen
 * waits FREEZE_MS at most for those who are in the middle of something; whoever is not at rest by then is dropped.
 * Owner: shard 0. */
#pragma once
#include "core/shard.h"

struct upgrade_result {
    uint64_t moved, dropped; /* Sessions. */
    uint64_t frozen_ms;
};

/* Fiber of shard 0; suspends. `fds`: an end for each shard; closes them. `lost`: becomes true when there is no successor any more.
 * 0; or -errno: everything is as it was. */
MUST_CHECK int upgrade_give(struct shard *s, const int *fds, const bool *lost,
                            struct upgrade_result *result_out);
/* Fiber of each shard of the successor, before its roles start: waits for COMMIT on its end, which it closes. 0 or -errno. */
MUST_CHECK int upgrade_take(struct shard *s, int fd);
/* Fiber of each shard, when its roles serve: whoever came is served. */
void upgrade_taken(struct shard *s);
