/* bench/hostile.c -- `hostile`: --stuck connections that never log in, in each of several ways, beside honest clients who do. One line
 * a mix: what the server's memory grew by at its peak, the honest logins' times, and when the last hostile connection was gone.
 *
 * The hostile are in processes of their own, and spend as little as they can: they share the CPUs with the server. Another process
 * looks at memory. This one is the honest: --connections of them log in over TLS, log out, and come back 100 ms later.
 * The hostile come from 127.0.0.1 as the honest do, or from --addresses others. Kernel memory is what is charged to the server
 * (--server-group); without it the machine's: both ends of each connection. */
#include "bench/bench.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_COUNT_MAX 10000
#define CHILDREN_MAX    16
#define BATCH           100 /* Connections begun before others are looked at. */
#define SAMPLE_US       100e3
#define SETTLE_US       2e6
#define HELLO_MAX       4096
#define FAT_SIZE        16384 /* What `fat` promises. */

enum mix { SILENT, HALF, FAT, DRIP, GARBAGE, MIDWAY, SECURED, MIXES };

static const char *const mix_names[MIXES] = {
    [SILENT] = "silent",   /* Connects, says nothing. */
    [HALF] = "half",       /* Half a ClientHello. */
    [FAT] = "fat",         /* A ClientHello that promises 16 KiB, and all but its last byte. */
    [DRIP] = "drip",       /* A byte of a ClientHello a second. */
    [GARBAGE] = "garbage", /* What is no TLS. */
    [MIDWAY] = "midway",   /* A whole ClientHello, and nothing after it. */
    [SECURED] = "secured", /* A handshake, then nothing. */
};

struct hostile_part {
    uint32_t begun, open;
};

struct samples { /* Since the hostile began. */
    uint64_t user_before_kib, user_peak_kib;
    struct kernel_memory kernel_before, kernel_peak;
    double group_before, group_peak;
    double all_begun_us, gone_us;
    uint32_t open_peak;
};

static struct { /* By all processes. */
    struct samples samples;
    struct hostile_part parts[CHILDREN_MAX];
} * shared;

struct foe {
    int fd;
    SSL *ssl; /* SECURED */
    uint16_t sent;
    bool connected;
};

struct gang {
    struct bench *bench;
    struct hostile_part *part;
    enum mix mix;
    struct foe *foes;
    SSL_CTX *tls;
    uint8_t hello[HELLO_MAX];
    size_t hello_size;
    unsigned first, count; /* Of all that are hostile. */
    int epoll;
};

/* ---- A process of hostile clients ---------------------------------------------------------------------- */

/* A client's first flight. */
static void hello_make(struct gang *g)
{
    SSL *ssl = SSL_new(g->tls);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    int size;

    SSL_set_bio(ssl, in, out);
    SSL_set_connect_state(ssl);
    (void)SSL_do_handshake(ssl);
    size = BIO_read(out, g->hello, sizeof g->hello);
    g->hello_size = size > 0 ? (size_t)size : 0;
    SSL_free(ssl);
}

static void foe_gone(struct gang *g, struct foe *f)
{
    if (f->ssl != NULL)
        SSL_free(f->ssl);
    f->ssl = NULL;
    close(f->fd);
    f->fd = -1;
    g->part->open--;
}

static void foe_send(struct gang *g, struct foe *f, const void *data, size_t size)
{
    if (send(f->fd, data, size, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
        foe_gone(g, f);
}

static void foe_speak(struct gang *g, struct foe *f)
{
    static uint8_t fat[FAT_SIZE] = {22, 3, 1, 0x3f, 0xfb, 1, 0, 0x3f, 0xf7, 3, 3};
    static const uint8_t garbage[64] = {0x47, 0x45, 0x54, 0x20, 0x2f, 0xff, 0x00, 0x13};

    switch (g->mix) {
    case SILENT:
    case DRIP:
    case MIXES:
        break;
    case HALF:
        foe_send(g, f, g->hello, g->hello_size / 2);
        break;
    case FAT:
        foe_send(g, f, fat, sizeof fat - 1);
        break;
    case GARBAGE:
        foe_send(g, f, garbage, sizeof garbage);
        break;
    case MIDWAY:
        foe_send(g, f, g->hello, g->hello_size);
        break;
    case SECURED:
        f->ssl = SSL_new(g->tls);
        SSL_set_fd(f->ssl, f->fd);
        SSL_set_connect_state(f->ssl);
        (void)SSL_do_handshake(f->ssl);
        break;
    }
}

/* 127.1.0.1 and so on. */
static bool foe_bind(const struct gang *g, const struct foe *f)
{
    unsigned number = (g->first + (unsigned)(f - g->foes)) % MAX(g->bench->options.addresses, 1u);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001 + number)};
    int one = 1;

    if (g->bench->options.addresses == 0)
        return true;
    return setsockopt(f->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) == 0 &&
           bind(f->fd, (struct sockaddr *)&from, sizeof from) == 0;
}

static void foe_begin(struct gang *g, struct foe *f)
{
    struct epoll_event event = {.events = EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = f};

    if (g->mix == SECURED)
        event.events |= EPOLLIN;
    f->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (f->fd < 0 || !foe_bind(g, f) ||
        (connect(f->fd, (struct sockaddr *)&g->bench->loop.server, sizeof g->bench->loop.server) < 0 &&
         errno != EINPROGRESS)) {
        perror("trireme-bench: connect");
        exit(71);
    }
    epoll_ctl(g->epoll, EPOLL_CTL_ADD, f->fd, &event);
    g->part->begun++;
    g->part->open++;
}

/* Nothing is answered; in SECURED the handshake is. */
static void foe_hears(struct gang *g, struct foe *f)
{
    char data[16384];
    ssize_t n;

    if (f->ssl != NULL && SSL_in_init(f->ssl)) {
        int rc = SSL_do_handshake(f->ssl);

        if (rc == 1 || SSL_get_error(f->ssl, rc) == SSL_ERROR_WANT_READ)
            return;
        foe_gone(g, f);
        return;
    }
    do
        n = recv(f->fd, data, sizeof data, 0);
    while (n > 0);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        foe_gone(g, f);
}

static void gang_look(struct gang *g, int timeout_ms)
{
    struct epoll_event events[256];
    int count = epoll_wait(g->epoll, events, 256, timeout_ms);

    for (int i = 0; i < count; i++) {
        struct foe *f = events[i].data.ptr;

        if (f->fd >= 0 && !f->connected && (events[i].events & EPOLLOUT) != 0) {
            f->connected = true;
            foe_speak(g, f);
        }
        if (f->fd >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT) != 0)
            foe_hears(g, f);
    }
}

static void gang_drips(struct gang *g)
{
    for (unsigned i = 0; i < g->count; i++) {
        struct foe *f = &g->foes[i];

        if (f->fd >= 0 && f->connected && f->sent < g->hello_size)
            foe_send(g, f, &g->hello[f->sent++], 1);
        if (i % BATCH == 0)
            gang_look(g, 0);
    }
}

NORETURN static void gang_run(struct bench *b, enum mix mix, unsigned first, unsigned count,
                              struct hostile_part *part)
{
    static struct gang gang;
    struct gang *g = &gang;
    double drip_us = clock_us();

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    *g = (struct gang){.bench = b,
                       .part = part,
                       .mix = mix,
                       .first = first,
                       .count = count,
                       .foes = calloc(count, sizeof *g->foes)};
    g->tls = SSL_CTX_new(TLS_client_method());
    g->epoll = epoll_create1(EPOLL_CLOEXEC);
    hello_make(g);
    for (unsigned i = 0; i < count; i++) {
        foe_begin(g, &g->foes[i]);
        if (i % BATCH == BATCH - 1)
            gang_look(g, 1);
    }
    for (;;) {
        gang_look(g, 100);
        if (mix == DRIP && clock_us() - drip_us >= 1e6) {
            drip_us = clock_us();
            gang_drips(g);
        }
    }
}

/* ---- The measuring process, and the honest ------------------------------------------------------------- */

struct hostile {
    struct bench *bench;
    pid_t pids[CHILDREN_MAX], sampler;
    unsigned child_count;
    uint64_t user_after_kib;
    double start_us;
};

static uint64_t kernel_kib(const struct kernel_memory *m)
{
    return m->slab_kib + m->tcp_kib;
}

static double group_bytes(const struct bench *b)
{
    return b->options.group != NULL ? group_kernel_bytes(b->options.group) : 0;
}

static void sample(const struct bench *b, struct samples *s)
{
    struct kernel_memory kernel;
    uint32_t open = 0, begun = 0;

    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        open += shared->parts[i].open;
        begun += shared->parts[i].begun;
    }
    s->open_peak = MAX(s->open_peak, open);
    s->user_peak_kib = MAX(s->user_peak_kib, server_rss_kib(&b->options.server, false));
    s->group_peak = MAX(s->group_peak, group_bytes(b));
    kernel_memory_read(&kernel);
    if (kernel_kib(&kernel) > kernel_kib(&s->kernel_peak))
        s->kernel_peak = kernel;
    if (s->all_begun_us == 0 && begun == b->options.stuck)
        s->all_begun_us = clock_us();
    if (s->gone_us == 0 && s->all_begun_us > 0 && open == 0)
        *(volatile double *)&s->gone_us = clock_us();
}

NORETURN static void sampler_run(const struct bench *b)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        bench_pause(SAMPLE_US);
        sample(b, &shared->samples);
    }
}

/* Nothing grows any more beside the honest alone. */
static void base(struct hostile *h)
{
    struct samples *s = &shared->samples;

    bench_run_for(h->bench, SETTLE_US);
    memset(shared, 0, sizeof *shared);
    s->user_before_kib = s->user_peak_kib = server_rss_kib(&h->bench->options.server, false);
    s->group_before = s->group_peak = group_bytes(h->bench);
    kernel_memory_read(&s->kernel_before);
    s->kernel_peak = s->kernel_before;
}

static void gangs_start(struct hostile *h, enum mix mix)
{
    unsigned count = h->bench->options.stuck;

    h->start_us = clock_us();
    for (h->child_count = 0; h->child_count * CHILD_COUNT_MAX < count; h->child_count++) {
        unsigned rest = count - h->child_count * CHILD_COUNT_MAX;

        h->pids[h->child_count] = fork();
        if (h->pids[h->child_count] == 0)
            gang_run(h->bench, mix, count - rest, MIN(rest, CHILD_COUNT_MAX), &shared->parts[h->child_count]);
    }
    h->sampler = fork();
    if (h->sampler == 0)
        sampler_run(h->bench);
}

static void gangs_end(struct hostile *h)
{
    kill(h->sampler, SIGKILL);
    waitpid(h->sampler, NULL, 0);
    for (unsigned i = 0; i < h->child_count; i++) {
        kill(h->pids[i], SIGKILL);
        waitpid(h->pids[i], NULL, 0);
    }
}

static void print(const struct hostile *h, enum mix mix, uint64_t errors)
{
    struct bench *b = h->bench;
    const struct samples *s = &shared->samples;
    uint64_t user_kib = s->user_peak_kib - s->user_before_kib;

    bench_print_head(b);
    printf("\"mix\": \"%s\", \"hostile\": %u, \"open_peak\": %u, \"user_peak_kib\": %llu, "
           "\"user_bytes_each\": %.0f, "
           "\"user_left_kib\": %lld, \"kernel_slab_kib\": %lld, \"kernel_tcp_kib\": %lld, ",
           mix_names[mix], b->options.stuck, s->open_peak, (unsigned long long)user_kib,
           (double)user_kib * 1024 / b->options.stuck, (long long)(h->user_after_kib - s->user_before_kib),
           (long long)(s->kernel_peak.slab_kib - s->kernel_before.slab_kib),
           (long long)(s->kernel_peak.tcp_kib - s->kernel_before.tcp_kib));
    if (b->options.group != NULL)
        printf("\"server_kernel_peak_kib\": %.0f, ", (s->group_peak - s->group_before) / 1024);
    if (s->gone_us > 0)
        printf("\"all_begun_s\": %.1f, \"gone_s\": %.1f, ", (s->all_begun_us - h->start_us) / 1e6,
               (s->gone_us - h->start_us) / 1e6);
    printf("\"ops\": %llu, \"seconds\": %.1f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"errors\": %llu}\n",
           (unsigned long long)b->operations, (clock_us() - h->start_us) / 1e6,
           latency_quantile(&b->latencies, 0.5), latency_quantile(&b->latencies, 0.99),
           (unsigned long long)errors);
    fflush(stdout);
}

/* True: all hostile connections were gone in time, and no honest one failed. */
static bool mix_run(struct bench *b, enum mix mix)
{
    struct hostile h = {.bench = b};
    uint64_t errors = b->errors;
    double end;

    base(&h);
    b->operations = 0;
    b->latencies = (struct latencies){0};
    b->measuring = true;
    gangs_start(&h, mix);
    end = h.start_us + b->options.seconds * 1e6;
    while (clock_us() < end && *(volatile double *)&shared->samples.gone_us == 0)
        bench_run_for(b, SAMPLE_US);
    b->measuring = false;
    gangs_end(&h);
    bench_run_for(b, SETTLE_US);
    h.user_after_kib = server_rss_kib(&b->options.server, false);
    print(&h, mix, b->errors - errors);
    return shared->samples.gone_us > 0 && b->errors == errors;
}

int hostile_run(struct bench *b)
{
    bool good = true;

    if (b->options.stuck > CHILDREN_MAX * CHILD_COUNT_MAX)
        return 64;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bench_start(b);
    for (enum mix mix = 0; mix < MIXES; mix++) {
        if (b->options.mix == NULL || strcmp(b->options.mix, mix_names[mix]) == 0)
            good = mix_run(b, mix) && good;
    }
    if (b->errors > 0)
        fprintf(stderr, "trireme-bench: first error: %s\n", b->first_error);
    return !good;
}
