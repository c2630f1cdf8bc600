/* net/imap/write.h -- IMAP responses, written into a struct writer (RFC 3501, 7 and 9; RFC 4315, 4731, 6154,
 * 7162).
 * Owner:  none; functions without state.
 * Memory: copies into the writer's windows; a response of any size needs one window at a time.
 * Errors: none. Whatever bytes a string holds, what is written is one well-formed token: nothing that a user
 *         chose can end a line or begin a response. */
#pragma once
#include "core/writer.h"
#include "net/imap/grammar.h"

/* ---- Lines --------------------------------------------------------------------------------------------- */

enum imap_status_word {
    IMAP_OK,
    IMAP_NO,
    IMAP_BAD,
    IMAP_BYE,
    IMAP_PREAUTH,
};

/* `tag word [code] text` CRLF. An empty tag is `*`; `code` comes without brackets, NULL: none. What is not
 * printable ASCII in `text` becomes '?'. */
void imap_write_status(struct writer *w, struct slice tag, enum imap_status_word word, const char *code,
                       struct slice text);
/* The same in pieces, for codes with sets in them: _begin(), one code, _end(). */
void imap_write_status_begin(struct writer *w, struct slice tag, enum imap_status_word word);
void imap_write_status_end(struct writer *w, struct slice text);
/* `[APPENDUID uidvalidity uids] `, `[COPYUID uidvalidity from to] ` (RFC 4315). */
void imap_write_appenduid(struct writer *w, uint32_t uidvalidity, const struct uid_set *uids);
void imap_write_copyuid(struct writer *w, uint32_t uidvalidity, const struct uid_set *from,
                        const struct uid_set *to);
/* The reply to a command that could not be parsed. */
void imap_write_parse_error(struct writer *w, struct slice tag, const struct imap_parse_error *error);
/* `+ text` CRLF */
void imap_write_continue(struct writer *w, struct slice text);
/* `* number word` CRLF: EXISTS, RECENT, EXPUNGE. */
void imap_write_number(struct writer *w, uint32_t number, const char *word);
void imap_write_crlf(struct writer *w);

/* ---- Tokens -------------------------------------------------------------------------------------------- */

/* Quoted where that is possible, else a literal. NUL becomes 0x80 (a literal must not hold it). */
void imap_write_string(struct writer *w, struct slice s);
/* NIL when s.data is NULL. */
void imap_write_nstring(struct writer *w, struct slice s);
/* An atom where that is possible, else a string. Empty: "". */
void imap_write_astring(struct writer *w, struct slice s);
/* `{size}` CRLF; `size` bytes without NUL follow from the caller. */
void imap_write_literal_header(struct writer *w, uint64_t size);
/* A mailbox name in modified UTF-7, or in UTF-8 (quoted) when UTF8=ACCEPT is enabled. `name` is valid UTF-8. */
void imap_write_mailbox(struct writer *w, struct slice name, bool utf8);
/* `"17-Jul-1996 02:44:25 -0700"`, quotes included. */
void imap_write_date(struct writer *w, struct mail_date date);

/* ---- Flags --------------------------------------------------------------------------------------------- */

/* Names of a mailbox's keywords: bit i of a message's keywords is names[i]. */
struct imap_keywords {
    const struct slice *names;
    uint32_t count; /* <= 64 */
};

/* `(\Seen \Recent Keyword)`. `system`: enum mail_flag; MAIL_RECENT is \Recent. Bits above keywords->count are
 * left out. */
void imap_write_flags(struct writer *w, uint32_t system, uint64_t keywords,
                      const struct imap_keywords *names);
/* `* FLAGS (...)` and `* OK [PERMANENTFLAGS (... \*)] ...`. `new_keywords`: more keywords can be made. */
void imap_write_mailbox_flags(struct writer *w, const struct imap_keywords *names, bool read_only,
                              bool new_keywords);

/* What a line of FETCH flags holds. 0 for uid or modseq: left out. */
struct imap_flag_line {
    uint32_t seq, uid;
    uint64_t modseq;
    uint64_t keywords;
    uint32_t system; /* enum mail_flag */
};

/* `* seq FETCH (UID uid MODSEQ (modseq) FLAGS (...))` CRLF, fast: lists of many thousands. */
void imap_write_flag_line(struct writer *w, const struct imap_flag_line *line,
                          const struct imap_keywords *names);

/* ---- FETCH, SEARCH, LIST, STATUS ----------------------------------------------------------------------- */

/* `* seq FETCH (`; the caller writes the items and `)` CRLF. */
void imap_write_fetch_begin(struct writer *w, uint32_t seq);
/* The name under which a section is answered: `BODY[1.HEADER.FIELDS (SUBJECT)]<0>`, `RFC822.TEXT`,
 * `BINARY[2]`. */
void imap_write_section(struct writer *w, const struct imap_section *section);

/* `1:3,5,9:12`, from ascending numbers or from ranges. Call _add() in ascending order, then _end() once. */
struct imap_set_writer {
    struct writer *w;
    uint32_t first, last; /* 0: nothing pending. */
    bool any;
};
void imap_set_begin(struct imap_set_writer *s, struct writer *w);
void imap_set_add(struct imap_set_writer *s, uint32_t first, uint32_t last);
void imap_set_end(struct imap_set_writer *s);

/* `* ESEARCH (TAG "A1") UID`: the caller adds ` MIN 1` and so on, and CRLF (RFC 4731). */
void imap_write_esearch_begin(struct writer *w, struct slice tag, bool uid);

/* `(\HasNoChildren \Sent)`: attributes of LIST. */
enum imap_list_attribute {
    IMAP_ATTR_NOSELECT = 1 << 0,
    IMAP_ATTR_NONEXISTENT = 1 << 1,
    IMAP_ATTR_HASCHILDREN = 1 << 2,
    IMAP_ATTR_HASNOCHILDREN = 1 << 3,
    IMAP_ATTR_NOINFERIORS = 1 << 4,
    IMAP_ATTR_SUBSCRIBED = 1 << 5,
    IMAP_ATTR_MARKED = 1 << 6,
    IMAP_ATTR_UNMARKED = 1 << 7,
};

struct imap_list_line {
    const char *word;     /* "LIST" or "LSUB" */
    uint32_t attributes;  /* enum imap_list_attribute */
    uint32_t special_use; /* enum imap_special_use */
    char separator;       /* 0: NIL */
    struct slice mailbox;
    bool child_info; /* ("CHILDINFO" ("SUBSCRIBED")): RFC 5258, 4. */
};
void imap_write_list(struct writer *w, const struct imap_list_line *line, bool utf8);

struct imap_status_values {
    uint32_t messages, recent, uidnext, uidvalidity, unseen, deleted;
    uint64_t highestmodseq, size;
};
/* `* STATUS mailbox (...)` CRLF with the items that were asked for. */
void imap_write_status_items(struct writer *w, struct slice mailbox, bool utf8, uint32_t items,
                             const struct imap_status_values *values);
