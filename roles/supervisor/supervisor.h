/* roles/supervisor/supervisor.h -- the parent: a small process that hears nothing from a network. It reads and checks the
 * configuration, certificates and keys, plans CPUs and memory (I-1) and holds the claims on them, binds the listeners, and
 * starts the server (roles/server.h) by executing this same program once more, with all of that handed over (handover.h): so the server has an address
 * space of its own, without a secret that it was not given, and gives up its rights before it reads a byte from outside
 * (core/sandbox.h).
 *
 *   service manager ---signals--> supervisor ------orders------> server
 *                   <--sd_notify--           <--one byte a word--
 *
 * Signals are not passed on: one for the whole group (Ctrl-C) that the server has not read yet would swallow its supervisor's.
 * SIGHUP, or the operator's wish that the server passes on, makes it read certificates and keys anew, which the server cannot.
 *
 * It waits, and wakes by the clock only while an upgrade is under way. Its exit status is the server's. A server that crashes is named in the log and
 * ends the supervisor with EX_SOFTWARE, so that the service manager starts both anew. If the supervisor dies, the kernel ends
 * the server at once.
 *
 * Upgrade in place (SIGUSR2, or the operator's wish): a second server, of the executable that is now where this one came from, is
 * started in the same way, beside the first.
 *
 *   STARTING  it gets ready but for what the old one holds, and says so
 *   GIVING    the old one packs its sessions (roles/upgrade.h) and closes `data`, or keeps all as it is
 *   TAKING    the new one opens `data`, takes the sessions through pairs of sockets made here, one a shard, and serves; the old one,
 *             their keeper, has them as well until the new one says that it is ready, and ends then
 *
 * Until the end of GIVING any failure leaves the old one serving as if nothing had been. If the new one ends in TAKING, the executable
 * that has served is started once more in its place, and the keeper gives it the sessions: all but those that the dead one had
 * used (roles/proxy/chest.h). If that one ends, too, so does this. Told to stop in the midst of it, this
 * brings it to an end first, soon: only who serves can say BYE. Listeners stay open here all the while, and both have them: what is in their queues waits. */
#pragma once
#include "roles/options.h"

/* Runs the server until it ends. An exit status. */
int supervisor_main(const struct options *o);
