/* net/link/wire_send.c -- how frames leave by a connection: whose turn it is, and what credit goes back. */
#include "net/link/wire_state.h"

#define WIRE_QUEUED_MAX (256 * 1024)      /* Bytes given to the connection and not yet taken by the kernel. */
#define WIRE_TURN_BULK  (128 * 1024)      /* Of one stream before the next one's turn; elsewhere a frame. */
#define WIRE_WAITING    (4 * 1024 * 1024) /* The budget of what waits to leave by one connection. */

static void frame_left(void *arg)
{
    link_frame_home(arg);
}

void wire_control(struct link_wire *w, const struct link_header *h)
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

    ASSERT(f->payload == f->bytes); /* Nothing is passed on from one wire to another. */
    h.stream = s->id;
    h.flags = (uint8_t)((h.flags & ~LINK_FROM_OPENER) | (s->opener ? LINK_FROM_OPENER : 0));
    link_header_encode(&h, f->wire);
    if (bytes.size <= WIRE_COPY_MAX) {
        conn_write(&w->conn, bytes);
        if (w->lane == LINK_LANE_SMALL) /* Passwords, tickets, keys. */
            bytes_wipe(f->payload, f->header.size);
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

static void grant_write(struct link_wire *w, const struct link_stream *s)
{
    struct link_header h = {
        .type = LINK_GRANT, .stream = s->id, .flags = s->opener ? LINK_FROM_OPENER : 0, .value = s->grant};

    wire_control(w, &h);
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
    /* Who still has to say much is answered in a line. */
    if (type == LINK_OPEN && s->sent_last && w->lane == LINK_LANE_BULK && credit_grant_first(s))
        grant_write(w, s);
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
void wire_pump(struct link_wire *w)
{
    while (w->state == WIRE_UP && conn_queued(&w->conn) < WIRE_QUEUED_MAX) {
        struct list *it = list_pop_front(&w->ready);

        if (it == NULL)
            return;
        stream_transmit(w, CONTAINER_OF(it, struct link_stream, ready));
    }
}

void wire_stream_ready(struct link_stream *s)
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
    wire_stream_ready(s);
}

void wire_reset(struct link_wire *w, uint32_t id, bool opener, enum link_lost why,
                const struct link_referral *referral)
{
    struct link_header h = {
        .type = LINK_RESET, .stream = id, .flags = opener ? LINK_FROM_OPENER : 0, .value = why};
    char bytes[LINK_HEADER_SIZE + LINK_REFERRAL_SIZE];

    if (why != LINK_LOST_ELSEWHERE || referral->epoch == 0 || opener || w->version < LINK_VERSION_REFERRALS) {
        wire_control(w, &h);
        return;
    }
    if (w->state != WIRE_UP)
        return;
    h.size = LINK_REFERRAL_SIZE;
    link_header_encode(&h, bytes);
    link_referral_encode(referral, bytes + LINK_HEADER_SIZE);
    conn_write(&w->conn, slice_of(bytes, sizeof bytes));
}

void wire_released(struct link_stream *s, uint32_t size)
{
    struct link_header h = {.stream = s->id, .flags = s->opener ? LINK_FROM_OPENER : 0};

    ASSERT(s->received >= size);
    s->received -= size;
    s->credit_due += size;
    if (s->credit_due < credit_part(s->grant) || s->got_last)
        return;
    if (credit_regrant(s))
        grant_write(s->link->wire, s);
    h.type = LINK_CREDIT;
    h.value = s->credit_due;
    wire_control(s->link->wire, &h);
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
