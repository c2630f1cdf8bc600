#include "core/node.h"
#include "core/uring/uring.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_BACKLOG 65535 /* The kernel lowers it to net.core.somaxconn. */

static const int on = 1;

/* What the kernel takes of a socket's bytes before the peer has room for them, or they are on their way: else a peer that does not
 * read costs net.ipv4.tcp_wmem's maximum, 4 MiB, of memory that nobody here sees. */
static const int unsent_max = 64 * 1024;

unsigned net_addr_to_sockaddr(const struct net_addr *a, char space[32])
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(a->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(a->port)};

    if (a->family == AF_INET6) {
        memcpy(&v6.sin6_addr, a->ip, 16);
        memcpy(space, &v6, sizeof v6);
        return sizeof v6;
    }
    memcpy(&v4.sin_addr, a->ip, 4);
    memcpy(space, &v4, sizeof v4);
    return sizeof v4;
}

int socket_options(int fd)
{
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_max, sizeof unsent_max) < 0)
        return -errno;
    return 0;
}

int node_bind(const struct net_addr *addr, bool shared)
{
    char space[32] = {0};
    socklen_t size = net_addr_to_sockaddr(addr, space);
    int fd = socket(addr->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc;

    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (addr->family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on,
                         sizeof on); /* "*:143" listens beside "[::]:143". */
    if ((shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0) ||
        socket_options(fd) < 0 || /* Accepted sockets inherit them. */
        bind(fd, (struct sockaddr *)(void *)space, size) < 0) {
        rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

int node_listen(int fd)
{
    return listen(fd, LISTEN_BACKLOG) < 0 ? -errno : 0;
}

int node_check_listen(const struct net_addr *addr)
{
    int fd = node_bind(addr, false), rc;

    if (fd < 0)
        return fd;
    rc = node_listen(fd);
    close(fd);
    return rc;
}

/* A relative path goes through the directory's descriptor, so that a long `data` does not matter: a socket's
 * path has 107 bytes. */
static bool unix_address(int data_fd, const char *path, struct sockaddr_un *addr)
{
    size_t room = sizeof addr->sun_path;
    int size;

    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (path[0] == '/' || data_fd == AT_FDCWD)
        size = snprintf(addr->sun_path, room, "%s", path);
    else
        size = snprintf(addr->sun_path, room, "/proc/self/fd/%d/%s", data_fd, path);
    return size > 0 && (size_t)size < room;
}

/* A socket that a process left behind, which nobody answers at. A file of another kind refuses, too. */
static bool unix_is_stale(const struct sockaddr_un *addr)
{
    struct stat info;
    bool stale;
    int fd;

    if (lstat(addr->sun_path, &info) < 0 || !S_ISSOCK(info.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    stale =
        connect(fd, (const struct sockaddr *)(const void *)addr, sizeof *addr) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int unix_bind(int fd, const struct sockaddr_un *addr)
{
    const struct sockaddr *generic = (const struct sockaddr *)(const void *)addr;

    if (fchmod(fd, 0600) < 0) /* Of the file that bind() makes: it is never open to others. */
        return -errno;
    if (bind(fd, generic, sizeof *addr) == 0)
        return 0;
    if (errno != EADDRINUSE)
        return -errno;
    if (!unix_is_stale(addr))
        return -EADDRINUSE;
    (void)unlink(addr->sun_path);
    return bind(fd, generic, sizeof *addr) < 0 ? -errno : 0;
}

int node_listen_unix(int data_fd, const char *path)
{
    struct sockaddr_un addr;
    int fd, rc;

    if (!unix_address(data_fd, path, &addr))
        return -ENAMETOOLONG;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    rc = unix_bind(fd, &addr);
    if (rc == 0)
        rc = node_listen(fd);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}
