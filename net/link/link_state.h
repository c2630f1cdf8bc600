/* net/link/link_state.h -- what link.c, credit.c and the files of a wire share. Private to net/link/. */
#pragma once
#include "net/link/link.h"
#include "net/link/wire.h"

/* Streams opened here and streams served here have separate tables, since each side numbers what it opens. */
struct link {
    struct shard *peer;     /* In memory: the other end. */
    struct link_wire *wire; /* Or the connection. */
    struct link_state *state;
    uint32_t share;                        /* Over a wire: what a stream may have waiting for it. */
    struct link_stream **opened, **served; /* By id; NULL: free. */
    uint32_t opened_count, served_count;   /* Entries allocated. */
    uint32_t opened_free_hint;
};

struct link_state { /* SLOT_LINK of a shard. */
    struct heap *heap;
    struct slab streams;
    uint32_t serial;
    uint64_t budget, used; /* Bytes of frames, and what was granted. */
    uint64_t held;         /* Of `used`: received memory that frames refer to, all of it. */
    uint32_t share;        /* What one stream may have of it. */
    link_serve_fn *serve[LINK_KIND_COUNT];
    struct wires *wires; /* NULL: this process has none. */
    unsigned link_count;
    struct link links[]; /* By the peer's shard index. */
};

/* In header.flags: direction, so that the receiver knows which table `stream` is of. */
#define LINK_FROM_OPENER 0x80

static inline struct link_state *link_state(void)
{
    return shard_self()->slot[SLOT_LINK];
}

static inline struct link_stream *link_find(struct link_stream **table, uint32_t count, uint32_t id)
{
    return id < count ? table[id] : NULL;
}

/* ---- link.c ---------------------------------------------------------------------------------------------- */

/* A stream that the peer has opened, in l->served. NULL: no memory, or the id is out of bounds. */
struct link_stream *link_served_new(struct link *l, uint32_t id, bool last);
/* Frees the id at once, and the record when the last frame on loan came back. */
void link_stream_finish(struct link_stream *s);
/* A frame whose payload stays where it was received; the caller has held that for it, and asked credit_holds() first. */
struct link_frame *link_frame_refer(struct conn_space *space, const struct link_header *h, char *payload);
/* Hands an OPEN to whoever serves its kind. False: nobody does. */
bool link_serve_frame(struct link_stream *s, struct link_frame *f);
/* DATA or END for a stream of this end. */
void link_stream_frame(struct link_stream *s, struct link_frame *f);
/* Tells the owner, then finishes. */
void link_stream_lost(struct link_stream *s, enum link_lost why);
void link_stream_referred(struct link_stream *s, enum link_lost why, const struct link_referral *referral);
/* Bytes that the peer has released. May call the owner, who may end it. */
void link_stream_credit(struct link_stream *s, uint32_t credit);
/* A frame that has left by a wire: home, as if it had been released by its reader. */
void link_frame_home(struct link_frame *f);
/* Opens a stream to a shard with an OPEN that came over a wire; both belong together from then on. Takes f,
 * unless it returns false. */
bool link_relay_open(struct link_stream *from, struct shard *to, struct link_frame *f,
                     const struct link_node *origin);
/* DATA that came over a wire, on to the shard. Takes f. */
void link_relay_frame(struct link_stream *to, struct link_frame *f);
/* The wire's end has gone: the shard's end is given up. */
void link_relay_reset(struct link_stream *from);

/* ---- credit.c -------------------------------------------------------------------------------------------- */

_Static_assert(LINK_WINDOW_FIRST >= 2 * LINK_FRAME_MAX,
               "a frame fits what is left when no credit is due yet");

void credit_start(struct link_state *state);
void credit_draw(struct link_state *state, int64_t size);
/* May another frame refer to what was received? A little of it holds all: a slow reader's frame, 256 KiB. So no more than 1/HELD_PART of
 * the budget is held, and the others are copied. */
bool credit_holds(const struct link_state *state);
void credit_held(struct link_state *state, int64_t size);
uint32_t credit_share(uint64_t budget, uint64_t used);
void credit_starve(struct link_stream *s, bool starved);
/* Of a window: released, it is worth a CREDIT, and there to be used, it is worth waking whoever waits. Half of it, less a frame where
 * there are many, since frames do not fill it to the byte: so both sides go on in the same step. */
uint32_t credit_part(uint32_t window);
/* Tells the owner if there is enough again: from the loop only. He may end it. */
void credit_wake(struct link_stream *s);
/* After `received`, `credit_due` or `grant` has changed. */
void credit_promise(struct link_stream *s, bool ended);
bool credit_regrant(struct link_stream *s);
bool credit_grant_first(struct link_stream *s);

/* ---- wire*.c -------------------------------------------------------------------------------------------- */

/* The lane of a peer: the link on which a stream to this target is opened. */
struct link *wire_link(struct link_target to);
/* A stream was opened on it. */
void wire_opened(struct link_stream *s);
/* Takes f: it leaves in its turn. */
void wire_post(struct link_stream *s, struct link_frame *f);
/* RESET, ahead of what is queued. */
void wire_reset(struct link_wire *w, uint32_t id, bool opener, enum link_lost why,
                const struct link_referral *referral);
/* The reader has released `size` bytes of DATA. */
void wire_released(struct link_stream *s, uint32_t size);
/* Forgets what waits. */
void wire_stream_drop(struct link_stream *s);
const struct link_node *wire_node(const struct link_wire *w);
void wires_free(struct link_state *state);
