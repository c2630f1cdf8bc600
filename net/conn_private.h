/* net/conn_private.h -- what the files of a connection share. Private to net/conn*.c.
 *
 * conn.c its life, and the order of work; conn_receive.c when to poll, when to receive and into what; conn_tls.c and conn_input.c
 * the way of what has come, through TLS and decompression to the owner; conn_send.c and conn_output.c what the owner writes;
 * conn_end.c the end, the peer's and the owner's.
 *
 * What happens is noted in the record's fields; conn_work() then does, in a fixed order, all that they ask
 * for. It runs after every completion, timer and message, and calls from outside send a message for it. So no
 * callback ever finds the record half-way, and what a turn wrote leaves together. */
#pragma once
#include "core/heap.h"
#include "core/metrics.h"
#include "net/conn.h"
#include "net/conn_output.h"
#include "net/deflate.h"
#include <errno.h>

enum conn_phase {
    PHASE_PLAIN,
    PHASE_TLS_WAIT, /* The reply to STARTTLS must leave, and no read be in flight; input is thrown away. */
    PHASE_TLS,      /* Shaking hands, or secured. */
    PHASE_HELLO,    /* Before it: a ClientHello arrives, or waits for conn_accept_tls(). */
};

static inline struct heap *conn_heap(void)
{
    return shard_self()->heap;
}

static inline bool conn_secured(const struct conn *c)
{
    return c->phase == PHASE_TLS && tls_state(c->tls) == TLS_OPEN;
}

static inline bool conn_reads(const struct conn *c)
{
    return !c->ended && !c->closing;
}

/* May the owner be given what has come? Also what came before the peer's end, until he is told of that. */
static inline bool conn_gives(const struct conn *c)
{
    return !c->closing && (!c->ended || (c->ended_why == 0 && !c->ended_told));
}

/* ---- conn.c -------------------------------------------------------------------------------------------- */

/* Has conn_work() run soon. */
void conn_post(struct conn *c);
/* Last in whatever the loop calls, which has set c->working: c may be freed in it. */
void conn_work(struct conn *c);

/* ---- conn_receive.c ------------------------------------------------------------------------------------ */

/* Begins the poll or receive that is due, or calls off one that no longer is. */
void conn_receive_step(struct conn *c);
void conn_receive_cancel(struct conn *c);
/* Is a poll armed that is to stay? */
bool conn_receive_polls(const struct conn *c);
/* Lets go of c->space. */
void conn_receive_drop(struct conn *c);

/* ---- conn_tls.c ---------------------------------------------------------------------------------------- */

/* Of the peer's TLS. */
void conn_tls_arrived(struct conn *c, struct slice in);
/* In PHASE_HELLO. */
void conn_hello_arrived(struct conn *c, struct slice in);
/* On to the next phase, if what it waits for is there. */
void conn_tls_step(struct conn *c);

/* ---- conn_input.c -------------------------------------------------------------------------------------- */

/* From the wire. */
void conn_bytes_arrived(struct conn *c, struct slice in);
/* The same, deciphered. */
void conn_plain_arrived(struct conn *c, struct slice in);
/* What is due is offered to the owner, and what came compressed is made plain for him. */
void conn_input_step(struct conn *c);
void conn_input_keep(struct conn *c, struct slice bytes);
void conn_input_drop(struct conn *c);

/* ---- conn_send.c --------------------------------------------------------------------------------------- */

/* Sends what is written, if it may and nothing is on its way. */
void conn_send_step(struct conn *c);
/* Nothing written is left on this side of the kernel. */
bool conn_send_drained(const struct conn *c);
/* What is written goes nowhere. Not while a send is in flight. */
void conn_send_drop(struct conn *c);

/* ---- conn_end.c ---------------------------------------------------------------------------------------- */

/* No more input, and after most errors no more output. `why`: see ops->ended(), which is due from now on. */
void conn_end(struct conn *c, int why);
bool conn_end_due(const struct conn *c);
/* Tells of it. */
void conn_end_step(struct conn *c);
/* The timer of one that closes, or whose peer has closed his side, has fired. */
void conn_end_timed(struct conn *c);
/* While c->closing. True: all is over, ops->closed() was called, and c may be gone. */
bool conn_end_finish(struct conn *c);
/* Its last words were said, and the peer may not have read them. */
bool conn_lingers(const struct conn *c);
