/* roles/proxy/users.h -- the users whose accounts this core watches, or of whom sessions sleep here: one record each, found by
 * name, and by a number that is the cookie of feeds (roles/words/feed.h). A record holds where the account stands
 * (subscription.c) and what his sleepers have in common (sleepers.c), and lives until neither needs it.
 *
 * Owner:  one shard's proxy; embedded in it.
 * Memory: 96 bytes and the name, and 4 of the table, which grows by a bucket at a time: nobody waits for a table of millions. */
#pragma once
#include "core/records.h"
#include "roles/words/cluster.h"
#include "roles/words/request.h"

struct user {
    uint64_t modseq;   /* Where the account stands, if the state is AT. */
    uint32_t age;      /* Of the feed, when the backend was asked last. */
    uint16_t place;    /* route_place() */
    uint8_t state : 3; /* enum subscription_state; 0: none. */
    bool stirred : 1, expired : 1;
    bool pinned : 1; /* Somebody walks over his sleepers. */
    bool history_known : 1;
    uint8_t name_size;
    uint32_t first, watch_count; /* Sleepers: a list; how many of them watch. */
    uint32_t stirred_next;
    uint32_t next;        /* In its bucket. */
    struct ticket ticket; /* Of the first who went to sleep; others who have the same do not keep it. */
    uint8_t history[16];  /* Of their account. */
    char name[];
};
#define USER_HEAD_SIZE 96
_Static_assert(offsetof(struct user, name) == USER_HEAD_SIZE, "there are millions of them");
_Static_assert(USER_HEAD_SIZE + USER_SIZE_MAX <= RECORD_SIZE_MAX, "a user is a record");

struct users { /* Private. */
    struct records records;
    struct heap *heap;
    uint64_t (*hash)(struct slice name); /* NULL: partition_user(), by this secret. */
    uint8_t secret[PARTITION_SECRET_SIZE];
    uint32_t **chunks; /* Of buckets. */
    uint32_t bucket_count, mask;
};

/* hash: how revocations name them, keyed; NULL: at random, until users_rename() says by which secret. */
void users_init(struct users *t, struct heap *h, uint64_t (*hash)(struct slice name));
void users_fini(struct users *t); /* Forgets whoever is left. */

/* RECORD_NONE: there is none. */
uint32_t users_find(const struct users *t, struct slice name);
uint64_t users_hash(const struct users *t, struct slice name);
/* In a cluster, after users_rename(). */
uint16_t users_partition(const struct users *t, struct slice name);
/* Those with that hash, from `after` (RECORD_NONE: the first) on; RECORD_NONE: no more. */
uint32_t users_named(const struct users *t, uint64_t hash, uint32_t after);
/* Puts all where they are found by that secret, in one go: as a rule before anybody is there. */
void users_rename(struct users *t, const uint8_t secret[PARTITION_SECRET_SIZE]);
/* Makes him if there is none. RECORD_NONE: the name is empty; or over the memory budget, but not right behind records_reserve(). */
uint32_t users_get(struct users *t, struct slice name, uint16_t place);
/* Forgets him, unless somebody needs him still. */
void users_release(struct users *t, uint32_t id);
/* Bytes of the table. */
size_t users_table_size(const struct users *t);

static inline struct user *user_at(const struct users *t, uint32_t id)
{
    return records_at(&t->records, id);
}

static inline struct slice user_name_of(const struct user *u)
{
    return slice_of(u->name, u->name_size);
}
