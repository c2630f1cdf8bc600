/* storage/table.h -- where each account's log ends, and at which modification sequence: what a store keeps in
 * memory of accounts that are not loaded (36 bytes each, and some 5 of an index), and what a checkpoint writes down.
 * One table a partition. Nothing is ever removed, so an account keeps its place.
 * Owner:  one shard.
 * Errors: only adding can fail, with -ENOMEM. */
#pragma once
#include "core/base.h"
#include "core/heap.h"
#include "storage/format.h"

struct account_entry {
    struct id128 id; /* Zero: nobody's. */
    uint64_t modseq; /* 63 bits. */
    uint32_t segment, offset, size;
    uint16_t stream;
    uint16_t snapshot; /* The record is a snapshot: of two with the same modseq it is the newer one. */
};

struct account_table { /* Private, but for count. */
    struct account_packed **blocks;
    uint32_t *index;
    uint32_t index_capacity;
    uint32_t count, capacity; /* Accounts there are, and have room. */
};

void account_table_fini(struct account_table *t, struct heap *h);
/* False: unknown. */
MUST_CHECK bool account_table_find(const struct account_table *t, const struct id128 *id,
                                   struct account_entry *entry_out);
/* Of the account at a place below count. */
void account_table_at(const struct account_table *t, uint32_t place, struct account_entry *entry_out);
/* So that the next account_table_update() of a new account cannot fail. */
MUST_CHECK int account_table_reserve(struct account_table *t, struct heap *h);
/* Adds it, or replaces an older entry: never goes back. */
MUST_CHECK int account_table_update(struct account_table *t, struct heap *h, const struct account_entry *e);
/* Bytes. */
size_t account_table_size(const struct account_table *t);
