/* tests/sim/ledger.h -- what virtual clients were told, all of them together: which messages must be where,
 * which may be, with which flags; and the checks of what a server shows against it.
 *
 * An operation is begun before its first byte is sent; it ends acknowledged, refused, or not at all (unknown:
 * it may have happened; a client that does not know waits until it can no longer happen). Flags have owners
 * (one client each, so their changes have an order): a flag is what was acknowledged last, or an unknown
 * change. A message that was acknowledged or shown is there until somebody has begun to expunge it.
 *
 * Owner:  the scenario, outside of every node.
 * Memory: calloc. */
#pragma once
#include "core/sim/sim.h"

#define LEDGER_ACCOUNTS  3
#define LEDGER_MAILBOXES 3
#define LEDGER_CLIENTS   4 /* An account. */
#define LEDGER_IDS       8192

enum ledger_flag {
    FLAG_DELETED,
    FLAG_FLAGGED,
    FLAG_ANSWERED,
    FLAG_SEEN,
    FLAG_OWN,
    FLAG_COUNT = FLAG_OWN + LEDGER_CLIENTS
};

extern const char *const ledger_flag_names[FLAG_COUNT];

enum { MAY_BE_UNSET = 1, MAY_BE_SET = 2, MAY_BE_ANY = 3 };

struct instance { /* A message in a mailbox. */
    uint32_t uid, id;
    unsigned dooms;    /* Expunges and moves of it that were begun and not refused, */
    unsigned expunges; /* the expunges among them. */
    bool gone;
    uint64_t known_ns; /* Acknowledged or shown. */
    uint64_t gone_ns;
    uint8_t may[FLAG_COUNT];
    uint64_t settled_ns[FLAG_COUNT]; /* When `may` last lost a value. */
    uint64_t modseq, modseq_ns;      /* The largest that was shown, and when. */
    size_t prefix_size;              /* Of trace headers, once seen; SIZE_MAX before. */
};

struct placing {                /* A message number in a mailbox. */
    uint8_t allowed;            /* So many instances can have come to be. */
    uint8_t owed;               /* So many must have. */
    uint8_t known;              /* So many have a UID that we know. */
    uint8_t flags;              /* Bit of enum ledger_flag: as appended. */
    bool copied;                /* Came by COPY or MOVE: flags as they were there. */
    uint64_t owed_ns, begun_ns; /* Last acknowledged; first begun. */
};

struct ledger_mailbox {
    struct ledger *ledger;
    const char *name;
    unsigned account;
    bool created; /* Acknowledged. */
    uint32_t uidvalidity, uidnext;
    uint64_t highest;
    uint64_t uidnext_ns, highest_ns; /* When these were shown. */
    uint64_t expunge_all_ns;    /* When somebody last began or ended to expunge all that is \Deleted, ... */
    unsigned expunging;         /* ... how many are at it, */
    uint64_t expunged_ns;       /* and when the last one of unknown outcome can have an effect no more. */
    struct instance *instances; /* By UID. */
    size_t count, capacity;
    struct placing placings[LEDGER_IDS];
};

enum ledger_other { OTHER_NO, OTHER_YES, OTHER_MAYBE };

struct ledger_folder {       /* A mailbox that one client creates and deletes. */
    unsigned may;            /* MAY_BE_SET: it is there. */
    uint32_t uidvalidity;    /* That was shown last, ... */
    enum ledger_other other; /* ... and whether it has become another mailbox since. */
};

struct ledger {
    struct sim_world *world;
    struct sim_node *homes[LEDGER_ACCOUNTS]; /* Whose disk has the mail; NULL: not known. */
    uint32_t next_id;
    uint64_t notice_ns; /* So long after another's OK a proxy may answer STATUS as it was before. */
    bool rot;           /* Bits were flipped: things may be unavailable, and never wrong. */
    struct ledger_mailbox mailboxes[LEDGER_ACCOUNTS][LEDGER_MAILBOXES];
    struct ledger_folder folders[LEDGER_ACCOUNTS][LEDGER_CLIENTS];
    uint64_t acknowledged, refused, unknown;
};

struct ledger *ledger_new(struct sim_world *w);
void ledger_free(struct ledger *l);
uint32_t ledger_id(struct ledger *l); /* A new message's number; 0: no more. */
unsigned ledger_disk_faults(const struct ledger *l, unsigned account); /* That ever struck its home. */

/* ---- Messages that come -------------------------------------------------------------------------------- */

void ledger_place_begin(struct ledger_mailbox *m, uint32_t id, unsigned flags, bool copied);
void ledger_place_refused(struct ledger_mailbox *m, uint32_t id);
/* uid 0: not told. NULL then, or after a violation. */
struct instance *ledger_place_acknowledged(struct ledger_mailbox *m, uint32_t id, uint32_t uid);
struct instance *ledger_find(struct ledger_mailbox *m, uint32_t uid);
/* A server shows that `uid` is message `id`. NULL after a violation. */
struct instance *ledger_show(struct ledger_mailbox *m, uint32_t uid, uint32_t id);

/* ---- Flags --------------------------------------------------------------------------------------------- */

bool ledger_owns(unsigned client, uint32_t uid, unsigned flag);
void ledger_flag_begin(struct ledger_mailbox *m, struct instance *i, unsigned flag, bool set);
void ledger_flag_acknowledged(struct ledger *l, struct instance *i, unsigned flag, bool set);
/* `flags` were shown in answer to a question that was asked at `asked_ns`. */
void ledger_flags_shown(struct ledger_mailbox *m, struct instance *i, unsigned flags, uint64_t asked_ns);
void ledger_modseq_shown(struct ledger_mailbox *m, struct instance *i, uint64_t modseq, uint64_t asked_ns);

/* ---- Messages that go ---------------------------------------------------------------------------------- */

void ledger_doom_begin(struct instance *i, bool expunge);
void ledger_doom_refused(struct instance *i, bool expunge);
void ledger_doom_acknowledged(struct ledger *l, struct instance *i);
/* A client was told that it is gone. */
void ledger_expunge_shown(struct ledger_mailbox *m, uint32_t uid);

/* ---- Mailboxes ----------------------------------------------------------------------------------------- */

/* What SELECT or STATUS said; 0: nothing. */
void ledger_numbers_shown(struct ledger_mailbox *m, uint32_t uidvalidity, uint32_t uidnext, uint64_t highest,
                          uint64_t asked_ns);
/* A fresh look: all `count` messages, by UID, of a mailbox that was selected at `asked_ns`. */
void ledger_check(struct ledger_mailbox *m, const uint32_t *uids, size_t count, uint64_t asked_ns);
/* After ledger_check() of all its mailboxes: a message that nobody expunged is in one of them. */
void ledger_check_account(struct ledger *l, unsigned account);
