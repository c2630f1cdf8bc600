/* core/sim/disk_crash.c -- what is durable, what a crash leaves of the rest, and what rots. */
#include "core/sim/disk_private.h"

#define ROT_DEPTH 4

struct staged_sector {
    uint64_t page;
    uint64_t stamp;
    uint8_t sector;
    uint8_t data[SIM_SECTOR_SIZE];
};

struct sim_stage {
    struct sim_inode *inode;
    uint64_t size;
    size_t count;
    struct staged_sector sectors[];
};

/* ---- Durability ---------------------------------------------------------------------------------------- */

static void sector_persist(struct sim_disk *d, struct page *p, unsigned s, const uint8_t *data)
{
    sim_page_part(p);
    p->persisted_ns = *d->now_ns;
    memcpy(p->durable + s * SIM_SECTOR_SIZE, data, SIM_SECTOR_SIZE);
}

void sim_disk_writeback(struct sim_disk *d, struct sim_inode *i)
{
    for (size_t k = 0; k < i->page_count; k++) {
        struct page *p = i->pages[k];

        for (unsigned s = 0; p != NULL && p->dirty != 0 && s < SECTORS_PER_PAGE; s++) {
            if ((p->dirty & (1u << s)) && sim_random_one_in(d->random, 2)) {
                sector_persist(d, p, s, p->data + s * SIM_SECTOR_SIZE);
                p->dirty &= ~(1u << s);
            }
        }
    }
}

struct sim_stage *sim_disk_stage(struct sim_inode *i)
{
    struct sim_stage *stage;
    size_t count = 0;

    for (size_t k = 0; k < i->page_count; k++)
        if (i->pages[k] != NULL)
            count += (size_t)__builtin_popcount(i->pages[k]->dirty);
    stage = must(malloc(sizeof *stage + count * sizeof(struct staged_sector)));
    *stage = (struct sim_stage){.inode = i, .size = i->size};
    sim_inode_ref(i);
    for (size_t k = 0; k < i->page_count; k++) {
        struct page *p = i->pages[k];

        for (unsigned s = 0; p != NULL && p->dirty != 0 && s < SECTORS_PER_PAGE; s++) {
            struct staged_sector *to = &stage->sectors[stage->count];

            if (!(p->dirty & (1u << s)))
                continue;
            to->page = k;
            to->sector = (uint8_t)s;
            to->stamp = p->stamp[s];
            memcpy(to->data, p->data + s * SIM_SECTOR_SIZE, SIM_SECTOR_SIZE);
            p->dirty &= ~(1u << s);
            stage->count++;
        }
    }
    return stage;
}

static void stage_free(struct sim_disk *d, struct sim_stage *s)
{
    sim_inode_unref(d, s->inode);
    free(s);
}

void sim_stage_commit(struct sim_disk *d, struct sim_stage *s)
{
    for (size_t k = 0; k < s->count; k++)
        sector_persist(d, s->inode->pages[s->sectors[k].page], s->sectors[k].sector, s->sectors[k].data);
    for (size_t k = 0; k < s->count; k++)
        if (k == 0 || s->sectors[k].page != s->sectors[k - 1].page)
            sim_page_join(s->inode->pages[s->sectors[k].page]);
    s->inode->durable_size = s->size;
    stage_free(d, s);
}

/* Linux marks the pages clean: the cache still shows them until it drops them, and no later flush writes
 * them. */
void sim_stage_fail(struct sim_disk *d, struct sim_stage *s)
{
    bool dropped = sim_random_one_in(d->random, 2);

    for (size_t k = 0; k < s->count; k++) {
        struct staged_sector *from = &s->sectors[k];
        struct page *p = s->inode->pages[from->page];
        uint8_t bit = (uint8_t)(1u << from->sector);

        if (sim_random_one_in(d->random, 2)) {
            sector_persist(d, p, from->sector, from->data);
        } else if (!(p->dirty & bit)) {
            if (dropped && p->durable != NULL)
                memcpy(p->data + from->sector * SIM_SECTOR_SIZE, p->durable + from->sector * SIM_SECTOR_SIZE,
                       SIM_SECTOR_SIZE);
            else
                p->stale |= bit;
        }
    }
    stage_free(d, s);
}

/* Not yet durable and not committed: as if it had never been staged. The crash then chooses. */
void sim_stage_crash(struct sim_disk *d, struct sim_stage *s)
{
    for (size_t k = 0; k < s->count; k++) {
        struct staged_sector *from = &s->sectors[k];
        struct page *p = s->inode->pages[from->page];
        uint8_t bit = (uint8_t)(1u << from->sector);

        if (p->dirty & bit) { /* Written again since: the older state may have reached the disk. */
            if (sim_random_one_in(d->random, 2))
                sector_persist(d, p, from->sector, from->data);
        } else {
            p->dirty |= bit;
        }
    }
    stage_free(d, s);
}

/* ---- Crash --------------------------------------------------------------------------------------------- */

struct cut { /* What of one file's dirty sectors is kept. */
    enum sim_disk_keep keep;
    uint64_t stamp;   /* SIM_KEEP_PREFIX: the write that was under way ... */
    uint64_t sectors; /* ... and how many sectors of it were done. */
};

static struct cut cut_choose(struct sim_disk *d, const struct sim_inode *i, enum sim_disk_keep keep)
{
    struct cut cut = {.keep = keep};
    uint64_t low = UINT64_MAX, high = 0;

    for (size_t k = 0; k < i->page_count; k++) {
        const struct page *p = i->pages[k];

        for (unsigned s = 0; p != NULL && p->dirty != 0 && s < SECTORS_PER_PAGE; s++) {
            if (p->dirty & (1u << s)) {
                low = MIN(low, p->stamp[s]);
                high = MAX(high, p->stamp[s]);
            }
        }
    }
    if (low <= high) {
        cut.stamp = sim_random_range(d->random, low, high);
        cut.sectors = sim_random_below(d->random, 17);
    }
    return cut;
}

static bool cut_keeps(struct sim_disk *d, struct cut *cut, uint64_t stamp)
{
    switch (cut->keep) {
    case SIM_KEEP_NONE:
        return false;
    case SIM_KEEP_ALL:
        return true;
    case SIM_KEEP_PREFIX:
        if (stamp != cut->stamp)
            return stamp < cut->stamp;
        if (cut->sectors == 0)
            return false;
        cut->sectors--;
        return true;
    case SIM_KEEP_ANY:
    case SIM_KEEP_COUNT:
        break;
    }
    return sim_random_one_in(d->random, 2);
}

struct tally {
    uint64_t kept_newest, lost_oldest; /* Stamps. */
    uint64_t kept_end;                 /* Last byte of the file that a kept sector holds. */
    bool torn;
    uint64_t last_stamp;
    bool last_kept, gap; /* A later sector of one write survived an earlier one. */
};

static void tally_sector(struct tally *t, uint64_t stamp, bool kept, uint64_t end)
{
    if (t->last_stamp == stamp && t->last_kept != kept) {
        t->torn = true;
        t->gap |= kept;
    }
    t->last_stamp = stamp;
    t->last_kept = kept;
    if (kept) {
        t->kept_newest = MAX(t->kept_newest, stamp);
        t->kept_end = MAX(t->kept_end, end);
    } else {
        t->lost_oldest = MIN(t->lost_oldest, stamp);
    }
}

static void size_crash(struct sim_disk *d, struct sim_inode *i, enum sim_disk_keep keep, uint64_t kept_end)
{
    bool newest = keep == SIM_KEEP_ALL || (keep != SIM_KEEP_NONE && sim_random_one_in(d->random, 2));

    if (newest)
        i->durable_size = i->size;
    else if (i->size > i->durable_size)
        i->durable_size = MAX(i->durable_size, MIN(kept_end, i->size));
    i->size = i->durable_size;
    i->allocated = 0;
    (void)sim_inode_grow(d, i, i->size);
}

static void inode_crash(struct sim_disk *d, struct sim_inode *i, enum sim_disk_keep keep,
                        struct sim_disk_loss *loss)
{
    struct cut cut = cut_choose(d, i, keep);
    struct tally tally = {.lost_oldest = UINT64_MAX, .last_stamp = UINT64_MAX};

    for (size_t k = 0; k < i->page_count; k++) {
        struct page *p = i->pages[k];

        if (p == NULL)
            continue;
        for (unsigned s = 0; p->dirty != 0 && s < SECTORS_PER_PAGE; s++) {
            bool kept;

            if (!(p->dirty & (1u << s)))
                continue;
            kept = cut_keeps(d, &cut, p->stamp[s]);
            if (kept)
                sector_persist(d, p, s, p->data + s * SIM_SECTOR_SIZE);
            tally_sector(&tally, p->stamp[s], kept, k * SIM_PAGE_SIZE + (s + 1) * SIM_SECTOR_SIZE);
            loss->sectors_kept += kept;
            loss->sectors_lost += !kept;
        }
        if ((p->dirty != 0 || p->stale != 0) && p->durable != NULL)
            memcpy(p->data, p->durable, SIM_PAGE_SIZE);
        p->dirty = p->stale = 0;
        sim_page_join(p);
    }
    loss->torn |= tally.torn;
    loss->reordered |= tally.gap || tally.lost_oldest < tally.kept_newest;
    size_crash(d, i, keep, tally.kept_end);
}

/* Bytes beyond the end are zeros, whatever a lost cut left there. */
static void inode_trim(struct sim_inode *i)
{
    for (uint64_t k = i->size / SIM_PAGE_SIZE; k < i->page_count; k++) {
        struct page *p = i->pages[k];
        uint64_t at = k == i->size / SIM_PAGE_SIZE ? i->size % SIM_PAGE_SIZE : 0;

        if (p != NULL) {
            memset(p->data + at, 0, SIM_PAGE_SIZE - at);
            if (p->durable != NULL)
                memset(p->durable + at, 0, SIM_PAGE_SIZE - at);
        }
    }
}

static void names_crash(struct sim_disk *d, enum sim_disk_keep keep, struct sim_disk_loss *loss)
{
    size_t count = 0, prefix;

    list_each(l, &d->renames) count++;
    prefix = sim_random_below(d->random, count + 1);
    list_each_safe(l, &d->renames)
    {
        struct change *c = CONTAINER_OF(l, struct change, link);
        bool kept = keep == SIM_KEEP_ALL || (keep == SIM_KEEP_PREFIX && prefix > 0) ||
                    (keep == SIM_KEEP_ANY && sim_random_one_in(d->random, 2));

        prefix -= prefix > 0;
        if (kept)
            sim_change_apply(d, c);
        else
            loss->names_lost++;
        sim_change_free(d, c);
    }
}

void sim_disk_power_failure(struct sim_disk *d, enum sim_disk_keep keep, struct sim_disk_loss *loss_out)
{
    bool each = keep == SIM_KEEP_COUNT && sim_random_one_in(d->random, 4); /* Each file by itself. */

    if (keep == SIM_KEEP_COUNT)
        keep = (enum sim_disk_keep)sim_random_below(d->random, SIM_KEEP_COUNT);
    *loss_out = (struct sim_disk_loss){0};
    names_crash(d, keep, loss_out);
    d->used = 0;
    list_each(l, &d->inodes)
    {
        struct sim_inode *i = CONTAINER_OF(l, struct sim_inode, link);

        if (each)
            keep = (enum sim_disk_keep)sim_random_below(d->random, SIM_KEEP_COUNT);
        if (!i->is_dir) {
            inode_crash(d, i, keep, loss_out);
            inode_trim(i);
        }
    }
    /* Giving up names frees inodes: all are held while the names are set back. */
    list_each(l, &d->inodes) sim_inode_ref(CONTAINER_OF(l, struct sim_inode, link));
    list_each(l, &d->inodes)
    {
        struct sim_inode *i = CONTAINER_OF(l, struct sim_inode, link);

        if (i->is_dir)
            sim_names_copy(d, &i->names, &i->durable_names);
    }
    for (struct list *l = d->inodes.prev; l != &d->inodes;) {
        struct sim_inode *i = CONTAINER_OF(l, struct sim_inode, link);

        l = l->prev; /* Safe: older ones are still held when a younger one goes. */
        sim_inode_unref(d, i);
    }
}

/* ---- Rot ----------------------------------------------------------------------------------------------- */

struct place {
    struct page *page;
    unsigned sector;
};

/* One clean sector below `i`, each as likely as the next (reservoir of one). */
static void rot_scan(struct sim_disk *d, struct sim_inode *i, uint64_t min_age_ns, uint64_t *seen,
                     struct place *place)
{
    uint64_t sectors = (i->size + SIM_SECTOR_SIZE - 1) / SIM_SECTOR_SIZE;

    for (uint64_t k = 0; k < sectors && k / SECTORS_PER_PAGE < i->page_count; k++) {
        struct page *p = i->pages[k / SECTORS_PER_PAGE];
        unsigned s = k % SECTORS_PER_PAGE;

        if (p == NULL || ((p->dirty | p->stale) & (1u << s)) || p->persisted_ns + min_age_ns > *d->now_ns)
            continue;
        if (sim_random_one_in(d->random, ++*seen))
            *place = (struct place){p, s};
    }
}

static void rot_scan_dir(struct sim_disk *d, const struct sim_inode *dir, unsigned depth, uint64_t min_age_ns,
                         uint64_t *seen, struct place *place)
{
    for (size_t k = 0; k < dir->names.count; k++) {
        struct sim_inode *i = dir->names.entries[k].inode;

        if (!i->is_dir)
            rot_scan(d, i, min_age_ns, seen, place);
        else if (depth > 0)
            rot_scan_dir(d, i, depth - 1, min_age_ns, seen, place);
    }
}

bool sim_disk_rot(struct sim_disk *d, const char *directory, uint64_t min_age_ns)
{
    struct place place = {0};
    struct sim_inode *dir;
    uint64_t seen = 0;
    size_t at;

    if (sim_disk_directory(d, directory, &dir) < 0)
        return false;
    rot_scan_dir(d, dir, ROT_DEPTH, min_age_ns, &seen, &place);
    if (place.page == NULL)
        return false;
    at = place.sector * SIM_SECTOR_SIZE + sim_random_below(d->random, SIM_SECTOR_SIZE);
    sim_page_part(place.page);
    place.page->durable[at] ^= (uint8_t)(1u << sim_random_below(d->random, 8));
    place.page->data[at] = place.page->durable[at];
    return true;
}
