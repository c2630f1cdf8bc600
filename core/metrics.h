/* core/metrics.h -- counters and histograms of one shard: plain words of memory, no locks; a reader sums over
 * the shards. Add a metric by adding a line to the table. */
#pragma once
#include "core/base.h"

#define METRIC_COUNTERS(X)                                                                                   \
    X(loop_turns, "Turns of the event loop")                                                                 \
    X(loop_stalls, "Turns that took longer than 10 ms")                                                      \
    X(fiber_starts, "Fibers started")                                                                        \
    X(fiber_refused, "Fibers not started because the pool was empty")                                        \
    X(fiber_stack_high_water, "Deepest fiber stack seen, bytes")                                             \
    X(accepts, "Connections accepted")                                                                       \
    X(accepts_shed, "Connections refused over a limit or the memory budget")                                 \
    X(bytes_in, "Bytes received from clients")                                                               \
    X(bytes_out, "Bytes sent to clients")                                                                    \
    X(tls_handshakes, "TLS handshakes finished")                                                             \
    X(tls_resumed, "TLS handshakes that resumed a session")                                                  \
    X(tls_failed, "TLS handshakes that failed")                                                              \
    X(logins, "Logins that succeeded")                                                                       \
    X(logins_failed, "Logins refused")                                                                       \
    X(passdb_lookups, "Passwords verified against the passdb, cache missed")                                 \
    X(commands, "IMAP commands finished")                                                                    \
    X(commands_unavailable, "Commands answered NO [UNAVAILABLE]")                                            \
    X(deliveries, "Recipients delivered to by LMTP")                                                         \
    X(deliveries_deferred, "Recipients answered 4xx")                                                        \
    X(sessions_bye_floor, "Sessions ended because their snapshot fell below the tombstone floor")            \
    X(commit_batches, "Batches flushed to a commit stream")                                                  \
    X(commit_records, "Records in those batches")                                                            \
    X(commit_bytes, "Bytes in those batches")                                                                \
    X(checksum_errors, "Records or bodies whose checksum did not match")                                     \
    X(helper_calls, "Calls given to helper threads")                                                         \
    X(log_dropped, "Log lines dropped because the ring was full")

#define METRIC_GAUGES(X)                                                                                     \
    X(sessions, "Sessions logged in")                                                                        \
    X(connections, "Connections open")                                                                       \
    X(fibers, "Fibers in flight")                                                                            \
    X(accounts, "Accounts in memory")                                                                        \
    X(heap_bytes, "Bytes of the shard's heap in use")

struct metrics {
#define X(name, help) uint64_t name;
    METRIC_COUNTERS(X)
    METRIC_GAUGES(X)
#undef X
};

struct node;
struct writer;

/* Over all shards, which go on counting meanwhile: each word is right, together they are of about the same
 * time. */
void metrics_sum(const struct node *node, struct metrics *sum_out);
/* Prometheus' text format, `trireme_NAME[_total]`. */
void metrics_write(const struct node *node, struct writer *w);
