#include "core/metrics.h"
#include "core/shard.h"
#include "core/writer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct metrics metrics[2];
static struct shard shards[2] = {{.index = 0, .metrics = &metrics[0]}, {.index = 1, .metrics = &metrics[1]}};
static struct shard *table[] = {&shards[0], &shards[1]};
static struct node node = {.shards = table, .shard_count = 2};
static char text[256 * 1024];

static void write_all(void)
{
    struct writer w;

    writer_fixed(&w, text, sizeof text - 1);
    metrics_write(&node, &w);
    text[writer_used(&w)] = '\0';
}

static void has(const char *line)
{
    if (strstr(text, line) == NULL)
        fail_msg("missing: %s", line);
}

static void test_buckets(void **state)
{
    static const struct {
        uint64_t value;
        unsigned bucket;
    } cases[] = {{0, 0},           {1, 0},          {2, 1},     {3, 2},         {4, 2},
                 {5, 3},           {1024, 10},      {1025, 11}, {1u << 26, 26}, {(1u << 26) + 1, 27},
                 {1ull << 40, 27}, {UINT64_MAX, 27}};

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct metric_histogram h = {0};

        metric_observe(&h, cases[i].value);
        assert_int_equal(h.buckets[cases[i].bucket], 1);
        assert_true(h.sum == cases[i].value);
    }
}

static void test_text(void **state)
{
    memset(metrics, 0, sizeof metrics);
    metrics[0].logins = 3;
    metrics[1].logins = 4;
    metrics[0].heap_bytes = 10;
    metrics[1].heap_bytes = 20;
    metrics[1].session_states[METRIC_SESSION_IDLE] = 7;
    metric_elapsed(&metrics[0].command_time[METRIC_COMMAND_FETCH], 1000, 3001000); /* 3 ms */
    metric_elapsed(&metrics[1].command_time[METRIC_COMMAND_FETCH], 5, 5);
    metric_observe(&metrics[0].commit_batch_records, 9);
    write_all();
    has("# TYPE trireme_logins_total counter\ntrireme_logins_total 7\n");
    has("trireme_heap_bytes{shard=\"0\"} 10\ntrireme_heap_bytes{shard=\"1\"} 20\n");
    has("trireme_session_states{state=\"idle\"} 7\n");
    has("# TYPE trireme_command_seconds histogram\n");
    has("trireme_command_seconds_bucket{command=\"fetch\",le=\"0.000001\"} 1\n");
    has("trireme_command_seconds_bucket{command=\"fetch\",le=\"0.002048\"} 1\n");
    has("trireme_command_seconds_bucket{command=\"fetch\",le=\"0.004096\"} 2\n");
    has("trireme_command_seconds_bucket{command=\"fetch\",le=\"+Inf\"} 2\n");
    has("trireme_command_seconds_sum{command=\"fetch\"} 0.003000\n");
    has("trireme_command_seconds_count{command=\"fetch\"} 2\n");
    has("trireme_commit_batch_records_bucket{le=\"8\"} 0\n");
    has("trireme_commit_batch_records_bucket{le=\"16\"} 1\n");
    has("trireme_commit_batch_records_sum 9\ntrireme_commit_batch_records_count 1\n");
}

static void test_sum(void **state)
{
    struct metrics sum;

    memset(metrics, 0, sizeof metrics);
    metrics[0].accepts = 1;
    metrics[1].accepts = 2;
    metrics[0].fiber_stack_high_water = 500; /* The highest, not both together. */
    metrics[1].fiber_stack_high_water = 400;
    metrics_sum(&node, &sum);
    assert_int_equal(sum.accepts, 3);
    assert_int_equal(sum.fiber_stack_high_water, 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_sum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
