#include "roles/proxy/keep_alive.h"
#include "core/io.h"
#include "core/map.h"
#include "roles/proxy/sleepers_private.h"
#include "roles/words/ledger.h"
#include <sys/socket.h>

#define NEAR 4 /* None within this part of the interval after whatever was written. */

const struct slice keep_alive_text = {"* OK Still here\r\n", 17};

_Static_assert(17 + TLS_RECORD_OVERHEAD_MAX <= IO_WORD_MAX, "it leaves at once");

uint64_t keep_alive_wait_ms(const struct proxy *p, struct slice user, const struct net_addr *peer)
{
    uint64_t interval_ms = MAX(p->limits.idle_keep_alive_ms, 1), near_ms = interval_ms / NEAR;
    uint64_t of_user = map_hash(user, 0);
    size_t ip_size = peer->family == AF_INET6 ? sizeof peer->ip : 4;
    uint64_t phase = map_hash(slice_of((const char *)peer->ip, ip_size), of_user) % interval_ms;

    return near_ms + interval_ms - (time_ms() + near_ms + phase) % interval_ms;
}

/* What he is when `size` bytes more have left, instead of what he was. False: it does not fit, and nothing has changed. */
static bool rewrite(struct sleepers *t, uint32_t id, struct packed *packed, size_t size)
{
    struct sleeper *s = sleeper_at(t, id);
    const struct user *u = sleeper_user(t, s->user);
    char bytes[PACKED_SIZE_MAX];
    size_t packed_size;
    bool fits;

    packed->conn.bytes_out += size;
    packed_size = packed_encode(packed, sleeper_shares(t, u), bytes);
    fits = SLEEPER_HEAD_SIZE + packed_size <= records_room(&t->records, id);
    if (fits) {
        ledger_use(t->ledger, id);
        memcpy(s->packed, bytes, packed_size);
        s->spared = 0; /* It is in what is packed by now. */
        s->due =
            sleeper_due(time_ms() + keep_alive_wait_ms(t->proxy, sleepers_user(t, id), &packed->conn.peer));
    }
    bytes_wipe(bytes, packed_size);
    return fits;
}

/* The number moves on first: no other record is ever sealed with it. */
static bool send_sealed(struct sleepers *t, uint32_t id, struct packed *packed)
{
    uint8_t was[TLS_PACKED_MAX];
    char space[IO_WORD_MAX];
    struct tls_output out = {space, 0, sizeof space};
    uint8_t was_size = packed->conn.tls_size;
    size_t overhead;
    bool sent;

    memcpy(was, packed->conn.tls, was_size);
    packed->conn.tls_size = (uint8_t)tls_packed_next(was, was_size, packed->conn.tls, &overhead);
    sent = packed->conn.tls_size > 0 && rewrite(t, id, packed, keep_alive_text.size + overhead);
    if (sent) {
        tls_packed_seal(was, was_size, keep_alive_text, &out);
        ASSERT(out.data == space && out.size == keep_alive_text.size + overhead);
        io_send_word(packed->conn.sock, slice_of(out.data, out.size));
    }
    bytes_wipe(was, was_size);
    return sent;
}

static bool send_plain(struct sleepers *t, uint32_t id, struct packed *packed)
{
    if (!rewrite(t, id, packed, keep_alive_text.size))
        return false;
    io_send_word(packed->conn.sock, keep_alive_text);
    return true;
}

bool keep_alive_asleep(struct sleepers *t, uint32_t id, struct packed *packed)
{
    struct metrics *m = t->proxy->shard->metrics;
    uint64_t bytes_out = packed->conn.bytes_out;

    if (t->frozen || t->proxy->stopping || packed->conn.history != NULL || sleeper_at(t, id)->fired ||
        !(packed->conn.tls_size > 0 ? send_sealed(t, id, packed) : send_plain(t, id, packed)))
        return false;
    m->keep_alives_asleep++;
    m->bytes_out += packed->conn.bytes_out - bytes_out;
    return true;
}
