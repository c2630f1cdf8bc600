/* bench/sim/lmtp.c -- an MTA: some connections to the proxy, a message a user. */
#include "bench/sim/sessions.h"
#include "core/fiber.h"
#include <errno.h>
#include <stdio.h>

#define FIBERS    200 /* MTAs. */
#define DELIVER_S 3600

/* The answer to what was sent: its last line begins with `code`. */
static int expect(struct wire *w, const char *code)
{
    int rc = 0;

    for (;;) {
        char *line = w->data;

        for (char *end; (end = memmem(line, w->size - (size_t)(line - w->data), "\r\n", 2)) != NULL;
             line = end + 2) {
            if (end - line > 3 && line[3] == '-')
                continue;
            return strncmp(line, code, 3) == 0 ? 0 : -EPROTO;
        }
        rc = wire_receive(w);
        if (rc < 0)
            return rc;
    }
}

static int say(struct wire *w, const char *text, const char *code)
{
    int rc;

    w->size = 0;
    rc = wire_send(w, slice_str(text));
    return rc == 0 ? expect(w, code) : rc;
}

static int deliver(struct wire *w, unsigned user)
{
    char name[16], text[128];
    int rc = say(w, "MAIL FROM:<bench@example.org>\r\n", "250");

    snprintf(text, sizeof text, "RCPT TO:<%.*s@example.org>\r\n", (int)user_name(user, name), name);
    if (rc == 0)
        rc = say(w, text, "250");
    if (rc == 0)
        rc = say(w, "DATA\r\n", "354");
    if (rc == 0)
        rc = say(w,
                 "From: bench@example.org\r\nTo: you@example.org\r\nSubject: mail\r\n\r\n"
                 "There is mail for you.\r\n.\r\n",
                 "250");
    return rc;
}

static void sender_run(void *arg)
{
    struct sessions *b = arg;
    struct wire *w = heap_alloc(shard_self()->heap, sizeof *w);
    int rc = wire_connect(w, &b->lmtp);

    if (rc == 0)
        rc = expect(w, "220");
    if (rc == 0)
        rc = say(w, "LHLO bench.example.org\r\n", "250");
    while (rc == 0 && b->mail_next < b->options.mails) {
        rc = deliver(w, b->mail_users[b->mail_next++]);
        b->mails_sent++;
    }
    if (rc < 0) {
        b->mails_failed++;
        b->mails_sent = b->options.mails; /* No more come. */
    }
    wire_close(w);
    heap_free(shard_self()->heap, w);
}

static void senders_start(void *arg)
{
    for (unsigned i = 0; i < FIBERS; i++)
        ASSERT(fiber_start("mta", RUN_INTERACTIVE, sender_run, arg) != NULL);
}

static bool all_sent(void *arg)
{
    const struct sessions *b = arg;

    return b->mails_sent >= b->options.mails;
}

bool lmtp_deliver(struct sessions *b)
{
    sim_call(b->shards[CLIENTS], senders_start, b);
    return world_run(b, DELIVER_S, all_sent) && b->mails_failed == 0;
}
