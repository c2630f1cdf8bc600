/* tests/unit/storage/fake_door.h -- the file half of the one door, in memory, for one shard: a disk whose
 * power can be cut at any operation, that loses, keeps, tears and reorders what was not flushed, and fails on
 * request. Time passes only when nothing can run. */
#pragma once
#include "core/io.h"
#include "core/shard.h"

enum fake_crash {
    CRASH_LOSE_ALL, /* Nothing that was not flushed is there. */
    CRASH_KEEP_ALL, /* The process died, the machine did not. */
    CRASH_RANDOM,   /* Each unflushed sector, size and name is there or not. */
};

void fake_disk_reset(void); /* Empty. */
/* Runs work(arg) on a fiber of a new shard until it returns (true), or until the power is cut (false). */
bool fake_run(void (*work)(void *arg), void *arg, uint64_t heap_budget);
/* The same with `shard_count` shards: work(arg) on each of them. */
bool fake_run_shards(unsigned shard_count, void (*work)(void *arg), void *arg, uint64_t heap_budget);
/* Cuts the power before the operation with this number (from 1, counted since fake_run() began); 0: never. */
void fake_cut_at(unsigned operation);
unsigned fake_operations(void); /* So far, in this run. */
/* The operation with this number fails (its write done or not, as chance has it). */
void fake_fail_at(unsigned operation, int error);
/* From now on: no more space than is used now. */
void fake_set_full(bool full);
/* What the disk is after the power came back. */
void fake_disk_crash(enum fake_crash how, uint64_t seed);
void fake_set_wall(int64_t seconds);

/* The files themselves, for damage. NULL: there is none. */
unsigned char *fake_file(const char *path, size_t *size_out);
void fake_file_truncate(const char *path, size_t size);
const char *fake_file_name(unsigned index); /* NULL at the end. */
/* Saves and restores the whole disk. */
void fake_disk_save(void);
void fake_disk_restore(void);
