#include "tests/sim/scenario.h"

const struct scenario *const scenarios[] = {
    &scenario_echo, &scenario_log,     &scenario_log_broken, &scenario_retry,
    &scenario_mail, &scenario_cluster, &scenario_stuck,      NULL,
};
