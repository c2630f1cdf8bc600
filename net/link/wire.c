#include "net/link/wire.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "net/link/header.h"
#include "net/link/link_state.h"
#include <errno.h>
#include <stdio.h>

#define WIRE_QUEUED_MAX (256 * 1024) /* Bytes given to the connection and not yet taken by the kernel. */
#define WIRE_TURN_BULK  (128 * 1024)  /* Of one stream before the next one's turn; elsewhere a frame. */
#define WIRE_COPY_MAX   1024         /* Frames up to this size are copied, so that they leave in one piece. */
#define WIRE_INPUT_MAX  65536        /* Of the connection; never reached, since all input is taken at once. */
#define WIRE_WAITING    (4 * 1024 * 1024) /* The budget of what waits to leave by one connection. */
#define CREDIT_PART     2                 /* Of a window: released, it is worth a CREDIT. */
#define STOP_POLL_MS    5
#define STOP_FLUSH_MS   1000
#define ALPN            "trireme-link"

/*   DOWN --retry--> CONNECTING --> SECURING --> HELLO --both have said it--> UP
 *    ^                  |             |           |                          |
 *    +------closed------+---CLOSING---+-----------+----error, silence--------+      (accepted: freed instead)
 *
 * Plain TCP skips SECURING; an accepted connection begins there. */
enum wire_state { WIRE_DOWN, WIRE_CONNECTING, WIRE_SECURING, WIRE_HELLO, WIRE_UP, WIRE_CLOSING };

struct link_wire {
    struct list entry;      /* In wires->list. */
    struct link_peer *peer; /* NULL: accepted. */
    struct link link;
    struct link_node node; /* Who the other end is, once UP. */
    struct conn conn;
    struct io_connect connect;
    struct timer retry;
    struct list ready;           /* Streams that can send. */
    struct link_frame *incoming; /* The frame whose payload arrives. */
    uint32_t incoming_size;      /* Of its payload, so far. */
    uint32_t unsent;             /* Streams whose OPEN has not left. */
    uint64_t waiting;            /* Bytes of DATA in its streams' queues. */
    uint32_t burst;              /* Bytes that the stream whose turn it is has sent in it. */
    uint64_t heard_ms;           /* When something arrived; before UP: when it began. */
    uint8_t state;               /* enum wire_state */
    uint8_t lane;                /* enum link_lane */
    uint8_t failures;            /* In a row. */
    uint8_t header_size;
    char header[LINK_HEADER_SIZE]; /* Arrives. */
};

struct link_peer {
    struct list entry; /* In wires->peers. */
    struct net_addr addr;
    uint8_t roles;
    char name[LINK_NODE_NAME_MAX + 1]; /* Expected; "": any. */
    struct link_node node;
    void (*changed)(struct link_peer *p, bool up);
    void *owner;
    struct link_wire lanes[LINK_LANE_COUNT];
};

struct wires {
    struct wires_config config;
    struct heap *heap;
    struct list list, peers;
    struct timer tick;
    uint32_t inbound_count;
    bool stopping;
};

static struct wires *wires_self(void)
{
    return link_state()->wires;
}

const struct link_node *wire_node(const struct link_wire *w)
{
    return &w->node;
}

/* ---- Sending ------------------------------------------------------------------------------------------- */

static void frame_left(void *arg)
{
    link_frame_home(arg);
}

static void control_write(struct link_wire *w, const struct link_header *h)
{
    char bytes[LINK_HEADER_SIZE];

    if (w->state != WIRE_UP)
        return;
    link_header_encode(h, bytes);
    conn_write(&w->conn, slice_of(bytes, sizeof bytes));
}

static void frame_write(struct link_wire *w, const struct link_stream *s, struct link_frame *f)
{
    struct link_header h = f->header;
    struct slice bytes = slice_of(f->wire, LINK_HEADER_SIZE + f->header.size);

    h.stream = s->id;
    h.flags = (uint8_t)((h.flags & ~LINK_FROM_OPENER) | (s->opener ? LINK_FROM_OPENER : 0));
    link_header_encode(&h, f->wire);
    if (bytes.size <= WIRE_COPY_MAX) {
        conn_write(&w->conn, bytes);
        link_frame_home(f);
    } else {
        conn_write_loan(&w->conn, bytes, frame_left, f);
    }
}

static struct link_frame *stream_next(const struct link_stream *s)
{
    struct link_frame *f = list_empty(&s->out) ? NULL : CONTAINER_OF(s->out.next, struct link_frame, link);

    if (f != NULL && f->header.type == LINK_DATA && (f->header.flags & LINK_HOLD) == 0 &&
        s->in_flight + f->header.size > s->window)
        return NULL; /* Waits for credit. */
    return f;
}

/* `size` more, or less, bytes of DATA wait in queues. */
static void waiting_add(struct link_wire *w, int64_t size)
{
    w->waiting += (uint64_t)size;
    w->link.share = credit_share(WIRE_WAITING, w->waiting);
}

static void stream_transmit(struct link_wire *w, struct link_stream *s)
{
    struct link_frame *f = stream_next(s);
    enum link_type type = f->header.type;

    list_remove(&f->link);
    if (type == LINK_OPEN) {
        s->transmitted = true;
        w->unsent--;
    } else if (type == LINK_DATA) {
        s->in_flight += f->header.size;
        waiting_add(w, -(int64_t)f->header.size);
    }
    w->burst += f->header.size;
    frame_write(w, s, f);
    if (type == LINK_END) {
        w->burst = 0;
        link_stream_finish(s);
        return;
    }
    if (stream_next(s) == NULL || w->lane != LINK_LANE_BULK || w->burst >= WIRE_TURN_BULK) {
        w->burst = 0;
        if (stream_next(s) != NULL)
            list_push_back(&w->ready, &s->ready);
    } else {
        list_push_front(&w->ready, &s->ready);
    }
    credit_wake(s);
}

/* Streams take turns. */
static void wire_pump(struct link_wire *w)
{
    while (w->state == WIRE_UP && conn_queued(&w->conn) < WIRE_QUEUED_MAX) {
        struct list *it = list_pop_front(&w->ready);

        if (it == NULL)
            return;
        stream_transmit(w, CONTAINER_OF(it, struct link_stream, ready));
    }
}

static void stream_ready(struct link_stream *s)
{
    struct link_wire *w = s->link->wire;

    if (list_linked(&s->ready) || stream_next(s) == NULL)
        return;
    list_push_back(&w->ready, &s->ready);
    wire_pump(w);
}

void wire_post(struct link_stream *s, struct link_frame *f)
{
    list_push_back(&s->out, &f->link);
    if (f->header.type == LINK_DATA)
        waiting_add(s->link->wire, f->header.size);
    stream_ready(s);
}

void wire_reset(struct link_wire *w, uint32_t id, bool opener, enum link_lost why)
{
    struct link_header h = {
        .type = LINK_RESET, .stream = id, .flags = opener ? LINK_FROM_OPENER : 0, .value = why};

    control_write(w, &h);
}

void wire_released(struct link_stream *s, uint32_t size)
{
    struct link_header h = {.stream = s->id, .flags = s->opener ? LINK_FROM_OPENER : 0};

    ASSERT(s->received >= size);
    s->received -= size;
    s->credit_due += size;
    if (s->credit_due < s->grant / CREDIT_PART || s->got_last)
        return;
    if (credit_regrant(s)) {
        h.type = LINK_GRANT;
        h.value = s->grant;
        control_write(s->link->wire, &h);
    }
    h.type = LINK_CREDIT;
    h.value = s->credit_due;
    control_write(s->link->wire, &h);
    s->credit_due = 0;
    credit_promise(s, false);
}

void wire_stream_drop(struct link_stream *s)
{
    struct list *it;

    if (s->opener && !s->transmitted) {
        s->link->wire->unsent--;
        s->transmitted = true;
    }
    list_remove(&s->ready);
    while ((it = list_pop_front(&s->out)) != NULL) {
        struct link_frame *f = CONTAINER_OF(it, struct link_frame, link);

        if (f->header.type == LINK_DATA)
            waiting_add(s->link->wire, -(int64_t)f->header.size);
        link_frame_home(f);
    }
}

void wire_opened(struct link_stream *s)
{
    s->opened_ms = (uint32_t)time_ms();
    s->link->wire->unsent++;
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

static void input_drop(struct link_wire *w)
{
    if (w->incoming != NULL)
        link_frame_release(w->incoming);
    w->incoming = NULL;
    w->header_size = 0;
}

static void wire_log(const struct link_wire *w, enum log_level level, const char *event, const char *why)
{
    char addr[NET_ADDR_TEXT_MAX];

    log_event(level, event, "node=%s address=%s lane=%s why=\"%s\"",
              w->node.name[0] != '\0' ? log_quote(slice_str(w->node.name)) : "unknown",
              net_addr_format(w->peer != NULL ? &w->peer->addr : &w->conn.peer, addr),
              w->lane == LINK_LANE_BULK ? "bulk" : "small", why);
}

/* Ends the connection, whatever state it is in; a dialled one begins again when it is closed. */
static void wire_fail(struct link_wire *w, const char *why)
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
    input_drop(w);
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

/* ---- HELLO --------------------------------------------------------------------------------------------- */

static void hello_write(struct link_wire *w)
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

static void wire_up(struct link_wire *w)
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

/* False: the connection is of no use. */
static bool hello_arrived(struct link_wire *w, struct slice in)
{
    struct link_hello h;
    const char *fault;

    if (!link_hello_decode(in, &h))
        return false;
    w->node = h.node;
    if (w->peer == NULL)
        w->lane = h.lane;
    fault = hello_fault(w, &h);
    if (fault != NULL) {
        wire_fail(w, fault);
        return true;
    }
    if (w->peer == NULL)
        hello_write(w);
    wire_up(w);
    return true;
}

/* ---- Frames that arrive: false is what no node of ours would send --------------------------------------- */

static bool open_arrived(struct link_wire *w, struct link_frame *f)
{
    const struct wires_config *config = &wires_self()->config;
    struct node *node = shard_self()->node;
    enum link_lost why = LINK_LOST_REFUSED;
    struct link_stream *s;
    unsigned shard;
    bool served = false;

    if (link_find(w->link.served, w->link.served_count, f->header.stream) != NULL)
        return false;
    s = link_served_new(&w->link, f->header.stream, (f->header.flags & LINK_LAST) != 0);
    if (s == NULL) {
        wire_reset(w, f->header.stream, false, why);
        link_frame_release(f);
        return true;
    }
    if (config->admit == NULL || config->admit(&w->node, f, &why)) {
        shard = config->shard(f->header.kind, (uint16_t)f->header.value);
        if (shard >= node->shard_count)
            why = LINK_LOST_ELSEWHERE;
        else if (node->shards[shard] != shard_self())
            served = link_relay_open(s, node->shards[shard], f, &w->node);
        else
            served = link_serve_frame(s, f);
    }
    if (!served) {
        link_stream_refuse(s, why);
        link_frame_release(f);
    }
    return true;
}

static struct link_stream *wire_stream(struct link_wire *w, const struct link_header *h)
{
    if ((h->flags & LINK_FROM_OPENER) != 0)
        return link_find(w->link.served, w->link.served_count, h->stream);
    return link_find(w->link.opened, w->link.opened_count, h->stream);
}

static bool data_arrived(struct link_wire *w, struct link_frame *f)
{
    struct link_stream *s = wire_stream(w, &f->header);

    if (s == NULL) { /* It ended here, and the peer has not heard of it yet. */
        link_frame_release(f);
        return true;
    }
    if (s->got_last || (s->opener && !s->transmitted))
        return false;
    if (f->header.type == LINK_DATA) {
        s->received += f->header.size;
        if (s->received > ((f->header.flags & LINK_HOLD) != 0 ? LINK_HELD_MAX : LINK_WINDOW))
            return false;
        credit_promise(s, s->got_last || (f->header.flags & LINK_LAST) != 0);
    }
    if (s->relay != NULL) {
        s->got_last = (f->header.flags & LINK_LAST) != 0;
        link_relay_frame(s->relay, f);
    } else {
        link_stream_frame(s, f);
    }
    return true;
}

static bool reset_arrived(struct link_wire *w, const struct link_header *h)
{
    struct link_stream *s = wire_stream(w, h);

    if (s == NULL)
        return true;
    if (s->opener) {
        if (!s->transmitted)
            return false;
        link_stream_lost(s, h->value);
        return true;
    }
    wire_reset(w, s->id, false, LINK_LOST_UNKNOWN); /* The answer that frees the id. */
    if (s->relay != NULL)
        link_relay_reset(s);
    link_stream_lost(s, LINK_LOST_UNKNOWN);
    return true;
}

static bool credit_arrived(struct link_wire *w, const struct link_header *h)
{
    struct link_stream *s = wire_stream(w, h);

    if (s == NULL)
        return true;
    if (h->value > s->in_flight)
        return false;
    s->in_flight -= h->value;
    link_stream_credit(s, h->value); /* Its owner may end it meanwhile, */
    s = wire_stream(w, h);
    if (s != NULL)
        stream_ready(s); /* and what leaves may be its END. */
    return true;
}

static void grant_arrived(struct link_wire *w, const struct link_header *h)
{
    struct link_stream *s = wire_stream(w, h);

    if (s == NULL)
        return;
    s->window = h->value; /* What it makes room for comes with the CREDIT behind it. */
}

static bool frame_arrived(struct link_wire *w, struct link_frame *f)
{
    const struct link_header h = f->header;
    bool hello = h.type == LINK_HELLO, good = hello == (w->state == WIRE_HELLO), taken = false;

    if (good && hello) {
        good = hello_arrived(w, slice_of(f->payload, h.size));
    } else if (good) {
        switch (h.type) {
        case LINK_OPEN:
            taken = good = open_arrived(w, f);
            break;
        case LINK_DATA:
        case LINK_END:
            taken = good = data_arrived(w, f);
            break;
        case LINK_RESET:
            good = reset_arrived(w, &h);
            break;
        case LINK_CREDIT:
            good = credit_arrived(w, &h);
            break;
        case LINK_GRANT:
            grant_arrived(w, &h);
            break;
        default: /* PING: it was heard. */
            break;
        }
    }
    if (!taken)
        link_frame_release(f);
    return good;
}

/* Takes some of *in. */
static bool input_take(struct link_wire *w, struct slice *in)
{
    struct link_frame *f = w->incoming;
    struct link_header h;
    size_t take;

    if (f == NULL) {
        take = MIN(in->size, LINK_HEADER_SIZE - (size_t)w->header_size);
        memcpy(w->header + w->header_size, in->data, take);
        w->header_size += (uint8_t)take;
        *in = slice_from(*in, take);
        if (w->header_size < LINK_HEADER_SIZE)
            return true;
        if (!link_header_decode(w->header, &h))
            return false;
        f = w->incoming = link_frame_new(h.size);
        f->header = h;
        f->wired = true;
        w->incoming_size = 0;
        w->header_size = 0;
    }
    take = MIN(in->size, f->header.size - (size_t)w->incoming_size);
    if (take > 0)
        memcpy(f->payload + w->incoming_size, in->data, take);
    w->incoming_size += (uint32_t)take;
    *in = slice_from(*in, take);
    if (w->incoming_size < f->header.size)
        return true;
    w->incoming = NULL;
    return frame_arrived(w, f);
}

static size_t on_data(struct conn *c, struct slice in)
{
    struct link_wire *w = CONTAINER_OF(c, struct link_wire, conn);
    struct slice rest = in;

    if (w->state == WIRE_UP)
        w->heard_ms = time_ms();
    while (rest.size > 0 && (w->state == WIRE_UP || w->state == WIRE_HELLO)) {
        if (!input_take(w, &rest)) {
            wire_fail(w, "not a frame of the link");
            break;
        }
    }
    return in.size;
}

static void on_sent(struct conn *c)
{
    wire_pump(CONTAINER_OF(c, struct link_wire, conn));
}

static void hello_begin(struct link_wire *w)
{
    w->state = WIRE_HELLO;
    if (w->peer != NULL)
        hello_write(w);
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
    .data = on_data,
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
        control_write(w, &ping);
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
