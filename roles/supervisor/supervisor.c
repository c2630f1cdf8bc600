#include "roles/supervisor/supervisor.h"
#include "core/log.h"
#include "core/notify.h"
#include "roles/process.h"
#include "roles/supervisor/plan.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

struct supervisor {
    struct plan plan;
    int signal_fd, control_fd;
    pid_t server;
    bool serving;      /* It has said that it is ready. */
    bool reloading;    /* It has an order, and has not said how it went. */
    bool reload_again; /* Wanted meanwhile. */
    bool ended;
    int status; /* Of the server, when it has ended: as wait(2) gives it. */
};

/* ---- Starting the server ------------------------------------------------------------------------------- */

static int signals_block(struct supervisor *v)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGCHLD);
    /* The server inherits it: what comes before it listens to signals is kept for it. */
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    v->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return v->signal_fd < 0 ? -errno : 0;
}

static void inherit(int fd)
{
    (void)fcntl(fd, F_SETFD, 0);
}

/* In the new process: becomes the server, or ends. */
NORETURN static void server_exec(const struct supervisor *v, const struct options *o, int handover_fd)
{
    const struct handover *h = &v->plan.handover;
    char option[32], **argv = calloc((size_t)o->argc + 2, sizeof *argv);

    process_die_with(h->supervisor);
    inherit(handover_fd);
    inherit(h->control_fd);
    for (unsigned i = 0; i < h->listener_count; i++)
        inherit(h->listeners[i].fd);
    if (argv != NULL) {
        snprintf(option, sizeof option, PROCESS_HANDOVER_OPTION "%d", handover_fd);
        argv[0] = o->argv[0];
        argv[1] = option;
        memcpy(argv + 2, o->argv + 1, (size_t)(o->argc - 1) * sizeof *argv);
        execv("/proc/self/exe", argv);
    }
    fprintf(stderr, "trireme: cannot execute the server: %s\n", strerror(errno));
    _exit(EX_OSERR);
}

static int server_start(struct supervisor *v, const struct options *o)
{
    struct handover *h = &v->plan.handover;
    int pair[2], handover_fd;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    v->control_fd = pair[0];
    h->control_fd = pair[1];
    h->supervisor = getpid();
    handover_fd = handover_write(h);
    handover_files_wipe(&h->given);
    if (handover_fd < 0)
        return handover_fd;
    v->server = fork();
    if (v->server == 0)
        server_exec(v, o, handover_fd);
    close(handover_fd);
    close(pair[1]);
    return v->server < 0 ? -errno : 0;
}

/* ---- What the server says ------------------------------------------------------------------------------ */

static void say_reloading(void)
{
    struct timespec now;
    char text[96];

    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%lld",
             (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    (void)notify_manager(text);
}

static void give_files(struct supervisor *v)
{
    struct handover files = {.control_fd = -1};
    struct handover_order order = {.kind = HANDOVER_RELOAD};
    struct config_error error;
    bool good = plan_read_files(&v->plan, &files.given, &error) == 0;
    int rc;

    if (!good)
        snprintf(order.error, sizeof order.error, "%.*s", HANDOVER_ERROR_MAX - 1, error.text);
    rc = handover_order(v->control_fd, &order, good ? &files : NULL);
    if (good) {
        handover_files_wipe(&files.given);
        free(files.given.files);
    }
    v->reloading = rc == 0;
    if (rc < 0)
        log_event(LOG_ERROR, "certificates and keys cannot be handed to the server", "error=%s",
                  strerror(-rc));
}

/* One after the other; whoever asks meanwhile is served by one more, which reads the files once more. */
static void reload(struct supervisor *v)
{
    if (!v->serving || v->reloading) {
        v->reload_again = true;
        return;
    }
    v->reload_again = false;
    say_reloading();
    give_files(v);
    if (!v->reloading)
        (void)notify_manager("READY=1");
}

static void on_word(struct supervisor *v, char word)
{
    switch ((enum handover_word)word) {
    case HANDOVER_READY:
        v->serving = true;
        (void)notify_manager("READY=1\nSTATUS=serving");
        break;
    case HANDOVER_RELOAD_WANTED:
        reload(v);
        return;
    case HANDOVER_RELOADED:
        v->reloading = false;
        (void)notify_manager("READY=1");
        break;
    case HANDOVER_STOPPING:
        v->serving = false;
        (void)notify_manager("STOPPING=1\nSTATUS=ending");
        break;
    }
    if (v->reload_again)
        reload(v);
}

static void control_read(struct supervisor *v)
{
    char word;

    while (v->control_fd >= 0) {
        ssize_t n = recv(v->control_fd, &word, 1, 0);

        if (n == 1) {
            on_word(v, word);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            close(v->control_fd);
            v->control_fd = -1;
        } else {
            break;
        }
    }
}

/* ---- Signals ------------------------------------------------------------------------------------------- */

static void on_signal(struct supervisor *v, int number)
{
    if (number == SIGCHLD) {
        v->ended = waitpid(v->server, &v->status, WNOHANG) == v->server;
        return;
    }
    if (number == SIGHUP) {
        reload(v);
        return;
    }
    /* What ends is not heard any more: held open here, a port would take connections that nobody accepts. */
    if (number == SIGTERM || number == SIGINT)
        plan_close_listeners(&v->plan);
    (void)kill(v->server, number);
}

static void supervise(struct supervisor *v)
{
    struct signalfd_siginfo info;

    while (!v->ended) {
        struct pollfd fds[2] = {{.fd = v->signal_fd, .events = POLLIN},
                                {.fd = v->control_fd, .events = POLLIN}};

        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return;
        control_read(v);
        while (read(v->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
            on_signal(v, (int)info.ssi_signo);
    }
    control_read(v); /* Its last words. */
}

static int exit_status(const struct supervisor *v)
{
    int number = WTERMSIG(v->status);

    if (WIFEXITED(v->status))
        return WEXITSTATUS(v->status);
    log_event(LOG_ERROR,
              number == SIGSYS ? "the server made a system call that its sandbox forbids, and was ended"
                               : "the server has crashed",
              "pid=%d signal=%d name=%s", (int)v->server, number, sigabbrev_np(number));
    return EX_SOFTWARE;
}

/* ---- All of it ----------------------------------------------------------------------------------------- */

/* Descriptors: a listener for each shard, later many more. Locked memory: rings count against it. */
static void raise_limits(void)
{
    static const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    (void)setrlimit(RLIMIT_MEMLOCK, &unlimited); /* Only root can. */
}

static int run(struct supervisor *v, const struct options *o)
{
    char error[NODE_ERROR_MAX];
    int rc;

    process_harden();
    raise_limits();
    if (node_check_kernel(error) < 0) {
        fprintf(stderr, "trireme: %s\n", error);
        return EX_UNAVAILABLE;
    }
    rc = plan_make(&v->plan);
    if (rc != 0)
        return rc;
    log_event(LOG_INFO, "starting", "version=%s cores=%u memory_mib=%llu", TRIREME_VERSION,
              v->plan.cpus.count, (unsigned long long)(v->plan.handover.memory >> 20));
    rc = signals_block(v);
    if (rc == 0)
        rc = server_start(v, o);
    if (rc < 0) {
        fprintf(stderr, "trireme: cannot start the server: %s\n", strerror(-rc));
        return EX_OSERR;
    }
    supervise(v);
    return exit_status(v);
}

int supervisor_main(const struct options *o)
{
    struct supervisor v = {.signal_fd = -1, .control_fd = -1};
    struct slice *bytes = NULL;
    struct config *c;
    struct identity id;
    struct config_error error;
    int status;

    if (o->config_file != NULL && handover_file_read(o->config_file, &v.plan.config_file) == 0)
        bytes = &v.plan.config_file.bytes; /* Else reading it once more says what is wrong. */
    c = options_config(o, bytes, &status);
    if (c == NULL)
        return status;
    v.plan.config = c;
    if (!identity_find(c, &id, &error)) {
        fprintf(stderr, "trireme: %s\n", error.text);
        status = EX_CONFIG;
    } else {
        status = o->check ? 0 : run(&v, o);
    }
    plan_fini(&v.plan);
    config_free(c);
    return status;
}
