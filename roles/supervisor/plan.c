#include "roles/supervisor/plan.h"
#include "net/link/link.h"
#include "roles/settings.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

/* The kernel closes the listeners and locks of a process that was killed a moment after its end: so long they are waited for. */
#define BUSY_WAIT_MS      2000
#define BUSY_WAIT_STEP_MS 20
#define ADMIN_SOCKET      "ctl.sock"

static int config_bad(const char *text)
{
    fprintf(stderr, "trireme: %s\n", text);
    return EX_CONFIG;
}

/* Calls try() until it is not -EADDRINUSE or -EBUSY any more, for a while. */
static int try_while_busy(int (*try)(void *arg), void *arg)
{
    const struct timespec pause = {0, BUSY_WAIT_STEP_MS * 1000000};
    int rc = try(arg);

    for (int waited = 0; (rc == -EADDRINUSE || rc == -EBUSY) && waited < BUSY_WAIT_MS;
         waited += BUSY_WAIT_STEP_MS) {
        (void)nanosleep(&pause, NULL);
        rc = try(arg);
    }
    return rc;
}

/* ---- CPUs and memory ----------------------------------------------------------------------------------- */

/* I-1: no more CPUs and no more memory than there really are. */
static int resources_plan(struct plan *p)
{
    const struct config *c = p->config;
    const char *wanted = config_string(c, "memory");
    char error[CPU_ERROR_MAX];
    struct cpu_limits limits;
    uint64_t bytes = 0; /* auto */
    int rc = cpu_detect("", &limits);

    if (rc < 0) {
        fprintf(stderr, "trireme: cannot tell what CPUs and memory there are: %s\n", strerror(-rc));
        return EX_OSERR;
    }
    if (strcmp(wanted, "auto") != 0 && !config_size_parse(slice_str(wanted), &bytes))
        return config_bad("memory: is not a size"); /* settings_check() has seen it. */
    if (memory_plan_make(&limits, bytes, &p->handover.memory, error) < 0 ||
        cpu_plan_make(&limits, config_string(c, "cores"), config_bool(c, "cores.shared"), NULL, &p->cpus,
                      error) < 0)
        return config_bad(error);
    p->handover.cpus = p->cpus.cpus;
    p->handover.cpu_count = p->cpus.count;
    return 0;
}

/* ---- The data directory -------------------------------------------------------------------------------- */

static int data_is_free(void *arg)
{
    int fd = open(arg, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
    close(fd); /* The server takes the lock itself. */
    return rc;
}

static int data_make(const struct plan *p)
{
    const char *path = p->identity.data;
    struct config_error error;

    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        (void)config_wrong(p->config, "data", &error, "%.200s cannot be made: %s", path, strerror(errno));
    else if (access(path, R_OK | W_OK | X_OK) < 0)
        (void)config_wrong(p->config, "data", &error, "user id %u cannot write to %.200s: %s",
                           (unsigned)geteuid(), path, strerror(errno));
    else
        return 0;
    return config_bad(error.text);
}

static int data_wait(const struct plan *p)
{
    char *path = (char *)(uintptr_t)p->identity.data;
    bool locks = (settings_roles(p->config) & (LINK_ROLE_DIRECTOR | LINK_ROLE_BACKEND)) != 0;
    int rc = locks ? try_while_busy(data_is_free, path) : 0;

    if (rc < 0)
        fprintf(stderr, "trireme: data: %s: %s\n", path,
                rc == -EBUSY ? "already used by another process" : strerror(-rc));
    return rc < 0 ? EX_OSERR : 0;
}

/* ---- Listeners ----------------------------------------------------------------------------------------- */

static int port_is_free(void *arg)
{
    return node_check_listen(arg);
}

static int listener_add(struct plan *p, const struct net_addr *addr, unsigned shard, int fd)
{
    struct handover *h = &p->handover;
    struct node_listener *all = realloc(h->listeners, (h->listener_count + 1) * sizeof *all);

    if (all == NULL) {
        close(fd);
        return -ENOMEM;
    }
    h->listeners = all;
    memset(&all[h->listener_count], 0, sizeof *all); /* Padding goes over, too. */
    all[h->listener_count].addr = *addr;
    all[h->listener_count].shard = shard;
    all[h->listener_count++].fd = fd;
    return 0;
}

/* One for each shard, so that the kernel spreads clients over them; the operator's is shard 0's. */
static int bind_one(void *arg, const char *key, const char *text, const struct net_addr *addr)
{
    struct net_addr wanted = *addr;
    struct plan *p = arg;
    unsigned count = strcmp(key, "admin.listen") == 0 ? 1 : p->cpus.count;
    int rc = try_while_busy(port_is_free, &wanted);

    for (unsigned shard = 0; rc == 0 && shard < count; shard++) {
        int fd = node_bind(addr, true);

        rc = fd < 0 ? fd : listener_add(p, addr, shard, fd);
    }
    if (rc < 0)
        fprintf(stderr, "trireme: %s: cannot listen on %s: %s\n", key, text, strerror(-rc));
    return rc < 0 ? EX_OSERR : 0;
}

struct unix_try {
    int data_fd;
    const char *path;
    int fd;
};

static int unix_bind(void *arg)
{
    struct unix_try *t = arg;

    t->fd = node_listen_unix(t->data_fd, t->path);
    return MIN(t->fd, 0);
}

static int bind_admin_socket(struct plan *p)
{
    static const struct net_addr addr = {.family = AF_UNIX};
    const char *path = config_string(p->config, "admin.socket");
    struct unix_try t = {.path = path != NULL ? path : ADMIN_SOCKET};
    int rc;

    t.data_fd = open(p->identity.data, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (t.data_fd < 0)
        rc = -errno;
    else
        rc = try_while_busy(unix_bind, &t);
    if (rc == 0)
        rc = listener_add(p, &addr, 0, t.fd);
    if (t.data_fd >= 0)
        close(t.data_fd);
    if (rc < 0)
        fprintf(stderr, "trireme: admin.socket: cannot listen on %s: %s\n", t.path, strerror(-rc));
    return rc < 0 ? EX_OSERR : 0;
}

void plan_close_listeners(struct plan *p)
{
    for (unsigned i = 0; i < p->handover.listener_count; i++)
        close(p->handover.listeners[i].fd);
    p->handover.listener_count = 0;
}

/* ---- All of it ----------------------------------------------------------------------------------------- */

static int configure(struct plan *p, const struct options *o)
{
    const struct slice *bytes = NULL;
    struct config_error error;
    int status;

    if (o->config_file != NULL && handover_file_read(o->config_file, &p->config_file) == 0) {
        bytes = &p->config_file.bytes; /* Else reading it once more says what is wrong. */
        p->handover.config_file = &p->config_file;
    }
    p->config = options_config(o, bytes, &status);
    if (p->config == NULL)
        return status;
    return identity_find(p->config, &p->identity, &error) ? 0 : config_bad(error.text);
}

static int kernel_check(void)
{
    char error[NODE_ERROR_MAX];

    if (node_check_kernel(error) == 0)
        return 0;
    fprintf(stderr, "trireme: %s\n", error);
    return EX_UNAVAILABLE;
}

/* What is good is what the first server gets. */
static int files_check(struct plan *p, bool all)
{
    struct config_error error;
    bool good = plan_read_files(p, all ? &error : NULL) && plan_files_good(p, &error);

    return good ? 0 : config_bad(error.text);
}

/* A passwd-file is the server's own to read, again and again: it must be there at the start. */
static int passwd_file_check(const struct plan *p)
{
    const char *path = config_string(p->config, "auth.passwd_file");
    struct config_error error;

    if (path == NULL || path[0] != '/' || access(path, R_OK) == 0)
        return 0;
    (void)config_wrong(p->config, "auth.passwd_file", &error, "cannot read %.200s: %s", path,
                       strerror(errno));
    return config_bad(error.text);
}

static int data_give(const struct plan *p)
{
    int rc = identity_give_data(&p->identity);

    if (rc < 0)
        fprintf(stderr, "trireme: data: %s cannot be given to %s: %s\n", p->identity.data, p->identity.user,
                strerror(-rc));
    return rc < 0 ? EX_OSERR : 0;
}

int plan_make(struct plan *p, const struct options *o)
{
    int rc = configure(p, o);

    if (rc == 0)
        rc = kernel_check();
    if (rc == 0)
        rc = passwd_file_check(p);
    if (rc == 0)
        rc = files_check(p, true);
    if (rc == 0)
        rc = data_make(p);
    if (rc == 0)
        rc = resources_plan(p);
    if (rc == 0)
        rc = data_wait(p);
    if (rc == 0)
        rc = settings_each_listener(p->config, bind_one, p);
    if (rc == 0)
        rc = bind_admin_socket(p);
    return rc == 0 ? data_give(p) : rc;
}

int plan_check(const struct options *o)
{
    struct plan p = {.config = NULL};
    int rc = configure(&p, o);

    if (rc == 0)
        rc = files_check(&p, false);
    plan_fini(&p);
    return rc;
}

void plan_fini(struct plan *p)
{
    plan_close_listeners(p);
    free(p->handover.listeners);
    handover_files_wipe(&p->handover.given);
    handover_file_wipe(&p->config_file);
    cpu_plan_fini(&p->cpus);
    config_free(p->config);
}
