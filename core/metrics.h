/* core/metrics.h -- counters, gauges and histograms of one shard: plain words of memory, no locks; a reader sums
 * over the shards. Add a metric by adding a line to a table.
 * Times are differences of time_ns(), which is read once a turn of the loop: what begins and ends in one turn
 * took no time. */
#pragma once
#include "core/base.h"

#define METRIC_COUNTERS(X)                                                                                   \
    X(loop_turns, "Turns of the event loop")                                                                 \
    X(loop_stalls, "Turns that took longer than 10 ms")                                                      \
    X(fiber_starts, "Fibers started")                                                                        \
    X(fiber_refused, "Fibers not started because the pool was empty")                                        \
    X(accepts, "Connections accepted")                                                                       \
    X(accepts_shed, "Connections refused over a limit or the memory budget")                                 \
    X(bytes_in, "Bytes received from clients")                                                               \
    X(bytes_out, "Bytes sent to clients")                                                                    \
    X(tls_handshakes, "TLS handshakes finished")                                                             \
    X(tls_resumed, "TLS handshakes that resumed a session")                                                  \
    X(handshakes_cut, "TLS handshakes that gave way to newer ones: limits.handshakes")                       \
    X(tls_failed, "TLS handshakes that failed")                                                              \
    X(begun_cut, "Connections that had begun something before their login and gave way to newer ones")       \
    X(logins, "Logins that succeeded")                                                                       \
    X(logins_failed, "Logins refused")                                                                       \
    X(passdb_lookups, "Passwords verified against the passdb, cache missed")                                 \
    X(commands, "IMAP commands finished")                                                                    \
    X(commands_unavailable, "Commands answered NO [UNAVAILABLE]")                                            \
    X(commands_again, "Requests asked again after their link was lost")                                      \
    X(commands_not_again, "Requests not asked again because the budget of their link was used up")           \
    X(referrals, "Requests refused by a backend that does not serve the user")                               \
    X(referrals_newer, "Times that directors were asked because a backend knew more of the cluster")         \
    X(differences_shared, "Idle sessions given the answer that another one had asked for")                   \
    X(statuses_known, "STATUS answered by the proxy, of accounts that had not moved")                        \
    X(outcomes_unknown, "Changes whose outcome stayed unknown: their connections were closed")               \
    X(deliveries, "Recipients delivered to by LMTP")                                                         \
    X(deliveries_deferred, "Recipients answered 4xx")                                                        \
    X(sessions_bye_floor, "Sessions ended because their snapshot fell below the tombstone floor")            \
    X(commit_batches, "Batches flushed to a commit stream")                                                  \
    X(commit_records, "Records in those batches")                                                            \
    X(commit_bytes, "Bytes in those batches")                                                                \
    X(commit_failures, "Batches that the disk did not take")                                                 \
    X(link_opens, "Streams opened between roles")                                                            \
    X(link_starved, "Times that a stream had used up its credit")                                            \
    X(link_credit_narrowed, "Windows of streams that were halved because the budget was short")              \
    X(proxy_headers, "PROXY headers accepted")                                                               \
    X(proxy_headers_bad, "Connections ended over a PROXY header that was missing or malformed")              \
    X(kicked, "Sessions ended by the operator")                                                              \
    X(keep_alives_asleep, "Keep-alives of sessions that slept on")                                           \
    X(checksum_errors, "Records or bodies whose checksum did not match")                                     \
    X(helper_calls, "Calls given to helper threads")                                                         \
    X(log_dropped, "Log lines dropped because the ring was full")

#define METRIC_GAUGES(X)                                                                                     \
    X(sessions, "Sessions logged in")                                                                        \
    X(connections, "Connections open")                                                                       \
    X(sleeping_bytes, "Bytes of the records of sleeping sessions and of their users")                        \
    X(accounts, "Accounts in memory")                                                                        \
    X(link_streams, "Ends of streams between roles")                                                         \
    X(link_bytes, "Bytes sent on them that the receiver has not released")                                   \
    X(link_credit_starved, "Ends of streams that wait for credit")

/* Told for each shard: a mean over the shards would hide the one that is full. */
#define METRIC_SHARD_GAUGES(X)                                                                               \
    X(fibers, "Fibers in flight")                                                                            \
    X(fiber_stack_high_water, "Deepest fiber stack seen, bytes")                                             \
    X(link_credit_budget_bytes, "Bytes that frames of links and granted windows may take")                   \
    X(link_credit_used_bytes, "Bytes of it in use")                                                          \
    X(link_credit_share_bytes, "What one stream may have of it now")                                         \
    X(heap_bytes, "Bytes of the shard's heap in use")                                                        \
    X(heap_budget_bytes, "Bytes that the shard's heap may use; 0: no limit")                                 \
    X(tls_certificate_expiry, "When the first of the clients' certificates expires, seconds since 1970")

/* What a connection of a client waits for. */
#define METRIC_SESSION_STATES(X)                                                                             \
    X(PROXY_HEADER, "proxy_header")                                                                          \
    X(HANDSHAKE, "handshake")                                                                                \
    X(LOGIN, "login")                                                                                        \
    X(COMMAND, "command")                                                                                    \
    X(RUNNING, "running")                                                                                    \
    X(LITERAL, "literal")                                                                                    \
    X(IDLE, "idle")                                                                                          \
    X(ASLEEP, "asleep")                                                                                      \
    X(CLOSING, "closing")

/* What ends a session's sleep. */
#define METRIC_WAKES(X)                                                                                      \
    X(BYTES, "bytes")                                                                                        \
    X(MAIL, "mail")                                                                                          \
    X(TIMER, "timer")                                                                                        \
    X(TICKET, "ticket")                                                                                      \
    X(OPERATOR, "operator")                                                                                  \
    X(STOP, "stop")

/* Commands that cost about the same. OTHER is 0: what no table names. */
#define METRIC_COMMANDS(X)                                                                                   \
    X(OTHER, "other")                                                                                        \
    X(LOGIN, "login")                                                                                        \
    X(SELECT, "select")                                                                                      \
    X(FETCH, "fetch")                                                                                        \
    X(STORE, "store")                                                                                        \
    X(SEARCH, "search")                                                                                      \
    X(COPY, "copy")                                                                                          \
    X(APPEND, "append")                                                                                      \
    X(DELIVER, "deliver")                                                                                    \
    X(NOOP, "noop")                                                                                          \
    X(SYNC, "sync")

enum metric_session_state {
#define X(name, label) METRIC_SESSION_##name,
    METRIC_SESSION_STATES(X)
#undef X
        METRIC_SESSION_STATE_COUNT
};

enum metric_command {
#define X(name, label) METRIC_COMMAND_##name,
    METRIC_COMMANDS(X)
#undef X
        METRIC_COMMAND_COUNT
};

enum metric_wake {
#define X(name, label) METRIC_WAKE_##name,
    METRIC_WAKES(X)
#undef X
        METRIC_WAKE_COUNT
};

/* Bucket i counts values from 2^(i-1) + 1 to 2^i, the first 0 and 1, the last all that are larger. Times are
 * in microseconds: up to 67 s. */
#define METRIC_BUCKETS 28

struct metric_histogram {
    uint64_t sum;
    uint64_t buckets[METRIC_BUCKETS];
};

static inline void metric_observe(struct metric_histogram *h, uint64_t value)
{
    unsigned i = value <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(value - 1);

    h->sum += value;
    h->buckets[MIN(i, METRIC_BUCKETS - 1)]++;
}

/* Both from time_ns(). */
static inline void metric_elapsed(struct metric_histogram *h, uint64_t since_ns, uint64_t now_ns)
{
    metric_observe(h, (now_ns - since_ns) / 1000);
}

struct metrics { /* Words alone. */
#define X(name, help) uint64_t name;
    METRIC_COUNTERS(X)
    METRIC_GAUGES(X)
    METRIC_SHARD_GAUGES(X)
#undef X
    uint64_t session_states[METRIC_SESSION_STATE_COUNT];
    uint64_t session_wakes[METRIC_WAKE_COUNT];
    struct metric_histogram command_time[METRIC_COMMAND_COUNT]; /* As the proxy's clients see it. */
    struct metric_histogram backend_time[METRIC_COMMAND_COUNT]; /* Of it, what the backend took. */
    struct metric_histogram login_check_time;                   /* Of it, what the director took. */
    struct metric_histogram commit_batch_records, commit_batch_bytes, commit_flush_time;
};

struct node;
struct writer;

/* Over all shards, which go on counting meanwhile: each word is right, together they are of about the same
 * time. A high-water mark is the highest. */
void metrics_sum(const struct node *node, struct metrics *sum_out);
/* Prometheus' text format 0.0.4: `trireme_NAME`, counters with `_total`, times in seconds. */
void metrics_write(const struct node *node, struct writer *w);
