/* tests/sim/cluster_judge.c -- what clients may expect of a proxy that lives, whatever happens behind it: they keep their
 * connections; what cannot be sent to a backend is refused soon; an outcome that stays unknown ends the connection, and not
 * before limits.outcome_wait. */
#include "core/fiber.h"
#include "tests/sim/cluster.h"
#include <errno.h>

#define LOOK_NS    (20 * SIM_MS)
#define REFUSED_NS (5 * SIM_S)    /* What was never sent is refused so soon, */
#define WAY_NS     (200 * SIM_MS) /* the way to the client and back aside. */
#define IDLE_ANSWER_NS                                                                                       \
    (10 * SIM_S) /* An idling client may lose its connection in the middle of being told. */
#define SETTLE_MS      6000
#define SETTLE_STEP_MS 100

#define VIOLATION(cl, account, format, ...)                                                                  \
    sim_violation((cl)->mail->world, "u%u: " format, account, __VA_ARGS__)

/* ---- Who reaches whom ---------------------------------------------------------------------------------- */

static bool reaches(const struct sim_node *proxy, const struct sim_node *n)
{
    return sim_node_up(n) && !sim_node_frozen(n) && !sim_partitioned(proxy, n) && !sim_partitioned(n, proxy);
}

static void reach_look(struct cluster_reach *r, uint64_t now_ns, const struct sim_node *proxy,
                       const struct sim_node *n)
{
    bool out = r->since_ns > r->until_ns;
    unsigned changes = sim_reach_changes(proxy, n);

    if (out && (reaches(proxy, n) || changes != r->changes)) /* It may have been in reach for a moment. */
        r->until_ns = now_ns;
    if (!reaches(proxy, n) && (!out || changes != r->changes))
        r->since_ns = now_ns + 1;
    r->changes = changes;
}

void cluster_look(void *arg)
{
    struct cluster *cl = arg;
    struct mail *mail = cl->mail;

    for (unsigned p = 0; p < mail->proxy_count; p++) {
        const struct sim_node *proxy = mail->proxies[p].node;

        if (sim_node_frozen(proxy) || !sim_node_up(proxy))
            cl->ran_ns[p] = sim_now_ns(mail->world);
        for (unsigned k = 0; k < cl->server_count; k++)
            reach_look(&cl->servers[k].reach[p], sim_now_ns(mail->world), proxy, cl->servers[k].node);
    }
    sim_after(mail->world, LOOK_NS, cluster_look, cl);
}

static bool unreachable(const struct cluster_reach *r, uint64_t from_ns, uint64_t to_ns)
{
    bool still = r->until_ns < r->since_ns;

    return r->since_ns != 0 && r->since_ns <= from_ns && (still || r->until_ns >= to_ns + LOOK_NS);
}

/* Was it out of the proxy's reach for so long before the question that there is no link, and for all the time in which the
 * question must be refused? */
static bool never_sent(const struct cluster *cl, const struct mail_proxy *proxy, const struct sim_node *needs,
                       uint64_t asked_ns)
{
    size_t p = (size_t)(proxy - cl->mail->proxies);

    /* What had come before a proxy stood still counts as heard when it goes on. */
    if (cl->ran_ns[p] + REFUSED_NS >= asked_ns || asked_ns < REFUSED_NS)
        return false;
    for (unsigned k = 0; k < cl->server_count; k++)
        if (cl->servers[k].node == needs)
            return unreachable(&cl->servers[k].reach[p], asked_ns - REFUSED_NS,
                               asked_ns + REFUSED_NS + WAY_NS);
    return false;
}

static bool late(const struct cluster *cl, const struct mail_proxy *proxy, const struct sim_node *needs,
                 uint64_t asked_ns)
{
    return needs != NULL && sim_now_ns(cl->mail->world) > asked_ns + REFUSED_NS + WAY_NS &&
           never_sent(cl, proxy, needs, asked_ns);
}

/* ---- Answers, and connections that end without one ------------------------------------------------------ */

static bool proxy_lives(const struct mail_proxy *proxy, unsigned life)
{
    return sim_node_up(proxy->node) && sim_node_lives(proxy->node) == life;
}

static bool changes(const struct imap *c)
{
    const uint32_t kinds = 1u << MAIL_FETCH | 1u << MAIL_STORE | 1u << MAIL_APPEND | 1u << MAIL_COPY |
                           1u << MAIL_MOVE | 1u << MAIL_EXPUNGE | 1u << MAIL_CLOSE | 1u << MAIL_CREATE |
                           1u << MAIL_DELETE;

    return kinds >> c->kind & 1;
}

static bool said(const struct imap *c, const char *text)
{
    return slice_starts_nocase(slice_str(c->bye_text), slice_str(text));
}

/* No connection ends without a reason. */
static bool may_end(struct cluster *cl, const struct imap *c, uint64_t now_ns)
{
    const struct sim_node *home = c->ledger->homes[c->account];
    bool in_answer =
        c->talk.heard_ns != 0 && (c->kind != MAIL_IDLE || now_ns < c->talk.heard_ns + IDLE_ANSWER_NS);

    if (c->bye && said(c, "[UNAVAILABLE] What became of")) {
        cl->unknown++;
        return changes(c) && now_ns >= c->asked_ns + cl->outcome_wait_ms * SIM_MS;
    }
    if (c->bye &&
        said(
            c,
            "[UNAVAILABLE] This session cannot go on")) /* What it sees was forgotten, by a clock far ahead. */
        return home != NULL && sim_node_clock_jumps(home) > 0;
    if (c->bye &&
        (said(c, "[UNAVAILABLE] The store has failed") || said(c, "[UNAVAILABLE] Temporary failure; please")))
        return ledger_disk_faults(c->ledger, c->account) > 0;
    cl->cut += in_answer && !c->bye;
    return in_answer && !c->bye;
}

static void judge(struct imap *c, int rc)
{
    struct cluster *cl = c->judge_owner;
    uint64_t now_ns = sim_now_ns(c->world);
    const struct sim_node *needs = c->kind == MAIL_LOGIN ? cl->director : c->ledger->homes[c->account];

    if (rc >= 0 && c->kind != MAIL_IDLE && late(cl, c->proxy, needs, c->asked_ns))
        VIOLATION(cl, c->account, "a command was answered after %llu ms, and could not be sent all the time",
                  (unsigned long long)((now_ns - c->asked_ns) / SIM_MS));
    if (rc >= 0 || rc == -EPROTO || !proxy_lives(c->proxy, c->proxy_life))
        return;
    if (!may_end(cl, c, now_ns))
        VIOLATION(cl, c->account,
                  "lost its connection (error %d, operation %u, BYE '%s') after %llu ms, and its proxy lives",
                  -rc, c->kind, c->bye ? c->bye_text : "",
                  (unsigned long long)((now_ns - c->asked_ns) / SIM_MS));
}

/* A host without power says nothing, and a client that only listens would never know. */
static bool proxy_gone(const struct talk *s)
{
    const struct imap *c = CONTAINER_OF(s, struct imap, talk);

    return !proxy_lives(c->proxy, c->proxy_life);
}

void cluster_judges(struct cluster *cl, struct imap *c)
{
    c->talk.peer_gone = proxy_gone;
    c->judge = judge;
    c->judge_owner = cl;
    c->nodes = cluster_nodes(cl, c->proxy, c->account);
}

void cluster_judge_sender(const struct cluster *cl, const struct mail_proxy *proxy, unsigned proxy_life,
                          uint64_t asked_ns, const struct sim_node *needs, int rc)
{
    uint64_t took_ms = (sim_now_ns(cl->mail->world) - asked_ns) / SIM_MS;

    if (rc >= 0 && late(cl, proxy, needs, asked_ns))
        sim_violation(cl->mail->world,
                      "an MTA was answered after %llu ms, and nothing could be sent all the time",
                      (unsigned long long)took_ms);
    if (rc < 0 && rc != -EPROTO && proxy_lives(proxy, proxy_life))
        sim_violation(cl->mail->world,
                      "an MTA lost its connection (error %d) after %llu ms, and its proxy lives", -rc,
                      (unsigned long long)took_ms);
}

/* ---- Afterwards ---------------------------------------------------------------------------------------- */

/* What a dead proxy has sent waits at a cut link or in a backend that stands still; what arrives there is executed soon. */
void cluster_settle(const struct cluster *cl, const struct imap *c)
{
    const struct sim_node *proxy = c->proxy->node, *home = c->ledger->homes[c->account];
    unsigned ms = 0;

    while (ms < SETTLE_MS && fiber_sleep_ms(SETTLE_STEP_MS) == 0) {
        bool waits = home != NULL && (sim_node_frozen(home) || sim_node_frozen(proxy) ||
                                      sim_partitioned(proxy, home) || sim_partitioned(home, proxy));

        ms = waits ? 0 : ms + SETTLE_STEP_MS;
    }
}

uint32_t cluster_nodes(const struct cluster *cl, const struct mail_proxy *proxy, unsigned account)
{
    const struct sim_node *home = cl->mail->ledger->homes[account];

    return sim_node_bit(proxy->node) | sim_node_bit(cl->director) | (home != NULL ? sim_node_bit(home) : 0);
}
