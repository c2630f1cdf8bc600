#include "roles/small_file.h"
#include "core/io.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define PATH_SIZE_MAX 512

int small_file_load(const char *path, struct arena *arena, size_t size_max, struct slice *bytes_out)
{
    struct file file;
    uint64_t size;
    ssize_t got = 0;
    char *bytes = NULL;
    int rc = file_open(path, O_RDONLY | O_CLOEXEC, 0, &file);

    if (rc < 0)
        return rc;
    rc = file_size(file, &size);
    if (rc == 0 && (size == 0 || size > size_max))
        rc = -EFBIG;
    if (rc == 0) {
        bytes = arena_alloc(arena, size);
        got = file_read(file, bytes, size, 0);
        rc = got < 0 ? (int)got : 0;
    }
    file_close(file);
    if (rc == 0)
        *bytes_out = slice_of(bytes, (size_t)got);
    return rc;
}

int small_file_store(const char *directory, const char *path, struct slice bytes)
{
    struct iovec vector = {(void *)(uintptr_t)bytes.data, bytes.size};
    char temporary[PATH_SIZE_MAX];
    struct file file;
    int rc;

    if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary)
        return -ENAMETOOLONG;
    rc = file_open(temporary, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    if (rc < 0)
        return rc;
    rc = file_write_flush(file, &vector, 1, 0);
    file_close(file);
    if (rc == 0)
        rc = file_rename(temporary, path);
    return rc == 0 ? dir_flush(directory) : rc;
}
