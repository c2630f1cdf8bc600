/* tests/sim/mail_client.c -- virtual users: clients that come, work and go, an MTA that delivers, and the one
 * who looks at everything in the end. */
#include "tests/sim/cluster.h"
#include "tests/sim/mail.h"
#include "tests/sim/message.h"
#include <errno.h>
#include <stdio.h>

#define ACTIONS_MAX    40
#define THINK_MS       250
#define STEP_JITTER_MS 3
#define LOOK_AWAY_MS   8000
#define RETRY_MS       1500
#define RECIPIENTS_MAX 3
#define DELIVERIES_MAX 20 /* In one connection. */
#define CHECK_TRIES    60

static int operation(enum mail_operation kind, struct imap *c, int (*run)(struct imap *c, void *arg),
                     void *arg)
{
    struct sim_operation o;
    int rc;

    mail_begin(&o, kind, c);
    rc = run(c, arg);
    return mail_end(&o, c, rc);
}

static void pause_ms(uint32_t ms)
{
    int rc = fiber_sleep_ms(1 + (uint32_t)(random_u64() % ms));

    ASSERT(rc == 0); /* Nobody cancels a virtual client. */
}

/* Until the client acts again, or all of them do. */
static void think(const struct mail *mail, uint32_t times)
{
    uint32_t step_ms = mail->step_ms;

    if (step_ms == 0) {
        pause_ms(times * THINK_MS);
        return;
    }
    if (fiber_sleep_ms(step_ms - (uint32_t)(sim_now_ns(mail->world) / SIM_MS % step_ms)) == 0)
        pause_ms(STEP_JITTER_MS);
}

/* ---- Clients ------------------------------------------------------------------------------------------ */

static int run_login(struct imap *c, void *arg)
{
    return imap_login(c);
}

const struct mail_proxy *mail_proxy_any(const struct mail *mail)
{
    return &mail->proxies[mail->proxy_count > 1 ? random_u64() % mail->proxy_count : 0];
}

int mail_login(struct mail *mail, struct imap *c, const struct mail_proxy *proxy)
{
    int rc = imap_connect(c, &proxy->imap);

    if (rc < 0)
        return rc;
    c->proxy = proxy;
    c->proxy_life = sim_node_lives(proxy->node);
    if (mail->cluster != NULL)
        cluster_judges(mail->cluster, c);
    return operation(MAIL_LOGIN, c, run_login, NULL);
}

static int login(struct mail *mail, struct imap *c)
{
    return mail_login(mail, c, mail_proxy_any(mail));
}

static int run_create(struct imap *c, void *arg)
{
    return imap_command(c, "CREATE %s", ((struct ledger_mailbox *)arg)->name);
}

static int run_select(struct imap *c, void *arg)
{
    return imap_select(c, arg);
}

/* NO means that it is there, or that it cannot be made now: SELECT tells. */
static int create_all(struct imap *c)
{
    int rc = IMAP_OK;

    for (unsigned k = 0; rc >= 0 && k < LEDGER_MAILBOXES; k++) {
        struct ledger_mailbox *m = &c->ledger->mailboxes[c->account][k];

        if (m->created)
            continue;
        rc = operation(MAIL_CREATE, c, run_create, m);
        if (rc == IMAP_NO)
            rc = operation(MAIL_SELECT, c, run_select, m);
        if (rc == IMAP_OK)
            m->created = true;
    }
    return rc;
}

static int session(struct mail *mail, struct imap *c, unsigned client)
{
    unsigned actions = 1 + (unsigned)(random_u64() % ACTIONS_MAX);
    int rc = login(mail, c);

    if (rc != IMAP_OK)
        return rc;
    rc = create_all(c);
    if (rc < 0)
        return rc;
    for (unsigned k = 0; k < LEDGER_MAILBOXES; k++)
        if (!mail->ledger->mailboxes[c->account][k].created)
            return rc;
    rc = operation(
        MAIL_SELECT, c, run_select,
        &mail->ledger->mailboxes[c->account][random_u64() % 3 == 0 ? random_u64() % LEDGER_MAILBOXES : 0]);
    while (rc >= 0 && c->selected != NULL && actions-- > 0 && sim_now_ns(mail->world) < mail->until_ns) {
        rc = mail_act(mail, c, client);
        if (c->bye)
            break;
        /* Now and then a client looks away for long, and what it sees grows old. */
        if (random_u64() % 24 == 0)
            pause_ms(LOOK_AWAY_MS);
        else
            think(mail, 1);
    }
    return rc;
}

/* Waits until nothing can come any more of what it has asked for. */
static void settle(const struct mail *mail, const struct imap *c)
{
    if (mail->cluster != NULL)
        cluster_settle(mail->cluster, c);
    else
        (void)fiber_sleep_ms(mail->settle_ms);
}

void mail_client_run(void *arg)
{
    struct mail *mail = arg;
    unsigned number = mail->clients_begun++;
    struct imap c;

    while (sim_now_ns(mail->world) < mail->until_ns) {
        imap_init(&c, mail->ledger, number / LEDGER_CLIENTS, mail->patience_ms);
        (void)session(mail, &c, number % LEDGER_CLIENTS);
        imap_close(&c);
        if (c.unsettled)
            settle(mail, &c);
        pause_ms(RETRY_MS);
    }
    mail->clients_ended++;
}

/* ---- Delivery ----------------------------------------------------------------------------------------- */

struct sender { /* An MTA's connection. */
    struct mail *mail;
    struct talk talk;
    const struct mail_proxy *proxy;
    unsigned proxy_life;
    uint64_t asked_ns;
    struct ledger_mailbox *to[RECIPIENTS_MAX];
    bool accepted[RECIPIENTS_MAX];
    unsigned count, taken;                /* Recipients; those that were answered 250. */
    unsigned disk_faults[RECIPIENTS_MAX]; /* When the transaction began. */
    bool open;                            /* The last reply leaves open what became of it. */
    uint32_t id;
};

/* The last question ended so; `needs`: the one who had to be asked by the proxy. */
static int asked(const struct sender *s, const struct sim_node *needs, int rc)
{
    const struct cluster *cluster = s->mail->cluster;

    if (cluster != NULL)
        cluster_judge_sender(cluster, s->proxy, s->proxy_life, s->asked_ns, needs, rc);
    return rc;
}

/* The code of a reply, all of its lines; or -errno. */
static int reply(struct sender *s)
{
    struct slice line;
    int rc;

    do {
        rc = talk_line(&s->talk, &line);
        if (rc < 0)
            return rc;
        if (line.size < 4 || line.data[0] < '2' || line.data[0] > '5') {
            sim_violation(s->mail->world, "LMTP: not a reply: %.*s", (int)MIN(line.size, 200), line.data);
            return -EPROTO;
        }
    } while (line.data[3] == '-');
    s->open = slice_starts_nocase(slice_from(line, 4), SLICE("4.4.2"));
    return (line.data[0] - '0') * 100 + (line.data[1] - '0') * 10 + (line.data[2] - '0');
}

static int say(struct sender *s, const char *text)
{
    const struct cluster *cluster = s->mail->cluster;
    int rc;

    s->asked_ns = sim_now_ns(s->mail->world);
    rc = talk_send(&s->talk, slice_str(text));
    return asked(s, cluster != NULL ? cluster->director : NULL, rc < 0 ? rc : reply(s));
}

/* Different mailboxes: the same one twice would be two deliveries. */
static void choose_recipients(struct sender *s)
{
    unsigned account = (unsigned)(random_u64() % LEDGER_ACCOUNTS);

    s->count = 1 + (unsigned)(random_u64() % RECIPIENTS_MAX);
    for (unsigned k = 0; k < s->count; k++) {
        struct ledger_mailbox *boxes = s->mail->ledger->mailboxes[(account + k) % LEDGER_ACCOUNTS];

        s->to[k] = random_u64() % 5 == 0 && boxes[1].created ? &boxes[1] : &boxes[0];
        s->accepted[k] = false;
        s->disk_faults[k] = ledger_disk_faults(s->mail->ledger, s->to[k]->account);
    }
}

static int envelope(struct sender *s)
{
    char line[128];
    int rc = say(s, "MAIL FROM:<sender@sim.example>\r\n");

    if (rc != 250)
        return rc;
    for (unsigned k = 0; k < s->count; k++) {
        bool inbox = s->to[k] == &s->mail->ledger->mailboxes[s->to[k]->account][0];

        snprintf(line, sizeof line, "RCPT TO:<u%u%s%s@sim.example>\r\n", s->to[k]->account, inbox ? "" : "+",
                 inbox ? "" : s->to[k]->name);
        rc = say(s, line);
        if (rc < 0)
            return rc;
        s->accepted[k] = rc == 250;
    }
    return 250;
}

/* A dot before each line that begins with one, and the end. */
static size_t stuff(const char *from, size_t size, char *to)
{
    size_t n = 0;

    for (size_t k = 0; k < size; k++) {
        if (from[k] == '.' && k > 0 && from[k - 1] == '\n')
            to[n++] = '.';
        to[n++] = from[k];
    }
    memcpy(to + n, ".\r\n", 3);
    return n + 3;
}

static int send_data(struct sender *s)
{
    struct heap *heap = shard_self()->heap;
    size_t size = message_size(s->id);
    char *plain = heap_alloc(heap, size), *stuffed = heap_alloc(heap, 2 * size + 8);
    int rc;

    message_write(s->id, plain);
    rc = talk_send(&s->talk, slice_of(stuffed, stuff(plain, size, stuffed)));
    heap_free(heap, plain);
    heap_free(heap, stuffed);
    return rc;
}

static int send_chunk(struct sender *s)
{
    struct heap *heap = shard_self()->heap;
    size_t size = message_size(s->id);
    char *bytes = heap_alloc(heap, size + 64);
    int head = snprintf(bytes, 64, "BDAT %zu LAST\r\n", size), rc;

    message_write(s->id, bytes + head);
    rc = talk_send(&s->talk, slice_of(bytes, (size_t)head + size));
    heap_free(heap, bytes);
    return rc;
}

/* One reply for each recipient that was accepted, in their order. */
static int replies(struct sender *s)
{
    for (unsigned k = 0; k < s->count; k++) {
        const struct sim_node *home = s->mail->ledger->homes[s->to[k]->account];
        int rc;

        if (!s->accepted[k])
            continue;
        rc = asked(s, s->count == 1 ? home : NULL, reply(s));
        if (rc < 0)
            return rc;
        if (rc == 250) {
            ledger_place_acknowledged(s->to[k], s->id, 0);
            s->mail->ledger->acknowledged++;
            s->taken++;
        } else if (!s->open && s->disk_faults[k] == ledger_disk_faults(s->mail->ledger, s->to[k]->account)) {
            ledger_place_refused(s->to[k], s->id);
            s->mail->ledger->refused++;
        } else {
            s->mail->ledger->unknown++; /* 451 after a disk error, or 4.4.2, claims nothing. */
        }
    }
    return 250;
}

static int transaction(struct sender *s)
{
    bool chunks = random_u64() % 4 == 0, any = false;
    int rc = envelope(s);

    for (unsigned k = 0; rc == 250 && k < s->count; k++)
        any = any || s->accepted[k];
    if (rc != 250 || !any)
        return rc < 0 ? rc : say(s, "RSET\r\n");
    if (!chunks) {
        rc = say(s, "DATA\r\n");
        if (rc != 354)
            return rc < 0 ? rc : say(s, "RSET\r\n");
    }
    for (unsigned k = 0; k < s->count; k++)
        if (s->accepted[k])
            ledger_place_begin(s->to[k], s->id, 0, false);
    s->asked_ns = sim_now_ns(s->mail->world);
    rc = chunks ? send_chunk(s) : send_data(s);
    return rc < 0 ? asked(s, NULL, rc) : replies(s);
}

static uint32_t recipients_nodes(const struct sender *s)
{
    uint32_t nodes = 0;

    for (unsigned k = 0; s->mail->cluster != NULL && k < s->count; k++)
        nodes |= cluster_nodes(s->mail->cluster, s->proxy, s->to[k]->account);
    return nodes;
}

/* To those that were chosen. */
static int deliver(struct sender *s)
{
    struct sim_operation o;
    int rc;

    s->id = ledger_id(s->mail->ledger);
    if (s->id == 0)
        return -ENOSPC;
    sim_operation_begin_at(&o, MAIL_DELIVER, s->talk.sock, recipients_nodes(s));
    rc = transaction(s);
    sim_operation_end(&o);
    return rc;
}

static bool sender_alone(const struct talk *t)
{
    const struct sender *s = CONTAINER_OF(t, struct sender, talk);

    return !sim_node_up(s->proxy->node) || sim_node_lives(s->proxy->node) != s->proxy_life;
}

/* 250, or why there is no talking to it. */
static int greet(struct sender *s, const struct mail_proxy *proxy)
{
    int rc = talk_connect(&s->talk, &proxy->lmtp);

    s->proxy = proxy;
    s->proxy_life = sim_node_lives(proxy->node);
    s->asked_ns = sim_now_ns(s->mail->world);
    if (rc < 0)
        return rc;
    if (s->mail->cluster != NULL)
        s->talk.peer_gone = sender_alone;
    rc = asked(s, NULL, reply(s));
    return rc == 220 ? say(s, "LHLO mta.sim.example\r\n") : rc;
}

int mail_deliver(struct mail *mail, const struct mail_proxy *proxy, struct ledger_mailbox *to)
{
    struct sender s = {.mail = mail, .count = 1, .to[0] = to};
    int rc;

    talk_init(&s.talk, mail->patience_ms);
    s.disk_faults[0] = ledger_disk_faults(mail->ledger, to->account);
    rc = greet(&s, proxy);
    if (rc == 250)
        rc = deliver(&s);
    talk_abort(&s.talk);
    return rc == 250 && s.taken == 0 ? 451 : rc;
}

void mail_sender_run(void *arg)
{
    struct sender s = {.mail = arg};

    talk_init(&s.talk, s.mail->patience_ms);
    while (sim_now_ns(s.mail->world) < s.mail->until_ns) {
        unsigned count = 1 + (unsigned)(random_u64() % DELIVERIES_MAX);
        int rc = greet(&s, mail_proxy_any(s.mail));

        while (rc == 250 && count-- > 0 && sim_now_ns(s.mail->world) < s.mail->until_ns) {
            choose_recipients(&s);
            rc = deliver(&s);
            think(s.mail, 2);
        }
        talk_abort(&s.talk);
        pause_ms(RETRY_MS);
    }
    s.mail->clients_ended++;
}

/* ---- The last look ------------------------------------------------------------------------------------ */

static void body_checked(struct imap *c, const struct imap_fetched *f)
{
    const struct instance *i = f->has_body ? ledger_find(c->selected, f->uid) : NULL;
    size_t prefix_size;

    if (i != NULL && !message_matches(i->id, f->body, &prefix_size))
        sim_violation(c->world, "u%u %s: UID %u is not message %u byte for byte", c->account,
                      c->selected->name, f->uid, i->id);
}

/* 0: done, and whatever was wrong was told. What has rotted is not served: the rest is looked at one by one. */
static int check_mailbox(struct mail *mail, struct imap *c, struct ledger_mailbox *m)
{
    int rc = operation(MAIL_SELECT, c, run_select, m);

    if (rc == IMAP_NO && mail->ledger->rot && c->selected != NULL)
        rc = IMAP_OK;
    for (size_t k = 0; rc == IMAP_OK && k < c->count; k++) {
        c->view[k].answered = false;
        c->fetched = body_checked;
        rc = imap_command(c, "FETCH %zu (UID BODY.PEEK[])", k + 1);
        c->fetched = NULL;
        if (rc == IMAP_OK && !c->view[k].answered)
            sim_violation(mail->world, "u%u %s: UID %u cannot be read", m->account, m->name, c->view[k].uid);
        if (rc == IMAP_NO && mail->ledger->rot)
            rc = IMAP_OK;
    }
    mail->checked += rc == IMAP_OK;
    return rc;
}

static int check_account(struct mail *mail, struct imap *c)
{
    int rc = login(mail, c);

    for (unsigned k = 0; rc == IMAP_OK && k < LEDGER_MAILBOXES; k++)
        if (mail->ledger->mailboxes[c->account][k].created)
            rc = check_mailbox(mail, c, &mail->ledger->mailboxes[c->account][k]);
    if (rc == IMAP_OK)
        rc = mail_check_folders(c);
    if (rc == IMAP_OK && !mail->ledger->rot)
        ledger_check_account(mail->ledger, c->account);
    return rc;
}

void mail_checker_run(void *arg)
{
    struct mail *mail = arg;
    unsigned account = mail->checkers_begun++ % LEDGER_ACCOUNTS;
    struct imap c;
    int rc = IMAP_NO;

    for (unsigned tries = 0; rc != IMAP_OK && tries < CHECK_TRIES; tries++) {
        imap_init(&c, mail->ledger, account, mail->patience_ms);
        rc = check_account(mail, &c);
        imap_close(&c);
        pause_ms(RETRY_MS);
    }
    if (rc != IMAP_OK && !mail->ledger->rot)
        sim_violation(mail->world, "u%u cannot be looked at: %d", account, rc);
    mail->checkers_ended++;
}
