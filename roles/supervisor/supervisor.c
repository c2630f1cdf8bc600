#include "roles/supervisor/supervisor.h"
#include "core/log.h"
#include "core/notify.h"
#include "roles/process.h"
#include "roles/supervisor/succession.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

void supervisor_say_serving(void)
{
    (void)notify_manager("READY=1\nSTATUS=serving");
}

/* ---- Reload -------------------------------------------------------------------------------------------- */

static void give_files(struct supervisor *v)
{
    struct handover *plan = &v->plan.handover;
    struct handover files = {.control_fd = -1};
    struct config_error error;
    int rc;

    if (plan_read_files(&v->plan, &error)) {
        files.given = plan->given;
        rc = handover_order_files(v->server.control_fd, HANDOVER_RELOAD, &files);
    } else {
        rc = handover_order(v->server.control_fd, HANDOVER_RELOAD, error.text, NULL);
    }
    handover_files_wipe(&plan->given);
    v->reloading = rc == 0;
    if (rc < 0)
        log_event(LOG_ERROR, "certificates and keys cannot be handed to the server", "error=%s",
                  log_error(rc));
}

/* One after the other; whoever asks meanwhile is served by one more, which reads the files once more. */
static void reload_if_due(struct supervisor *v)
{
    if (!v->reload_wanted || !v->serving || v->stop_wanted || v->reloading ||
        v->succession != SUCCESSION_NONE)
        return;
    v->reload_wanted = false;
    (void)notify_reloading();
    give_files(v);
    if (!v->reloading)
        supervisor_say_serving();
}

/* ---- What the server says ------------------------------------------------------------------------------ */

static void on_word(struct supervisor *v, char word)
{
    switch ((enum handover_word)word) {
    case HANDOVER_READY:
        v->serving = true;
        if (v->succession == SUCCESSION_TAKING)
            succession_ready(v);
        else
            supervisor_say_serving();
        if (v->upgrade_wanted)
            succession_begin(v);
        break;
    case HANDOVER_RELOAD_WANTED:
        v->reload_wanted = true;
        break;
    case HANDOVER_RELOADED:
        v->reloading = false;
        supervisor_say_serving();
        break;
    case HANDOVER_STOPPING:
        v->serving = false;
        (void)notify_manager("STOPPING=1\nSTATUS=ending");
        break;
    case HANDOVER_UPGRADE_WANTED:
        succession_begin(v);
        break;
    case HANDOVER_GIVEN:
        succession_given(v);
        break;
    case HANDOVER_KEPT:
        succession_kept(v);
        break;
    case HANDOVER_STANDBY:
        succession_standby_anew(v);
        break;
    }
    reload_if_due(v);
}

static void control_read(struct supervisor *v, struct child *c)
{
    char word;

    while (c->control_fd >= 0) {
        ssize_t n = recv(c->control_fd, &word, 1, 0);

        if (n == 1 && c == &v->next) {
            if (word == HANDOVER_STANDBY)
                succession_standby(v);
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

static void server_ended(struct supervisor *v, int status)
{
    pid_t pid = v->server.pid;

    control_read(v, &v->server); /* Its last words. */
    if (pid == v->keeper.pid) {  /* It has given all away with them. */
        succession_keeper_ended(v, status);
    } else if (v->stopping || !succession_server_ended(v)) {
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
            succession_next_ended(v, status);
        else if (pid == v->server.pid)
            server_ended(v, status);
        else if (pid == v->keeper.pid)
            succession_keeper_ended(v, status);
    }
}

static void stop_now(struct supervisor *v)
{
    v->stopping = true;
    /* What ends is not heard any more: held open here, a port would take connections that nobody accepts. */
    plan_close_listeners(&v->plan);
    child_kill(&v->next);
    if (v->succession != SUCCESSION_NONE) /* Else it ends by itself. */
        child_kill(&v->keeper);
    if (handover_order(v->server.control_fd, HANDOVER_STOP, "", NULL) < 0)
        child_signal(&v->server, SIGTERM); /* It does not read its orders. */
}

/* In the midst of an upgrade nobody could: sessions are frozen here, or on their way there. */
static void stop_if_due(struct supervisor *v)
{
    if (v->stop_wanted && !v->stopping && v->succession == SUCCESSION_NONE)
        stop_now(v);
}

/* Twice: at once. */
static void stop(struct supervisor *v)
{
    bool again = v->stop_wanted;

    v->stop_wanted = true;
    if (again)
        stop_now(v);
    else
        succession_hurry(v);
}

static void on_signal(struct supervisor *v, int number)
{
    switch (number) {
    case SIGCHLD:
        children_ended(v);
        break;
    case SIGHUP:
        v->reload_wanted = true;
        break;
    case SIGUSR2:
        succession_begin(v);
        break;
    default:
        stop(v);
    }
    reload_if_due(v);
}

static int signals_block(struct supervisor *v)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGCHLD};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++)
        sigaddset(&set, numbers[i]);
    /* The server inherits it: what comes before it listens to signals is kept for it. */
    sigprocmask(SIG_BLOCK, &set, NULL);
    v->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return v->signal_fd < 0 ? -errno : 0;
}

/* ---- All of it ----------------------------------------------------------------------------------------- */

bool supervisor_start(struct supervisor *v, const char *path, const struct child *like,
                      struct child *child_out, struct config_error *error)
{
    int rc;

    if (v->plan.handover.given.count == 0 && !plan_read_files(&v->plan, error))
        return false;
    rc = child_start(&v->plan.handover, v->options, path, like, child_out);
    if (rc < 0)
        snprintf(error->text, sizeof error->text, "%s", strerror(-rc));
    return rc == 0;
}

/* Read before anything else: when the file was replaced, the kernel calls this one deleted. */
static void executable_find(struct supervisor *v)
{
    ssize_t size = readlink("/proc/self/exe", v->executable, sizeof v->executable - 1);

    if (size > 0)
        v->executable[size] = '\0';
}

static int begin(struct supervisor *v)
{
    struct config_error error;
    int rc = plan_make(&v->plan, v->options);

    if (rc != 0)
        return rc;
    log_event(LOG_INFO, "starting", "version=%s cores=%u memory_mib=%llu", TRIREME_VERSION,
              v->plan.cpus.count, (unsigned long long)(v->plan.handover.memory >> 20));
    rc = signals_block(v);
    if (rc < 0)
        snprintf(error.text, sizeof error.text, "%s", strerror(-rc));
    if (rc == 0 && supervisor_start(v, "/proc/self/exe", NULL, &v->server, &error))
        return 0;
    fprintf(stderr, "trireme: cannot start the server: %s\n", error.text);
    return EX_OSERR;
}

static void supervise(struct supervisor *v)
{
    struct signalfd_siginfo info;

    while (!v->ended) {
        struct pollfd fds[3] = {{.fd = v->signal_fd, .events = POLLIN},
                                {.fd = v->server.control_fd, .events = POLLIN},
                                {.fd = v->next.control_fd, .events = POLLIN}};

        if (poll(fds, 3, succession_wait_ms(v)) < 0 && errno != EINTR)
            return;
        control_read(v, &v->server);
        control_read(v, &v->next);
        while (read(v->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
            on_signal(v, (int)info.ssi_signo);
        succession_look(v);
        stop_if_due(v);
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

int supervisor_main(const struct options *o)
{
    struct supervisor v = {.options = o,
                           .signal_fd = -1,
                           .server = CHILD_NONE,
                           .next = CHILD_NONE,
                           .keeper = CHILD_NONE,
                           .status = W_EXITCODE(EX_OSERR, 0)}; /* Unless a server says another. */
    int rc;

    process_standard_files();
    executable_find(&v);
    process_harden();
    process_raise_limits();
    rc = begin(&v);
    if (rc == 0) {
        supervise(&v);
        rc = exit_status(&v);
    }
    plan_fini(&v.plan);
    return rc;
}
