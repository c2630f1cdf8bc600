/* roles/proxy/session.h -- an IMAP session at the proxy: all there is of it, before and after login. A
 * record, no fiber; each state is named for what it waits for.
 *
 *   PROXY_HEADER --who the client is--> HANDSHAKE, or COMMAND
 *   HANDSHAKE --TLS is up--> COMMAND <-------------------- tagged reply written -----------------------+
 *                             | |--AUTHENTICATE--> SASL --credentials--> LOGIN --wrong--> DELAY ------>+
 *                             | |--LOGIN----------------credentials------^ |--right------------------->+
 *                             | |--IDLE--> IDLE --DONE------------------------------------------------>+
 *                             | |--APPEND--> ASK --backend wants it--> LITERAL --all of it--> RUN ---->+
 *                             | +--any other command--> RUN ------------------------------------------>+
 *   any state --deadline, BYE, end of stream--> CLOSING
 *
 * One command at a time: what a client pipelined waits in the connection, so replies keep the order and every
 * barrier (STARTTLS, LOGIN, IDLE) holds by construction.
 * Owner: one shard of the proxy; from its slab. */
#pragma once
#include "core/list.h"
#include "core/shard.h"
#include "net/conn.h"
#include "net/imap/framer.h"
#include "net/link/link.h"
#include "roles/proxy/difference.h"
#include "roles/proxy/handshakes.h"
#include "roles/proxy/packed.h"
#include "roles/proxy/proxy.h"
#include "roles/proxy/subscription.h"
#include "roles/words/request.h"

enum session_state {
    SESSION_PROXY_HEADER,
    SESSION_HANDSHAKE,
    SESSION_COMMAND,
    SESSION_SASL,
    SESSION_LOGIN,
    SESSION_DELAY,
    SESSION_RUN,
    SESSION_ASK,
    SESSION_LITERAL,
    SESSION_IDLE,
    SESSION_NOOP,
    SESSION_CLOSING,
};

struct sasl;

struct session {
    struct conn conn; /* First. */
    struct proxy *proxy;
    struct list link;           /* In proxy->sessions. */
    struct handshake handshake; /* HANDSHAKE: its place among those of the shard. */
    struct list begun;          /* In proxy->begun, */
    uint32_t begun_size;        /* with so many bytes; 0: it is not. */
    struct imap_framer framer;
    struct timer timer; /* Deadline of the state; in IDLE the next keep-alive. */
    uint8_t state;
    uint8_t counted; /* enum metric_session_state */
    uint8_t timed;   /* enum metric_command: of the command in flight. */
    uint8_t bad_count;
    bool tls_first;                     /* PROXY_HEADER: TLS follows. */
    bool literal_sync;                  /* ASK: '+' is due when the backend asks. */
    bool answered;                      /* Bytes of the answer have gone to the client. */
    bool idle_done;                     /* IDLE: DONE came while a difference was being fetched. */
    bool noop_check, noop_more_follows; /* NOOP: it is a CHECK; another command is buffered behind it. */
    bool near;     /* The connection comes from this host: a password may do without TLS. */
    bool forwards; /* Its other end may say by ID who the client is. */
    bool changes;  /* The command in flight may change the account. */
    bool drowsy;   /* Would sleep, but an operator looks at the sessions. */
    uint8_t tag_size;
    char tag[IMAP_TAG_SIZE_MAX];
    struct sasl *sasl;               /* SASL: the exchange. */
    char *client_sid;                /* What a server in front calls this session. NULL: nothing. */
    struct login_question *question; /* LOGIN: what a director is asked. */
    struct link_stream *stream;      /* The request in flight, at the director or the backend. */
    struct request *request;         /* Over a wire: what the backend is asked, until it has answered. */
    struct link_stream *renewal;     /* Of the ticket. */
    struct list answer;              /* Frames of the answer that are still to be written: see answer.c. */
    uint32_t answer_done;            /* Of the expunge run that is being written out: lines written, */
    uint16_t answer_at;              /* and where in its frame it is. */
    /* Since login: */
    uint16_t partition; /* Of the account. */
    uint8_t features;   /* Feature level that its client has been promised; logged in. */
    struct ticket ticket;
    struct token token;
    uint64_t nonce, operation; /* Operation ids of this session. */
    uint64_t commands;
    uint64_t began_ns; /* The command in flight. */
    uint64_t moved;    /* Bytes in and out at the last look of the deadline. */
    uint64_t known;    /* IDLE: position of the account that was looked at last. */
    struct difference difference;
    struct status *status; /* Kept of the STATUS in flight; NULL: nothing. */
    struct subscriber subscriber;
    struct login_reply login; /* Kept over DELAY. */
    uint64_t id;              /* sid= of the log. */
    uint8_t user_size;        /* 0: nobody is logged in. */
    char user[USER_SIZE_MAX];
};

static inline struct slice session_user(const struct session *s)
{
    return slice_of(s->user, s->user_size);
}

/* Where his mail is asked for. */
static inline uint16_t session_place(const struct session *s)
{
    return route_place(&s->proxy->route, s->partition, session_user(s));
}

static inline struct slice session_tag(const struct session *s)
{
    return slice_of(s->tag, s->tag_size);
}

/* Is a request under way, be it another session's, or its answer? */
static inline bool session_asks(const struct session *s)
{
    return s->stream != NULL || s->difference.leader != NULL || !list_empty(&s->answer);
}

#define SESSION_OUTPUT_MAX (64 * 1024) /* Waits in the connection: then neither answers nor input go on. */

/* ---- session.c: life, input, deadlines ----------------------------------------------------------------- */

/* Takes the socket. */
void session_accept(struct proxy *p, struct sock sock, const struct net_addr *peer, bool tls);
/* Moves to a state, and counts that. */
void session_enter(struct session *s, enum session_state state);
/* The clock of the command in flight: session_timed() when it is answered. `command`: enum metric_command. */
void session_time(struct session *s, unsigned command);
void session_timed(const struct session *s);
/* Ends it at once; what is unsent is lost. `why`: for the log. */
void session_cut(struct session *s, const char *why);
/* The operator ends it. */
void session_kick(struct session *s);
/* Moves to a state that takes input, and goes on with what the client has pipelined. */
void session_ready(struct session *s);
/* Moves to a state in which nothing is read. */
void session_busy(struct session *s, enum session_state state);
/* Tagged reply: `tag word text`. word: "OK", "NO", "BAD". */
void session_reply(struct session *s, const char *word, const char *text);
void session_write(struct session *s, const char *text);
/* BAD, counted; too many end the connection. */
void session_bad(struct session *s, const char *text);
/* `* BYE text`, then a graceful close; in the middle of an answer the close alone. `text` may begin with a response code. */
void session_bye(struct session *s, const char *text);
void session_close(struct session *s);
void session_deadline(struct session *s, uint64_t ms);
bool session_secure(const struct session *s); /* TLS, or a loopback peer. */

/* A new record, in the proxy's list. NULL: there is none. */
struct session *session_new(struct proxy *p);
extern const struct conn_ops session_conn_ops;
#define SESSION_INPUT_MAX (IMAP_COMMAND_SIZE_MAX + IMAP_SASL_LINE_MAX)

/* ---- sleep.c ------------------------------------------------------------------------------------------- */

/* The connection is at rest: if nothing else is under way either, the session goes to sleep, and s is gone. */
void session_rested(struct session *s);
/* Out of what a sleeper was. `user`: the number of his record; RECORD_NONE: nobody is logged in. NULL: no memory, and nothing was done. */
struct session *session_wake(struct proxy *p, const struct packed *packed, uint32_t user,
                             uint64_t deadline_ms, bool fired);
/* debug.sleep_after: a command was answered; a piece of input was looked at. */
void session_command_done(struct session *s);
void session_input_done(struct session *s);

/* ---- login.c: what is known without a backend ---------------------------------------------------------- */

/* Commands with IMAP_HAS_LOCAL, CAPABILITY, and ENABLE while nothing is selected. `text` is the whole command; secrets in it are wiped. */
void session_local(struct session *s, const struct imap_command *command, struct slice text);
/* One line of a SASL exchange, without its CRLF. */
void session_sasl_line(struct session *s, struct slice line);
void session_sasl_end(struct session *s); /* Wipes and frees the exchange, if there is one. */
void session_greet(struct session *s);
void session_capability(struct session *s); /* Words of CAPABILITY, as far as they are true now. */

/* ---- authenticate.c: who the client is ------------------------------------------------------------------ */

/* Moves to LOGIN; the answer moves on. */
void session_login_ask(struct session *s, struct slice user, struct slice password);
/* DELAY is over. */
void session_login_refuse(struct session *s);
void session_login_drop(struct session *s); /* Allowed when nothing is asked. */

/* ---- forward.c: what the backend does ------------------------------------------------------------------ */

void session_forward(struct session *s, const struct imap_frame *frame, bool more_follows);
/* The events of a streamed literal. */
void session_append_more(struct session *s, const struct imap_frame *frame);
/* May more of the literal be sent now? */
bool session_append_credit(const struct session *s);
/* The session ends while a request is in flight: a command that changes something is finished without it. */
void session_abandon(struct session *s);
/* Asks for what is new (IDLE), unless another session does that already for whoever stands so. */
void session_sync(struct session *s);
void session_sync_alone(struct session *s);
/* Opens the stream of s->request, or opens it again: the operation's id stays. False: there is no way now. */
bool session_request_open(struct session *s);
/* There will be no answer: says so to the client, as far as it is true. */
void session_run_failed(struct session *s);

/* ---- answer.c: what the backend says ------------------------------------------------------------------- */

/* Takes f, DATA or END of s->stream. */
void session_answer_add(struct session *s, struct link_frame *f);
/* Writes what may leave by now. */
void session_answer_show(struct session *s);
void session_answer_drop(struct session *s);

/* ---- request.c: what is asked over a wire may lose its link, and is then asked again --------------------- */

struct request {
    struct session *session;
    struct timer again, deadline;
    enum link_kind kind;
    bool last, more_follows, bulk;
    bool by_lines; /* FETCH: what is shown of its answer is counted by lines, */
    bool behind;   /* and of what comes again the client has some still. */
    bool passed;   /* Whole lines that came again were not shown. */
    bool changes;  /* The account: it is executed once, by its operation id. */
    bool streamed; /* Its literal was, or is: what comes after that is only asked for. */
    bool unknown;  /* It may have been executed. */
    bool ticket;   /* Its ticket was not valid the last time. */
    bool waited;   /* For the link's budget, long enough. */
    bool lost;     /* A link with it on it was; `deadline` runs since. */
    uint8_t tries; /* That were in vain. */
    /* The answer may come again, from its beginning: what the client has of it, and how much of that has come by now. */
    uint64_t shown, repeated;
    void *hashes; /* Of both; NULL: nothing was shown yet that could come again. */
    uint32_t size;
    char text[];
};

/* Keeps what is asked until it is answered. */
void session_request_keep(struct session *s, enum link_kind kind, struct slice text, bool last,
                          bool more_follows, const struct imap_command *command);
void session_request_drop(struct session *s); /* Allowed when there is none. */
/* Its END has come, and is still to be written: it is not asked for any more. */
void session_request_answered(struct session *s);
/* Takes off the front of *data what the client has already, and counts the rest, which is written now. False: what came again is not
 * what he has. `last`: nothing follows. */
MUST_CHECK bool session_request_show(struct session *s, struct slice *data, bool last);
/* The END's text is written: its token becomes the session's. */
void session_request_token(struct session *s, const struct token *token);
/* Its stream is gone. True: it is asked again. */
bool session_request_lost(struct session *s, enum link_lost why);
/* Exchanges the ticket for one that is valid. */
void session_renew(struct session *s);

/* ---- idle.c -------------------------------------------------------------------------------------------- */

void session_idle_begin(struct session *s);
void session_idle_resume(struct session *s); /* After sleep. */
/* Of an idle session that has looked at `known` last: may an account that stands at `at` (0: unknown) have what its client
 * has not been shown? */
bool session_is_behind(const struct token *t, uint64_t known, uint64_t at);
/* He was not behind before, and what has changed is in another mailbox than his: he has as good as looked at news->at. */
bool session_is_spared(const struct token *t, uint64_t known, const struct subscription_news *news);
/* Asks for the difference if there may be one. */
bool session_idle_look(struct session *s);
void session_idle_line(struct session *s, struct slice line);
void session_idle_synced(struct session *s);
void session_idle_keep_alive(struct session *s);
/* NOOP or CHECK: false, the backend is to be asked. */
bool session_noop_begin(struct session *s, const struct imap_frame *frame, bool more_follows);
void session_noop(struct session *s); /* A turn later. */
/* Subscribes to the account, until the session ends. False: over the memory budget. */
MUST_CHECK bool session_watch(struct session *s);
/* The same by the number of his user's record (users.h). */
void session_watch_by(struct session *s, uint32_t user);
void session_idle_rest(struct session *s); /* What kept it from sleep is over; nothing if it does not idle. */
