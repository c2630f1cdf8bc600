/* roles/backend/subscribe.h -- LINK_SUBSCRIBE: changes of one account, told to one proxy core, for as long as
 * the stream lives. Level-triggered: what could not be sent in time is said by a later notice. It holds no
 * account in memory: the store keeps the watch. */
#pragma once
#include "roles/backend/backend.h"
#include "roles/backend/member.h"
#include "storage/store.h"

struct subscription {
    struct list link; /* In backend->subscription_list. */
    struct backend *backend;
    struct link_stream *stream;
    struct store_watch watch;
    struct member_claim claim;
    uint64_t known; /* Modification sequence of the last notice, or what the proxy knew before. */
    uint64_t now;   /* Of the account. */
    bool starved;   /* A notice is due when credit comes. */
};
