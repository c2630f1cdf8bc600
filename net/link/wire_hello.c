/* net/link/wire_hello.c -- what both ends of a connection say first, and whom they talk to. */
#include "net/link/wire_state.h"

void wire_hello_write(struct link_wire *w)
{
    struct link_hello hello = {.version = LINK_VERSION,
                               .version_oldest = LINK_VERSION_OLDEST,
                               .lane = w->lane,
                               .node = wires_self()->config.self};
    struct link_header h = {.type = LINK_HELLO};
    char header[LINK_HEADER_SIZE], payload[LINK_HELLO_MAX];

    h.size = (uint16_t)link_hello_encode(&hello, payload);
    link_header_encode(&h, header);
    conn_write(&w->conn, slice_of(header, sizeof header));
    conn_write(&w->conn, slice_of(payload, h.size));
}

/* NULL: he is who he says he is, and one that we talk to. */
static const char *hello_fault(const struct link_wire *w, const struct link_hello *h)
{
    struct tls_identity identity;
    uint8_t roles = 0;

    if (h->version < LINK_VERSION_OLDEST || h->version_oldest > LINK_VERSION)
        return "no common version of the link: upgrade in steps of one release";
    if (w->conn.tls != NULL) {
        if (!tls_peer(w->conn.tls, &identity) || strcmp(identity.name, h->node.name) != 0)
            return "the certificate is another node's";
        for (unsigned i = 0; i < identity.unit_count; i++) {
            roles |= strcmp(identity.units[i], "proxy") == 0 ? LINK_ROLE_PROXY : 0;
            roles |= strcmp(identity.units[i], "director") == 0 ? LINK_ROLE_DIRECTOR : 0;
            roles |= strcmp(identity.units[i], "backend") == 0 ? LINK_ROLE_BACKEND : 0;
        }
        if ((h->node.roles & ~roles) != 0)
            return "the certificate does not name that role";
    }
    if (w->peer == NULL)
        return NULL;
    if ((w->peer->roles & ~h->node.roles) != 0)
        return "the node has another role";
    if (w->peer->name[0] != '\0' && strcmp(w->peer->name, h->node.name) != 0)
        return "another node answers at this address";
    return NULL;
}

/* False: the connection is of no use. */
bool wire_hello_arrived(struct link_wire *w, struct slice in)
{
    struct link_hello h;
    const char *fault;

    if (!link_hello_decode(in, &h))
        return false;
    w->node = h.node;
    w->version = MIN(h.version, LINK_VERSION);
    if (w->peer == NULL)
        w->lane = h.lane;
    conn_carries_secrets(&w->conn, w->lane == LINK_LANE_SMALL);
    fault = hello_fault(w, &h);
    if (fault != NULL) {
        wire_fail(w, fault);
        return true;
    }
    if (w->peer == NULL)
        wire_hello_write(w);
    wire_up(w);
    return true;
}
