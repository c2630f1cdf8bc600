/* roles/supervisor/handover.h -- what the supervisor gives the server that it starts: a sealed file in memory whose descriptor
 * the server inherits, with descriptors of listeners and of the way back in it.
 *
 *   head | CPUs: u32 each | listeners: address, shard, descriptor | descriptors of a predecessor, one a shard, or none | files: path, bytes
 *
 * With descriptors of a predecessor comes one of the ledger (roles/words/ledger.h), which the predecessor gets, too.
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
#include "roles/words/ledger.h"

#define HANDOVER_FILE_MAX  (1024 * 1024)
#define HANDOVER_FILES_MAX 4096

enum handover_word {
    HANDOVER_READY = 'r',
    HANDOVER_RELOAD_WANTED = 'w', /* By the operator, who has asked the server. */
    HANDOVER_RELOADED = 'd',      /* The order was carried out, or refused: it may have another one. */
    HANDOVER_STOPPING = 's',
    /* An upgrade (supervisor.h): */
    HANDOVER_UPGRADE_WANTED = 'u', /* By the operator, as above. */
    HANDOVER_STANDBY = 'y',        /* The successor: all is there but what the other one still has. */
    /* The predecessor: I serve nobody any more, `data` is free; sessions are to be had. */
    HANDOVER_GIVEN = 'g',
    HANDOVER_KEPT = 'k', /* The predecessor: it has failed, and I serve on. */
};

enum handover_order_kind {
    HANDOVER_RELOAD = 1, /* Comes with files; or with an error, and then without. */
    HANDOVER_GIVE, /* To the predecessor: comes with a descriptor for each shard, of pairs that lead to the successor's shards, and one
                    * of the ledger. Once more behind HANDOVER_GIVEN, if that successor has died, which it has by then, and this is another. */
    HANDOVER_NOT_GIVEN, /* To the predecessor: there is no successor, or none any more; the error says why. */
    HANDOVER_TAKE,      /* To the successor: the other one has closed all that is to be opened. */
    HANDOVER_STOP,      /* Gracefully; a second one: at once. */
};

#define HANDOVER_ERROR_MAX 512
#define HANDOVER_FDS_MAX   250 /* Of one message: a shard less may hand over. SCM_MAX_FD is 253. */

struct handover_order {
    uint32_t kind;      /* enum handover_order_kind */
    uint64_t file_size; /* Of the one descriptor that comes with it. 0: it is no file. */
    char error[HANDOVER_ERROR_MAX];
};

struct handover_fds {
    unsigned count;
    int at[HANDOVER_FDS_MAX];
};

struct handover {
    pid_t supervisor;
    int control_fd; /* The server's end. */
    uint64_t memory;
    unsigned cpu_count;
    unsigned *cpus;
    unsigned listener_count;
    struct node_listener *listeners;
    unsigned predecessor_count; /* 0: there is none. */
    int *predecessors;
    int ledger_fd;      /* If there is one. */
    bool anew;          /* A successor has died before it served: this is the old executable again. */
    struct given given; /* The writer's: read by handover_file_read(). */
    /* The writer's: one file more, which stays as it is when the others are wiped. NULL: none. */
    const struct given_file *config_file;
    /* The reader's: */
    char *map;
    size_t map_size;
};

/* The descriptor, not inherited by other programs, or -errno. */
MUST_CHECK int handover_write(const struct handover *h);
/* Closes fd. 0 or -errno: that is no handover. */
MUST_CHECK int handover_read(int fd, struct handover *h_out);
/* Zeroed, a part for each shard: a descriptor that is not inherited, or -errno. */
MUST_CHECK int handover_ledger_make(unsigned shard_count);
/* Shared with whoever else maps it, in a core dump of nobody, for as long as the process lives. NULL: errno says why. */
struct ledger *handover_ledger_map(int fd, unsigned shard_count);

/* The files are needed no more. */
void handover_forget(struct handover *h);
void handover_fini(struct handover *h);

/* A file of the operator's, whole. 0 or -errno; -EFBIG: too large. */
MUST_CHECK int handover_file_read(const char *path, struct given_file *file_out);
void handover_file_wipe(struct given_file *file);
/* Of all; then there are none. */
void handover_files_wipe(struct given *given);

/* The server's word. Never blocks; from any thread. */
void handover_say(int control_fd, enum handover_word word);

/* The supervisor's. `error`: "", or why it comes. `fds` or `files`: what comes with it; NULL: nothing. They stay the caller's.
 * 0 or -errno. */
MUST_CHECK int handover_order(int control_fd, enum handover_order_kind kind, const char *error,
                              const struct handover_fds *fds);
MUST_CHECK int handover_order_files(int control_fd, enum handover_order_kind kind,
                                    const struct handover *files);
/* The server's, in its sandbox. False: there is none, or it is none. The descriptors are the caller's. */
MUST_CHECK bool handover_receive(int control_fd, struct handover_order *order_out,
                                 struct handover_fds *fds_out);
/* The file that came with it; takes its descriptor. */
MUST_CHECK int handover_receive_files(const struct handover_order *order, struct handover_fds *fds,
                                      struct handover *files_out);
void handover_close(struct handover_fds *fds);
