/* The wheel against a model: a plain array that is searched. */
#include "core/timer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define MODEL_COUNT 500

struct modelled {
    struct timer timer;
    uint64_t due_ms; /* UINT64_MAX: not set. */
    unsigned fired;
};

static struct timer_wheel wheel;
static struct modelled timers[MODEL_COUNT];
static uint64_t last_due_ms;
static uint64_t random_state;

static uint64_t next_random(uint64_t below)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (random_state >> 33) % below;
}

static void model_fire(struct timer *t)
{
    struct modelled *m = CONTAINER_OF(t, struct modelled, timer);

    assert_false(timer_armed(t));
    assert_true(m->due_ms <= wheel.now_ms); /* Not early. */
    assert_true(m->due_ms >= last_due_ms);  /* In order, within one advance. */
    last_due_ms = m->due_ms;
    m->due_ms = UINT64_MAX;
    m->fired++;
}

static uint64_t model_next(void)
{
    uint64_t next = UINT64_MAX;

    for (unsigned i = 0; i < MODEL_COUNT; i++)
        next = MIN(next, timers[i].due_ms);
    return next;
}

static uint64_t random_delay(void)
{
    static const uint64_t spans[] = {2, 64, 65, 4096, 5000, 300000, 20000000, UINT32_MAX};

    return next_random(spans[next_random(ARRAY_COUNT(spans))]);
}

static void model_set(struct modelled *m)
{
    m->due_ms = wheel.now_ms + random_delay();
    wheel_set(&wheel, &m->timer, m->due_ms);
}

static void model_step(void)
{
    struct modelled *m = &timers[next_random(MODEL_COUNT)];
    uint64_t to_ms;

    switch (next_random(4)) {
    case 0:
    case 1:
        model_set(m);
        return;
    case 2:
        m->due_ms = UINT64_MAX;
        wheel_cancel(&wheel, &m->timer);
        return;
    default:
        to_ms = wheel.now_ms + random_delay() / (1 + next_random(50));
        last_due_ms = 0;
        wheel_advance(&wheel, to_ms);
        assert_int_equal(wheel.now_ms, to_ms);
        for (unsigned i = 0; i < MODEL_COUNT; i++) /* Nothing late. */
            assert_true(timers[i].due_ms > to_ms);
        return;
    }
}

static void test_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        random_state = seed;
        wheel_init(&wheel);
        wheel_advance(&wheel, next_random(1ull << 30) * seed);
        for (unsigned i = 0; i < MODEL_COUNT; i++) {
            timer_init(&timers[i].timer, model_fire);
            timers[i].due_ms = UINT64_MAX;
        }
        for (unsigned step = 0; step < 3000; step++) {
            uint64_t next = model_next();

            assert_true(wheel_next_ms(&wheel) <= MAX(next, wheel.now_ms));
            assert_int_equal(wheel_next_ms(&wheel) == UINT64_MAX, next == UINT64_MAX);
            for (unsigned i = 0; i < 20; i++)
                assert_int_equal(timer_armed(&timers[i].timer), timers[i].due_ms != UINT64_MAX);
            model_step();
        }
    }
}

/* Whoever only sleeps until wheel_next_ms() makes few turns, and is never late. */
static void test_wakes(void **state)
{
    unsigned wakes = 0;

    (void)state;
    wheel_init(&wheel);
    wheel_advance(&wheel, 123456789);
    timer_init(&timers[0].timer, model_fire);
    timers[0].due_ms = wheel.now_ms + 1800000;
    timers[0].fired = 0;
    last_due_ms = 0;
    wheel_set(&wheel, &timers[0].timer, timers[0].due_ms);
    while (wheel_next_ms(&wheel) != UINT64_MAX) {
        wheel_advance(&wheel, wheel_next_ms(&wheel));
        wakes++;
    }
    assert_int_equal(timers[0].fired, 1);
    assert_true(wakes <= WHEEL_LEVELS);
}

static unsigned again_count;

static void fire_again(struct timer *t)
{
    again_count++;
    wheel_set(&wheel, t, wheel.now_ms); /* Now: at the next advance, not for ever in this one. */
}

static void test_set_while_firing(void **state)
{
    struct timer t;

    (void)state;
    wheel_init(&wheel);
    timer_init(&t, fire_again);
    wheel_set(&wheel, &t, 0);
    again_count = 0;
    for (unsigned i = 1; i <= 5; i++) {
        assert_int_equal(wheel_next_ms(&wheel), wheel.now_ms);
        wheel_advance(&wheel, i / 2);
        assert_int_equal(again_count, i);
    }
    wheel_cancel(&wheel, &t);
    assert_false(timer_armed(&t));
    assert_int_equal(wheel_next_ms(&wheel), UINT64_MAX);
}

static struct timer *victim;

static void fire_kill(struct timer *t)
{
    (void)t;
    again_count++;
    wheel_cancel(&wheel, victim);
}

static void test_cancel_while_firing(void **state)
{
    struct timer a, b, c;

    (void)state;
    wheel_init(&wheel);
    timer_init(&a, fire_kill);
    timer_init(&b, fire_kill);
    timer_init(&c, fire_kill);
    victim = &b;
    again_count = 0;
    wheel_set(&wheel, &a, 5);
    wheel_set(&wheel, &b, 5);
    wheel_set(&wheel, &c, 5);
    wheel_advance(&wheel, 100);
    assert_int_equal(again_count, 2);
    assert_false(timer_armed(&b));
}

static unsigned many_fired;

static void many_fire(struct timer *t)
{
    (void)t;
    many_fired++;
}

/* A million timers over half an hour, every second one cancelled: each operation stays cheap. */
static void test_many(void **state)
{
    const unsigned count = 1000000;
    struct timer *many = calloc(count, sizeof *many);
    clock_t begin = clock();

    (void)state;
    assert_non_null(many);
    wheel_init(&wheel);
    wheel_advance(&wheel, 1000000);
    random_state = 7;
    many_fired = 0;
    for (unsigned i = 0; i < count; i++) {
        timer_init(&many[i], many_fire);
        wheel_set(&wheel, &many[i], wheel.now_ms + 1 + next_random(1800000));
    }
    for (unsigned i = 0; i < count; i += 2)
        wheel_cancel(&wheel, &many[i]);
    while (wheel_next_ms(&wheel) != UINT64_MAX)
        wheel_advance(&wheel, wheel_next_ms(&wheel));
    assert_int_equal(many_fired, count / 2);
    print_message("%u timers: %.0f ns each\n", count,
                  (double)(clock() - begin) / CLOCKS_PER_SEC * 1e9 / count);
    free(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_wakes),
        cmocka_unit_test(test_set_while_firing),
        cmocka_unit_test(test_cancel_while_firing),
        cmocka_unit_test(test_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
