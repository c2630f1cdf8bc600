#include "core/scheduler_state.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void assert_failed(const char *file, int line, const char *what)
{
    static _Thread_local bool failing; /* A second failure, inside of the report, only aborts. */
    struct shard *s = shard_self();
    struct fiber *f = fiber_self();
    char text[512];
    int size;

    if (failing)
        abort();
    failing = true;
    size = snprintf(text, sizeof text, "trireme: assertion failed: %s:%d: %s (shard %d, fiber %s)\n", file,
                    line, what, s != NULL ? (int)s->index : -1, f != NULL ? fiber_name(f) : "none");
    if (size > 0 && write(STDERR_FILENO, text, MIN((size_t)size, sizeof text - 1)) < 0)
        abort();
    if (s != NULL)
        trace_dump(&s->scheduler->trace, STDERR_FILENO);
    abort();
}
