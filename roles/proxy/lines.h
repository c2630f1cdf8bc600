/* roles/proxy/lines.h -- how far a client has the answer to a FETCH, by lines, for the case that it must come again.
 *
 * `* 7 FETCH (...)` says all by itself: once it is whole, it is enough that message 7 comes at that place again, whatever its flags are
 * by then (what has changed since the command began is told behind the lines, as ever, and what of that was passed over is told once
 * more: request.c). Of a line that has begun, what the client has must come again byte for byte. Of whole lines the number and what the
 * last one was about must be the same: messages come in ascending order, so who is the n-th again has the same before him, but where
 * others have changed both what came and what did not.
 *
 * Notes are lines without a number, such as FLAGS when there is a new keyword. They come when there is something to be noted, so they
 * are not counted: where they come again, or for the first time, before what the client has, they are passed over.
 *
 * Owner: a request. A line that lies in one piece is not hashed, and lines without a literal are counted, not looked at. */
#pragma once
#include "core/base.h"
#include "core/xxh.h"

#define LINES_END_MAX 24 /* Of a line: `* 4294967295 FETCH (`, and `{4294967295}` with its CRLF. */

struct lines {         /* Zeroed: nothing. */
    XXH3_state_t hash; /* Of the line that has begun. */
    uint64_t whole;    /* Lines that have ended, without notes, */
    uint64_t about;    /* and what the last was about: a message's number, or the line's hash. */
    uint64_t part;     /* Bytes of the one that has begun, */
    uint64_t literal;  /* and of its literal that are to come. */
    uint8_t head_size, tail_size;
    char head[LINES_END_MAX], tail[LINES_END_MAX]; /* Of that line. */
};

/* How much of `in` it has taken: all; or up to the end of the line that makes `whole` so many. */
size_t lines_feed(struct lines *l, struct slice in, uint64_t whole);
/* Of `in`: the notes that come before the line that `before` has begun, and perhaps the first bytes of that. Nothing, if it has begun a
 * note, or none. */
size_t lines_pass_notes(struct lines *l, const struct lines *before, struct slice in);
/* Have both the same begun, if any? */
MUST_CHECK bool lines_part_same(const struct lines *a, const struct lines *b);
