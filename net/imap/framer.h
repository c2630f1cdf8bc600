/* net/imap/framer.h -- cuts a client's byte stream into IMAP commands (RFC 3501, 2.2 and 4.3; RFC 7888), with
 * limits that hold before anything is allocated. It finds where a command ends and nothing more: the grammar
 * reads what is inside, and must consume exactly the bytes that were cut.
 *
 * Owner:  one connection; embedded in its record; one shard, no locks.
 * Memory: holds no bytes. The owner passes every byte that it received and that was not consumed yet,
 * contiguous, in each call; the first of them is where the last call's `consumed` ended. So a command that
 * arrived whole is cut out of the receive buffer itself; only when a call returns IMAP_FRAME_MORE must the
 * owner keep the rest (the bytes after `consumed`) in a buffer of its own. That buffer may move when it grows
 *         (the framer keeps offsets), and never needs more than size_max (sasl_size_max) bytes.
 *         Slices in struct imap_frame point into the bytes passed and die with them.
 * Bounds: see struct imap_framer_limits. Resumable at any byte; each byte is looked at once.
 *
 * Line ends: CRLF; a bare LF ends a line too, except behind a literal's header. A bare CR or a NUL in a line
 * is BAD.
 * `{n}`, `{n+}`, `~{n}`, `~{n+}` are literals only at the end of a line and outside quoted strings; any other
 * `{` outside a quoted string is BAD. Non-synchronising literals are consumed even when their command is BAD.
 *
 * The APPEND family (after login, limits->append): literals behind the mailbox argument are not accumulated:
 *   IMAP_FRAME_LITERAL  text = the command so far, its end is the literal's header. The owner must answer
 * with imap_framer_literal_take() (and then sends '+' itself if literal_sync), or _refuse(). IMAP_FRAME_DATA
 * text = the next bytes of the literal; literal_left are still to come. Pass fewer bytes to get fewer.
 *   IMAP_FRAME_LITERAL  the next message of a MULTIAPPEND, or the next part of a CATENATE; or
 *   IMAP_FRAME_END      text = the last piece, its line end included.
 * An APPEND without such a literal is an ordinary IMAP_FRAME_WHOLE (and the grammar's to refuse). A backend
 * that is sent the same bytes runs a framer of its own over them and so meets the same events. */
#pragma once
#include "core/base.h"
#include "net/imap/commands.h"

#define IMAP_TAG_SIZE_MAX      128
#define IMAP_SASL_LINE_MAX     8192    /* One line of a SASL exchange, AUTHENTICATE's initial response too. */
#define IMAP_PRELOGIN_SIZE_MAX 2048    /* A command before login: lines and literals together. */
#define IMAP_COMMAND_SIZE_MAX  65536   /* A command after login: lines and literals, APPEND's data apart. */
#define IMAP_LITERALS_MAX      4096    /* In one command. */
#define IMAP_DISCARD_SIZE_MAX  1048576 /* What is read past after a BAD, before the connection is closed. */
/* The same for the rest of an APPEND that was refused: a client with LITERAL+ sends its message unasked, and
 * must live to read TRYCREATE. */
#define IMAP_APPEND_DISCARD_SIZE_MAX 268435456

struct imap_framer_limits {
    uint32_t size_max;      /* Of a command: all lines and all accumulated literals. */
    uint32_t sasl_size_max; /* The same for a command with IMAP_HAS_SASL. */
    uint32_t discard_size_max, append_discard_size_max;
    uint16_t literals_max;
    bool append; /* Stream the literals of the APPEND family. */
};
extern const struct imap_framer_limits imap_framer_prelogin, imap_framer_session;

enum imap_frame_kind {
    IMAP_FRAME_MORE,     /* No whole command yet: drop `consumed`, keep the rest, receive, call again. */
    IMAP_FRAME_WHOLE,    /* text = the whole command: its lines, line ends and literals, as they came. */
    IMAP_FRAME_CONTINUE, /* A synchronising literal within the limits: send "+ OK", then call again. */
    IMAP_FRAME_LITERAL,  /* The three of the APPEND family: above. */
    IMAP_FRAME_DATA,
    IMAP_FRAME_END,
    IMAP_FRAME_BAD,     /* Answer `tag BAD reason`, `*` without tag; the rest of the command is skipped. */
    IMAP_FRAME_TOO_BIG, /* Its end is too far away to be waited for: `* BYE [TOOBIG] reason`, then close. */
};

struct imap_frame {
    enum imap_frame_kind kind;
    size_t consumed; /* The owner drops so many bytes before its next call, whatever the kind. */
    /* Of WHOLE, CONTINUE, BAD and of the first LITERAL; later events of a streamed command come without. */
    struct slice tag;                   /* Empty: could not be read. */
    struct slice name;                  /* First word, "UID" included; as the client wrote it. */
    const struct imap_command *command; /* NULL: not in the table. */
    struct slice text;
    uint64_t literal_size; /* CONTINUE, LITERAL. */
    uint64_t literal_left; /* DATA: after these bytes. */
    bool literal_sync, literal_binary;
    uint32_t literal_count; /* WHOLE: accumulated literals inside. */
    uint32_t wanted;        /* MORE: at least so many bytes are still to come (1, or a literal's rest). */
    const char *reason;     /* BAD, TOO_BIG: the human's text. */
    bool too_big;           /* BAD: because of a limit, so the reply may carry [TOOBIG]. */
};

struct imap_framer { /* Private; visible so that it can be embedded. */
    const struct imap_framer_limits *limits;
    const struct imap_command *command;
    uint64_t literal;     /* Its size while its header is read, then what is still to come. */
    uint64_t discard_max; /* While skipping: what may still be read past. */
    uint32_t scanned;     /* Bytes at the front of the input that were looked at and are not consumed. */
    uint32_t size;        /* Of the command so far, streamed literals apart. */
    uint16_t name_offset, name_size, word_offset; /* In the first line. */
    uint16_t literal_count;
    uint8_t tag_size;
    uint8_t state, state_before_cr;
    uint8_t words; /* Blanks behind the command's name, counted to 3: how many arguments are complete. */
    bool digits, sync, binary;
    bool streamed; /* A literal of this command was handed out: the command's beginning is gone. */
    bool skipping; /* The command was BAD: looking for its end. */
};

void imap_framer_init(struct imap_framer *f, const struct imap_framer_limits *limits);
/* Between two commands only (after login, after UNAUTHENTICATE). */
void imap_framer_set_limits(struct imap_framer *f, const struct imap_framer_limits *limits);
/* Cuts one event out of `in`. Always writes *frame_out. */
void imap_framer_next(struct imap_framer *f, struct slice in, struct imap_frame *frame_out);
/* The answer to IMAP_FRAME_LITERAL, before the next call of imap_framer_next(). Refused: a synchronising
 * literal ends the command (the client was told NO or BAD), another one is skipped, with the rest of the
 * command. */
void imap_framer_literal_take(struct imap_framer *f);
void imap_framer_literal_refuse(struct imap_framer *f);
/* One plain line, between two commands: a SASL response, IDLE's DONE. WHOLE: text = the line without its end.
 * MORE, BAD, TOO_BIG as above. */
void imap_framer_line(struct imap_framer *f, struct slice in, uint32_t size_max,
                      struct imap_frame *frame_out);
/* True between two commands: nothing of a next one was looked at. */
bool imap_framer_idle(const struct imap_framer *f);

/* True: nothing of a command, or a beginning of which nothing was told yet. Another framer that is given the same bytes
 * from the command's first one does the same. */
bool imap_framer_restarts(const struct imap_framer *f);

/* A literal's header, from its '{' to its CRLF: `{n}`, `{n+}`. Returns its size, or 0: it is none. A number
 * above 2^64 - 1 is none. What the grammar asks where the framer has found one. */
size_t imap_literal_header(struct slice text, uint64_t *size_out, bool *sync_out);
