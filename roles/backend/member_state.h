/* roles/backend/member_state.h -- what the files of a backend's membership share. Private to roles/backend/.
 *
 *     member.c         what directors say and are told; who may do what
 *     member_file.c    what is on the disk
 *     member_placed.c  users who are placed alone */
#pragma once
#include "core/fiber.h"
#include "core/heap.h"
#include "core/list.h"
#include "roles/backend/member.h"
#include "roles/exceptions.h"

#define MEMBER_POLL_MS 20 /* Of what waits for the store, or for a director. */

struct membership { /* What every shard has a copy of. */
    uint8_t secret[PARTITION_SECRET_SIZE];
    uint8_t partitions[PARTITION_COUNT / 8];
    struct ticket_key ticket_keys[2];
    struct revocations revoked;
    uint64_t epoch;           /* Version of the director's table by which this is so. */
    struct exceptions placed; /* Users who are placed alone: enum exception_here. */
};

struct placed_word { /* A director's word on them, all pieces of it. */
    uint64_t version;
    uint32_t count;
    struct {
        bool here;
        uint8_t name_size;
        char name[USER_SIZE_MAX];
    } users[EXCEPTIONS_MAX];
};

struct member_director { /* A stream of a director. */
    struct list link;
    struct link_stream *stream;
};

struct member {
    struct membership view;
    /* Shard 0: */
    struct shard *shard;
    struct slab directors;
    struct list director_list;
    uint8_t store_id[CLUSTER_ID_SIZE];
    struct member_grant grant; /* The last one that was taken; its cluster_id is zero before the first. */
    struct member_grant next;  /* To be taken. */
    struct revocations coming; /* Counts when its last piece is there. */
    uint64_t placed_version;   /* Of the table by which users are placed alone. */
    struct placed_word *placed_coming; /* NULL: none comes. */
    struct placed_word *placed_next;   /* To be taken. */
    bool placed_unsaved;               /* What is in force is not on the disk. */
    bool granted, due, revoked, running, joined, stopping;
    struct fiber_queue idle; /* Whoever waits for the end of the fiber that takes grants. */
};

static inline struct member *member_self(void)
{
    return shard_self()->slot[SLOT_MEMBER];
}

/* ---- member.c -------------------------------------------------------------------------------------------- */

/* To all shards, what shard 0 has. Fiber. */
void member_spread(struct member *m);
/* What has come of revocations counts. Fiber. */
void member_revoked_take(struct member *m);

/* ---- member_file.c: fibers; 0 or -errno after a line in the log ------------------------------------------ */

MUST_CHECK int member_file_load(struct member *m);
MUST_CHECK int member_file_save(struct member *m);

/* ---- member_placed.c ------------------------------------------------------------------------------------- */

/* A piece of a director's word came. */
void member_placed_add(struct member *m, const struct member_placed *piece);
/* Does what m->placed_next says, and answers. Fiber. */
void member_placed_take(struct member *m);
void member_placed_fini(struct member *m);
