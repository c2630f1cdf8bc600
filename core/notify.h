/* core/notify.h -- tells the service manager how the process is, by sd_notify(3)'s protocol: a datagram to
 * the socket that NOTIFY_SOCKET names. Without it nothing happens. Never blocks; from any thread. */
#pragma once

/* `state` as sd_notify(3) has it, for instance "READY=1\nSTATUS=serving". 0, or -errno, which nobody needs to
 * act on. */
int notify_manager(const char *state);
/* A reload has begun; READY=1 ends it. */
int notify_reloading(void);
