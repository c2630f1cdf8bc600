/* core/sim/random.h -- the seed's numbers: xoshiro256** started by splitmix64.
 * Each source of chance (the world, each node) has a stream of its own, so that one more draw in a client
 * does not change what the disk does. */
#pragma once
#include "core/base.h"

struct sim_random {
    uint64_t s[4];
};

static inline uint64_t sim_mix(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline void sim_random_init(struct sim_random *r, uint64_t seed, uint64_t stream)
{
    uint64_t state = seed * 0xd1342543de82ef95u + stream;

    for (unsigned i = 0; i < 4; i++)
        r->s[i] = sim_mix(&state);
}

static inline uint64_t sim_random_u64(struct sim_random *r)
{
    uint64_t *s = r->s, x = s[1] * 5, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return ((x << 7) | (x >> 57)) * 9;
}

/* 0 .. bound - 1; 0 when bound is 0. */
static inline uint64_t sim_random_below(struct sim_random *r, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)sim_random_u64(r) * bound) >> 64);
}

/* low .. high, both included. */
static inline uint64_t sim_random_range(struct sim_random *r, uint64_t low, uint64_t high)
{
    return low + sim_random_below(r, high - low + 1);
}

/* True once in `times`, on average. */
static inline bool sim_random_one_in(struct sim_random *r, uint64_t times)
{
    return sim_random_below(r, times) == 0;
}
