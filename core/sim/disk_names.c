/* core/sim/disk_names.c -- files, directories, and the journal of changes of names. */
#include "core/sim/disk_private.h"
#include <errno.h>
#include <fcntl.h>

/* ---- Inodes and names ---------------------------------------------------------------------------------- */

struct sim_inode *sim_inode_new(struct sim_disk *d, bool is_dir)
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

void sim_names_copy(struct sim_disk *d, struct names *to, const struct names *from)
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

int sim_disk_directory(struct sim_disk *d, const char *path, struct sim_inode **dir_out)
{
    int rc = lookup(d, path, dir_out);

    if (rc == 0 && !(*dir_out)->is_dir)
        return -ENOTDIR;
    return rc;
}

/* ---- The journal of names ------------------------------------------------------------------------------ */

void sim_change_free(struct sim_disk *d, struct change *c)
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

void sim_change_apply(struct sim_disk *d, struct change *c)
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
        inode = sim_inode_new(d, false);
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
    inode = sim_inode_new(d, true);
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
    int rc = sim_disk_directory(d, path, &dir);

    if (rc < 0)
        return rc;
    list_each_safe(l, &d->renames)
    {
        struct change *c = CONTAINER_OF(l, struct change, link);

        if (c->from_dir == dir || c->to_dir == dir) {
            sim_change_apply(d, c);
            sim_change_free(d, c);
        }
    }
    return 0;
}

int sim_disk_list(struct sim_disk *d, const char *path, void (*each)(void *arg, const char *name), void *arg)
{
    struct sim_inode *dir;
    int rc = sim_disk_directory(d, path, &dir);

    if (rc < 0)
        return rc;
    for (size_t k = 0; k < dir->names.count; k++)
        each(arg, dir->names.entries[k].name);
    return 0;
}
