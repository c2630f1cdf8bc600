/* core/writer.h -- bytes out, through windows: text and responses are written into a bounded window; when it is
 * full, more() takes it away and gives another. So a response of any size needs one window at a time.
 * Owner:  one fiber or one step; embedded.
 * Errors: more() never fails; a caller that must not run ahead of its reader asks its own credit between items. */
#pragma once
#include "core/base.h"

struct writer {
    char *start, *at, *end;
    /* Takes [start, at) and sets start, at, end to a window of at least WRITER_NEED_MAX bytes. */
    void (*more)(struct writer *w);
};

#define WRITER_NEED_MAX 512 /* What writer_need() may ask for. */

/* A writer over one fixed buffer: more() is never called by code that stays inside; overflow asserts. */
void writer_fixed(struct writer *w, char *buffer, size_t size);

static inline size_t writer_used(const struct writer *w)
{
    return (size_t)(w->at - w->start);
}

/* At least `size` <= WRITER_NEED_MAX bytes from w->at on; write there, then advance w->at. */
static inline char *writer_need(struct writer *w, size_t size)
{
    ASSERT(size <= WRITER_NEED_MAX);
    if (UNLIKELY((size_t)(w->end - w->at) < size))
        w->more(w);
    return w->at;
}

void writer_put(struct writer *w, const void *data, size_t size); /* Any size: split over windows. */
static inline void writer_slice(struct writer *w, struct slice s)
{
    writer_put(w, s.data, s.size);
}
#define writer_text(w, literal) writer_put((w), "" literal, sizeof(literal) - 1)
static inline void writer_char(struct writer *w, char c)
{
    *writer_need(w, 1) = c;
    w->at++;
}
void writer_u64(struct writer *w, uint64_t value); /* Decimal. */
/* At most WRITER_NEED_MAX bytes of output; for rare texts. */
void writer_printf(struct writer *w, const char *format, ...) PRINTF_LIKE(2, 3);
