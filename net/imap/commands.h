/* net/imap/commands.h -- the one table of IMAP commands: what the proxy must know of a command before it lets
 * it through, and what the backend must know before it executes it. A command that is not in the table is
 * unknown to the backend (BAD) and opaque to the proxy.
 * Memory: constant data. */
#pragma once
#include "core/base.h"

/* X(id, name, valid states, attributes). Names of two words are the UID forms. */
#define IMAP_COMMANDS(X)                                                                                     \
    X(CAPABILITY, "CAPABILITY", ANY, KNOWN | LOCAL)                                                          \
    X(NOOP, "NOOP", ANY, KNOWN | SYNCS)                                                                      \
    X(LOGOUT, "LOGOUT", ANY, KNOWN | LOCAL | BARRIER)                                                        \
    X(ID, "ID", ANY, KNOWN | LOCAL)                                                                          \
    X(STARTTLS, "STARTTLS", NONE, KNOWN | LOCAL | BARRIER)                                                   \
    X(AUTHENTICATE, "AUTHENTICATE", NONE, KNOWN | LOCAL | BARRIER | STATE | SECRET | SASL)                   \
    X(LOGIN, "LOGIN", NONE, KNOWN | LOCAL | BARRIER | STATE | SECRET)                                        \
    X(UNAUTHENTICATE, "UNAUTHENTICATE", AUTH, KNOWN | LOCAL | BARRIER | STATE)                               \
    X(COMPRESS, "COMPRESS", AUTH, KNOWN | LOCAL | BARRIER)                                                   \
    X(ENABLE, "ENABLE", AUTH, KNOWN | STATE)                                                                 \
    X(SELECT, "SELECT", AUTH, KNOWN | STATE)                                                                 \
    X(EXAMINE, "EXAMINE", AUTH, KNOWN | STATE)                                                               \
    X(CLOSE, "CLOSE", SELECTED, KNOWN | STATE | MUTATES)                                                     \
    X(UNSELECT, "UNSELECT", SELECTED, KNOWN | STATE)                                                         \
    X(CHECK, "CHECK", SELECTED, KNOWN | SYNCS)                                                               \
    X(IDLE, "IDLE", AUTH, KNOWN | LOCAL | BARRIER | SYNCS)                                                   \
    X(NOTIFY, "NOTIFY", AUTH, KNOWN | STATE)                                                                 \
    X(APPEND, "APPEND", AUTH, KNOWN | APPEND | MUTATES | SYNCS)                                              \
    X(REPLACE, "REPLACE", SELECTED, KNOWN | APPEND | MUTATES | SEQUENCE)                                     \
    X(UID_REPLACE, "UID REPLACE", SELECTED, KNOWN | APPEND | MUTATES | SYNCS)                                \
    X(NAMESPACE, "NAMESPACE", AUTH, SYNCS)                                                                   \
    X(CREATE, "CREATE", AUTH, MUTATES | SYNCS)                                                               \
    X(DELETE, "DELETE", AUTH, MUTATES | SYNCS)                                                               \
    X(RENAME, "RENAME", AUTH, MUTATES | SYNCS)                                                               \
    X(SUBSCRIBE, "SUBSCRIBE", AUTH, MUTATES | SYNCS)                                                         \
    X(UNSUBSCRIBE, "UNSUBSCRIBE", AUTH, MUTATES | SYNCS)                                                     \
    X(LIST, "LIST", AUTH, SYNCS)                                                                             \
    X(LSUB, "LSUB", AUTH, SYNCS)                                                                             \
    X(STATUS, "STATUS", AUTH, SYNCS)                                                                         \
    X(EXPUNGE, "EXPUNGE", SELECTED, MUTATES | SYNCS)                                                         \
    X(UID_EXPUNGE, "UID EXPUNGE", SELECTED, MUTATES | SYNCS)                                                 \
    X(SEARCH, "SEARCH", SELECTED, SEQUENCE)                                                                  \
    X(UID_SEARCH, "UID SEARCH", SELECTED, SYNCS)                                                             \
    X(FETCH, "FETCH", SELECTED, SEQUENCE | MAY_MUTATE)                                                       \
    X(UID_FETCH, "UID FETCH", SELECTED, SYNCS | MAY_MUTATE)                                                  \
    X(STORE, "STORE", SELECTED, SEQUENCE | MUTATES)                                                          \
    X(UID_STORE, "UID STORE", SELECTED, SYNCS | MUTATES)                                                     \
    X(COPY, "COPY", SELECTED, MUTATES | SYNCS)                                                               \
    X(UID_COPY, "UID COPY", SELECTED, MUTATES | SYNCS)                                                       \
    X(MOVE, "MOVE", SELECTED, MUTATES | SYNCS)                                                               \
    X(UID_MOVE, "UID MOVE", SELECTED, MUTATES | SYNCS)

enum imap_command_id {
#define IMAP_COMMAND_ID(id, name, states, attributes) IMAP_##id,
    IMAP_COMMANDS(IMAP_COMMAND_ID)
#undef IMAP_COMMAND_ID
        IMAP_COMMAND_COUNT
};

/* Session states (RFC 3501, 3), as sets. AUTH: authenticated, with or without a selected mailbox. */
enum imap_command_states {
    IMAP_IN_NONE = 1, /* Not authenticated. */
    IMAP_IN_DESELECTED = 2,
    IMAP_IN_SELECTED = 4,
    IMAP_IN_AUTH = IMAP_IN_DESELECTED | IMAP_IN_SELECTED,
    IMAP_IN_ANY = IMAP_IN_NONE | IMAP_IN_AUTH,
};

enum imap_command_attributes {
    IMAP_HAS_KNOWN = 1 << 0,   /* The proxy knows it by name; without this it is opaque to the proxy. */
    IMAP_HAS_LOCAL = 1 << 1,   /* The proxy answers it itself (IDLE: it runs it). */
    IMAP_HAS_BARRIER = 1 << 2, /* Nothing behind it is parsed before its tagged reply is written. */
    IMAP_HAS_STATE = 1 << 3,   /* Changes what the proxy keeps of the session. */
    IMAP_HAS_SECRET = 1 << 4,  /* Carries credentials: wipe the bytes, never log them. */
    IMAP_HAS_SASL = 1 << 5,    /* Its line may be IMAP_SASL_LINE_MAX long. */
    IMAP_HAS_APPEND = 1 << 6,  /* Carries messages: its literals are streamed, the backend gives the '+'. */
    IMAP_HAS_MUTATES = 1 << 7, /* Changes the account: needs an operation id. */
    IMAP_HAS_MAY_MUTATE = 1 << 8, /* May set \Seen: needs an operation id when it does. */
    /* Uses sequence numbers where EXPUNGE must not be sent (RFC 3501, 7.4.1): the horizons E and A stay. COPY
     * and MOVE are not among them: the RFC names FETCH, STORE and SEARCH. */
    IMAP_HAS_SEQUENCE = 1 << 9,
    IMAP_HAS_SYNCS = 1 << 10, /* Moves the horizons: what is new is sent before its tagged reply. */
};

struct imap_command {
    const char *name;
    uint8_t name_size;
    uint8_t id;          /* enum imap_command_id */
    uint8_t states;      /* enum imap_command_states */
    bool uid;            /* The UID form: `name` has two words. */
    uint16_t attributes; /* enum imap_command_attributes */
};

const struct imap_command *imap_command_by_id(enum imap_command_id id);
/* `name` is one word, any case; `uid`: the word behind "UID ". NULL: not in the table. */
const struct imap_command *imap_command_find(struct slice name, bool uid);

static inline bool imap_command_has(const struct imap_command *c, enum imap_command_attributes attribute)
{
    return c != NULL && (c->attributes & attribute) != 0;
}
