/* tests/unit/net/fd_door.h -- a door for tests of connections: one shard on this thread, non-blocking file
 * descriptors for sockets (a pair, or one accepted from a real client), a clock that only the test moves. */
#pragma once
#include "core/io.h"
#include "core/shard.h"

struct door_counts {
    unsigned polls, recvs, recvs_into, sends, quiet_sends, awaited, cancels, closes;
    unsigned loans, loans_max; /* Receive buffers out. */
};
extern struct door_counts door_counts;
extern size_t door_recv_size;      /* Bytes that a receive brings at most. */
extern unsigned door_refuse_recvs; /* So many receives end with -ENOBUFS. */
extern bool door_hold_reads;       /* Polls and receives wait, cancelled or not. */
extern bool door_hold_sends;       /* Sends wait. */

void door_start(void); /* Enters the shard. */
void door_stop(void);  /* Asserts that nothing is in flight. */
/* A connected pair; `peer_out` is the test's, non-blocking. */
struct sock door_pair(int *peer_out);
/* Takes a connected descriptor. */
struct sock door_take(int fd);
/* Turns until nothing happens; then waits up to `wait_ms` of real time for more, until nothing does. */
void door_settle(int wait_ms);
void door_advance(uint32_t ms); /* In steps, with turns between. */
unsigned door_in_flight(void);
