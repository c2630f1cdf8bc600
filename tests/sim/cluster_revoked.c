/* tests/sim/cluster_revoked.c -- users whose sessions are ended by the operator: who has logged in before he says so is out within
 * two seconds, whatever happens elsewhere. Where bytes between his proxy and the director have not passed meanwhile, two seconds
 * count from when they pass again and the link has had time to be made anew.
 *
 * These users have no part in the ledger. Some idle, some are quiet, so that their sessions sleep, and some ask all the time. */
#include "core/fiber.h"
#include "roles/words/control.h"
#include "tests/sim/cluster.h"
#include <errno.h>
#include <stdio.h>

#define OUT_NS   (2 * SIM_S)
#define LOOK_NS  (20 * SIM_MS)
#define SLACK_NS (3 * LOOK_NS)
#define RECOVER_NS                                                                                           \
    (9 *                                                                                                     \
     SIM_S) /* Silence is found after 3 s, by a tick of 1 s; the pause before a connection is 3 s at most; the rest is TLS, HELLO and the table's stream. */
#define PATIENCE_MS 10000
#define LISTEN_MS   400
#define PAUSE_MS    300
#define SETTLE_MS   5

/* ---- Who reaches whom ---------------------------------------------------------------------------------- */

static bool passes(const struct sim_node *proxy, const struct sim_node *director)
{
    return sim_node_ready(proxy) && sim_node_ready(director) && !sim_node_frozen(proxy) &&
           !sim_node_frozen(director) && !sim_partitioned(proxy, director) &&
           !sim_partitioned(director, proxy) && !sim_slowed(proxy, director);
}

static void path_look(struct cluster *cl, unsigned p, uint64_t now_ns)
{
    const struct sim_node *proxy = cl->mail->proxies[p].node;
    struct cluster_path *path = &cl->paths[p];
    unsigned changes = sim_reach_changes(proxy, cl->director) + sim_reach_changes(cl->director, proxy) +
                       sim_link_strikes(proxy, cl->director);

    if (path->clear_ns == 0 || changes != path->changes || !passes(proxy, cl->director))
        path->clear_ns = now_ns;
    path->changes = changes;
}

static void look(void *arg)
{
    struct cluster *cl = arg;
    uint64_t now_ns = sim_now_ns(cl->mail->world);

    for (unsigned p = 0; p < cl->mail->proxy_count; p++)
        path_look(cl, p, now_ns);
    for (unsigned i = 0; i < cl->watcher_count; i++) {
        struct cluster_watcher *w = &cl->watchers[i];
        uint64_t since_ns = MAX(w->doomed_ns, cl->paths[w->proxy].clear_ns + RECOVER_NS);

        if (w->doomed_ns == 0 || now_ns < since_ns + OUT_NS + SLACK_NS)
            continue;
        sim_violation(cl->mail->world, "r%u: his tickets were revoked %llu ms ago, and his session goes on",
                      w->user, (unsigned long long)((now_ns - w->doomed_ns) / SIM_MS));
        w->doomed_ns = 0;
    }
    sim_after(cl->mail->world, LOOK_NS, look, cl);
}

void cluster_revoked_look(struct cluster *cl)
{
    look(cl);
}

/* ---- The operator --------------------------------------------------------------------------------------- */

bool cluster_revoke_one(struct cluster *cl)
{
    unsigned user = (unsigned)(random_u64() % CLUSTER_REVOKED_USERS);
    uint64_t called_ns = sim_now_ns(cl->mail->world);
    struct control_cluster state = {.deal = false};
    char name[8];

    snprintf(name, sizeof name, "r%u", user);
    if (!control_self()->revoke(slice_str(name)))
        return true;
    do {
        if (fiber_sleep_ms(SETTLE_MS) < 0 || control_self() == NULL)
            return false; /* It may never have come to the disk. */
        control_self()->cluster(&state);
    } while (!state.settled);
    for (unsigned i = 0; i < cl->watcher_count; i++) {
        struct cluster_watcher *w = &cl->watchers[i];

        if (w->user == user && w->since_ns != 0 && w->since_ns < called_ns && w->doomed_ns == 0) {
            w->doomed_ns = sim_now_ns(cl->mail->world);
            cl->doomed++;
        }
    }
    return true;
}

/* ---- Their sessions ------------------------------------------------------------------------------------- */

static int line_of(struct talk *s, const char *tag, bool *ok_out)
{
    struct slice line;
    int rc;

    do
        rc = talk_line(s, &line);
    while (rc == 0 && !slice_starts_nocase(line, slice_str(tag)));
    *ok_out = rc == 0 && slice_starts_nocase(slice_from(line, strlen(tag)), SLICE(" OK"));
    return rc;
}

static int say(struct talk *s, const char *text)
{
    return talk_send(s, slice_str(text));
}

static int log_in(struct talk *s, const struct mail_proxy *proxy, unsigned user, bool *in_out)
{
    char text[40];
    int rc = talk_connect(s, &proxy->imap);

    *in_out = false;
    snprintf(text, sizeof text, "a LOGIN r%u secret\r\n", user);
    if (rc == 0)
        rc = say(s, text);
    return rc == 0 ? line_of(s, "a", in_out) : rc;
}

/* Until it ends: what comes is read, and something is said now and then, or nothing. */
static void watch(struct cluster *cl, struct talk *s, unsigned number)
{
    bool asks = number % 3 == 0, idles = number % 3 == 1;
    int rc = idles ? say(s, "b IDLE\r\n") : 0;
    struct slice line;

    while (!cl->watchers_stop && (rc == 0 || rc == -ETIMEDOUT)) {
        rc = talk_wait(s, LISTEN_MS);
        if (rc == 0)
            rc = talk_line(s, &line);
        else if (rc == -ETIMEDOUT && asks)
            rc = say(s, "c NOOP\r\n");
        if (rc == -ETIMEDOUT && s->peer_gone(s))
            rc = -ECONNRESET;
    }
}

struct watched { /* On the fiber's stack. */
    struct talk talk;
    const struct mail_proxy *proxy;
    unsigned life;
};

static bool proxy_gone(const struct talk *s)
{
    const struct watched *w = CONTAINER_OF(s, struct watched, talk);

    return !sim_node_up(w->proxy->node) || sim_node_lives(w->proxy->node) != w->life;
}

void cluster_watcher_run(void *arg)
{
    struct mail *mail = arg;
    struct cluster *cl = mail->cluster;
    unsigned number = cl->watcher_count++;
    struct cluster_watcher *w = &cl->watchers[number];
    struct watched watched;
    bool in;

    *w = (struct cluster_watcher){.user = number / 3 % CLUSTER_REVOKED_USERS,
                                  .proxy = number % mail->proxy_count};
    watched.proxy = &mail->proxies[w->proxy];
    while (!cl->watchers_stop) {
        talk_init(&watched.talk, PATIENCE_MS);
        watched.talk.peer_gone = proxy_gone;
        watched.life = sim_node_lives(watched.proxy->node);
        if (log_in(&watched.talk, watched.proxy, w->user, &in) == 0 && in) {
            w->since_ns = sim_now_ns(mail->world);
            watch(cl, &watched.talk, number);
        }
        w->since_ns = w->doomed_ns = 0;
        talk_abort(&watched.talk);
        (void)fiber_sleep_ms(1 + (uint32_t)(random_u64() % PAUSE_MS));
    }
    cl->watchers_ended++;
}

bool cluster_watchers_ended(void *arg)
{
    const struct cluster *cl = ((struct mail *)arg)->cluster;

    return cl->watchers_ended == cl->watcher_count;
}
