/* bench/upgrade.c -- `upgrade`: what clients see while their server is replaced under them, again and again, by somebody else. Sessions
 * idle, FETCH what they know, and APPEND in pieces; every byte of every answer is looked at. Prints {"ready": N} when all are there, and what
 * came of them when its input ends, or after --seconds if they are given: then each must answer once more.
 *
 * Of a hundred sessions 98 idle in INBOX, and say NOOP every now and then; one fetches a message of --size bytes, and one appends messages of
 * it, each in a mailbox of its own, where UIDs must be 1, 2, 3. */
#include "bench/bench.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_COUNT_MAX 18000 /* Descriptors of one process, and some to spare. */
#define CHILDREN_MAX    16
#define PACE            24 /* On their way at once, of a process. */
#define REPORT_US       200e3
#define LOOK_US         20e3 /* Whose pause is over? */
#define READY_LIMIT_US  600e6
#define LAST_LIMIT_US   90e6 /* For the last answer of everybody. */
#define PIECES          8
#define IDLE_US         60e6 /* On the average. */
#define FETCH_US        2e6
#define APPEND_US       4e6
#define PIECE_US        40e3
#define LINE_SIZE       64

enum kind { KIND_IDLE, KIND_FETCH, KIND_APPEND };

/* Named for what it waits for. The tag of a command is one letter. */
enum step {
    STEP_GREETING,
    STEP_LOGIN,  /* l */
    STEP_CREATE, /* c */
    STEP_SELECT, /* s */
    STEP_PAUSE,
    STEP_GO_ON, /* "+" of an APPEND. */
    STEP_PIECE, /* A pause between its pieces. */
    STEP_APPEND,
    STEP_FETCH,
    STEP_IDLE, /* "+"; then a pause. */
    STEP_IDLES,
    STEP_DONE,
    STEP_NOOP,
    STEP_LAST, /* The last NOOP. */
    STEP_ENDED
};

struct session {
    struct client client;
    struct upgrade *run;
    unsigned index;
    uint8_t kind, step;
    bool ready, expects; /* A literal of a message, whole or in part. */
    unsigned appended, piece;
    uint64_t literal_at;
    uint64_t random;
    double since_us, due_us;
};

struct report {
    uint32_t ready, dropped, wrong, last; /* last: those that have answered at the end. */
    uint64_t commands, fetched, appended, bytes;
    double longest_us;
};

struct upgrade {
    struct bench *bench;
    struct session *sessions;
    unsigned first, count;
    bool all_ready, ending;
    struct report report;
};

/* ---- What is said -------------------------------------------------------------------------------------- */

static double after(struct session *s, double us)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return clock_us() + us * (0.5 + (double)(s->random % 1024) / 1024);
}

/* Lines of 64 bytes; the first two are a header and the empty line behind it. No message is like another. */
static char message_byte(unsigned index, unsigned number, uint64_t at)
{
    static const char start[] = "Subject: ";
    unsigned column = (unsigned)(at % LINE_SIZE);
    uint64_t mixed =
        (at / 8 + 1) * 0x9e3779b97f4a7c15ull ^ ((uint64_t)index << 32 | number) * 0xbf58476d1ce4e5b9ull;

    if (column >= LINE_SIZE - 2)
        return column == LINE_SIZE - 2 ? '\r' : '\n';
    if (at < sizeof start - 1)
        return start[at];
    if (at >= LINE_SIZE - 4 && at < LINE_SIZE)
        return at == LINE_SIZE - 4 ? '\r' : '\n';
    mixed ^= mixed >> 29;
    return "0123456789abcdef"[mixed >> (at % 8 * 4) & 15];
}

static void step(struct session *s, enum step next)
{
    s->step = (uint8_t)next;
    s->since_us = clock_us();
}

static void ask(struct session *s, enum step next, const char *text)
{
    client_printf(&s->client, "%s\r\n", text);
    client_flush(&s->client);
    step(s, next);
}

static void append_begin(struct session *s)
{
    client_printf(&s->client, "a APPEND B%u {%u}\r\n", s->index, s->run->bench->options.size);
    client_flush(&s->client);
    s->piece = 0;
    step(s, STEP_GO_ON);
}

static void append_piece(struct session *s)
{
    uint64_t size = s->run->bench->options.size, end;
    char bytes[4096];

    end = size * (s->piece + 1) / PIECES;
    for (uint64_t at = size * s->piece / PIECES; at < end;) {
        size_t part = (size_t)MIN(end - at, (uint64_t)sizeof bytes);

        for (size_t i = 0; i < part; i++)
            bytes[i] = message_byte(s->index, s->appended + 1, at + i);
        client_write(&s->client, bytes, part);
        at += part;
    }
    if (++s->piece == PIECES)
        client_write(&s->client, "\r\n", 2);
    client_flush(&s->client);
    step(s, s->piece == PIECES ? STEP_APPEND : STEP_PIECE);
    s->due_us = after(s, PIECE_US);
}

static void fetch_begin(struct session *s)
{
    client_printf(&s->client, "f UID FETCH %u (UID BODY.PEEK[])\r\n", s->appended);
    client_flush(&s->client);
    s->literal_at = 0;
    s->expects = false;
    step(s, STEP_FETCH);
}

/* Its pause is over, or all end. */
static void session_go_on(struct session *s)
{
    if (s->step == STEP_PIECE)
        append_piece(s);
    else if (s->step == STEP_IDLES)
        ask(s, STEP_DONE, "DONE");
    else if (s->run->ending)
        ask(s, STEP_LAST, "n NOOP");
    else if (s->kind == KIND_IDLE)
        ask(s, STEP_NOOP, "n NOOP");
    else if (s->kind == KIND_APPEND || s->appended == 0)
        append_begin(s);
    else
        fetch_begin(s);
}

static void session_pause(struct session *s)
{
    if (!s->ready)
        s->run->report.ready++;
    s->ready = true;
    s->due_us = after(s, s->kind == KIND_IDLE ? IDLE_US : s->kind == KIND_FETCH ? FETCH_US : APPEND_US);
    step(s, s->step == STEP_IDLE ? STEP_IDLES : STEP_PAUSE);
}

/* ---- What is heard ------------------------------------------------------------------------------------- */

static void session_wrong(struct session *s, const char *what, struct slice line)
{
    if (s->run->report.wrong++ == 0)
        fprintf(stderr, "trireme-bench: session %u, step %u: %s: %.*s\n", s->index, s->step, what,
                (int)MIN(line.size, 120), line.data);
}

static void on_literal(struct session *s, struct slice bytes)
{
    for (size_t i = 0; i < bytes.size; i++) {
        if (s->expects && bytes.data[i] == message_byte(s->index, s->appended, s->literal_at + i))
            continue;
        session_wrong(s, "another byte", slice_from(bytes, i));
        break;
    }
    s->literal_at += bytes.size;
    s->run->report.bytes += bytes.size;
}

static bool line_ends(struct slice line, const char *text)
{
    size_t size = strlen(text);

    return line.size >= size && memcmp(line.data + line.size - size, text, size) == 0;
}

/* Of answers that are not tagged. */
static void on_untagged(struct session *s, struct slice line)
{
    char literal[64];

    snprintf(literal, sizeof literal, "(UID %u BODY[] {%u}", s->appended, s->run->bench->options.size);
    if (s->step == STEP_FETCH && line_ends(line, literal) && !s->expects)
        s->expects = true;
    else if (s->ready && line.data[0] == '*' && !line_ends(line, " EXISTS") && !line_ends(line, " RECENT") &&
             !slice_starts_nocase(line, SLICE("* OK Still here")))
        session_wrong(s, "unexpected", line);
}

/* `a OK [APPENDUID 1 7] ...`: the newest is the one more. */
static bool append_counts(struct session *s, struct slice line)
{
    char text[32];

    s->appended++;
    snprintf(text, sizeof text, " %u] ", s->appended);
    return memmem(line.data, line.size, text, strlen(text)) != NULL;
}

static void session_answered(struct session *s, struct slice line)
{
    struct report *r = &s->run->report;

    r->longest_us = s->ready ? MAX(r->longest_us, clock_us() - s->since_us) : 0;
    r->commands++;
    switch ((enum step)s->step) {
    case STEP_LOGIN:
        client_printf(&s->client, s->kind == KIND_IDLE ? "c NOOP\r\n" : "c CREATE B%u\r\n", s->index);
        step(s, STEP_CREATE);
        break;
    case STEP_CREATE:
        client_printf(&s->client, s->kind == KIND_IDLE ? "s SELECT INBOX\r\n" : "s SELECT B%u\r\n", s->index);
        step(s, STEP_SELECT);
        break;
    case STEP_APPEND:
        r->appended++;
        if (!append_counts(s, line))
            session_wrong(s, "another UID", line);
        fetch_begin(s);
        break;
    case STEP_FETCH:
        r->fetched++;
        if (!s->expects || s->literal_at != s->run->bench->options.size)
            session_wrong(s, "another size", line);
        session_pause(s);
        break;
    case STEP_LAST:
        r->last++;
        step(s, STEP_ENDED);
        break;
    case STEP_SELECT:
    case STEP_NOOP:
        if (s->kind == KIND_IDLE && !s->run->ending)
            ask(s, STEP_IDLE, "i IDLE");
        else
            session_pause(s);
        break;
    case STEP_DONE:
        session_pause(s);
        s->due_us = 0;
        break;
    default:
        session_wrong(s, "an answer", line);
    }
    client_flush(&s->client);
}

static void on_line(struct session *s, struct slice line)
{
    static const char tags[] = {
        [STEP_LOGIN] = 'l', [STEP_CREATE] = 'c', [STEP_SELECT] = 's', [STEP_APPEND] = 'a', [STEP_FETCH] = 'f',
        [STEP_DONE] = 'i',  [STEP_NOOP] = 'n',   [STEP_LAST] = 'n',   [STEP_ENDED] = 0};
    char tag[2] = {tags[s->step], '\0'};

    if (s->step == STEP_GREETING) {
        client_printf(&s->client, "l LOGIN u%u %s\r\n", s->index % s->run->bench->options.users,
                      s->run->bench->options.password);
        client_flush(&s->client);
        step(s, STEP_LOGIN);
    } else if (line.size > 0 && line.data[0] == '+' && s->step == STEP_GO_ON) {
        append_piece(s);
    } else if (line.size > 0 && line.data[0] == '+' && s->step == STEP_IDLE) {
        session_pause(s);
    } else if (tag[0] != '\0' && answer_is(line, tag) && (answer_ok(line) || s->step == STEP_CREATE)) {
        session_answered(s, line);
    } else if (s->step == STEP_FETCH && slice_eq(line, SLICE(")"))) {
        return;
    } else if (line.size > 0 && line.data[0] == '*') {
        on_untagged(s, line);
    } else {
        session_wrong(s, "unexpected", line);
    }
}

static void on_event(struct client *c, enum client_event event)
{
    struct session *s = c->owner;

    if (event == CLIENT_LINE) {
        on_line(s, c->line);
    } else if (event == CLIENT_LITERAL) {
        on_literal(s, c->line);
    } else if (event == CLIENT_CLOSED) {
        s->run->report.dropped++;
        step(s, STEP_ENDED);
    }
}

/* ---- A process of clients ------------------------------------------------------------------------------ */

static void sessions_look(struct upgrade *u, unsigned begun)
{
    double now = clock_us();

    for (unsigned i = 0; i < begun; i++) {
        struct session *s = &u->sessions[i];
        bool pauses = s->step == STEP_PAUSE || s->step == STEP_IDLES || s->step == STEP_PIECE;

        if (pauses && (s->due_us <= now || (u->ending && s->step != STEP_PIECE)))
            session_go_on(s);
        if (!pauses)
            continue;
        client_rest(&s->client);
    }
}

static void session_begin(struct upgrade *u, unsigned i)
{
    struct session *s = &u->sessions[i];
    unsigned index = u->first + i;

    *s = (struct session){.client = {.fd = -1},
                          .run = u,
                          .index = index,
                          .kind = index % 100 > 1    ? KIND_IDLE
                                  : index % 100 == 1 ? KIND_FETCH
                                                     : KIND_APPEND,
                          .random = 0x9e3779b97f4a7c15ull * (index + 1)};
    client_connect(&s->client, &u->bench->loop, on_event, s);
}

/* 'b' comes: all are ready; 'e': all end; the pipe's end: the parent is gone. */
NORETURN static void child_run(struct upgrade *u, int from, int to)
{
    struct options *o = &u->bench->options;
    double report_us = 0, look_us = 0;
    unsigned begun = 0;
    char byte;
    ssize_t got;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    loop_init(&u->bench->loop, o->host, o->port, o->tls, o->resume);
    u->sessions = calloc(u->count, sizeof *u->sessions);
    while ((got = read(from, &byte, 1)) != 0 && u->sessions != NULL) {
        u->all_ready |= got == 1;
        u->ending |= got == 1 && byte == 'e';
        for (; begun < u->count && begun < u->report.ready + u->report.dropped + PACE; begun++)
            session_begin(u, begun);
        loop_run(&u->bench->loop, 10);
        if (u->all_ready && clock_us() - look_us > LOOK_US) {
            look_us = clock_us();
            sessions_look(u, begun);
        }
        if (clock_us() - report_us > REPORT_US) {
            report_us = clock_us();
            if (write(to, &u->report, sizeof u->report) != sizeof u->report)
                break;
        }
    }
    exit(0);
}

/* ---- The process that asks ----------------------------------------------------------------------------- */

struct child {
    pid_t pid;
    int to, from;
    struct report report;
};

static struct report reports_read(struct child *children, unsigned count)
{
    struct report sum = {0};

    for (unsigned i = 0; i < count; i++) {
        struct report r, *last = &children[i].report;

        while (read(children[i].from, &r, sizeof r) == sizeof r)
            *last = r;
        sum.ready += last->ready;
        sum.dropped += last->dropped;
        sum.wrong += last->wrong;
        sum.last += last->last;
        sum.commands += last->commands;
        sum.fetched += last->fetched;
        sum.appended += last->appended;
        sum.bytes += last->bytes;
        sum.longest_us = MAX(sum.longest_us, last->longest_us);
    }
    return sum;
}

static bool child_start(struct child *c, struct upgrade *u)
{
    int down[2], up[2];

    if (pipe2(down, O_CLOEXEC) < 0 || pipe2(up, O_CLOEXEC | O_NONBLOCK) < 0 || (c->pid = fork()) < 0) {
        perror("trireme-bench: a process for clients");
        return false;
    }
    if (c->pid == 0) {
        close(down[1]);
        (void)fcntl(down[0], F_SETFL, O_NONBLOCK);
        child_run(u, down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    c->to = down[1];
    c->from = up[0];
    return true;
}

static void print(const struct bench *b, const struct report *r, double seconds)
{
    bench_print_head(b);
    printf(
        "\"commands\": %llu, \"fetched\": %llu, \"appended\": %llu, \"bytes\": %llu, \"longest_ms\": %.0f, "
        "\"seconds\": %.1f, \"alive\": %u, \"dropped\": %u, \"wrong\": %u}\n",
        (unsigned long long)r->commands, (unsigned long long)r->fetched, (unsigned long long)r->appended,
        (unsigned long long)r->bytes, r->longest_us / 1e3, seconds, r->last, r->dropped, r->wrong);
    fflush(stdout);
}

/* Until the input ends, or time is over. Reports are read meanwhile: nobody waits for his reader. */
static void wait_end(const struct options *o, struct child *children, unsigned count)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    double end = clock_us() + o->seconds * 1e6;
    char byte;

    while (clock_us() < end) {
        (void)reports_read(children, count);
        if (poll(&input, 1, 100) > 0 && read(STDIN_FILENO, &byte, 1) <= 0)
            return;
    }
}

static bool tell_all(const struct child *children, unsigned count, const char *byte)
{
    for (unsigned i = 0; i < count; i++) {
        if (write(children[i].to, byte, 1) != 1)
            return false;
    }
    return true;
}

int upgrade_run(struct bench *b)
{
    static struct child children[CHILDREN_MAX];
    unsigned count = b->options.connections, child_count = 0;
    double start = clock_us();
    struct report r = {0};

    if (count > CHILDREN_MAX * CHILD_COUNT_MAX)
        return 64;
    /* Two processes at least: one alone would be busier than the server. */
    for (unsigned first = 0, part = MIN((count + 1) / 2, (unsigned)CHILD_COUNT_MAX); first < count;
         first += part) {
        struct upgrade u = {.bench = b, .first = first, .count = MIN(part, count - first)};

        if (!child_start(&children[child_count++], &u))
            return 71;
    }
    while (r.ready + r.dropped < count && clock_us() - start < READY_LIMIT_US) {
        bench_pause(REPORT_US);
        r = reports_read(children, child_count);
    }
    printf("{\"ready\": %u, \"seconds\": %.1f}\n", r.ready, (clock_us() - start) / 1e6);
    fflush(stdout);
    if (!tell_all(children, child_count, "b"))
        return 71;
    wait_end(&b->options, children, child_count);
    if (!tell_all(children, child_count, "e"))
        return 71;
    for (double since = clock_us(); r.last + r.dropped < count && clock_us() - since < LAST_LIMIT_US;) {
        bench_pause(REPORT_US);
        r = reports_read(children, child_count);
    }
    print(b, &r, (clock_us() - start) / 1e6);
    for (unsigned i = 0; i < child_count; i++)
        close(children[i].to);
    for (unsigned i = 0; i < child_count; i++)
        waitpid(children[i].pid, NULL, 0);
    return r.last < count || r.dropped > 0 || r.wrong > 0;
}
