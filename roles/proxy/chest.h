/* roles/proxy/chest.h -- sessions between two processes: the executable was replaced, and a new one is there to serve them. Who has left a
 * proxy lies in its shard's chest, a packed record beside his open socket; from there he goes on in the other process, or comes back.
 *
 *   old: sleepers --chest_pack()--> chest --batch--> ... --READY came--> wiped, COMMIT --> the new one's
 *           ^----chest_unpack()-----+ no successor        +---- the other one is gone before READY: he stays here
 *
 *   new: arrivals_receive() has a batch, neither reads nor writes --READY--> ... --COMMIT--> sleepers
 *
 * A session is one process's at any time: whoever has the keys to write has them alone. Of a batch that was wiped and whose COMMIT did
 * not arrive nobody has them any more, and its sessions have ended; that is all that can be lost on the way, one batch a shard.
 *
 * Through the pair of sockets, each message begins with a struct of two words, the first of which is MOVING_VERSION: another one is refused
 * by whoever receives it. HELLO, the first, has what records refer to and the keys of TLS tickets behind it and is answered by READY; SESSIONS has records, with as many sockets:
 *
 *     size u32 | deadline u32, ms from then | size of the history of DEFLATE u32 | size of the user's name u8 | name | packed.h | history
 *
 * Owner:  one shard, of either process; it outlives the shard's proxy.
 * Memory: records lie in blocks of 1 MiB of the shard's secrets, and take the place of those that they were packed from: sessions are in memory
 *         once, in one process or the other. */
#pragma once
#include "core/shard.h"
#include "roles/proxy/proxy.h"

#define MOVING_VERSION 3

/* ---- The old process ----------------------------------------------------------------------------------- */

/* Before anybody is packed. p NULL: there is no proxy here, and nobody will come. */
void chest_open(struct shard *s, const struct proxy *p);
/* Fiber. Packs all who sleep; the proxy is frozen. 0; -ENOMEM: some. */
MUST_CHECK int chest_pack(struct proxy *p);
/* From the loop or a fiber. All are the proxy's again. */
void chest_unpack(struct proxy *p);
/* Fiber. Is there somebody at the other end of `fd` who understands? 0 or -errno. */
MUST_CHECK int chest_hello(struct shard *s, int fd);
/* Fiber, after chest_hello(). Hands all over. 0; or -errno, and those who are left stay. */
MUST_CHECK int chest_send(struct shard *s, int fd);
struct chest_count {
    uint64_t here; /* Sessions. */
    uint64_t sent; /* To the process that is at the other end, or was. */
    uint64_t lost; /* To those before. */
};
struct chest_count chest_count(const struct shard *s);
/* The other process has died, and whom it had with it. */
void chest_sent_are_lost(struct shard *s);
/* Whoever is left is dropped. Allowed when there is no chest. */
void chest_drop(struct shard *s);

/* ---- The new one --------------------------------------------------------------------------------------- */

/* Fiber, before the proxy's start. 0 or -errno: it is nobody whom this process understands. */
MUST_CHECK int arrivals_hello(struct shard *s, int fd);
/* Keys of tickets that came with it; to the proxy, once. False: none. `rotate_ms_out`: when the newest is old; 0: that is somebody else's business. */
bool arrivals_ticket_keys(struct shard *s, struct tls_ticket_keys *keys_out, uint32_t *rotate_ms_out);
/* What the other process's records refer to: of the proxy's, too, from its start on. False: there is no other. */
bool arrivals_process(struct shard *s, struct packed_process *process_out, uint64_t *next_id_out);
struct arrivals {
    uint64_t count;   /* Sessions that are here now. */
    uint64_t dropped; /* For want of memory. */
    uint64_t lost;    /* As the other side says: by processes before this one. */
};
/* Fiber. Until all are here. p NULL: there is no proxy here. 0; or -errno, and whoever came before is served. */
MUST_CHECK int arrivals_receive(struct shard *s, struct proxy *p, int fd, struct arrivals *arrivals_out);
