#include "roles/supervisor/succession.h"
#include "core/log.h"
#include "core/notify.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STANDBY_MS 60000 /* For a successor to get ready, */
#define MOVE_MS    60000 /* for sessions to go over when grace has passed, and for it to serve then. */

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void enter(struct supervisor *v, enum succession succession, uint64_t ms)
{
    v->succession = succession;
    v->late_ms = now_ms() + ms;
}

/* ---- How it ends --------------------------------------------------------------------------------------- */

static void over(struct supervisor *v)
{
    v->succession = SUCCESSION_NONE;
    handover_close(&v->ends);
    supervisor_say_serving();
}

/* There is no successor, or none any more: whoever serves goes on. */
static void fail(struct supervisor *v, const char *why)
{
    log_event(LOG_ERROR, "upgrade: the new server does not take over", "error=%s", log_quote(slice_str(why)));
    if (handover_order(v->server.control_fd, HANDOVER_NOT_GIVEN, why, NULL) < 0 ||
        v->succession != SUCCESSION_GIVING)
        over(v); /* Else it says itself that it has stopped giving. */
}

/* ---- Starting a successor ------------------------------------------------------------------------------ */

static int pairs_make(struct supervisor *v)
{
    struct handover *h = &v->plan.handover;

    h->ledger_fd = handover_ledger_make(h->cpu_count);
    if (h->ledger_fd < 0)
        return h->ledger_fd;
    h->predecessors = calloc(h->cpu_count, sizeof *h->predecessors);
    if (h->predecessors == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < h->cpu_count; i++) {
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
            return -errno;
        h->predecessors[h->predecessor_count++] = pair[0];
        v->ends.at[v->ends.count++] = pair[1];
    }
    v->ends.at[v->ends.count] = fcntl(h->ledger_fd, F_DUPFD_CLOEXEC, 0);
    if (v->ends.at[v->ends.count] < 0)
        return -errno;
    v->ends.count++;
    return 0;
}

/* The successor's ends are its own now, or nobody's. */
static void pairs_close(struct supervisor *v)
{
    struct handover *h = &v->plan.handover;

    for (unsigned i = 0; i < h->predecessor_count; i++)
        close(h->predecessors[i]);
    if (h->ledger_fd >= 0)
        close(h->ledger_fd);
    free(h->predecessors);
    h->predecessors = NULL;
    h->predecessor_count = 0;
}

/* With a pair of sockets for each shard, and a ledger; the other ends are v->ends. */
static bool start_paired(struct supervisor *v, const char *path, const struct child *like,
                         struct child *child_out, struct config_error *error)
{
    int rc = pairs_make(v);
    bool started = rc == 0 && supervisor_start(v, path, like, child_out, error);

    pairs_close(v);
    if (rc < 0)
        snprintf(error->text, sizeof error->text, "%s", strerror(-rc));
    return started;
}

void succession_begin(struct supervisor *v)
{
    struct config_error error;

    v->upgrade_wanted = !v->serving && !v->stop_wanted;
    if (v->upgrade_wanted) {
        log_event(LOG_INFO, "upgrade: waits until the server is ready", "pid=%d", (int)v->server.pid);
        return;
    }
    if (v->succession != SUCCESSION_NONE || v->stop_wanted) {
        log_event(LOG_WARN, "upgrade: not now", "reason=%s",
                  v->stop_wanted ? "the_server_is_to_stop" : "another_one_is_under_way");
        return;
    }
    if (v->reloading) {
        fail(v, "a reload is under way");
        return;
    }
    (void)notify_reloading();
    if (v->plan.handover.cpu_count >= HANDOVER_FDS_MAX)
        fail(v, "more cores than can hand over");
    else if (!start_paired(v, v->executable, NULL, &v->next, &error))
        fail(v, error.text);
    else
        enter(v, SUCCESSION_STARTING, STANDBY_MS);
}

/* Of the executable that has served: it is known to work. It has the sessions that the keeper still has; without a keeper, none. */
static void start_anew(struct supervisor *v)
{
    static const char path[] = "/proc/self/exe";
    bool kept = v->keeper.pid != 0, started;
    struct config_error error;

    log_event(LOG_ERROR, "upgrade: the new server has ended before it served; the old one starts anew",
              "sessions=%s", kept ? "kept" : "ended");
    v->plan.handover.anew = true;
    enter(v, SUCCESSION_TAKING, MOVE_MS);
    handover_close(&v->ends);
    started = kept ? start_paired(v, path, &v->keeper, &v->server, &error)
                   : supervisor_start(v, path, &v->keeper, &v->server, &error);
    if (started)
        return;
    log_event(LOG_ERROR, "upgrade: the old server cannot be started", "error=%s",
              log_quote(slice_str(error.text)));
    v->ended = true;
}

/* ---- From one to the other ----------------------------------------------------------------------------- */

/* Its end of a pair a shard, and the ledger, go to whoever has the sessions. False: it does not take orders. */
static bool give(struct supervisor *v, const struct child *from)
{
    bool given = handover_order(from->control_fd, HANDOVER_GIVE, "", &v->ends) == 0;

    handover_close(&v->ends);
    return given;
}

static void take(struct supervisor *v)
{
    enter(v, SUCCESSION_TAKING, MOVE_MS);
    if (handover_order(v->server.control_fd, HANDOVER_TAKE, "", NULL) < 0)
        child_kill(&v->server);
}

void succession_standby(struct supervisor *v)
{
    if (v->succession != SUCCESSION_STARTING)
        return;
    enter(v, SUCCESSION_GIVING, config_duration_ms(v->plan.config, "shutdown.grace") + MOVE_MS);
    if (!give(v, &v->server))
        child_kill(&v->next);
}

void succession_standby_anew(struct supervisor *v)
{
    if (v->succession != SUCCESSION_TAKING || !v->plan.handover.anew)
        return;
    if (give(v, &v->keeper))
        take(v);
    else
        child_kill(&v->server);
}

void succession_given(struct supervisor *v)
{
    if (v->succession != SUCCESSION_GIVING)
        return;
    v->serving = false;
    v->keeper = v->server;
    v->server = v->next;
    v->next = CHILD_NONE;
    if (v->server.pid == 0)
        start_anew(v);
    else
        take(v);
}

void succession_kept(struct supervisor *v)
{
    if (v->succession != SUCCESSION_GIVING)
        return;
    child_kill(&v->next); /* It has nothing that is not there still. */
    over(v);
}

void succession_ready(struct supervisor *v)
{
    v->plan.handover.anew = false;
    if (v->keeper.pid != 0 && handover_order(v->keeper.control_fd, HANDOVER_STOP, "", NULL) < 0)
        child_kill(&v->keeper); /* Nobody needs it any more. */
    log_event(LOG_INFO, "upgraded", "pid=%d", (int)v->server.pid);
    over(v);
}

/* Who has nothing yet is not waited for. If he has got something meanwhile, or all is on its way, it goes on: nowhere else is anybody
 * who could say BYE to those sessions. */
void succession_hurry(struct supervisor *v)
{
    if (v->succession == SUCCESSION_STARTING || v->succession == SUCCESSION_GIVING)
        child_kill(&v->next);
}

/* ---- Who has ended, and when --------------------------------------------------------------------------- */

void succession_next_ended(struct supervisor *v, int status)
{
    char why[80];

    child_forget(&v->next);
    if (v->stop_wanted)
        snprintf(why, sizeof why, "the server was told to stop");
    else if (WIFEXITED(status))
        snprintf(why, sizeof why, "the new server ended with status %d", WEXITSTATUS(status));
    else
        snprintf(why, sizeof why, "the new server was ended by signal %s", sigabbrev_np(WTERMSIG(status)));
    if (v->succession == SUCCESSION_STARTING || v->succession == SUCCESSION_GIVING)
        fail(v, why);
}

void succession_keeper_ended(struct supervisor *v, int status)
{
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        log_event(LOG_ERROR, "upgrade: the old server has ended before all sessions had gone over",
                  "status=%d", status);
    child_forget(&v->keeper);
}

bool succession_server_ended(struct supervisor *v)
{
    if (v->succession != SUCCESSION_TAKING || v->plan.handover.anew)
        return false;
    child_forget(&v->server);
    start_anew(v);
    return true;
}

int succession_wait_ms(const struct supervisor *v)
{
    uint64_t now = now_ms();

    if (v->succession == SUCCESSION_NONE)
        return -1;
    return v->late_ms > now ? (int)MIN(v->late_ms - now, (uint64_t)INT_MAX) : 0;
}

/* Whoever has not done his part in time is ended, and that does the rest. */
void succession_look(struct supervisor *v)
{
    if (v->succession == SUCCESSION_NONE || now_ms() < v->late_ms)
        return;
    v->late_ms = now_ms() + MOVE_MS;
    child_kill(v->succession == SUCCESSION_TAKING ? &v->server : &v->next);
}
