/* storage/body.h -- the bytes of a message: in by chunks before the change that names them, out by ranges.
 * A body is immutable. It is kept in blocks with a checksum each, so that a range is verified without the
 * rest. With it goes its structure (core/mail/mime.h), computed while it is written. Bodies up to
 * BODY_INLINE_MAX travel in the commit stream, in the batch of the change that names them, and are held in
 * memory until then; larger ones go to a file of their own, which is durable when body_finish() returns. */
#pragma once
#include "core/base.h"
#include "core/heap.h"
#include "storage/store.h"

#define BODY_INLINE_MAX (1024 * 1024)
#define BODY_BLOCK_SIZE (16 * 1024)

/* Where a body is. A plain value: copy it out of a struct message before the next suspension. */
struct body_location {
    uint32_t segment, offset; /* The body's record in the stream. */
    uint32_t meta_size;       /* Of the block checksums and the structure. */
    uint32_t size;            /* Of the message: RFC822.SIZE. */
    uint16_t stream;
    uint16_t flags; /* Private. */
};

/* ---- Writing ------------------------------------------------------------------------------------------- */

struct body_writer;
struct body;

/* `size` is what to expect, 0 when not known. -EFBIG: more than message_size_max; -ENOSPC; -ENOMEM. */
MUST_CHECK int body_begin(struct store *store, uint64_t size, struct body_writer **writer_out);
/* May suspend. After an error only body_abort(). */
MUST_CHECK int body_write(struct body_writer *w, struct slice chunk);
uint64_t body_written(const struct body_writer *w);
/* Takes w on success; on failure it is still the caller's to abort. */
MUST_CHECK int body_finish(struct body_writer *w, struct body **body_out);
void body_abort(struct body_writer *w); /* NULL is fine. May suspend. */

uint32_t body_size(const struct body *b);
struct slice body_structure(const struct body *b); /* The blob, on loan. */
/* After the changes that use it have ended, committed or not. The first change that commits it stores it;
 * later ones, of other accounts too, refer to the same bytes. NULL is fine. May suspend. */
void body_free(struct body *b);

/* ---- Reading ------------------------------------------------------------------------------------------- */

struct body_reader;

/* Reads the record's head and structure (of a small message the bytes too, in the same read), and verifies
 * what it read. -EBADMSG: also when another reader has met damage in these bytes; -EIO, -ENOMEM. */
MUST_CHECK int body_open(struct store *store, const struct body_location *location,
                         struct body_reader **reader_out);
/* The same for who looks at the structure alone: reads no bytes of the body ahead. body_read() works all the same. */
MUST_CHECK int body_open_head(struct store *store, const struct body_location *location,
                              struct body_reader **reader_out);
/* Bytes read: all of `size`, but for the end of the body; 0 at the end. Verified. -EBADMSG, -EIO, -ENOMEM. */
MUST_CHECK ssize_t body_read(struct body_reader *r, void *data, size_t size, uint64_t offset);
struct slice body_reader_structure(const struct body_reader *r); /* On loan until body_close(). */
uint32_t body_reader_size(const struct body_reader *r);
void body_close(struct body_reader *r); /* NULL is fine. Does not suspend: also for who is on no fiber. */
