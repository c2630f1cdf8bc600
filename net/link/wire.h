/* net/link/wire.h -- links between processes: connections that carry streams (net/link/link.h).
 *
 * Each shard that asks dials a node's address and holds two connections to it, one for small commands and one for bulk
 * (LINK_LANE_*): a stream lives on one of them, with all of its frames. A connection begins with HELLO from both
 * sides. Streams take turns, a frame each; CREDIT, RESET and PING go ahead of what waits. Both sides send PING every
 * second; LINK_SILENCE_MS of silence is its death. Death: every stream whose OPEN had left is lost (UNKNOWN); what was never
 * sent waits for the next connection, LINK_UNSENT_MS at most, and is then lost as REFUSED. The dialling side connects
 * again after a jittered pause.
 *
 * The node that is asked may have the partition on another shard than the one that the connection came to: `shard`
 * says which, and the stream is passed on in memory, once.
 *
 * TLS: both sides show a certificate that cluster.ca has signed, whose subject names node (CN) and roles (OU: one each); what
 * HELLO says must agree. Without cluster.*, plain TCP, between loopback addresses only.
 *
 * Owner:  one shard. Memory: a connection holds one frame that arrives, CONN_BULK_SIZE while much does, and WIRE_QUEUED_MAX bytes that
 *         leave; what waits is bounded by its streams' windows. A frame of more than WIRE_COPY_MAX lies where it was received and holds
 *         that memory, within a quarter of the link's budget (credit_holds()); beyond it frames are copied. */
#pragma once
#include "net/conn.h"
#include "net/link/link.h"

#define LINK_PING_MS      1000
#define LINK_SILENCE_MS   3000 /* Also for a connection to be made, HELLO included. */
#define LINK_UNSENT_MS    4000
#define LINK_RETRY_MIN_MS 50
#define LINK_RETRY_MAX_MS 2000
#define LINK_INBOUND_MAX  4096 /* Connections from other nodes, a shard. */

struct wires_config {
    struct link_node self;
    /* NULL: plain TCP on loopback. The caller's references stay the caller's, until after wires_stop(). */
    struct tls_context *tls_server, *tls_client;
    /* May `from` ask this? False: *why_out goes back, with ELSEWHERE *referral_out too. NULL: anybody may ask anything. */
    bool (*admit)(const struct link_node *from, const struct link_frame *open, enum link_lost *why_out,
                  struct link_referral *referral_out);
    /* Index of the shard that serves it; UINT_MAX: this node does not. */
    unsigned (*shard)(enum link_kind kind, uint16_t route);
};

/* After link_start(), before the first of the others. */
void wires_start(const struct wires_config *config);
/* For connections that begin from now on; the caller may give up his references to those of before. */
void wires_set_tls(struct tls_context *server, struct tls_context *client);
/* Fiber; suspends. What waits to leave gets a second for it; then all connections end. Streams that are still open
 * are lost. Nothing can be opened over a wire any more. */
void wires_stop(void);

/* Takes the socket of a listener. */
void wires_accept(struct sock sock, const struct net_addr *peer);

/* A node that is asked from now on, until wires_stop(). `name`: the certificate or HELLO must say so; empty: any. `roles`: all of these.
 * changed() tells, from the loop, when the connection for small commands is up, and when it is not any more. */
struct link_peer *link_peer_dial(const struct net_addr *addr, struct slice name, uint8_t roles,
                                 void (*changed)(struct link_peer *p, bool up), void *owner);
/* The owner goes before the wires do: changed() is not called any more. */
void link_peer_leave(struct link_peer *p);
void *link_peer_owner(const struct link_peer *p);
bool link_peer_up(const struct link_peer *p);
/* Who answered last; name "" before the first time. */
const struct link_node *link_peer_node(const struct link_peer *p);
const struct net_addr *link_peer_addr(const struct link_peer *p);
