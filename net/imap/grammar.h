/* net/imap/grammar.h -- a whole IMAP command, as the framer cut it, read into typed values (RFC 3501, 9051
 * and the extensions named below). Decides nothing: not whether the state allows it, not whether a mailbox
 * exists.
 *
 * Owner:  whoever executes the command.
 * Memory: everything is in the caller's arena, or points into `text`, which must outlive the result. Nothing
 *         is larger than a small multiple of the text, so the framer's limits bound the memory too.
 * Bounds: the limits below; no recursion. SEARCH's NOT and chains of OR cost no depth, parentheses do.
 * Errors: the client's, as data: struct imap_parse_error becomes one tagged NO or BAD.
 *
 * Text that clients chose is handed over as bytes: strings are unescaped, and never hold NUL, CR or LF unless
 * they came as literals (which never hold NUL but in literal8). Mailbox names are UTF-8, INBOX in upper case. */
#pragma once
#include "core/base.h"
#include "core/heap.h"
#include "core/mail/date.h"
#include "core/mail/flags.h"
#include "core/mail/mutf7.h"
#include "core/mail/structure.h"
#include "core/mail/uid_set.h"
#include "net/imap/commands.h"

#define IMAP_SEARCH_KEYS_MAX    1024 /* NOT and OR count too: each message may be asked for each. */
#define IMAP_SEARCH_DEPTH_MAX   32
#define IMAP_FETCH_SECTIONS_MAX 128 /* BODY[...] and BINARY[...] in one FETCH. */
#define IMAP_SECTION_FIELDS_MAX 256 /* Names in one HEADER.FIELDS. */
#define IMAP_KEYWORDS_MAX       64  /* In one flag list. */
#define IMAP_LIST_PATTERNS_MAX  64
#define IMAP_ID_PAIRS_MAX       30 /* RFC 2971, 3.3: pairs, bytes of a name, bytes of a value. */
#define IMAP_ID_NAME_SIZE_MAX   30
#define IMAP_ID_VALUE_SIZE_MAX  1024

/* ---- Sets of messages ---------------------------------------------------------------------------------- */

/* Which numbers `*` stands for is known when the command is executed, so a set stays text till then. */
struct imap_set {
    struct slice text; /* A valid `sequence-set`; empty: not given, or `$`. */
    bool saved;        /* `$`: the saved result of a search (RFC 5182). */
};

/* The numbers of a set that is not `$`. `star`: as in uid_set_parse(), and so are the errors. */
MUST_CHECK int imap_set_resolve(const struct imap_set *set, uint32_t star, struct uid_set *numbers_out);

/* ---- Arguments ----------------------------------------------------------------------------------------- */

struct imap_flags {  /* Duplicates are gone. */
    uint32_t system; /* enum mail_flag, storable ones: \Recent is refused. */
    struct slice *keywords;
    uint32_t keyword_count;
};

struct imap_login { /* Secrets: wipe the command's bytes and the arena. */
    struct slice user, password;
};

struct imap_authenticate {  /* RFC 4959. */
    struct slice mechanism; /* As written: compare without case. */
    bool has_initial;
    struct slice initial; /* Base64, not decoded; "=" became empty. */
};

struct imap_id { /* RFC 2971. ID NIL: count 0. */
    struct imap_id_pair {
        struct slice name, value;
        bool nil;
    } * pairs;
    uint32_t count;
};

enum imap_enable { /* RFC 5161; names that are not known are left out. */
                   IMAP_ENABLE_CONDSTORE = 1 << 0,
                   IMAP_ENABLE_QRESYNC = 1 << 1,
                   IMAP_ENABLE_UTF8_ACCEPT = 1 << 2,
                   IMAP_ENABLE_IMAP4REV2 = 1 << 3,
};

struct imap_select { /* SELECT, EXAMINE (RFC 7162). */
    struct slice mailbox;
    bool condstore;
    bool qresync;
    uint32_t uidvalidity;
    uint64_t modseq;
    struct imap_set known_uids; /* Empty: not given. */
    struct imap_set match_seqs, match_uids;
};

enum imap_special_use { /* RFC 6154. */
                        IMAP_USE_ALL = 1 << 0,
                        IMAP_USE_ARCHIVE = 1 << 1,
                        IMAP_USE_DRAFTS = 1 << 2,
                        IMAP_USE_FLAGGED = 1 << 3,
                        IMAP_USE_JUNK = 1 << 4,
                        IMAP_USE_SENT = 1 << 5,
                        IMAP_USE_TRASH = 1 << 6,
                        IMAP_USE_OTHER = 1 << 7, /* A use that we do not know: NO [USEATTR]. */
};

struct imap_create {
    struct slice mailbox;
    bool trailing_separator; /* "a/": only a level of the hierarchy is meant (RFC 3501, 6.3.3); it was cut
                                off. */
    uint32_t special_use;    /* enum imap_special_use */
};

struct imap_mailbox { /* DELETE, SUBSCRIBE, UNSUBSCRIBE. */
    struct slice mailbox;
};

struct imap_rename {
    struct slice from, to;
};

enum imap_status_item {
    IMAP_STATUS_MESSAGES = 1 << 0,
    IMAP_STATUS_RECENT = 1 << 1,
    IMAP_STATUS_UIDNEXT = 1 << 2,
    IMAP_STATUS_UIDVALIDITY = 1 << 3,
    IMAP_STATUS_UNSEEN = 1 << 4,
    IMAP_STATUS_HIGHESTMODSEQ = 1 << 5, /* RFC 7162 */
    IMAP_STATUS_SIZE = 1 << 6,          /* RFC 8438 */
    IMAP_STATUS_DELETED = 1 << 7,       /* RFC 9051 */
};

struct imap_status {
    struct slice mailbox;
    uint32_t items; /* enum imap_status_item */
};

enum imap_list_option { /* RFC 5258, 5819, 6154. */
                        IMAP_LIST_SUBSCRIBED = 1 << 0,
                        IMAP_LIST_REMOTE = 1 << 1,
                        IMAP_LIST_RECURSIVEMATCH = 1 << 2,
                        IMAP_LIST_SPECIAL_USE = 1 << 3,
                        IMAP_LIST_CHILDREN = 1 << 4, /* Return only. */
                        IMAP_LIST_STATUS = 1 << 5,   /* Return only. */
};

struct imap_list { /* LIST, LSUB. */
    bool extended; /* One of RFC 5258's forms: LIST "" "" is then no question about the separator. */
    uint32_t select_options, return_options; /* enum imap_list_option */
    uint32_t status_items;                   /* enum imap_status_item, of RETURN (STATUS (...)). */
    struct slice reference;
    struct slice *patterns; /* UTF-8, `%` and `*` as they came; at least one. */
    uint32_t pattern_count;
};

enum imap_search_kind {
    IMAP_SEARCH_AND, /* Inner nodes: `first` and its `next`s. An AND without children matches all. */
    IMAP_SEARCH_OR,
    IMAP_SEARCH_ALL,
    IMAP_SEARCH_SEQ,     /* set */
    IMAP_SEARCH_UID,     /* set */
    IMAP_SEARCH_FLAG,    /* flag: an enum mail_flag. UNSEEN and the like are its negation. */
    IMAP_SEARCH_RECENT,  /* OLD is its negation, NEW is AND (RECENT, not \Seen). */
    IMAP_SEARCH_KEYWORD, /* text */
    IMAP_SEARCH_HEADER,  /* field, text: BCC, CC, FROM, SUBJECT, TO too. Empty text: the field exists. */
    IMAP_SEARCH_BODY,    /* text */
    IMAP_SEARCH_TEXT,    /* text */
    IMAP_SEARCH_LARGER,  /* number */
    IMAP_SEARCH_SMALLER, /* number */
    IMAP_SEARCH_BEFORE,  /* day: of INTERNALDATE < day; ON ==; SINCE >= */
    IMAP_SEARCH_ON,
    IMAP_SEARCH_SINCE,
    IMAP_SEARCH_SENTBEFORE, /* day: of the Date field, zones disregarded. */
    IMAP_SEARCH_SENTON,
    IMAP_SEARCH_SENTSINCE,
    IMAP_SEARCH_OLDER,   /* number: seconds (RFC 5032) */
    IMAP_SEARCH_YOUNGER, /* number */
    IMAP_SEARCH_MODSEQ,  /* number: >= (RFC 7162); entry names are read and have no effect */
};

struct imap_search_key {
    enum imap_search_kind kind;
    bool negated; /* NOT: of inner nodes too. */
    uint32_t flag;
    int32_t day; /* Days since 1970-01-01, without any zone. */
    uint64_t number;
    struct slice field, text; /* text: in the command's charset, which is UTF-8 or its subset. */
    struct imap_set set;
    struct imap_search_key *first, *next;
};

enum imap_search_return { /* RFC 4731, 5182. */
                          IMAP_RETURN_MIN = 1 << 0,
                          IMAP_RETURN_MAX = 1 << 1,
                          IMAP_RETURN_ALL = 1 << 2,
                          IMAP_RETURN_COUNT = 1 << 3,
                          IMAP_RETURN_SAVE = 1 << 4,
};

struct imap_search {
    bool extended;    /* RETURN was given: answer by ESEARCH. RETURN () is ALL. */
    uint32_t returns; /* enum imap_search_return */
    bool uses_modseq; /* Somewhere below: the answer carries MODSEQ, the session becomes CONDSTORE-aware. */
    uint32_t key_count;
    struct imap_search_key *key; /* An AND. Inner nodes are nested IMAP_SEARCH_DEPTH_MAX + 2 deep at most. */
};

enum imap_fetch_item {
    IMAP_FETCH_UID = 1 << 0, /* Set by the UID form, too. */
    IMAP_FETCH_FLAGS = 1 << 1,
    IMAP_FETCH_INTERNALDATE = 1 << 2,
    IMAP_FETCH_RFC822_SIZE = 1 << 3,
    IMAP_FETCH_ENVELOPE = 1 << 4,
    IMAP_FETCH_BODY = 1 << 5, /* Without section. */
    IMAP_FETCH_BODYSTRUCTURE = 1 << 6,
    IMAP_FETCH_MODSEQ = 1 << 7, /* Set by CHANGEDSINCE, too. */
};

enum imap_section_kind {
    IMAP_SECTION_BODY,
    IMAP_SECTION_BINARY, /* RFC 3516 */
    IMAP_SECTION_BINARY_SIZE,
    IMAP_SECTION_RFC822, /* The three old names: BODY[], BODY.PEEK[HEADER], BODY[TEXT] under another name. */
    IMAP_SECTION_RFC822_HEADER,
    IMAP_SECTION_RFC822_TEXT,
};

struct imap_section {
    enum imap_section_kind kind;
    bool peek; /* Does not set \Seen. RFC822.HEADER and BINARY.SIZE are so by themselves. */
    bool partial;
    uint64_t offset, size;  /* Of <offset.size>: at most 2^63 - 1 (RFC 9051); RFC 3501 has 32 bits. */
    struct section section; /* For structure_section(). */
    struct slice *fields;   /* Of HEADER.FIELDS and HEADER.FIELDS.NOT. */
    uint32_t field_count;
};

struct imap_fetch {
    struct imap_set set;
    uint32_t items; /* enum imap_fetch_item; macros are resolved */
    struct imap_section *sections;
    uint32_t section_count;
    bool sets_seen;     /* Some section is no peek. */
    bool changed_since; /* RFC 7162 */
    uint64_t modseq;
    bool vanished;
};

enum imap_store_mode {
    IMAP_STORE_REPLACE,
    IMAP_STORE_ADD,
    IMAP_STORE_REMOVE,
};

struct imap_store {
    struct imap_set set;
    enum imap_store_mode mode;
    bool silent;
    bool unchanged_since; /* RFC 7162 */
    uint64_t modseq;
    struct imap_flags flags;
};

struct imap_copy { /* COPY, MOVE (RFC 6851). */
    struct imap_set set;
    struct slice mailbox;
};

struct imap_append_message {
    struct imap_flags flags;
    bool has_date;
    struct mail_date date;
    uint64_t size;     /* Of the literal. */
    bool sync, binary; /* Of the literal: {n}, ~{n} (RFC 3516). */
    bool utf8;         /* UTF8 (~{n}: RFC 6855. The next piece begins with ')'. */
};

struct imap_append { /* APPEND, and REPLACE (RFC 8508): up to the first message's literal. */
    struct slice mailbox;
    uint32_t replaced; /* REPLACE: sequence number or UID. */
    struct imap_append_message message;
};

/* ---- Commands ------------------------------------------------------------------------------------------ */

struct imap_parsed {
    struct slice tag;                   /* Empty: could not be read. Written on errors too. */
    const struct imap_command *command; /* On errors: NULL when it is not known. */
    uint32_t literal_count;
    union { /* By command->id; UID forms as their others. Commands not named here have no arguments. */
        struct imap_login login;
        struct imap_authenticate authenticate;
        struct imap_id id;
        uint32_t enable; /* enum imap_enable */
        struct imap_select select;
        struct imap_create create;
        struct imap_mailbox mailbox;
        struct imap_rename rename;
        struct imap_status status;
        struct imap_list list;
        struct imap_search search;
        struct imap_fetch fetch;
        struct imap_store store;
        struct imap_copy copy;
        struct imap_set expunge; /* UID EXPUNGE (RFC 4315). */
        struct imap_append append;
        struct slice compress; /* Mechanism. */
    };
};

struct imap_parse_error {
    bool no;          /* NO instead of BAD: well formed, but not to be had. */
    const char *code; /* Response code without brackets, or NULL. */
    const char *text;
    uint32_t offset; /* Where in the text: for logs and tests. */
};

struct imap_parse_options {
    bool utf8; /* UTF8=ACCEPT was enabled: mailbox names are UTF-8, not modified UTF-7 (RFC 6855). */
};

/* Reads one command: exactly the bytes of an IMAP_FRAME_WHOLE, or of the first IMAP_FRAME_LITERAL. False:
 * *error_out says why, and of *parsed_out only tag and command are to be used. */
MUST_CHECK bool imap_parse(struct arena *arena, struct slice text, const struct imap_parse_options *options,
                           struct imap_parsed *parsed_out, struct imap_parse_error *error_out);

enum imap_append_result {
    IMAP_APPEND_MESSAGE, /* *message is the next one (MULTIAPPEND, RFC 3502); its literal follows. */
    IMAP_APPEND_END,     /* The command is complete. */
    IMAP_APPEND_BAD,
};

/* Reads what follows an appended literal: the text of the next IMAP_FRAME_LITERAL or IMAP_FRAME_END.
 * `message` is the one before on entry (its utf8 matters), the next one on IMAP_APPEND_MESSAGE. */
MUST_CHECK enum imap_append_result imap_parse_append_next(struct arena *arena, struct slice text,
                                                          struct imap_append_message *message,
                                                          struct imap_parse_error *error_out);
