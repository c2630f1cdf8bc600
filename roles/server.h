/* roles/server.h -- the process that serves: configured by what its supervisor hands over, in a sandbox, one node of all its
 * roles. Executed by roles/supervisor/ alone.
 * Until node_run() there is no shard, so server.c may use libc; afterwards only what it calls on the first thread. */
#pragma once
#include "roles/options.h"

/* An exit status. `handover_fd` as the supervisor gave it. */
int server_main(const struct options *o, int handover_fd);
