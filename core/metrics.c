#include "core/metrics.h"
#include "core/sanitizer.h"
#include "core/shard.h"
#include "core/writer.h"
#include <stdio.h>

enum kind { COUNTER, GAUGE, SHARD_GAUGE, TIMES, SIZES };

struct family {
    const char *name, *help;
    size_t offset;
    enum kind kind;
    /* NULL: one series. Else one for each of `values`, which follow each other in memory. */
    const char *label;
    const char *const *values;
    size_t count;
};

static const char *const session_states[] = {
#define X(name, label) label,
    METRIC_SESSION_STATES(X)
#undef X
};

static const char *const session_wakes[] = {
#define X(name, label) label,
    METRIC_WAKES(X)
#undef X
};

static const char *const commands[] = {
#define X(name, label) label,
    METRIC_COMMANDS(X)
#undef X
};

#define ONE(name, text, member, kind)                                                                        \
    {                                                                                                        \
        name, text, offsetof(struct metrics, member), kind, NULL, NULL, 1                                    \
    }
#define MANY(name, text, member, kind, label, values)                                                        \
    {                                                                                                        \
        name, text, offsetof(struct metrics, member), kind, label, values, ARRAY_COUNT(values)               \
    }

#define COUNTER_FAMILY(name, help)     ONE(#name "_total", help, name, COUNTER),
#define GAUGE_FAMILY(name, help)       ONE(#name, help, name, GAUGE),
#define SHARD_GAUGE_FAMILY(name, help) ONE(#name, help, name, SHARD_GAUGE),

static const struct family families[] = {
    METRIC_COUNTERS(COUNTER_FAMILY) METRIC_GAUGES(GAUGE_FAMILY) METRIC_SHARD_GAUGES(SHARD_GAUGE_FAMILY)
        MANY("session_states", "Connections of IMAP clients by what they wait for", session_states, GAUGE,
             "state", session_states),
    MANY("session_wakes_total", "Sleeping sessions woken, by what woke them", session_wakes, COUNTER,
         "reason", session_wakes),
    MANY("command_seconds", "From a whole command to its answer, as the proxy sees it", command_time, TIMES,
         "command", commands),
    MANY("backend_command_seconds", "The same on the backend", backend_time, TIMES, "command", commands),
    ONE("login_check_seconds", "From a director's question to its answer", login_check_time, TIMES),
    ONE("commit_batch_records", "Records that one flush made durable", commit_batch_records, SIZES),
    ONE("commit_batch_bytes", "Bytes that one flush made durable", commit_batch_bytes, SIZES),
    ONE("commit_flush_seconds", "Write and flush of one batch", commit_flush_time, TIMES),
};

/* Another thread may be writing: a word is read whole, somewhat old. */
TSAN_RACES static uint64_t read_word(const struct metrics *m, size_t offset)
{
    return __atomic_load_n((const uint64_t *)(const void *)((const char *)m + offset), __ATOMIC_RELAXED);
}

static uint64_t total(const struct node *node, size_t offset)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < node->shard_count; i++) {
        uint64_t word = read_word(node->shards[i]->metrics, offset);

        if (offset == offsetof(struct metrics, fiber_stack_high_water))
            value = MAX(value, word);
        else
            value += word;
    }
    return value;
}

void metrics_sum(const struct node *node, struct metrics *sum_out)
{
    for (size_t offset = 0; offset < sizeof *sum_out; offset += sizeof(uint64_t))
        *(uint64_t *)(void *)((char *)sum_out + offset) = total(node, offset);
}

/* ---- Prometheus' text ---------------------------------------------------------------------------------- */

#define LABELS_MAX 64

/* `{label="value",le="..."}`, or nothing. */
static const char *labels(char text[LABELS_MAX], const char *label, const char *value, const char *le)
{
    if (label == NULL && le == NULL)
        return "";
    snprintf(text, LABELS_MAX, "{%s%s%s%s%s%s%s%s}", label != NULL ? label : "", label != NULL ? "=\"" : "",
             label != NULL ? value : "", label != NULL ? "\"" : "", label != NULL && le != NULL ? "," : "",
             le != NULL ? "le=\"" : "", le != NULL ? le : "", le != NULL ? "\"" : "");
    return text;
}

/* Microseconds as seconds. */
static const char *seconds(char text[32], uint64_t us)
{
    snprintf(text, 32, "%llu.%06llu", (unsigned long long)(us / 1000000), (unsigned long long)(us % 1000000));
    return text;
}

static const char *amount(char text[32], const struct family *f, uint64_t value)
{
    if (f->kind == TIMES)
        return seconds(text, value);
    snprintf(text, 32, "%llu", (unsigned long long)value);
    return text;
}

static void histogram_write(const struct node *node, struct writer *w, const struct family *f, size_t offset,
                            const char *value)
{
    uint64_t count = 0;
    char around[LABELS_MAX], le[32];

    for (unsigned i = 0; i < METRIC_BUCKETS; i++) {
        const char *bound = i + 1 < METRIC_BUCKETS ? amount(le, f, UINT64_C(1) << i) : "+Inf";

        count += total(node, offset + offsetof(struct metric_histogram, buckets) + i * sizeof(uint64_t));
        writer_printf(w, "trireme_%s_bucket%s %llu\n", f->name, labels(around, f->label, value, bound),
                      (unsigned long long)count);
    }
    writer_printf(w, "trireme_%s_sum%s %s\n", f->name, labels(around, f->label, value, NULL),
                  amount(le, f, total(node, offset + offsetof(struct metric_histogram, sum))));
    writer_printf(w, "trireme_%s_count%s %llu\n", f->name, labels(around, f->label, value, NULL),
                  (unsigned long long)count);
}

static void shards_write(const struct node *node, struct writer *w, const struct family *f)
{
    for (unsigned i = 0; i < node->shard_count; i++)
        writer_printf(w, "trireme_%s{shard=\"%u\"} %llu\n", f->name, i,
                      (unsigned long long)read_word(node->shards[i]->metrics, f->offset));
}

static void family_write(const struct node *node, struct writer *w, const struct family *f)
{
    static const char *const types[] = {"counter", "gauge", "gauge", "histogram", "histogram"};
    bool histogram = f->kind == TIMES || f->kind == SIZES;
    char around[LABELS_MAX];

    writer_printf(w, "# HELP trireme_%s %s\n# TYPE trireme_%s %s\n", f->name, f->help, f->name,
                  types[f->kind]);
    if (f->kind == SHARD_GAUGE) {
        shards_write(node, w, f);
        return;
    }
    for (size_t i = 0; i < f->count; i++) {
        const char *value = f->values != NULL ? f->values[i] : NULL;

        if (histogram)
            histogram_write(node, w, f, f->offset + i * sizeof(struct metric_histogram), value);
        else
            writer_printf(w, "trireme_%s%s %llu\n", f->name, labels(around, f->label, value, NULL),
                          (unsigned long long)total(node, f->offset + i * sizeof(uint64_t)));
    }
}

void metrics_write(const struct node *node, struct writer *w)
{
    for (size_t i = 0; i < ARRAY_COUNT(families); i++)
        family_write(node, w, &families[i]);
}
