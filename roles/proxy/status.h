/* roles/proxy/status.h -- STATUS of a mailbox in an account that has not moved since it was asked last: answered here.
 *
 * A backend's answer is kept by the words of its question, with where the account was known to stand before it was
 * asked: it is true for as long as the account is known to stand there (subscription_at()). So it is no older than the
 * notice of a change that is still on its way, as with a NOOP; never older than what the same session was told.
 *
 * Not kept: one with RECENT (whoever selects a mailbox changes that, and nobody is told); one that brought anything
 * else; one that a change has overtaken which this core was asked for, since its OK may come before its notice.
 *
 * Owner:  one shard's proxy; embedded in it.
 * Bounds: STATUS_BYTES_PART of the shard's memory; the oldest go. STATUS_USER_MAX of a user. */
#pragma once
#include "core/list.h"
#include "core/map.h"

#define STATUS_USER_MAX   64
#define STATUS_BYTES_PART 16 /* Of heap_streaming(): 1/64 of the budget. */

struct imap_frame;
struct link_frame;
struct session;
struct status;

struct statuses { /* Private. */
    struct map by_user;
    struct list all; /* The oldest first. */
    size_t bytes, bytes_max;
};

void statuses_init(struct statuses *t, struct heap *h);
void statuses_fini(struct statuses *t); /* Nobody asks any more. */

/* What was kept for that user is void: his account was changed, or what was heard of it is. `user`: the number of his record. */
void statuses_forget(struct statuses *t, uint32_t user);

/* True: answered. False: the backend is to be asked, and its answer will be looked at. */
MUST_CHECK bool session_status_begin(struct session *s, const struct imap_frame *frame);
/* A frame of an answer has come for s. */
void session_status_heard(struct session *s, const struct link_frame *f);
/* There will be none, or not the whole. Allowed at any time. */
void session_status_drop(struct session *s);
