/* roles/supervisor/handover.h -- what the supervisor gives the server that it starts: a sealed file in memory whose descriptor
 * the server inherits, with descriptors of listeners and of the way back in it.
 *
 *   head | CPUs: u32 each | listeners: address, shard, descriptor | files: path, bytes
 *
 * Both ends are the same executable, so members are written as they lie in memory; a version says when that would not do.
 *
 * The way back is one byte a message, an enum handover_word: nothing that a server says can be anything else to the service manager.
 * By the same pair of sockets the supervisor gives orders, struct handover_order, with a file like the first one if files belong to it.
 * Owner:  the first thread of either. Blocking calls.
 * Memory: the reader's copies of files are a mapping that no core dump shows; handover_forget() ends it. */
#pragma once
#include "core/given.h"
#include "core/node.h"

#define HANDOVER_FILE_MAX  (1024 * 1024)
#define HANDOVER_FILES_MAX 4096

enum handover_word {
    HANDOVER_READY = 'r',
    HANDOVER_RELOAD_WANTED = 'w', /* By the operator, who has asked the server. */
    HANDOVER_RELOADED = 'd',      /* The order was carried out, or refused: it may have another one. */
    HANDOVER_STOPPING = 's',
};

enum handover_order_kind {
    HANDOVER_RELOAD = 1, /* Comes with files; or with an error, and then without. */
};

#define HANDOVER_ERROR_MAX 512

struct handover_order {
    uint32_t kind;      /* enum handover_order_kind */
    uint64_t file_size; /* 0: there is no file with it. */
    char error[HANDOVER_ERROR_MAX];
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

/* The supervisor's. `files`: what comes with it; NULL: nothing. 0 or -errno. */
MUST_CHECK int handover_order(int control_fd, struct handover_order *order, const struct handover *files);
/* The server's, in its sandbox. False: there is none, or it is none. *files_out is the caller's to end by handover_fini(). */
MUST_CHECK bool handover_receive(int control_fd, struct handover_order *order_out,
                                 struct handover *files_out);
