/* core/sim/net_private.h -- what the parts of the simulated network share.
 *
 * A connection is two ends; each end has a pipe of bytes that come in: a bounded window of bytes that were
 * sent, of which some have arrived. Bytes travel as segments, cut anywhere, each with a time of arrival,
 * never out of order. A segment that cannot be delivered (cut link, host without power, black hole) stalls
 * its pipe until links change or the sender gives up. An end whose socket is gone answers bytes by a reset.
 *
 * There may be millions of connections, most of them quiet: a pipe is there while anything is on its way, unread,
 * or about to open the window, and a watch that found nothing to tell is two words in its socket.
 *
 * net.c lives and faults of the whole, net_connection.c connections from connect to close, net_pipe.c bytes on their way,
 * net_op.c sockets and operations of a shard, net_transfer.c the door's calls on a connection. */
#pragma once
#include "core/sim/world.h"

#define SEGMENTS_MAX 16
#define WINDOW_MAX   (64 * 1024)
#define JITTER_NS    (5 * SIM_US)

enum segment_kind { SEGMENT_DATA, SEGMENT_FIN, SEGMENT_RESET };

struct segment {
    uint64_t at_ns;
    uint32_t size;
    enum segment_kind kind;
};

struct pipe { /* Bytes on their way to an end. */
    struct end *to;
    char *bytes; /* A ring of `capacity`; NULL while empty. */
    size_t capacity, start, size, arrived;
    struct segment segments[SEGMENTS_MAX];
    unsigned segment_first, segment_count;
    uint64_t last_ns;
    struct sim_event arrive, give_up, room;
    bool stalled;
};

struct end {
    struct shard_private *p; /* NULL: no shard has it yet, or no more. */
    struct sim_socket *socket;
    struct pipe *in; /* NULL: nothing is. */
    uint32_t window; /* Bytes that may be in it. */
    int error;
    uint8_t node;      /* Its id. */
    bool accepted : 1; /* ends[1] */
    bool gone : 1;     /* Closed, or its process is dead. */
    bool fin_sent : 1; /* Nothing more will be sent. */
    bool fin_arrived : 1, shut : 1;
};

struct connection {
    struct list link;
    uint64_t number;
    struct end ends[2];      /* Who connected, who accepted. */
    struct net_addr address; /* Of who connected. */
    bool black_hole;
    uint32_t segment_max;     /* Of the first bytes; a seed may cut them small. */
    struct listener *waiting; /* In its backlog. */
    struct list backlog_link;
};

struct listener {
    struct list link;
    struct shard_private *p;
    struct net_addr address;
    struct list backlog, accepts;
    unsigned backlog_count;
    bool shut;
};

enum op_kind { OP_POLL, OP_RECV, OP_SEND, OP_SOCKET_KINDS, OP_ACCEPT = OP_SOCKET_KINDS, OP_CONNECT };

struct sim_op {
    struct sim_done done;
    struct sim_event event;
    struct list link; /* Free list, or the listener's accepts. */
    struct io_op *op; /* NULL: free, or a watch. */
    struct shard_private *p;
    struct sim_socket *socket;
    uint32_t index;
    enum op_kind kind;
    int result;
    bool completed;
    bool quiet;                 /* OP_SEND: all of it makes no turn. */
    const struct iovec *vector; /* OP_SEND: what is left. */
    unsigned count;
    size_t skip, total;
    char *space;    /* OP_RECV of io_recv_into(): `total` bytes. */
    unsigned tries; /* OP_CONNECT */
    struct connection *connection;
};

struct sim_socket {
    union {
        struct end *end; /* NULL: not any more. */
        struct listener *listener;
    };
    struct sim_op *ops[OP_SOCKET_KINDS]; /* In flight. */
    uint32_t cookie;                     /* Of the watch. */
    uint16_t generation;
    bool used : 1, listens : 1;
    bool watched : 1; /* By io_watch(): ops[OP_POLL], if there is one, has no owner. */
};

static inline struct connection *end_connection(struct end *e)
{
    return CONTAINER_OF(e - e->accepted, struct connection, ends[0]);
}

static inline struct end *end_peer(struct end *e)
{
    return &end_connection(e)->ends[!e->accepted];
}

static inline struct sim_node *end_node(const struct end *e)
{
    return sim_world_current()->nodes[e->node];
}

/* ---- net_op.c ------------------------------------------------------------------------------------------ */

struct sim_socket *sim_socket_of(struct shard_private *p, struct sock s);
struct sock sim_sock_of(struct shard_private *p, const struct sim_socket *socket);
/* NULL: none is left. */
struct sim_socket *sim_socket_take(struct shard_private *p);
void sim_socket_give(struct shard_private *p, struct sim_socket *s);
void sim_op_free(struct sim_op *o);
void sim_op_complete(struct sim_op *o, int result);
void sim_op_bind(struct sim_op *o, struct io_op *op);
/* `op` NULL: a watch. */
struct sim_op *sim_op_new(struct shard_private *p, struct io_op *op, enum op_kind kind,
                          struct sim_socket *socket);
/* Looks at it soon: never inside of the call that submits it. */
void sim_op_look(struct sim_op *o);
/* Looks at all that waits for the end. */
void sim_socket_look(struct end *e);

/* ---- net_pipe.c ---------------------------------------------------------------------------------------- */

uint64_t sim_delay_to(struct end *e);
/* Made when it is not there. */
struct pipe *sim_pipe_of(struct end *to);
void sim_pipe_copy_in(struct pipe *p, const char *data, size_t size);
void sim_pipe_copy_out(struct pipe *p, char *data, size_t size);
/* A quiet connection holds no buffer. */
void sim_pipe_shrink(struct pipe *p);
void sim_pipe_clear(struct pipe *p);
/* What has not arrived never will. */
void sim_pipe_forget(struct pipe *p);
void sim_pipe_segment(struct pipe *p, enum segment_kind kind, size_t size);
/* Cuts what is sent where the seed says. */
void sim_pipe_segments(struct pipe *p, size_t size);
/* Ends the connection for the one who sends into `p`, without a word to the other. */
void sim_end_fail(struct end *e, int error);
void sim_end_send_reset(struct end *e);
void sim_pipe_unstall(struct pipe *p);

/* ---- net_connection.c ---------------------------------------------------------------------------------- */

void sim_connection_free(struct connection *c);
/* What close(2) does with what is on its way. */
void sim_end_close(struct end *e, bool silent);
/* A connect that was given up: the other side may have it in its backlog. */
void sim_connection_release(struct connection *c);
/* Completes what can complete: the accepts that wait; one operation. */
void sim_listener_look(struct listener *l);
void sim_accept_look(struct sim_op *o);
void sim_listener_free(struct listener *l, bool silent);
void sim_connect_look(struct sim_op *o);

/* ---- net_transfer.c ------------------------------------------------------------------------------------ */

/* Each completes the operation, if there is something to complete it with. */
void sim_poll_look(struct sim_op *o);
void sim_recv_look(struct sim_op *o);
void sim_send_look(struct sim_op *o);
