/* roles/proxy/moving.h -- sessions that go on in another process: the executable was replaced, and a new one is there to serve them.
 *
 *   old: freeze --at rest: copies, by proxy_move()--> all sent --READY came--> wiped, COMMIT --> the new one's
 *            +---- anything fails before COMMIT: thaw, and nothing has happened
 *
 *   new: arrivals_receive() holds records and sockets, and neither reads nor writes --COMMIT--> arrivals_settle()
 *
 * Frozen, nobody wakes and nobody is accepted; commands that run go on to their end, and what comes meanwhile waits in the kernel. A
 * session is one process's at any time: whoever has the keys to write has them alone (COMMIT).
 *
 * Through the pair of sockets, each message a struct of two words and, in SESSIONS, records with as many sockets:
 *
 *     size u32 | deadline u32, ms from now | size of the history of DEFLATE u32 | size of the user's name u8 | name | packed.h | history
 *
 * The first of these words is MOVING_VERSION: another one is refused by whoever receives it.
 * Owner: one shard's proxy, of either process. */
#pragma once
#include "core/shard.h"
#include "roles/proxy/proxy.h"

#define MOVING_VERSION 2

/* ---- The old process ----------------------------------------------------------------------------------- */

/* Commands, literals and mail that take longer already than a moment: whoever freezes now makes all wait for them. */
unsigned proxy_long_runners(const struct proxy *p);
void proxy_freeze(struct proxy *p);
void proxy_thaw(struct proxy *p);
/* Connections that have not come to rest; those that only close are not counted. Pushes them. */
unsigned proxy_restless(struct proxy *p);
/* Fiber. Copies those who are at rest and were not sent yet. 0 or -errno. */
MUST_CHECK int proxy_move(struct proxy *p, int fd);
/* Fiber. All are sent: waits until the other side has them. 0; -EPIPE and the like: it is gone. */
MUST_CHECK int proxy_move_ready(int fd);
/* Fiber. Ends all sessions here, those that were sent without a word to their clients; then says that they are the other's.
 * p NULL: there is no proxy here. */
void proxy_move_commit(struct proxy *p, int fd, uint64_t *moved, uint64_t *dropped);

/* ---- The new one --------------------------------------------------------------------------------------- */

/* Fiber, before the proxy's start. Waits until all are there and COMMIT has come. 0; or -errno: nobody has come. */
MUST_CHECK int arrivals_receive(struct shard *s, int fd);
/* From the loop or a fiber. They are the proxy's sessions from here on. Their number. */
unsigned arrivals_settle(struct proxy *p);
/* Whoever is left is dropped. Allowed when there are none. */
void arrivals_drop(struct shard *s);
