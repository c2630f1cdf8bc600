/* roles/supervisor/handover.h -- what the supervisor gives the server that it starts: a sealed file in memory whose descriptor
 * the server inherits, with descriptors of listeners and of the way back in it.
 *
 *   head | CPUs: u32 each | listeners: address, shard, descriptor | files: path, bytes
 *
 * Both ends are the same executable, so members are written as they lie in memory; a version says when that would not do.
 *
 * The way back is one byte a message, an enum handover_word: nothing that a server says can be anything else to the service manager.
 * Owner:  the first thread of either. Blocking calls.
 * Memory: the reader's copies of files are a mapping that no core dump shows; handover_forget() ends it. */
#pragma once
#include "core/given.h"
#include "core/node.h"

#define HANDOVER_FILE_MAX  (1024 * 1024)
#define HANDOVER_FILES_MAX 4096

enum handover_word {
    HANDOVER_READY = 'r',
    HANDOVER_RELOADING = 'l',
    HANDOVER_RELOADED = 'd',
    HANDOVER_STOPPING = 's',
};

struct handover {
    pid_t supervisor;
    int control_fd; /* The server's end. */
    uint64_t memory;
    unsigned cpu_count;
    unsigned *cpus;
    unsigned listener_count;
    struct node_listener *listeners;
    struct given given;
    /* The reader's: */
    char *map;
    size_t map_size;
};

/* The descriptor, not inherited by other programs, or -errno. */
MUST_CHECK int handover_write(const struct handover *h);
/* Closes fd. 0 or -errno: that is no handover. */
MUST_CHECK int handover_read(int fd, struct handover *h_out);
/* The files are needed no more. */
void handover_forget(struct handover *h);
void handover_fini(struct handover *h);

/* A file of the operator's, whole. The caller wipes and frees. 0 or -errno; -EFBIG: too large. */
MUST_CHECK int handover_file_read(const char *path, struct given_file *file_out);
void handover_files_wipe(struct given *given);

/* The server's word. Never blocks; from any thread. */
void handover_say(int control_fd, enum handover_word word);
