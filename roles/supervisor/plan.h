/* roles/supervisor/plan.h -- everything that a server gets, made and checked before there is one. Errors are exit statuses,
 * after a line on standard error that says what the operator can do.
 * Owner: the supervisor. */
#pragma once
#include "core/config.h"
#include "core/cpu.h"
#include "roles/identity.h"
#include "roles/supervisor/handover.h"

struct plan {
    const struct config *config;
    struct given_file config_file; /* As it was read; without a path: none. Successors get the same. */
    struct identity identity;
    struct cpu_plan cpus;
    struct handover handover; /* Its listeners and files are the plan's. */
};

MUST_CHECK int plan_make(struct plan *p);
/* Whatever the configuration names, read anew: the caller wipes it and frees its array. 0; or an exit status, nothing read,
 * and the reason in `error`. */
MUST_CHECK int plan_read_files(const struct plan *p, struct given *given_out, struct config_error *error);
/* Files for one server more: those of plan_read_files(), and the configuration. */
MUST_CHECK int plan_give_files(struct plan *p, struct config_error *error);
/* `trireme check`: the files among them that can be read, as far as nobody needs to be the server's user for it. 0 or an exit status. */
MUST_CHECK int plan_check_files(const struct plan *p);
void plan_close_listeners(struct plan *p);
void plan_fini(struct plan *p);
