/* core/sim/disk.c -- pages with a dirty mask of sectors, names with a journal of changes. */
#include "core/sim/disk.h"
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>

#define ROT_DEPTH        4
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

static void *must(void *p)
{
    ASSERT(p != NULL);
    return p;
}

/* ---- Inodes and names ---------------------------------------------------------------------------------- */

static struct sim_inode *inode_new(struct sim_disk *d, bool is_dir)
{
    struct sim_inode *i = must(calloc(1, sizeof *i));

    i->number = d->next_inode++;
    i->is_dir = is_dir;
    list_push_back(&d->inodes, &i->link);
    return i;
}

static void names_clear(struct sim_disk *d, struct names *n);

static void page_free(struct page *p)
{
    if (p == NULL)
        return;
    free(p->data);
    free(p->durable);
    free(p);
}

static void inode_free(struct sim_disk *d, struct sim_inode *i)
{
    list_remove(&i->link);
    d->used -= i->allocated;
    for (size_t k = 0; k < i->page_count; k++)
        page_free(i->pages[k]);
    free(i->pages);
    names_clear(d, &i->names);
    names_clear(d, &i->durable_names);
    free(i);
}

void sim_inode_ref(struct sim_inode *i)
{
    i->refs++;
}

void sim_inode_unref(struct sim_disk *d, struct sim_inode *i)
{
    ASSERT(i->refs > 0);
    if (--i->refs == 0)
        inode_free(d, i);
}

uint64_t sim_inode_number(const struct sim_inode *i)
{
    return i->number;
}

uint64_t sim_inode_size(const struct sim_inode *i)
{
    return i->size;
}

static bool names_find(const struct names *n, struct slice name, size_t *place_out)
{
    size_t low = 0, high = n->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const char *have = n->entries[middle].name;
        int order = strncmp(have, name.data, name.size);

        if (order == 0 && have[name.size] != '\0')
            order = 1;
        if (order == 0) {
            *place_out = middle;
            return true;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *place_out = low;
    return false;
}

static void names_remove(struct sim_disk *d, struct names *n, struct slice name)
{
    struct sim_inode *inode;
    size_t place;

    if (!names_find(n, name, &place))
        return;
    inode = n->entries[place].inode;
    free(n->entries[place].name);
    memmove(&n->entries[place], &n->entries[place + 1], (n->count - place - 1) * sizeof *n->entries);
    n->count--;
    sim_inode_unref(d, inode);
}

static void names_put(struct sim_disk *d, struct names *n, struct slice name, struct sim_inode *inode)
{
    size_t place;

    sim_inode_ref(inode);
    names_remove(d, n, name);
    (void)names_find(n, name, &place);
    if (n->count == n->capacity) {
        n->capacity = n->capacity * 2 + 4;
        n->entries = must(realloc(n->entries, n->capacity * sizeof *n->entries));
    }
    memmove(&n->entries[place + 1], &n->entries[place], (n->count - place) * sizeof *n->entries);
    n->entries[place] = (struct entry){must(strndup(name.data, name.size)), inode};
    n->count++;
}

static void names_clear(struct sim_disk *d, struct names *n)
{
    while (n->count > 0) {
        struct entry e = n->entries[--n->count];

        free(e.name);
        sim_inode_unref(d, e.inode);
    }
    free(n->entries);
    *n = (struct names){0};
}

static void names_copy(struct sim_disk *d, struct names *to, const struct names *from)
{
    names_clear(d, to);
    for (size_t k = 0; k < from->count; k++)
        names_put(d, to, slice_str(from->entries[k].name), from->entries[k].inode);
}

/* Walks to the directory that holds the last component. */
static int walk(struct sim_disk *d, const char *path, struct sim_inode **dir_out, struct slice *last_out)
{
    struct slice rest = slice_str(path);
    struct sim_inode *dir = d->root;
    size_t place;

    if (rest.size >= SIM_PATH_MAX)
        return -ENAMETOOLONG;
    *last_out = slice_of(NULL, 0);
    while (rest.size > 0) {
        struct slice name = slice_first(rest, slice_find(rest, '/'));

        rest = slice_from(rest, MIN(rest.size, name.size + 1));
        if (name.size == 0 || slice_eq(name, SLICE(".")))
            continue;
        if (last_out->size > 0) {
            if (!names_find(&dir->names, *last_out, &place))
                return -ENOENT;
            dir = dir->names.entries[place].inode;
            if (!dir->is_dir)
                return -ENOTDIR;
        }
        *last_out = name;
    }
    *dir_out = dir;
    return 0;
}

static int lookup(struct sim_disk *d, const char *path, struct sim_inode **inode_out)
{
    struct sim_inode *dir;
    struct slice last;
    size_t place;
    int rc = walk(d, path, &dir, &last);

    if (rc < 0)
        return rc;
    if (last.size == 0) {
        *inode_out = dir;
        return 0;
    }
    if (!names_find(&dir->names, last, &place))
        return -ENOENT;
    *inode_out = dir->names.entries[place].inode;
    return 0;
}

static int lookup_dir(struct sim_disk *d, const char *path, struct sim_inode **dir_out)
{
    int rc = lookup(d, path, dir_out);

    if (rc == 0 && !(*dir_out)->is_dir)
        return -ENOTDIR;
    return rc;
}

/* ---- The journal of names ------------------------------------------------------------------------------ */

static void change_free(struct sim_disk *d, struct change *c)
{
    list_remove(&c->link);
    if (c->from_dir != NULL)
        sim_inode_unref(d, c->from_dir);
    if (c->to_dir != NULL)
        sim_inode_unref(d, c->to_dir);
    sim_inode_unref(d, c->inode);
    free(c->from);
    free(c->to);
    free(c);
}

static void change_log(struct sim_disk *d, struct sim_inode *from_dir, struct slice from,
                       struct sim_inode *to_dir, struct slice to, struct sim_inode *inode)
{
    struct change *c = must(calloc(1, sizeof *c));

    *c = (struct change){.from_dir = from_dir, .to_dir = to_dir, .inode = inode};
    sim_inode_ref(inode);
    if (from_dir != NULL) {
        sim_inode_ref(from_dir);
        c->from = must(strndup(from.data, from.size));
    }
    if (to_dir != NULL) {
        sim_inode_ref(to_dir);
        c->to = must(strndup(to.data, to.size));
    }
    list_push_back(&d->renames, &c->link);
}

/* Puts the change into the durable names. With changes before it lost, the old name may name another file
 * now: that one stays. */
static void change_apply(struct sim_disk *d, struct change *c)
{
    size_t place;

    if (c->from_dir != NULL && names_find(&c->from_dir->durable_names, slice_str(c->from), &place) &&
        c->from_dir->durable_names.entries[place].inode == c->inode)
        names_remove(d, &c->from_dir->durable_names, slice_str(c->from));
    if (c->to_dir != NULL)
        names_put(d, &c->to_dir->durable_names, slice_str(c->to), c->inode);
}

int sim_disk_open(struct sim_disk *d, const char *path, int flags, struct sim_inode **inode_out)
{
    struct sim_inode *dir, *inode;
    struct slice last;
    size_t place;
    int rc = walk(d, path, &dir, &last);

    if (rc < 0)
        return rc;
    if (last.size == 0) {
        inode = dir;
    } else if (names_find(&dir->names, last, &place)) {
        if ((flags & O_CREAT) && (flags & O_EXCL))
            return -EEXIST;
        inode = dir->names.entries[place].inode;
    } else {
        if (!(flags & O_CREAT))
            return -ENOENT;
        inode = inode_new(d, false);
        names_put(d, &dir->names, last, inode);
        change_log(d, NULL, last, dir, last, inode);
    }
    if (inode->is_dir && (flags & O_ACCMODE) != O_RDONLY)
        return -EISDIR;
    if ((flags & O_DIRECTORY) && !inode->is_dir)
        return -ENOTDIR;
    if ((flags & O_TRUNC) && (rc = sim_disk_truncate(d, inode, 0)) < 0)
        return rc;
    sim_inode_ref(inode);
    *inode_out = inode;
    return 0;
}

int sim_disk_make_dir(struct sim_disk *d, const char *path)
{
    struct sim_inode *dir, *inode;
    struct slice last;
    size_t place;
    int rc = walk(d, path, &dir, &last);

    if (rc < 0 || last.size == 0)
        return rc;
    if (names_find(&dir->names, last, &place))
        return dir->names.entries[place].inode->is_dir ? 0 : -EEXIST;
    inode = inode_new(d, true);
    names_put(d, &dir->names, last, inode);
    change_log(d, NULL, last, dir, last, inode);
    return 0;
}

int sim_disk_rename(struct sim_disk *d, const char *from, const char *to)
{
    struct sim_inode *from_dir, *to_dir, *inode;
    struct slice from_name, to_name;
    size_t place;
    int rc = walk(d, from, &from_dir, &from_name);

    if (rc < 0 || (rc = walk(d, to, &to_dir, &to_name)) < 0)
        return rc;
    if (from_name.size == 0 || to_name.size == 0)
        return -EBUSY;
    if (!names_find(&from_dir->names, from_name, &place))
        return -ENOENT;
    inode = from_dir->names.entries[place].inode;
    if (names_find(&to_dir->names, to_name, &place)) {
        if (to_dir->names.entries[place].inode == inode)
            return 0;
        if (to_dir->names.entries[place].inode->is_dir)
            return inode->is_dir ? -ENOTEMPTY : -EISDIR;
    }
    change_log(d, from_dir, from_name, to_dir, to_name, inode);
    names_put(d, &to_dir->names, to_name, inode);
    names_remove(d, &from_dir->names, from_name);
    return 0;
}

int sim_disk_unlink(struct sim_disk *d, const char *path)
{
    struct sim_inode *dir;
    struct slice last;
    size_t place;
    int rc = walk(d, path, &dir, &last);

    if (rc < 0)
        return rc;
    if (last.size == 0)
        return -EISDIR;
    if (!names_find(&dir->names, last, &place))
        return -ENOENT;
    if (dir->names.entries[place].inode->is_dir)
        return -EISDIR;
    change_log(d, dir, last, NULL, last, dir->names.entries[place].inode);
    names_remove(d, &dir->names, last);
    return 0;
}

int sim_disk_flush_dir(struct sim_disk *d, const char *path)
{
    struct sim_inode *dir;
    int rc = lookup_dir(d, path, &dir);

    if (rc < 0)
        return rc;
    list_each_safe(l, &d->renames)
    {
        struct change *c = CONTAINER_OF(l, struct change, link);

        if (c->from_dir == dir || c->to_dir == dir) {
            change_apply(d, c);
            change_free(d, c);
        }
    }
    return 0;
}

int sim_disk_list(struct sim_disk *d, const char *path, void (*each)(void *arg, const char *name), void *arg)
{
    struct sim_inode *dir;
    int rc = lookup_dir(d, path, &dir);

    if (rc < 0)
        return rc;
    for (size_t k = 0; k < dir->names.count; k++)
        each(arg, dir->names.entries[k].name);
    return 0;
}

/* ---- Bytes --------------------------------------------------------------------------------------------- */

static struct page *page_at(const struct sim_inode *i, uint64_t index)
{
    return index < i->page_count ? i->pages[index] : NULL;
}

static struct page *page_make(struct sim_inode *i, uint64_t index)
{
    if (index >= i->page_count) {
        size_t count = MAX(index + 1, i->page_count * 2);

        i->pages = must(realloc(i->pages, count * sizeof(struct page *)));
        memset(i->pages + i->page_count, 0, (count - i->page_count) * sizeof(struct page *));
        i->page_count = count;
    }
    if (i->pages[index] == NULL) {
        i->pages[index] = must(calloc(1, sizeof(struct page)));
        i->pages[index]->data = must(calloc(1, SIM_PAGE_SIZE));
    }
    return i->pages[index];
}

/* What is seen and what is durable go apart, and come together: most of a large disk is there once. */
static void page_part(struct page *p)
{
    if (p->durable == NULL)
        p->durable = memcpy(must(malloc(SIM_PAGE_SIZE)), p->data, SIM_PAGE_SIZE);
}

static void page_join(struct page *p)
{
    if (p->durable == NULL || p->dirty != 0 || p->stale != 0 ||
        memcmp(p->data, p->durable, SIM_PAGE_SIZE) != 0)
        return;
    free(p->durable);
    p->durable = NULL;
}

static int grow(struct sim_disk *d, struct sim_inode *i, uint64_t end)
{
    uint64_t allocated = (end + SIM_PAGE_SIZE - 1) / SIM_PAGE_SIZE * SIM_PAGE_SIZE;

    if (end > SIM_FILE_MAX)
        return -EFBIG;
    if (allocated <= i->allocated)
        return 0;
    if (d->used + (allocated - i->allocated) > d->capacity)
        return -ENOSPC;
    d->used += allocated - i->allocated;
    i->allocated = allocated;
    return 0;
}

size_t sim_disk_read(const struct sim_inode *i, void *data, size_t size, uint64_t offset)
{
    uint8_t *to = data;

    if (offset >= i->size)
        return 0;
    size = MIN(size, i->size - offset);
    for (size_t done = 0; done < size;) {
        uint64_t at = (offset + done) % SIM_PAGE_SIZE;
        size_t n = MIN(size - done, SIM_PAGE_SIZE - at);
        const struct page *p = page_at(i, (offset + done) / SIM_PAGE_SIZE);

        if (p != NULL)
            memcpy(to + done, p->data + at, n);
        else
            memset(to + done, 0, n);
        done += n;
    }
    return size;
}

static void page_write(struct page *p, uint64_t at, const uint8_t *data, size_t size, uint64_t stamp)
{
    page_part(p);
    if (data != NULL)
        memcpy(p->data + at, data, size);
    else
        memset(p->data + at, 0, size);
    for (size_t s = at / SIM_SECTOR_SIZE; s <= (at + size - 1) / SIM_SECTOR_SIZE; s++) {
        p->dirty |= 1u << s;
        p->stale &= ~(1u << s);
        p->stamp[s] = stamp;
    }
}

int sim_disk_write(struct sim_disk *d, struct sim_inode *i, const void *data, size_t size, uint64_t offset)
{
    uint64_t stamp = d->next_stamp++;
    int rc;

    if (i->is_dir)
        return -EISDIR;
    if (size > SIM_FILE_MAX || offset > SIM_FILE_MAX)
        return -EFBIG;
    rc = grow(d, i, offset + size);
    if (rc < 0)
        return rc;
    for (size_t done = 0; done < size;) {
        uint64_t at = (offset + done) % SIM_PAGE_SIZE;
        size_t n = MIN(size - done, SIM_PAGE_SIZE - at);

        page_write(page_make(i, (offset + done) / SIM_PAGE_SIZE), at, (const uint8_t *)data + done, n, stamp);
        done += n;
    }
    i->size = MAX(i->size, offset + size);
    return 0;
}

/* What lies beyond the end reads as zeros if the file grows again: the cut is a write of zeros. */
int sim_disk_truncate(struct sim_disk *d, struct sim_inode *i, uint64_t size)
{
    uint64_t stamp = d->next_stamp++;

    if (i->is_dir)
        return -EISDIR;
    if (size > SIM_FILE_MAX)
        return -EFBIG;
    for (uint64_t k = size / SIM_PAGE_SIZE; size < i->size && k < i->page_count; k++) {
        struct page *p = i->pages[k];
        uint64_t at = k == size / SIM_PAGE_SIZE ? size % SIM_PAGE_SIZE : 0;

        if (p != NULL)
            page_write(p, at, NULL, SIM_PAGE_SIZE - at, stamp);
    }
    if (size < i->size) {
        uint64_t allocated = (size + SIM_PAGE_SIZE - 1) / SIM_PAGE_SIZE * SIM_PAGE_SIZE;

        d->used -= i->allocated - MIN(i->allocated, allocated);
        i->allocated = MIN(i->allocated, allocated);
    }
    i->size = size;
    return 0;
}

int sim_disk_allocate(struct sim_disk *d, struct sim_inode *i, uint64_t offset, uint64_t size)
{
    int rc;

    if (i->is_dir)
        return -EISDIR;
    if (size > SIM_FILE_MAX || offset > SIM_FILE_MAX)
        return -EFBIG;
    rc = grow(d, i, offset + size);
    if (rc == 0)
        i->size = MAX(i->size, offset + size);
    return rc;
}

/* ---- Durability ---------------------------------------------------------------------------------------- */

static void sector_persist(struct sim_disk *d, struct page *p, unsigned s, const uint8_t *data)
{
    page_part(p);
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
            page_join(s->inode->pages[s->sectors[k].page]);
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
    (void)grow(d, i, i->size);
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
        page_join(p);
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
            change_apply(d, c);
        else
            loss->names_lost++;
        change_free(d, c);
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
            names_copy(d, &i->names, &i->durable_names);
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

    if (lookup_dir(d, directory, &dir) < 0)
        return false;
    rot_scan_dir(d, dir, ROT_DEPTH, min_age_ns, &seen, &place);
    if (place.page == NULL)
        return false;
    at = place.sector * SIM_SECTOR_SIZE + sim_random_below(d->random, SIM_SECTOR_SIZE);
    page_part(place.page);
    place.page->durable[at] ^= (uint8_t)(1u << sim_random_below(d->random, 8));
    place.page->data[at] = place.page->durable[at];
    return true;
}

uint64_t sim_disk_memory(const struct sim_disk *d)
{
    uint64_t bytes = 0;

    list_each(l, &d->inodes)
    {
        const struct sim_inode *i = CONTAINER_OF(l, struct sim_inode, link);

        bytes += malloc_usable_size(i->pages);
        for (size_t k = 0; k < i->page_count; k++)
            if (i->pages[k] != NULL)
                bytes += malloc_usable_size(i->pages[k]) + malloc_usable_size(i->pages[k]->data) +
                         malloc_usable_size(i->pages[k]->durable);
    }
    return bytes;
}

/* ---- Life ---------------------------------------------------------------------------------------------- */

void sim_disk_init(struct sim_disk *d, struct sim_random *random, const uint64_t *now_ns)
{
    *d = (struct sim_disk){.random = random, .now_ns = now_ns, .next_stamp = 1, .capacity = UINT64_MAX};
    list_init(&d->inodes);
    list_init(&d->renames);
    d->root = inode_new(d, true);
    sim_inode_ref(d->root);
}

void sim_disk_fini(struct sim_disk *d)
{
    list_each_safe(l, &d->renames) change_free(d, CONTAINER_OF(l, struct change, link));
    sim_inode_unref(d, d->root);
    ASSERT(list_empty(&d->inodes));
}
