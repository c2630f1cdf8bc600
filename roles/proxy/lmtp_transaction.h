/* roles/proxy/lmtp_transaction.h -- one message on its way to its recipients' backends: look-ups, streams
 * with a common window, answers in the order of RCPT. */
#pragma once
#include "roles/proxy/lmtp_session.h"

void transaction_begin(struct lmtp_session *l, const struct lmtp_command *mail);
/* Asks a director who that is; answers RCPT, then goes on reading. */
void transaction_lookup(struct lmtp_session *l, const struct lmtp_path *path);
/* Opens the recipients' streams. */
void transaction_stream(struct lmtp_session *l);
/* May more of the message be sent? While any living stream has no credit: no; on_credit() resumes the
 * connection. */
bool transaction_credit(struct lmtp_session *l);
void transaction_data(struct lmtp_session *l, struct slice piece);
/* The message is complete: replies follow as they come, in order. */
void transaction_finish(struct lmtp_session *l);
/* Whoever has not answered is 451. */
void transaction_timeout(struct lmtp_session *l);
/* Of the timer `silence`: cuts off who has given no credit for too long. */
void transaction_silence(struct timer *t);
/* Forgets the message: nothing of it is delivered, unless it was complete. */
void transaction_reset(struct lmtp_session *l);

/* lmtp_session.c: back to reading commands. */
void lmtp_ready(struct lmtp_session *l);
