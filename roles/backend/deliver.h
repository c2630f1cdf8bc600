/* roles/backend/deliver.h -- LINK_DELIVER: one message for one recipient. A record while frames are on their
 * way, a fiber for each step that has some:
 *
 *     WAITING --frames came--> QUEUED --a fiber is free--> RUNNING --all taken, not the last--> WAITING
 *                                                             |--the last--> committed, answered, gone
 *
 * Owner:  one shard; from the backend's slab. */
#pragma once
#include "roles/backend/backend.h"
#include "roles/words/request.h"
#include "storage/body.h"

struct delivery {
    struct list link; /* In backend->delivery_list. */
    struct backend *backend;
    struct link_stream *stream; /* NULL: the proxy has gone. */
    struct link_frame *open;
    struct list frames; /* Received, not written on. */
    struct fiber_waiter waiter;
    struct deliver_request request; /* Points into `open`. */
    struct body_writer *writer;
    uint64_t user;     /* As in struct member_claim. */
    uint64_t began_ns; /* When the last frame came. */
    int rc;            /* First failure: the rest of the message is read and dropped. */
    bool begun, waiting, got_last;
};
