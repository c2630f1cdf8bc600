/* bench/hostile.c -- `hostile`: --stuck connections that never log in, in each of several ways, beside honest clients who do. One line
 * a mix: what the server's memory grew by at its peak, the honest logins' times, and when the last hostile connection was gone.
 *
 * The hostile are in processes of their own; this one is the honest: --connections of them log in over TLS, log out, and
 * come back 100 ms later. Kernel memory is the machine's: both ends of each connection. */
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
    uint32_t begun, open, refused;
};

static struct hostile_part *parts; /* Shared. */

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
    unsigned count, shaking;
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

static void foe_begin(struct gang *g, struct foe *f)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = f};

    f->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (f->fd < 0 ||
        (connect(f->fd, (struct sockaddr *)&g->bench->loop.server, sizeof g->bench->loop.server) < 0 &&
         errno != EINPROGRESS)) {
        perror("trireme-bench: connect");
        exit(71);
    }
    epoll_ctl(g->epoll, EPOLL_CTL_ADD, f->fd, &event);
    g->part->begun++;
    g->part->open++;
}

/* What the server says is read, so that the kernel keeps none of it for us; nothing is answered. */
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

NORETURN static void gang_run(struct bench *b, enum mix mix, unsigned count, struct hostile_part *part)
{
    static struct gang gang;
    struct gang *g = &gang;
    double drip_us = clock_us();

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    *g = (struct gang){
        .bench = b, .part = part, .mix = mix, .count = count, .foes = calloc(count, sizeof *g->foes)};
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
    pid_t pids[CHILDREN_MAX];
    unsigned child_count;
    uint64_t user_before_kib, user_peak_kib, user_after_kib;
    struct kernel_memory kernel_before, kernel_peak;
    double start_us, all_begun_us, gone_us;
    uint32_t open_peak;
};

static uint64_t kernel_kib(const struct kernel_memory *m)
{
    return m->slab_kib + m->tcp_kib;
}

static void sample(struct hostile *h)
{
    struct kernel_memory kernel;
    uint32_t open = 0, begun = 0;

    for (unsigned i = 0; i < h->child_count; i++) {
        open += parts[i].open;
        begun += parts[i].begun;
    }
    h->open_peak = MAX(h->open_peak, open);
    h->user_peak_kib = MAX(h->user_peak_kib, server_rss_kib(&h->bench->options.server, true));
    kernel_memory_read(&kernel);
    if (kernel_kib(&kernel) > kernel_kib(&h->kernel_peak))
        h->kernel_peak = kernel;
    if (h->all_begun_us == 0 && begun == h->bench->options.stuck)
        h->all_begun_us = clock_us();
    if (h->gone_us == 0 && h->all_begun_us > 0 && open == 0)
        h->gone_us = clock_us();
}

/* Nothing grows any more beside the honest alone. */
static void base(struct hostile *h)
{
    bench_run_for(h->bench, SETTLE_US);
    h->user_before_kib = h->user_peak_kib = server_rss_kib(&h->bench->options.server, true);
    kernel_memory_read(&h->kernel_before);
    h->kernel_peak = h->kernel_before;
}

static void gangs_start(struct hostile *h, enum mix mix)
{
    unsigned count = h->bench->options.stuck;

    memset(parts, 0, CHILDREN_MAX * sizeof *parts);
    h->start_us = clock_us();
    for (h->child_count = 0; h->child_count * CHILD_COUNT_MAX < count; h->child_count++) {
        unsigned rest = count - h->child_count * CHILD_COUNT_MAX;

        h->pids[h->child_count] = fork();
        if (h->pids[h->child_count] == 0)
            gang_run(h->bench, mix, MIN(rest, CHILD_COUNT_MAX), &parts[h->child_count]);
    }
}

static void gangs_end(struct hostile *h)
{
    for (unsigned i = 0; i < h->child_count; i++) {
        kill(h->pids[i], SIGKILL);
        waitpid(h->pids[i], NULL, 0);
    }
}

static void print(const struct hostile *h, enum mix mix, uint64_t errors)
{
    struct bench *b = h->bench;
    uint64_t user_kib = h->user_peak_kib - h->user_before_kib;

    bench_print_head(b);
    printf("\"mix\": \"%s\", \"hostile\": %u, \"open_peak\": %u, \"user_peak_kib\": %llu, "
           "\"user_bytes_each\": %.0f, "
           "\"user_left_kib\": %lld, \"kernel_slab_kib\": %lld, \"kernel_tcp_kib\": %lld, ",
           mix_names[mix], b->options.stuck, h->open_peak, (unsigned long long)user_kib,
           (double)user_kib * 1024 / b->options.stuck, (long long)(h->user_after_kib - h->user_before_kib),
           (long long)(h->kernel_peak.slab_kib - h->kernel_before.slab_kib),
           (long long)(h->kernel_peak.tcp_kib - h->kernel_before.tcp_kib));
    if (h->gone_us > 0)
        printf("\"gone_s\": %.1f, ", (h->gone_us - h->start_us) / 1e6);
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
    while (clock_us() < end && h.gone_us == 0) {
        bench_run_for(b, SAMPLE_US);
        sample(&h);
    }
    b->measuring = false;
    gangs_end(&h);
    bench_run_for(b, SETTLE_US);
    h.user_after_kib = server_rss_kib(&b->options.server, true);
    print(&h, mix, b->errors - errors);
    return h.gone_us > 0 && b->errors == errors;
}

int hostile_run(struct bench *b)
{
    bool good = true;

    if (b->options.stuck > CHILDREN_MAX * CHILD_COUNT_MAX)
        return 64;
    parts =
        mmap(NULL, CHILDREN_MAX * sizeof *parts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bench_start(b);
    for (enum mix mix = 0; mix < MIXES; mix++) {
        if (b->options.mix == NULL || strcmp(b->options.mix, mix_names[mix]) == 0)
            good = mix_run(b, mix) && good;
    }
    if (b->errors > 0)
        fprintf(stderr, "trireme-bench: first error: %s\n", b->first_error);
    return !good;
}
