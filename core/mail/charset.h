/* core/mail/charset.h -- text of the common character sets into UTF-8, for searching (RFC 2047, RFC 3501
 * 6.4.4). UTF-8, US-ASCII, ISO-8859-1, ISO-8859-15 and windows-1252 are known here; others come from a converter that a
 * role opens.
 * Owner:  nobody; pure functions. */
#pragma once
#include "core/base.h"

enum charset {
    CHARSET_UNKNOWN,
    CHARSET_UTF8, /* And US-ASCII, which it contains: 8-bit text that claims to be ASCII is mostly UTF-8. */
    CHARSET_LATIN1,
    CHARSET_LATIN9,
    CHARSET_WINDOWS_1252,
};

/* A language behind an asterisk (RFC 2231 5) is ignored. The empty name is US-ASCII. */
enum charset charset_find(struct slice name);

#define CHARSET_TO_UTF8_SIZE_MAX(size) (3 * (size))
/* Writes at most CHARSET_TO_UTF8_SIZE_MAX(in.size) bytes, gives how many. UTF-8 is copied as it is, valid or
 * not: a character may be cut by the window that it comes through. `charset` is not CHARSET_UNKNOWN. */
size_t charset_to_utf8(enum charset charset, struct slice in, char *out);

/* For all other character sets: what a role opened at start (iconv under core_call(), for it does not
 * suspend). */
struct charset_converter {
    void *context;
    /* `out` has 4 * in.size bytes. False: an unknown charset, or bytes that are not of it. */
    bool (*convert)(void *context, struct slice charset, struct slice in, char *out, size_t *size_out);
};
