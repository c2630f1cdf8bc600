/* roles/supervisor/child.h -- a server that the supervisor has started, by executing a file with a handover (handover.h).
 * Owner: the supervisor. */
#pragma once
#include "roles/options.h"
#include "roles/supervisor/handover.h"
#include <sys/types.h>

struct child {
    pid_t pid; /* 0: none. */
    int control_fd;
    int executable_fd; /* What it executes, whatever has become of the file's name. -1: it could not be opened. */
};

#define CHILD_NONE ((struct child){0, -1, -1})

/* Executes what `like` executes; `path`, if it is NULL or what it executes could not be opened. With h->given, which is wiped.
 * 0 or -errno. */
MUST_CHECK int child_start(struct handover *h, const struct options *o, const char *path,
                           const struct child *like, struct child *child_out);
/* Does nothing if there is none. */
void child_signal(const struct child *c, int number);
/* At once: that it has ended says the rest. */
void child_kill(const struct child *c);
/* It has ended. */
void child_forget(struct child *c);
