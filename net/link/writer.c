#include "net/link/link.h"

#define WINDOW_FIRST 2048 /* Most answers are small. */

static void window_open(struct link_writer *w, size_t size)
{
    w->frame = link_frame_new(size);
    w->writer.start = w->writer.at = w->frame->payload;
    w->writer.end = w->frame->payload + size - LINK_TRAILER_MAX; /* So that an END's trailer always fits. */
}

static void window_send(struct link_writer *w)
{
    struct link_frame *f = w->frame;

    w->frame = NULL;
    if (w->stream == NULL || writer_used(&w->writer) == 0)
        link_frame_release(f);
    else
        link_send(w->stream, f, writer_used(&w->writer), w->flags);
}

static void link_writer_more(struct writer *writer)
{
    struct link_writer *w = CONTAINER_OF(writer, struct link_writer, writer);

    window_send(w);
    window_open(w, LINK_PAYLOAD_MAX);
}

void link_writer_init(struct link_writer *w, struct link_stream *s)
{
    *w = (struct link_writer){.writer.more = link_writer_more, .stream = s};
    window_open(w, WINDOW_FIRST);
}

void link_writer_resume(struct link_writer *w, struct link_stream *s)
{
    *w = (struct link_writer){.writer.more = link_writer_more, .stream = s};
    window_open(w, LINK_PAYLOAD_MAX);
}

void link_writer_expect(struct link_writer *w, size_t size)
{
    struct link_frame *first = w->frame;
    size_t used = writer_used(&w->writer);

    if (size <= (size_t)(w->writer.end - w->writer.at) || first->capacity > WINDOW_FIRST)
        return;
    window_open(w, MIN(size, LINK_PAYLOAD_MAX - (size_t)WINDOW_FIRST) + WINDOW_FIRST);
    memcpy(w->writer.at, first->payload, used);
    w->writer.at += used;
    link_frame_release(first);
}

void link_writer_flush(struct link_writer *w)
{
    if (writer_used(&w->writer) > 0)
        link_writer_more(&w->writer);
}

void link_writer_hold(struct link_writer *w)
{
    if ((w->flags & LINK_HOLD) != 0)
        return;
    link_writer_flush(w);
    w->flags |= LINK_HOLD;
}

void link_writer_frame(struct link_writer *w, struct link_frame *f, size_t size, unsigned flags)
{
    link_writer_flush(w);
    if (w->stream == NULL)
        link_frame_release(f);
    else
        link_send(w->stream, f, size, w->flags | flags);
}

void link_writer_end(struct link_writer *w, struct slice trailer)
{
    struct link_frame *f = w->frame;

    w->frame = NULL;
    if (w->stream == NULL)
        link_frame_release(f);
    else
        link_end(w->stream, f, writer_used(&w->writer), trailer);
    w->stream = NULL;
}

void link_writer_fini(struct link_writer *w)
{
    if (w->frame != NULL)
        link_frame_release(w->frame);
    w->frame = NULL;
    w->stream = NULL;
}
