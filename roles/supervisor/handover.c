#include "roles/supervisor/handover.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAGIC   "TRHANDOV"
#define VERSION 4

struct head {
    char magic[8];
    uint32_t version;
    uint32_t cpu_count, listener_count, predecessor_count, file_count;
    uint32_t anew;
    uint64_t memory;
    pid_t supervisor;
    int control_fd, ledger_fd;
};

struct file_head {
    uint64_t path_size, bytes_size;
};

/* ---- Writing ------------------------------------------------------------------------------------------- */

static int put(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size > 0) {
        ssize_t n = write(fd, at, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

static int put_file(int fd, const struct given_file *file)
{
    struct file_head head = {file->path.size, file->bytes.size};
    int rc = put(fd, &head, sizeof head);

    if (rc == 0)
        rc = put(fd, file->path.data, file->path.size);
    return rc == 0 ? put(fd, file->bytes.data, file->bytes.size) : rc;
}

int handover_write(const struct handover *h)
{
    struct head head = {.magic = MAGIC,
                        .version = VERSION,
                        .cpu_count = h->cpu_count,
                        .listener_count = h->listener_count,
                        .predecessor_count = h->predecessor_count,
                        .file_count = (uint32_t)h->given.count + (h->config_file != NULL),
                        .memory = h->memory,
                        .anew = h->anew,
                        .supervisor = h->supervisor,
                        .control_fd = h->control_fd,
                        .ledger_fd = h->ledger_fd};
    int fd = memfd_create("trireme-handover", MFD_CLOEXEC | MFD_ALLOW_SEALING), rc;

    if (fd < 0)
        return -errno;
    rc = put(fd, &head, sizeof head);
    if (rc == 0)
        rc = put(fd, h->cpus, h->cpu_count * sizeof *h->cpus);
    if (rc == 0)
        rc = put(fd, h->listeners, h->listener_count * sizeof *h->listeners);
    if (rc == 0)
        rc = put(fd, h->predecessors, h->predecessor_count * sizeof *h->predecessors);
    for (size_t i = 0; rc == 0 && i < h->given.count; i++)
        rc = put_file(fd, &h->given.files[i]);
    if (rc == 0 && h->config_file != NULL)
        rc = put_file(fd, h->config_file);
    if (rc == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        rc = -errno;
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

/* ---- The ledger ---------------------------------------------------------------------------------------- */

int handover_ledger_make(unsigned shard_count)
{
    int fd = memfd_create("trireme-ledger", MFD_CLOEXEC | MFD_ALLOW_SEALING), rc = 0;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)(shard_count * sizeof(struct ledger))) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        rc = -errno;
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

struct ledger *handover_ledger_map(int fd, unsigned shard_count)
{
    size_t size = shard_count * sizeof(struct ledger);
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (map == MAP_FAILED)
        return NULL;
    (void)madvise(map, size, MADV_DONTDUMP);
    return map;
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

static const char *take(struct slice *in, uint64_t size)
{
    const char *at = in->data;

    if (size > in->size)
        return NULL;
    *in = slice_from(*in, (size_t)size);
    return at;
}

static bool take_copy(struct slice *in, void *out, uint64_t size)
{
    const char *at = take(in, size);

    if (at == NULL)
        return false;
    if (size > 0)
        memcpy(out, at, (size_t)size);
    return true;
}

static bool take_file(struct slice *in, struct given_file *file)
{
    struct file_head head;
    const char *path, *bytes;

    if (!take_copy(in, &head, sizeof head))
        return false;
    path = take(in, head.path_size);
    bytes = path != NULL ? take(in, head.bytes_size) : NULL;
    if (bytes == NULL)
        return false;
    *file =
        (struct given_file){slice_of(path, (size_t)head.path_size), slice_of(bytes, (size_t)head.bytes_size)};
    return true;
}

static bool take_all(struct slice in, struct handover *h)
{
    struct head head;
    bool good = take_copy(&in, &head, sizeof head) && memcmp(head.magic, MAGIC, sizeof head.magic) == 0 &&
                head.version == VERSION && head.cpu_count <= in.size && head.listener_count <= in.size &&
                head.predecessor_count <= in.size && head.file_count <= in.size;

    if (!good)
        return false;
    h->supervisor = head.supervisor;
    h->control_fd = head.control_fd;
    h->ledger_fd = head.ledger_fd;
    h->memory = head.memory;
    h->anew = head.anew != 0;
    h->cpu_count = head.cpu_count;
    h->listener_count = head.listener_count;
    h->predecessor_count = head.predecessor_count;
    h->given.count = head.file_count;
    h->cpus = calloc(head.cpu_count + 1, sizeof *h->cpus);
    h->listeners = calloc(head.listener_count + 1, sizeof *h->listeners);
    h->predecessors = calloc(head.predecessor_count + 1, sizeof *h->predecessors);
    h->given.files = calloc(head.file_count + 1, sizeof *h->given.files);
    good = h->cpus != NULL && h->listeners != NULL && h->predecessors != NULL && h->given.files != NULL &&
           take_copy(&in, h->cpus, h->cpu_count * sizeof *h->cpus) &&
           take_copy(&in, h->listeners, h->listener_count * sizeof *h->listeners) &&
           take_copy(&in, h->predecessors, h->predecessor_count * sizeof *h->predecessors);
    for (size_t i = 0; good && i < h->given.count; i++)
        good = take_file(&in, &h->given.files[i]);
    return good && in.size == 0;
}

/* Takes no descriptor. */
static int read_mapped(int fd, size_t size, struct handover *h_out)
{
    struct handover h = {.control_fd = -1, .map_size = size};
    int rc = 0;

    h.map = mmap(NULL, h.map_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (h.map == MAP_FAILED)
        return -errno;
    (void)madvise(h.map, h.map_size, MADV_DONTDUMP);
    if (!take_all(slice_of(h.map, h.map_size), &h))
        rc = -EINVAL;
    if (rc < 0)
        handover_fini(&h);
    else
        *h_out = h;
    return rc;
}

int handover_read(int fd, struct handover *h_out)
{
    off_t size = lseek(fd, 0, SEEK_END);
    int rc = size > 0 ? read_mapped(fd, (size_t)size, h_out) : -EINVAL;

    if (rc == 0)
        close(fd);
    return rc;
}

void handover_forget(struct handover *h)
{
    if (h->map != NULL)
        munmap(h->map, h->map_size);
    h->map = NULL;
    h->given.count = 0;
}

void handover_fini(struct handover *h)
{
    handover_forget(h);
    free(h->given.files);
    free(h->listeners);
    free(h->predecessors);
    free(h->cpus);
    *h = (struct handover){.control_fd = -1};
}

/* ---- Files --------------------------------------------------------------------------------------------- */

int handover_file_read(const char *path, struct given_file *file_out)
{
    size_t size = 0, space = HANDOVER_FILE_MAX + 1;
    struct given_file file;
    char *bytes = malloc(space);
    ssize_t n = 1;
    int fd, rc = 0;

    if (bytes == NULL)
        return -ENOMEM;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* A pipe is no such file, and nobody waits for it. */
    if (fd < 0) {
        rc = -errno;
        free(bytes);
        return rc;
    }
    while (size < space && (n = read(fd, bytes + size, space - size)) > 0)
        size += (size_t)n;
    if (n < 0)
        rc = -errno;
    else if (size > HANDOVER_FILE_MAX)
        rc = -EFBIG;
    close(fd);
    file = (struct given_file){slice_str(path), slice_of(bytes, size)};
    if (rc == 0)
        *file_out = file;
    else
        handover_file_wipe(&file);
    return rc;
}

void handover_file_wipe(struct given_file *file)
{
    char *bytes = (char *)(uintptr_t)file->bytes.data;

    bytes_wipe(bytes, file->bytes.size);
    free(bytes);
    *file = (struct given_file){0};
}

void handover_files_wipe(struct given *given)
{
    for (size_t i = 0; i < given->count; i++)
        handover_file_wipe(&given->files[i]);
    given->count = 0;
}

void handover_say(int control_fd, enum handover_word word)
{
    char byte = (char)word;

    if (write(control_fd, &byte, 1) < 0)
        return; /* The supervisor is gone, and so is this process in a moment. */
}

/* ---- Orders -------------------------------------------------------------------------------------------- */

union order_space { /* For descriptors, aligned. */
    struct cmsghdr head;
    char space[CMSG_SPACE(HANDOVER_FDS_MAX * sizeof(int))];
};

static int order_send(int control_fd, const struct handover_order *order, const struct handover_fds *fds)
{
    struct iovec vector = {(void *)(uintptr_t)order, sizeof *order};
    size_t size = fds != NULL ? fds->count * sizeof *fds->at : 0;
    union order_space space;
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};

    ASSERT(fds == NULL || fds->count <= HANDOVER_FDS_MAX);
    memset(&space, 0, sizeof space);
    if (size > 0) {
        message.msg_control = &space;
        message.msg_controllen = CMSG_SPACE(size);
        space.head =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(size), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&space.head), fds->at, size);
    }
    return sendmsg(control_fd, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int handover_order(int control_fd, enum handover_order_kind kind, const char *error,
                   const struct handover_fds *fds)
{
    struct handover_order order = {.kind = kind};

    snprintf(order.error, sizeof order.error, "%s", error);
    return order_send(control_fd, &order, fds);
}

int handover_order_files(int control_fd, enum handover_order_kind kind, const struct handover *files)
{
    struct handover_order order = {.kind = kind};
    struct handover_fds fds = {.count = 1};
    int fd = handover_write(files), rc;
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;

    if (fd < 0 || size < 0)
        return fd < 0 ? fd : -errno;
    order.file_size = (uint64_t)size;
    fds.at[0] = fd;
    rc = order_send(control_fd, &order, &fds);
    close(fd);
    return rc;
}

bool handover_receive(int control_fd, struct handover_order *order_out, struct handover_fds *fds_out)
{
    struct iovec vector = {order_out, sizeof *order_out};
    union order_space space;
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &space, .msg_controllen = sizeof space};
    ssize_t got = recvmsg(control_fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    const struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;

    fds_out->count = 0;
    if (head != NULL && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
        fds_out->count = (unsigned)((head->cmsg_len - CMSG_LEN(0)) / sizeof *fds_out->at);
        memcpy(fds_out->at, CMSG_DATA(head), fds_out->count * sizeof *fds_out->at);
    }
    if (got == (ssize_t)sizeof *order_out)
        return true;
    handover_close(fds_out);
    return false;
}

int handover_receive_files(const struct handover_order *order, struct handover_fds *fds,
                           struct handover *files_out)
{
    int rc = fds->count == 1 && order->file_size > 0 ? read_mapped(fds->at[0], order->file_size, files_out)
                                                     : -EINVAL;

    handover_close(fds);
    return rc;
}

void handover_close(struct handover_fds *fds)
{
    for (unsigned i = 0; i < fds->count; i++)
        close(fds->at[i]);
    fds->count = 0;
}
