#include "net/proxy_protocol.h"
#include <stdio.h>
#include <sys/socket.h>

static const char line_start[] = "PROXY ";
static const char signature[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};

#define V2_HEAD_SIZE 16
#define V2_LOCAL     0x20
#define V2_PROXY     0x21
#define V2_UNSPEC    0x00
#define V2_TCP4      0x11
#define V2_TCP6      0x21
#define V2_UNIX      0x31
#define TLV_HEAD     3

static unsigned get_be16(const char *p)
{
    return (unsigned)(uint8_t)p[0] << 8 | (uint8_t)p[1];
}

/* Does `in` begin with `start`, as far as there is any of it? */
static bool begins(struct slice in, const char *start, size_t size)
{
    return memcmp(in.data, start, MIN(in.size, size)) == 0;
}

/* ---- Version 1: one line ------------------------------------------------------------------------------- */

/* The next word, which one blank or the end follows. False: none, or an empty one. */
static bool word_next(struct slice *line, struct slice *word_out)
{
    size_t size = slice_find(*line, ' ');

    if (size == 0)
        return false;
    *word_out = slice_first(*line, size);
    *line = slice_from(*line, size + (size < line->size));
    return true;
}

static bool port_parse(struct slice text, uint16_t *port_out)
{
    uint64_t port;

    if (!slice_to_u64(text, UINT16_MAX, &port) || (text.size > 1 && text.data[0] == '0'))
        return false;
    *port_out = (uint16_t)port;
    return true;
}

static bool address_parse(struct slice ip, struct slice port, bool v6, struct net_addr *addr_out)
{
    char text[PROXY_LINE_MAX + 4];
    uint16_t number;
    int size;

    if (!port_parse(port, &number) || slice_eq(ip, SLICE("*")))
        return false;
    size = snprintf(text, sizeof text, v6 ? "[%.*s]:%u" : "%.*s:%u", (int)ip.size, ip.data, (unsigned)number);
    return net_addr_parse(slice_of(text, (size_t)size), addr_out) &&
           addr_out->family == (v6 ? AF_INET6 : AF_INET);
}

/* Behind "PROXY ", without CRLF. */
static bool line_parse(struct slice line, struct proxy_header *header)
{
    struct slice family, ip[2], port[2];
    struct net_addr destination;
    bool v6;

    if (slice_find(line, '\0') < line.size || line.data[line.size - 1] == ' ' || !word_next(&line, &family))
        return false;
    if (slice_eq(family, SLICE("UNKNOWN")))
        return true; /* What follows is to be ignored. */
    v6 = slice_eq(family, SLICE("TCP6"));
    if (!v6 && !slice_eq(family, SLICE("TCP4")))
        return false;
    if (!word_next(&line, &ip[0]) || !word_next(&line, &ip[1]) || !word_next(&line, &port[0]) ||
        !word_next(&line, &port[1]) || line.size > 0)
        return false;
    return address_parse(ip[0], port[0], v6, &header->source) &&
           address_parse(ip[1], port[1], v6, &destination);
}

static enum proxy_header_result parse_v1(struct slice in, struct proxy_header *header, size_t *size_out)
{
    struct slice head = slice_first(in, MIN(in.size, PROXY_LINE_MAX));
    size_t end = slice_find(head, '\n');

    if (end == head.size)
        return head.size == PROXY_LINE_MAX ? PROXY_HEADER_BAD : PROXY_HEADER_MORE;
    if (end < sizeof line_start + 1 || head.data[end - 1] != '\r' ||
        !line_parse(slice_from(slice_first(head, end - 1), sizeof line_start - 1), header))
        return PROXY_HEADER_BAD;
    *size_out = end + 1;
    return PROXY_HEADER_WHOLE;
}

/* ---- Version 2: binary --------------------------------------------------------------------------------- */

static bool tlvs_fit(struct slice in)
{
    while (in.size > 0) {
        size_t size;

        if (in.size < TLV_HEAD)
            return false;
        size = TLV_HEAD + get_be16(in.data + 1);
        if (size > in.size)
            return false;
        in = slice_from(in, size);
    }
    return true;
}

/* `body`: addresses and TLVs. */
static bool body_parse(uint8_t family, struct slice body, struct proxy_header *header)
{
    static const struct {
        uint8_t family, address_size, size;
    } forms[] = {{V2_UNSPEC, 0, 0}, {V2_TCP4, 4, 12}, {V2_TCP6, 16, 36}, {V2_UNIX, 0, 216}};

    for (size_t i = 0; i < ARRAY_COUNT(forms); i++) {
        size_t address_size = forms[i].address_size;

        if (forms[i].family != family)
            continue;
        if (body.size < forms[i].size || !tlvs_fit(slice_from(body, forms[i].size)))
            return false;
        if (address_size == 0)
            return true;
        header->source.family = family == V2_TCP4 ? AF_INET : AF_INET6;
        memcpy(header->source.ip, body.data, address_size);
        header->source.port = (uint16_t)get_be16(body.data + 2 * address_size);
        return true;
    }
    return false; /* Datagrams, and what is not assigned. */
}

static enum proxy_header_result parse_v2(struct slice in, struct proxy_header *header, size_t *size_out)
{
    uint8_t command, family;
    size_t size;

    if (in.size > sizeof signature) {
        command = (uint8_t)in.data[12];
        if (command != V2_LOCAL && command != V2_PROXY)
            return PROXY_HEADER_BAD;
    }
    if (in.size < V2_HEAD_SIZE)
        return PROXY_HEADER_MORE;
    command = (uint8_t)in.data[12];
    family = (uint8_t)in.data[13];
    size = V2_HEAD_SIZE + get_be16(in.data + 14);
    if (size > PROXY_HEADER_MAX)
        return PROXY_HEADER_BAD;
    if (in.size < size)
        return PROXY_HEADER_MORE;
    if (command == V2_PROXY &&
        !body_parse(family, slice_of(in.data + V2_HEAD_SIZE, size - V2_HEAD_SIZE), header))
        return PROXY_HEADER_BAD;
    *size_out = size;
    return PROXY_HEADER_WHOLE;
}

enum proxy_header_result proxy_header_parse(struct slice in, struct proxy_header *header_out,
                                            size_t *size_out)
{
    struct proxy_header header = {.source = {.family = 0}};
    enum proxy_header_result result = PROXY_HEADER_BAD;

    if (in.size == 0)
        return PROXY_HEADER_MORE;
    if (begins(in, line_start, sizeof line_start - 1))
        result = parse_v1(in, &header, size_out);
    else if (begins(in, signature, sizeof signature))
        result = parse_v2(in, &header, size_out);
    if (result == PROXY_HEADER_WHOLE)
        *header_out = header;
    return result;
}
