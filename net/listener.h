/* net/listener.h -- a listening socket of one shard, with a few accepts in flight: each is one shot,
 * since only so the kernel tells the peer's address (a multishot accept has one place for all of them).
 * The kernel tells one of all who wait that somebody has come. Of processes that share a socket that may be one that was killed: its
 * accepts wait on for a while, and nobody else is told. So a listener looks by itself in its first seconds. */
#pragma once
#include "core/io.h"
#include "core/list.h"
#include "core/shard.h"

#define LISTENER_ACCEPTS                                                                                     \
    32 /* A turn takes as many: whoever comes must not stand in the kernel's queue behind others. */

struct listener;

struct listener_accept {
    struct io_accept accept;
    struct listener *listener;
    bool idle; /* Waits for a slot to become free. */
};

struct listener {
    struct sock sock;
    struct net_addr addr;
    /* Takes the socket. */
    void (*accepted)(struct listener *l, struct sock sock, const struct net_addr *peer);
    void *owner;
    bool flag; /* The owner's: TLS from the first byte. */
    bool stopping, holding;
    struct timer retry; /* After -ENFILE and the like. */
    struct timer look;  /* Whether somebody has come of whom it was not told. */
    uint32_t look_ms;
    struct listener_accept accepts[LISTENER_ACCEPTS];
};

/* 0, or -errno (address in use...). */
MUST_CHECK int listener_start(struct listener *l, const struct net_addr *addr);
/* On a Unix socket: io_listen_unix(). */
MUST_CHECK int listener_start_unix(struct listener *l, const char *path);
/* No accept begins any more, and nobody is lost: what is accepted already comes as accepted(), who comes from now on waits in the
 * kernel, for listener_go_on() or for another process that has the socket. */
void listener_hold(struct listener *l);
bool listener_held(const struct listener *l); /* It has got so far. */
void listener_go_on(struct listener *l);
/* No more accepted(). */
void listener_stop(struct listener *l);
/* After listener_stop(), once all accepts have completed: closes the socket. Fiber; suspends. */
void listener_wait(struct listener *l);
