/* roles/supervisor/succession.h -- how one server follows another, as supervisor.h tells it. Private to roles/supervisor/.
 * Owner: the supervisor, which says here what has come and who has ended. */
#pragma once
#include "roles/supervisor/child.h"
#include "roles/supervisor/plan.h"
#include <limits.h>

/*   NONE --wanted--> STARTING --standby--> GIVING --given--> TAKING --ready--> NONE
 *     ^------------------+-------------------+ the new one has ended, or sessions were kept */
enum succession { SUCCESSION_NONE, SUCCESSION_STARTING, SUCCESSION_GIVING, SUCCESSION_TAKING };

struct supervisor {
    struct plan plan; /* handover.anew: the server is the old executable, started once more. */
    const struct options *options;
    char executable[PATH_MAX]; /* Where this one came from: whatever is there at an upgrade is the next. */
    int signal_fd;
    struct child server, next;
    /* From the end of GIVING on: it was the server, and has the sessions that have not gone over. */
    struct child keeper;
    enum succession succession;
    uint64_t late_ms;         /* When what the succession waits for has taken too long. */
    struct handover_fds ends; /* Of the pairs to the successor, the server's. */
    bool serving;             /* The server has said that it is ready. */
    bool upgrade_wanted;      /* As soon as it has. */
    bool stop_wanted;         /* As soon as no succession is under way. */
    bool stopping;
    bool reloading;     /* It has an order, and has not said how it went. */
    bool reload_wanted; /* Once more, if it has one already. */
    bool ended;
    int status; /* Of the server, when it has ended: as wait(2) gives it. */
};

/* ---- supervisor.c -------------------------------------------------------------------------------------- */

void supervisor_say_serving(void);
/* With files read anew, or as plan_make() has left them. `path` and `like`: see child_start(). False: there is none, and why. */
MUST_CHECK bool supervisor_start(struct supervisor *v, const char *path, const struct child *like,
                                 struct child *child_out, struct config_error *error);

/* ---- succession.c -------------------------------------------------------------------------------------- */

/* At once; or, if the server is not ready so far, as soon as it is. */
void succession_begin(struct supervisor *v);
/* The new one is ready but for what the old one has. */
void succession_standby(struct supervisor *v);
/* The same of one that was started in the place of one that has died. */
void succession_standby_anew(struct supervisor *v);
/* The old server serves no more, and keeps what the new one has not got. */
void succession_given(struct supervisor *v);
/* The old server has given nothing, and serves on. */
void succession_kept(struct supervisor *v);
/* The server serves. */
void succession_ready(struct supervisor *v);

/* It is to be over soon, one way or the other, with all sessions at v->server. */
void succession_hurry(struct supervisor *v);

/* They have ended, with a status as wait(2) gives it. */
void succession_next_ended(struct supervisor *v, int status);
void succession_keeper_ended(struct supervisor *v, int status);
/* False: there is to be nobody in its place. */
MUST_CHECK bool succession_server_ended(struct supervisor *v);

/* Milliseconds until succession_look() is due; -1: only a succession has a clock. */
int succession_wait_ms(const struct supervisor *v);
void succession_look(struct supervisor *v);
