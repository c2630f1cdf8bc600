/* core/shard_call.h -- asks another shard a question: run(arg) there, while the asking fiber waits. For
 * starts, stops and rare control; work between shards goes by messages of its own. `run` is on the other
 * shard's loop: it does not suspend, and touches nothing but that shard and *arg, which lives on the asker's
 * side and is his again when the call returns. Not cancelled half-way. */
#pragma once
#include "core/shard.h"

void shard_call(struct shard *to, void (*run)(void *arg), void *arg);
