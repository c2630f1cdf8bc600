/* bench/wake.c -- `wake`: from the moment that a delivery's 250 is here to the `* n EXISTS` at each idle session of its user.
 *
 * The sessions are a swarm's: in processes of their own. This one delivers, --rate mails a second, to users drawn at random,
 * one mail on its way a user. What was delivered when stands in memory that all share; the clock is the machine's. A user's
 * n-th mail is the n-th that EXISTS counts beyond what SELECT has said, so nothing else may deliver meanwhile.
 * An EXISTS that is here before the 250 took 0; p99_from_data_us counts from the end of DATA instead. */
#include "bench/bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define COURIERS_MAX 64
#define DRAIN_US     10e6 /* For the last notifications. */
#define SLOTS        257  /* One a process. */
#define NONE         UINT32_MAX

struct mail {
    double sent_us, answered_us; /* 0: not yet. */
    uint32_t previous;           /* Of the same user. */
    uint32_t ordinal;            /* Of his: 1 is the first. */
};

struct slot { /* One process's counts. */
    struct latencies answered, sent;
    uint64_t notified, early;
};

static struct {
    struct mail *mails;
    uint32_t *last; /* By user: his newest. */
    struct slot *slots;
    uint32_t *slots_used;
} shared;

static void *shared_new(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        perror("trireme-bench: memory");
        exit(71);
    }
    return p;
}

/* ---- In a process of sessions -------------------------------------------------------------------------- */

static struct slot *own_slot(void)
{
    static struct slot *own;

    if (own == NULL)
        own = &shared.slots[__atomic_fetch_add(shared.slots_used, 1, __ATOMIC_RELAXED)];
    return own;
}

static const struct mail *mail_find(unsigned user, uint32_t ordinal)
{
    uint32_t at = __atomic_load_n(&shared.last[user], __ATOMIC_ACQUIRE);

    while (at != NONE && shared.mails[at].ordinal > ordinal)
        at = shared.mails[at].previous;
    return at != NONE && shared.mails[at].ordinal == ordinal ? &shared.mails[at] : NULL;
}

static void notified(unsigned user, uint32_t ordinal, double now)
{
    const struct mail *m = mail_find(user, ordinal);
    struct slot *slot = own_slot();
    double answered;

    if (m == NULL)
        return; /* Somebody else's mail: it shows as one that is missing. */
    answered = *(const volatile double *)&m->answered_us;
    slot->notified++;
    slot->early += answered == 0;
    latency_add(&slot->answered, answered == 0 ? 0 : now - answered);
    latency_add(&slot->sent, now - m->sent_us);
}

void wake_line(struct worker *w, struct slice line)
{
    struct slice exists = SLICE(" EXISTS");
    double now = clock_us();
    unsigned count;

    if (line.size < exists.size + 3 || line.data[0] != '*' ||
        !slice_eq(slice_from(line, line.size - exists.size), exists))
        return;
    count = (unsigned)strtoul(line.data + 2, NULL, 10);
    for (; w->exists < count; w->exists++)
        notified(w->user, (uint32_t)++w->sequence, now);
}

/* ---- Deliveries ---------------------------------------------------------------------------------------- */

struct courier {
    struct client client;
    struct wake *run;
    unsigned step, user;
    uint32_t mail;
    bool free;
};

struct wake {
    struct bench *bench;
    struct courier couriers[COURIERS_MAX];
    unsigned courier_count, ready;
    bool *busy; /* By user: a mail is on its way to him. */
    uint32_t mail_count, mail_max;
    uint64_t delivered, failed, expected;
    struct worker dice;
    double deliver_us;
};

enum { GREETING, LHLO, MAIL_FROM, RCPT_TO, DATA, BODY };

static uint64_t sessions_of(const struct wake *run, unsigned user)
{
    const struct options *o = &run->bench->options;

    return o->connections / o->users + (user < o->connections % o->users);
}

static void mail_begin(struct wake *run, struct courier *c)
{
    uint32_t previous = shared.last[c->user];

    c->mail = run->mail_count++;
    shared.mails[c->mail] =
        (struct mail){.sent_us = clock_us(),
                      .previous = previous,
                      .ordinal = previous != NONE ? shared.mails[previous].ordinal + 1 : 1};
    __atomic_store_n(&shared.last[c->user], c->mail, __ATOMIC_RELEASE);
}

static void mail_end(struct wake *run, struct courier *c, bool delivered)
{
    if (delivered) {
        *(volatile double *)&shared.mails[c->mail].answered_us = clock_us();
        run->delivered++;
        run->expected += sessions_of(run, c->user);
    } else {
        if (c->step == BODY) /* His next one is that which EXISTS will count. */
            shared.last[c->user] = shared.mails[c->mail].previous;
        run->failed++;
    }
    run->busy[c->user] = false;
    c->free = true;
}

static void courier_line(struct courier *c, struct slice line)
{
    struct bench *b = c->run->bench;
    bool good;

    if (line.size < 4 || line.data[3] != ' ')
        return;
    good = line.data[0] == (c->step == DATA ? '3' : '2');
    switch (c->step) {
    case GREETING:
        client_printf(&c->client, "LHLO bench.example.org\r\n");
        c->step = LHLO;
        break;
    case LHLO:
        c->run->ready++;
        c->free = true;
        c->step = MAIL_FROM;
        break;
    case MAIL_FROM:
    case RCPT_TO:
        c->step++;
        break;
    case DATA:
        if (!good) {
            mail_end(c->run, c, false);
            break;
        }
        mail_begin(c->run, c);
        client_write(&c->client, b->message, b->options.size);
        client_write(&c->client, ".\r\n", 3);
        c->step = BODY;
        break;
    default:
        mail_end(c->run, c, good);
    }
    client_flush(&c->client);
}

static void courier_event(struct client *client, enum client_event event)
{
    struct courier *c = client->owner;

    if (event == CLIENT_LINE) {
        courier_line(c, client->line);
    } else if (event == CLIENT_CLOSED) {
        fprintf(stderr, "trireme-bench: LMTP: connection closed\n");
        exit(1);
    }
}

static void courier_go(struct courier *c)
{
    struct wake *run = c->run;
    unsigned tries = 0;

    do
        c->user = (unsigned)worker_random(&run->dice, run->bench->options.users);
    while (run->busy[c->user] && ++tries < 100);
    if (run->busy[c->user])
        return;
    run->busy[c->user] = true;
    c->free = false;
    c->step = MAIL_FROM;
    client_printf(&c->client, "MAIL FROM:<bench@example.org>\r\nRCPT TO:<u%u@example.org>\r\nDATA\r\n",
                  c->user);
    client_flush(&c->client);
}

static bool couriers_connect(struct wake *run)
{
    struct options *o = &run->bench->options;
    double limit = clock_us() + 10e6;

    loop_init(&run->bench->loop, o->host, o->lmtp_port, false, false);
    for (unsigned i = 0; i < run->courier_count; i++) {
        struct courier *c = &run->couriers[i];

        *c = (struct courier){.client.fd = -1, .run = run};
        client_connect(&c->client, &run->bench->loop, courier_event, c);
    }
    while (run->ready < run->courier_count && clock_us() < limit)
        loop_run(&run->bench->loop, 10);
    return run->ready == run->courier_count;
}

/* As many as are due by now: what the server is late with is given later. */
static void deliver(struct wake *run)
{
    struct bench *b = run->bench;
    double start = clock_us(), end = start + b->options.seconds * 1e6;
    uint64_t given = 0;

    for (double now = start; now < end; now = clock_us()) {
        uint64_t due = (uint64_t)((now - start) / 1e6 * b->options.rate);

        for (unsigned i = 0; i < run->courier_count && given < due && given < run->mail_max; i++) {
            if (!run->couriers[i].free)
                continue;
            courier_go(&run->couriers[i]);
            given += !run->couriers[i].free;
        }
        loop_run(&b->loop, 1);
    }
    for (double limit = clock_us() + DRAIN_US; run->delivered + run->failed < given && clock_us() < limit;)
        loop_run(&b->loop, 10);
    run->deliver_us = clock_us() - start;
}

/* ---- The whole ----------------------------------------------------------------------------------------- */

static void sum_slots(struct slot *out)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        const struct slot *s = &shared.slots[i];

        out->notified += s->notified;
        out->early += s->early;
        out->answered.count += s->answered.count;
        out->sent.count += s->sent.count;
        for (unsigned k = 0; k < LATENCY_BUCKETS; k++) {
            out->answered.buckets[k] += s->answered.buckets[k];
            out->sent.buckets[k] += s->sent.buckets[k];
        }
    }
}

static void wait_notified(const struct wake *run, struct slot *sum)
{
    double limit = clock_us() + DRAIN_US;

    do {
        bench_pause(10e3);
        *sum = (struct slot){0};
        sum_slots(sum);
    } while (sum->notified < run->expected && clock_us() < limit);
}

static void print(const struct wake *run, const struct slot *sum, const double *before, const double *after)
{
    struct bench *b = run->bench;

    b->operations = run->delivered;
    bench_print_head(b);
    if (b->options.server.count > 0)
        bench_print_cpu(b, before, after);
    printf(
        "\"ops\": %llu, \"seconds\": %.2f, \"rate\": %.0f, \"ops_per_s\": %.1f, \"notifications\": %llu, "
        "\"missing\": %llu, \"early\": %llu, \"p50_us\": %.0f, \"p99_us\": %.0f, \"p50_from_data_us\": %.0f, "
        "\"p99_from_data_us\": %.0f, \"errors\": %llu}\n",
        (unsigned long long)run->delivered, run->deliver_us / 1e6, b->options.rate,
        (double)run->delivered * 1e6 / run->deliver_us, (unsigned long long)sum->notified,
        (unsigned long long)(run->expected - MIN(run->expected, sum->notified)),
        (unsigned long long)sum->early, latency_quantile(&sum->answered, 0.5),
        latency_quantile(&sum->answered, 0.99), latency_quantile(&sum->sent, 0.5),
        latency_quantile(&sum->sent, 0.99), (unsigned long long)run->failed);
}

static int wake_measure(struct wake *run)
{
    struct bench *b = run->bench;
    double before[LAYERS_MAX], after[LAYERS_MAX];
    static struct slot sum;

    if (!couriers_connect(run)) {
        fprintf(stderr, "trireme-bench: no LMTP at port %u\n", b->options.lmtp_port);
        return 1;
    }
    server_cpu_us(&b->options.server, before);
    deliver(run);
    wait_notified(run, &sum);
    server_cpu_us(&b->options.server, after);
    print(run, &sum, before, after);
    return run->failed > 0 || run->delivered == 0 || sum.notified < run->expected;
}

int wake_run(struct bench *b)
{
    static struct wake run;
    struct options *o = &b->options;
    struct swarm *swarm;
    int status = 1;

    run.bench = b;
    run.courier_count = MIN(MAX((unsigned)(o->rate / 20), 4), COURIERS_MAX);
    run.mail_max = (uint32_t)(o->rate * o->seconds) + COURIERS_MAX;
    run.busy = calloc(o->users, sizeof *run.busy);
    run.dice.random = 0x9e3779b97f4a7c15ull;
    shared.mails = shared_new((run.mail_max + COURIERS_MAX) * sizeof *shared.mails);
    shared.last = shared_new(o->users * sizeof *shared.last);
    shared.slots = shared_new(SLOTS * sizeof *shared.slots);
    shared.slots_used = shared_new(sizeof *shared.slots_used);
    memset(shared.last, 0xff, o->users * sizeof *shared.last);
    swarm = swarm_open(b);
    if (swarm != NULL)
        status = wake_measure(&run);
    swarm_close(swarm);
    return status;
}
