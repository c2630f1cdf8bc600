/* roles/supervisor/plan.h -- everything that a server gets, made and checked before there is one. Errors are exit statuses,
 * after a line on standard error that says what the operator can do.
 * Owner: the supervisor. */
#pragma once
#include "core/config.h"
#include "core/cpu.h"
#include "roles/identity.h"
#include "roles/options.h"
#include "roles/supervisor/handover.h"

struct plan {
    struct config *config;
    struct given_file config_file; /* As it was read; without a path: none. Successors get the same. */
    struct identity identity;
    struct cpu_plan cpus;
    /* Its listeners are the plan's; its files are there between plan_read_files(), or plan_make(), and their end. */
    struct handover handover;
    struct given_file files[HANDOVER_FILES_MAX];
};

/* Also if it fails plan_fini() is due. */
MUST_CHECK int plan_make(struct plan *p, const struct options *o);
void plan_close_listeners(struct plan *p);
void plan_fini(struct plan *p);

/* `trireme check`: the configuration, and of the files that it names those which can be read. */
MUST_CHECK int plan_check(const struct options *o);

/* ---- plan_files.c -------------------------------------------------------------------------------------- */

/* Certificates and keys, read anew into p->handover.given: the caller ends with handover_files_wipe(). `error` NULL: what cannot be
 * read is left out. False: none was read. */
MUST_CHECK bool plan_read_files(struct plan *p, struct config_error *error);
/* Do keys fit their certificates, among those that were read? */
MUST_CHECK bool plan_files_good(const struct plan *p, struct config_error *error);
