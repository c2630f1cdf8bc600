/* tests/unit/core/fake_door.h -- a door without a world: time stands where the test puts it, messages to
 * other shards arrive at once, helpers run in line. For tests of what both doors share. */
#pragma once
#include "core/scheduler.h"

extern uint64_t fake_now_ns;

/* A shard of a node of one, entered. */
struct shard *fake_shard_begin(void);
void fake_shard_end(struct shard *s);
/* Turns until nothing is runnable; at most `limit`. Number of turns. */
unsigned fake_run(struct shard *s, unsigned limit);
/* Moves time on, and runs. */
void fake_sleep_ms(struct shard *s, uint32_t ms);
