#include "core/uring/uring.h"
#include <errno.h>
#include <sys/random.h>
#include <time.h>

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts;
    int rc = clock_gettime(clock, &ts);

    ASSERT(rc == 0);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* A shard's clock stands still during a turn; without a shard it is read each time. */
uint64_t time_ns(void)
{
    struct shard *s = shard_self();

    return s != NULL ? s->private->now_ns : clock_ns(CLOCK_MONOTONIC);
}

int64_t time_wall(void)
{
    return time_wall_ms() / 1000;
}

int64_t time_wall_ms(void)
{
    return (int64_t)(clock_ns(CLOCK_REALTIME) / 1000000);
}

static void random_fill(uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t got = getrandom(data, size, 0);

        ASSERT(got > 0 || errno == EINTR);
        if (got > 0) {
            data += got;
            size -= (size_t)got;
        }
    }
}

/* Small requests come out of a buffer that is wiped as it is used: one system call for many. */
void random_bytes(void *data, size_t size)
{
    struct shard *s = shard_self();
    struct shard_private *p = s != NULL ? s->private : NULL;
    uint8_t *from;

    if (size == 0)
        return;
    if (p == NULL || size > sizeof p->random / 8) {
        random_fill(data, size);
        return;
    }
    if (p->random_left < size) {
        random_fill(p->random, sizeof p->random);
        p->random_left = sizeof p->random;
    }
    from = p->random + sizeof p->random - p->random_left;
    memcpy(data, from, size);
    bytes_wipe(from, size);
    p->random_left -= (uint32_t)size;
}

uint64_t random_u64(void)
{
    uint64_t value;

    random_bytes(&value, sizeof value);
    return value;
}
