/* tests/sim/imap.h -- a virtual mail client's connection: real IMAP text, and its view of the selected
 * mailbox, which is checked with every response (RFC 3501, 4315, 6851, 7162): sequence numbers, what may come
 * when, UIDs, flags. Owner:  one fiber. Memory: the shard's heap. Errors: IMAP_OK, IMAP_NO, or -errno when
 * the connection is lost: then the outcome is unknown. BAD is a violation. */
#pragma once
#include "core/heap.h"
#include "tests/sim/ledger.h"
#include "tests/sim/talk.h"

#define IMAP_COMMAND_MAX 1024
#define IMAP_CODE_MAX    512

enum imap_result { IMAP_OK, IMAP_NO };

struct view_message {
    uint32_t uid; /* 0: not told yet. */
    uint32_t id;  /* 0: not known yet. */
    bool asked;   /* Flags were asked for by the command in progress. */
    bool answered;
    unsigned flags;
    bool flags_known;
};

struct imap_fetched { /* One FETCH response. */
    uint32_t sequence, uid, id;
    bool has_flags, has_body;
    unsigned flags;
    uint64_t modseq, size;
    struct slice body; /* Of BODY[...]; on loan. */
};

struct mail_proxy;

struct imap {
    struct sim_world *world;
    struct ledger *ledger;
    unsigned account;
    struct talk talk;
    unsigned tag;
    bool bye;
    char bye_text[80];
    unsigned disk_faults; /* When the operation began. */
    struct ledger_mailbox *selected;
    struct view_message *view;
    size_t count, capacity;
    char *response; /* The one that is looked at, literals included. */
    size_t response_size, response_capacity;
    bool no_expunge; /* A command is in progress that forbids EXPUNGE. */
    bool selecting;  /* SELECT is in progress: numbers of before are void. */
    uint64_t asked_ns;
    char code[IMAP_CODE_MAX]; /* APPENDUID, COPYUID, or why it was refused, of the last command; "" none. */
    bool unsettled;           /* A change ended without an answer. */
    uint32_t *found;          /* SEARCH. */
    size_t found_count, found_capacity;
    uint32_t uidvalidity, uidnext; /* SELECT, STATUS. */
    uint64_t highest;
    uint32_t status_messages;
    struct { /* What this connection was told. */
        uint32_t uidnext;
        uint64_t highest;
    } told[LEDGER_MAILBOXES];
    void (*fetched)(struct imap *c, const struct imap_fetched *f); /* May be NULL. */
    void (*judge)(struct imap *c, int rc);                         /* How each command ends. May be NULL. */
    void *judge_owner;
    const struct mail_proxy *proxy; /* That it is connected to, */
    unsigned proxy_life;            /* in which of its lives; */
    unsigned kind;                  /* what it does there, */
    uint32_t nodes;                 /* and who takes part: of struct sim_operation. */
    void *owner;
};

/* `patience_ms`: until a client without an answer goes away. */
void imap_init(struct imap *c, struct ledger *ledger, unsigned account, uint32_t patience_ms);
MUST_CHECK int imap_connect(struct imap *c, const struct net_addr *to);
/* Greeting and LOGIN. */
MUST_CHECK int imap_login(struct imap *c);
/* Lets go of the connection; bytes that have not arrived never will. */
void imap_close(struct imap *c);
static inline bool imap_connected(const struct imap *c)
{
    return sock_valid(c->talk.sock);
}

/* Sends one line, reads all up to its tagged response. */
MUST_CHECK int imap_command(struct imap *c, const char *format, ...) PRINTF_LIKE(2, 3);
/* The same in two steps. */
MUST_CHECK int imap_send(struct imap *c, const char *format, ...) PRINTF_LIKE(2, 3);
MUST_CHECK int imap_finish(struct imap *c);
/* Reads responses up to "+": 0; IMAP_NO instead of it: 1; or -errno. */
MUST_CHECK int imap_continuation(struct imap *c);
/* Reads one untagged response, or -ETIMEDOUT. */
MUST_CHECK int imap_untagged(struct imap *c, uint32_t timeout_ms);

/* Selects and looks at every message; checks the ledger. */
MUST_CHECK int imap_select(struct imap *c, struct ledger_mailbox *m);
/* Asks for UID, flags and number of the messages that the view does not know yet. */
MUST_CHECK int imap_learn(struct imap *c);
/* There is something to be learnt. */
bool imap_ignorant(const struct imap *c);
/* NULL: the view does not have it. */
struct view_message *imap_view_find(struct imap *c, uint32_t uid);

/* What SELECT or STATUS said: no less than this connection was told, nor than anybody was, `late_ns` before it was asked. */
void imap_numbers_shown(struct imap *c, struct ledger_mailbox *m, uint64_t asked_ns, uint64_t late_ns);
/* It was told of a message in m. */
void imap_uid_shown(struct imap *c, const struct ledger_mailbox *m, uint32_t uid);

/* "1:3,7": calls each. False: not a set of numbers. */
bool imap_set_each(struct slice set, void (*each)(void *arg, uint32_t number), void *arg);
