/* roles/proxy/difference.h -- idle sessions of one user that stand alike ask for what is new once: the first asks its
 * backend, the others get a copy of the answer, token and all.
 *
 * Alike: the same user, the same token (mailbox, horizons, \Recent, whatever else changes an answer), and tickets of one
 * age, so that none is told what a revocation keeps from it. Others join until the first frame has come, and are then as
 * old in what they know as who asked: the account is looked at again behind each answer.
 *
 * Only small answers are shared. When a larger one comes, or who asked is gone or has lost its link, each asks by itself.
 *
 * Owner:  one shard's proxy; embedded in each session. */
#pragma once
#include "core/list.h"
#include "core/map.h"

struct link_frame;
struct session;

struct difference {         /* Private. */
    struct session *leader; /* Who asks; NULL: nobody. A leader's own is itself. */
    struct map_node node;   /* Of a leader whom others may join. */
    bool open;              /* It is in the map. */
    struct list followers;  /* Of a leader; in a follower its place there. */
    struct list frames;     /* Of a leader: copies of what has come, */
    uint32_t size;          /* and their bytes. */
};

struct differences { /* Of a proxy: who may be joined. */
    struct map open;
    uint64_t secret;
};

void differences_init(struct differences *t, struct heap *h);
void differences_fini(struct differences *t); /* Nobody asks any more. */

/* True: another asks already for who stands so; s is given the answer. False: s is to ask, and leads. */
MUST_CHECK bool difference_join(struct session *s);
/* A frame has come for s, which may lead. */
void difference_came(struct session *s, const struct link_frame *f);
/* s neither leads nor follows any more; those who followed it ask by themselves. Allowed at any time. */
void difference_leave(struct session *s);
