/* bench/relay.c -- `relay`: passes bytes between each client and a connection of its own to --port2, and does nothing else: what
 * a hop more costs at least, to stand beside a proxy. One thread, epoll, plain TCP. */
#include "bench/bench.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define BACKLOG    4096
#define EVENTS_MAX 256
#define ROOM       (256 * 1024) /* Of one receive, as a proxy's of its links. */

struct pair;

struct side {
    struct pair *pair;
    struct side *other;
    int fd;
};

struct pair {
    struct side client, server;
    struct pair *next_ended;
    bool ended;
};

struct relay {
    int epoll, listener;
    struct sockaddr_in server;
    struct pair *ended; /* Of this turn: events may still name them. */
    char room[ROOM];
};

NORETURN static void die(const char *what)
{
    fprintf(stderr, "trireme-bench: relay: %s: %s\n", what, strerror(errno));
    exit(71);
}

static void no_delay(int fd)
{
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void watch(struct relay *r, struct side *s)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};

    no_delay(s->fd);
    if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, s->fd, &event) < 0)
        die("epoll");
}

static void on_connect(struct relay *r)
{
    int fd = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC);
    struct pair *p = calloc(1, sizeof *p);

    if (fd < 0 || p == NULL)
        die("accept");
    p->client = (struct side){.pair = p, .other = &p->server, .fd = fd};
    p->server =
        (struct side){.pair = p, .other = &p->client, .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (p->server.fd < 0 || connect(p->server.fd, (struct sockaddr *)&r->server, sizeof r->server) < 0)
        die("connect");
    watch(r, &p->client);
    watch(r, &p->server);
}

static void pair_end(struct relay *r, struct pair *p)
{
    close(p->client.fd);
    close(p->server.fd);
    p->ended = true;
    p->next_ended = r->ended;
    r->ended = p;
}

/* Waits for a reader who is behind: the clients here read at once. */
static bool send_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

        if (sent < 0)
            return false;
        data += sent;
        size -= (size_t)sent;
    }
    return true;
}

static void pass(struct relay *r, struct side *s)
{
    ssize_t size;

    if (s->pair->ended)
        return;
    size = recv(s->fd, r->room, ROOM, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0 || !send_all(s->other->fd, r->room, (size_t)size))
        pair_end(r, s->pair);
}

static void turn(struct relay *r)
{
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(r->epoll, events, EVENTS_MAX, 100);

    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == NULL)
            on_connect(r);
        else
            pass(r, events[i].data.ptr);
    }
    for (struct pair *p; (p = r->ended) != NULL;) {
        r->ended = p->next_ended;
        free(p);
    }
}

int relay_run(struct bench *b)
{
    static struct relay relay;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)b->options.port)};
    struct epoll_event event = {.events = EPOLLIN};
    double end = clock_us() + b->options.seconds * 1e6;
    int one = 1;

    if (inet_pton(AF_INET, b->options.host, &addr.sin_addr) != 1 || b->options.port2 == 0)
        return 64;
    relay.server = addr;
    relay.server.sin_port = htons((uint16_t)b->options.port2);
    relay.epoll = epoll_create1(EPOLL_CLOEXEC);
    relay.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(relay.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(relay.listener, (struct sockaddr *)&addr, sizeof addr) < 0 ||
        listen(relay.listener, BACKLOG) < 0 ||
        epoll_ctl(relay.epoll, EPOLL_CTL_ADD, relay.listener, &event) < 0)
        die("listen");
    while (clock_us() < end)
        turn(&relay);
    return 0;
}
