/* storage/apply.h -- what the parts share that put a record into an account in memory.
 *
 * account_apply.c records, snapshots and operation ids; apply_mailbox.c what happens to mailboxes; apply_message.c what happens
 * to messages. Each apply_*() of a kind of entry reads its arguments from `u`, and sets u.bad when they cannot be. */
#pragma once
#include "storage/account_state.h"

struct apply {
    struct account *a;
    const struct change_head *head;
    struct unpack u;
    struct store_change *touched;
    uint32_t now_s;
};

/* ---- account_apply.c ----------------------------------------------------------------------------------- */

/* Whoever looks at any mailbox is told. */
void apply_touch_all(struct apply *p);
/* By the id that comes next: NULL with u.bad set when there is none. Touched. */
struct mailbox *apply_mailbox(struct apply *p);
/* Grows *array so that `more` fit beside `count`: 0 or -ENOMEM. */
int apply_array_grow(struct account *a, void **array, uint32_t *capacity, uint32_t count, uint32_t more,
                     size_t size);
/* NULL: no memory. */
char *apply_copy_text(struct account *a, struct slice s);

/* ---- apply_mailbox.c ----------------------------------------------------------------------------------- */

int apply_names_insert(struct account *a, struct mailbox *m);
/* -EBADMSG: it is not among them. */
int apply_names_remove(struct account *a, struct mailbox *m);
int apply_root(struct apply *p);
int apply_mailbox_create(struct apply *p);
int apply_mailbox_rename(struct apply *p);
int apply_special_use(struct apply *p);
int apply_subscribe(struct apply *p);
int apply_unsubscribe(struct apply *p);
int apply_keyword(struct apply *p);

/* ---- apply_message.c ----------------------------------------------------------------------------------- */

/* From `flags` on, as append and messages have it. */
void apply_message_unpack(struct unpack *u, struct message *msg);
int apply_live_reserve(struct account *a, struct mailbox *m, uint32_t more);
int apply_append(struct apply *p);
int apply_flags(struct apply *p);
int apply_expunge(struct apply *p);
int apply_mailbox_delete(struct apply *p);
int apply_copy(struct apply *p);
/* Touches nothing: it rides with a change of another mailbox, and there is nothing that anybody would be shown. */
int apply_recent(struct apply *p);
