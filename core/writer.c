#include "core/writer.h"
#include <stdarg.h>
#include <stdio.h>

static void fixed_is_full(struct writer *w)
{
    ASSERT(!"a fixed writer ran over");
}

void writer_fixed(struct writer *w, char *buffer, size_t size)
{
    *w = (struct writer){buffer, buffer, buffer + size, fixed_is_full};
}

void writer_put(struct writer *w, const void *data, size_t size)
{
    const char *from = data;

    while (size > 0) {
        size_t part;

        if (w->at == w->end)
            w->more(w);
        part = MIN(size, (size_t)(w->end - w->at));
        memcpy(w->at, from, part);
        w->at += part;
        from += part;
        size -= part;
    }
}

void writer_u64(struct writer *w, uint64_t value)
{
    char digits[20];
    char *at = digits + sizeof digits;

    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    writer_put(w, at, (size_t)(digits + sizeof digits - at));
}

/* Into a buffer of its own first: a fixed writer near its end has less than WRITER_NEED_MAX left. */
void writer_printf(struct writer *w, const char *format, ...)
{
    char text[WRITER_NEED_MAX + 1];
    va_list args;
    int size;

    va_start(args, format);
    size = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ASSERT(size >= 0);
    writer_put(w, text, MIN((size_t)size, (size_t)WRITER_NEED_MAX));
}
