/* Where a ClientHello ends, however it is cut into records. */
#include "net/tls.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define MESSAGE_SIZE 700

/* The message in records of `part` bytes. Returns the size of it all. */
static size_t make(char *out, unsigned part)
{
    static char message[MESSAGE_SIZE] = {1, 0, (MESSAGE_SIZE - 4) >> 8, (char)((MESSAGE_SIZE - 4) & 0xff)};
    size_t size = 0;

    for (unsigned at = 0; at < MESSAGE_SIZE; at += part) {
        unsigned count = MIN(part, MESSAGE_SIZE - at);
        char header[5] = {22, 3, 1, (char)(count >> 8), (char)count};

        memcpy(out + size, header, sizeof header);
        memcpy(out + size + sizeof header, message + at, count);
        size += sizeof header + count;
    }
    return size;
}

static void test_cut(void **state)
{
    static const unsigned parts[] = {MESSAGE_SIZE, 300, 256, 4, 3};
    static char bytes[TLS_HELLO_MAX];

    for (size_t p = 0; p < ARRAY_COUNT(parts); p++) {
        size_t size = make(bytes, parts[p]);

        assert_true(size <= TLS_HELLO_MAX);
        for (size_t i = 0; i < size; i++) {
            char *copy = malloc(MAX(i, 1)); /* Of its own size, for the sanitizers. */

            memcpy(copy, bytes, i);
            assert_int_equal(tls_hello(slice_of(copy, i)), TLS_HELLO_MORE);
            free(copy);
        }
        assert_int_equal(tls_hello(slice_of(bytes, size)), TLS_HELLO_WHOLE);
    }
}

static void test_bad(void **state)
{
    static char fat[TLS_HELLO_MAX + 1] = {22, 3, 1, 0x3f, 0, 1, 0, 0x3f, 0};
    char bytes[1024];
    size_t size = make(bytes, MESSAGE_SIZE);

    assert_int_equal(tls_hello(SLICE("G")), TLS_HELLO_BAD);
    assert_int_equal(tls_hello(SLICE("\x16\x02")), TLS_HELLO_BAD);
    assert_int_equal(tls_hello(slice_of("\x16\x03\x01\x00\x00", 5)), TLS_HELLO_BAD); /* An empty record. */
    assert_int_equal(tls_hello(slice_of("\x16\x03\x01\x40\x01", 5)),
                     TLS_HELLO_BAD); /* A record that is none. */
    assert_int_equal(tls_hello(slice_of("\x16\x03\x01\x00\x05\x02", 6)), TLS_HELLO_BAD); /* ServerHello. */
    assert_int_equal(tls_hello(slice_of(fat, 9)), TLS_HELLO_BAD); /* It says at once how large it will be. */
    assert_int_equal(tls_hello(slice_of(fat, sizeof fat)), TLS_HELLO_BAD);
    bytes[size++] = 20; /* What follows does not make it bad, as long as it is not too much. */
    assert_int_equal(tls_hello(slice_of(bytes, size)), TLS_HELLO_WHOLE);
}

/* Padding makes them large: 4 KiB with the header of the record are enough, and no more. */
static void test_large(void **state)
{
    static char large[TLS_HELLO_MAX + 2] = {22, 3, 1, 4091 >> 8, 4091 & 0xff, 1, 0, 4087 >> 8, 4087 & 0xff};

    assert_int_equal(TLS_HELLO_MAX, 4096);
    assert_int_equal(tls_hello(slice_of(large, TLS_HELLO_MAX - 1)), TLS_HELLO_MORE);
    assert_int_equal(tls_hello(slice_of(large, TLS_HELLO_MAX)), TLS_HELLO_WHOLE);
    large[4]++;
    large[8]++;
    assert_int_equal(tls_hello(slice_of(large, TLS_HELLO_MAX + 1)), TLS_HELLO_BAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cut), cmocka_unit_test(test_bad),
                                       cmocka_unit_test(test_large)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
