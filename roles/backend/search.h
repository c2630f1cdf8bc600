/* roles/backend/search.h -- a SEARCH: its keys made ready, and how far it has come.
 * Owner: one command; in its arena. */
#pragma once
#include "roles/backend/fetch.h"

struct search_node { /* A key, with what of it depends on the mailbox. */
    const struct imap_search_key *key;
    struct search_node *first, *next; /* As the key's. */
    struct uid_set uids;              /* SEQ, UID. */
    int keyword;                      /* KEYWORD: index, or -1. */
};

/* search_text.c: HEADER, BODY, TEXT of an open message. 1: matches; 0: does not;
 * -ENAMETOOLONG: a string that no message is searched for; other -errno. Suspends. */
MUST_CHECK int search_text_matches(struct command *c, struct fetch_source *source,
                                   const struct imap_search_key *key);
