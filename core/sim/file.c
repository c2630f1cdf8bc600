/* core/sim/file.c -- the door to files: the disk's model with time, faults and suspended fibers. */
#include "core/sim/world.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define READ_TIME_NS  (60 * SIM_US)
#define WRITE_TIME_NS (40 * SIM_US)
#define FLUSH_TIME_NS (2 * SIM_MS)
#define NAMES_TIME_NS (100 * SIM_US)
/* What was only just written does not rot: until something durable follows it nobody can tell rot from a torn tail. */
#define ROT_AGE_NS  (3 * SIM_S)
#define SLOW_ONE_IN 64 /* Every so many operations take ten times as long. */

enum kind {
    OPEN,
    READ,
    WRITE,
    FLUSH,
    WRITE_FLUSH, /* Its write; then it goes on as a flush. */
    SIZE,
    TRUNCATE,
    ALLOCATE,
    RENAME,
    UNLINK,
    MAKE_DIR,
    FLUSH_DIR,
};

struct call { /* On the stack of the fiber that waits. */
    struct list link;
    struct sim_event event;
    struct sim_done done;
    struct shard_private *p;
    struct fiber *fiber;
    enum kind kind;
    struct sim_open_file *file;
    struct sim_stage *stage; /* A flush under way. */
    const char *path, *to;
    const struct iovec *vector;
    void *data;
    size_t size;
    uint64_t offset;
    unsigned count;
    int flags, result;
    struct file *file_out;
    uint64_t *size_out;
};

struct lock {
    struct list link;
    uint64_t inode;
};

/* ---- Faults -------------------------------------------------------------------------------------------- */

static bool error_strikes(struct sim_node *n, enum sim_fault fault)
{
    unsigned *armed = &n->errors_armed[fault - SIM_READ_ERROR];

    struct sim_hit hit = sim_hit_node(n, fault);

    if (*armed == 0 || sim_aim_waits(n, fault))
        return false;
    --*armed;
    sim_aim_struck(n, fault);
    n->disk_faults++;
    sim_strike(n->world, &hit);
    return true;
}

/* Before a file grows. */
static void room_draw(struct sim_node *n)
{
    if (!n->disk_is_full)
        n->disk.capacity = sim_aim_fills(n) ? n->disk.used : UINT64_MAX;
}

static int check_full(struct sim_node *n, int rc)
{
    struct sim_hit hit = sim_hit_node(n, SIM_FULL);

    if (rc != -ENOSPC)
        return rc;
    n->disk_faults++;
    sim_strike(n->world, &hit);
    if (!n->disk_is_full)
        sim_aim_filled(n);
    return rc;
}

/* ---- What a call does ---------------------------------------------------------------------------------- */

static uint64_t duration_ns(struct sim_node *n, enum kind kind)
{
    struct sim_random *r = &n->world->random;
    uint64_t top = NAMES_TIME_NS;

    if (kind == READ)
        top = READ_TIME_NS;
    else if (kind == WRITE || kind == WRITE_FLUSH)
        top = WRITE_TIME_NS;
    else if (kind == FLUSH || kind == FLUSH_DIR)
        top = FLUSH_TIME_NS;
    top *= n->disk_factor;
    return sim_random_below(r, sim_random_one_in(r, SLOW_ONE_IN) ? top * 10 : top) + 1000;
}

static int open_apply(struct call *c)
{
    struct shard_private *p = c->p;
    struct sim_inode *inode;
    int rc;

    for (uint32_t k = 0; k < SIM_FILES_MAX; k++) {
        if (p->files[k].inode != NULL)
            continue;
        rc = sim_disk_open(&p->node->disk, c->path, c->flags, &inode);
        if (rc == 0) {
            p->files[k] = (struct sim_open_file){.inode = inode, .flags = c->flags};
            c->file_out->slot = k;
        }
        return rc;
    }
    return -EMFILE;
}

static int write_apply(struct call *c)
{
    struct sim_node *n = c->p->node;
    uint64_t offset = c->offset;
    int rc = 0;

    for (unsigned k = 0; rc == 0 && k < c->count; k++) {
        rc = sim_disk_write(&n->disk, c->file->inode, c->vector[k].iov_base, c->vector[k].iov_len, offset);
        offset += c->vector[k].iov_len;
    }
    if (sim_random_one_in(&n->world->random, 16))
        sim_disk_writeback(&n->disk, c->file->inode);
    return rc;
}

static void flush_begin(struct call *c)
{
    struct sim_world *w = c->p->node->world;
    uint64_t end_ns = w->now_ns + duration_ns(c->p->node, FLUSH);

    c->kind = FLUSH;
    c->stage = sim_disk_stage(c->file->inode);
    end_ns = MAX(end_ns, c->file->flush_end_ns + 1);
    c->file->flush_end_ns = end_ns;
    sim_event_set(&c->event, end_ns);
}

static int flush_apply(struct call *c)
{
    struct sim_node *n = c->p->node;
    struct sim_stage *stage = c->stage;

    c->stage = NULL;
    if (error_strikes(n, SIM_FLUSH_ERROR)) {
        sim_stage_fail(&n->disk, stage);
        return -EIO;
    }
    sim_stage_commit(&n->disk, stage);
    return 0;
}

static int names_apply(struct call *c)
{
    struct sim_disk *d = &c->p->node->disk;

    switch (c->kind) {
    case OPEN:
        return open_apply(c);
    case RENAME:
        return sim_disk_rename(d, c->path, c->to);
    case UNLINK:
        return sim_disk_unlink(d, c->path);
    case MAKE_DIR:
        return sim_disk_make_dir(d, c->path);
    default:
        break;
    }
    ASSERT(c->kind == FLUSH_DIR);
    if (error_strikes(c->p->node, SIM_FLUSH_ERROR))
        return -EIO;
    return sim_disk_flush_dir(d, c->path);
}

static int call_apply(struct call *c)
{
    struct sim_node *n = c->p->node;
    int rc;

    switch (c->kind) {
    case READ:
        if (error_strikes(n, SIM_READ_ERROR))
            return -EIO;
        return (int)sim_disk_read(c->file->inode, c->data, c->size, c->offset);
    case WRITE:
    case WRITE_FLUSH:
        room_draw(n);
        if (!error_strikes(n, SIM_WRITE_ERROR))
            return check_full(n, write_apply(c));
        rc = sim_random_one_in(&n->world->random, 2) ? write_apply(c)
                                                     : 0; /* Nothing is known about the range. */
        return rc < 0 ? rc : -EIO;
    case FLUSH:
        return flush_apply(c);
    case SIZE:
        *c->size_out = sim_inode_size(c->file->inode);
        return 0;
    case TRUNCATE:
        return sim_disk_truncate(&n->disk, c->file->inode, c->offset);
    case ALLOCATE:
        room_draw(n);
        return check_full(n, sim_disk_allocate(&n->disk, c->file->inode, c->offset, c->size));
    default:
        return names_apply(c);
    }
}

static void call_done(struct sim_done *d)
{
    struct call *c = CONTAINER_OF(d, struct call, done);

    fiber_wake(c->fiber, c->result);
}

static void call_fire(struct sim_event *e)
{
    struct call *c = CONTAINER_OF(e, struct call, event);
    bool flushes = c->kind == WRITE_FLUSH || (c->kind == WRITE && (c->file->flags & (O_SYNC | O_DSYNC)));

    c->result = call_apply(c);
    sim_nemesis_file(c->p->node,
                     c->result == 0 && (c->kind == WRITE || c->kind == WRITE_FLUSH) ? c->size : 0);
    if (flushes && c->result == 0) {
        flush_begin(c);
        return;
    }
    sim_trace(TRACE_FILE_DONE, c->p->node->id, c->p->shard->index, c->kind, (uint64_t)(int64_t)c->result, 0);
    list_remove(&c->link);
    sim_shard_done(c->p, &c->done);
}

static int call_run(struct call *c)
{
    struct shard_private *p = sim_private();

    ASSERT(fiber_self() != NULL);
    c->p = p;
    c->fiber = fiber_self();
    c->event = (struct sim_event){.fire = call_fire};
    c->done.run = call_done;
    list_push_back(&p->file_calls, &c->link);
    sim_trace_shard(TRACE_FILE, c->kind, c->size, c->offset);
    if (c->kind == FLUSH)
        flush_begin(c);
    else
        sim_event_after(&c->event, duration_ns(p->node, c->kind));
    return fiber_suspend_operation(NULL, NULL);
}

/* The process died with the call under way: it may have been done, in part or whole. */
static void call_crash(struct call *c)
{
    struct sim_node *n = c->p->node;
    int rc = 0;

    sim_event_cancel(&c->event);
    if (c->stage != NULL) {
        sim_stage_crash(&n->disk, c->stage);
        return;
    }
    if (sim_random_one_in(&n->world->random, 2))
        return;
    switch (c->kind) {
    case WRITE:
    case WRITE_FLUSH:
        rc = write_apply(c);
        break;
    case TRUNCATE:
        rc = sim_disk_truncate(&n->disk, c->file->inode, c->offset);
        break;
    case RENAME:
    case UNLINK:
    case MAKE_DIR:
        rc = names_apply(c);
        break;
    default:
        break;
    }
    (void)rc; /* Nobody is left to be told. */
}

/* ---- The door ------------------------------------------------------------------------------------------ */

static struct sim_open_file *file_of(struct file f)
{
    struct shard_private *p = sim_private();

    ASSERT(f.slot < SIM_FILES_MAX && p->files[f.slot].inode != NULL);
    return &p->files[f.slot];
}

/* Relative names are below the node's `data`, which is /data here. */
struct path {
    char text[SIM_PATH_MAX];
};

static int path_full(const char *path, struct path *full)
{
    int size = snprintf(full->text, sizeof full->text, "%s%s", path[0] == '/' ? "" : "/data/", path);

    return size < (int)sizeof full->text ? 0 : -ENAMETOOLONG;
}

int file_open(const char *path, int flags, mode_t mode, struct file *file_out)
{
    struct path full;
    struct call c = {.kind = OPEN, .path = full.text, .flags = flags, .file_out = file_out};
    int rc = path_full(path, &full);

    (void)mode;
    return rc < 0 ? rc : call_run(&c);
}

void file_close(struct file f)
{
    struct sim_open_file *o = file_of(f);

    sim_inode_unref(&sim_private()->node->disk, o->inode);
    *o = (struct sim_open_file){0};
}

ssize_t file_read(struct file f, void *data, size_t size, uint64_t offset)
{
    struct call c = {.kind = READ, .file = file_of(f), .data = data, .size = size, .offset = offset};

    ASSERT(size <= INT32_MAX);
    return call_run(&c);
}

static int write_run(enum kind kind, struct file f, const struct iovec *vector, unsigned count,
                     uint64_t offset)
{
    struct call c = {.kind = kind, .file = file_of(f), .vector = vector, .count = count, .offset = offset};

    for (unsigned k = 0; k < count; k++)
        c.size += vector[k].iov_len;
    return call_run(&c);
}

int file_write(struct file f, const struct iovec *vector, unsigned count, uint64_t offset)
{
    return write_run(WRITE, f, vector, count, offset);
}

int file_write_flush(struct file f, const struct iovec *vector, unsigned count, uint64_t offset)
{
    return write_run(WRITE_FLUSH, f, vector, count, offset);
}

int file_flush(struct file f)
{
    struct call c = {.kind = FLUSH, .file = file_of(f)};

    return call_run(&c);
}

int file_size(struct file f, uint64_t *size_out)
{
    struct call c = {.kind = SIZE, .file = file_of(f), .size_out = size_out};

    return call_run(&c);
}

/* This disk keeps no times: what is replaced gets another inode. */
int file_stat(const char *path, struct file_info *info_out)
{
    struct file_info info = {.modified_ns = 0};
    struct file f;
    int rc = file_open(path, O_RDONLY, 0, &f);

    if (rc < 0)
        return rc;
    info.inode = sim_inode_number(file_of(f)->inode);
    rc = file_size(f, &info.size);
    file_close(f);
    if (rc == 0)
        *info_out = info;
    return rc;
}

int file_truncate(struct file f, uint64_t size)
{
    struct call c = {.kind = TRUNCATE, .file = file_of(f), .offset = size};

    return call_run(&c);
}

int file_allocate(struct file f, uint64_t offset, uint64_t size)
{
    struct call c = {.kind = ALLOCATE, .file = file_of(f), .offset = offset, .size = size};

    return call_run(&c);
}

static int names_run(enum kind kind, const char *path)
{
    struct path full;
    struct call c = {.kind = kind, .path = full.text};
    int rc = path_full(path, &full);

    return rc < 0 ? rc : call_run(&c);
}

int file_rename(const char *from, const char *to)
{
    struct path full_from, full_to;
    struct call c = {.kind = RENAME, .path = full_from.text, .to = full_to.text};
    int rc = path_full(from, &full_from);

    if (rc == 0)
        rc = path_full(to, &full_to);
    return rc < 0 ? rc : call_run(&c);
}

int file_unlink(const char *path)
{
    return names_run(UNLINK, path);
}

int dir_make(const char *path, mode_t mode)
{
    (void)mode;
    return names_run(MAKE_DIR, path);
}

int dir_flush(const char *path)
{
    return names_run(FLUSH_DIR, path);
}

int dir_list(const char *path, void (*each)(void *arg, const char *name), void *arg)
{
    struct path full;
    int rc = path_full(path, &full);

    return rc < 0 ? rc : sim_disk_list(&sim_private()->node->disk, full.text, each, arg);
}

int dir_lock(const char *path)
{
    struct sim_node *n = sim_private()->node;
    struct sim_inode *inode;
    struct path full;
    struct lock *lock;
    int rc = path_full(path, &full);

    if (rc == 0)
        rc = sim_disk_open(&n->disk, full.text, O_RDONLY | O_DIRECTORY, &inode);
    if (rc < 0)
        return rc;
    sim_inode_unref(&n->disk, inode);
    list_each(l, &n->locks) if (CONTAINER_OF(l, struct lock, link)->inode ==
                                sim_inode_number(inode)) return -EBUSY;
    lock = calloc(1, sizeof *lock);
    ASSERT(lock != NULL);
    lock->inode = sim_inode_number(inode);
    list_push_back(&n->locks, &lock->link);
    return 0;
}

void dir_unlock_all(void)
{
    struct sim_node *n = sim_private()->node;

    list_each_safe(l, &n->locks) free(CONTAINER_OF(l, struct lock, link));
    list_init(&n->locks);
}

/* ---- Lives --------------------------------------------------------------------------------------------- */

void sim_file_shard_init(struct shard_private *p)
{
    p->files = calloc(SIM_FILES_MAX, sizeof *p->files);
    ASSERT(p->files != NULL);
    list_init(&p->file_calls);
}

void sim_file_shard_fini(struct shard_private *p)
{
    list_each_safe(l, &p->file_calls) call_crash(CONTAINER_OF(l, struct call, link));
    for (uint32_t k = 0; k < SIM_FILES_MAX; k++)
        if (p->files[k].inode != NULL)
            sim_inode_unref(&p->node->disk, p->files[k].inode);
    free(p->files);
}

void sim_file_node_down(struct sim_node *n)
{
    list_each_safe(l, &n->locks) free(CONTAINER_OF(l, struct lock, link));
    list_init(&n->locks);
}

void sim_disk_errors(struct sim_node *n, enum sim_fault fault, unsigned count)
{
    ASSERT(fault == SIM_READ_ERROR || fault == SIM_WRITE_ERROR || fault == SIM_FLUSH_ERROR);
    n->errors_armed[fault - SIM_READ_ERROR] = count;
}

void sim_disk_full(struct sim_node *n, bool full)
{
    if (full == n->disk_is_full)
        return;
    n->disk_is_full = full;
    n->world->struck_ns = n->world->now_ns;
    n->disk.capacity =
        full ? n->disk.used + sim_random_below(&n->world->nemesis_random, 4) * SIM_PAGE_SIZE : UINT64_MAX;
}

void sim_disk_slow(struct sim_node *n, uint32_t factor)
{
    struct sim_hit hit = sim_hit_node(n, SIM_SLOW_DISK);

    if (factor > 1 && n->disk_factor == 1)
        sim_lasting_begin(n->world, &hit);
    if (factor == 1 && n->disk_factor > 1)
        sim_lasting_end(n->world, &hit);
    n->disk_factor = factor;
}

bool sim_rot(struct sim_node *n)
{
    struct sim_hit hit = sim_hit_node(n, SIM_ROT);

    if (!sim_disk_rot(&n->disk, "/data", ROT_AGE_NS))
        return false;
    n->disk_faults++;
    sim_strike(n->world, &hit);
    return true;
}
