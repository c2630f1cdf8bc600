/* Lines as they come out of standard error: format, escapes, bounds, and a reader that does not read. */
#include "core/log.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static int real_stderr, read_end;
static char got[8 << 20];
static size_t got_size;

static int redirect(void **state)
{
    int ends[2];

    real_stderr = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    read_end = ends[0];
    fcntl(read_end, F_SETFL, O_NONBLOCK);
    got_size = 0;
    log_set_json(false);
    log_set_level(LOG_INFO);
    return 0;
}

static int restore(void **state)
{
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    close(read_end);
    return 0;
}

static const char *take(void)
{
    ssize_t n;

    got_size = 0;
    while ((n = read(read_end, got + got_size, sizeof got - 1 - got_size)) > 0)
        got_size += (size_t)n;
    got[got_size] = '\0';
    return got;
}

/* Without the time, which is different every time: "2026-01-31T12:59:59.123Z ". */
static const char *take_line(void)
{
    const char *line = take();

    assert_true(strlen(line) > 25);
    assert_int_equal(line[4], '-');
    assert_int_equal(line[10], 'T');
    assert_int_equal(line[23], 'Z');
    return line + 25;
}

static void test_text(void **state)
{
    log_event(LOG_INFO, "delivered", "user=%s size=%d", log_quote(SLICE("demo")), 42);
    assert_string_equal(take_line(), "info delivered user=demo size=42\n");
    log_event(LOG_ERROR, "bad end", "%s", "");
    assert_string_equal(take_line(), "error bad end\n");
    log_event(LOG_DEBUG, "hidden", "a=%d", 1);
    assert_string_equal(take(), "");
    log_set_level(LOG_DEBUG);
    log_event(LOG_DEBUG, "shown", "a=%d", 1);
    assert_string_equal(take_line(), "debug shown a=1\n");
}

static void test_json(void **state)
{
    const char *line;

    log_set_json(true);
    log_event(LOG_WARN, "slow", "user=%s n=%d said=%s", log_quote(SLICE("demo")), 3,
              log_quote(SLICE("x \"y\" \\ \r\n\xff")));
    line = take();
    assert_memory_equal(line, "{\"time\":\"", 9);
    assert_non_null(strstr(line,
                           "\",\"level\":\"warn\",\"event\":\"slow\",\"user\":\"demo\",\"n\":\"3\",\"said\":"
                           "\"x \\\"y\\\" \\\\ \\u000d\\u000a\\\\xff\"}\n"));
}

static void test_error(void **state)
{
    assert_string_equal(log_error(-ENOSPC), "\"No space left on device\"");
    assert_string_equal(log_error(-99999), "\"unknown error\"");
    log_set_json(true);
    log_event(LOG_WARN, "full", "error=%s size=%d", log_error(-ENOSPC), 1);
    assert_non_null(strstr(take(), "\"error\":\"No space left on device\",\"size\":\"1\"}\n"));
}

static void quoted(struct slice s, const char *expected)
{
    assert_string_equal(log_quote(s), expected);
}

static void test_quote(void **state)
{
    char big[1000];
    const char *q;

    quoted(SLICE("plain.text@x"), "plain.text@x");
    quoted(SLICE(""), "\"\"");
    quoted(SLICE("a b"), "\"a b\"");
    quoted(SLICE("a=b"), "\"a=b\"");
    quoted(SLICE("a\r\nb"), "\"a\\u000d\\u000ab\"");
    quoted(SLICE("\x1b[31m"), "\"\\u001b[31m\"");
    quoted(SLICE("a\0b"), "\"a\\u0000b\"");
    quoted(SLICE("\xc3\xb6"), "\"\xc3\xb6\"");
    quoted(SLICE("\xe2\x80\xa8"), "\"\\u2028\"");
    quoted(SLICE("\xe2\x80\xae"), "\"\\u202e\"");
    quoted(SLICE("\xc2\x85"), "\"\\u0085\"");
    quoted(SLICE("\xc0\x80"), "\"\\\\xc0\\\\x80\"");
    quoted(SLICE("\xed\xa0\x80"), "\"\\\\xed\\\\xa0\\\\x80\"");
    quoted(SLICE("\xe2\x80"), "\"\\\\xe2\\\\x80\"");
    memset(big, 'a', sizeof big);
    q = log_quote(slice_of(big, sizeof big));
    assert_int_equal(strlen(q), 256 + 5);
    assert_string_equal(q + 256, "a...\"");
    memset(big, '\xff', sizeof big);
    assert_true(strlen(log_quote(slice_of(big, sizeof big))) < 1600);
    for (size_t i = 0; i + 1 < sizeof big; i += 2)
        memcpy(big + i, "\xc3\xb6", 2);
    assert_null(
        strstr(log_quote(slice_of(big + 1, sizeof big - 2)), "\\xc3")); /* Not cut inside a character. */
}

/* One event is one line of at most 4 KiB, whatever is in it. */
static void test_one_line(void **state)
{
    char big[10000];

    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    for (int json = 0; json < 2; json++) {
        log_set_json(json);
        log_event(LOG_INFO, "large", "a=%s", big);
        take();
        assert_true(got_size <= 4096);
        assert_ptr_equal(strchr(got, '\n'), got + got_size - 1);
        log_event(LOG_INFO, "raw", "a=%s b=\"c", "x\ny\x1bz");
        take();
        assert_ptr_equal(strchr(got, '\n'), got + got_size - 1);
        assert_null(strchr(got, '\x1b'));
    }
}

static void test_level_words(void **state)
{
    enum log_level level;

    assert_true(log_level_parse(SLICE("warn"), &level) && level == LOG_WARN);
    assert_false(log_level_parse(SLICE("WARN"), &level));
    assert_false(log_level_parse(SLICE(""), &level));
}

static void *write_many(void *arg)
{
    for (int i = 0; i < 1000; i++)
        log_event(LOG_INFO, "line", "thread=%s n=%d", (const char *)arg, i);
    return NULL;
}

static unsigned lines(void)
{
    unsigned count = 0;

    for (size_t i = 0; i < got_size; i++)
        count += got[i] == '\n';
    return count;
}

static void *read_all(void *arg)
{
    const struct timespec pause = {0, 1000000};
    size_t size = 0;

    for (int idle = 0; idle < 300; idle++) {
        ssize_t n = read(read_end, got + size, sizeof got - size);

        if (n > 0) {
            size += (size_t)n;
            idle = 0;
        }
        nanosleep(&pause, NULL);
    }
    got_size = size;
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t writers[3], reader;

    assert_int_equal(log_start(), 0);
    assert_int_equal(pthread_create(&reader, NULL, read_all, NULL), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&writers[i], NULL, write_many, i == 0 ? "a" : i == 1 ? "b" : "c"), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(writers[i], NULL);
    log_stop();
    pthread_join(reader, NULL);
    assert_int_equal(lines(), 3000);
}

/* Nobody reads: lines are dropped, the writer is not held up, the end comes soon. */
static void test_reader_is_stuck(void **state)
{
    struct timespec from, to;

    clock_gettime(CLOCK_MONOTONIC, &from);
    assert_int_equal(log_start(), 0);
    for (int i = 0; i < 50000; i++)
        log_event(LOG_INFO, "line", "n=%d", i);
    log_stop();
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_true(to.tv_sec - from.tv_sec < 8);
    take();
    assert_true(got_size >= 4096 && got_size < (1 << 20));
}

/* Without the draining thread, as a supervisor. */
static void test_nobody_reads(void **state)
{
    char page[4096] = {0};
    struct timespec from, to;

    fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK);
    while (write(STDERR_FILENO, page, sizeof page) > 0)
        ;
    fcntl(STDERR_FILENO, F_SETFL, 0);
    clock_gettime(CLOCK_MONOTONIC, &from);
    log_event(LOG_INFO, "line", "n=%d", 1);
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_true(to.tv_sec - from.tv_sec < 8);
    assert_null(strstr(take(), "line"));
    log_event(LOG_INFO, "line", "n=%d", 2);
    assert_string_equal(take_line(), "info line n=2\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_text, redirect, restore),
        cmocka_unit_test_setup_teardown(test_json, redirect, restore),
        cmocka_unit_test_setup_teardown(test_error, redirect, restore),
        cmocka_unit_test_setup_teardown(test_quote, redirect, restore),
        cmocka_unit_test_setup_teardown(test_one_line, redirect, restore),
        cmocka_unit_test(test_level_words),
        cmocka_unit_test_setup_teardown(test_threads, redirect, restore),
        cmocka_unit_test_setup_teardown(test_reader_is_stuck, redirect, restore),
        cmocka_unit_test_setup_teardown(test_nobody_reads, redirect, restore),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
