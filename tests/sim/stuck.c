/* tests/sim/stuck.c -- the scenario `stuck`: an MTA gives messages to users of two backends, and at each moment of a delivery one of
 * the backends stands still: its process is stopped, or its disk takes nothing. The users of the other one get their mail, its own are
 * deferred within the deadlines of the proxy, replies come in the order of the recipients, and in the end each message that was
 * acknowledged is there once, and no other more than once. Nothing else goes wrong here: `cluster` has all other faults. */
#include "core/config.h"
#include "core/fiber.h"
#include "roles/role.h"
#include "roles/words/control.h"
#include "tests/sim/mail.h"
#include "tests/sim/scenario.h"
#include "tests/sim/talk.h"
#include <errno.h>
#include <stdio.h>

#define USERS         4 /* By turns at the one backend and the other. */
#define ROUNDS        8
#define PROBE_MS      2000
#define PROBES_MAX    30 /* Until everything works again. */
#define MESSAGES_MAX  (2 * ROUNDS * (PROBES_MAX + 1))
#define PATIENCE_MS   150000
#define WORLD_S       3600
#define SILENT_MS     5000          /* By then the proxy knows that a process is stopped. */
#define CREDIT_NS     (10 * SIM_S)  /* Of the proxy: without credit for so long, a recipient is cut off. */
#define REPLIES_NS    (60 * SIM_S)  /* So long it waits for the replies, once a message is complete. */
#define SLACK_NS      (2 * SIM_S)   /* For everything that moves. */
#define HEAL_MAX_MS   80000         /* What is stopped goes on before or after the deadline. */
#define DISK_FACTOR   100000000     /* What the disk has begun ends in hours. */
#define SIZE_LARGE    (1536 * 1024) /* Into a file of its own: its disk is asked before all of it has come. */
#define LINE_SIZE     64
#define TEXT_SIZE_MAX (SIZE_LARGE + 2 * LINE_SIZE)

/* When it begins to stand still: before the envelope, behind it, within the message, behind its end. */
#define MOMENTS(X)                                                                                           \
    X(MAIL)                                                                                                  \
    X(RCPT)                                                                                                  \
    X(DATA)                                                                                                  \
    X(DOT)
enum moment {
#define X(name) AT_##name,
    MOMENTS(X)
#undef X
        AT_NONE
};

static const char *const operations[] = {
#define X(name) #name,
    MOMENTS(X)
#undef X
        "NONE",
    NULL};

enum { PROXY, DIRECTOR, BACKEND, SERVERS = BACKEND + 2 };

struct stuck {
    struct sim_world *world;
    struct sim_node *servers[SERVERS];
    struct config *configs[SERVERS];
    struct net_addr imap, lmtp;
    bool placed, ended;
    struct heal { /* What stands still in that round goes on, if nothing has made it so before. */
        struct sim_node *node;
        const struct stuck *stuck;
        unsigned round;
    } heals[ROUNDS];
    unsigned round; /* ROUNDS: nothing stands still. */
    unsigned messages;
    uint8_t acknowledged[MESSAGES_MAX][USERS], refused[MESSAGES_MAX][USERS], found[MESSAGES_MAX][USERS];
};

struct delivery { /* One message, to all users. */
    struct stuck *stuck;
    struct talk talk;
    unsigned number;
    unsigned to[USERS]; /* In the order of RCPT. */
    int codes[USERS];   /* In theirs. */
    bool open[USERS];   /* The reply says nothing of what became of it. */
    enum moment moment;
    unsigned victim; /* Of the backends. */
    bool disk, large;
    uint32_t heal_ms; /* When it goes on, from then; 0: not before all replies are there. */
    uint32_t late_ms; /* From then to the rest of the message. */
    uint64_t data_ns, took_ns;
};

/* ---- The cluster --------------------------------------------------------------------------------------- */

static bool user_place(unsigned user)
{
    static const char *const backends[] = {"b0", "b1"};
    struct control_place place = {.begin = true, .node = slice_str(backends[user % 2])};
    char name[8];

    snprintf(name, sizeof name, "u%u", user);
    place.user = slice_str(name);
    control_self()->place(&place);
    return place.done || place.rc == -EALREADY;
}

static void operator_run(void *arg)
{
    struct stuck *s = arg;
    struct control_cluster cluster = {.deal = true};
    unsigned placed = 0;

    while (!cluster.dealt || !cluster.settled) {
        if (fiber_sleep_ms(20) < 0)
            return;
        if (control_self() != NULL)
            control_self()->cluster(&cluster);
    }
    while (placed < USERS && fiber_sleep_ms(20) == 0)
        placed += user_place(placed);
    s->placed = true;
}

static int director_start(struct shard *s)
{
    int rc = role_ops.start(s);

    if (rc == 0 && s->index == 0 &&
        fiber_start("operator", RUN_INTERACTIVE, operator_run, s->node->owner) == NULL)
        rc = -EAGAIN;
    return rc;
}

static void director_stop(struct shard *s)
{
    role_ops.stop(s);
}

static const struct node_ops director_ops = {director_start, director_stop};

static void servers_make(struct stuck *s)
{
    static const char *const names[] = {"p0", "d0", "b0", "b1"};
    static const char *const ips[] = {"127.0.1.0", "127.0.1.1", "127.0.1.2", "127.0.1.3"};
    static const char *const settings[][7] = {
        {"role=proxy", "node=p0", "data=/data", "imap.listen=127.0.1.0:143", "lmtp.listen=127.0.1.0:24",
         "directors=127.0.1.1:1143"},
        {"role=director", "node=d0", "data=/data", "link.listen=127.0.1.1:1143",
         "backends=127.0.1.2:1143,127.0.1.3:1143", "auth.static_password=secret", "auth.cache_size=64"},
        {"role=backend", "node=b0", "data=/data", "link.listen=127.0.1.2:1143"},
        {"role=backend", "node=b1", "data=/data", "link.listen=127.0.1.3:1143"},
    };

    for (unsigned k = 0; k < SERVERS; k++) {
        size_t count = 0;

        while (count < ARRAY_COUNT(settings[k]) && settings[k][count] != NULL)
            count++;
        s->configs[k] = mail_config(settings[k], count, sim_seed(s->world));
        s->servers[k] = sim_node_new(
            s->world, &(struct sim_node_options){.name = names[k],
                                                 .ip = ips[k],
                                                 .shard_count = 1 + (unsigned)sim_below(s->world, 2),
                                                 .ops = k == DIRECTOR ? &director_ops : &role_ops,
                                                 .config = s->configs[k],
                                                 .owner = s});
        sim_node_start(s->servers[k]);
    }
}

/* ---- Standing still ------------------------------------------------------------------------------------ */

static struct sim_node *victim_of(const struct delivery *d)
{
    return d->stuck->servers[BACKEND + d->victim];
}

static void thaw(void *node)
{
    sim_node_thaw(node);
}

static void heal(void *arg)
{
    const struct heal *h = arg;

    if (h->stuck->round == h->round)
        sim_node_thaw(h->node);
}

static void stand_still(const struct delivery *d)
{
    struct stuck *s = d->stuck;
    struct heal *h = &s->heals[s->round];

    *h = (struct heal){victim_of(d), s, s->round};
    if (d->disk)
        sim_disk_slow(victim_of(d), DISK_FACTOR);
    else
        sim_node_freeze(victim_of(d));
    if (d->heal_ms > 0)
        sim_after(s->world, d->heal_ms * SIM_MS, heal, h);
}

/* What waits for its disk would wait for hours. */
static void begin_again(void *node)
{
    sim_disk_slow(node, 1);
    sim_node_kill(node);
    sim_node_start(node);
}

static void go_on(const struct delivery *d)
{
    sim_after(d->stuck->world, 0, d->disk ? begin_again : thaw, victim_of(d));
}

static void moment_comes(const struct delivery *d, enum moment moment)
{
    if (d->moment != moment)
        return;
    stand_still(d);
    if (d->late_ms > 0)
        (void)fiber_sleep_ms(d->late_ms);
}

/* ---- A delivery ---------------------------------------------------------------------------------------- */

/* The code of a reply, or -errno. `open_out`, which may be NULL: it claims nothing of what became of the message. */
static int reply(struct talk *t, bool *open_out)
{
    struct slice line;
    int rc;

    do {
        rc = talk_line(t, &line);
        if (rc < 0)
            return rc;
        if (line.size < 4)
            return -EPROTO;
    } while (line.data[3] == '-');
    if (open_out != NULL)
        *open_out = slice_starts_nocase(slice_from(line, 4), SLICE("4.4.2"));
    return (line.data[0] - '0') * 100 + (line.data[1] - '0') * 10 + (line.data[2] - '0');
}

static bool say(struct delivery *d, const char *text, int code)
{
    int rc = talk_send(&d->talk, slice_str(text));

    if (rc == 0)
        rc = reply(&d->talk, NULL);
    if (rc != code)
        sim_violation(d->stuck->world, "message %u: %d to %.20s", d->number, rc, text);
    return rc == code;
}

static bool envelope(struct delivery *d)
{
    char line[64];

    moment_comes(d, AT_MAIL);
    if (!say(d, "MAIL FROM:<sender@sim.example>\r\n", 250))
        return false;
    for (unsigned k = 0; k < USERS; k++) {
        snprintf(line, sizeof line, "RCPT TO:<u%u@sim.example>\r\n", d->to[k]);
        if (!say(d, line, 250))
            return false;
    }
    moment_comes(d, AT_RCPT);
    return say(d, "DATA\r\n", 354);
}

static bool message(struct delivery *d)
{
    char *text = heap_alloc(shard_self()->heap, TEXT_SIZE_MAX);
    size_t size = (size_t)snprintf(text, LINE_SIZE, "Subject: %u\r\n\r\n", d->number);
    size_t end = d->large ? SIZE_LARGE : 4 * LINE_SIZE, half;
    int rc;

    while (size < end) {
        memset(text + size, 'x', LINE_SIZE - 2);
        memcpy(text + size + LINE_SIZE - 2, "\r\n", 2);
        size += LINE_SIZE;
    }
    half = size / 2;
    rc = talk_send(&d->talk, slice_of(text, half));
    moment_comes(d, AT_DATA);
    if (rc == 0)
        rc = talk_send(&d->talk, slice_of(text + half, size - half));
    if (rc == 0)
        rc = talk_send(&d->talk, SLICE(".\r\n"));
    heap_free(shard_self()->heap, text);
    if (d->moment == AT_DOT)
        stand_still(d); /* In the next instant its last bytes are on their way, and it has none of them. */
    return rc == 0;
}

static bool deliver(struct delivery *d)
{
    struct stuck *s = d->stuck;
    struct sim_operation o;
    bool ok;

    talk_init(&d->talk, PATIENCE_MS);
    ok = talk_connect(&d->talk, &s->lmtp) == 0 && reply(&d->talk, NULL) == 220 &&
         say(d, "LHLO mta.sim.example\r\n", 250);
    sim_operation_begin(&o, d->moment, d->talk.sock);
    ok = ok && envelope(d);
    d->data_ns = sim_now_ns(s->world);
    ok = ok && message(d);
    for (unsigned k = 0; ok && k < USERS; k++) {
        d->codes[k] = reply(&d->talk, &d->open[k]);
        ok = d->codes[k] > 0;
    }
    d->took_ns = sim_now_ns(s->world) - d->data_ns;
    sim_operation_end(&o);
    talk_close(&d->talk);
    if (!ok && sim_violation_count(s->world) == 0)
        sim_violation(s->world, "message %u: the connection ends", d->number);
    return ok;
}

/* ---- What it must come to ------------------------------------------------------------------------------ */

/* Of a backend that stood still before it had all of the message, and did until its users were answered. */
static bool cannot_answer(const struct delivery *d)
{
    bool sooner = d->moment == AT_MAIL || d->moment == AT_RCPT || d->moment == AT_DATA;

    return sooner && d->heal_ms == 0 && (d->large || d->disk || d->late_ms >= SILENT_MS);
}

/* What a disk does with all of a small message that it has been given is its own affair. */
static bool cannot_have_it(const struct delivery *d)
{
    return cannot_answer(d) && (d->large || !d->disk);
}

static uint64_t bound_ns(const struct delivery *d)
{
    uint64_t late_ns = d->moment == AT_DATA ? d->late_ms * SIM_MS : 0;

    if (d->large) /* Its recipients may run out of credit one after the other. */
        late_ns += USERS / 2 * CREDIT_NS;
    if (!d->large || !cannot_answer(d)) /* They are not cut off before all of it was sent. */
        late_ns += REPLIES_NS;
    return late_ns + SLACK_NS;
}

static void judge(const struct delivery *d)
{
    struct stuck *s = d->stuck;

    if (d->took_ns > bound_ns(d))
        sim_violation(s->world, "message %u: its replies took %.3f s", d->number, (double)d->took_ns / 1e9);
    for (unsigned k = 0; k < USERS; k++) {
        bool stuck = d->to[k] % 2 == d->victim;

        if (d->codes[k] != 250 && (d->codes[k] != 451 || !stuck))
            sim_violation(s->world, "message %u: %d for u%u", d->number, d->codes[k], d->to[k]);
        if (d->codes[k] == 250 && stuck && cannot_answer(d))
            sim_violation(s->world, "message %u: 250 for u%u, whose backend stands still", d->number,
                          d->to[k]);
        s->refused[d->number][d->to[k]] =
            stuck && d->codes[k] != 250 && (cannot_have_it(d) || !(d->open[k] || d->disk));
    }
}

/* The next message, its recipients in any order. */
static struct delivery *delivery_new(struct stuck *s)
{
    struct delivery *d = heap_zalloc(shard_self()->heap, sizeof *d);

    d->stuck = s;
    d->number = s->messages++;
    d->moment = AT_NONE;
    ASSERT(d->number < MESSAGES_MAX);
    for (unsigned k = 0; k < USERS; k++) {
        unsigned at = (unsigned)(random_u64() % (k + 1));

        d->to[k] = d->to[at];
        d->to[at] = k;
    }
    return d;
}

static void acknowledged_keep(const struct delivery *d)
{
    for (unsigned k = 0; k < USERS; k++)
        d->stuck->acknowledged[d->number][d->to[k]] = d->codes[k] == 250;
}

/* ---- The MTA ------------------------------------------------------------------------------------------- */

static void draw(struct delivery *d, unsigned round)
{
    static const uint32_t lates_ms[] = {0, 1000, SILENT_MS, 20000};

    d->moment = (enum moment)(round % AT_NONE);
    d->disk = round / AT_NONE % 2 == 1;
    d->victim = (unsigned)(random_u64() % 2);
    d->large = random_u64() % 2 == 0;
    d->late_ms = lates_ms[random_u64() % ARRAY_COUNT(lates_ms)];
    if (!d->disk && random_u64() % 3 == 0)
        d->heal_ms = 1 + (uint32_t)(random_u64() % HEAL_MAX_MS);
}

/* True: everybody gets his mail again. */
static bool works_again(struct stuck *s)
{
    bool all = false;

    for (unsigned probes = 0; !all && probes < PROBES_MAX && fiber_sleep_ms(PROBE_MS) == 0; probes++) {
        struct delivery *d = delivery_new(s);

        all = deliver(d);
        for (unsigned k = 0; k < USERS; k++)
            all = all && d->codes[k] == 250;
        acknowledged_keep(d);
        heap_free(shard_self()->heap, d);
    }
    if (!all)
        sim_violation(s->world, "nothing stands still any more, and mail is not taken");
    return all;
}

static void round_run(struct stuck *s, unsigned round)
{
    struct delivery *d = delivery_new(s);

    s->round = round;
    draw(d, round);
    if (deliver(d))
        judge(d);
    acknowledged_keep(d);
    s->round = ROUNDS;
    go_on(d);
    heap_free(shard_self()->heap, d);
}

/* ---- The last look ------------------------------------------------------------------------------------- */

static void subject_found(struct stuck *s, unsigned user, struct slice line)
{
    char text[32] = "";
    unsigned number;

    memcpy(text, line.data, MIN(line.size, sizeof text - 1));
    if (sscanf(text, "Subject: %u", &number) == 1 && number < MESSAGES_MAX)
        s->found[number][user]++;
}

/* Until the tagged answer. */
static bool ask(struct stuck *s, struct talk *t, unsigned user, const char *text)
{
    struct slice line;
    int rc = talk_send(t, slice_str(text));

    while (rc == 0 && (rc = talk_line(t, &line)) == 0 && !slice_starts_nocase(line, SLICE("a ")))
        subject_found(s, user, line);
    return rc == 0 && slice_starts_nocase(line, SLICE("a OK"));
}

static void look(struct stuck *s, unsigned user)
{
    struct talk talk;
    char login[32];
    bool ok;

    snprintf(login, sizeof login, "a LOGIN u%u secret\r\n", user);
    talk_init(&talk, PATIENCE_MS);
    ok = talk_connect(&talk, &s->imap) == 0 && ask(s, &talk, user, login) &&
         ask(s, &talk, user, "a SELECT INBOX\r\n") &&
         ask(s, &talk, user, "a FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])\r\n");
    talk_close(&talk);
    if (!ok)
        sim_violation(s->world, "u%u cannot be looked at", user);
    for (unsigned k = 0; ok && k < s->messages; k++) {
        if (s->found[k][user] > 1)
            sim_violation(s->world, "u%u has message %u %u times", user, k, s->found[k][user]);
        if (s->found[k][user] == 0 && s->acknowledged[k][user])
            sim_violation(s->world, "u%u has lost message %u", user, k);
        if (s->found[k][user] > 0 && s->refused[k][user])
            sim_violation(s->world, "u%u has message %u, which was refused", user, k);
    }
}

static void mta_run(void *arg)
{
    struct stuck *s = arg;

    for (unsigned round = 0; works_again(s) && round < ROUNDS; round++)
        round_run(s, round);
    for (unsigned user = 0; user < USERS; user++)
        look(s, user);
    s->ended = true;
}

static int mta_start(struct shard *s)
{
    return fiber_start("mta", RUN_INTERACTIVE, mta_run, s->node->owner) != NULL ? 0 : -EAGAIN;
}

static const struct node_ops mta_ops = {.start = mta_start};

/* ---- The run ------------------------------------------------------------------------------------------- */

static bool all_placed(void *arg)
{
    return ((struct stuck *)arg)->placed;
}

static bool mta_ended(void *arg)
{
    return ((struct stuck *)arg)->ended;
}

static bool run_until(struct stuck *s, bool (*until)(void *arg), const char *what)
{
    if (sim_run(s->world, sim_now_ns(s->world) + WORLD_S * SIM_S, until, s))
        return true;
    if (sim_violation_count(s->world) == 0)
        sim_violation(s->world, "%s", what);
    return false;
}

static void stuck_run(struct sim_world *w)
{
    struct stuck s = {.world = w, .round = ROUNDS};
    struct sim_node *mta;

    ASSERT(net_addr_parse(SLICE("127.0.1.0:143"), &s.imap) && net_addr_parse(SLICE("127.0.1.0:24"), &s.lmtp));
    sim_smooth_network(w); /* What takes long is what stands still. */
    servers_make(&s);
    mta = sim_node_new(w, &(struct sim_node_options){.name = "mta",
                                                     .ip = "127.0.0.1",
                                                     .shard_count = 1,
                                                     .ops = &mta_ops,
                                                     .owner = &s,
                                                     .client = true,
                                                     .kind = UINT8_MAX});
    if (run_until(&s, all_placed, "the users are not placed")) {
        sim_node_start(mta);
        (void)run_until(&s, mta_ended, "the deliveries do not end");
    }
    for (unsigned k = 0; k < SERVERS; k++)
        config_free(s.configs[k]);
}

const struct scenario scenario_stuck = {
    "stuck", "an MTA, and a backend that stands still at each moment of a delivery", operations, stuck_run,
    false};
