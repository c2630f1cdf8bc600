/* net/lmtp/lmtp.h -- LMTP (RFC 2033), the server's side: commands, bodies and replies. It decides nothing:
 * not which command may come now, nor who exists.
 *
 * Extensions understood: PIPELINING (2920), ENHANCEDSTATUSCODES (2034), SIZE (1870), 8BITMIME (6152),
 * CHUNKING (3030), SMTPUTF8 (6531), STARTTLS (3207). A line ends with CRLF and with nothing
 * else; a bare CR or LF or a NUL in it makes it a bad command, never two.
 *
 * Owner:  one session; parsers are small and embedded, one shard.
 * Memory: slices of a command point into the input, or into the command itself, and die with either.
 * Bounds: LMTP_LINE_MAX a command; nothing is allocated. */
#pragma once
#include "core/base.h"
#include "core/writer.h"

#define LMTP_LINE_MAX   2048 /* CRLF included; RFC 5321 4.5.3.1 asks for 512, and more for each extension. */
#define LMTP_LOCAL_MAX  256  /* RFC 5321 asks for 64; senders' VERP addresses are longer. */
#define LMTP_DOMAIN_MAX 255
#define LMTP_SIZE_MAX   INT64_MAX

/* ---- Replies ------------------------------------------------------------------------------------------- */

struct lmtp_reply {
    uint16_t code;
    char enhanced[8]; /* "2.1.5"; empty: none (greeting, LHLO, 354). */
    const char *text; /* A literal. */
};

/* The replies that the grammar itself, and most sessions, give. */
#define LMTP_REPLIES(X)                                                                                      \
    X(OK, 250, "2.0.0", "OK")                                                                                \
    X(BYE, 221, "2.0.0", "Bye")                                                                              \
    X(START_TLS, 220, "2.0.0", "Begin TLS")                                                                  \
    X(XCLIENT_REFUSED, 550, "5.7.0", "XCLIENT is not for you")                                               \
    X(START_DATA, 354, "", "End data with <CR><LF>.<CR><LF>")                                                \
    X(HELP, 214, "2.0.0", "LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY STARTTLS: see RFC 2033")             \
    X(VRFY, 252, "2.5.0", "Try RCPT")                                                                        \
    X(SENDER_OK, 250, "2.1.0", "Sender OK")                                                                  \
    X(RECIPIENT_OK, 250, "2.1.5", "Recipient OK")                                                            \
    X(CHUNK_OK, 250, "2.0.0", "Chunk received")                                                              \
    X(DELIVERED, 250, "2.0.0", "Delivered")                                                                  \
    X(UNKNOWN_COMMAND, 500, "5.5.1", "Unknown command")                                                      \
    X(LINE_TOO_LONG, 500, "5.5.2", "Line too long")                                                          \
    X(BAD_BYTES, 500, "5.5.2", "Bare CR, bare LF or NUL in a command")                                       \
    X(BAD_ARGUMENT, 501, "5.5.4", "Syntax error in arguments")                                               \
    X(BAD_SENDER, 501, "5.1.7", "Bad sender address syntax")                                                 \
    X(BAD_RECIPIENT, 501, "5.1.3", "Bad recipient address syntax")                                           \
    X(UTF8_SENDER, 553, "5.6.7", "Address needs SMTPUTF8")                                                   \
    X(UTF8_RECIPIENT, 553, "5.6.7", "Address needs SMTPUTF8")                                                \
    X(UNKNOWN_PARAMETER, 555, "5.5.4", "Unknown or repeated parameter")                                      \
    X(BAD_SEQUENCE, 503, "5.5.1", "Bad sequence of commands")                                                \
    X(NEEDS_LHLO, 503, "5.5.1", "LHLO first")                                                                \
    X(USE_LHLO, 500, "5.5.1", "This is LMTP: use LHLO")                                                      \
    X(NO_RECIPIENTS, 503, "5.5.1", "No valid recipients")                                                    \
    X(TOO_MANY_RECIPIENTS, 452, "4.5.3", "Too many recipients")                                              \
    X(TOO_LARGE, 552, "5.3.4", "Message too large")                                                          \
    X(TOO_MANY_ERRORS, 421, "4.7.0", "Too many errors")                                                      \
    X(TIMEOUT, 421, "4.4.2", "Timeout")                                                                      \
    X(SHUTTING_DOWN, 421, "4.3.2", "Shutting down")                                                          \
    X(KICKED, 421, "4.7.0", "Disconnected by the operator")                                                  \
    X(BUSY, 421, "4.3.2", "Too busy")                                                                        \
    X(NOT_FROM_THERE, 421, "4.7.1", "Mail is not taken from your address")                                   \
    X(NO_TLS, 454, "4.7.0", "TLS not available")                                                             \
    X(NO_SUCH_USER, 550, "5.1.1", "No such user")                                                            \
    X(OVER_QUOTA, 452, "4.2.2", "Mailbox full")                                                              \
    X(UNAVAILABLE, 451, "4.3.0", "Temporary failure, try again later")                                       \
    X(NO_STORAGE, 452, "4.3.1", "Insufficient storage")

enum lmtp_reply_id {
#define X(name, code, enhanced, text) LMTP_REPLY_##name,
    LMTP_REPLIES(X)
#undef X
        LMTP_REPLY_COUNT
};
extern const struct lmtp_reply lmtp_replies[LMTP_REPLY_COUNT];

/* Writes one line: "250 2.1.5 <who> text". `who` (an address from outside) may be empty; what is not
 * printable in it becomes '?', and it is cut at LMTP_WHO_MAX bytes. */
#define LMTP_WHO_MAX 320
void lmtp_reply_write(struct writer *w, enum lmtp_reply_id id, struct slice who);
/* For texts of the session's own. */
void lmtp_reply_write_own(struct writer *w, const struct lmtp_reply *r, struct slice who);
void lmtp_greeting_write(struct writer *w, struct slice host);
/* The answer to LHLO: all extensions; SIZE with its limit (0: no limit declared); STARTTLS and XCLIENT only if asked. */
void lmtp_lhlo_write(struct writer *w, struct slice host, uint64_t size_max, bool starttls, bool xclient);

/* ---- Addresses ----------------------------------------------------------------------------------------- */

struct lmtp_path {
    struct slice text;  /* As sent, without brackets and source route; empty: the null sender <>. */
    struct slice local; /* Unquoted. */
    /* Empty: <postmaster>, or <user> as LMTP clients send it. An address literal keeps its []. */
    struct slice domain;
};

/* local "user+folder" -> "user", "folder". Without the separator (or with nothing before it) detail is empty. */
void lmtp_split_detail(struct slice local, char separator, struct slice *user_out, struct slice *detail_out);

/* ---- Commands ------------------------------------------------------------------------------------------ */

enum lmtp_verb {
    LMTP_LHLO,
    LMTP_MAIL,
    LMTP_RCPT,
    LMTP_DATA,
    LMTP_BDAT,
    LMTP_RSET,
    LMTP_NOOP,
    LMTP_QUIT,
    LMTP_VRFY,
    LMTP_HELP,
    LMTP_STARTTLS,
    LMTP_XCLIENT, /* `arguments`: for lmtp_xclient_parse(). */
    LMTP_BAD,     /* `error` is the reply; the session counts these. */
};

struct lmtp_command {
    enum lmtp_verb verb;
    enum lmtp_reply_id error;
    struct slice domain;    /* LHLO. */
    struct slice arguments; /* XCLIENT. */
    struct lmtp_path path;  /* MAIL, RCPT. */
    uint64_t size;          /* MAIL SIZE=, 0 when not given; BDAT: of the chunk that follows the line. */
    bool last;              /* BDAT LAST. */
    bool smtputf8;          /* MAIL. */
    bool lost; /* LMTP_BAD: a BDAT of unknown size. Reply and close: what follows is not commands. */
    char unquoted[LMTP_LOCAL_MAX]; /* path.local of a quoted one. */
};

/* What a server in front says of the client; empty: nothing. Values are printable ASCII. */
struct lmtp_xclient {
    struct slice addr, port, helo, login, session;
    struct slice rest; /* Private: what is understood and of no use. */
    uint32_t used;
    char text[1024]; /* The values. */
};
/* False: an attribute that is not known, or no xtext. */
MUST_CHECK bool lmtp_xclient_parse(struct slice arguments, struct lmtp_xclient *out);

struct lmtp_parser { /* Private. */
    uint32_t scanned;
    bool skipping, lost, utf8;
};

enum lmtp_next { LMTP_MORE, LMTP_COMMAND };

void lmtp_parser_init(struct lmtp_parser *p);
/* Takes one line off *input. LMTP_MORE: no whole line there; come back with the same bytes and more behind
 * them (of a line that is too long the bytes are taken and thrown away meanwhile). After LMTP_BDAT the chunk
 * follows whatever the answer will be: lmtp_body_start_chunk(). RCPT takes UTF-8 addresses when the last MAIL
 * said SMTPUTF8. */
MUST_CHECK enum lmtp_next lmtp_parser_next(struct lmtp_parser *p, struct slice *input,
                                           struct lmtp_command *command_out);

/* ---- Bodies -------------------------------------------------------------------------------------------- */

/* After DATA: lines up to CRLF "." CRLF, one leading "." of a line removed (RFC 5321 4.5.2), all else kept
 * byte for byte. After BDAT: so many bytes. */
struct lmtp_body { /* Private. */
    uint8_t state;
    uint64_t left;
};

enum lmtp_body_next {
    LMTP_BODY_MORE,  /* *in is used up. */
    LMTP_BODY_PIECE, /* *out_out is the next piece of the message: in *in, or a constant. Call again. */
    LMTP_BODY_END,   /* The body (the chunk) ended; *in begins with what follows it. */
};

void lmtp_body_start_data(struct lmtp_body *b);
void lmtp_body_start_chunk(struct lmtp_body *b, uint64_t size);
/* Takes bytes off the front of *in. After LMTP_BODY_END not again without a start. */
MUST_CHECK enum lmtp_body_next lmtp_body_feed(struct lmtp_body *b, struct slice *in, struct slice *out_out);
