/* core/uring/uring_compat.h -- what Linux 6.12 has and the headers of liburing 2.3 do not. Numbers are the
 * kernel's user API. */
#pragma once
#include <errno.h>
#include <liburing.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    URING_OP_FIXED_FD_INSTALL = 54,   /* 6.8 */
    URING_OP_FTRUNCATE = 55,          /* 6.9 */
    URING_OP_LISTEN = 57,             /* 6.11: the youngest operation that 6.12 is known by. */
    URING_FEAT_MIN_TIMEOUT = 1 << 15, /* 6.12 */
};

/* "Any free slot" for accepts and opens: liburing 2.3 adds 1 to what it is given, without looking; later ones
 * take it too. */
#define URING_SLOT_ANY (IORING_FILE_INDEX_ALLOC - 1)

static inline void uring_prep_ftruncate(struct io_uring_sqe *sqe, int fd, uint64_t size)
{
    io_uring_prep_rw(URING_OP_FTRUNCATE, sqe, fd, NULL, 0, size);
}

/* A plain descriptor for a direct one. */
static inline void uring_prep_fixed_fd_install(struct io_uring_sqe *sqe, int fd)
{
    io_uring_prep_rw(URING_OP_FIXED_FD_INSTALL, sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
}

/* liburing 2.3 declares the functions for these two and its shared library does not have them. */
static inline int uring_register(const struct io_uring *ring, unsigned what, const void *arg, unsigned count)
{
    return syscall(__NR_io_uring_register, ring->ring_fd, what, arg, count) < 0 ? -errno : 0;
}

static inline int uring_restrict(const struct io_uring *ring, const struct io_uring_restriction *list,
                                 unsigned count)
{
    return uring_register(ring, IORING_REGISTER_RESTRICTIONS, list, count);
}

static inline int uring_enable(const struct io_uring *ring)
{
    return uring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}
