/* roles/backend/text_match.h -- does a text hold a string? The text comes in pieces, in a transfer encoding
 * and a charset; both sides are compared as UTF-8 with case folded (ASCII, Latin, Greek, Cyrillic).
 *
 *     bytes -> base64 or quoted-printable undone -> characters -> folded -> one step of the matcher
 * (Knuth-Morris-Pratt)
 *
 * Charsets: UTF-8 and its subset, ISO 8859-1 and -15, Windows-1252; of any other only its ASCII characters
 * count. Owner:  one search of one text; embedded. Does not suspend. Memory: the pattern and its table, in
 * the caller's arena. Bounds: linear in the text, whatever the pattern. */
#pragma once
#include "core/heap.h"

struct text_pattern {
    const uint8_t *bytes; /* Folded. */
    const uint32_t *next; /* Where to go on after a mismatch. */
    uint32_t size;
};

/* `text` is UTF-8; bytes that are not match nothing. */
void text_pattern_init(struct text_pattern *p, struct arena *a, struct slice text);

enum text_encoding { TEXT_IDENTITY, TEXT_BASE64, TEXT_QUOTED, TEXT_Q_WORD /* The Q of RFC 2047. */ };
enum text_charset { TEXT_ASCII, TEXT_UTF8, TEXT_LATIN1, TEXT_LATIN9, TEXT_WINDOWS };

enum text_encoding text_encoding_find(struct slice name);
enum text_charset text_charset_find(struct slice name);

struct text_match { /* Private but for `found`. */
    const struct text_pattern *pattern;
    uint32_t matched;
    bool found;
    uint8_t encoding, charset;
    uint8_t held_count; /* Encoding: characters of a group, or of `=XX`. */
    uint32_t held;
    uint8_t left; /* UTF-8: continuation bytes to come. */
    uint32_t code;
};

/* A new text: nothing that matched before counts. */
void text_match_begin(struct text_match *t, const struct text_pattern *p);
/* The next pieces are in this encoding; what was matched so far stays. */
void text_match_encoding(struct text_match *t, enum text_encoding encoding, enum text_charset charset);
/* Stops at the first match. */
void text_match_feed(struct text_match *t, struct slice piece);

/* One header field (name, colon, value, folded as it came): its line ends are left out, its encoded words
 * (RFC 2047) decoded, blanks between two of them left out. */
void text_match_field(struct text_match *t, struct slice field);
