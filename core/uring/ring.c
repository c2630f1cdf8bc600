#include "core/uring/uring.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

/* ---- What a restricted ring may do --------------------------------------------------------------------- */

/* Sockets are written to like files: a send could name an address and, by MSG_FASTOPEN, connect to it unseen by Landlock. */
static const uint8_t ops_always[] = {
    IORING_OP_NOP,
    IORING_OP_READ,
    IORING_OP_POLL_ADD,
    IORING_OP_TIMEOUT,
    IORING_OP_ASYNC_CANCEL,
    IORING_OP_ACCEPT,
    IORING_OP_RECV,
    IORING_OP_WRITE,
    IORING_OP_WRITEV,
    IORING_OP_CLOSE,
    IORING_OP_SHUTDOWN,
    IORING_OP_MSG_RING,
    /* For passing.c: sockets between the table and plain descriptors. */
    URING_OP_FIXED_FD_INSTALL,
    IORING_OP_FILES_UPDATE,
};
static const uint8_t ops_files[] = {
    IORING_OP_OPENAT,   IORING_OP_STATX,    IORING_OP_FSYNC,    IORING_OP_FALLOCATE,
    URING_OP_FTRUNCATE, IORING_OP_RENAMEAT, IORING_OP_UNLINKAT, IORING_OP_MKDIRAT,
};
static const uint8_t ops_connect[] = {IORING_OP_CONNECT};
static const uint8_t registers_always[] = {IORING_REGISTER_SYNC_CANCEL, IORING_UNREGISTER_RING_FDS};

#define RESTRICTIONS_MAX                                                                                     \
    (ARRAY_COUNT(ops_always) + ARRAY_COUNT(ops_files) + ARRAY_COUNT(ops_connect) +                           \
     ARRAY_COUNT(registers_always) + 1)

static void allow_ops(struct io_uring_restriction *list, unsigned *count, const uint8_t *ops, size_t op_count)
{
    for (size_t i = 0; i < op_count; i++)
        list[(*count)++] =
            (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = ops[i]};
}

/* No IOSQE_ASYNC: what a kernel's worker does, it does with the rights that it was made with. */
static int ring_restrict(struct ring *r, unsigned rights)
{
    struct io_uring_restriction list[RESTRICTIONS_MAX] = {
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
         .sqe_flags = IOSQE_FIXED_FILE | IOSQE_IO_LINK | IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS}};
    unsigned count = 1;

    allow_ops(list, &count, ops_always, ARRAY_COUNT(ops_always));
    if (rights & NODE_RING_FILES)
        allow_ops(list, &count, ops_files, ARRAY_COUNT(ops_files));
    if (rights & NODE_RING_CONNECT)
        allow_ops(list, &count, ops_connect, ARRAY_COUNT(ops_connect));
    for (size_t i = 0; i < ARRAY_COUNT(registers_always); i++)
        list[count++] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_REGISTER_OP,
                                                      .register_op = registers_always[i]};
    return uring_restrict(&r->uring, list, count);
}

/* ---- Making one ---------------------------------------------------------------------------------------- */

static int ring_setup(struct ring *r, bool main, unsigned rights)
{
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_CQSIZE |
                                              IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG};
    unsigned sq = main ? RING_SQ_MAIN : RING_SQ_TABLE;
    int rc;

    params.flags |= main ? IORING_SETUP_DEFER_TASKRUN : IORING_SETUP_COOP_TASKRUN;
    params.flags |= rights != 0 ? IORING_SETUP_R_DISABLED : 0;
    params.cq_entries = sq * 8;
    rc = io_uring_queue_init_params(sq, &r->uring, &params);
    if (rc < 0 || rights == 0)
        return rc;
    rc = ring_restrict(r, rights);
    if (rc < 0)
        io_uring_queue_exit(&r->uring);
    return rc;
}

static uint32_t table_size(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < RING_TABLE_SIZE_MAX)
        return (uint32_t)limit.rlim_cur;
    return RING_TABLE_SIZE_MAX;
}

static uint32_t main_socket_limit(uint32_t table)
{
    return table - MIN(FILE_SLOTS_MAX, table / 2);
}

static int ring_table(struct ring *r, bool main)
{
    int rc = io_uring_register_files_sparse(&r->uring, r->slot_count);

    if (rc < 0)
        return rc;
    r->slots = calloc(r->slot_count, sizeof *r->slots);
    r->socket_limit = main ? main_socket_limit(r->slot_count) : r->slot_count;
    return r->slots != NULL ? 0 : -ENOMEM;
}

static int ring_new(bool main, unsigned rights, struct ring **r_out)
{
    struct ring *r = calloc(1, sizeof *r);
    int rc;

    if (r == NULL)
        return -ENOMEM;
    r->slot_count = table_size(); /* Now: later the process may not ask any more. */
    rc = ring_setup(r, main, rights);
    if (rc < 0)
        free(r);
    else
        *r_out = r;
    return rc;
}

/* The kernel's workers belong to the thread, not to the ring: said once. */
static void pin_kernel_workers(struct ring *r, int cpu)
{
    unsigned max[2] = {IOWQ_WORKERS_MAX, IOWQ_WORKERS_MAX};
    cpu_set_t set;

    (void)io_uring_register_iowq_max_workers(&r->uring, max);
    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    (void)io_uring_register_iowq_aff(&r->uring, sizeof set, &set);
}

/* After its last registration it is enabled: then the kernel holds it to its list. */
static int ring_open(struct ring *r, bool main, const struct shard_private *p)
{
    int rc;

    (void)io_uring_register_ring_fd(&r->uring); /* Saves looking the descriptor up, where the kernel can. */
    rc = ring_table(r, main);
    if (rc == 0)
        rc = buffers_attach(r, main ? RECV_LENT_MAIN : RECV_LENT_TABLE);
    if (rc == 0 && main)
        pin_kernel_workers(r, p->cpu);
    return rc == 0 && p->process->ring_rights != 0 ? uring_enable(&r->uring) : rc;
}

static int ring_take(struct ring_set *set, bool main, struct ring **r_out)
{
    if (!main && set->spare_count == 0)
        return -ENFILE;
    *r_out = main ? set->main : set->spares[--set->spare_count];
    if (main)
        set->main = NULL;
    return 0;
}

int ring_create(struct shard_private *p, bool main)
{
    struct ring *r;
    int rc;

    if (p->ring_count == RING_COUNT_MAX)
        return -ENFILE;
    rc = p->set != NULL ? ring_take(p->set, main, &r) : ring_new(main, 0, &r);
    if (rc < 0)
        return rc;
    r->index = (uint16_t)p->ring_count;
    rc = ring_open(r, main, p);
    if (rc < 0) {
        ring_close(r);
        ring_free(r);
        return rc;
    }
    p->rings[p->ring_count++] = r;
    buffers_lend(p, r);
    return 0;
}

#define PATIENCE_STEP_MS 20

/* ---- Those of a restricted process --------------------------------------------------------------------- */

bool ring_patient(unsigned *patience_ms)
{
    const struct timespec step = {.tv_nsec = PATIENCE_STEP_MS * 1000000};

    if (*patience_ms < PATIENCE_STEP_MS)
        return false;
    *patience_ms -= PATIENCE_STEP_MS;
    (void)nanosleep(&step, NULL);
    return true;
}

static int ring_new_patient(bool main, unsigned rights, unsigned *patience_ms, struct ring **r_out)
{
    int rc;

    do
        rc = ring_new(main, rights, r_out);
    while (rc == -ENOMEM && ring_patient(patience_ms));
    return rc;
}

/* False: the kernel gives no more. */
static bool spare_add(struct ring_set *set, unsigned rights, unsigned *patience_ms)
{
    if (ring_new_patient(false, rights, patience_ms, &set->spares[set->spare_count]) < 0)
        return false;
    set->spare_count++;
    return true;
}

static void spare_drop(struct ring_set *set)
{
    struct ring *r;

    if (ring_take(set, false, &r) < 0)
        return;
    ring_close(r);
    ring_free(r);
}

/* Each costs some 50 KiB before its first use, and a descriptor. */
static unsigned spares_wanted(uint64_t sockets_max)
{
    uint32_t table = table_size();
    uint64_t main = main_socket_limit(table), wanted = 0;

    if (sockets_max > main)
        wanted = (sockets_max - main + table - 1) / table;
    return (unsigned)MIN(wanted, (uint64_t)RING_SPARES_MAX);
}

int ring_sets_make(struct process *process, unsigned shard_count, uint64_t sockets_max, uint64_t *sockets_out)
{
    unsigned wanted = spares_wanted(sockets_max), count = 0, patience_ms = RING_PATIENCE_MS;
    struct ring_set *sets = calloc(shard_count, sizeof *sets);
    int rc = sets != NULL ? 0 : -ENOMEM;

    process->ring_sets = sets;
    for (unsigned i = 0; rc == 0 && i < shard_count; i++)
        rc = ring_new_patient(true, process->ring_rights, &patience_ms, &sets[i].main);
    for (bool more = rc == 0; more && count < wanted; count += more) {
        for (unsigned i = 0; more && i < shard_count; i++)
            more = spare_add(&sets[i], process->ring_rights, &patience_ms);
        for (unsigned i = 0; !more && i < shard_count; i++)
            spare_drop(&sets[i]); /* What is left of a limit is needed when the others are opened. */
    }
    if (rc == 0) /* The last shard has the fewest. */
        *sockets_out =
            main_socket_limit(table_size()) + (uint64_t)sets[shard_count - 1].spare_count * table_size();
    return rc;
}

void ring_sets_free(struct process *process, unsigned shard_count)
{
    for (unsigned i = 0; process->ring_sets != NULL && i < shard_count; i++) {
        struct ring_set *set = &process->ring_sets[i];

        while (set->spare_count > 0)
            spare_drop(set);
        if (set->main != NULL) {
            ring_close(set->main);
            ring_free(set->main);
        }
    }
    free(process->ring_sets);
    process->ring_sets = NULL;
}

void ring_close(struct ring *r)
{
    io_uring_queue_exit(&r->uring);
}

void ring_free(struct ring *r)
{
    buffers_detach(r);
    free(r->slots);
    free(r);
}

static void ring_mark(struct shard_private *p, struct ring *r)
{
    if (r->index == 0 || r->on_dirty) /* The main ring is submitted every turn. */
        return;
    r->on_dirty = true;
    p->dirty[p->dirty_count++] = r->index;
}

void ring_reserve(struct shard_private *p, struct ring *r, unsigned count)
{
    /* A submission can fail for want of memory or of room for completions; both pass. */
    for (unsigned i = 0; io_uring_sq_space_left(&r->uring) < count; i++) {
        ASSERT(i < 1000);
        (void)io_uring_submit_and_get_events(&r->uring);
    }
    ring_mark(p, r);
}

struct io_uring_sqe *ring_sqe(struct shard_private *p, struct ring *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

    if (UNLIKELY(sqe == NULL)) {
        ring_reserve(p, r, 1);
        sqe = io_uring_get_sqe(&r->uring);
    }
    ring_mark(p, r);
    return sqe;
}

bool ring_has_work(const struct ring *r)
{
    unsigned flags = atomic_load_explicit((_Atomic unsigned *)r->uring.sq.kflags, memory_order_relaxed);

    return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

struct ring *ring_for_socket(struct shard_private *p)
{
    for (;; p->ring_hint++) {
        struct ring *r;

        if (p->ring_hint == p->ring_count && ring_create(p, false) < 0)
            return NULL;
        r = p->rings[p->ring_hint];
        if (r->socket_count < r->socket_limit) {
            r->socket_count++;
            return r;
        }
    }
}

void ring_socket_gone(struct shard_private *p, struct ring *r)
{
    ASSERT(r->socket_count > 0);
    r->socket_count--;
    p->ring_hint = MIN(p->ring_hint, r->index);
}
