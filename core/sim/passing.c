/* A simulated node is not replaced by another one: nobody passes sockets on. */
#include "core/io.h"
#include <errno.h>

int pass_send(int fd, struct slice message, const struct sock *socks, unsigned count)
{
    return -EOPNOTSUPP;
}

ssize_t pass_receive(int fd, void *message, size_t size, struct sock socks[PASS_SOCKETS_MAX],
                     unsigned *count_out)
{
    return -EOPNOTSUPP;
}

void pass_close(int fd)
{
}
