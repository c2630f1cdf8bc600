/* roles/proxy/sleepers_private.h -- a sleeper's record, for sleepers.c and those who write in it: keep_alive.c. */
#pragma once
#include "roles/proxy/proxy.h"
#include "roles/proxy/sleepers.h"

#define DUE_UNIT_MS  128 /* 2^31 of them: eight years. */
#define DUE_SLACK_MS 32

struct sleeper {
    uint32_t prev, next; /* Of the same user. */
    uint32_t user;       /* RECORD_NONE: not logged in. */
    uint32_t due : 31;   /* DUE_UNIT_MS: sleeper_due(). */
    uint32_t fired : 1;  /* Could not wake for want of memory, or frozen; nothing watches the socket. */
    uint16_t spared;     /* So far beyond the `known` that is packed nothing has changed in his mailbox. */
    char packed[];
};

#define HEAD_SIZE offsetof(struct sleeper, packed)
_Static_assert(HEAD_SIZE == SLEEPER_HEAD_SIZE, "there are millions of them");
_Static_assert(HEAD_SIZE + PACKED_SIZE_MAX <= RECORD_SIZE_MAX, "a sleeper is a record");

static inline struct sleeper *sleeper_at(const struct sleepers *t, uint32_t id)
{
    return records_at(&t->records, id);
}

/* NULL: of nobody who has logged in. */
static inline struct user *sleeper_user(const struct sleepers *t, uint32_t id)
{
    return id == RECORD_NONE ? NULL : user_at(&t->proxy->users, id);
}

static inline struct packed_shared sleeper_shares(const struct sleepers *t, const struct user *u)
{
    struct packed_shared shared = {.process = &t->proxy->process};

    if (u != NULL) {
        shared.history = u->history_known ? u->history : NULL;
        shared.ticket = &u->ticket;
        shared.partition = route_partition(&t->proxy->route, u->place);
    }
    return shared;
}

/* Rounded up, but for the little that waking and sleeping again adds: else whoever is woken again and again would never be due. */
static inline uint32_t sleeper_due(uint64_t deadline_ms)
{
    return (uint32_t)((deadline_ms + DUE_UNIT_MS - DUE_SLACK_MS) / DUE_UNIT_MS) & (UINT32_MAX >> 1);
}
