/* Looks for patterns in what standard input holds: a process's memory, or a core file.
 *
 *     memory_find PATTERN... <FILE      each in hexadecimal digits, 4 bytes at least
 *
 * Prints a line "OFFSET PATTERN" for each that is found, PATTERN being its index. */
#include "core/base.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PATTERN_MAX 256
#define WINDOW      (1u << 22)

struct pattern {
    uint8_t bytes[PATTERN_MAX];
    size_t size;
    int next; /* With the same first two bytes; -1: none. */
};

static struct pattern *patterns;
static int first[65536];
static uint8_t window[PATTERN_MAX + WINDOW];

static void pattern_read(int index, const char *digits)
{
    struct pattern *p = &patterns[index];
    unsigned byte;

    for (; sscanf(digits, "%2x", &byte) == 1 && p->size < PATTERN_MAX; digits += 2)
        p->bytes[p->size++] = (uint8_t)byte;
    if (p->size < 4)
        abort();
    p->next = first[get_u16(p->bytes)];
    first[get_u16(p->bytes)] = index;
}

static void look(size_t at, size_t size, uint64_t offset)
{
    for (int i = first[get_u16(window + at)]; i >= 0; i = patterns[i].next) {
        if (patterns[i].size <= size - at && memcmp(window + at, patterns[i].bytes, patterns[i].size) == 0)
            printf("%llu %d\n", (unsigned long long)offset, i);
    }
}

int main(int argc, char **argv)
{
    size_t size = 0;
    uint64_t offset = 0; /* Of the window. */
    ssize_t n;

    patterns = calloc((size_t)argc, sizeof *patterns);
    memset(first, -1, sizeof first);
    for (int i = 1; patterns != NULL && i < argc; i++)
        pattern_read(i - 1, argv[i]);
    do {
        n = read(STDIN_FILENO, window + size, sizeof window - size);
        if (n < 0 || patterns == NULL)
            return EXIT_FAILURE;
        size += (size_t)n;
        size_t whole = n == 0 ? size : size - MIN(size, (size_t)PATTERN_MAX);

        for (size_t at = 0; at < whole && at + 1 < size; at++)
            look(at, size, offset + at);
        memmove(window, window + whole, size - whole);
        size -= whole;
        offset += whole;
    } while (n > 0);
    return 0;
}
