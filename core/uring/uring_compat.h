/* core/uring/uring_compat.h -- what Linux 6.12 has and the headers of liburing 2.3 do not. Numbers are the
 * kernel's user API. */
#pragma once
#include <liburing.h>

enum {
    URING_OP_FIXED_FD_INSTALL = 54,   /* 6.8 */
    URING_OP_FTRUNCATE = 55,          /* 6.9 */
    URING_OP_LISTEN = 57,             /* 6.11: the youngest operation that 6.12 is known by. */
    URING_FEAT_MIN_TIMEOUT = 1 << 15, /* 6.12 */
    URING_SOCKET_SETSOCKOPT = 3,      /* 6.7: a command of IORING_OP_URING_CMD. */
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

static inline void uring_prep_setsockopt(struct io_uring_sqe *sqe, int fd, int level, int name,
                                         const void *value, unsigned size)
{
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, NULL, 0, URING_SOCKET_SETSOCKOPT);
    sqe->addr = (uint32_t)level | (uint64_t)(uint32_t)name << 32;
    sqe->file_index = size;
    sqe->addr3 = (uintptr_t)value;
}
