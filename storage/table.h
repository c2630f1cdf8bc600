/* storage/table.h -- where each account's log ends, and at which modification sequence: what a store keeps in
 * memory of accounts that are not loaded (40 bytes each), and what a checkpoint writes down. One table a
 * partition.
 * Owner:  one shard.
 * Errors: only adding can fail, with -ENOMEM. */
#pragma once
#include "core/base.h"
#include "core/heap.h"
#include "storage/format.h"

struct account_entry {
    struct id128 id; /* Zero: free. */
    uint64_t modseq;
    uint32_t segment, offset, size;
    uint16_t stream;
    uint16_t snapshot; /* The record is a snapshot: of two with the same modseq it is the newer one. */
};

struct account_table {
    struct account_entry *entries;
    uint32_t capacity, count;
};

void account_table_fini(struct account_table *t, struct heap *h);
/* NULL: unknown. Dies when something is added. */
struct account_entry *account_table_find(const struct account_table *t, const struct id128 *id);
/* So that the next account_table_update() of a new account cannot fail. */
MUST_CHECK int account_table_reserve(struct account_table *t, struct heap *h);
/* Adds it, or replaces an older entry: never goes back. */
MUST_CHECK int account_table_update(struct account_table *t, struct heap *h, const struct account_entry *e);
