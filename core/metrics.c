#include "core/metrics.h"
#include "core/shard.h"
#include "core/writer.h"

enum kind { COUNTER, GAUGE, MAXIMUM };

struct description {
    const char *name, *help;
    size_t offset;
    enum kind kind;
};

static const struct description descriptions[] = {
#define X(name, help) {#name, help, offsetof(struct metrics, name), COUNTER},
    METRIC_COUNTERS(X)
#undef X
#define X(name, help) {#name, help, offsetof(struct metrics, name), GAUGE},
        METRIC_GAUGES(X)
#undef X
};

/* A high-water mark is not a sum, and says so here rather than in every place that raises it. */
static enum kind kind_of(const struct description *d)
{
    return d->offset == offsetof(struct metrics, fiber_stack_high_water) ? MAXIMUM : d->kind;
}

/* Another thread may be writing: a word is read whole, somewhat old. */
static uint64_t read_word(const struct metrics *m, size_t offset)
{
    return __atomic_load_n((const uint64_t *)(const void *)((const char *)m + offset), __ATOMIC_RELAXED);
}

static uint64_t total(const struct node *node, const struct description *d)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < node->shard_count; i++) {
        uint64_t word = read_word(node->shards[i]->metrics, d->offset);

        value = kind_of(d) == MAXIMUM ? MAX(value, word) : value + word;
    }
    return value;
}

void metrics_sum(const struct node *node, struct metrics *sum_out)
{
    for (size_t i = 0; i < ARRAY_COUNT(descriptions); i++)
        *(uint64_t *)(void *)((char *)sum_out + descriptions[i].offset) = total(node, &descriptions[i]);
}

void metrics_write(const struct node *node, struct writer *w)
{
    for (size_t i = 0; i < ARRAY_COUNT(descriptions); i++) {
        const struct description *d = &descriptions[i];
        bool counter = kind_of(d) == COUNTER;

        writer_printf(w, "# HELP trireme_%s%s %s\n# TYPE trireme_%s%s %s\ntrireme_%s%s %llu\n", d->name,
                      counter ? "_total" : "", d->help, d->name, counter ? "_total" : "",
                      counter ? "counter" : "gauge", d->name, counter ? "_total" : "",
                      (unsigned long long)total(node, d));
    }
}
