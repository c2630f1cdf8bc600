/* roles/process.h -- what supervisor and server do to the process that they are. */
#pragma once
#include <sys/types.h>

#define PROCESS_HANDOVER_OPTION                                                                              \
    "--handover=" /* The supervisor's alone: what follows is a descriptor of its making. */

/* What is opened next must not become standard error: the log would be written into it. And a log that nobody reads ends
 * nothing. */
void process_standard_files(void);
/* Descriptors: a listener for each shard, later many more. Locked memory: rings count against it. */
void process_raise_limits(void);
/* Everybody's mail is in this process: in a release no core file, no debugger of the same user. */
void process_harden(void);
/* The kernel kills this process when its parent ends. Ends it here if `parent` has gone already. Again after every change of user. */
void process_die_with(pid_t parent);
