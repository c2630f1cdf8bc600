/* core/mail/uid_set.h -- a set of 32-bit numbers (UIDs or sequence numbers) as sorted, disjoint ranges that
 * do not touch (RFC 3501 9, `sequence-set`; RFC 4315 `uid-set`).
 * Owner:  one command; embedded.
 * Memory: one array from `heap`, at most `range_count_max` ranges. Zero is in no set. */
#pragma once
#include "core/base.h"
#include "core/heap.h"
#include "core/writer.h"

#define UID_SET_RANGE_COUNT_MAX 65536 /* What a command may name: half a MiB. */

struct uid_range {
    uint32_t first, last; /* Both are in the set; 0 < first <= last. */
};

struct uid_set { /* Read freely; changed by uid_set.c only. */
    struct heap *heap;
    struct uid_range *ranges;
    uint32_t range_count, range_capacity, range_count_max;
};

struct uid_set_iter { /* Private. */
    const struct uid_set *set;
    uint32_t range_index;
    uint64_t next;
};

/* `range_count_max` 0: UID_SET_RANGE_COUNT_MAX. Allocates nothing yet. */
void uid_set_init(struct uid_set *s, struct heap *heap, uint32_t range_count_max);
void uid_set_fini(struct uid_set *s);
void uid_set_clear(struct uid_set *s); /* Empty again; keeps its memory. */

/* Adds a whole `sequence-set`: numbers and ranges in any order, overlapping, reversed, `*`.
 * `star` is what `*` stands for (the largest number in use); 0, because nothing is there: items with a `*`
 * add nothing. 0; -EINVAL: syntax, and nothing is added; -E2BIG: more than range_count_max items or ranges;
 * -ENOMEM. After an error other than -EINVAL the set is empty. */
MUST_CHECK int uid_set_parse(struct uid_set *s, struct slice text, uint32_t star);
/* Syntax alone. */
bool uid_set_syntax_valid(struct slice text);
/* Adds first..last, 0 < first <= last. Constant time at the end of the set, else linear. -E2BIG, -ENOMEM: the
 * set is as it was. */
MUST_CHECK int uid_set_add(struct uid_set *s, uint32_t first, uint32_t last);

bool uid_set_has(const struct uid_set *s, uint32_t number); /* Logarithmic. */
uint64_t uid_set_count(const struct uid_set *s);            /* Numbers in it. Linear in ranges. */

/* Ascending. Changing the set ends the walk. */
void uid_set_iter_init(struct uid_set_iter *it, const struct uid_set *s);
bool uid_set_iter_next(struct uid_set_iter *it, uint32_t *number_out);

/* `1,3:5`; nothing for an empty set, which the grammar does not know. */
void uid_set_write(const struct uid_set *s, struct writer *w);
/* One item of it, for those who have ranges of their own. */
void uid_range_write(struct uid_range range, struct writer *w);
