#include "net/conn_private.h"

#define INPUT_GROW_SIZE 2048
#define HELLO_GROW_SIZE 64
#define INFLATE_TURN    65536 /* Bytes that a turn makes of what is compressed: a little can become a lot. */

void conn_input_drop(struct conn *c)
{
    if (c->input != NULL && c->secret)
        bytes_wipe(c->input, c->input_capacity);
    heap_free(conn_heap(), c->input);
    c->input = NULL;
    c->input_size = c->input_capacity = 0;
    c->offer = false;
}

/* Of a hello there is never more than is allowed: only the allocator's next class would be. */
static uint32_t capacity_for(const struct conn *c, size_t need)
{
    if (c->phase != PHASE_HELLO)
        return (uint32_t)(need + INPUT_GROW_SIZE);
    return (uint32_t)MAX(need, MIN(need + HELLO_GROW_SIZE, (size_t)TLS_HELLO_MAX));
}

void conn_input_keep(struct conn *c, struct slice bytes)
{
    size_t need = c->input_size + bytes.size;

    if (bytes.size == 0)
        return;
    if (need > c->input_capacity) {
        uint32_t capacity = capacity_for(c, need);
        char *input = heap_alloc(conn_heap(), capacity);

        if (c->input != NULL) {
            memcpy(input, c->input, c->input_size);
            if (c->secret)
                bytes_wipe(c->input, c->input_size);
            heap_free(conn_heap(), c->input);
        }
        c->input = input;
        c->input_capacity = capacity;
    }
    memcpy(c->input + c->input_size, bytes.data, bytes.size);
    c->input_size = (uint32_t)need;
}

/* The owner takes what he can of `in`; what is left of it. */
static struct slice input_give(struct conn *c, struct slice in)
{
    size_t taken = c->ops->data(c, in);

    ASSERT(taken <= in.size);
    if (!conn_gives(c))
        return slice_of(NULL, 0);
    in = slice_from(in, taken);
    if (conn_turns(c)) { /* Compression begins here. */
        c->inflating = true;
        inflater_add(c->inflater, in);
        return slice_of(NULL, 0);
    }
    if (taken == 0 && in.size >= c->input_max && !c->paused)
        conn_end(c, -EMSGSIZE);
    return in;
}

static void input_offer(struct conn *c)
{
    struct slice rest;

    c->offer = false;
    if (c->paused || c->input_size == 0 || c->phase == PHASE_HELLO || !conn_gives(c))
        return;
    rest = input_give(c, slice_of(c->input, c->input_size));
    if (rest.size == 0 || !conn_gives(c)) {
        bool offer = c->offer; /* Asked for by what has just run. */

        conn_input_drop(c);
        c->offer = offer;
        return;
    }
    memmove(c->input, rest.data, rest.size);
    if (c->secret)
        bytes_wipe(c->input + rest.size, c->input_size - rest.size);
    c->input_size = (uint32_t)rest.size;
}

/* Plaintext came. Straight to the owner if nothing is kept before it. */
static void input_arrived(struct conn *c, struct slice in)
{
    if (!c->paused && c->input_size == 0) {
        conn_input_keep(c, input_give(c, in));
        return;
    }
    conn_input_keep(c, in);
    input_offer(c);
}

void conn_plain_arrived(struct conn *c, struct slice in)
{
    if (c->inflating)
        inflater_add(c->inflater, in);
    else
        input_arrived(c, in);
}

/* Some of what came compressed. Until all of it was looked at nothing more is received. */
static void input_inflate(struct conn *c)
{
    struct slice plain = {0};
    int rc = 0;

    for (size_t size = 0; size < INFLATE_TURN && !c->paused && conn_gives(c); size += plain.size) {
        rc = inflater_next(c->inflater, &plain);
        if (rc < 0)
            conn_end(c, rc);
        if (rc < 0 || plain.size == 0)
            return;
        input_arrived(c, plain);
    }
    if (!c->paused)
        c->offer = true; /* On with it, after the others. */
}

void conn_input_step(struct conn *c)
{
    if (c->offer)
        input_offer(c);
    if (c->inflating)
        input_inflate(c);
}

void conn_bytes_arrived(struct conn *c, struct slice in)
{
    c->bytes_in += in.size;
    shard_self()->metrics->bytes_in += in.size;
    c->quiet = false;
    if (c->soon && !c->closing && !c->end_awaited) { /* Else it would fire once more for each who answers. */
        timer_set(&c->timer, CONN_QUIET_MS);
        c->quiet = true;
    }
    c->soon = false;
    if (!conn_reads(c) || (c->phase == PHASE_TLS_WAIT && !c->tls_behind))
        return;
    if (c->phase == PHASE_TLS_WAIT)
        conn_input_keep(c, in);
    else if (c->phase == PHASE_HELLO)
        conn_hello_arrived(c, in);
    else if (c->phase == PHASE_TLS)
        conn_tls_arrived(c, in);
    else
        conn_plain_arrived(c, in);
}

void conn_pause(struct conn *c)
{
    c->paused = true;
}

void conn_resume(struct conn *c)
{
    c->paused = false;
    c->offer = true;
    conn_post(c);
}
