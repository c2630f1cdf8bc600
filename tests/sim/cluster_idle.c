/* tests/sim/cluster_idle.c -- clients that idle through all faults, and the mail that they must be told of afterwards. */
#include "core/fiber.h"
#include "tests/sim/cluster.h"
#include <errno.h>

#define RETRY_MS  1000
#define LISTEN_MS 500
#define LOOK_MS   20

static int select_inbox(struct imap *c)
{
    struct sim_operation o;

    mail_begin(&o, MAIL_SELECT, c);
    return mail_end(&o, c, imap_select(c, &c->ledger->mailboxes[c->account][0]));
}

static int idle(struct cluster *cl, struct imap *c, struct cluster_idler *idler)
{
    struct sim_operation o;
    int rc;

    mail_begin(&o, MAIL_IDLE, c);
    rc = imap_send(c, "IDLE");
    if (rc == 0)
        rc = imap_continuation(c);
    while (rc == 0 && !cl->idlers_stop) {
        idler->idles = true;
        idler->count = c->count;
        rc = imap_untagged(c, LISTEN_MS);
        if (rc == -ETIMEDOUT && !c->talk.peer_gone(&c->talk))
            rc = 0;
    }
    idler->idles = false;
    return mail_end(&o, c, rc);
}

void cluster_idler_run(void *arg)
{
    struct mail *mail = arg;
    struct cluster *cl = mail->cluster;
    unsigned number = cl->idlers_begun++;
    const struct mail_proxy *proxy = &mail->proxies[number / LEDGER_ACCOUNTS];
    struct imap c;

    while (!cl->idlers_stop) {
        int rc;

        imap_init(&c, mail->ledger, number % LEDGER_ACCOUNTS, mail->patience_ms);
        rc = mail_login(mail, &c, proxy);
        if (rc == IMAP_OK)
            rc = select_inbox(&c);
        if (rc == IMAP_OK)
            (void)idle(cl, &c, &cl->idlers[number]);
        imap_close(&c);
        (void)fiber_sleep_ms(1 + (uint32_t)(random_u64() % RETRY_MS));
    }
    cl->idlers_ended++;
}

bool cluster_idlers_ended(void *arg)
{
    const struct cluster *cl = ((struct mail *)arg)->cluster;

    return cl->idlers_ended == cl->idlers_begun;
}

bool cluster_all_idle(void *arg)
{
    const struct mail *mail = arg;

    for (unsigned k = 0; k < LEDGER_ACCOUNTS * mail->proxy_count; k++)
        if (!mail->cluster->idlers[k].idles)
            return false;
    return true;
}

/* ---- New mail ------------------------------------------------------------------------------------------ */

static bool all_told(const struct mail *mail, unsigned account, size_t count)
{
    for (unsigned p = 0; p < mail->proxy_count; p++) {
        const struct cluster_idler *i = &mail->cluster->idlers[p * LEDGER_ACCOUNTS + account];

        if (!i->idles || i->count != count)
            return false;
    }
    return true;
}

static int inbox_count(struct mail *mail, unsigned account, size_t *count_out)
{
    struct imap c;
    int rc;

    imap_init(&c, mail->ledger, account, mail->patience_ms);
    rc = mail_login(mail, &c, mail_proxy_any(mail));
    if (rc == IMAP_OK)
        rc = select_inbox(&c);
    *count_out = c.count;
    imap_close(&c);
    return rc;
}

/* A message comes by this proxy; `count` are there then. */
static void probe(struct mail *mail, unsigned account, const struct mail_proxy *proxy, size_t count)
{
    int rc = mail_deliver(mail, proxy, &mail->ledger->mailboxes[account][0]);
    uint64_t told_ns = sim_now_ns(mail->world) + mail->tell_ns;

    if (rc != 250)
        sim_violation(mail->world, "u%u: everything works again, and mail is answered %d", account, rc);
    while (rc == 250 && !all_told(mail, account, count)) {
        if (sim_now_ns(mail->world) > told_ns) {
            sim_violation(mail->world,
                          "u%u: everything works again, and new mail is not shown to all who idle", account);
            return;
        }
        (void)fiber_sleep_ms(LOOK_MS);
    }
}

void cluster_probe_run(void *arg)
{
    struct mail *mail = arg;
    struct cluster *cl = mail->cluster;
    unsigned account = cl->probes_begun++;
    size_t count;
    int rc = inbox_count(mail, account, &count);

    if (rc != IMAP_OK)
        sim_violation(mail->world, "u%u: everything works again, and INBOX cannot be selected: %d", account,
                      rc);
    for (unsigned p = 0; rc == IMAP_OK && p < mail->proxy_count; p++)
        probe(mail, account, &mail->proxies[p], ++count);
    cl->probes_ended++;
}

bool cluster_probes_ended(void *arg)
{
    return ((struct mail *)arg)->cluster->probes_ended == LEDGER_ACCOUNTS;
}
