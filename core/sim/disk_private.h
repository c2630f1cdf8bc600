/* core/sim/disk_private.h -- what the parts of the simulated disk share: pages with a dirty mask of sectors, names with a
 * journal of changes.
 *
 * disk.c bytes, disk_names.c names, disk_crash.c what is durable, and what a crash leaves of the rest. */
#pragma once
#include "core/sim/disk.h"
#include <stdlib.h>

#define SECTORS_PER_PAGE (SIM_PAGE_SIZE / SIM_SECTOR_SIZE)

struct page {
    uint8_t dirty; /* Sectors written since they were last durable. */
    uint8_t stale; /* Sectors whose write-back failed: clean, and yet not what is durable. */
    uint64_t stamp[SECTORS_PER_PAGE]; /* The write that made the sector dirty. */
    uint64_t persisted_ns;            /* When something of it last became durable. */
    uint8_t *data, *durable;          /* NULL: durable is what data is. */
};

struct entry {
    char *name;
    struct sim_inode *inode;
};

struct names { /* Sorted bytewise. */
    struct entry *entries;
    size_t count, capacity;
};

struct sim_inode {
    struct list link;
    uint64_t number;
    uint32_t refs; /* Handles, entries, journal records, stages. */
    bool is_dir;
    uint64_t size, durable_size;
    uint64_t allocated; /* Bytes that count as used. */
    struct page **pages;
    size_t page_count;
    struct names names, durable_names;
};

struct change { /* A change of names that a crash may undo. Whole, or not at all. */
    struct list link;
    struct sim_inode *from_dir, *to_dir, *inode; /* from_dir NULL: a new name; to_dir NULL: a name less. */
    char *from, *to;
};

static inline void *must(void *p)
{
    ASSERT(p != NULL);
    return p;
}

/* ---- disk_names.c -------------------------------------------------------------------------------------- */

/* No reference is held yet. */
struct sim_inode *sim_inode_new(struct sim_disk *d, bool is_dir);
MUST_CHECK int sim_disk_directory(struct sim_disk *d, const char *path, struct sim_inode **dir_out);
/* *to is a copy of *from: each inode is referenced. */
void sim_names_copy(struct sim_disk *d, struct names *to, const struct names *from);
/* Puts the change into the durable names. With changes before it lost, the old name may name another file
 * now: that one stays. */
void sim_change_apply(struct sim_disk *d, struct change *c);
void sim_change_free(struct sim_disk *d, struct change *c);

/* ---- disk.c -------------------------------------------------------------------------------------------- */

/* What is seen and what is durable go apart, and come together: most of a large disk is there once. */
void sim_page_part(struct page *p);
void sim_page_join(struct page *p);
/* Counts the file as `end` bytes at least: -EFBIG, -ENOSPC. */
int sim_inode_grow(struct sim_disk *d, struct sim_inode *i, uint64_t end);
