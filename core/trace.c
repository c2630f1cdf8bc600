#include "core/trace.h"
#include "core/scheduler_state.h"
#include <stdio.h>
#include <unistd.h>

void trace(const char *what, uint64_t a, uint64_t b)
{
    struct shard *s = shard_self();

    if (s != NULL)
        scheduler_trace(s->scheduler, what, a, b);
}

void trace_dump(const struct trace_ring *ring, int fd)
{
    uint64_t first = ring->next > TRACE_COUNT ? ring->next - TRACE_COUNT : 0;
    char line[160];

    for (uint64_t i = first; i < ring->next; i++) {
        const struct trace_entry *e = &ring->entries[i % TRACE_COUNT];
        int size = snprintf(line, sizeof line, "trace: turn=%llu %s %llu %llu\n", (unsigned long long)e->turn,
                            e->what, (unsigned long long)e->a, (unsigned long long)e->b);

        if (size > 0 && write(fd, line, MIN((size_t)size, sizeof line - 1)) < 0)
            return;
    }
}
