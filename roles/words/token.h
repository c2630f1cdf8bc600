/* roles/words/token.h -- an IMAP session as numbers: what a proxy keeps of it, and what travels with each command.
 *
 *     visible(m) = m.created <= appends && (m.expunged == 0 || m.expunged > expunges)
 *
 * The sequence number of a message is its rank by UID among the visible. Horizons are modification sequences
 * (RFC 7162) of the account that owns the mailbox. */
#pragma once
#include "core/base.h"

enum token_flag {
    TOKEN_READ_ONLY = 1 << 0, /* EXAMINE. */
    TOKEN_CONDSTORE = 1 << 1, /* Some command made the session CONDSTORE-aware (RFC 7162 3.1). */
    TOKEN_REV2 = 1 << 2,      /* ENABLE IMAP4rev2: no \Recent, no RECENT. */
    TOKEN_UTF8 = 1 << 3,      /* ENABLE UTF8=ACCEPT. */
    TOKEN_QRESYNC = 1 << 4,   /* ENABLE QRESYNC: VANISHED instead of EXPUNGE. */
};

struct token {
    uint8_t history[16];   /* Random id of the account's history; another one: the numbers mean nothing. */
    uint64_t mailbox_id;   /* 0: nothing is selected. */
    uint64_t appends;      /* A: appends seen. */
    uint64_t expunges;     /* E: expunges seen. */
    uint64_t flag_changes; /* F: flag changes reported. */
    uint32_t uidvalidity;
    uint32_t recent_first, recent_last; /* UIDs that are \Recent to this session; 0, 0: none. */
    uint16_t keyword_count;             /* K: keywords of the mailbox that were announced by FLAGS. */
    uint16_t flags;                     /* enum token_flag */
};

#define TOKEN_SIZE    65 /* Version byte, then the members in the order above, little-endian. */
#define TOKEN_VERSION 1

void token_encode(const struct token *t, char out[TOKEN_SIZE]);
/* False: another size or version. Whether it fits the account is the backend's to check. */
MUST_CHECK bool token_decode(struct slice in, struct token *token_out);
