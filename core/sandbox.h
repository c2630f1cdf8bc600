/* core/sandbox.h -- what a process gives up before it hears the network, so that whoever takes it over gains little.
 *
 *   capabilities  all dropped, and no_new_privs: nothing that it could execute would bring any back.
 *   Landlock      opens files below the profile's directories alone, connects by TCP to the profile's ports alone, binds
 *                 nothing. Holds for operations of a ring, too.
 *   rings         restricted to the operations that the profile needs (node_options.ring_rights); none of them sends with flags or
 *                 to an address, since MSG_FASTOPEN connects without Landlock's knowledge.
 *   seccomp       system calls from a list. It does not see what a ring does, so nobody may make another ring.
 *
 * Two steps of the first thread: sandbox_enter() before there is any other thread, since Landlock holds for the thread
 * that asks for it and for those that it makes; sandbox_seal() when all threads and rings are there, for all threads at
 * once. In between nothing from outside is read.
 *
 * A system call that only an intruder makes (execve, ptrace, socket...) ends the process with SIGSYS: tried in silence it
 * would be tried again. One that is merely not on the list fails with ENOSYS, as on an older kernel: a newer libc that asks for something
 * harmless must not take the mail down.
 *
 * What this kernel or build cannot do is left out and named; the rest is applied.
 * Owner: the process's first thread. */
#pragma once
#include "core/base.h"

struct sandbox_directory {
    const char *path;
    bool writable; /* Else its files can only be read. */
};

struct sandbox_profile {
    bool files;   /* Opens files, below `directories`. */
    bool connect; /* Connects by TCP, to `ports`. */
    const struct sandbox_directory *directories;
    size_t directory_count;
    const uint16_t *ports;
    size_t port_count;
};

#define SANDBOX_MISSING_MAX 256

/* Adds to `missing` (a string, comma-separated) what cannot be had here. 0, or -errno: a directory cannot be opened. */
MUST_CHECK int sandbox_enter(const struct sandbox_profile *profile, char missing[SANDBOX_MISSING_MAX]);
void sandbox_seal(const struct sandbox_profile *profile, char missing[SANDBOX_MISSING_MAX]);
