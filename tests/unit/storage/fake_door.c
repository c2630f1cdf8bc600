/* tests/unit/storage/fake_door.c -- see fake_door.h. */
#include "tests/unit/storage/fake_door.h"

#include "core/fiber.h"
#include "core/scheduler.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define FILES_MAX  512
#define OPEN_MAX   256
#define WRITES_MAX 65536
#define SECTOR     512

struct fake_file {
    char name[80];
    bool used, name_durable, is_directory, locked;
    unsigned char *data, *durable;
    size_t size, durable_size;
};

struct fake_disk {
    struct fake_file files[FILES_MAX];
};

static struct fake_disk disk, saved;
static int open_files[OPEN_MAX]; /* Index + 1; 0: free. */
static unsigned operation_count, cut_at, fail_at;
static int fail_error;
static bool dead;
static uint64_t capacity = UINT64_MAX; /* Of all files together. */
static uint64_t now_ns = 1000000000, random_state = 88172645463325252u;
static int64_t wall_s = 1700000000;

/* ---- Time and chance ----------------------------------------------------------------------------------- */

uint64_t time_ns(void)
{
    return now_ns;
}

int64_t time_wall(void)
{
    return wall_s;
}

int64_t time_wall_ms(void)
{
    return wall_s * 1000;
}

void fake_set_wall(int64_t seconds)
{
    wall_s = seconds;
}

uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 2685821657736338717u;
}

void random_bytes(void *data, size_t size)
{
    unsigned char *p = data;

    for (size_t i = 0; i < size; i++)
        p[i] = (unsigned char)(random_u64() >> 32);
}

bool door_inbox_empty(struct shard *s)
{
    (void)s;
    return true;
}

int helper_call(void (*fn)(void *arg), void *arg)
{
    fn(arg);
    return 0;
}

void door_shard_send(struct shard *to, struct shard_message *m)
{
    scheduler_deliver(to, m);
}

/* ---- The disk ------------------------------------------------------------------------------------------ */

static struct fake_file *find(const char *name)
{
    for (unsigned i = 0; i < FILES_MAX; i++) {
        if (disk.files[i].used && strcmp(disk.files[i].name, name) == 0)
            return &disk.files[i];
    }
    return NULL;
}

static struct fake_file *create(const char *name, bool is_directory)
{
    for (unsigned i = 0; i < FILES_MAX; i++) {
        struct fake_file *f = &disk.files[i];

        if (f->used)
            continue;
        memset(f, 0, sizeof *f);
        f->used = true;
        f->is_directory = is_directory;
        snprintf(f->name, sizeof f->name, "%s", name);
        return f;
    }
    abort();
}

static void drop(struct fake_file *f)
{
    free(f->data);
    free(f->durable);
    memset(f, 0, sizeof *f);
}

void fake_disk_reset(void)
{
    for (unsigned i = 0; i < FILES_MAX; i++) {
        if (disk.files[i].used)
            drop(&disk.files[i]);
    }
    memset(open_files, 0, sizeof open_files);
    cut_at = fail_at = 0;
    capacity = UINT64_MAX;
}

static unsigned char *copy(const unsigned char *data, size_t size)
{
    unsigned char *p = malloc(size + 1);

    if (size > 0)
        memcpy(p, data, size);
    return p;
}

void fake_disk_save(void)
{
    for (unsigned i = 0; i < FILES_MAX; i++) {
        if (saved.files[i].used) {
            free(saved.files[i].data);
            free(saved.files[i].durable);
        }
        saved.files[i] = disk.files[i];
        if (disk.files[i].used) {
            saved.files[i].data = copy(disk.files[i].data, disk.files[i].size);
            saved.files[i].durable = copy(disk.files[i].durable, disk.files[i].durable_size);
        }
    }
}

void fake_disk_restore(void)
{
    fake_disk_reset();
    for (unsigned i = 0; i < FILES_MAX; i++) {
        disk.files[i] = saved.files[i];
        if (saved.files[i].used) {
            disk.files[i].data = copy(saved.files[i].data, saved.files[i].size);
            disk.files[i].durable = copy(saved.files[i].durable, saved.files[i].durable_size);
        }
    }
}

static void resize(struct fake_file *f, size_t size)
{
    f->data = realloc(f->data, size + 1);
    if (size > f->size)
        memset(f->data + f->size, 0, size - f->size);
    f->size = size;
}

static void make_durable(struct fake_file *f)
{
    free(f->durable);
    f->durable = copy(f->data, f->size);
    f->durable_size = f->size;
}

void fake_disk_crash(enum fake_crash how, uint64_t seed)
{
    random_state = seed * 2654435761u + 88172645463325252u;
    for (unsigned i = 0; i < FILES_MAX; i++) {
        struct fake_file *f = &disk.files[i];

        if (!f->used)
            continue;
        f->locked = false;
        if (how == CRASH_KEEP_ALL)
            continue; /* Still not durable. */
        if (!f->name_durable && (how == CRASH_LOSE_ALL || random_u64() % 2 == 0)) {
            drop(f);
            continue;
        }
        if (f->is_directory)
            continue;
        if (how == CRASH_RANDOM && random_u64() % 2 == 0) {
            /* The new size, and of each sector the old or the new bytes. */
            size_t old = f->durable_size;

            f->durable = realloc(f->durable, f->size + old + 1);
            if (f->size > old)
                memset(f->durable + old, 0, f->size - old);
            for (size_t at = 0; at < f->size; at += SECTOR) {
                if (random_u64() % 2 == 0)
                    memcpy(f->durable + at, f->data + at, MIN((size_t)SECTOR, f->size - at));
            }
            f->durable_size = f->size;
        }
        free(f->data);
        f->data = copy(f->durable, f->durable_size);
        f->size = f->durable_size;
        f->name_durable = true;
    }
    memset(open_files, 0, sizeof open_files);
    cut_at = fail_at = 0;
}

unsigned char *fake_file(const char *path, size_t *size_out)
{
    struct fake_file *f = find(path);

    if (f == NULL)
        return NULL;
    *size_out = f->size;
    return f->data;
}

void fake_file_truncate(const char *path, size_t size)
{
    struct fake_file *f = find(path);

    resize(f, size);
    make_durable(f);
}

const char *fake_file_name(unsigned index)
{
    for (unsigned i = 0; i < FILES_MAX; i++) {
        if (disk.files[i].used && !disk.files[i].is_directory && index-- == 0)
            return disk.files[i].name;
    }
    return NULL;
}

/* ---- The door ------------------------------------------------------------------------------------------ */

/* Begins an operation: lets others run; the power may go now, or the operation fail. */
static int begin(void)
{
    operation_count++;
    if (cut_at != 0 && operation_count >= cut_at)
        dead = true;
    fiber_mask();
    (void)fiber_yield();
    while (dead)
        (void)fiber_suspend();
    fiber_unmask();
    return fail_at != 0 && operation_count == fail_at ? fail_error : 0;
}

static struct fake_file *of(struct file f)
{
    ASSERT(f.slot < OPEN_MAX && open_files[f.slot] != 0);
    return &disk.files[open_files[f.slot] - 1];
}

int file_open(const char *path, int flags, mode_t mode, struct file *file_out)
{
    struct fake_file *f;
    int rc = begin();

    (void)mode;
    if (rc < 0)
        return rc;
    f = find(path);
    if (f != NULL && (flags & O_EXCL) != 0)
        return -EEXIST;
    if (f == NULL && (flags & O_CREAT) == 0)
        return -ENOENT;
    if (f == NULL)
        f = create(path, false);
    if ((flags & O_TRUNC) != 0)
        resize(f, 0);
    for (unsigned i = 0; i < OPEN_MAX; i++) {
        if (open_files[i] == 0) {
            open_files[i] = (int)(f - disk.files) + 1;
            *file_out = (struct file){i};
            return 0;
        }
    }
    return -EMFILE;
}

void file_close(struct file f)
{
    ASSERT(f.slot < OPEN_MAX && open_files[f.slot] != 0);
    open_files[f.slot] = 0;
}

ssize_t file_read(struct file file, void *data, size_t size, uint64_t offset)
{
    int rc = begin();
    struct fake_file *f = of(file);

    if (rc < 0)
        return rc;
    if (offset >= f->size)
        return 0;
    size = MIN(size, f->size - (size_t)offset);
    memcpy(data, f->data + offset, size);
    return (ssize_t)size;
}

static int write_now(struct fake_file *f, const struct iovec *vector, unsigned count, uint64_t offset)
{
    for (unsigned i = 0; i < count; i++) {
        if (offset + vector[i].iov_len > f->size)
            resize(f, offset + vector[i].iov_len);
        memcpy(f->data + offset, vector[i].iov_base, vector[i].iov_len);
        offset += vector[i].iov_len;
    }
    return 0;
}

int file_write(struct file file, const struct iovec *vector, unsigned count, uint64_t offset)
{
    int rc = begin();

    if (rc < 0 && random_u64() % 2 == 0)
        return rc;
    (void)write_now(of(file), vector, count, offset);
    return rc;
}

int file_flush(struct file file)
{
    int rc = begin();

    if (rc == 0)
        make_durable(of(file));
    return rc;
}

int file_write_flush(struct file file, const struct iovec *vector, unsigned count, uint64_t offset)
{
    int rc = begin();

    if (rc < 0 && random_u64() % 3 == 0)
        return rc;
    (void)write_now(of(file), vector, count, offset);
    if (rc < 0 && random_u64() % 2 == 0) { /* Failed, and is there all the same. */
        make_durable(of(file));
        return rc;
    }
    if (rc < 0)
        return rc;
    rc = begin(); /* The power may go between the two. */
    if (rc == 0)
        make_durable(of(file));
    return rc;
}

int file_size(struct file file, uint64_t *size_out)
{
    int rc = begin();

    *size_out = of(file)->size;
    return rc;
}

int file_stat(const char *path, struct file_info *info_out)
{
    const struct fake_file *f = find(path);
    int rc = begin();

    if (rc == 0 && f == NULL)
        return -ENOENT;
    if (rc == 0)
        *info_out = (struct file_info){.size = f->size};
    return rc;
}

int file_truncate(struct file file, uint64_t size)
{
    int rc = begin();

    if (rc == 0)
        resize(of(file), size);
    return rc;
}

static uint64_t used(void)
{
    uint64_t size = 0;

    for (unsigned i = 0; i < FILES_MAX; i++)
        size += disk.files[i].used ? disk.files[i].size : 0;
    return size;
}

int file_allocate(struct file file, uint64_t offset, uint64_t size)
{
    int rc = begin();

    if (rc == 0 && of(file)->size < offset + size && used() - of(file)->size + offset + size > capacity)
        return -ENOSPC;
    if (rc == 0 && of(file)->size < offset + size)
        resize(of(file), offset + size);
    return rc;
}

int file_rename(const char *from, const char *to)
{
    struct fake_file *f, *old;
    int rc = begin();

    if (rc < 0)
        return rc;
    f = find(from);
    old = find(to);
    if (f == NULL)
        return -ENOENT;
    if (old != NULL)
        drop(old); /* As if the rename were durable at once: what is tested does not depend on it. */
    snprintf(f->name, sizeof f->name, "%s", to);
    return 0;
}

int file_unlink(const char *path)
{
    struct fake_file *f;
    int rc = begin();

    if (rc < 0)
        return rc;
    f = find(path);
    if (f == NULL)
        return -ENOENT;
    drop(f);
    return 0;
}

int dir_make(const char *path, mode_t mode)
{
    int rc = begin();

    (void)mode;
    if (rc == 0 && find(path) == NULL)
        create(path, true);
    return rc;
}

static bool is_in(const char *name, const char *directory, const char **rest)
{
    size_t size = strlen(directory);

    if (strcmp(directory, ".") == 0)
        *rest = name;
    else if (strncmp(name, directory, size) == 0 && name[size] == '/')
        *rest = name + size + 1;
    else
        return false;
    return strchr(*rest, '/') == NULL;
}

int dir_flush(const char *path)
{
    const char *rest;
    int rc = begin();

    for (unsigned i = 0; i < FILES_MAX && rc == 0; i++) {
        if (disk.files[i].used && is_in(disk.files[i].name, path, &rest))
            disk.files[i].name_durable = true;
    }
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

int dir_list(const char *path, void (*each)(void *arg, const char *name), void *arg)
{
    static char names[FILES_MAX][80]; /* Not on a fiber's stack. */
    const char *rest;
    unsigned count = 0;
    int rc = begin();

    for (unsigned i = 0; i < FILES_MAX && rc == 0; i++) {
        if (disk.files[i].used && is_in(disk.files[i].name, path, &rest))
            snprintf(names[count++], sizeof names[0], "%s", rest);
    }
    qsort(names, count, sizeof names[0], by_name);
    for (unsigned i = 0; i < count; i++)
        each(arg, names[i]);
    return rc;
}

int dir_lock(const char *path)
{
    (void)path;
    return begin();
}

void dir_unlock_all(void)
{
}

void fake_cut_at(unsigned operation)
{
    cut_at = operation;
}

void fake_fail_at(unsigned operation, int error)
{
    fail_at = operation;
    fail_error = error;
}

void fake_set_full(bool is_full)
{
    capacity = is_full ? used() : UINT64_MAX;
}

unsigned fake_operations(void)
{
    return operation_count;
}

/* ---- Running ------------------------------------------------------------------------------------------- */

struct run {
    void (*work)(void *arg);
    void *arg;
    unsigned left;
};

static void run_fiber(void *arg)
{
    struct run *r = arg;

    r->work(r->arg);
    r->left--;
}

static struct fiber *start(struct shard *s, struct run *r)
{
    struct fiber *f;

    scheduler_enter(s);
    f = fiber_start("test", RUN_BULK, run_fiber, r);
    scheduler_leave();
    return f;
}

bool fake_run_shards(unsigned shard_count, void (*work)(void *arg), void *arg, uint64_t heap_budget)
{
    struct shard *shards[8];
    struct node node = {.shards = shards, .shard_count = shard_count};
    struct run run = {work, arg, shard_count};
    bool done;

    operation_count = 0;
    dead = false;
    for (unsigned i = 0; i < shard_count; i++) {
        shards[i] = shard_create(&node, i, heap_budget);
        if (shards[i] == NULL || start(shards[i], &run) == NULL)
            abort();
    }
    while (run.left > 0 && !dead) {
        bool runnable = false;
        uint64_t next = UINT64_MAX;

        for (unsigned i = 0; i < shard_count; i++) {
            scheduler_enter(shards[i]);
            runnable = scheduler_turn(shards[i]) || runnable;
            scheduler_leave();
            next = MIN(next, scheduler_next_ms(shards[i]));
        }
        if (!runnable && next != UINT64_MAX)
            now_ns = MAX(now_ns + 1000000, next * 1000000);
        else
            now_ns += 1000;
    }
    done = run.left == 0;
    for (unsigned i = 0; i < shard_count; i++)
        shard_drop(shards[i]);
    return done;
}

bool fake_run(void (*work)(void *arg), void *arg, uint64_t heap_budget)
{
    return fake_run_shards(1, work, arg, heap_budget);
}
