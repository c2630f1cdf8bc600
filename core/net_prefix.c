#include "core/net_prefix.h"
#include <arpa/inet.h>

static bool bits_equal(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;

    return memcmp(a, b, whole) == 0 && (rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0);
}

bool net_prefix_parse(struct slice text, struct net_prefix *prefix_out)
{
    size_t slash = slice_find(text, '/');
    struct net_prefix p = {.family = AF_INET};
    char address[INET6_ADDRSTRLEN];
    unsigned width;
    uint64_t bits;

    if (slash >= sizeof address)
        return false;
    memcpy(address, text.data, slash);
    address[slash] = '\0';
    if (inet_pton(AF_INET, address, p.ip) != 1) {
        p.family = AF_INET6;
        if (inet_pton(AF_INET6, address, p.ip) != 1)
            return false;
    }
    width = p.family == AF_INET ? 32 : 128;
    bits = width;
    if (slash < text.size && !slice_to_u64(slice_from(text, slash + 1), width, &bits))
        return false;
    for (unsigned bit = (unsigned)bits; bit < width; bit++) {
        if (p.ip[bit / 8] & 0x80 >> bit % 8)
            return false;
    }
    p.bits = (uint8_t)bits;
    *prefix_out = p;
    return true;
}

bool net_prefix_contains(const struct net_prefix *prefix, const struct net_addr *addr)
{
    bool mapped = net_addr_is_mapped(addr);
    uint8_t family = mapped ? AF_INET : addr->family;

    return family == prefix->family && bits_equal(prefix->ip, addr->ip + (mapped ? 12 : 0), prefix->bits);
}
