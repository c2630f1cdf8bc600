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

/* Executes `path`; NULL: what `like` executes. With h->given, which is wiped. 0 or -errno. */
MUST_CHECK int child_start(struct handover *h, const struct options *o, const char *path,
                           const struct child *like, struct child *child_out);
/* It has ended. */
void child_forget(struct child *c);
