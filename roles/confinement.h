/* roles/confinement.h -- which sandbox (core/sandbox.h) belongs to a configuration: what its roles need, and no more.
 *
 *   proxy     opens no file; connects to the directors, and to the backends that they name
 *   director  `data`, and the directory of its passwd-file; connects to `backends`
 *   backend   `data`; connects to nobody: directors and proxies come
 *
 * Several roles in a process: the union. All of them in one speak in memory, and connect to nobody.
 * Owner: the process's first thread. */
#pragma once
#include "core/config.h"
#include "core/sandbox.h"

#define CONFINEMENT_DIRECTORIES_MAX 3

struct confinement {
    struct sandbox_profile profile;
    bool off, required;
    struct sandbox_directory directories[CONFINEMENT_DIRECTORIES_MAX];
    char *texts[CONFINEMENT_DIRECTORIES_MAX]; /* Made for them. */
    uint16_t *ports;
    char missing[SANDBOX_MISSING_MAX];
};

/* 0, or an exit status after a line on standard error. */
MUST_CHECK int confinement_plan(const struct config *c, struct confinement *out);
void confinement_fini(struct confinement *c);
unsigned confinement_ring_rights(const struct confinement *c);

/* For node_options: 0, or -errno after a line in the log. */
MUST_CHECK int confinement_enter(struct confinement *c);
MUST_CHECK int confinement_seal(struct confinement *c);
