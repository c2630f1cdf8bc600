/* LMTP: a session's bytes, cut as the first byte says and not cut at all, must read the same. */
#include "net/lmtp/lmtp.h"
#include <stdlib.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct session {
    struct lmtp_parser parser;
    struct lmtp_body body;
    struct lmtp_command command;
    bool in_body, lost;
    XXH64_state_t *trace; /* What was understood. */
    unsigned bodies;
};

static void note(struct session *s, const void *data, size_t size)
{
    if (size > 0)
        XXH64_update(s->trace, data, size);
}

static void note_command(struct session *s, const struct lmtp_command *c)
{
    uint64_t words[] = {c->verb, c->error, c->size, c->last, c->smtputf8, c->lost};
    struct slice user, detail;

    note(s, words, sizeof words);
    note(s, c->domain.data, c->domain.size);
    note(s, c->path.text.data, c->path.text.size);
    note(s, c->path.local.data, c->path.local.size);
    note(s, c->path.domain.data, c->path.domain.size);
    if (c->path.local.size > LMTP_LOCAL_MAX || c->path.domain.size > LMTP_DOMAIN_MAX)
        abort();
    if (c->verb == LMTP_RCPT && c->path.local.size == 0)
        abort();
    lmtp_split_detail(c->path.local, '+', &user, &detail);
    if (user.size + detail.size > c->path.local.size)
        abort();
}

/* Takes what it can of `in`; how much. */
static size_t run(struct session *s, struct slice in)
{
    size_t start = in.size;
    struct slice piece;

    for (;;) {
        if (s->in_body) {
            switch (lmtp_body_feed(&s->body, &in, &piece)) {
            case LMTP_BODY_MORE:
                return start - in.size;
            case LMTP_BODY_PIECE:
                if (piece.size == 0)
                    abort();
                note(s, piece.data, piece.size);
                continue;
            case LMTP_BODY_END:
                note(s, "end", 3);
                s->in_body = false;
            }
        }
        if (s->lost || lmtp_parser_next(&s->parser, &in, &s->command) == LMTP_MORE)
            return s->lost ? start : start - in.size;
        note_command(s, &s->command);
        s->lost = s->command.lost;
        s->in_body = s->command.verb == LMTP_DATA || s->command.verb == LMTP_BDAT;
        if (s->command.verb == LMTP_DATA)
            lmtp_body_start_data(&s->body);
        else if (s->command.verb == LMTP_BDAT)
            lmtp_body_start_chunk(&s->body, s->command.size);
    }
}

static uint64_t trace_of(const uint8_t *data, size_t size, size_t step)
{
    struct session s = {.trace = XXH64_createState()};
    size_t taken = 0, given = 0;
    uint64_t hash;

    XXH64_reset(s.trace, 0);
    lmtp_parser_init(&s.parser);
    while (given < size) {
        given = MIN(given + step, size);
        char *copy = malloc(given - taken + 1); /* Of its own, so that a read behind it is seen. */

        memcpy(copy, data + taken, given - taken);
        size_t now = run(&s, slice_of(copy, given - taken));
        free(copy);
        taken += now;
        if (given - taken > LMTP_LINE_MAX)
            abort();
    }
    hash = XXH64_digest(s.trace);
    XXH64_freeState(s.trace);
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    if (trace_of(data + 1, size - 1, 1 + data[0] % 16) != trace_of(data + 1, size - 1, SIZE_MAX / 2))
        abort();
    return 0;
}
