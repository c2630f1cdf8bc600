#include "core/log.h"
#include "core/civil.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/metrics.h"
#include "core/shard.h"
#include "core/text.h"
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A thread that logs has a ring of its own: it writes lines at `head`, the drain reads at `tail`; both only
 * grow. The rings form a list that is only ever pushed to, so a reader needs no lock. */
#define RING_SIZE       (256 * 1024)
#define LINE_SIZE_MAX   4096
#define WRITE_SIZE_MAX  4096 /* PIPE_BUF: after POLLOUT a pipe takes so much without blocking. */
#define NAP_MS          10   /* Of the drain after it has written: a line is not worth a wake of its own. */
#define STOP_TIMEOUT_MS 1000 /* What a reader that is stuck may cost a process that ends. */

struct ring {
    struct ring *next;
    _Atomic uint64_t head, tail;
    _Atomic uint64_t dropped;
    uint64_t dropped_told; /* The drain's. */
    char bytes[RING_SIZE];
};

static _Atomic int log_level = LOG_INFO;
static _Atomic bool log_json;
static _Atomic(struct ring *) rings;
static _Thread_local struct ring *own_ring;
static _Atomic bool running, stopping;
static _Atomic uint32_t pending; /* The drain sleeps on it. */
static pthread_t drain_thread;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_set_level(enum log_level level)
{
    log_level = (int)level;
}

enum log_level log_get_level(void)
{
    return (enum log_level)log_level;
}

const char *log_level_name(enum log_level level)
{
    return level_names[level];
}

bool log_level_parse(struct slice text, enum log_level *level_out)
{
    for (size_t i = 0; i < ARRAY_COUNT(level_names); i++) {
        if (slice_eq(text, slice_str(level_names[i]))) {
            *level_out = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void log_set_json(bool json)
{
    log_json = json;
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&log_level, memory_order_relaxed);
}

/* ---- Quoting ------------------------------------------------------------------------------------------- */

/* Would it move, hide or end text on a terminal or in a viewer? C0, C1, line separators, marks of direction. */
static bool is_control(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0xad ||
           (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
           (code >= 0x2060 && code <= 0x206f) || code == 0xfeff;
}

static bool is_bare(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("._@:/+-,;[]()<>*%#", c) != NULL);
}

#define QUOTE_INPUT_MAX 256
#define QUOTE_SIZE      (QUOTE_INPUT_MAX * 6 + 8) /* A byte becomes at most \u00XX; quotes, dots and NUL. */
#define QUOTE_COUNT     8

/* Writes the inside of a JSON string. A byte that is no UTF-8 becomes \\xNN: a backslash as text, then xNN. */
static char *quote_inside(char *out, const unsigned char *s, size_t size)
{
    static const char hex[] = "0123456789abcdef";

    for (size_t i = 0; i < size;) {
        uint32_t code = 0;
        size_t n = utf8_decode(slice_of(s + i, size - i), &code);

        if (n == 0) {
            memcpy(out, "\\\\x", 3);
            out[3] = hex[s[i] >> 4];
            out[4] = hex[s[i] & 15];
            out += 5;
            i++;
            continue;
        }
        if (is_control(code)) {
            *out++ = '\\';
            *out++ = 'u';
            for (int shift = 12; shift >= 0; shift -= 4)
                *out++ = hex[code >> shift & 15];
        } else {
            if (code == '"' || code == '\\')
                *out++ = '\\';
            memcpy(out, s + i, n);
            out += n;
        }
        i += n;
    }
    return out;
}

const char *log_quote(struct slice s)
{
    static _Thread_local char buffers[QUOTE_COUNT][QUOTE_SIZE];
    static _Thread_local unsigned next;
    char *buffer = buffers[next++ % QUOTE_COUNT], *out = buffer;
    size_t size = MIN(s.size, QUOTE_INPUT_MAX), bare = 0;
    bool cut = s.size > size;

    while (bare < size && is_bare(s.data[bare]))
        bare++;
    if (bare == size && size > 0 && !cut) {
        memcpy(buffer, s.data, size);
        buffer[size] = '\0';
        return buffer;
    }
    /* Cut between characters, so that the last one is not shown as broken bytes. */
    for (int back = 0; cut && back < 3 && size > 0 && ((unsigned char)s.data[size] & 0xc0) == 0x80; back++)
        size--;
    *out++ = '"';
    out = quote_inside(out, (const unsigned char *)s.data, size);
    if (cut) {
        memcpy(out, "...", 3);
        out += 3;
    }
    *out++ = '"';
    *out = '\0';
    return buffer;
}

const char *log_error(int rc)
{
    const char *text = strerrordesc_np(-rc);

    return log_quote(text != NULL ? slice_str(text) : SLICE("unknown error"));
}

/* ---- One line ------------------------------------------------------------------------------------------ */

struct line {
    enum log_level level;
    const char *event, *format;
    va_list args;
    char pairs[LINE_SIZE_MAX / 2]; /* What format gave. */
    char text[LINE_SIZE_MAX];
    size_t size;
};

static int64_t now_ms(void)
{
    struct timespec now;

    if (shard_self() != NULL)
        return time_wall_ms(); /* The simulator's clock, there. */
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* 2026-01-31T12:59:59.123Z */
static void put_time(char *out, size_t size, int64_t ms)
{
    int64_t seconds = ms / 1000, rest = seconds % 86400;
    struct civil_date date = civil_from_days((int32_t)(seconds / 86400));

    snprintf(out, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", (int)date.year, date.month, date.day,
             (int)(rest / 3600), (int)(rest / 60 % 60), (int)(rest % 60), (int)(ms % 1000));
}

/* Text that reached the format without log_quote(): no control character may leave. */
static void scrub(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
    }
}

/* Bounded output; what does not fit is left out. */
struct out {
    char *at, *end;
};

static void out_put(struct out *o, const char *data, size_t size)
{
    size_t n = MIN(size, (size_t)(o->end - o->at));

    memcpy(o->at, data, n);
    o->at += n;
}

/* Ends of the value at `p`: after its closing quote, or at the next blank. */
static const char *value_end(const char *p)
{
    if (*p != '"')
        return p + strcspn(p, " ");
    for (p++; *p != '\0' && *p != '"'; p++) {
        if (*p == '\\' && p[1] != '\0')
            p++;
    }
    return *p == '"' ? p + 1 : p;
}

/* One `key=value` as a member; quoted values are JSON already. A pair that would not fit whole is left out. */
static bool put_member(struct out *o, const char *key, size_t key_size, const char *value, size_t size)
{
    bool quoted = size >= 2 && value[0] == '"' && value[size - 1] == '"';
    const char *mark = quoted ? "" : "\"";

    if ((size_t)(o->end - o->at) < key_size + (quoted ? 1 : 6) * size + 8)
        return false;
    o->at += sprintf(o->at, ",\"%.*s\":%s", (int)key_size, key, mark);
    if (quoted)
        out_put(o, value, size);
    else
        o->at = quote_inside(o->at, (const unsigned char *)value, size);
    out_put(o, mark, strlen(mark));
    return true;
}

static void put_json_pairs(struct out *o, const char *p)
{
    while (*p != '\0') {
        size_t key_size = strcspn(p, " =");
        const char *value = p + key_size, *end;

        if (*value != '=') { /* A word that is no pair. */
            p += key_size + (*value == ' ');
            continue;
        }
        value++;
        end = value_end(value);
        if (!put_member(o, p, key_size, value, (size_t)(end - value)))
            return;
        p = end + strspn(end, " ");
    }
}

/* Formats on a deep stack: printf is a library that does not know about fibers. */
static void line_format(void *arg)
{
    struct line *l = arg;
    struct out o = {l->text, l->text + sizeof l->text - 3}; /* Room for the end of the line. */
    struct shard *shard = shard_self();
    char time[64], where[24] = "";

    vsnprintf(l->pairs, sizeof l->pairs, l->format, l->args);
    scrub(l->pairs);
    put_time(time, sizeof time, now_ms());
    if (log_json) {
        if (shard != NULL)
            snprintf(where, sizeof where, ",\"shard\":%u", shard->index);
        o.at += snprintf(o.at, 512, "{\"time\":\"%s\",\"level\":\"%s\"%s,\"event\":\"%.256s\"", time,
                         level_names[l->level], where, l->event);
        put_json_pairs(&o, l->pairs);
        *o.at++ = '}';
    } else {
        if (shard != NULL)
            snprintf(where, sizeof where, "[%u] ", shard->index);
        o.at += snprintf(o.at, 512, "%s %s %s%.256s%s", time, level_names[l->level], where, l->event,
                         l->pairs[0] != '\0' ? " " : "");
        out_put(&o, l->pairs, strlen(l->pairs));
    }
    *o.at++ = '\n';
    l->size = (size_t)(o.at - l->text);
}

/* ---- The rings and their drain ------------------------------------------------------------------------- */

static void futex_call(int op, uint32_t value, const struct timespec *timeout)
{
    syscall(SYS_futex, &pending, op | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

/* False: the reader took nothing for STOP_TIMEOUT_MS, and nobody waits for him longer: without `patience`, or when the process
 * wants to end. */
static bool write_all(const char *data, size_t size, bool patience)
{
    while (size > 0) {
        struct pollfd fd = {STDERR_FILENO, POLLOUT, 0};
        ssize_t n;

        if (poll(&fd, 1, STOP_TIMEOUT_MS) == 0) {
            if (!patience || stopping)
                return false;
            continue;
        }
        n = write(STDERR_FILENO, data, MIN(size, WRITE_SIZE_MAX));
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return true; /* Nobody reads standard error: the lines are lost, the server goes on. */
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
    return true;
}

static struct ring *ring_of_thread(void)
{
    struct ring *r = own_ring;

    if (r != NULL)
        return r;
    r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->next = atomic_load(&rings);
    while (!atomic_compare_exchange_weak(&rings, &r->next, r))
        ;
    own_ring = r;
    return r;
}

static void ring_drop(struct ring *r)
{
    if (r != NULL)
        atomic_fetch_add_explicit(&r->dropped, 1, memory_order_relaxed);
    if (shard_self() != NULL)
        shard_self()->metrics->log_dropped++;
}

static void ring_put(struct ring *r, const char *line, size_t size)
{
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    size_t at = head % RING_SIZE, first = MIN(size, RING_SIZE - at);
    uint64_t used = head - atomic_load_explicit(&r->tail, memory_order_acquire);
    bool filled = used < RING_SIZE / 2 && used + size >= RING_SIZE / 2; /* Not a time to nap. */

    if (RING_SIZE - used < size) {
        ring_drop(r);
        return;
    }
    memcpy(r->bytes + at, line, first);
    memcpy(r->bytes, line + first, size - first);
    atomic_store_explicit(&r->head, head + size, memory_order_release);
    if (atomic_exchange(&pending, 1) == 0 || filled)
        futex_call(FUTEX_WAKE, 1, NULL);
}

static bool drain_ring(struct ring *r)
{
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire);
    uint64_t dropped = atomic_load_explicit(&r->dropped, memory_order_relaxed);
    bool ok = true;

    while (ok && tail < head) {
        size_t at = tail % RING_SIZE, size = MIN(head - tail, RING_SIZE - at);

        ok = write_all(r->bytes + at, size, true);
        tail += size;
        atomic_store_explicit(&r->tail, tail, memory_order_release);
    }
    if (ok && dropped != r->dropped_told) {
        char line[96];
        int n = snprintf(line, sizeof line,
                         log_json ? "{\"event\":\"log lines dropped\",\"count\":\"%llu\"}\n"
                                  : "log lines dropped count=%llu\n",
                         (unsigned long long)(dropped - r->dropped_told));

        r->dropped_told = dropped;
        ok = write_all(line, (size_t)n, true);
    }
    return ok;
}

/* Lines that come meanwhile wake nobody: `pending` says that they are looked for. */
static void drain_nap(void)
{
    static const struct timespec nap = {.tv_nsec = NAP_MS * 1000000};

    atomic_store(&pending, 1);
    if (!stopping)
        futex_call(FUTEX_WAIT, 1, &nap);
}

static void *drain_main(void *arg)
{
    bool ok = true, last = false;

    pthread_setname_np(pthread_self(), "log"); /* Itself: to name another, libc opens a file. */
    while (ok && !last) {
        bool some = false;

        if (atomic_exchange(&pending, 0) == 0 && !stopping) {
            futex_call(FUTEX_WAIT, 0, NULL);
            continue;
        }
        last = stopping;
        for (struct ring *r = atomic_load(&rings); ok && r != NULL; r = r->next) {
            some = some || r->tail != r->head;
            ok = drain_ring(r);
        }
        if (some && ok && !last)
            drain_nap();
    }
    return NULL;
}

int log_start(void)
{
    sigset_t all, before;
    int rc;

    ASSERT(!running);
    stopping = false;
    /* Signals are for the threads that know what to do with them. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&drain_thread, NULL, drain_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return -rc;
    running = true;
    return 0;
}

void log_stop(void)
{
    if (!running)
        return;
    running = false;
    stopping = true;
    atomic_store(&pending, 1);
    futex_call(FUTEX_WAKE, 1, NULL);
    pthread_join(drain_thread, NULL);
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    static _Thread_local struct line line; /* Too large for a fiber's stack; nothing below suspends. */
    struct ring *r;

    if (!log_enabled(level))
        return;
    line.level = level;
    line.event = event;
    line.format = format;
    va_start(line.args, format);
    if (fiber_self() != NULL)
        core_call(line_format, &line);
    else
        line_format(&line);
    va_end(line.args);
    if (!running) {
        (void)write_all(line.text, line.size, false);
        return;
    }
    r = ring_of_thread();
    if (r != NULL)
        ring_put(r, line.text, line.size);
    else
        ring_drop(NULL);
}
