/* Fibers, queues, turns, messages and the order of a turn, on a door without a world. */
#include "core/fiber.h"
#include "core/metrics.h"
#include "core/sanitizer.h"
#include "tests/unit/core/fake_door.h"
#include <errno.h>
#include <execinfo.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct shard *shard;
static char journal[256]; /* What ran, in order: a letter each. */
static int results[8];

static void note(char c)
{
    size_t size = strlen(journal);

    ASSERT(size + 1 < sizeof journal);
    journal[size] = c;
    journal[size + 1] = '\0';
}

static int setup(void **state)
{
    (void)state;
    fake_now_ns = 5000000000;
    shard = fake_shard_begin();
    journal[0] = '\0';
    memset(results, 0x55, sizeof results);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fake_shard_end(shard);
    return 0;
}

static void start(void (*run)(void *arg), void *arg)
{
    assert_non_null(fiber_start("test", RUN_INTERACTIVE, run, arg));
}

/* ---- Running ------------------------------------------------------------------------------------------- */

static void run_letters(void *arg)
{
    const char *letters = arg;

    assert_non_null(fiber_self());
    for (; *letters != '\0'; letters++) {
        note(*letters);
        assert_int_equal(fiber_yield(), 0);
    }
}

static void test_yield(void **state)
{
    (void)state;
    start(run_letters, "abc");
    start(run_letters, "ABC");
    assert_string_equal(journal, ""); /* Never inside of fiber_start(). */
    assert_int_equal(scheduler_fiber_count(shard), 2);
    fake_run(shard, 100);
    assert_string_equal(journal, "aAbBcC");
    assert_int_equal(scheduler_fiber_count(shard), 0);
    assert_null(fiber_self());
}

static void run_bulk(void *arg)
{
    for (unsigned i = 0; i < 40; i++) {
        note(*(char *)arg);
        if (fiber_work(FIBER_WORK_QUANTUM / 2) < 0)
            return;
    }
}

static void test_bulk_share(void **state)
{
    (void)state;
    assert_non_null(fiber_start("bulk", RUN_BULK, run_bulk, "b"));
    assert_true(scheduler_turn(shard));
    assert_string_equal(journal, "bb"); /* One quantum a turn. */
    start(run_letters, "x");
    assert_true(scheduler_turn(shard));
    assert_string_equal(journal, "bbxbb"); /* The interactive one goes first. */
    fake_run(shard, 100);
}

static void run_deep(void *arg)
{
    volatile char space[1500];
    size_t depth = *(size_t *)arg;

    memset((char *)(uintptr_t)space, 1, sizeof space);
    if (depth > sizeof space) {
        depth -= sizeof space;
        run_deep(&depth);
    }
    note(space[3] == 1 ? 'd' : '?');
}

static void test_stack_high_water(void **state)
{
    size_t depth = 24000;

    (void)state;
    start(run_letters, "");
    fake_run(shard, 10);
    if (SANITIZER_STACK_FACTOR == 1)
        assert_in_range(scheduler_stack_high_water(shard), 64, 4000);
    start(run_deep, &depth);
    fake_run(shard, 10);
    if (SANITIZER_STACK_FACTOR == 1) {
        assert_in_range(shard->metrics->fiber_stack_high_water, 22000, FIBER_STACK_SIZE);
        assert_in_range(scheduler_stack_high_water(shard), 0, 4000); /* The memory was given back. */
    }
}

#if SANITIZER_STACK_FACTOR == 1
static void run_over(void *arg)
{
    size_t depth = SIZE_MAX;

    run_deep(&depth);
}

static void test_overflow_meets_guard(void **state)
{
    int status;
    pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        struct rlimit none = {0, 0};

        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL); /* Not cmocka's. */
        start(run_letters, "");   /* The fibers' neighbour below. */
        start(run_over, NULL);
        fake_run(shard, 10);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSEGV);
}
#endif

static void run_backtrace(void *arg)
{
    void *frames[64];
    int count = backtrace(frames, ARRAY_COUNT(frames));

    note(count > 1 && count < 10 ? 'u' : '?'); /* The unwinder knows where a fiber begins. */
}

static void test_unwinding_ends(void **state)
{
    (void)state;
    start(run_backtrace, NULL);
    fake_run(shard, 10);
    assert_string_equal(journal, "u");
}

static void on_native_stack(void *arg)
{
    char text[256];
    volatile char big[200000]; /* More than any fiber's stack. */

    assert_null(fiber_self());
    assert_ptr_equal(shard_self(), shard);
    big[0] = 1;
    big[sizeof big - 1] = 1;
    snprintf(text, sizeof text, "%f", 1.5 + big[0]);
    *(int *)arg = (int)strlen(text);
}

static void run_core_call(void *arg)
{
    struct fiber *f = fiber_self();

    core_call(on_native_stack, arg);
    assert_ptr_equal(fiber_self(), f);
    note('c');
}

static void test_core_call(void **state)
{
    int length = 0;

    (void)state;
    start(run_core_call, &length);
    fake_run(shard, 10);
    assert_int_equal(length, 8);
    assert_string_equal(journal, "c");
    core_call(on_native_stack, &length); /* Outside of fibers: a plain call. */
}

/* ---- The pool ------------------------------------------------------------------------------------------ */

static unsigned waiters_called;

static void waiter_free(struct fiber_waiter *w)
{
    (void)w;
    waiters_called++;
    start(run_letters, "w");
}

static void run_wait(void *arg)
{
    assert_int_equal(fiber_queue_wait(arg, 0), 7);
}

static void test_pool_is_bounded(void **state)
{
    struct fiber_waiter first = {.free_done = waiter_free}, second = first, never = first;
    struct fiber_queue q;

    (void)state;
    waiters_called = 0;
    fiber_queue_init(&q);
    for (unsigned i = 0; i < FIBER_COUNT_MAX; i++)
        start(run_wait, &q);
    assert_null(fiber_start("one too many", RUN_BULK, run_wait, &q));
    assert_int_equal(shard->metrics->fiber_refused, 1);
    fiber_when_free(&first);
    fiber_when_free(&second);
    fiber_when_free(&never);
    fake_run(shard, 100);
    fiber_when_free_cancel(&never);
    assert_int_equal(waiters_called, 0);
    assert_int_equal(fiber_queue_wake_one(&q, 7), 1);
    fake_run(shard, 100);
    assert_int_equal(waiters_called, 2); /* One after the other, through the same place. */
    assert_string_equal(journal, "ww");
    assert_int_equal(fiber_queue_wake_all(&q, 7), FIBER_COUNT_MAX - 1);
    fake_run(shard, 100);
    assert_int_equal(scheduler_fiber_count(shard), 0);
}

static void test_drop_with_fibers(void **state)
{
    struct shard *other;
    struct fiber_queue q;

    (void)state;
    scheduler_leave();
    other = fake_shard_begin();
    fiber_queue_init(&q);
    for (unsigned i = 0; i < 100; i++)
        start(run_wait, &q);
    fake_run(other, 10);
    assert_non_null(heap_alloc(other->heap, 100000));
    assert_int_equal(scheduler_fiber_count(other), 100);
    fake_shard_end(other); /* Nothing of it is left for the sanitizers to find. */
    scheduler_enter(shard);
}

/* ---- Waiting and cancelling ---------------------------------------------------------------------------- */

struct waiting {
    struct fiber_queue *queue;
    struct fiber *fiber;
    uint32_t timeout_ms;
    int result;
    bool masked;
};

static void run_waiting(void *arg)
{
    struct waiting *w = arg;

    w->fiber = fiber_self();
    if (w->masked)
        fiber_mask();
    w->result = fiber_queue_wait(w->queue, w->timeout_ms);
    if (w->masked) {
        fiber_unmask();
        results[0] = fiber_cancelled();
        results[1] = fiber_yield();
    }
    w->fiber = NULL;
}

static void test_queue_times_out(void **state)
{
    struct fiber_queue q;
    struct waiting a = {.queue = &q, .timeout_ms = 50}, b = {.queue = &q, .timeout_ms = 100},
                   c = {.queue = &q};

    (void)state;
    fiber_queue_init(&q);
    start(run_waiting, &a);
    start(run_waiting, &b);
    start(run_waiting, &c);
    fake_run(shard, 10);
    assert_true(scheduler_next_ms(shard) <= 5050);
    fake_sleep_ms(shard, 49);
    assert_non_null(a.fiber);
    fake_sleep_ms(shard, 1);
    assert_int_equal(a.result, -ETIMEDOUT);
    assert_int_equal(fiber_queue_wake_one(&q, 3), 1);
    fake_run(shard, 10);
    assert_int_equal(b.result, 3);
    assert_non_null(c.fiber);
    fake_sleep_ms(shard, 1000);
    assert_non_null(c.fiber);
    assert_int_equal(fiber_queue_wake_all(&q, 4), 1);
    fake_run(shard, 10);
    assert_int_equal(c.result, 4);
    assert_int_equal(fiber_queue_wake_one(&q, 5), 0);
    assert_int_equal(scheduler_next_ms(shard), UINT64_MAX);
}

static void test_cancel_waiting(void **state)
{
    struct fiber_queue q;
    struct waiting a = {.queue = &q, .timeout_ms = 50}, b = {.queue = &q};

    (void)state;
    fiber_queue_init(&q);
    start(run_waiting, &a);
    start(run_waiting, &b);
    fake_run(shard, 10);
    fiber_cancel(a.fiber);
    assert_int_equal(fiber_queue_wake_one(&q, 1), 1); /* Not lost on the cancelled one. */
    fake_run(shard, 10);
    assert_int_equal(a.result, -ECANCELED);
    assert_int_equal(b.result, 1);
    fake_sleep_ms(shard, 100);
}

static void test_cancel_is_masked(void **state)
{
    struct fiber_queue q;
    struct waiting a = {.queue = &q, .masked = true};

    (void)state;
    fiber_queue_init(&q);
    start(run_waiting, &a);
    fake_run(shard, 10);
    fiber_cancel(a.fiber);
    fake_run(shard, 10);
    assert_non_null(a.fiber); /* Still waits. */
    fiber_queue_wake_one(&q, 9);
    fake_run(shard, 10);
    assert_int_equal(a.result, 9);
    assert_int_equal(results[0], -ECANCELED); /* And hears of it once it is unmasked. */
    assert_int_equal(results[1], -ECANCELED);
}

static struct fiber *sleeper;

static void run_sleep(void *arg)
{
    sleeper = fiber_self();
    *(int *)arg = fiber_sleep_ms(20);
}

static void test_sleep(void **state)
{
    (void)state;
    start(run_sleep, &results[0]);
    fake_run(shard, 10);
    fake_sleep_ms(shard, 19);
    assert_int_equal(results[0], 0x55555555);
    fake_sleep_ms(shard, 1);
    assert_int_equal(results[0], 0);
    start(run_sleep, &results[1]);
    fake_run(shard, 10);
    fiber_cancel(sleeper);
    fiber_cancel(sleeper);
    fake_run(shard, 10);
    assert_int_equal(results[1], -ECANCELED);
    start(run_sleep, &results[2]);
    fiber_cancel(sleeper); /* It was reused, and has not begun: its first suspension ends at once. */
    fake_run(shard, 10);
    assert_int_equal(results[2], -ECANCELED);
}

static void run_suspend(void *arg)
{
    *(struct fiber **)arg = fiber_self();
    results[0] = fiber_suspend();
    results[1] = fiber_suspend();
}

static void test_wake_beats_cancel(void **state)
{
    struct fiber *f;

    (void)state;
    start(run_suspend, &f);
    fake_run(shard, 10);
    fiber_cancel(f);
    fiber_wake(f, 5); /* Came before the cancelled one could run. */
    fake_run(shard, 10);
    assert_int_equal(results[0], 5);
    assert_int_equal(results[1], -ECANCELED);
}

static unsigned operation_cancels;

static void operation_cancel(void *arg)
{
    assert_string_equal(arg, "argument");
    operation_cancels++;
}

static void run_operation(void *arg)
{
    *(struct fiber **)arg = fiber_self();
    results[0] = fiber_suspend_operation(operation_cancel, "argument");
    results[1] = fiber_suspend();
}

static void test_operation_is_waited_for(void **state)
{
    struct fiber *f;

    (void)state;
    operation_cancels = 0;
    start(run_operation, &f);
    fake_run(shard, 10);
    fiber_cancel(f);
    fiber_cancel(f);
    assert_int_equal(operation_cancels, 1);
    fake_run(shard, 10);
    assert_int_equal(results[0], 0x55555555); /* Its buffers are still in use. */
    fiber_wake(f, -ECANCELED);
    fake_run(shard, 10);
    assert_int_equal(results[0], -ECANCELED);
    assert_int_equal(results[1], -ECANCELED);
}

/* ---- Turns --------------------------------------------------------------------------------------------- */

static struct turn turn;
static struct fiber *takers[3];

static void run_turn(void *arg)
{
    unsigned i = *(unsigned *)arg;

    takers[i] = fiber_self();
    results[i] = turn_take(&turn);
    if (results[i] < 0)
        return;
    note((char)('0' + i));
    assert_int_equal(fiber_yield(), 0);
    note((char)('a' + i));
    turn_give(&turn);
}

static void test_turn(void **state)
{
    static unsigned ids[3] = {0, 1, 2};

    (void)state;
    turn_init(&turn);
    for (unsigned i = 0; i < 3; i++)
        start(run_turn, &ids[i]);
    fake_run(shard, 100);
    assert_string_equal(journal, "0a1b2c");
    assert_null(turn.holder);
}

static void run_hold(void *arg)
{
    assert_int_equal(turn_take(&turn), 0);
    assert_int_equal(fiber_queue_wait(arg, 0), 7);
    turn_give(&turn);
}

static void test_turn_cancelled(void **state)
{
    static unsigned ids[3] = {0, 1, 2};
    struct fiber_queue q;

    (void)state;
    turn_init(&turn);
    fiber_queue_init(&q);
    start(run_hold, &q);
    for (unsigned i = 0; i < 2; i++)
        start(run_turn, &ids[i]);
    fake_run(shard, 100);
    fiber_cancel(takers[0]);
    fiber_queue_wake_one(&q, 7);
    fake_run(shard, 100);
    assert_int_equal(results[0], -ECANCELED);
    assert_string_equal(journal, "1b");
    assert_null(turn.holder);
}

/* ---- Messages and timers ------------------------------------------------------------------------------- */

static struct shard_message messages[3];

static void deliver_note(struct shard_message *m)
{
    assert_ptr_equal(m->from, shard);
    assert_null(fiber_self());
    note((char)('0' + (m - messages)));
}

static void deliver_again(struct shard_message *m)
{
    note('>');
    m->deliver = deliver_note;
    shard_send(shard, m);
}

static void test_messages_in_order(void **state)
{
    (void)state;
    messages[0].deliver = messages[2].deliver = deliver_note;
    messages[1].deliver = deliver_again;
    for (unsigned i = 0; i < 3; i++)
        shard_send(shard, &messages[i]);
    assert_string_equal(journal, ""); /* Never inside of shard_send(). */
    assert_false(scheduler_turn(shard));
    assert_string_equal(journal, "0>21");
}

static void fire_note(struct timer *t)
{
    (void)t;
    note('t');
}

static void test_turn_order(void **state)
{
    struct timer t;

    (void)state;
    timer_init(&t, fire_note);
    timer_set(&t, 0);
    messages[0].deliver = deliver_note;
    shard_send(shard, &messages[0]);
    assert_non_null(fiber_start("bulk", RUN_BULK, run_letters, ""));
    start(run_letters, "f");
    fake_run(shard, 10);
    assert_string_equal(journal, "0tf"); /* What is set for now fires behind the messages that are there. */
    timer_set(&t, 10);
    fake_now_ns += 9999999;
    assert_false(scheduler_turn(shard));
    assert_true(timer_armed(&t)); /* Never early. */
    fake_now_ns += 1;
    assert_false(scheduler_turn(shard));
    assert_string_equal(journal, "0tft");
    timer_cancel(&t);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_yield),
        TEST(test_bulk_share),
        TEST(test_stack_high_water),
        TEST(test_unwinding_ends),
#if SANITIZER_STACK_FACTOR == 1
        TEST(test_overflow_meets_guard),
#endif
        TEST(test_core_call),
        TEST(test_pool_is_bounded),
        TEST(test_drop_with_fibers),
        TEST(test_queue_times_out),
        TEST(test_cancel_waiting),
        TEST(test_cancel_is_masked),
        TEST(test_sleep),
        TEST(test_wake_beats_cancel),
        TEST(test_operation_is_waited_for),
        TEST(test_turn),
        TEST(test_turn_cancelled),
        TEST(test_messages_in_order),
        TEST(test_turn_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
