/* roles/proxy/chest.h -- sessions between two processes: the executable was replaced, and a new one is there to serve them. Who has left
 * a proxy lies in its shard's chest, a packed record beside his open socket; from there he goes on in the other process, or comes back.
 *
 *   old: sleepers --chest_pack()--> chest --batch--> TAKEN came: kept for the case that the other one dies --> ... --> this process ends
 *           ^----chest_unpack()-----+  ^---- chest_take_back(): the other one has died, and had not used them
 *
 *   new: arrivals_receive() has a batch, puts its sessions among the sleepers --TAKEN--> ... --END--> READY, then all shards thaw
 *
 * Whoever has the keys to write uses them alone. The new process is frozen until all are there; from then on it writes into its ledger
 * whom it uses (roles/words/ledger.h), before it does: before it receives, and before it seals. The old one uses nobody any more. When it
 * hears that the new one has died, and only then, it reads the ledger: whoever is not in it has sealed and received nothing since he left
 * here, and is given to the next process as he was. The others have ended: they are counted, and that is all that can be lost on the way.
 * Of a batch that was sent and not answered nobody knows his name in the ledger: if the other one had thawed all the same, it is lost as
 * a whole.
 *
 * Through the pair of sockets, each message begins with a struct of two words, the first of which is MOVING_VERSION: another one is
 * refused by whoever receives it. HELLO, the first, has what records refer to and the keys of TLS tickets behind it and is answered by
 * READY; TAKEN has the names that the ledger has for a batch; SESSIONS has records, with as many sockets:
 *
 *     size u32 | deadline u32, ms from then | size of what is beside it u32 | size of the user's name u8 | name | packed.h | beside it: a history of DEFLATE, a ClientHello
 *
 * Owner:  one shard, of either process; it outlives the shard's proxy.
 * Memory: records lie in blocks of 1 MiB of the shard's secrets, and take the place of those that they were packed from. From the moment that a
 *         batch is taken to the one that the new process serves (upgrade.h) they are in both: some 200 bytes more of a session that costs the
 *         kernel 3,900. So are their sockets, which the peer hears the end of when both have closed them. */
#pragma once
#include "core/shard.h"
#include "roles/proxy/proxy.h"

#define MOVING_VERSION 6

struct ledger;

/* ---- The old process ----------------------------------------------------------------------------------- */

/* Before anybody is packed. p NULL: there is no proxy here, and nobody will come. */
void chest_open(struct shard *s, const struct proxy *p);
/* Fiber. Packs all who sleep; the proxy is frozen. 0; -ENOMEM: some. */
MUST_CHECK int chest_pack(struct proxy *p);
/* From the loop or a fiber. All are the proxy's again. */
void chest_unpack(struct proxy *p);
/* Fiber. Is there somebody at the other end of `fd` who understands? 0 or -errno. */
MUST_CHECK int chest_hello(struct shard *s, int fd);
/* Fiber, after chest_hello(). Hands all over to a process that is frozen; `ledger` is its part, and is there until chest_drop() or the
 * next chest_send(). 0 or -errno. */
MUST_CHECK int chest_send(struct shard *s, int fd, const struct ledger *ledger);
struct chest_count {
    uint64_t here; /* Sessions that nobody else has. */
    uint64_t sent; /* Those that the process at the other end has, or had. */
    uint64_t lost; /* With those before. */
};
struct chest_count chest_count(const struct shard *s);
/* The other process has died: it does not exist any more. Whom it had used has ended, everybody else is here. */
void chest_take_back(struct shard *s);
/* Whoever is left is dropped. Allowed when there is no chest. */
void chest_drop(struct shard *s);

/* ---- The new one --------------------------------------------------------------------------------------- */

/* Fiber, before the proxy's start. 0 or -errno: it is nobody whom this process understands. */
MUST_CHECK int arrivals_hello(struct shard *s, int fd);
/* Keys of tickets that came with it; to the proxy, once. False: none. `rotate_ms_out`: when the newest is old; 0: that is somebody else's
 * business. */
bool arrivals_ticket_keys(struct shard *s, struct tls_ticket_keys *keys_out, uint32_t *rotate_ms_out);
/* What the other process's records refer to: of the proxy's, too, from its start on. False: there is no other. */
bool arrivals_process(struct shard *s, struct packed_process *process_out, uint64_t *next_id_out);
struct arrivals {
    uint64_t count;   /* Sessions that are here now. */
    uint64_t dropped; /* For want of memory. */
    uint64_t lost;    /* As the other side says: by processes before this one. */
};
/* Fiber. Until all are here, asleep and frozen, and p's sleepers write into `ledger` from now on. Then ledger_begin(), and nothing is in
 * the way of a thaw. p NULL: there is no proxy here. 0; or -errno, and whoever came before is here. */
MUST_CHECK int arrivals_receive(struct shard *s, struct proxy *p, int fd, struct ledger *ledger,
                                struct arrivals *arrivals_out);
