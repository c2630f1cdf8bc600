/* net/link/wire_state.h -- what the files of a wire share: wire.c (its life), wire_hello.c, wire_send.c, wire_receive.c.
 * Private to net/link/. */
#pragma once
#include "core/io.h"
#include "net/link/header.h"
#include "net/link/link_state.h"

/* Frames up to this size are copied: so that they leave in one piece, and hold nothing of what was received with them. */
#define WIRE_COPY_MAX 1024

/*   DOWN --retry--> CONNECTING --> SECURING --> HELLO --both have said it--> UP
 *    ^                  |             |           |                          |
 *    +------closed------+---CLOSING---+-----------+----error, silence--------+      (accepted: freed instead)
 *
 * Plain TCP skips SECURING; an accepted connection begins there. */
enum wire_state { WIRE_DOWN, WIRE_CONNECTING, WIRE_SECURING, WIRE_HELLO, WIRE_UP, WIRE_CLOSING };

struct link_wire {
    struct list entry;      /* In wires->list. */
    struct link_peer *peer; /* NULL: accepted. */
    struct link link;
    struct link_node node; /* Who the other end is, once UP. */
    struct conn conn;
    struct io_connect connect;
    struct timer retry;
    struct list ready;           /* Streams that can send. */
    struct link_frame *incoming; /* The frame whose payload arrives. */
    uint32_t incoming_size;      /* Of its payload, so far. */
    uint32_t unsent;             /* Streams whose OPEN has not left. */
    uint64_t waiting;            /* Bytes of DATA in its streams' queues. */
    uint32_t burst;              /* Bytes that the stream whose turn it is has sent in it. */
    uint64_t heard_ms;           /* When something arrived; before UP: when it began. */
    uint16_t version;            /* That both speak, once UP. */
    uint8_t state;               /* enum wire_state */
    uint8_t lane;                /* enum link_lane */
    uint8_t failures;            /* In a row. */
    uint8_t header_size;
    char header[LINK_HEADER_SIZE]; /* Arrives. */
};

struct link_peer {
    struct list entry; /* In wires->peers. */
    struct net_addr addr;
    uint8_t roles;
    char name[LINK_NODE_NAME_MAX + 1]; /* Expected; "": any. */
    struct link_node node;
    void (*changed)(struct link_peer *p, bool up);
    void *owner;
    struct link_wire lanes[LINK_LANE_COUNT];
};

struct wires {
    struct wires_config config;
    struct heap *heap;
    struct list list, peers;
    struct timer tick;
    uint32_t inbound_count;
    bool stopping;
};

static inline struct wires *wires_self(void)
{
    return link_state()->wires;
}

/* ---- wire.c ---------------------------------------------------------------------------------------------- */

/* Ends the connection, whatever state it is in; a dialled one begins again when it is closed. */
void wire_fail(struct link_wire *w, const char *why);
/* Both have said HELLO. */
void wire_up(struct link_wire *w);

/* ---- wire_hello.c ---------------------------------------------------------------------------------------- */

void wire_hello_write(struct link_wire *w);
/* False: the connection is of no use. */
bool wire_hello_arrived(struct link_wire *w, struct slice in);

/* ---- wire_send.c ----------------------------------------------------------------------------------------- */

/* Gives the connection what it takes now. Streams take turns. */
void wire_pump(struct link_wire *w);
/* The stream may have something that can leave. */
void wire_stream_ready(struct link_stream *s);
/* A frame without payload, ahead of what is queued; nowhere, unless the connection is up. */
void wire_control(struct link_wire *w, const struct link_header *h);

/* ---- wire_receive.c -------------------------------------------------------------------------------------- */

size_t wire_data(struct conn *c, struct slice in); /* conn_ops.data */
/* What has arrived of a frame is forgotten. */
void wire_input_drop(struct link_wire *w);
