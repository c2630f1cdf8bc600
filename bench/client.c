#include "bench/client.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE 65536
#define EVENTS    256

NORETURN static void die(const char *what)
{
    fprintf(stderr, "trireme-bench: %s: %s\n", what, strerror(errno));
    exit(71);
}

static void *grow(void *p, size_t size)
{
    p = realloc(p, size);
    if (p == NULL)
        die("memory");
    return p;
}

static int on_ticket(SSL *ssl, SSL_SESSION *session)
{
    struct loop *l = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    struct client *c = SSL_get_app_data(ssl);
    SSL_SESSION **place = l->own_sessions ? &c->session : &l->session;

    if (*place != NULL)
        SSL_SESSION_free(*place);
    *place = session;
    return 1; /* Ours now. */
}

void loop_init(struct loop *l, const char *host, unsigned port, bool tls, bool resume)
{
    *l =
        (struct loop){.resume = resume, .server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)}};
    if (inet_pton(AF_INET, host, &l->server.sin_addr) != 1) {
        fprintf(stderr, "trireme-bench: --host wants an IPv4 address, not '%s'\n", host);
        exit(64);
    }
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll < 0)
        die("epoll");
    if (!tls)
        return;
    l->tls = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_app_data(l->tls, l);
    if (resume) {
        SSL_CTX_set_session_cache_mode(l->tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(l->tls, on_ticket);
    }
}

static void client_watch(struct client *c)
{
    struct epoll_event event = {.events = (c->stalled ? 0 : EPOLLIN) | (c->want_write ? EPOLLOUT : 0),
                                .data.ptr = c};

    epoll_ctl(c->loop->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void client_end(struct client *c, int error)
{
    c->error = error;
    client_close(c);
    c->event(c, CLIENT_CLOSED);
}

void client_connect(struct client *c, struct loop *l, void (*event)(struct client *, enum client_event),
                    void *owner)
{
    struct epoll_event watch = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    int one = 1;

    c->loop = l;
    c->event = event;
    c->owner = owner;
    c->connected = c->stalled = false;
    c->want_write = true;
    c->in_size = c->out_size = c->out_at = 0;
    c->literal = 0;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->receive_size > 0)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &c->receive_size, sizeof c->receive_size);
    if (connect(c->fd, (struct sockaddr *)&l->server, sizeof l->server) < 0 && errno != EINPROGRESS)
        die("connect");
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &watch) < 0)
        die("epoll_ctl");
    if (l->tls == NULL)
        return;
    c->ssl = SSL_new(l->tls);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_app_data(c->ssl, c);
    SSL_set_connect_state(c->ssl);
    if (l->resume && l->own_sessions && c->session != NULL)
        SSL_set_session(c->ssl, c->session);
    else if (l->resume && l->session != NULL)
        SSL_set_session(c->ssl, l->session);
}

void client_stall(struct client *c)
{
    c->stalled = true;
    client_watch(c);
}

void client_close(struct client *c)
{
    if (c->ssl != NULL) {
        if (c->connected)
            SSL_shutdown(c->ssl);
        SSL_free(c->ssl);
    }
    c->ssl = NULL;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->connected = false;
}

void client_rest(struct client *c)
{
    if (c->in_size > 0 || c->out_at < c->out_size)
        return;
    free(c->in);
    free(c->out);
    c->in = c->out = NULL;
    c->in_capacity = c->out_capacity = 0;
}

void client_free(struct client *c)
{
    if (c->fd >= 0)
        client_close(c);
    free(c->in);
    free(c->out);
    c->in = c->out = NULL;
    c->in_capacity = c->out_capacity = 0;
}

/* ---- Output -------------------------------------------------------------------------------------------- */

void client_write(struct client *c, const void *data, size_t size)
{
    if (c->out_size + size > c->out_capacity) {
        c->out_capacity = (c->out_size + size) * 2;
        c->out = grow(c->out, c->out_capacity);
    }
    memcpy(c->out + c->out_size, data, size);
    c->out_size += size;
}

void client_printf(struct client *c, const char *format, ...)
{
    char text[1024];
    va_list args;
    int size;

    va_start(args, format);
    size = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    client_write(c, text, (size_t)size);
}

/* Bytes moved, 0: the socket would block, -1: closed (*error is errno, or 0 for an end). */
static ssize_t io_result(struct client *c, ssize_t rc, int *error)
{
    if (rc > 0)
        return rc;
    *error = 0;
    if (c->ssl != NULL) {
        int why = SSL_get_error(c->ssl, (int)rc);

        if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
            return 0;
        *error = why == SSL_ERROR_ZERO_RETURN ? 0 : EPROTO;
        return -1;
    }
    if (rc < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    *error = rc < 0 ? errno : 0;
    return -1;
}

void client_flush(struct client *c)
{
    bool pending;

    while (c->connected && c->out_at < c->out_size) {
        size_t left = c->out_size - c->out_at;
        int error;
        ssize_t n = c->ssl != NULL ? SSL_write(c->ssl, c->out + c->out_at, (int)left)
                                   : send(c->fd, c->out + c->out_at, left, MSG_NOSIGNAL);

        n = io_result(c, n, &error);
        if (n < 0) /* The end is told by the reader. */
            return;
        if (n == 0)
            break;
        c->out_at += (size_t)n;
    }
    pending = c->out_at < c->out_size;
    if (!pending)
        c->out_at = c->out_size = 0;
    if (c->connected && pending != c->want_write) {
        c->want_write = pending;
        client_watch(c);
    }
}

/* ---- Input --------------------------------------------------------------------------------------------- */

/* `... {123}` at the end of a line: so many bytes follow that are no lines. */
static uint64_t literal_after(struct slice line)
{
    size_t open = line.size;
    uint64_t size;

    if (line.size < 3 || line.data[line.size - 1] != '}')
        return 0;
    while (open > 0 && line.data[open - 1] != '{')
        open--;
    if (open == 0 || !slice_to_u64(slice_of(line.data + open, line.size - 1 - open), UINT32_MAX, &size))
        return 0;
    return size;
}

/* Takes lines off the input. */
static void client_lines(struct client *c)
{
    size_t at = 0;

    while (c->fd >= 0 && at < c->in_size) {
        struct slice rest = slice_of(c->in + at, c->in_size - at);
        size_t end;

        if (c->literal > 0) {
            size_t skip = MIN(c->literal, rest.size);

            c->literal -= skip;
            at += skip;
            c->line = slice_first(rest, skip);
            c->event(c, CLIENT_LITERAL);
            continue;
        }
        end = slice_find(rest, '\n');
        if (end == rest.size)
            break;
        c->line = slice_first(rest, end > 0 && rest.data[end - 1] == '\r' ? end - 1 : end);
        c->literal = literal_after(c->line);
        at += end + 1;
        c->event(c, CLIENT_LINE);
    }
    if (c->fd < 0)
        return;
    memmove(c->in, c->in + at, c->in_size - at);
    c->in_size -= at;
}

static void client_read(struct client *c)
{
    for (;;) {
        ssize_t n;
        int error;

        if (c->in_capacity - c->in_size < READ_SIZE) {
            c->in_capacity = c->in_size + 2 * READ_SIZE;
            c->in = grow(c->in, c->in_capacity);
        }
        n = c->ssl != NULL ? SSL_read(c->ssl, c->in + c->in_size, READ_SIZE)
                           : recv(c->fd, c->in + c->in_size, READ_SIZE, 0);
        n = io_result(c, n, &error);
        if (n == 0)
            return;
        if (n < 0) {
            client_end(c, error);
            return;
        }
        c->bytes_in += (uint64_t)n;
        c->in_size += (size_t)n;
        client_lines(c);
        if (c->fd < 0 || c->stalled || (c->ssl == NULL && n < READ_SIZE))
            return;
    }
}

/* True once the connection, and TLS over it, is up. */
static bool client_establish(struct client *c)
{
    int error = 0, rc;
    socklen_t size = sizeof error;

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0) {
        client_end(c, error);
        return false;
    }
    if (c->ssl != NULL) {
        rc = SSL_do_handshake(c->ssl);
        if (rc != 1) {
            int why = SSL_get_error(c->ssl, rc);

            if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
                client_end(c, EPROTO);
            else if (why == SSL_ERROR_WANT_READ && c->want_write) {
                c->want_write = false;
                client_watch(c);
            }
            return false;
        }
        c->loop->handshakes++;
        c->loop->resumed += (uint64_t)SSL_session_reused(c->ssl);
    }
    c->connected = true;
    c->want_write = false;
    client_watch(c);
    c->event(c, CLIENT_CONNECTED);
    return c->fd >= 0;
}

void loop_run(struct loop *l, int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(l->epoll, events, EVENTS, timeout_ms);

    for (int i = 0; i < count; i++) {
        struct client *c = events[i].data.ptr;

        if (c->fd < 0 || (!c->connected && !client_establish(c)))
            continue;
        if ((events[i].events & EPOLLOUT) != 0)
            client_flush(c);
        if (c->fd >= 0 && !c->stalled &&
            ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 || c->ssl != NULL))
            client_read(c);
    }
}
