/* core/timer.h -- the wheel behind struct timer (core/shard.h): levels of 64 slots, each level 64 times
 * coarser. A timer sits at the level of the highest 6-bit group in which its deadline differs from now, and
 * moves down when now reaches its slot: at most WHEEL_LEVELS moves in its life, O(1) each; set and cancel are
 * O(1), and nothing is allocated however many timers there are.
 * Owner:  one shard, or a test; no locks. Time only goes forward. */
#pragma once
#include "core/list.h"
#include "core/shard.h"

#define WHEEL_BITS   6
#define WHEEL_SLOTS  (1u << WHEEL_BITS)
#define WHEEL_LEVELS 8 /* 2^48 ms: 8,900 years. */

struct timer_wheel {
    uint64_t now_ms; /* All deadlines up to here have fired. */
    struct list due; /* Set for now or the past: fire at the next advance. */
    struct list slots[WHEEL_LEVELS][WHEEL_SLOTS];
    uint64_t occupied[WHEEL_LEVELS]; /* A bit for each slot that is not empty. */
};

void wheel_init(struct timer_wheel *w);
/* Sets or moves t to t->deadline_ms. */
void wheel_set(struct timer_wheel *w, struct timer *t, uint64_t deadline_ms);
void wheel_cancel(struct timer_wheel *w, struct timer *t);
/* Fires everything up to now_ms, in order of deadlines. What fires may set and cancel any timer. */
void wheel_advance(struct timer_wheel *w, uint64_t now_ms);
/* When wheel_advance() next has something to do, UINT64_MAX: never. Not later than the first deadline. */
uint64_t wheel_next_ms(const struct timer_wheel *w);
