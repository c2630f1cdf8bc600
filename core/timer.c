#include "core/timer.h"
#include "core/io.h"
#include "core/scheduler_state.h"

#define SLOT_MASK (WHEEL_SLOTS - 1)

void wheel_init(struct timer_wheel *w)
{
    w->now_ms = 0;
    list_init(&w->due);
    for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
        w->occupied[level] = 0;
        for (unsigned slot = 0; slot < WHEEL_SLOTS; slot++)
            list_init(&w->slots[level][slot]);
    }
}

static unsigned slot_of(uint64_t ms, unsigned level)
{
    return (unsigned)(ms >> (level * WHEEL_BITS)) & SLOT_MASK;
}

static void wheel_put(struct timer_wheel *w, struct timer *t)
{
    uint64_t difference = t->deadline_ms ^ w->now_ms;
    unsigned level, slot;

    ASSERT(t->deadline_ms > w->now_ms);
    level = (63 - (unsigned)__builtin_clzll(difference)) / WHEEL_BITS;
    ASSERT(level < WHEEL_LEVELS);
    slot = slot_of(t->deadline_ms, level);
    list_push_back(&w->slots[level][slot], &t->link);
    w->occupied[level] |= 1ull << slot;
}

void wheel_set(struct timer_wheel *w, struct timer *t, uint64_t deadline_ms)
{
    wheel_cancel(w, t);
    t->deadline_ms = deadline_ms;
    if (deadline_ms <= w->now_ms)
        list_push_back(&w->due, &t->link);
    else
        wheel_put(w, t);
}

void wheel_cancel(struct timer_wheel *w, struct timer *t)
{
    struct list *head = t->link.next;
    size_t place;

    if (!list_linked(&t->link))
        return;
    list_remove(&t->link);
    /* Was it the only one of a slot? Then `head` is that slot's. */
    if (!list_empty(head) || head < &w->slots[0][0] || head > &w->slots[WHEEL_LEVELS - 1][SLOT_MASK])
        return;
    place = (size_t)(head - &w->slots[0][0]);
    w->occupied[place / WHEEL_SLOTS] &= ~(1ull << (place % WHEEL_SLOTS));
}

static void fire_all(struct list *expired)
{
    struct list *node;

    while ((node = list_pop_front(expired)) != NULL) {
        struct timer *t = CONTAINER_OF(node, struct timer, link);

        t->fire(t);
    }
}

/* w->now_ms has just become the start of a slot of `level`: its timers move to the levels below, or are due. */
static void cascade(struct timer_wheel *w, unsigned level, struct list *expired)
{
    unsigned slot = slot_of(w->now_ms, level);
    struct list moving, *node;

    if ((w->occupied[level] & 1ull << slot) == 0)
        return;
    w->occupied[level] &= ~(1ull << slot);
    list_move(&w->slots[level][slot], &moving);
    while ((node = list_pop_front(&moving)) != NULL) {
        struct timer *t = CONTAINER_OF(node, struct timer, link);

        if (t->deadline_ms == w->now_ms)
            list_push_back(expired, &t->link);
        else
            wheel_put(w, t);
    }
}

/* The start of the next slot that holds timers. */
static uint64_t next_slot_ms(const struct timer_wheel *w)
{
    for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
        unsigned shift = level * WHEEL_BITS;

        /* A lower level's slots all come before a higher level's next one. */
        if (w->occupied[level] != 0) {
            uint64_t base = w->now_ms >> (shift + WHEEL_BITS) << (shift + WHEEL_BITS);

            return base + ((uint64_t)__builtin_ctzll(w->occupied[level]) << shift);
        }
    }
    return UINT64_MAX;
}

uint64_t wheel_next_ms(const struct timer_wheel *w)
{
    return list_empty(&w->due) ? next_slot_ms(w) : w->now_ms;
}

void wheel_advance(struct timer_wheel *w, uint64_t now_ms)
{
    struct list expired;
    uint64_t next;

    list_move(&w->due, &expired); /* Not what the firing ones set for now: that is for the next turn. */
    fire_all(&expired);
    while (w->now_ms < now_ms) {
        next = next_slot_ms(w);
        w->now_ms = MIN(next, now_ms);
        if (next > now_ms)
            break;
        list_init(&expired);
        for (unsigned level = WHEEL_LEVELS - 1; level > 0; level--) {
            if ((w->now_ms & ((1ull << level * WHEEL_BITS) - 1)) == 0)
                cascade(w, level, &expired);
        }
        cascade(w, 0, &expired);
        fire_all(&expired);
    }
}

/* ---- The current shard's wheel ------------------------------------------------------------------------- */

void timer_init(struct timer *t, void (*fire)(struct timer *t))
{
    list_init(&t->link);
    t->deadline_ms = 0;
    t->fire = fire;
}

/* Rounded up to the next whole millisecond, so that it never fires early. */
void timer_set(struct timer *t, uint32_t delay_ms)
{
    uint64_t deadline_ms = delay_ms == 0 ? time_ms() : (time_ns() + 999999) / 1000000 + delay_ms;

    wheel_set(&shard_self()->scheduler->wheel, t, deadline_ms);
}

void timer_cancel(struct timer *t)
{
    if (timer_armed(t))
        wheel_cancel(&shard_self()->scheduler->wheel, t);
}
