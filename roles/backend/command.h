/* roles/backend/command.h -- an IMAP command in flight: a record with the stream that asked, the session's
 * token, the parsed command and the answer being written. It runs on a fiber, and waits as a record alone.
 *
 *   RECEIVING --all of its text--> QUEUED --a fiber is free--> RUNNING --answered--> (gone)
 *                                    ^                          |  |
 *                                    +--credit came-- PARKED <--+  |  no room to send; there is a cursor
 *                                    +--frames came-- LITERAL <----+  more of an appended message is to come
 *
 * A state is named for what it waits for. When the proxy gives the stream up, a command that reads is
 * cancelled; one that changes something and was received whole still runs, and its answer goes nowhere.
 *
 * Owner:  one shard; from the backend's slab.
 * Memory: an arena of its own; `text` points into the OPEN frame, or the arena. */
#pragma once
#include "net/imap/write.h"
#include "net/link/link.h"
#include "roles/backend/backend.h"
#include "roles/backend/member.h"
#include "roles/words/request.h"
#include "storage/change.h"
#include "storage/view.h"

enum command_state {
    COMMAND_RECEIVING,
    COMMAND_QUEUED,
    COMMAND_RUNNING,
    COMMAND_PARKED,
    COMMAND_LITERAL,
};

/* What a handler says when it returns. */
enum command_step {
    STEP_DONE,    /* The tagged line is written. */
    STEP_PARK,    /* Out of credit: call it again when there is some. */
    STEP_LITERAL, /* All frames were taken: call it again when more are there. */
};

struct command {
    struct list link; /* In backend->command_list. */
    struct backend *backend;
    struct link_stream *stream; /* NULL: the proxy has gone. */
    struct link_frame *open;
    struct list frames; /* LITERAL: received, to be taken by the handler. */
    struct fiber *fiber;
    struct fiber_waiter waiter;
    struct arena arena;
    struct imap_request request;
    struct token token; /* What the answer will carry. */
    struct slice text;
    struct link_writer out;
    struct imap_parsed parsed;

    /* Open while it runs; closed while it waits. */
    struct account *account;
    struct mailbox *mailbox; /* NULL: none is selected. */
    struct view view;        /* Of the mailbox, by the token. */

    struct imap_keywords keywords; /* Of the mailbox, copied: see command_keywords(). */
    uint64_t began_ns;             /* When all of its text was there. */
    uint64_t modseq_shown;         /* Largest that was written so far. */
    struct member_claim claim;
    void *work; /* The handler's cursor, in the arena; NULL: the first call. */
    void (*work_fini)(struct command *c);
    uint8_t state;
    bool sync_only; /* LINK_SYNC: no command, what is new. */
    bool got_last;  /* The proxy has sent all there is. */
    bool bye;       /* The answer ends with an untagged BYE. */
    bool half;      /* Parked inside a line or a literal: nothing but the rest of it may be written. */
    bool reset;     /* The answer cannot be finished: the stream is reset. */
};

typedef enum command_step command_fn(struct command *c);

static inline struct writer *command_writer(struct command *c)
{
    return &c->out.writer;
}

static inline bool command_is(const struct command *c, enum imap_command_attributes attribute)
{
    return imap_command_has(c->parsed.command, attribute);
}

static inline bool command_read_only(const struct command *c)
{
    return (c->token.flags & TOKEN_READ_ONLY) != 0;
}

static inline bool command_condstore(const struct command *c)
{
    return (c->token.flags & TOKEN_CONDSTORE) != 0;
}

static inline bool command_utf8(const struct command *c)
{
    return (c->token.flags & TOKEN_UTF8) != 0;
}

/* Between two items of a long answer: no room for another frame? Then keep a cursor and return STEP_PARK. */
static inline bool command_starved(const struct command *c)
{
    return c->stream != NULL && link_short(c->stream, LINK_PAYLOAD_MAX);
}

/* A reading command whose client has gone need not go on. */
static inline bool command_abandoned(const struct command *c)
{
    return c->stream == NULL;
}

/* ---- Tagged lines; all return STEP_DONE. `code` without brackets, or NULL. ----------------------------- */

/* Before it, what is new: what the command's name allows (snapshot_sync). */
enum command_step command_ok(struct command *c, const char *code, const char *text);
enum command_step command_no(struct command *c, const char *code, const char *text);
enum command_step command_bad(struct command *c, const char *text);
/* The answer to -errno of the store. */
enum command_step command_error(struct command *c, int rc);
/* Untagged BYE, and the session ends. */
enum command_step command_bye(struct command *c, const char *text);

/* ---- What handlers share ------------------------------------------------------------------------------- */

const struct id128 *command_operation(const struct command *c);

/* The first use of CONDSTORE in a session (RFC 7162 3.1): from here on every flag update carries MODSEQ. */
void command_condstore_enable(struct command *c);

/* A set of the command as UIDs. A sequence number stands for a UID of the view, and a range of them for the
 * range of UIDs between: whoever reads the result skips what the view does not show. 0; -EINVAL: a sequence
 * number that does not exist, or `$`; -E2BIG, -ENOMEM. The set is initialised in any case. */
MUST_CHECK int command_set_uids(struct command *c, const struct imap_set *set, struct uid_set *uids_out);
/* The same for a key of SEARCH, where a number that no message has matches nothing. */
MUST_CHECK int command_set_search(struct command *c, const struct imap_set *set, bool uid,
                                  struct uid_set *uids_out);
/* Writes the reply to an error of that. */
enum command_step command_set_error(struct command *c, int rc);

/* `NAME 1:3,5`, for a response code; in the arena. */
const char *command_set_code(struct command *c, const char *name, const struct uid_set *set);

/* The visible messages among `uids`, in order; may be suspended anywhere. */
struct message_walk {
    const struct uid_set *uids;
    uint32_t range_index;
    uint32_t uid; /* Where to look from. */
};
void message_walk_init(struct message_walk *w, const struct uid_set *uids);
/* NULL at the end. *seq_out by the view. */
const struct message *message_walk_next(struct message_walk *w, struct view *v, uint32_t *seq_out);
/* The same; NULL, with *park_out: the next one has to wait for credit. The end of an answer need not. */
const struct message *command_next_message(struct command *c, struct message_walk *w, uint32_t *seq_out,
                                           bool *park_out);

/* Untagged FETCH with flags, as flag changes are reported: with MODSEQ for those who know it, UID for UID
 * forms. Announces new keywords first. */
void command_write_flags(struct command *c, const struct message *m, uint32_t seq);
/* FLAGS and PERMANENTFLAGS, if the mailbox has keywords that the session has not heard of. */
void command_announce_keywords(struct command *c);
const struct imap_keywords *command_keywords(struct command *c);
/* System flags of m, \Recent of this session included. */
uint32_t command_flags_of(const struct command *c, const struct message *m);

/* ---- Handlers, by family ------------------------------------------------------------------------------- */

command_fn select_run, unselect_run, close_run, status_run, enable_run, noop_run; /* select.c */
command_fn create_run, delete_run, rename_run, subscribe_run, unsubscribe_run;    /* mailbox.c */
command_fn list_run, lsub_run, namespace_run;                                     /* list.c */
command_fn fetch_run;                                                             /* fetch.c */
command_fn store_run;                                                             /* store.c */
command_fn search_run;                                                            /* search.c */
command_fn copy_run, move_run;                                                    /* copy.c */
command_fn expunge_run, uid_expunge_run;                                          /* expunge.c */
command_fn append_run;                                                            /* append.c */

/* `* STATUS` of m. select.c */
void status_write(struct command *c, struct mailbox *m, uint32_t items);
