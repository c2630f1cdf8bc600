#include "core/io.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>

static bool parse_ip(struct slice text, bool bracketed, struct net_addr *addr)
{
    char ip[INET6_ADDRSTRLEN];

    if (text.size >= sizeof ip || memchr(text.data, '\0', text.size) != NULL)
        return false;
    memcpy(ip, text.data, text.size);
    ip[text.size] = '\0';
    addr->family = bracketed ? AF_INET6 : AF_INET;
    return inet_pton(addr->family, ip, addr->ip) == 1;
}

bool net_addr_parse(struct slice text, struct net_addr *addr_out)
{
    struct net_addr addr = {.family = 0};
    size_t colon = text.size;
    uint64_t port;

    while (colon > 0 && text.data[colon - 1] != ':')
        colon--;
    if (colon < 2 || !slice_to_u64(slice_from(text, colon), UINT16_MAX, &port))
        return false;
    text = slice_first(text, colon - 1);
    if (slice_eq(text, SLICE("*"))) {
        addr.family = AF_INET;
    } else if (text.size > 2 && text.data[0] == '[' && text.data[text.size - 1] == ']') {
        if (!parse_ip(slice_of(text.data + 1, text.size - 2), true, &addr))
            return false;
    } else if (!parse_ip(text, false, &addr)) {
        return false;
    }
    addr.port = (uint16_t)port;
    *addr_out = addr;
    return true;
}

char *net_addr_format(const struct net_addr *a, char buffer[NET_ADDR_TEXT_MAX])
{
    char ip[INET6_ADDRSTRLEN];

    if (a->family == AF_UNIX)
        snprintf(buffer, NET_ADDR_TEXT_MAX, "unix");
    else if ((a->family != AF_INET && a->family != AF_INET6) ||
             inet_ntop(a->family, a->ip, ip, sizeof ip) == NULL)
        snprintf(buffer, NET_ADDR_TEXT_MAX, "none");
    else
        snprintf(buffer, NET_ADDR_TEXT_MAX, a->family == AF_INET6 ? "[%s]:%u" : "%s:%u", ip,
                 (unsigned)a->port);
    return buffer;
}

bool net_addr_is_mapped(const struct net_addr *a)
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};

    return a->family == AF_INET6 && memcmp(a->ip, prefix, sizeof prefix) == 0;
}

bool net_addr_is_loopback(const struct net_addr *a)
{
    static const uint8_t loopback6[16] = {[15] = 1};

    if (a->family == AF_INET)
        return a->ip[0] == 127;
    if (net_addr_is_mapped(a))
        return a->ip[12] == 127;
    return a->family == AF_INET6 && memcmp(a->ip, loopback6, sizeof loopback6) == 0;
}

struct slice net_addr_subscriber(const struct net_addr *a)
{
    const char *ip = (const char *)a->ip;

    if (net_addr_is_mapped(a))
        return slice_of(ip + 12, 4);
    return slice_of(ip, a->family == AF_INET6 ? 8 : 4);
}

bool net_addr_same_host(const struct net_addr *a, const struct net_addr *b)
{
    const uint8_t *x = net_addr_is_mapped(a) ? a->ip + 12 : a->ip,
                  *y = net_addr_is_mapped(b) ? b->ip + 12 : b->ip;
    bool v4 = a->family == AF_INET || net_addr_is_mapped(a);

    if (a->family == 0 || b->family == 0 || v4 != (b->family == AF_INET || net_addr_is_mapped(b)))
        return false;
    return memcmp(x, y, v4 ? 4 : 16) == 0;
}

bool net_addr_same(const struct net_addr *a, const struct net_addr *b)
{
    return a->family == b->family && a->port == b->port &&
           memcmp(a->ip, b->ip, a->family == AF_INET ? 4 : sizeof a->ip) == 0;
}
