#include "core/metrics.h"
#include "net/link/link_state.h"

#define HELD_PART 4 /* Of the budget. */

/* ---- The budget ---------------------------------------------------------------------------------------- */

uint32_t credit_share(uint64_t budget, uint64_t used)
{
    return (uint32_t)heap_share(budget, used, LINK_WINDOW_FIRST, LINK_WINDOW);
}

void credit_start(struct link_state *state)
{
    state->budget = heap_streaming(state->heap);
    shard_self()->metrics->link_credit_budget_bytes = state->budget;
    credit_draw(state, 0);
}

/* `size` more, or less, bytes of the budget are in use. */
void credit_draw(struct link_state *state, int64_t size)
{
    state->used += (uint64_t)size;
    state->share = credit_share(state->budget, state->used);
    shard_self()->metrics->link_credit_used_bytes = state->used;
    shard_self()->metrics->link_credit_share_bytes = state->share;
}

bool credit_holds(const struct link_state *state)
{
    return state->held < state->budget / HELD_PART;
}

void credit_held(struct link_state *state, int64_t size)
{
    state->held += (uint64_t)size;
    credit_draw(state, size);
}

/* ---- Sending ------------------------------------------------------------------------------------------- */

void credit_starve(struct link_stream *s, bool starved)
{
    struct metrics *m = shard_self()->metrics;

    if (s->starved == starved)
        return;
    s->starved = starved;
    m->link_starved += starved;
    m->link_credit_starved += starved ? 1 : UINT64_MAX;
}

/* Of the shard's budget, and of the connection's. */
static int64_t stream_share(const struct link_stream *s)
{
    return MIN(s->link->state->share, s->link->share);
}

/* Over a wire: what has left is the receiver's memory, not ours. */
static int64_t credit_left(const struct link_stream *s)
{
    int64_t share = stream_share(s), used = s->window_used;

    return MIN((int64_t)s->window - used, share - (used - (int64_t)s->in_flight));
}

int64_t link_credit(struct link_stream *s)
{
    int64_t left = credit_left(s);

    if (UNLIKELY(left <= 0))
        credit_starve(s, true);
    return left;
}

bool link_short(struct link_stream *s, uint32_t size)
{
    bool is_short = credit_left(s) < (int64_t)size;

    ASSERT(size <= LINK_PAYLOAD_MAX);
    if (UNLIKELY(is_short))
        credit_starve(s, true);
    return is_short;
}

uint32_t credit_part(uint32_t window)
{
    return window > 4 * LINK_FRAME_MAX ? window / 2 - LINK_FRAME_MAX : window / 2;
}

/* Not for each frame that comes home: a part of what there can be makes it worth a fiber. More than that must not be asked for:
 * when all frames are home, or have left and are released, nothing else will come that could wake it. */
void credit_wake(struct link_stream *s)
{
    if (!s->starved ||
        credit_left(s) < (int64_t)credit_part((uint32_t)MIN((int64_t)s->window, stream_share(s))))
        return;
    credit_starve(s, false);
    if (s->ops != NULL)
        s->ops->credit(s);
}

/* ---- Receiving over a wire ------------------------------------------------------------------------------ */

/* What of the window beyond the first, which every stream has, may still arrive. */
void credit_promise(struct link_stream *s, bool ended)
{
    uint32_t here = LINK_WINDOW_FIRST + s->received + s->credit_due, promised = 0;

    if (!ended && s->grant > here)
        promised = s->grant - here;
    if (promised == s->promised)
        return;
    credit_draw(s->link->state, (int64_t)promised - (int64_t)s->promised);
    s->promised = promised;
}

/* Doubles while a reader that drains fills it; halves while the budget is short. True: it has changed. */
bool credit_regrant(struct link_stream *s)
{
    uint32_t share = s->link->state->share, before = s->grant;
    bool filled = s->received + s->credit_due >= s->grant / 2;

    if (share < s->grant)
        s->grant = MAX(s->grant / 2, LINK_WINDOW_FIRST);
    else if (filled && share >= 2 * s->grant)
        s->grant *= 2;
    shard_self()->metrics->link_credit_narrowed += s->grant < before;
    return s->grant != before;
}

/* Of an answer that may be long: all that there is now, so that it need not begin in small steps. True: more than the first. */
bool credit_grant_first(struct link_stream *s)
{
    while (s->link->state->share >= 2 * s->grant)
        s->grant *= 2;
    credit_promise(s, false);
    return s->grant > LINK_WINDOW_FIRST;
}
