#include "roles/supervisor/child.h"
#include "roles/process.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

static void inherit(int fd)
{
    (void)fcntl(fd, F_SETFD, 0);
}

/* In the new process: becomes the server, or ends. */
NORETURN static void server_exec(const struct handover *h, const struct options *o, const char *path,
                                 int executable_fd, int handover_fd)
{
    char option[32], **argv = calloc((size_t)o->argc + 2, sizeof *argv);

    process_die_with(h->supervisor);
    inherit(handover_fd);
    inherit(h->control_fd);
    for (unsigned i = 0; i < h->listener_count; i++)
        inherit(h->listeners[i].fd);
    for (unsigned i = 0; i < h->predecessor_count; i++)
        inherit(h->predecessors[i]);
    if (h->predecessor_count > 0)
        inherit(h->ledger_fd);
    if (argv != NULL) {
        snprintf(option, sizeof option, PROCESS_HANDOVER_OPTION "%d", handover_fd);
        argv[0] = o->argv[0];
        argv[1] = option;
        memcpy(argv + 2, o->argv + 1, (size_t)(o->argc - 1) * sizeof *argv);
        if (path != NULL)
            execv(path, argv);
        else
            fexecve(executable_fd, argv, environ);
    }
    fprintf(stderr, "trireme: cannot execute the server: %s: %s\n", path != NULL ? path : "as before",
            strerror(errno));
    _exit(EX_OSERR);
}

int child_start(struct handover *h, const struct options *o, const char *path, const struct child *like,
                struct child *child_out)
{
    struct child child = CHILD_NONE;
    bool same = like != NULL && like->executable_fd >= 0;
    int pair[2], handover_fd, rc;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        rc = -errno;
        handover_files_wipe(&h->given);
        return rc;
    }
    child.control_fd = pair[0];
    child.executable_fd =
        same ? fcntl(like->executable_fd, F_DUPFD_CLOEXEC, 0) : open(path, O_PATH | O_CLOEXEC);
    h->control_fd = pair[1];
    h->supervisor = getpid();
    handover_fd = rc = handover_write(h);
    handover_files_wipe(&h->given); /* Before there are two of them. */
    if (handover_fd >= 0) {
        child.pid = fork();
        rc = child.pid < 0 ? -errno : 0;
    }
    if (rc == 0 &&
        child.pid == 0) /* By a descriptor, a file that names its interpreter is not found by him. */
        server_exec(h, o, same ? NULL : path, child.executable_fd, handover_fd);
    close(pair[1]);
    if (handover_fd >= 0)
        close(handover_fd);
    if (rc == 0)
        *child_out = child;
    else
        child_forget(&child);
    return rc;
}

void child_signal(const struct child *c, int number)
{
    if (c->pid != 0)
        (void)kill(c->pid, number);
}

void child_kill(const struct child *c)
{
    child_signal(c, SIGKILL);
}

void child_forget(struct child *c)
{
    if (c->control_fd >= 0)
        close(c->control_fd);
    if (c->executable_fd >= 0)
        close(c->executable_fd);
    *c = CHILD_NONE;
}
