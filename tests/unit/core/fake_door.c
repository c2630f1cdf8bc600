#include "tests/unit/core/fake_door.h"
#include "core/io.h"

uint64_t fake_now_ns;
static struct node node = {.shard_count = 1};

uint64_t time_ns(void)
{
    return fake_now_ns;
}

void door_shard_send(struct shard *to, struct shard_message *m)
{
    scheduler_deliver(to, m);
}

bool door_inbox_empty(struct shard *s)
{
    (void)s;
    return true;
}

int helper_call(void (*fn)(void *arg), void *arg)
{
    fn(arg);
    return 0;
}

struct shard *fake_shard_begin(void)
{
    struct shard *s = shard_create(&node, 0, 0);

    ASSERT(s != NULL);
    scheduler_enter(s);
    return s;
}

void fake_shard_end(struct shard *s)
{
    scheduler_leave();
    shard_drop(s);
}

unsigned fake_run(struct shard *s, unsigned limit)
{
    unsigned turns = 1;

    while (scheduler_turn(s) && turns < limit)
        turns++;
    return turns;
}

void fake_sleep_ms(struct shard *s, uint32_t ms)
{
    fake_now_ns += (uint64_t)ms * 1000000;
    fake_run(s, 1000);
}
