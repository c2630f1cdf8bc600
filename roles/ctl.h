/* roles/ctl.h -- `trireme ctl [--socket PATH | --admin ADDR | --config FILE] COMMAND ... [--json]`: asks a running
 * server (roles/admin/), prints its answer on standard output. The exit status is one of sysexits: 69 when
 * nothing listens or it does not serve, 67 for a user who does not exist, 77 when the socket is another's. */
#pragma once

/* The exit status. argv[0] is the command's name. */
int ctl_main(int argc, char **argv);
