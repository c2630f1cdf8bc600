/* net/link/link.h -- the one internal protocol: frames, streams and credit between roles.
 *
 * A stream is one command in flight: opened by whoever asks (a proxy), answered by whoever serves (a director
 * or a backend); an idle session has none. Frames are at most LINK_FRAME_MAX bytes. Each side may send a window
 * of bytes a stream ahead of what the other has released; OPEN, END, RESET, CREDIT and GRANT need no
 * credit, and DATA with HOLD none either: it is released only after the END, which follows it.
 *
 * Windows come out of a budget, a quarter of the shard's heap. In use of it are all frames made here, until they come home or have left,
 * and what was granted over wires and has not arrived. A stream's window is 1/16 of what is free, from LINK_WINDOW_FIRST to LINK_WINDOW:
 * streams that stand still make windows smaller and never take the last of them. In memory that holds at once. Over a wire a stream
 * begins with LINK_WINDOW_FIRST; the receiver doubles it (GRANT) when the sender has filled it and its bytes are being released, and
 * halves it when the budget is short. Whoever opens a stream for bulk, and has said all with it, grants all that there is at once. Of
 * what waits to leave by one connection a stream has its share by the same rule.
 *
 * opener server
 *     OPEN  head + data (flag LAST: all there) ->
 *     DATA ...                     (flag LAST) ->
 *                                             <- DATA ... (flag HOLD: not to be shown before END)
 *                                             <- END   data + trailer
 * RESET from either side ends a stream at once; the server answers RESET by RESET or by an END already under
 * way. An id is used again only after END or RESET came from the server.
 *
 * In memory, between shards of one process, a frame is written once, by its sender, and read in place;
 * releasing it sends it home, and that is the credit. Between processes a link is a connection
 * (net/link/wire.h); streams, their order and their credit are the same.
 *
 * Owner:  everything belongs to the shard that it lives on; callbacks run from its loop, never inside a call.
 * Memory: a frame received belongs to the callback's owner until link_frame_release(). */
#pragma once
#include "core/heap.h"
#include "core/list.h"
#include "core/shard.h"
#include "core/writer.h"

#define LINK_FRAME_MAX    16384
#define LINK_HEADER_SIZE  16
#define LINK_PAYLOAD_MAX  (LINK_FRAME_MAX - LINK_HEADER_SIZE)
#define LINK_WINDOW       (128 * 1024) /* Bytes of payload unreleased, each direction of a stream, at most, */
#define LINK_WINDOW_FIRST (32 * 1024)  /* and what each stream may have, whatever the others do. */
#define LINK_HELD_MAX     (128 * 1024 * 1024) /* With HOLD: every other message of the largest mailbox, twice. */
#define LINK_STREAMS_MAX  65536               /* A pair of shards. */
#define LINK_TRAILER_MAX  512

enum link_type {
    LINK_OPEN = 1,
    LINK_DATA,
    LINK_END,
    LINK_RESET,
    LINK_CREDIT,
    LINK_PING,
    LINK_HELLO,
    LINK_GRANT
};

/* What an OPEN asks for: who serves it. */
enum link_kind {
    LINK_LOGIN = 1, /* director: credentials -> route */
    LINK_LOOKUP,    /* director: a recipient -> route */
    LINK_IMAP,      /* backend: one IMAP command of a session */
    LINK_SYNC,      /* backend: what is new for a session that idles */
    LINK_DELIVER,   /* backend: one message for one recipient */
    LINK_SUBSCRIBE, /* backend: changes of accounts of a partition, for as long as the stream lives */
    LINK_TABLE,     /* director: where the partitions are, for as long as the stream lives */
    LINK_MEMBER,    /* backend: its place in the cluster, for as long as the stream lives */
    LINK_RENEW,     /* director: a ticket -> one that is valid again */
    LINK_KIND_COUNT
};

#define LINK_LAST 1 /* The sender's direction ends with this frame. END implies it. */
/* Renumbers what the client sees: shown only together with the END that carries its token. */
#define LINK_HOLD 2
#define LINK_RUNS 4 /* No text: what roles/words/expunge_run.h says. */

/* What became of a request whose stream was lost. */
enum link_lost {
    LINK_LOST_UNKNOWN, /* Nobody knows: it may have been executed, or still be. */
    LINK_LOST_REFUSED, /* Nothing of it was done, or it was never sent. */
    LINK_LOST_ELSEWHERE, /* Nothing of it was done: another node has that partition. See struct link_referral. */
    LINK_LOST_TICKET,    /* Nothing of it was done: its ticket is not valid here. */
    LINK_LOST_COUNT
};

/* With LINK_LOST_ELSEWHERE: as of when the node that was asked says so. Whose view of the cluster is of an older epoch has it to learn. */
struct link_referral {
    uint64_t epoch; /* 0: it does not say; so of a node of the release before. */
    uint16_t partition;
};
#define LINK_REFERRAL_SIZE 10 /* As bytes: partition 2, epoch 8. */

struct link_header { /* What a frame says of itself. */
    uint32_t stream;
    uint32_t value; /* CREDIT: bytes released. GRANT: the window. OPEN: the route. RESET: enum link_lost. */
    uint16_t size;  /* Of the payload, trailer included. */
    uint16_t trailer_size; /* OPEN: head at the front; END: trailer at the end. */
    uint8_t type, kind, flags;
};

struct conn_space;
struct link_stream;

struct link_frame {
    struct shard_message message; /* First: a frame travels as a message. */
    struct list link;             /* For queues of whoever holds it. */
    struct link_stream *stream; /* At the receiver: whom the release credits; NULL when the stream is gone. */
    struct link_header header;
    uint32_t capacity;
    char *payload;            /* `bytes`, or in what a connection has received: */
    struct conn_space *space; /* held by this frame; NULL: `bytes`. */
    uint32_t serial;          /* Of the sender's stream, and the shard sent to: private, for the way home. */
    uint32_t peer;
    bool wired;                  /* Came over a wire: its memory is this shard's. */
    bool has_origin;             /* An OPEN passed on from a wire: its origin stands behind the payload. */
    char wire[LINK_HEADER_SIZE]; /* The header as it stands on a wire, in one piece with the payload. */
    char bytes[];
};
_Static_assert(offsetof(struct link_frame, wire) + LINK_HEADER_SIZE == offsetof(struct link_frame, bytes),
               "a frame leaves in one piece");

static inline struct slice link_frame_data(const struct link_frame *f) /* Payload without head or trailer. */
{
    size_t front = f->header.type == LINK_OPEN ? f->header.trailer_size : 0;

    return slice_of(f->payload + front, (size_t)f->header.size - f->header.trailer_size);
}

static inline struct slice
link_frame_head(const struct link_frame *f) /* Head of an OPEN, trailer of an END. */
{
    size_t at = f->header.type == LINK_OPEN ? 0 : (size_t)f->header.size - f->header.trailer_size;

    return slice_of(f->payload + at, f->header.trailer_size);
}

/* Gives the frame home to its sender, and its bytes back to the sender's credit. */
void link_frame_release(struct link_frame *f);

struct link_stream_ops {
    /* DATA (or END: header.type says it; then nothing follows and ended() is not called apart). Takes f. */
    void (*frame)(struct link_stream *s, struct link_frame *f);
    /* There is credit again, after link_credit() or link_send() found none left, or link_short() too little. */
    void (*credit)(struct link_stream *s);
    /* RESET by the peer, or the link died (s->why): nothing follows. The stream is gone when this returns. */
    void (*lost)(struct link_stream *s);
};

struct link_stream {
    const struct link_stream_ops *ops;
    void *owner;
    enum link_lost why;            /* In lost(), */
    struct link_referral referral; /* and with ELSEWHERE. */
    bool got_last;                 /* The peer's direction has ended. */
    /* Private. */
    bool opener, sent_last, starved, dead;
    struct link *link;
    uint32_t id, serial;
    uint32_t window;      /* What that may come to. */
    uint32_t window_used; /* Bytes sent and not yet released by the peer. */
    uint32_t frames_held; /* Received frames not yet released. */
    /* Over a wire: */
    bool transmitted;          /* Its OPEN has left. */
    uint32_t in_flight;        /* Of window_used: what has left. */
    uint32_t received;         /* Bytes received and not yet released. */
    uint32_t credit_due;       /* Released, and the peer not yet told. */
    uint32_t grant;            /* The peer's window. */
    uint32_t promised;         /* Of the budget: what of it may still arrive. */
    uint32_t opened_ms;        /* When: what cannot be sent for too long is given up. */
    struct list out;           /* Frames that wait for their turn or for credit. */
    struct list ready;         /* In the connection's ring of streams that can send. */
    struct link_stream *relay; /* What arrives here is passed on to that one, and back. */
};

/* ---- Streams ------------------------------------------------------------------------------------------- */

/* Where a stream goes: a shard of this process, or a node behind a wire. Zeroed: nowhere. */
struct link_peer;
struct link_target {
    struct shard *shard;
    struct link_peer *peer;
    uint16_t route; /* Over a wire: what the node there chooses the shard by. */
    bool bulk;      /* Over a wire: much will move, so that it stays out of the way of small commands. */
};

static inline struct link_target link_to_shard(struct shard *shard)
{
    return (struct link_target){.shard = shard};
}

/* Opens a stream. `last`: the request is complete (head + data fit one frame). The stream lives until
 * the END was delivered to ops->frame(), ops->lost() returned, or link_stream_reset(). head.size + data.size
 * <= LINK_PAYLOAD_MAX. Over a wire that is down it waits for it, LINK_UNSENT_MS at most, then it is lost
 * (REFUSED). NULL: nowhere to go, LINK_STREAMS_MAX streams are open, or no memory: the caller answers
 * UNAVAILABLE. */
MUST_CHECK struct link_stream *link_open(struct link_target to, enum link_kind kind, struct slice head,
                                         struct slice data, bool last, const struct link_stream_ops *ops,
                                         void *owner);
/* Has any of it left? In memory: yes. Over a wire: not before there is a connection. */
bool link_stream_sent(const struct link_stream *s);
/* Bytes that may be sent now; negative when a sender went ahead by one item, as it may. When there are none,
 * ops->credit() will tell. */
int64_t link_credit(struct link_stream *s);
/* Fewer than `size`, at most LINK_PAYLOAD_MAX: then ops->credit() will tell too. For whoever sends whole frames. */
bool link_short(struct link_stream *s, uint32_t size);
/* A new frame to write into, at least `size` bytes of payload (<= LINK_PAYLOAD_MAX). Never NULL. */
struct link_frame *link_frame_new(size_t size);
/* Sends `size` payload bytes of f as DATA. Takes f. flags: LINK_LAST, LINK_HOLD. */
void link_send(struct link_stream *s, struct link_frame *f, size_t size, unsigned flags);
/* Server: ends the stream with `size` data bytes of f (f may be NULL) and the trailer. Takes f, which must
 * have room for both. Takes the stream: the pointer is dead when this returns. */
void link_end(struct link_stream *s, struct link_frame *f, size_t size, struct slice trailer);
/* Either side gives up. Takes the stream; frames still held may be released later. */
void link_stream_reset(struct link_stream *s);
/* Server: nothing was done, and nothing will be. Takes the stream. */
void link_stream_refuse(struct link_stream *s, enum link_lost why);
/* The same: ELSEWHERE. */
void link_stream_refer(struct link_stream *s, const struct link_referral *referral);

/* A writer whose windows are frames of a stream. */
struct link_writer {
    struct writer writer; /* First. */
    struct link_stream *stream;
    struct link_frame *frame;
    unsigned flags; /* LINK_HOLD while a sync block is written. */
};
void link_writer_init(struct link_writer *w, struct link_stream *s);
/* The same for the rest of a long answer. */
void link_writer_resume(struct link_writer *w, struct link_stream *s);
/* `size` bytes are about to be written: the first window, which is small, is exchanged for one that has room for as many of them as a
 * frame may. */
void link_writer_expect(struct link_writer *w, size_t size);
/* Sends what is in the window, if anything. */
void link_writer_flush(struct link_writer *w);
/* Flushes before a change of flags, so that HOLD begins at the right byte. */
void link_writer_hold(struct link_writer *w);
/* Sends a frame of its own, in order, with `flags` beside those of the writer. Takes f. */
void link_writer_frame(struct link_writer *w, struct link_frame *f, size_t size, unsigned flags);
/* What is left goes out in the END, with the trailer. Takes the stream. */
void link_writer_end(struct link_writer *w, struct slice trailer);
/* Drops the window without sending (before a reset). */
void link_writer_fini(struct link_writer *w);

/* ---- Serving ------------------------------------------------------------------------------------------- */

/* A new stream: the server sets s->ops and s->owner, then owns `open` (head and first data in it; flag LAST
 * when the request is complete) until it releases it. May end or reset the stream at once. */
typedef void link_serve_fn(struct link_stream *s, struct link_frame *open);

#define LINK_NODE_NAME_MAX 63
enum link_role { LINK_ROLE_PROXY = 1, LINK_ROLE_DIRECTOR = 2, LINK_ROLE_BACKEND = 4, LINK_ROLE_ALL = 7 };

#define LINK_FEATURES_UNSAID 1 /* Of a node of the release before, which says nothing of it. */

struct link_node {     /* Who is at the other end of a wire. */
    uint64_t instance; /* Random: another one after each start of its process. */
    uint16_t features; /* Level of what it offers: roles/words/capability.h. */
    uint8_t roles;     /* enum link_role */
    char name[LINK_NODE_NAME_MAX + 1];
};

/* False: the stream was opened in this process. */
bool link_frame_origin(const struct link_frame *open, struct link_node *node_out);

/* At the start of a shard. The links end with the shard. */
int link_start(void);
void link_stop(void);
void link_serve(enum link_kind kind, link_serve_fn *serve);
