#include "roles/supervisor/child.h"
#include "roles/process.h"
#include <errno.h>
#include <fcntl.h>
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

/* By its name, and not by the descriptor, if there is one: a file that names its interpreter has to be found by him. */
static int executable_open(const char *path, const struct child *like)
{
    return path != NULL ? open(path, O_PATH | O_CLOEXEC) : fcntl(like->executable_fd, F_DUPFD_CLOEXEC, 0);
}

int child_start(struct handover *h, const struct options *o, const char *path, const struct child *like,
                struct child *child_out)
{
    int pair[2], handover_fd, executable_fd = executable_open(path, like);
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        handover_files_wipe(&h->given);
        close(executable_fd);
        return -errno;
    }
    h->control_fd = pair[1];
    h->supervisor = getpid();
    handover_fd = handover_write(h);
    handover_files_wipe(&h->given);
    pid = handover_fd < 0 ? -1 : fork();
    if (pid == 0)
        server_exec(h, o, path, executable_fd, handover_fd);
    close(pair[1]);
    if (handover_fd >= 0)
        close(handover_fd);
    if (pid < 0) {
        close(pair[0]);
        close(executable_fd);
        return handover_fd < 0 ? handover_fd : -errno;
    }
    *child_out = (struct child){pid, pair[0], executable_fd};
    return 0;
}

void child_forget(struct child *c)
{
    if (c->control_fd >= 0)
        close(c->control_fd);
    if (c->executable_fd >= 0)
        close(c->executable_fd);
    *c = CHILD_NONE;
}
