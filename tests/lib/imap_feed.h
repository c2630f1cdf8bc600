/* tests/lib/imap_feed.h -- plays the owner of an imap_framer: feeds it a stream in pieces of any size and
 * writes down what it said, so that two ways to feed the same bytes can be compared.
 * Memory: malloc. */
#pragma once
#include "net/imap/framer.h"
#include <stdio.h>
#include <stdlib.h>

struct imap_feed {
    struct imap_framer framer;
    char *pending;                    /* Received, not consumed. */
    size_t pending_size, pending_max; /* The most that had to be kept. */
    char *log;
    size_t log_size, log_capacity;
    bool in_data; /* The log ends with literal data: more of it is appended. */
    bool ended;   /* TOO_BIG: the connection is gone. */
    /* What to do with an appended literal: take it? */
    bool (*takes)(struct imap_feed *feed, const struct imap_frame *frame);
    /* Sees every event but MORE; may be NULL. */
    void (*sees)(struct imap_feed *feed, const struct imap_frame *frame);
    void *context;
};

static inline void imap_feed_log(struct imap_feed *feed, const void *data, size_t size)
{
    if (feed->log_size + size + 1 > feed->log_capacity) {
        feed->log_capacity = 2 * (feed->log_size + size + 1);
        feed->log = realloc(feed->log, feed->log_capacity);
    }
    if (size > 0)
        memcpy(feed->log + feed->log_size, data, size);
    feed->log_size += size;
    feed->log[feed->log_size] = '\0';
}

static inline void imap_feed_log_slice(struct imap_feed *feed, const char *before, struct slice s)
{
    imap_feed_log(feed, before, strlen(before));
    imap_feed_log(feed, s.data, s.size);
}

static inline void imap_feed_event(struct imap_feed *feed, const struct imap_frame *frame)
{
    static const char *const kinds[] = {"MORE", "WHOLE", "CONTINUE", "LITERAL",
                                        "DATA", "END",   "BAD",      "TOO_BIG"};
    char numbers[96];

    if (frame->kind == IMAP_FRAME_DATA && feed->in_data) {
        imap_feed_log(feed, frame->text.data, frame->text.size);
        return;
    }
    feed->in_data = frame->kind == IMAP_FRAME_DATA;
    imap_feed_log_slice(feed, "\n", slice_str(kinds[frame->kind]));
    if (frame->tag.size > 0)
        imap_feed_log_slice(feed, " tag=", frame->tag);
    if (frame->name.size > 0)
        imap_feed_log_slice(feed, " name=", frame->name);
    if (frame->command != NULL)
        imap_feed_log_slice(feed, " command=", slice_str(frame->command->name));
    if (frame->kind == IMAP_FRAME_CONTINUE || frame->kind == IMAP_FRAME_LITERAL) {
        snprintf(numbers, sizeof numbers, " size=%llu%s%s", (unsigned long long)frame->literal_size,
                 frame->literal_sync ? "" : "+", frame->literal_binary ? " binary" : "");
        imap_feed_log_slice(feed, "", slice_str(numbers));
    }
    if (frame->literal_count > 0) {
        snprintf(numbers, sizeof numbers, " literals=%u", frame->literal_count);
        imap_feed_log_slice(feed, "", slice_str(numbers));
    }
    if (frame->reason != NULL)
        imap_feed_log_slice(feed, " reason=", slice_str(frame->reason));
    if (frame->text.size > 0)
        imap_feed_log_slice(feed, " text=", frame->text);
}

/* One call of the framer over exactly the bytes that are there, in memory of their own. True: call again. */
static inline bool imap_feed_step(struct imap_feed *feed)
{
    char *exact = malloc(feed->pending_size > 0 ? feed->pending_size : 1);
    struct imap_frame frame;

    if (feed->pending_size > 0)
        memcpy(exact, feed->pending, feed->pending_size);
    imap_framer_next(&feed->framer, slice_of(exact, feed->pending_size), &frame);
    ASSERT(frame.consumed <= feed->pending_size);
    if (frame.kind != IMAP_FRAME_MORE) {
        imap_feed_event(feed, &frame);
        if (feed->sees != NULL)
            feed->sees(feed, &frame);
    }
    if (frame.kind == IMAP_FRAME_LITERAL) {
        if (feed->takes == NULL || feed->takes(feed, &frame))
            imap_framer_literal_take(&feed->framer);
        else
            imap_framer_literal_refuse(&feed->framer);
    }
    feed->pending_size -= frame.consumed;
    memmove(feed->pending, feed->pending + frame.consumed, feed->pending_size);
    if (frame.kind == IMAP_FRAME_MORE)
        feed->pending_max = MAX(feed->pending_max, feed->pending_size);
    feed->ended = frame.kind == IMAP_FRAME_TOO_BIG;
    free(exact);
    return frame.kind != IMAP_FRAME_MORE && !feed->ended;
}

static inline void imap_feed_bytes(struct imap_feed *feed, const void *data, size_t size)
{
    if (feed->ended || size == 0)
        return;
    feed->pending = realloc(feed->pending, feed->pending_size + size);
    memcpy(feed->pending + feed->pending_size, data, size);
    feed->pending_size += size;
    while (imap_feed_step(feed))
        ;
}

static inline void imap_feed_init(struct imap_feed *feed, const struct imap_framer_limits *limits)
{
    *feed = (struct imap_feed){.log = calloc(1, 1), .log_capacity = 1};
    imap_framer_init(&feed->framer, limits);
}

static inline void imap_feed_fini(struct imap_feed *feed)
{
    free(feed->pending);
    free(feed->log);
}
