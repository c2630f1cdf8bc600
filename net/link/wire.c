#include "net/link/wire.h"
#include "core/fiber.h"
#include "core/log.h"
#include "net/link/wire_state.h"
#include <errno.h>
#include <stdio.h>

#define WIRE_INPUT_MAX 65536 /* Of the connection; never reached, since all input is taken at once. */
#define STOP_POLL_MS   5
#define STOP_FLUSH_MS  1000
#define ALPN           "trireme-link"

const struct link_node *wire_node(const struct link_wire *w)
{
    return &w->node;
}

/* ---- The end of a connection --------------------------------------------------------------------------- */

static void streams_lost(struct link_wire *w)
{
    for (uint32_t i = 0; i < w->link.opened_count; i++) {
        struct link_stream *s = w->link.opened[i];

        if (s != NULL && s->transmitted)
            link_stream_lost(s, LINK_LOST_UNKNOWN);
    }
    for (uint32_t i = 0; i < w->link.served_count; i++) {
        struct link_stream *s = w->link.served[i];

        if (s != NULL && s->relay != NULL)
            link_relay_reset(s);
        if (s != NULL)
            link_stream_lost(s, LINK_LOST_UNKNOWN);
    }
}

static void unsent_lost(struct link_wire *w, uint32_t age_ms)
{
    uint32_t now = (uint32_t)time_ms();

    for (uint32_t i = 0; w->unsent > 0 && i < w->link.opened_count; i++) {
        struct link_stream *s = w->link.opened[i];

        if (s != NULL && !s->transmitted && now - s->opened_ms >= age_ms)
            link_stream_lost(s, LINK_LOST_REFUSED);
    }
}

static void wire_log(const struct link_wire *w, enum log_level level, const char *event, const char *why)
{
    char addr[NET_ADDR_TEXT_MAX];

    log_event(level, event, "node=%s address=%s lane=%s why=\"%s\"",
              w->node.name[0] != '\0' ? log_quote(slice_str(w->node.name)) : "unknown",
              net_addr_format(w->peer != NULL ? &w->peer->addr : &w->conn.peer, addr),
              w->lane == LINK_LANE_BULK ? "bulk" : "small", why);
}

void wire_fail(struct link_wire *w, const char *why)
{
    bool was_up = w->state == WIRE_UP;

    switch (w->state) {
    case WIRE_DOWN:
    case WIRE_CLOSING:
        return;
    case WIRE_CONNECTING:
        io_cancel(&w->connect.op);
        return;
    default:
        break;
    }
    if (was_up)
        wire_log(w, wires_self()->stopping ? LOG_DEBUG : LOG_WARN, "link lost", why);
    else if (w->failures == 0 || w->peer == NULL)
        wire_log(w, LOG_WARN, "link refused", why);
    w->state = WIRE_CLOSING;
    if (w->failures < UINT8_MAX && !was_up)
        w->failures++;
    conn_abort(&w->conn);
    wire_input_drop(w);
    streams_lost(w);
    if (was_up && w->peer != NULL && w->lane == LINK_LANE_SMALL && w->peer->changed != NULL)
        w->peer->changed(w->peer, false);
}

static void retry_later(struct link_wire *w)
{
    uint32_t pause = LINK_RETRY_MAX_MS;

    w->state = WIRE_DOWN;
    if (wires_self()->stopping)
        return;
    if (w->failures < 5)
        pause = (uint32_t)LINK_RETRY_MIN_MS << w->failures;
    timer_set(&w->retry, pause / 2 + (uint32_t)(random_u64() % pause));
}

static void wire_free(struct link_wire *w)
{
    struct heap *h = wires_self()->heap;

    list_remove(&w->entry);
    heap_free(h, w->link.opened);
    heap_free(h, w->link.served);
    if (w->peer == NULL) {
        wires_self()->inbound_count--;
        heap_free(h, w);
    }
}

static void on_closed(struct conn *c)
{
    struct link_wire *w = CONTAINER_OF(c, struct link_wire, conn);

    if (w->peer == NULL)
        wire_free(w);
    else
        retry_later(w);
}

/* ---- The life of a connection ------------------------------------------------------------------------ */

void wire_up(struct link_wire *w)
{
    struct link_peer *p = w->peer;

    w->state = WIRE_UP;
    w->failures = 0;
    w->heard_ms = time_ms();
    wire_log(w, LOG_INFO, "link up", p != NULL ? "connected" : "accepted");
    if (p != NULL) {
        p->node = w->node;
        if (w->lane == LINK_LANE_SMALL && p->changed != NULL)
            p->changed(p, true);
    }
    wire_pump(w);
}

static void on_sent(struct conn *c)
{
    wire_pump(CONTAINER_OF(c, struct link_wire, conn));
}

static void hello_begin(struct link_wire *w)
{
    w->state = WIRE_HELLO;
    if (w->peer != NULL)
        wire_hello_write(w);
}

static void on_secured(struct conn *c)
{
    hello_begin(CONTAINER_OF(c, struct link_wire, conn));
}

static void on_ended(struct conn *c, int why)
{
    struct link_wire *w = CONTAINER_OF(c, struct link_wire, conn);
    bool tls = why == -EPROTO && c->tls != NULL;

    wire_fail(w, tls ? tls_error(c->tls) : why == 0 ? "closed by the peer" : strerror(-why));
}

static const struct conn_ops wire_conn_ops = {
    .data = wire_data,
    .sent = on_sent,
    .secured = on_secured,
    .ended = on_ended,
    .closed = on_closed,
};

/* ---- Dialling and accepting ---------------------------------------------------------------------------- */

static void connect_failed(const struct link_wire *w, int why)
{
    char text[96];

    if (why == -EACCES)
        snprintf(text, sizeof text, "the sandbox forbids that port: add %u to link.ports, and restart",
                 w->peer->addr.port);
    wire_log(w, why == -EACCES ? LOG_ERROR : LOG_WARN, "link: cannot connect",
             why == -EACCES ? text : strerror(-why));
}

static void connect_done(struct io_op *op)
{
    struct link_wire *w = CONTAINER_OF(op, struct link_wire, connect.op);
    struct wires *wires = wires_self();

    if (op->res >= 0 && wires->stopping) {
        io_close(w->connect.sock);
        op->res = -ECANCELED;
    }
    if (op->res < 0) {
        if (w->failures == 0 && !wires->stopping)
            connect_failed(w, op->res);
        if (w->failures < UINT8_MAX)
            w->failures++;
        retry_later(w);
        return;
    }
    conn_init(&w->conn, w->connect.sock, &w->peer->addr, WIRE_INPUT_MAX, &wire_conn_ops);
    conn_carries_secrets(&w->conn, w->lane == LINK_LANE_SMALL);
    conn_receive_bulk(&w->conn);
    if (wires->config.tls_client == NULL) {
        hello_begin(w);
        return;
    }
    w->state = WIRE_SECURING;
    conn_start_tls_client(&w->conn, wires->config.tls_client, slice_of(NULL, 0), SLICE(ALPN),
                          slice_of(NULL, 0));
}

static void wire_connect(struct link_wire *w)
{
    w->state = WIRE_CONNECTING;
    w->heard_ms = time_ms();
    w->connect.peer = w->peer->addr;
    w->connect.op.done = connect_done;
    io_connect(&w->connect);
}

static void on_retry(struct timer *t)
{
    wire_connect(CONTAINER_OF(t, struct link_wire, retry));
}

static void wire_init(struct link_wire *w, struct link_peer *p, unsigned lane)
{
    struct wires *wires = wires_self();

    w->peer = p;
    w->lane = (uint8_t)lane;
    w->link.wire = w;
    w->link.state = link_state();
    w->link.share = LINK_WINDOW;
    list_init(&w->ready);
    timer_init(&w->retry, on_retry);
    list_push_back(&wires->list, &w->entry);
}

void wires_accept(struct sock sock, const struct net_addr *peer)
{
    struct wires *wires = wires_self();
    struct link_wire *w;

    if (wires == NULL || wires->stopping || wires->inbound_count >= LINK_INBOUND_MAX ||
        (wires->config.tls_server == NULL && !net_addr_is_loopback(peer))) {
        io_close(sock);
        return;
    }
    w = heap_zalloc(wires->heap, sizeof *w);
    wires->inbound_count++;
    wire_init(w, NULL, LINK_LANE_SMALL);
    w->heard_ms = time_ms();
    conn_init(&w->conn, sock, peer, WIRE_INPUT_MAX, &wire_conn_ops);
    conn_carries_secrets(&w->conn, true);
    conn_receive_bulk(&w->conn);
    if (wires->config.tls_server == NULL) {
        hello_begin(w);
        return;
    }
    w->state = WIRE_SECURING;
    conn_start_tls(&w->conn, wires->config.tls_server, SLICE(ALPN));
}

struct link_peer *link_peer_dial(const struct net_addr *addr, struct slice name, uint8_t roles,
                                 void (*changed)(struct link_peer *p, bool up), void *owner)
{
    struct wires *wires = wires_self();
    struct link_peer *p = heap_zalloc(wires->heap, sizeof *p);

    ASSERT(name.size <= LINK_NODE_NAME_MAX && !wires->stopping);
    p->addr = *addr;
    p->roles = roles;
    p->changed = changed;
    p->owner = owner;
    if (name.size > 0)
        memcpy(p->name, name.data, name.size);
    list_push_back(&wires->peers, &p->entry);
    for (unsigned lane = 0; lane < LINK_LANE_COUNT; lane++)
        wire_init(&p->lanes[lane], p, lane);
    wire_connect(&p->lanes[LINK_LANE_SMALL]);
    return p;
}

/* The bulk connection is made at its first use. */
struct link *wire_link(struct link_target to)
{
    struct link_wire *w = &to.peer->lanes[to.bulk ? LINK_LANE_BULK : LINK_LANE_SMALL];

    if (wires_self() == NULL || wires_self()->stopping)
        return NULL;
    if (w->state == WIRE_DOWN && !timer_armed(&w->retry))
        wire_connect(w);
    return &w->link;
}

void link_peer_leave(struct link_peer *p)
{
    p->changed = NULL;
    p->owner = NULL;
}

void *link_peer_owner(const struct link_peer *p)
{
    return p->owner;
}

bool link_peer_up(const struct link_peer *p)
{
    return p->lanes[LINK_LANE_SMALL].state == WIRE_UP;
}

const struct link_node *link_peer_node(const struct link_peer *p)
{
    return &p->node;
}

const struct net_addr *link_peer_addr(const struct link_peer *p)
{
    return &p->addr;
}

/* ---- Heartbeats, start and stop ------------------------------------------------------------------------- */

static void wire_tick(struct link_wire *w, uint64_t now)
{
    static const struct link_header ping = {.type = LINK_PING};
    bool silent = now - w->heard_ms >= LINK_SILENCE_MS;

    if (w->state != WIRE_DOWN && w->state != WIRE_CLOSING && silent)
        wire_fail(w, "silence");
    else
        wire_control(w, &ping);
    if (w->unsent > 0)
        unsent_lost(w, LINK_UNSENT_MS);
}

static void on_tick(struct timer *t)
{
    struct wires *wires = CONTAINER_OF(t, struct wires, tick);
    uint64_t now = time_ms();

    list_each_safe(it, &wires->list)
    {
        wire_tick(CONTAINER_OF(it, struct link_wire, entry), now);
    }
    timer_set(&wires->tick, LINK_PING_MS);
}

void wires_start(const struct wires_config *config)
{
    struct link_state *state = link_state();
    struct wires *wires = heap_zalloc(state->heap, sizeof *wires);

    wires->config = *config;
    wires->heap = state->heap;
    list_init(&wires->list);
    list_init(&wires->peers);
    timer_init(&wires->tick, on_tick);
    timer_set(&wires->tick, LINK_PING_MS);
    state->wires = wires;
}

void wires_set_tls(struct tls_context *server, struct tls_context *client)
{
    struct wires *wires = wires_self();

    ASSERT((server == NULL) == (wires->config.tls_server == NULL));
    wires->config.tls_server = server;
    wires->config.tls_client = client;
}

static bool wires_queued(const struct wires *wires)
{
    list_each(it, &wires->list)
    {
        const struct link_wire *w = CONTAINER_OF(it, struct link_wire, entry);

        if (w->state == WIRE_UP && (!list_empty(&w->ready) || conn_queued(&w->conn) > 0))
            return true;
    }
    return false;
}

static bool wires_busy(const struct wires *wires)
{
    list_each(it, &wires->list)
    {
        if (CONTAINER_OF(it, struct link_wire, entry)->state != WIRE_DOWN)
            return true;
    }
    return false;
}

void wires_stop(void)
{
    struct wires *wires = wires_self();

    if (wires == NULL || wires->stopping)
        return;
    fiber_mask();
    for (unsigned ms = 0; ms < STOP_FLUSH_MS && wires_queued(wires); ms += STOP_POLL_MS)
        (void)fiber_sleep_ms(STOP_POLL_MS);
    wires->stopping = true;
    timer_cancel(&wires->tick);
    list_each_safe(it, &wires->list)
    {
        struct link_wire *w = CONTAINER_OF(it, struct link_wire, entry);

        timer_cancel(&w->retry);
        unsent_lost(w, 0);
        wire_fail(w, "stopping");
    }
    while (wires_busy(wires))
        (void)fiber_sleep_ms(STOP_POLL_MS);
    fiber_unmask();
}

void wires_free(struct link_state *state)
{
    struct wires *wires = state->wires;

    if (wires == NULL)
        return;
    ASSERT(wires->stopping);
    list_each_safe(it, &wires->peers)
    {
        struct link_peer *p = CONTAINER_OF(it, struct link_peer, entry);

        for (unsigned lane = 0; lane < LINK_LANE_COUNT; lane++)
            wire_free(&p->lanes[lane]);
        heap_free(wires->heap, p);
    }
    heap_free(wires->heap, wires);
    state->wires = NULL;
}
