/* core/sim/disk.h -- the disk of one simulated node: what programs see (the page cache) apart from what a
 * power failure leaves (the durable state).
 *
 * Promises: what was staged by a flush that was then committed survives every crash; a name survives once its
 * directory was flushed. Nothing else is promised: of unflushed sectors (512 bytes) a crash keeps all, none,
 * those before some point in time (the last write torn), or any subset; of unflushed names the same. A sector
 * is never half old and half new.
 *
 * Owner:  one simulated node, over all its lives.
 * Memory: malloc; bounded by what the node writes. No time, no fibers: core/sim/file.c adds those.
 * Errors: 0 or -errno as open(2), write(2) have them. */
#pragma once
#include "core/base.h"
#include "core/list.h"
#include "core/sim/random.h"

#define SIM_SECTOR_SIZE 512
#define SIM_PAGE_SIZE   4096
#define SIM_FILE_MAX    (1ull << 34)
#define SIM_PATH_MAX    512

struct sim_inode;
struct sim_stage;

struct sim_disk {
    struct sim_random *random;
    const uint64_t *now_ns;
    struct sim_inode *root;
    struct list inodes;  /* By number: the order of creation. */
    struct list renames; /* Changes of names that are not durable, oldest first. */
    uint64_t next_inode, next_stamp;
    uint64_t used, capacity;
};

/* What a power failure keeps of the sectors and names that are not durable. */
enum sim_disk_keep {
    SIM_KEEP_NONE,
    SIM_KEEP_ALL,
    SIM_KEEP_PREFIX, /* What was written before some point in time. */
    SIM_KEEP_ANY,    /* Each by itself. */
    SIM_KEEP_COUNT   /* One of those, by chance; now and then another for each file. */
};

/* What a power failure did, for the fault counters. */
struct sim_disk_loss {
    uint32_t sectors_kept, sectors_lost, names_lost;
    bool torn, reordered;
};

void sim_disk_init(struct sim_disk *d, struct sim_random *random, const uint64_t *now_ns);
void sim_disk_fini(struct sim_disk *d);
/* Bytes of its files' pages. */
uint64_t sim_disk_memory(const struct sim_disk *d);

/* flags as open(2): O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY. The inode is referenced: give it back. */
MUST_CHECK int sim_disk_open(struct sim_disk *d, const char *path, int flags, struct sim_inode **inode_out);
void sim_inode_ref(struct sim_inode *i);
void sim_inode_unref(struct sim_disk *d, struct sim_inode *i);
uint64_t sim_inode_number(const struct sim_inode *i);
uint64_t sim_inode_size(const struct sim_inode *i);

size_t sim_disk_read(const struct sim_inode *i, void *data, size_t size, uint64_t offset);
MUST_CHECK int sim_disk_write(struct sim_disk *d, struct sim_inode *i, const void *data, size_t size,
                              uint64_t offset);
MUST_CHECK int sim_disk_truncate(struct sim_disk *d, struct sim_inode *i, uint64_t size);
MUST_CHECK int sim_disk_allocate(struct sim_disk *d, struct sim_inode *i, uint64_t offset, uint64_t size);
/* The kernel writes some dirty sectors of the file back by itself. */
void sim_disk_writeback(struct sim_disk *d, struct sim_inode *i);

/* A flush: stage takes what is dirty now; later exactly one of commit (it is durable), fail (an I/O error:
 * part of it is durable, the rest is clean in the cache and lost for good) or crash (any subset is durable). */
struct sim_stage *sim_disk_stage(struct sim_inode *i);
void sim_stage_commit(struct sim_disk *d, struct sim_stage *s);
void sim_stage_fail(struct sim_disk *d, struct sim_stage *s);
void sim_stage_crash(struct sim_disk *d, struct sim_stage *s);

MUST_CHECK int sim_disk_rename(struct sim_disk *d, const char *from, const char *to);
MUST_CHECK int sim_disk_unlink(struct sim_disk *d, const char *path);
MUST_CHECK int sim_disk_make_dir(struct sim_disk *d, const char *path);
MUST_CHECK int sim_disk_flush_dir(struct sim_disk *d, const char *path);
MUST_CHECK int sim_disk_list(struct sim_disk *d, const char *path, void (*each)(void *arg, const char *name),
                             void *arg);

/* The power fails. No inode may be open, no stage pending. */
void sim_disk_power_failure(struct sim_disk *d, enum sim_disk_keep keep, struct sim_disk_loss *loss_out);
/* Flips a bit in a clean sector, durable for at least `min_age_ns`, of a file in `directory` or a few levels below.
 * False: there is none. */
MUST_CHECK bool sim_disk_rot(struct sim_disk *d, const char *directory, uint64_t min_age_ns);
