#include "core/node.h"
#include "core/log.h"
#include "core/uring/uring.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define SHARD_COUNT_MAX    1024
#define STOP_TIMEOUT_MS    30000
#define SHARD_THREAD_STACK (8u * 1024 * 1024) /* core_call() runs on it. */

enum node_command {
    COMMAND_START = 1,
    COMMAND_STOP = 2,
    COMMAND_RELOAD = 4,
    COMMAND_EXIT = 8,
    COMMAND_HAND_OVER = 16
};
enum { SHARD_STARTED = 1, SHARD_STOPPED = 2 };

struct shard_thread {
    struct running_node *run;
    pthread_t thread;
    unsigned index;
    int rc;
    bool started; /* start() went well: stop() is due. */
};

/* What node_run() keeps; node comes first, so that a shard finds it. */
struct running_node {
    struct node node;
    struct process process;
    const struct node_options *options;
    struct shard_thread *threads;
    int event_fd, signal_fd;
    pthread_mutex_t lock; /* Guards the rest: shards report, the first thread reads. */
    pthread_cond_t reported;
    unsigned made_count, started_count, stopped_count;
    int failed;           /* First error of a shard. */
    bool failed_in_start; /* It came from start(). */
    bool told;            /* The error has been told. */
    atomic_bool stop_wanted, reload_wanted, hand_over_wanted;
};

static struct running_node *run_of(struct shard *s)
{
    return CONTAINER_OF(s->node, struct running_node, node);
}

static void poke(struct running_node *run)
{
    uint64_t one = 1;

    if (write(run->event_fd, &one, sizeof one) < 0)
        ASSERT(errno == EAGAIN);
}

/* ---- On the shards ------------------------------------------------------------------------------------- */

static void report(struct running_node *run, unsigned *count, int rc, bool in_start)
{
    pthread_mutex_lock(&run->lock);
    ++*count;
    if (rc < 0 && run->failed == 0) {
        run->failed = rc;
        run->failed_in_start = in_start;
    }
    pthread_cond_broadcast(&run->reported);
    pthread_mutex_unlock(&run->lock);
    poke(run);
}

static void start_run(void *arg)
{
    struct shard *s = arg;
    struct running_node *run = run_of(s);
    int rc = run->node.ops->start(s);

    run->threads[s->index].started = rc == 0;
    if (rc < 0) /* Others may be waiting for this one. */
        __atomic_store_n(&run->node.stopping, true, __ATOMIC_RELAXED);
    report(run, &run->started_count, rc, true);
}

static void stop_run(void *arg)
{
    struct shard *s = arg;
    struct running_node *run = run_of(s);

    if (run->threads[s->index].started)
        run->node.ops->stop(s);
    report(run, &run->stopped_count, 0, false);
}

static void reload_run(void *arg)
{
    struct shard *s = arg;

    run_of(s)->options->reload(s);
}

static void hand_over_run(void *arg)
{
    struct shard *s = arg;

    run_of(s)->options->hand_over(s);
}

static void start_fiber(struct shard *s, const char *name, void (*run)(void *arg), unsigned retry)
{
    /* Without a free fiber: the same command again, at the next turn. */
    if (fiber_start(name, RUN_INTERACTIVE, run, s) == NULL)
        door_command(s, retry);
}

bool node_on_command(struct shard *s, unsigned bits)
{
    if (bits & COMMAND_START)
        start_fiber(s, "start", start_run, COMMAND_START);
    if (bits & COMMAND_STOP)
        start_fiber(s, "stop", stop_run, COMMAND_STOP);
    if (bits & COMMAND_RELOAD)
        start_fiber(s, "reload", reload_run, COMMAND_RELOAD);
    if (bits & COMMAND_HAND_OVER)
        start_fiber(s, "hand over", hand_over_run, COMMAND_HAND_OVER);
    return (bits & COMMAND_EXIT) == 0;
}

static int pin(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return -pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

/* A shard that is woken does not interrupt who runs on its CPU, up to a slice of the scheduler (SCHED_BATCH, sched(7)): a peer there
 * that is interrupted after its first message gets its answers one a turn, each with a sleep and a wake of both. Alone on a CPU it
 * changes nothing. A real-time policy that the process was started under stays. */
static void schedule_as_batch(void)
{
    static const struct sched_param none = {0};

    if (sched_getscheduler(0) == SCHED_OTHER)
        (void)sched_setscheduler(0, SCHED_BATCH, &none);
}

static int shard_make(struct running_node *run, unsigned index)
{
    const struct node_options *options = run->options;
    struct shard *s;
    int rc = 0;

    if (options->cpus != NULL)
        rc = pin(options->cpus[index]);
    if (rc < 0)
        return rc;
    s = shard_create(&run->node, index, options->memory / options->shard_count);
    if (s == NULL)
        return -ENOMEM;
    rc = door_init(s, &run->process, options->cpus != NULL ? (int)options->cpus[index] : -1);
    if (rc < 0)
        shard_drop(s);
    else
        run->node.shards[index] = s;
    return rc;
}

static void *shard_main(void *arg)
{
    struct shard_thread *t = arg;
    struct running_node *run = t->run;
    struct shard *s;

    pthread_setname_np(pthread_self(), "shard");
    schedule_as_batch();
    t->rc = shard_make(run, t->index);
    s = run->node.shards[t->index];
    report(run, &run->made_count, t->rc, false);
    if (s == NULL)
        return NULL;
    door_run(s);
    door_close(s); /* On this thread: a ring knows who may use it. */
    return NULL;
}

/* ---- On the first thread ------------------------------------------------------------------------------- */

static void command_all(struct running_node *run, unsigned bits)
{
    for (unsigned i = 0; i < run->node.shard_count; i++) {
        if (run->node.shards[i] != NULL)
            door_command(run->node.shards[i], bits);
    }
}

static void wait_made(struct running_node *run, unsigned thread_count)
{
    pthread_mutex_lock(&run->lock);
    while (run->made_count < thread_count)
        pthread_cond_wait(&run->reported, &run->lock);
    pthread_mutex_unlock(&run->lock);
}

static unsigned get_count(struct running_node *run, const unsigned *count, int *failed)
{
    unsigned value;

    pthread_mutex_lock(&run->lock);
    value = *count;
    *failed = run->failed;
    pthread_mutex_unlock(&run->lock);
    return value;
}

/* Sleeps until something happens. True: a signal to end, or node_stop(). */
static bool wait_for_event(struct running_node *run, int timeout_ms)
{
    const struct node_options *options = run->options;
    struct pollfd fds[3] = {{.fd = run->signal_fd, .events = POLLIN},
                            {.fd = run->event_fd, .events = POLLIN},
                            {.fd = options->control != NULL ? options->control_fd : -1, .events = POLLIN}};
    struct signalfd_siginfo info;
    bool stop = false;
    uint64_t value;

    if (poll(fds, 3, timeout_ms) < 0 && errno != EINTR)
        return true;
    if ((fds[2].revents & POLLIN) != 0)
        options->control(&run->node, options->arg);
    if (read(run->event_fd, &value, sizeof value) < 0)
        value = 0;
    while (read(run->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (run->options->signals_from != 0 && info.ssi_pid != (uint32_t)run->options->signals_from)
            continue;
        if (info.ssi_signo == SIGHUP)
            atomic_store(&run->reload_wanted, true);
        else if (info.ssi_signo != SIGUSR2) /* That one is for supervisors. */
            stop = true;
    }
    return atomic_exchange(&run->stop_wanted, false) || stop;
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int start_shards(struct running_node *run, bool *stop)
{
    int failed = 0;

    command_all(run, COMMAND_START);
    while (get_count(run, &run->started_count, &failed) < run->node.shard_count) {
        if (!wait_for_event(run, -1))
            continue;
        if (*stop) /* Asked twice. */
            return -EINTR;
        *stop = true;
    }
    return failed;
}

static void serve(struct running_node *run)
{
    const struct node_options *options = run->options;

    if (options->ready != NULL)
        options->ready(&run->node, options->arg);
    for (;;) {
        if (wait_for_event(run, -1))
            return;
        if (atomic_exchange(&run->reload_wanted, false) && options->reload != NULL)
            door_command(run->node.shards[0], COMMAND_RELOAD);
        if (atomic_exchange(&run->hand_over_wanted, false) && options->hand_over != NULL)
            door_command(run->node.shards[0], COMMAND_HAND_OVER);
    }
}

static void stop_shards(struct running_node *run)
{
    uint32_t timeout_ms = run->options->stop_timeout_ms > 0 ? run->options->stop_timeout_ms : STOP_TIMEOUT_MS;
    uint64_t deadline_ms = now_ms() + timeout_ms, now = now_ms();
    int failed;

    __atomic_store_n(&run->node.stopping, true, __ATOMIC_RELAXED); /* Shards read it at any time. */
    command_all(run, COMMAND_STOP);
    while (get_count(run, &run->stopped_count, &failed) < run->node.shard_count && now < deadline_ms) {
        if (wait_for_event(run, (int)MIN(deadline_ms - now, (uint64_t)INT32_MAX)))
            return;
        now = now_ms();
    }
}

/* An error that its maker has put into words. */
static int told(struct running_node *run, int rc)
{
    run->told = run->told || rc < 0;
    return rc;
}

/* Threads run from here on; all of them have ended when it returns. */
static int run_threads(struct running_node *run)
{
    unsigned count = 0;
    bool stop = false;
    pthread_attr_t attr;
    int rc = 0;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, SHARD_THREAD_STACK);
    while (rc == 0 && count < run->node.shard_count) {
        run->threads[count] = (struct shard_thread){.run = run, .index = count};
        rc = -pthread_create(&run->threads[count].thread, &attr, shard_main, &run->threads[count]);
        count += rc == 0;
    }
    pthread_attr_destroy(&attr);
    wait_made(run, count);
    if (rc == 0)
        rc = run->failed;
    if (rc == 0 && run->options->seal != NULL)
        rc = told(run, run->options->seal(run->options->arg));
    if (rc == 0) {
        rc = start_shards(run, &stop);
        if (rc == 0 && !stop)
            serve(run);
        stop_shards(run);
    }
    command_all(run, COMMAND_EXIT);
    for (unsigned i = 0; i < count; i++)
        pthread_join(run->threads[i].thread, NULL);
    return rc;
}

/* Helpers share the shards' CPUs. They are made before the shards pin themselves, under this thread's
 * affinity. */
static int make_helpers(struct running_node *run)
{
    const struct node_options *options = run->options;
    cpu_set_t before, set;
    bool pinned = options->cpus != NULL && sched_getaffinity(0, sizeof before, &before) == 0;

    if (pinned) {
        CPU_ZERO(&set);
        for (unsigned i = 0; i < options->shard_count; i++)
            CPU_SET(options->cpus[i], &set);
        (void)sched_setaffinity(0, sizeof set, &set);
    }
    run->process.helpers = helper_pool_new(options->helper_count > 0 ? options->helper_count : 2);
    if (pinned)
        (void)sched_setaffinity(0, sizeof before, &before);
    return run->process.helpers != NULL ? 0 : -errno;
}

static int block_signals(struct running_node *run)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR2); /* Unblocked it would end the process without a word. */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    run->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    run->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return run->signal_fd < 0 || run->event_fd < 0 ? -errno : 0;
}

static rlim_t locked_limit(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 ? limit.rlim_cur : 0;
}

static int make_rings(struct running_node *run)
{
    const struct node_options *options = run->options;
    uint64_t sockets;
    int rc = ring_sets_make(&run->process, options->shard_count, options->sockets_max, &sockets);

    if (rc == -ENOMEM) {
        log_event(LOG_ERROR, "no memory that may be locked is left for rings", "limit_kib=%llu hint=%s",
                  (unsigned long long)locked_limit() >> 10, "raise_LimitMEMLOCK");
        return told(run, rc);
    }
    if (rc == 0 && sockets < options->sockets_max)
        log_event(LOG_WARN, "fewer connections than limits.connections have room", "a_core=%llu hint=%s",
                  (unsigned long long)sockets, "raise_LimitNOFILE_and_LimitMEMLOCK");
    if (rc < 0)
        log_event(LOG_ERROR, "rings cannot be made", "error=%s hint=raise_LimitNOFILE_and_LimitMEMLOCK",
                  log_error(rc));
    return rc;
}

static int node_init(struct running_node *run, const struct node_options *options)
{
    int rc;

    run->options = options;
    run->node = (struct node){.config = options->config,
                              .given = options->given,
                              .shard_count = options->shard_count,
                              .ops = options->ops,
                              .owner = options->owner};
    run->event_fd = run->signal_fd = -1;
    run->process.data_fd = AT_FDCWD;
    run->process.ring_rights = options->ring_rights;
    run->process.listeners = options->listeners;
    run->process.listener_count = options->listener_count;
    pthread_mutex_init(&run->lock, NULL);
    pthread_cond_init(&run->reported, NULL);
    run->node.shards = calloc(options->shard_count, sizeof(struct shard *));
    run->threads = calloc(options->shard_count, sizeof *run->threads);
    if (run->node.shards == NULL || run->threads == NULL)
        return -ENOMEM;
    if (options->data != NULL) {
        run->process.data_fd = open(options->data, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (run->process.data_fd < 0)
            return -errno;
    }
    rc = block_signals(run);
    if (rc == 0 && options->ring_rights != 0)
        rc = make_rings(run);
    if (rc == 0 && options->confine != NULL)
        rc = told(run, options->confine(options->arg));
    return rc < 0 ? rc : make_helpers(run);
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void node_fini(struct running_node *run)
{
    helper_pool_free(run->process.helpers); /* Jobs of dropped fibers end here, before their stacks go. */
    for (unsigned i = 0; run->node.shards != NULL && i < run->node.shard_count; i++) {
        if (run->node.shards[i] == NULL)
            continue;
        door_free(run->node.shards[i]);
        shard_drop(run->node.shards[i]);
    }
    ring_sets_free(&run->process, run->node.shard_count);
    for (unsigned i = 0; i < atomic_load(&run->process.lock_count); i++)
        close(run->process.lock_fds[i]);
    close_if_open(run->process.data_fd);
    close_if_open(run->event_fd);
    close_if_open(run->signal_fd);
    pthread_cond_destroy(&run->reported);
    pthread_mutex_destroy(&run->lock);
    free(run->node.shards);
    free(run->threads);
}

/* Direct descriptors are bounded by the limit that holds when a table is made. */
static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int node_run(const struct node_options *options, char error_out[NODE_ERROR_MAX])
{
    struct running_node run = {.failed = 0};
    int rc;

    ASSERT(options->shard_count > 0 && options->shard_count <= SHARD_COUNT_MAX);
    error_out[0] = '\0';
    rc = node_check_kernel(error_out);
    if (rc < 0)
        return rc;
    raise_file_limit();
    rc = node_init(&run, options);
    if (rc == 0)
        rc = run_threads(&run);
    if (rc < 0 && !run.failed_in_start && !run.told)
        snprintf(error_out, NODE_ERROR_MAX, "cannot start: %s", strerror(-rc));
    node_fini(&run);
    return rc;
}

void node_stop(struct node *node)
{
    struct running_node *run = CONTAINER_OF(node, struct running_node, node);

    atomic_store(&run->stop_wanted, true);
    poke(run);
}

void node_reload(struct node *node)
{
    struct running_node *run = CONTAINER_OF(node, struct running_node, node);

    atomic_store(&run->reload_wanted, true);
    poke(run);
}

void node_hand_over(struct node *node)
{
    struct running_node *run = CONTAINER_OF(node, struct running_node, node);

    atomic_store(&run->hand_over_wanted, true);
    poke(run);
}

/* ---- The kernel ---------------------------------------------------------------------------------------- */

static int io_uring_disabled(void)
{
    FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
    int value = 0;

    if (f == NULL)
        return 0;
    if (fscanf(f, "%d", &value) != 1)
        value = 0;
    fclose(f);
    return value;
}

int node_check_kernel(char error_out[NODE_ERROR_MAX])
{
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    unsigned patience_ms = RING_PATIENCE_MS;
    struct utsname name;
    struct io_uring ring;
    int rc;

    do
        rc = io_uring_queue_init_params(4, &ring, &params);
    while (rc == -ENOMEM && ring_patient(&patience_ms));

    uname(&name);
    if (rc == 0)
        io_uring_queue_exit(&ring);
    if (rc == 0 && (params.features & URING_FEAT_MIN_TIMEOUT) != 0)
        return 0;
    if (rc == 0 || rc == -EINVAL) {
        snprintf(error_out, NODE_ERROR_MAX,
                 "Linux 6.12 or newer is needed, this is %s (on Debian 12: apt install -t bookworm-backports "
                 "linux-image-amd64)",
                 name.release);
        return -ENOSYS;
    }
    if (rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE) {
        snprintf(error_out, NODE_ERROR_MAX, "cannot make an io_uring: %s; raise %s", strerror(-rc),
                 rc == -ENOMEM ? "LimitMEMLOCK (ulimit -l)" : "LimitNOFILE (ulimit -n)");
        return rc;
    }
    snprintf(
        error_out, NODE_ERROR_MAX, "io_uring is forbidden here (%s); allow it: %s", strerror(-rc),
        io_uring_disabled() != 0
            ? "sysctl kernel.io_uring_disabled=0 (or 1, and kernel.io_uring_group with this process's group)"
            : "in a container, a seccomp profile with io_uring_setup, io_uring_enter and io_uring_register "
              "(docker: --security-opt seccomp=FILE; Kubernetes: securityContext.seccompProfile)");
    return rc;
}
