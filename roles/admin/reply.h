/* roles/admin/reply.h -- an answer that grows in the shard's heap, and fields in it that are text or JSON.
 *
 *   text: `key=value key=value`, a line a record, values from outside quoted as in the log.
 *   JSON: one object; records in an array of it. */
#pragma once
#include "core/heap.h"
#include "core/writer.h"

#define REPLY_MAX (16 * 1024 * 1024)

struct reply {
    struct writer writer; /* First. */
    struct heap *heap;
    const char *type; /* Of the content. */
    unsigned status;
    bool json;
    bool full; /* Over REPLY_MAX or the budget: what was written is not to be sent. */
    bool first;
    char separator;                /* Between fields as text. */
    char scratch[WRITER_NEED_MAX]; /* Where writes go once it is full. */
};

void reply_init(struct reply *r, struct heap *h, bool json);
void reply_fini(struct reply *r);
struct slice reply_text(const struct reply *r);
/* Replaces what was written by one line. */
void reply_error(struct reply *r, unsigned status, const char *text);

/* ---- Fields -------------------------------------------------------------------------------------------- */

/* The whole answer: `separator` stands between its fields as text. */
void reply_begin(struct reply *r, char separator);
void reply_end(struct reply *r);
/* An array of records in it. */
void reply_array(struct reply *r, const char *name);
void reply_array_end(struct reply *r);
void reply_record(struct reply *r);
void reply_record_end(struct reply *r);

void reply_u64(struct reply *r, const char *name, uint64_t value);
void reply_hex(struct reply *r, const char *name, uint64_t value);
void reply_bool(struct reply *r, const char *name, bool value);
/* Any bytes; cut at 256, as in the log. */
void reply_slice(struct reply *r, const char *name, struct slice value);
