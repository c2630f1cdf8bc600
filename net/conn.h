/* net/conn.h -- a stream connection: a socket, perhaps under TLS, embedded in the session that owns it.
 *
 * Reading: while the peer is quiet one poll is armed and no buffer is held; while he speaks a receive is armed
 *          instead, for CONN_QUIET_MS after he connected or after his last bytes, or until conn_rest(). Bytes go
 *          to ops->data(), which says how many it has taken; the rest is kept, in order, and offered again with
 *          what follows it.
 * Writing: conn_write() copies into pending blocks and conn_write_loan() lends; all that one turn of the loop
 *          wrote leaves in one send (one send is in flight at a time), sealed on its way when TLS is on.
 * Resting: quiet, little kept and nothing unsent: ops->rested(). Its owner may then put it to sleep: what is left of
 *          the connection are its socket and struct conn_packed, and it wakes in another record.
 * Ending:  the peer's end or an error comes once as ops->ended(). The owner ends with conn_close() (what is
 *          written still leaves) or conn_abort(). ops->closed() is last: nothing refers to the record any more.
 *
 * Owner:  whoever embeds it; one shard. All callbacks come from the loop, never inside a call of this header,
 *         and these calls may be made anywhere on the shard: in a callback, on a fiber.
 * Memory: idle and in plain text the record alone. Input kept: at most input_max and, on top of it, what one
 *         receive and one TLS record bring. Output: CONN_QUEUED_MAX, and CONN_SEAL_WINDOW of ciphertext.
 *         Deadlines (login, idle, slow readers) are the owner's timers; a close that cannot flush ends by
 *         itself. */
#pragma once
#include "core/io.h"
#include "core/shard.h"
#include "net/tls.h"

#define CONN_QUEUED_MAX       (512 * 1024) /* An owner that writes on beyond it has no back-pressure: -ENOBUFS. */
#define CONN_SEND_MAX         (256 * 1024) /* Of one send. */
#define CONN_SEAL_WINDOW      (64 * 1024)  /* Plaintext sealed for one send. */
#define CONN_VECTOR_MAX       16
#define CONN_BULK_SIZE        (256 * 1024) /* Of one receive after conn_receive_bulk(), while much comes. */
#define CONN_QUIET_MS         1500
#define CONN_GONE_MS          10000
#define CONN_CLOSE_AT_ONCE_MS 50    /* What the last bytes take that need no reading on. */
#define CONN_CLOSE_MS         10000 /* For the last bytes of a conn_close(). */
#define CONN_LINGER_QUIET_MS  200  /* conn_linger(): a peer who has sent nothing for so long has read them. */
#define CONN_LINGER_MS        2000 /* The longest that anybody is waited for so. */

struct conn;
struct conn_output;
struct inflater;
struct deflate_history;

struct conn_ops {
    /* `in`: all that is not yet taken. Returns how many bytes of it are taken now. Is called again when more
     * has come. One that takes nothing while `in` holds input_max bytes and is not paused gets
     * ended(-EMSGSIZE). */
    size_t (*data)(struct conn *c, struct slice in);
    /* Some of what was written has left: ask conn_queued(). May be NULL. */
    void (*sent)(struct conn *c);
    /* The TLS handshake of conn_start_tls() is done: ask c->tls. May be NULL if TLS is never started. */
    void (*secured)(struct conn *c);
    /* No more will come; bytes that were not taken are gone. why: 0 (the peer closed), -EPROTO (TLS: see
     * tls_error()), -EMSGSIZE, -ENOBUFS, -ENOMEM, or the socket's error. After 0 and -EMSGSIZE what is
     * written still leaves, after the others it does not. The owner closes, now or when its work is done.
     * Does not come once the owner has closed. */
    void (*ended)(struct conn *c, int why);
    /* After conn_close() or conn_abort(): the socket is closed, c may be freed. */
    void (*closed)(struct conn *c);
    /* Little is kept, nothing written or on its way, and a poll is armed. Comes last in a step, again and again:
     * here, and nowhere else, c may be put to sleep and freed. May be NULL. */
    void (*rested)(struct conn *c);
    /* A whole ClientHello is there, after conn_await_hello(): conn_accept_tls() is due, now or later. Until
     * then nothing is read. NULL if conn_await_hello() is never called. */
    void (*hello)(struct conn *c);
    /* conn_held() has changed. Not to end c. May be NULL. */
    void (*held)(struct conn *c);
};

struct conn { /* Read sock, peer, tls, bytes_in and bytes_out; the rest is private to conn*.c. */
    const struct conn_ops *ops;
    struct sock sock;
    struct net_addr peer;
    uint8_t phase;          /* enum conn_phase */
    bool active;            /* Receive, do not poll. */
    bool quiet;             /* Nothing came since the timer was set. */
    bool soon;              /* conn_rest_soon() */
    bool read_cancelled;    /* read_op was asked to end early. */
    bool paused, offer;     /* offer: what is kept is due to be offered. */
    bool ended, ended_told; /* No more input. */
    bool end_awaited, gone; /* The peer has closed his side, and an answer is due; for too long. */
    bool broken;            /* No more output. */
    bool closing, aborting, shut;
    bool close_reads;  /* Its last bytes take their time: read on. */
    uint8_t linger;    /* conn_linger(): so many times CONN_LINGER_QUIET_MS are left. */
    bool awaits_hello; /* conn_await_hello() */
    bool hello;        /* It is there, whole, and is what is kept. */
    bool hello_told;
    bool tls_behind;      /* What is kept is the beginning of the peer's TLS. */
    bool working, posted; /* In a callback of this connection; `work` is under way. */
    bool sent;            /* ops->sent() is due. */
    bool bulk, full;      /* conn_receive_bulk(); the last receive filled its buffer. */
    bool secret;          /* conn_carries_secrets() */
    bool wipes;           /* What the last receive has brought is overwritten behind data(). */
    bool much;            /* The last receive makes one of CONN_BULK_SIZE worth its memory. */
    int32_t ended_why;
    uint32_t input_size, input_capacity, input_max;
    uint32_t held;              /* As ops->held() was told. */
    char *input;                /* NULL: nothing is kept. */
    struct conn_space *space;   /* Of receives larger than a buffer of the ring; NULL while none are due. */
    struct conn_output *output; /* NULL: nothing was written for a while. */
    struct tls *tls;            /* NULL: plain text. */
    struct tls_output sealed;   /* Ciphertext for the next send. */
    struct io_op read_op, send_op;
    struct shard_message work;    /* To this shard itself. */
    struct timer timer;           /* Quiet; when closing, its deadline. */
    struct inflater *inflater;    /* NULL: nothing is compressed. */
    bool inflating;               /* What comes is compressed. */
    uint32_t clear_size;          /* Of what is written and not yet sealed: what was before compression. */
    uint64_t bytes_in, bytes_out; /* On the wire. */
};

/* Takes sock. Reading starts when the loop gets to it, so a greeting may be written first. */
void conn_init(struct conn *c, struct sock sock, const struct net_addr *peer, uint32_t input_max,
               const struct conn_ops *ops);

/* ---- Writing: never fails ------------------------------------------------------------------------------ */

/* What is written after an error or a close, or between conn_start_tls() and secured(), goes nowhere. */
void conn_write(struct conn *c, struct slice data);
/* Lends `data` until release(arg), which comes from the loop, exactly once, whatever happens to c. */
void conn_write_loan(struct conn *c, struct slice data, void (*release)(void *arg), void *arg);
/* Plaintext bytes written and not yet taken by the kernel: the owner's back-pressure. */
size_t conn_queued(const struct conn *c);

/* Passwords may be among what comes and goes (or no more): from now on whatever buffer it was in is overwritten when it is taken, or
 * has left. What is lent is its owner's to wipe. */
void conn_carries_secrets(struct conn *c, bool secret);

/* ---- Reading ------------------------------------------------------------------------------------------- */

/* No data() until conn_resume(), which then offers what is kept even if nothing new comes. While paused one receive more is kept, and
 * the peer is slowed down by his window. So that he has gone is noticed, unless much more of him waits behind: a connection that was
 * reset at once, one whose other end is closed when nothing has left for CONN_GONE_MS, since he may have closed his side alone. */
void conn_pause(struct conn *c);
void conn_resume(struct conn *c);
static inline bool conn_paused(const struct conn *c)
{
    return c->paused;
}
/* Bytes of memory for what of the peer's is kept: what data() has not taken, and a part of a record of TLS. */
size_t conn_held(const struct conn *c);
/* The owner expects quiet (an IDLE began): back to the poll now, not after CONN_QUIET_MS. */
void conn_rest(struct conn *c);

/* The owner has said what the peer will answer soon, or not for long (a greeting): back to the poll after `ms`, if nothing comes. */
void conn_rest_soon(struct conn *c, uint32_t ms);

/* The peer may send much at a time: while he does, receives are up to CONN_BULK_SIZE each, into memory of its own. */
void conn_receive_bulk(struct conn *c);

/* That memory: what of it data() was given need not be copied, it can be held. */
struct conn_space {
    uint32_t held;  /* conn_hold() less conn_space_release(). */
    uint32_t used;  /* Bytes received into it since nobody held any. */
    bool receiving; /* It is a connection's. */
    char bytes[];
};
/* In data(): `in` or a part of it stays where it is until conn_space_release(), whatever happens to c. NULL: it lies
 * elsewhere, or may hold secrets, and dies with data() as always. The holder keeps what is held bounded: it may be CONN_BULK_SIZE for each hold. */
struct conn_space *conn_hold(struct conn *c, struct slice in);
void conn_space_release(struct conn_space *s);

/* ---- Compression (RFC 4978; net/deflate.h) ------------------------------------------------------------- */

/* From within data(), after the reply that says so was written: what comes behind the bytes that data() takes, and what is
 * written from now on, is DEFLATE. False: no memory; nothing has changed. */
MUST_CHECK bool conn_start_deflate(struct conn *c);
static inline bool conn_deflates(const struct conn *c)
{
    return c->inflater != NULL;
}
/* In data(): the rest of its input is compressed. */
static inline bool conn_turns(const struct conn *c)
{
    return c->inflater != NULL && !c->inflating;
}

/* ---- Sleep --------------------------------------------------------------------------------------------- */

#define CONN_PACKED_INPUT_MAX                                                                                \
    128 /* A connection that keeps more is not at rest, unless it is a ClientHello's beginning. */
#define CONN_PACKED_SEALED_MAX 127 /* Of a record of TLS. */

struct conn_packed {
    struct sock sock;
    struct net_addr peer;
    uint64_t bytes_in, bytes_out;
    bool awaits_hello;
    uint8_t tls_size;    /* 0: plain text. */
    uint16_t hello_size; /* Of `hello`. */
    char *
        hello; /* Of a ClientHello more than `input` takes, on the shard's heap: whoever has the record has it. NULL: none. */
    uint8_t input_size; /* What data() has not taken: it is offered together with what comes next. */
    bool input_sealed;  /* It is the beginning of a record of TLS instead. */
    struct deflate_history *history; /* NULL: nothing is compressed. Whoever has the record has it. */
    uint8_t tls[TLS_PACKED_MAX];
    char input[CONN_PACKED_INPUT_MAX];
};

/* In rested(): writes what is left of c, whose owner now calls io_watch() for the socket and frees c. False: TLS is
 * not at rest, and nothing was done. Secret. */
MUST_CHECK bool conn_sleep(struct conn *c, struct conn_packed *out);
/* The other way, from the loop. `fired`: the watch has told of the socket. If there is no memory for TLS, ended(-ENOMEM) comes. */
void conn_wake(struct conn *c, const struct conn_packed *in, bool fired, uint32_t input_max,
               const struct conn_ops *ops);

/* ---- TLS ----------------------------------------------------------------------------------------------- */

/* After the reply that says so was written (RFC 2595, 3207), or first of all (implicit TLS). Every byte that
 * came before that reply left is thrown away; data() brings plaintext of the handshake's other side only.
 * Then secured(), or ended(-EPROTO). */
void conn_start_tls(struct conn *c, struct tls_context *context, struct slice alpn);
/* The same in two steps, so that nothing is spent on a client before he has said all that he must: what comes of his ClientHello is
 * kept, at most TLS_HELLO_MAX bytes, and a connection that waits for it may sleep. Then hello(), or ended(-EPROTO). `behind`: as below. */
void conn_await_hello(struct conn *c, bool behind);
/* After hello(), once. */
void conn_accept_tls(struct conn *c, struct tls_context *context, struct slice alpn);
/* The same from within data() of a connection that begins with a preface (a PROXY header): what data() leaves
 * is not thrown away, it is the handshake's beginning. */
void conn_start_tls_behind(struct conn *c, struct tls_context *context, struct slice alpn);
/* The same as a client. `name` and `ticket`: see tls_connect(). */
void conn_start_tls_client(struct conn *c, struct tls_context *context, struct slice name, struct slice alpn,
                           struct slice ticket);

/* ---- Ending -------------------------------------------------------------------------------------------- */

/* No data() from here on. What is written leaves first, then close_notify, then the socket closes. */
void conn_close(struct conn *c);
/* Before it, for last words that the peer does not expect: he may be in the middle of sending, and input that nobody reads
 * makes a close a reset, which takes the last words from him (RFC 9112, 9.6). What comes is then read and dropped until he
 * closes or is quiet for CONN_LINGER_QUIET_MS, CONN_LINGER_MS at most. */
void conn_linger(struct conn *c);
/* At once: what is unsent is lost. */
void conn_abort(struct conn *c);
