/* roles/process.h -- what supervisor and server do alike to the process that they are. */
#pragma once
#include <sys/types.h>

#define PROCESS_HANDOVER_OPTION                                                                              \
    "--handover=" /* The supervisor's alone: what follows is a descriptor of its making. */

/* Everybody's mail is in this process: in a release no core file, no debugger of the same user. */
void process_harden(void);
/* The kernel kills this process when its parent ends. Ends it here if `parent` has gone already. Again after every change of user. */
void process_die_with(pid_t parent);
