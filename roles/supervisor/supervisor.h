/* roles/supervisor/supervisor.h -- the parent: a small process that hears nothing from a network. It reads and checks the
 * configuration, certificates and keys, plans CPUs and memory (I-1) and holds the claims on them, binds the listeners, and
 * starts the server (roles/server.h) by executing this same program once more, with all of that handed over (handover.h): so the server has an address
 * space of its own, without a secret that it was not given, and gives up its rights before it reads a byte from outside
 * (core/sandbox.h).
 *
 *   service manager ---signals--> supervisor ---TERM, INT, USR2; orders--> server
 *                   <--sd_notify--           <------one byte a word-------
 *
 * SIGHUP, or the operator's wish that the server passes on, makes it read certificates and keys anew, which the server cannot.
 *
 * It waits; nothing in it wakes by the clock. Its exit status is the server's. A server that crashes is named in the log and
 * ends the supervisor with EX_SOFTWARE, so that the service manager starts both anew. If the supervisor dies, the kernel ends
 * the server at once.
 *
 * Upgrade in place, which is the next step: the supervisor starts a second server, of the new executable, in the same way. It makes the
 * rings of both with IORING_SETUP_R_DISABLED before exec and lets them be inherited, so that the old one can send its sockets
 * into the new one's by IORING_MSG_SEND_FD though neither may be traced nor make a ring; the listeners stay open here all the while. */
#pragma once
#include "roles/options.h"

/* Runs the server until it ends. An exit status. */
int supervisor_main(const struct options *o);
