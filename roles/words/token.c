#include "roles/words/token.h"
#include <assert.h>

enum { /* Offsets of the members. */
       AT_VERSION = 0,
       AT_HISTORY = 1,
       AT_MAILBOX = 17,
       AT_APPENDS = 25,
       AT_EXPUNGES = 33,
       AT_FLAG_CHANGES = 41,
       AT_UIDVALIDITY = 49,
       AT_RECENT_FIRST = 53,
       AT_RECENT_LAST = 57,
       AT_KEYWORD_COUNT = 61,
       AT_FLAGS = 63,
       AT_END = 65,
};
_Static_assert(AT_END == TOKEN_SIZE, "the token's size is the sum of its members");
_Static_assert(sizeof((struct token *)NULL)->history == AT_MAILBOX - AT_HISTORY,
               "the history id is 16 bytes");

void token_encode(const struct token *t, char out[TOKEN_SIZE])
{
    out[AT_VERSION] = TOKEN_VERSION;
    memcpy(out + AT_HISTORY, t->history, sizeof t->history);
    put_u64(out + AT_MAILBOX, t->mailbox_id);
    put_u64(out + AT_APPENDS, t->appends);
    put_u64(out + AT_EXPUNGES, t->expunges);
    put_u64(out + AT_FLAG_CHANGES, t->flag_changes);
    put_u32(out + AT_UIDVALIDITY, t->uidvalidity);
    put_u32(out + AT_RECENT_FIRST, t->recent_first);
    put_u32(out + AT_RECENT_LAST, t->recent_last);
    put_u16(out + AT_KEYWORD_COUNT, t->keyword_count);
    put_u16(out + AT_FLAGS, t->flags);
}

bool token_decode(struct slice in, struct token *token_out)
{
    const char *p = in.data;

    if (in.size != TOKEN_SIZE || p[AT_VERSION] != TOKEN_VERSION)
        return false;
    memcpy(token_out->history, p + AT_HISTORY, sizeof token_out->history);
    token_out->mailbox_id = get_u64(p + AT_MAILBOX);
    token_out->appends = get_u64(p + AT_APPENDS);
    token_out->expunges = get_u64(p + AT_EXPUNGES);
    token_out->flag_changes = get_u64(p + AT_FLAG_CHANGES);
    token_out->uidvalidity = get_u32(p + AT_UIDVALIDITY);
    token_out->recent_first = get_u32(p + AT_RECENT_FIRST);
    token_out->recent_last = get_u32(p + AT_RECENT_LAST);
    token_out->keyword_count = get_u16(p + AT_KEYWORD_COUNT);
    token_out->flags = get_u16(p + AT_FLAGS);
    return true;
}
