/* tests/fuzz/imap_differential.h -- what both IMAP targets demand:
 *   - however the stream is cut into pieces, the framer says the same;
 *   - the owner never has to keep more than the limits say;
 *   - the grammar ends where the framer cut and nowhere before it, finds the same command and as many
 * literals. */
#pragma once
#include "net/imap/grammar.h"
#include "tests/lib/imap_feed.h"

#define PREFIXES_SIZE_MAX 512

static struct heap *fuzz_heap;

static void demand(bool ok)
{
    if (!ok)
        abort();
}

static bool parse_exact(struct slice text, bool utf8, struct imap_parsed *parsed)
{
    struct imap_parse_options options = {.utf8 = utf8};
    struct imap_parse_error error;
    char *exact = malloc(text.size > 0 ? text.size : 1);
    struct arena arena;
    bool ok;

    memcpy(exact, text.data, text.size);
    arena_init(&arena, fuzz_heap);
    ok = imap_parse(&arena, slice_of(exact, text.size), &options, parsed, &error);
    if (!ok)
        demand(error.text != NULL && error.offset <= text.size);
    arena_fini(&arena);
    free(exact);
    return ok;
}

static void differ(struct imap_feed *feed, const struct imap_frame *frame)
{
    struct imap_parsed parsed;
    struct imap_append_message message = {0};

    if (frame->kind == IMAP_FRAME_END || (frame->kind == IMAP_FRAME_LITERAL && frame->tag.size == 0)) {
        struct imap_parse_error error;
        struct arena arena;

        arena_init(&arena, fuzz_heap);
        message.utf8 = frame->text.size > 0 && frame->text.data[0] == ')';
        demand(imap_parse_append_next(&arena, frame->text, &message, &error) !=
               (frame->kind == IMAP_FRAME_END ? IMAP_APPEND_MESSAGE : IMAP_APPEND_END));
        arena_fini(&arena);
        return;
    }
    if (frame->kind != IMAP_FRAME_WHOLE && frame->kind != IMAP_FRAME_LITERAL)
        return;
    for (int utf8 = 0; utf8 < 2; utf8++) {
        if (!parse_exact(frame->text, utf8, &parsed))
            continue;
        demand(parsed.command == frame->command);
        demand(slice_eq(frame->tag, slice_of(frame->tag.data, parsed.tag.size)));
        if (imap_command_has(parsed.command, IMAP_HAS_APPEND)) {
            demand(frame->kind == IMAP_FRAME_LITERAL);
            demand(parsed.append.message.size == frame->literal_size);
            demand(parsed.append.message.sync == frame->literal_sync);
            demand(parsed.append.message.binary == frame->literal_binary);
        } else {
            demand(frame->kind == IMAP_FRAME_WHOLE);
            demand(parsed.literal_count == frame->literal_count);
        }
    }
    for (size_t size = 1; size < frame->text.size && size < PREFIXES_SIZE_MAX; size++)
        if (frame->text.data[size - 1] == '\n' && parse_exact(slice_first(frame->text, size), false, &parsed))
            /* Before login no literal is streamed, and nobody executes an APPEND. */
            demand(!feed->framer.limits->append && imap_command_has(parsed.command, IMAP_HAS_APPEND));
}

static bool takes_some(struct imap_feed *feed, const struct imap_frame *frame)
{
    return frame->literal_size % 7 != 3;
}

static void fuzz_stream(struct slice stream, const struct imap_framer_limits *limits, size_t piece)
{
    struct imap_feed whole, pieces;

    if (fuzz_heap == NULL)
        fuzz_heap = heap_create("fuzz", 0);
    imap_feed_init(&whole, limits);
    imap_feed_init(&pieces, limits);
    whole.takes = pieces.takes = takes_some;
    whole.sees = differ;
    imap_feed_bytes(&whole, stream.data, stream.size);
    for (size_t at = 0; at < stream.size; at += piece)
        imap_feed_bytes(&pieces, stream.data + at, piece < stream.size - at ? piece : stream.size - at);
    demand(whole.ended == pieces.ended);
    demand(whole.log_size == pieces.log_size && memcmp(whole.log, pieces.log, whole.log_size) == 0);
    demand(pieces.pending_max <= MAX(limits->size_max, limits->sasl_size_max));
    imap_feed_fini(&whole);
    imap_feed_fini(&pieces);
}
