/* roles/small_file.h -- files that are read and written as a whole: certificates, what a node remembers of its cluster.
 * Fibers only; each call suspends. */
#pragma once
#include "core/heap.h"

/* Into the arena. 0; -ENOENT; -EFBIG: empty, or larger than size_max; what the disk says. */
MUST_CHECK int small_file_load(const char *path, struct arena *arena, size_t size_max,
                               struct slice *bytes_out);
/* The whole file or none of it, durable when it returns, name and all. `directory` is where it stands. */
MUST_CHECK int small_file_store(const char *directory, const char *path, struct slice bytes);
