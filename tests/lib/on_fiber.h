/* tests/lib/on_fiber.h -- for tests whose work runs on fibers. There cmocka may not be used, since it jumps out: checks count,
 * and the test asserts at its end that there were no failures. Operations are completed into fibers; production code runs steps
 * instead. For one file of a program. */
#pragma once
#include "core/fiber.h"
#include "core/io.h"
#include <stdio.h>

static int failures; /* Of any thread. */

#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                          \
            __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);                                              \
        }                                                                                                    \
    } while (0)

struct call {
    union {
        struct io_op op;
        struct io_accept accept;
        struct io_connect connect;
    };
    struct fiber *waiting;
};

static inline void call_done(struct io_op *op)
{
    struct call *c = (struct call *)(void *)op;

    if (c->waiting != NULL)
        fiber_wake(c->waiting, 0);
}

static inline void call_init(struct call *c)
{
    memset(c, 0, sizeof *c);
    c->op.done = call_done;
}

static inline int call_wait(struct call *c)
{
    if (c->op.in_flight) {
        c->waiting = fiber_self();
        (void)fiber_suspend();
        c->waiting = NULL;
    }
    return c->op.res;
}
