/* roles/backend/fetch.h -- the cursor of a FETCH: which message, which of its sections, which byte. With it
 * the answer goes on where it stopped for want of credit, on whatever backend core has the account then; the
 * bytes of a section never change.
 * Owner:  one command; in its arena. */
#pragma once
#include "roles/backend/command.h"

struct fetch_source { /* A message that is open for reading. */
    struct body_reader *reader;
    struct structure structure;
};

struct fetch_work {
    struct uid_set uids;
    struct message_walk walk;
    struct uid_set seen; /* Sent without peeking: \Seen is due. */
    bool damaged;        /* Some message could not be read: left out. */
    bool gone;           /* Some message was expunged, and its bytes are no longer kept. */

    /* A message that is half sent (command.half). */
    struct message message;
    uint32_t seq;
    uint32_t section_index;
    bool section_begun;         /* Its name and size were sent, */
    uint64_t offset;            /* and so many bytes of its literal. */
    struct fetch_source source; /* Open while it runs, and while it is parked among the last to be. */
    struct list kept;           /* In backend->sources, while parked with it. */
};

/* section.c */

/* `bytes`: more than the structure will be asked for. 0, or -errno: the message can't be read. Suspends. */
MUST_CHECK int fetch_source_open(struct command *c, const struct message *m, bool bytes,
                                 struct fetch_source *source_out);
void fetch_source_close(struct fetch_source *s); /* One that is not open too. */
/* The command parks, and will want the same message again: it stays open, unless more than BACKEND_SOURCES_KEPT have parked since. */
void fetch_source_keep(struct backend *b, struct fetch_work *w);
/* It runs again, or is at its end. */
void fetch_source_unkeep(struct backend *b, struct fetch_work *w);

enum section_result {
    SECTION_SENT,
    SECTION_PARK,  /* Out of credit; w->offset says where to go on. */
    SECTION_BROKEN /* Failed after its literal had begun: the connection can't be used any more. */
};

/* Writes `name {size}` and the bytes, from w->offset on. Suspends. */
MUST_CHECK enum section_result section_send(struct command *c, struct fetch_work *w,
                                            struct fetch_source *source, const struct imap_section *section);
