#include "roles/supervisor/supervisor.h"
#include "core/log.h"
#include "core/notify.h"
#include "roles/process.h"
#include "roles/supervisor/child.h"
#include "roles/supervisor/plan.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

#define STANDBY_MS 60000 /* For a successor to get ready, */
#define MOVE_MS    60000 /* for sessions to go over when grace has passed, and for it to serve then. */

/*   NONE --wanted--> STARTING --standby--> GIVING --given--> TAKING --ready--> NONE
 *     ^------------------+-------------------+ the new one has ended, or sessions were kept */
enum upgrade { UPGRADE_NONE, UPGRADE_STARTING, UPGRADE_GIVING, UPGRADE_TAKING };

struct supervisor {
    struct plan plan;
    const struct options *options;
    char executable[PATH_MAX]; /* Where this one came from: whatever is there at an upgrade is the next. */
    int signal_fd;
    struct child server, next;
    struct child keeper; /* From GIVEN on: it was the server, and has the sessions that have not gone over. */
    enum upgrade upgrade;
    uint64_t upgrade_until_ms;
    struct handover_fds ends; /* Of the pairs to the successor, the server's. */
    bool serving;             /* The server has said that it is ready. */
    bool stopping;
    bool anew;         /* TAKING: the server is the old executable, started once more. */
    bool reloading;    /* It has an order, and has not said how it went. */
    bool reload_again; /* Wanted meanwhile. */
    bool ended;
    int status; /* Of the server, when it has ended: as wait(2) gives it. */
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- Starting a server --------------------------------------------------------------------------------- */

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
    v->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return v->signal_fd < 0 ? -errno : 0;
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
    rc = good ? handover_order_files(v->server.control_fd, &order, &files)
              : handover_order(v->server.control_fd, &order, NULL);
    if (good) {
        handover_files_wipe(&files.given);
        free(files.given.files);
    }
    v->reloading = rc == 0;
    if (rc < 0)
        log_event(LOG_ERROR, "certificates and keys cannot be handed to the server", "error=%s",
                  log_error(rc));
}

/* One after the other; whoever asks meanwhile is served by one more, which reads the files once more. */
static void reload(struct supervisor *v)
{
    if (!v->serving || v->reloading || v->upgrade != UPGRADE_NONE) {
        v->reload_again = true;
        return;
    }
    v->reload_again = false;
    say_reloading();
    give_files(v);
    if (!v->reloading)
        (void)notify_manager("READY=1");
}

/* ---- Upgrades ------------------------------------------------------------------------------------------ */

static void upgrade_over(struct supervisor *v)
{
    v->upgrade = UPGRADE_NONE;
    handover_close(&v->ends);
    (void)notify_manager("READY=1\nSTATUS=serving");
    if (v->reload_again)
        reload(v);
}

/* There is no successor, or none any more: whoever serves goes on. */
static void upgrade_failed(struct supervisor *v, const char *why)
{
    struct handover_order order = {.kind = HANDOVER_NOT_GIVEN};

    log_event(LOG_ERROR, "upgrade: the new server does not take over", "error=%s", log_quote(slice_str(why)));
    snprintf(order.error, sizeof order.error, "%s", why);
    if (handover_order(v->server.control_fd, &order, NULL) < 0 || v->upgrade != UPGRADE_GIVING)
        upgrade_over(v); /* Else it says itself that it has stopped giving. */
}

static int pairs_make(struct supervisor *v)
{
    struct handover *h = &v->plan.handover;

    h->predecessors = calloc(h->cpu_count, sizeof *h->predecessors);
    if (h->predecessors == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < h->cpu_count; i++) {
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
            return -errno;
        h->predecessors[h->predecessor_count++] = pair[0];
        v->ends.at[v->ends.count++] = pair[1];
    }
    return 0;
}

/* The successor's ends are its own now, or nobody's. */
static void pairs_close(struct supervisor *v)
{
    struct handover *h = &v->plan.handover;

    for (unsigned i = 0; i < h->predecessor_count; i++)
        close(h->predecessors[i]);
    free(h->predecessors);
    h->predecessors = NULL;
    h->predecessor_count = 0;
}

static void upgrade(struct supervisor *v)
{
    struct config_error error;
    char why[HANDOVER_ERROR_MAX];
    int rc;

    if (!v->serving || v->upgrade != UPGRADE_NONE) {
        log_event(LOG_WARN, "upgrade: not now", "reason=%s",
                  v->serving ? "another_one_is_under_way" : "the_server_is_not_ready");
        return;
    }
    if (v->reloading) {
        upgrade_failed(v, "a reload is under way");
        return;
    }
    say_reloading();
    if (v->plan.handover.cpu_count > HANDOVER_FDS_MAX) {
        upgrade_failed(v, "more cores than can hand over");
        return;
    }
    if (plan_give_files(&v->plan, &error) != 0) {
        snprintf(why, sizeof why, "%.*s", HANDOVER_ERROR_MAX - 1, error.text);
        upgrade_failed(v, why);
        return;
    }
    rc = pairs_make(v);
    if (rc == 0)
        rc = child_start(&v->plan.handover, v->options, v->executable, NULL, &v->next);
    pairs_close(v);
    if (rc < 0) {
        handover_files_wipe(&v->plan.handover.given);
        upgrade_failed(v, strerror(-rc));
        return;
    }
    v->upgrade = UPGRADE_STARTING;
    v->upgrade_until_ms = now_ms() + STANDBY_MS;
}

/* Its end of a pair a shard goes to whoever has the sessions. False: it does not take orders. */
static bool give(struct supervisor *v, const struct child *from)
{
    const struct handover_order order = {.kind = HANDOVER_GIVE};
    bool given = handover_order(from->control_fd, &order, &v->ends) == 0;

    handover_close(&v->ends);
    return given;
}

static void take(struct supervisor *v)
{
    const struct handover_order order = {.kind = HANDOVER_TAKE};

    v->upgrade = UPGRADE_TAKING;
    v->upgrade_until_ms = now_ms() + MOVE_MS;
    if (handover_order(v->server.control_fd, &order, NULL) < 0)
        (void)kill(v->server.pid, SIGKILL); /* Its end says the rest. */
}

static void on_standby(struct supervisor *v)
{
    if (v->upgrade != UPGRADE_STARTING)
        return;
    v->upgrade = UPGRADE_GIVING;
    v->upgrade_until_ms = now_ms() + config_duration_ms(v->plan.config, "shutdown.grace") + MOVE_MS;
    if (!give(v, &v->server))
        (void)kill(v->next.pid, SIGKILL);
}

/* The same of one that was started in the place of one that has died. */
static void on_standby_anew(struct supervisor *v)
{
    if (v->upgrade != UPGRADE_TAKING || !v->anew)
        return;
    if (give(v, &v->keeper))
        take(v);
    else
        (void)kill(v->server.pid, SIGKILL);
}

static void on_kept(struct supervisor *v)
{
    if (v->upgrade != UPGRADE_GIVING)
        return;
    if (v->next.pid != 0)
        (void)kill(v->next.pid, SIGKILL); /* It has nothing that is not there still. */
    upgrade_over(v);
}

/* Of the executable that has served: it is known to work. It has the sessions that the keeper still has; without a keeper, none. */
static int server_anew(struct supervisor *v)
{
    struct handover *h = &v->plan.handover;
    struct config_error error;
    int rc = plan_give_files(&v->plan, &error) == 0 ? 0 : -EIO;

    if (rc == 0 && v->keeper.pid != 0)
        rc = pairs_make(v);
    h->anew = true;
    if (rc == 0)
        rc = v->keeper.executable_fd >= 0 ? child_start(h, v->options, NULL, &v->keeper, &v->server)
                                          : child_start(h, v->options, "/proc/self/exe", NULL, &v->server);
    h->anew = false;
    pairs_close(v);
    return rc;
}

static void start_anew(struct supervisor *v)
{
    log_event(LOG_ERROR, "upgrade: the new server has ended before it served; the old one starts anew",
              "sessions=%s", v->keeper.pid != 0 ? "kept" : "ended");
    v->anew = true;
    v->upgrade = UPGRADE_TAKING;
    v->upgrade_until_ms = now_ms() + MOVE_MS;
    handover_close(&v->ends);
    if (server_anew(v) < 0)
        v->ended = true;
}

/* The old server serves no more, and keeps what the new one has not got. */
static void on_given(struct supervisor *v)
{
    v->serving = false;
    v->keeper = v->server;
    v->server = v->next;
    v->next = CHILD_NONE;
    if (v->server.pid == 0)
        start_anew(v);
    else
        take(v);
}

static void upgrade_late(struct supervisor *v)
{
    v->upgrade_until_ms = now_ms() + MOVE_MS;
    if (v->upgrade == UPGRADE_STARTING || v->upgrade == UPGRADE_GIVING) {
        if (v->next.pid != 0)
            (void)kill(v->next.pid, SIGKILL);
    } else if (v->server.pid != 0) {
        (void)kill(v->server.pid, SIGKILL);
    }
}

/* ---- Words --------------------------------------------------------------------------------------------- */

static void on_ready(struct supervisor *v)
{
    const struct handover_order stop = {.kind = HANDOVER_STOP};

    v->serving = true;
    if (v->upgrade == UPGRADE_TAKING) {
        v->anew = false;
        /* Nobody needs it any more. */
        if (v->keeper.pid != 0 && handover_order(v->keeper.control_fd, &stop, NULL) < 0)
            (void)kill(v->keeper.pid, SIGKILL);
        log_event(LOG_INFO, "upgraded", "pid=%d", (int)v->server.pid);
        upgrade_over(v);
    } else {
        (void)notify_manager("READY=1\nSTATUS=serving");
    }
}

static void on_word(struct supervisor *v, char word)
{
    switch ((enum handover_word)word) {
    case HANDOVER_READY:
        on_ready(v);
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
    case HANDOVER_UPGRADE_WANTED:
        upgrade(v);
        return;
    case HANDOVER_GIVEN:
        if (v->upgrade == UPGRADE_GIVING)
            on_given(v);
        return;
    case HANDOVER_KEPT:
        on_kept(v);
        break;
    case HANDOVER_STANDBY:
        on_standby_anew(v);
        break;
    }
    if (v->reload_again)
        reload(v);
}

static void control_read(struct supervisor *v, struct child *c)
{
    char word;

    while (c->control_fd >= 0) {
        ssize_t n = recv(c->control_fd, &word, 1, 0);

        if (n == 1 && c == &v->next) {
            if (word == HANDOVER_STANDBY)
                on_standby(v);
        } else if (n == 1) {
            on_word(v, word);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            close(c->control_fd);
            c->control_fd = -1;
        } else {
            break;
        }
    }
}

/* ---- Signals ------------------------------------------------------------------------------------------- */

static void next_ended(struct supervisor *v, int status)
{
    char why[80];

    child_forget(&v->next);
    if (WIFEXITED(status))
        snprintf(why, sizeof why, "the new server ended with status %d", WEXITSTATUS(status));
    else
        snprintf(why, sizeof why, "the new server was ended by signal %s", sigabbrev_np(WTERMSIG(status)));
    if (v->upgrade == UPGRADE_STARTING || v->upgrade == UPGRADE_GIVING)
        upgrade_failed(v, why);
}

static void keeper_ended(struct supervisor *v, int status)
{
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        log_event(LOG_ERROR, "upgrade: the old server has ended before all sessions had gone over",
                  "status=%d", status);
    child_forget(&v->keeper);
}

static void server_ended(struct supervisor *v, int status)
{
    pid_t pid = v->server.pid;

    control_read(v, &v->server); /* Its last words. */
    if (pid == v->keeper.pid) {  /* It has given all away with them. */
        keeper_ended(v, status);
    } else if (v->upgrade == UPGRADE_TAKING && !v->stopping && !v->anew) {
        child_forget(&v->server);
        start_anew(v);
    } else {
        v->ended = true;
        v->status = status;
    }
}

static void children_ended(struct supervisor *v)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == v->next.pid)
            next_ended(v, status);
        else if (pid == v->server.pid)
            server_ended(v, status);
        else if (pid == v->keeper.pid)
            keeper_ended(v, status);
    }
}

static void stop(struct supervisor *v)
{
    struct handover_order order = {.kind = HANDOVER_STOP};

    v->stopping = true;
    /* What ends is not heard any more: held open here, a port would take connections that nobody accepts. */
    plan_close_listeners(&v->plan);
    if (v->next.pid != 0)
        (void)kill(v->next.pid, SIGKILL);
    if (v->keeper.pid != 0)
        (void)kill(v->keeper.pid, SIGKILL);
    if (handover_order(v->server.control_fd, &order, NULL) < 0)
        (void)kill(v->server.pid, SIGTERM); /* It does not read its orders. */
}

static void on_signal(struct supervisor *v, int number)
{
    switch (number) {
    case SIGCHLD:
        children_ended(v);
        return;
    case SIGHUP:
        reload(v);
        return;
    case SIGUSR2:
        upgrade(v);
        return;
    default:
        stop(v);
    }
}

/* Only an upgrade has a clock. */
static int wait_ms(const struct supervisor *v)
{
    uint64_t now = now_ms();

    if (v->upgrade == UPGRADE_NONE)
        return -1;
    return v->upgrade_until_ms > now ? (int)MIN(v->upgrade_until_ms - now, (uint64_t)INT_MAX) : 0;
}

static void supervise(struct supervisor *v)
{
    struct signalfd_siginfo info;

    while (!v->ended) {
        struct pollfd fds[3] = {{.fd = v->signal_fd, .events = POLLIN},
                                {.fd = v->server.control_fd, .events = POLLIN},
                                {.fd = v->next.control_fd, .events = POLLIN}};

        if (poll(fds, 3, wait_ms(v)) < 0 && errno != EINTR)
            return;
        control_read(v, &v->server);
        control_read(v, &v->next);
        while (read(v->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
            on_signal(v, (int)info.ssi_signo);
        if (v->upgrade != UPGRADE_NONE && now_ms() >= v->upgrade_until_ms)
            upgrade_late(v);
    }
}

static int exit_status(const struct supervisor *v)
{
    int number = WTERMSIG(v->status);

    if (WIFEXITED(v->status))
        return WEXITSTATUS(v->status);
    log_event(LOG_ERROR,
              number == SIGSYS ? "the server made a system call that its sandbox forbids, and was ended"
                               : "the server has crashed",
              "pid=%d signal=%d name=%s", (int)v->server.pid, number, sigabbrev_np(number));
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

/* Read now: when the file was replaced, the kernel calls this one deleted. */
static void executable_find(struct supervisor *v)
{
    ssize_t size = readlink("/proc/self/exe", v->executable, sizeof v->executable - 1);

    if (size > 0)
        v->executable[size] = '\0';
}

/* What is opened next must not become standard error: the log would be written into it. And a log that nobody reads ends
 * nothing. */
static void standard_files(void)
{
    int fd;

    signal(SIGPIPE, SIG_IGN);
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static int run(struct supervisor *v)
{
    char error[NODE_ERROR_MAX];
    int rc;

    executable_find(v);
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
        rc = child_start(&v->plan.handover, v->options, "/proc/self/exe", NULL, &v->server);
    if (rc < 0) {
        fprintf(stderr, "trireme: cannot start the server: %s\n", strerror(-rc));
        return EX_OSERR;
    }
    supervise(v);
    return exit_status(v);
}

int supervisor_main(const struct options *o)
{
    struct supervisor v = {
        .options = o, .signal_fd = -1, .server = CHILD_NONE, .next = CHILD_NONE, .keeper = CHILD_NONE};
    struct slice *bytes = NULL;
    struct config *c;
    struct identity id;
    struct config_error error;
    int status;

    standard_files();
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
        status = o->check ? plan_check_files(&v.plan) : run(&v);
    }
    plan_fini(&v.plan);
    config_free(c);
    return status;
}
