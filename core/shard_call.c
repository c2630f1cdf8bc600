#include "core/shard_call.h"
#include "core/fiber.h"

struct call {
    struct shard_message message;
    struct fiber *asker;
    void (*run)(void *arg);
    void *arg;
};

static void call_back(struct shard_message *m)
{
    fiber_wake(CONTAINER_OF(m, struct call, message)->asker, 0);
}

static void call_there(struct shard_message *m)
{
    struct call *c = CONTAINER_OF(m, struct call, message);
    struct shard *home = m->from;

    c->run(c->arg);
    m->deliver = call_back;
    shard_send(home, m);
}

void shard_call(struct shard *to, void (*run)(void *arg), void *arg)
{
    struct call c = {.message.deliver = call_there, .asker = fiber_self(), .run = run, .arg = arg};

    ASSERT(c.asker != NULL);
    fiber_mask(); /* The message is on this stack until it has come back. */
    shard_send(to, &c.message);
    (void)fiber_suspend();
    fiber_unmask();
}
