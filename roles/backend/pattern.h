/* roles/backend/pattern.h -- mailbox names against LIST's wildcards (RFC 3501 6.3.8): `*` is any text, `%`
 * any text without a hierarchy separator. A set of positions in the pattern is moved over the name, a machine
 * word at a time, so that no pattern costs more than name size x pattern size / 64 steps.
 * Owner:  one command.
 * Memory: the command's arena. */
#pragma once
#include "core/heap.h"

#define PATTERN_SIZE_MAX 1024 /* A longer one matches nothing: names are shorter. */

struct pattern { /* Private. */
    uint32_t word_count;
    uint64_t *places; /* word_count words for each byte value that occurs, after one row of zeros. */
    uint64_t *any, *level, *state;
    uint32_t end; /* The bit that says: all of the pattern was matched. */
    uint8_t row[256];
};

/* False: too long. */
MUST_CHECK bool pattern_init(struct pattern *p, struct arena *a, struct slice text);
/* INBOX, alone or as the first level, is compared without case. */
bool pattern_match(struct pattern *p, struct slice name);
