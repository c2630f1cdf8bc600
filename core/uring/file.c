#include "core/uring/uring.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITE_PIECES_MAX 1024 /* UIO_MAXIOV. */
#define FILE_STEPS_MAX   2

/* One submission, or a chain of them, that a fiber waits for. On its stack. */
struct file_wait {
    struct fiber *fiber;
    unsigned step_count, pending;
    uint32_t index[FILE_STEPS_MAX];
    int32_t res[FILE_STEPS_MAX];
};

static void file_wait_add(struct shard_private *p, struct file_wait *w, struct io_uring_sqe *sqe)
{
    uint32_t index = op_new(&p->ops, w, OP_FILE, 0, 0);

    ASSERT(w->step_count < FILE_STEPS_MAX);
    w->index[w->step_count++] = index;
    w->pending++;
    sqe->user_data = op_user_data(op_at(&p->ops, index), index);
}

/* The fiber is cancelled: what is still queued ends early, what has begun is waited for. */
static void file_wait_cancel(void *arg)
{
    struct shard_private *p = door_self();
    struct file_wait *w = arg;

    for (unsigned i = 0; i < w->step_count; i++) {
        struct op *o = op_at(&p->ops, w->index[i]);
        struct io_uring_sqe *sqe;

        if (o->kind != OP_FILE || o->owner != w)
            continue;
        sqe = ring_sqe(p, p->rings[0]);
        io_uring_prep_cancel64(sqe, op_user_data(o, w->index[i]), 0);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
        sqe->user_data = user_data_special(UD_IGNORE, 0);
    }
}

static int32_t file_wait_end(struct file_wait *w)
{
    w->fiber = fiber_self();
    (void)fiber_suspend_operation(file_wait_cancel, w);
    return w->res[0];
}

void file_completed(struct shard_private *p, uint32_t index, int32_t res)
{
    struct file_wait *w = op_at(&p->ops, index)->owner;

    for (unsigned i = 0; i < w->step_count; i++) {
        if (w->index[i] == index)
            w->res[i] = res;
    }
    op_free(&p->ops, index);
    if (--w->pending == 0)
        fiber_wake(w->fiber, 0);
}

/* An operation begins; NULL: its fiber has been cancelled, so it does not. */
static struct io_uring_sqe *file_begin(void)
{
    struct shard_private *p = door_self();

    return fiber_cancelled() < 0 ? NULL : ring_sqe(p, p->rings[0]);
}

/* Submits what file_begin() gave, and waits for it. */
static int32_t file_finish(struct io_uring_sqe *sqe)
{
    struct file_wait w = {.pending = 0};

    file_wait_add(door_self(), &w, sqe);
    return file_wait_end(&w);
}

static int data_fd(void)
{
    return door_self()->process->data_fd;
}

/* ---- Files --------------------------------------------------------------------------------------------- */

int file_open(const char *path, int flags, mode_t mode, struct file *file_out)
{
    struct io_uring_sqe *sqe = file_begin();
    int32_t res;

    if (sqe == NULL)
        return -ECANCELED;
    io_uring_prep_openat_direct(sqe, data_fd(), path, flags & ~O_CLOEXEC, mode, URING_SLOT_ANY);
    res = file_finish(sqe);
    if (res < 0)
        return res;
    *file_out = (struct file){(uint32_t)res};
    return 0;
}

void file_close(struct file f)
{
    struct shard_private *p = door_self();
    struct io_uring_sqe *sqe = ring_sqe(p, p->rings[0]);

    io_uring_prep_close_direct(sqe, f.slot);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = user_data_special(UD_IGNORE, 0);
}

static bool again(int32_t res)
{
    return res == -EINTR || res == -EAGAIN;
}

ssize_t file_read(struct file f, void *data, size_t size, uint64_t offset)
{
    size_t done = 0;

    while (done < size) {
        struct io_uring_sqe *sqe = file_begin();
        unsigned part = (unsigned)MIN(size - done, (size_t)INT32_MAX);
        int32_t res;

        if (sqe == NULL)
            return -ECANCELED;
        io_uring_prep_read(sqe, (int)f.slot, (char *)data + done, part, offset + done);
        sqe->flags |= IOSQE_FIXED_FILE;
        res = file_finish(sqe);
        if (again(res))
            continue;
        if (res < 0)
            return res;
        if (res == 0)
            break;
        done += (size_t)res;
    }
    return (ssize_t)done;
}

/* A vector being written: what is out is skipped, the vector itself stays as it is. */
struct write {
    const struct iovec *vector;
    unsigned count;
    size_t skip; /* Bytes of vector[0] that are written. */
    uint64_t offset;
};

/* True: that was all. */
static bool write_advance(struct write *w, size_t size)
{
    w->offset += size;
    w->skip += size;
    while (w->count > 0 && w->skip >= w->vector->iov_len) {
        w->skip -= w->vector->iov_len;
        w->vector++;
        w->count--;
    }
    return w->count == 0;
}

/* The rest of a piece alone, or all that is whole. */
static void write_prep(const struct write *w, struct io_uring_sqe *sqe, struct file f)
{
    if (w->skip > 0 || w->count == 1)
        io_uring_prep_write(sqe, (int)f.slot, (char *)w->vector->iov_base + w->skip,
                            (unsigned)MIN(w->vector->iov_len - w->skip, (size_t)INT32_MAX), w->offset);
    else
        io_uring_prep_writev(sqe, (int)f.slot, w->vector, MIN(w->count, (unsigned)WRITE_PIECES_MAX),
                             w->offset);
    sqe->flags |= IOSQE_FIXED_FILE;
}

/* 0: something was written, *w is what is left. */
static int write_result(struct write *w, int32_t res)
{
    if (again(res))
        return 0;
    if (res < 0)
        return res;
    if (res == 0) /* No progress, no reason: a file system that cannot say what is wrong. */
        return -EIO;
    (void)write_advance(w, (size_t)res);
    return 0;
}

static int write_all(struct write *w, struct file f)
{
    int rc = 0;

    while (rc == 0 && w->count > 0) {
        struct io_uring_sqe *sqe = file_begin();

        if (sqe == NULL)
            return -ECANCELED;
        write_prep(w, sqe, f);
        rc = write_result(w, file_finish(sqe));
    }
    return rc;
}

int file_write(struct file f, const struct iovec *vector, unsigned count, uint64_t offset)
{
    struct write w = {.vector = vector, .count = count, .offset = offset};

    (void)write_advance(&w, 0); /* Leading empty pieces. */
    return write_all(&w, f);
}

int file_flush(struct file f)
{
    struct io_uring_sqe *sqe = file_begin();

    if (sqe == NULL)
        return -ECANCELED;
    io_uring_prep_fsync(sqe, (int)f.slot, IORING_FSYNC_DATASYNC);
    sqe->flags |= IOSQE_FIXED_FILE;
    return file_finish(sqe);
}

/* The kernel drops the flush when the write before it fails or is short; then the rest is written, and
 * flushed. */
int file_write_flush(struct file f, const struct iovec *vector, unsigned count, uint64_t offset)
{
    struct shard_private *p = door_self();
    struct write w = {.vector = vector, .count = count, .offset = offset};
    struct file_wait wait = {.pending = 0};
    struct io_uring_sqe *sqe;
    int rc;

    if (fiber_cancelled() < 0)
        return -ECANCELED;
    if (write_advance(&w, 0))
        return file_flush(f);
    ring_reserve(p, p->rings[0], 2);
    sqe = ring_sqe(p, p->rings[0]);
    write_prep(&w, sqe, f);
    sqe->flags |= IOSQE_IO_LINK;
    file_wait_add(p, &wait, sqe);
    sqe = ring_sqe(p, p->rings[0]);
    io_uring_prep_fsync(sqe, (int)f.slot, IORING_FSYNC_DATASYNC);
    sqe->flags |= IOSQE_FIXED_FILE;
    file_wait_add(p, &wait, sqe);
    rc = write_result(&w, file_wait_end(&wait));
    if (rc < 0)
        return rc;
    if (w.count == 0)
        return wait.res[1];
    rc = write_all(&w, f);
    return rc < 0 ? rc : file_flush(f);
}

/* statx(2) takes no direct descriptor, so a plain one is lent for a moment. */
int file_size(struct file f, uint64_t *size_out)
{
    struct io_uring_sqe *sqe = file_begin();
    struct stat st;
    int fd, rc;

    if (sqe == NULL)
        return -ECANCELED;
    uring_prep_fixed_fd_install(sqe, (int)f.slot);
    fd = file_finish(sqe);
    if (fd < 0)
        return fd;
    rc = fstat(fd, &st) < 0 ? -errno : 0;
    close(fd);
    if (rc == 0)
        *size_out = (uint64_t)st.st_size;
    return rc;
}

int file_stat(const char *path, struct file_info *info_out)
{
    struct io_uring_sqe *sqe = file_begin();
    struct statx st;
    int32_t res;

    if (sqe == NULL)
        return -ECANCELED;
    io_uring_prep_statx(sqe, data_fd(), path, 0, STATX_SIZE | STATX_INO | STATX_MTIME, &st);
    res = file_finish(sqe);
    if (res < 0)
        return res;
    *info_out = (struct file_info){
        .size = st.stx_size,
        .inode = st.stx_ino,
        .modified_ns = st.stx_mtime.tv_sec * INT64_C(1000000000) + st.stx_mtime.tv_nsec,
    };
    return 0;
}

int file_truncate(struct file f, uint64_t size)
{
    struct io_uring_sqe *sqe = file_begin();

    if (sqe == NULL)
        return -ECANCELED;
    uring_prep_ftruncate(sqe, (int)f.slot, size);
    sqe->flags |= IOSQE_FIXED_FILE;
    return file_finish(sqe);
}

int file_allocate(struct file f, uint64_t offset, uint64_t size)
{
    struct io_uring_sqe *sqe = file_begin();

    if (sqe == NULL)
        return -ECANCELED;
    io_uring_prep_fallocate(sqe, (int)f.slot, 0, (off_t)offset, (off_t)size);
    sqe->flags |= IOSQE_FIXED_FILE;
    return file_finish(sqe);
}

/* ---- Names --------------------------------------------------------------------------------------------- */

int file_rename(const char *from, const char *to)
{
    struct io_uring_sqe *sqe = file_begin();

    if (sqe == NULL)
        return -ECANCELED;
    io_uring_prep_renameat(sqe, data_fd(), from, data_fd(), to, 0);
    return file_finish(sqe);
}

int file_unlink(const char *path)
{
    struct io_uring_sqe *sqe = file_begin();

    if (sqe == NULL)
        return -ECANCELED;
    io_uring_prep_unlinkat(sqe, data_fd(), path, 0);
    return file_finish(sqe);
}

int dir_make(const char *path, mode_t mode)
{
    struct io_uring_sqe *sqe = file_begin();
    int32_t res;

    if (sqe == NULL)
        return -ECANCELED;
    io_uring_prep_mkdirat(sqe, data_fd(), path, mode);
    res = file_finish(sqe);
    return res == -EEXIST ? 0 : res;
}

int dir_flush(const char *path)
{
    struct io_uring_sqe *sqe;
    struct file dir;
    int rc = file_open(path, O_RDONLY | O_DIRECTORY, 0, &dir);

    if (rc < 0)
        return rc;
    sqe = file_begin();
    if (sqe == NULL) {
        rc = -ECANCELED;
    } else {
        io_uring_prep_fsync(sqe, (int)dir.slot, 0);
        sqe->flags |= IOSQE_FIXED_FILE;
        rc = file_finish(sqe);
    }
    file_close(dir);
    return rc;
}

int dir_lock(const char *path)
{
    struct process *process = door_self()->process;
    int fd = openat(process->data_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    unsigned place;
    int rc;

    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
        close(fd);
        return rc;
    }
    place = atomic_fetch_add(&process->lock_count, 1);
    ASSERT(place < LOCK_COUNT_MAX);
    process->lock_fds[place] = fd;
    return 0;
}

void dir_unlock_all(void)
{
    struct process *process = door_self()->process;
    unsigned count = atomic_exchange(&process->lock_count, 0);

    for (unsigned i = 0; i < count; i++)
        close(process->lock_fds[i]);
}

/* ---- Directories: no operation of the ring reads them, so a helper thread does ------------------------- */

struct dir_names {
    const char *path;
    int base_fd;
    int rc;
    char **names;
    size_t count, space;
};

static int dir_names_add(struct dir_names *d, const char *name)
{
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return 0;
    if (d->count == d->space) {
        size_t space = d->space == 0 ? 64 : d->space * 2;
        char **names = realloc(d->names, space * sizeof *names);

        if (names == NULL)
            return -ENOMEM;
        d->names = names;
        d->space = space;
    }
    d->names[d->count] = strdup(name);
    return d->names[d->count] != NULL ? (d->count++, 0) : -ENOMEM;
}

static int names_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int dir_names_read(struct dir_names *d)
{
    int fd = openat(d->base_fd, d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct dirent *entry;
    int rc = 0;
    DIR *dir;

    if (fd < 0)
        return -errno;
    dir = fdopendir(fd);
    if (dir == NULL) {
        rc = -errno;
        close(fd);
        return rc;
    }
    errno = 0;
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        rc = dir_names_add(d, entry->d_name);
    if (rc == 0 && errno != 0)
        rc = -errno;
    closedir(dir);
    if (d->count > 0)
        qsort(d->names, d->count, sizeof *d->names, names_compare);
    return rc;
}

static void dir_names_run(void *arg)
{
    struct dir_names *d = arg;

    d->rc = dir_names_read(d);
}

int dir_list(const char *path, void (*each)(void *arg, const char *name), void *arg)
{
    struct dir_names d = {.path = path, .base_fd = data_fd()};
    int rc = helper_call(dir_names_run, &d);

    if (rc == 0)
        rc = d.rc;
    for (size_t i = 0; i < d.count; i++) {
        if (rc == 0)
            each(arg, d.names[i]);
        free(d.names[i]);
    }
    free(d.names);
    return rc;
}
