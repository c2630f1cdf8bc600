/* tests/sim/scenario.h -- a world to build and to watch. */
#pragma once
#include "core/sim/sim.h"

struct scenario {
    const char *name, *help;
    /* Names of the operations that it counts; ended by NULL. */
    const char *const *operations;
    /* Builds the world, runs it, tells violations. */
    void (*run)(struct sim_world *w);
    /* A mistake that must be found: not among the scenarios that run by default. */
    bool broken;
};

extern const struct scenario *const scenarios[];

extern const struct scenario scenario_echo, scenario_log, scenario_log_broken, scenario_mail,
    scenario_cluster, scenario_retry, scenario_stuck;
