/* bench/sim/store.c -- what of the backend's memory is the table of accounts, and what accounts in memory. */
#include "bench/sim/sessions.h"
#include "storage/account_state.h"
#include "storage/store_state.h"

void memory_store_measure(void *arg)
{
    struct store *s = shard_self()->slot[SLOT_STORE];
    uint64_t before = heap_used(s->heap);
    struct memory *m = arg;

    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++) {
        m->account_table += account_table_size(&s->partitions[i].table);
        m->account_count += s->partitions[i].table.count;
    }
    accounts_trim(s, true); /* The only way to know what they take. */
    m->account_cache = before - heap_used(s->heap);
}
