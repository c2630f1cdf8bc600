/* roles/admin/admin.h -- HTTP for the operator, on shard 0: metrics and health on admin.listen, and on the Unix
 * socket admin.socket the commands of `trireme ctl` too. Nobody is asked for a password: the socket's file mode
 * is the lock, and what TCP answers changes nothing and names nobody.
 *
 *     admin.c      listeners and connections
 *     endpoint.c   which path is answered by what; metrics, health
 *     command.c    status, who, why, kick, log level, reload, upgrade
 *     cluster.c    cluster init, place, unplace, exceptions
 *     reply.c      text that grows; the same fields as text or as JSON
 *
 * It starts before the other roles and stops after them, so that a process that recovers or drains says so.
 *
 *   READING --a whole request--> RUNNING (a fiber) --answered--> READING
 *      +--deadline, malformed, end of stream--> closing <-----------+
 *
 * Owner:  shard 0; SLOT_ADMIN.
 * Bounds: ADMIN_TCP_MAX and ADMIN_LOCAL_MAX connections, one request at a time each, REPLY_MAX. When all places
 *         are taken, whoever has asked nothing for longest makes room: a probe is heard though others sit there. */
#pragma once
#include "core/fiber.h"
#include "net/conn.h"
#include "net/http/http.h"
#include "net/listener.h"
#include "roles/admin/reply.h"
#include "roles/role.h"

#define ADMIN_TCP_MAX       48
#define ADMIN_LOCAL_MAX     16 /* By the Unix socket. */
#define ADMIN_ENDING_MAX    64 /* Made room, and are not gone yet. */
#define ADMIN_LISTENERS_MAX 16
#define ADMIN_REQUEST_MAX   (HTTP_HEAD_MAX + HTTP_BODY_MAX)
#define ADMIN_IDLE_MS       30000
#define ADMIN_ERROR_MAX     512
#define ADMIN_NOT_READY     "not serving: starting or stopping"

struct admin {
    struct shard *shard;
    struct listener listeners[ADMIN_LISTENERS_MAX];
    unsigned listener_count;
    struct slab connections;
    struct list connection_list; /* Who asked last is last. */
    unsigned counts[2];          /* By TCP, by the Unix socket; those that made room are not counted. */
    struct turn walk;            /* One walk over the sessions at a time. */
    uint64_t started_ms;
    uint32_t reloads_begun, reloads_ended; /* Counts. */
    char reload_error[ADMIN_ERROR_MAX];    /* Of the last that has ended; "": it went well. */
    bool upgrading, upgraded;              /* Somebody waits for it; it is over. */
    bool taking;         /* This process takes over from another one, and has not all that comes. */
    bool anew;           /* An upgrade failed at its end: this is the old executable again. */
    uint64_t lost_count; /* Sessions that ended with it. */
    bool leaving;        /* It went well: this process serves nobody any more. */
    uint64_t upgrade_moved, upgrade_dropped, upgrade_frozen_ms;
    char upgrade_error[ADMIN_ERROR_MAX]; /* "": this process ends, its successor serves. */
    bool stopping;
};

struct admin_connection {
    struct conn conn; /* First. */
    struct admin *admin;
    struct list link;
    struct timer timer;
    struct fiber_queue sent; /* The fiber waits here until some of its answer has left. */
    bool local;              /* Came by the Unix socket. */
    bool running;            /* A fiber answers: the record stays. */
    bool ending;             /* Made room for another. */
    bool closed;             /* The connection is gone. */
    struct http_request request;
    char bytes[ADMIN_REQUEST_MAX]; /* What the request points into. */
};

/* Started and stopped around the other roles, by the process. */
extern const struct role role_admin;
/* Before its stop, when all shards are being stopped: answers until the last of them serves nobody. Fiber. */
void admin_drain(struct shard *s);

/* A reload begins; has ended, `error` being "" or why nothing has changed. For whoever asked and waits. */
void admin_reload_begun(struct shard *s);
void admin_reload_ended(struct shard *s, const char *error);

/* An upgrade is over; error "": it went well, and this process ends. */
struct upgrade_result;
void admin_upgrade_ended(struct shard *s, const struct upgrade_result *result, const char *error);
/* Between the two nobody is told that this process is ready. */
void admin_takes_over(struct shard *s, bool begins);
/* An upgrade has failed when there was no way back: /readyz says so to `ctl upgrade`, and how many sessions ended with it. */
#define ADMIN_LOST_ALL UINT64_MAX
void admin_begins_anew(struct shard *s, uint64_t lost_count);
/* Fiber; suspends, not for long. Whoever has asked has his answer, if he reads it. */
void admin_answer_all(struct shard *s);

/* Needs no other shard and no fiber: an overloaded server is alive, too, and shows its metrics. */
bool admin_answers_at_once(const struct http_request *q);
/* Fills in the reply to c->request. Fiber, unless it answers at once. */
void admin_answer(struct admin_connection *c, struct reply *r);

/* ---- command.c: each answers the path /ctl/NAME, its argument being the body --------------------------- */

typedef void admin_command_fn(struct admin *a, struct slice argument, struct reply *r);
admin_command_fn status_command, who_command, why_command, kick_command, cluster_init_command,
    cluster_place_command, cluster_unplace_command, cluster_exceptions_command, log_level_command,
    reload_command, upgrade_command;

/* Do all shards serve, and is nobody stopping? Fiber; suspends. */
bool admin_ready(struct admin *a);
/* What one of them lacks to be of use, in words; NULL: nothing. Fiber; suspends. */
const char *admin_lacks(struct admin *a);
/* How many shards serve, if only to drain. Fiber; suspends. */
unsigned admin_serving(struct admin *a);
