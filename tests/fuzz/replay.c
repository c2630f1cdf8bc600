/* tests/fuzz/replay.c -- stands in for libFuzzer: every file of a directory goes through the target once,
 * whole and cut short, so that a corpus is a unit test of builds without libFuzzer, too. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_SIZE_MAX (1024 * 1024)
#define CUTS           64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In a block of its own size, so that reading past the end is seen. */
static void feed(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size > 0 ? size : 1);

    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static int replay(const char *directory, const char *name, uint8_t *input)
{
    char path[4096];
    size_t size;
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    f = fopen(path, "rb");
    if (f == NULL)
        return 1;
    size = fread(input, 1, INPUT_SIZE_MAX, f);
    fclose(f);
    feed(input, size);
    for (size_t i = 0; i < CUTS; i++)
        feed(input, size * i / CUTS);
    return 0;
}

int main(int argc, char **argv)
{
    DIR *d = argc == 2 ? opendir(argv[1]) : NULL;
    uint8_t *input = malloc(INPUT_SIZE_MAX);
    struct dirent *entry;
    unsigned count = 0;
    int rc = 0;

    if (d == NULL || input == NULL) {
        fprintf(stderr, "usage: replay DIRECTORY\n");
        return 64;
    }
    while (rc == 0 && (entry = readdir(d)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        rc = replay(argv[1], entry->d_name, input);
        count++;
    }
    closedir(d);
    free(input);
    printf("%u inputs\n", count);
    return rc != 0 || count == 0;
}
