/* roles/proxy/sleepers.h -- sessions that sleep: a packed record each (packed.h), on the record of their user (users.h), and
 * what wakes them: bytes (io_watch()), a change of the user's account, a deadline, an operator, the end.
 *
 * No timers of their own: a sweep visits every record once in `period_ms`, an eighth of the shortest deadline there
 * is, so a deadline is met that much too late at most. It makes no turn while nobody sleeps. Sessions of one user and
 * one address whose next keep-alives lie near each other get them together, and his radio wakes once.
 *
 * Owner:  one shard's proxy; embedded in it. */
#pragma once
#include "core/metrics.h"
#include "core/records.h"
#include "core/shard.h"
#include "roles/proxy/packed.h"

#define SLEEPER_HEAD_SIZE 18 /* Of a record, before packed.h's bytes. */

struct ledger;
struct proxy;
struct session;

struct sleepers {
    struct proxy *proxy;
    struct records records;
    struct timer sweep, stir;
    uint32_t period_ms;
    bool frozen;           /* Nobody wakes. */
    struct ledger *ledger; /* Who was used of those that another process gave; NULL: none did. */
    uint32_t cursor;       /* Of the sweep. */
    uint32_t stirred_first, stirred_last; /* Users whose account has moved on, or whose ticket has not. */
};

void sleepers_init(struct sleepers *t, struct proxy *p);
/* Closes the sockets of those who are left. */
void sleepers_fini(struct sleepers *t);

/* Makes sure that there is room for one more. False: no memory; he stays awake. */
MUST_CHECK bool sleepers_reserve(struct sleepers *t);
/* Right behind it. `user`: the number of his record; RECORD_NONE: nobody has logged in. Watches the socket, and the account if he idles.
 * The sleeper's name until he wakes. */
uint32_t sleepers_add(struct sleepers *t, const struct packed *p, uint32_t user, uint64_t deadline_ms);
/* He is a session again. `fired`: his socket's watch has told. NULL: no memory; he sleeps on, and is tried again by
 * the sweep if he was `fired`. */
struct session *sleepers_wake(struct sleepers *t, uint32_t id, enum metric_wake why, bool fired);

/* Of a user who has some that watch: a change of his account, or (NULL) that the ticket was refused which sleepers_ticket() had
 * said. */
struct subscription_news;
void sleepers_tell(struct sleepers *t, uint32_t user, const struct subscription_news *news);
struct ticket sleepers_ticket(const struct sleepers *t, uint32_t user);

/* The operator ends him: he wakes and is told so; short of memory his connection is closed as he sleeps. A frozen one goes on. */
void sleepers_kick(struct sleepers *t, uint32_t id);
/* Those of that user of whom is() says so, `max` at most; the user's record may be gone afterwards. Their number; `max`: there may be
 * more. Not while they are frozen. */
unsigned sleepers_kick_user(struct sleepers *t, uint32_t user, unsigned max,
                            bool (*is)(const struct proxy *p, struct slice user,
                                       const struct packed *packed));

/* Nobody wakes from here on, until it is thawed: then those wake who would have. */
void sleepers_freeze(struct sleepers *t);
void sleepers_thaw(struct sleepers *t);
uint64_t sleepers_deadline_ms(const struct sleepers *t, uint32_t id);
/* Of frozen ones: he is kept elsewhere from now on. Wipes and forgets him; his socket stays open, and nothing tells of it. */
void sleepers_part(struct sleepers *t, uint32_t id);
/* Memory of those who have left goes back. */
void sleepers_trim(struct sleepers *t);

/* A walk: the first sleeper that is not before `from`; RECORD_NONE: there is none. */
uint32_t sleepers_next(const struct sleepers *t, uint32_t from);
struct slice sleepers_user(const struct sleepers *t, uint32_t id);
void sleepers_look(const struct sleepers *t, uint32_t id, struct packed *out);
