/* APPEND (RFC 3501 6.3.11, RFC 4315 3). First what can be refused is refused; then the message is asked for,
 * and comes in frames, each of which is written on before it is given back: the proxy never has more than a
 * window out. */
#include "core/io.h"
#include "roles/backend/command.h"
#include <errno.h>

#define APPEND_TAIL_SIZE_MAX 65536 /* What may follow the message: a line end, or what is refused. */
#define APPEND_RESULT_SIZE   8     /* Of the operation id: uidvalidity, UID. */

struct append_work {
    struct body_writer *writer; /* NULL: finished, or given up. */
    uint64_t left;              /* Bytes of the message still to come. */
    struct slice tail;          /* What came behind it. */
    int rc;                     /* First failure: the rest of the message is read and dropped. */
};

struct append_done {
    uint32_t uidvalidity, uid;
    bool refused; /* Its proxy had given it up: it was never to be executed. */
};

static void append_fini(struct command *c)
{
    struct append_work *w = c->work;

    body_abort(w->writer);
    w->writer = NULL;
}

static enum command_step append_error(struct command *c, int rc)
{
    switch (rc) {
    case -EFBIG:
        return command_no(c, "TOOBIG", "Message is too large.");
    case -ENOENT:
        return command_no(c, "TRYCREATE", "Mailbox doesn't exist.");
    case -EMLINK:
        return command_no(c, "LIMIT", "Too many keywords in this mailbox.");
    case -EOVERFLOW:
        return command_no(c, "LIMIT", "Mailbox is full.");
    default:
        return command_error(c, rc);
    }
}

static enum command_step append_ok(struct command *c, const struct append_done *done)
{
    if (done->refused)
        return command_no(c, "UNAVAILABLE", "Nothing was appended; please try again later.");
    return command_ok(c, arena_printf(&c->arena, "APPENDUID %u %u", done->uidvalidity, done->uid),
                      "Append completed.");
}

/* ---- Before the message -------------------------------------------------------------------------------- */

static void append_repeat(struct slice result, struct append_done *done)
{
    done->refused = backend_result_refused(result);
    if (result.size != APPEND_RESULT_SIZE)
        return;
    done->uidvalidity = get_u32(result.data);
    done->uid = get_u32(result.data + 4);
}

/* Was this very APPEND executed already? Then its answer is repeated, without the message. When only its outcome is asked
 * for, and it was not, its operation id is taken: a late message of the first try finds that, and is not appended. */
static int append_was_done(struct command *c, struct append_done *done)
{
    struct change change;
    int rc;

    if (command_operation(c) == NULL)
        return 0;
    rc = change_begin(&change, c->account, command_operation(c));
    if (rc == -EALREADY) {
        append_repeat(change.result, done);
    } else if (rc == 0 && c->request.outcome) {
        rc = change_commit(&change, backend_refused);
        done->refused = true;
        if (rc == 0)
            rc = -EALREADY;
    }
    change_end(&change);
    return rc;
}

static enum command_step append_begin(struct command *c)
{
    const struct imap_append *append = &c->parsed.append;
    struct append_done done = {0};
    struct append_work *w;
    int rc;

    if (append->message.binary || append->message.utf8)
        return command_no(c, "UNKNOWN-CTE", "Binary messages are not supported.");
    if (append->message.size == 0)
        return command_no(c, NULL, "Can't save a zero byte message.");
    if (append->message.size > c->backend->message_size_max)
        return append_error(c, -EFBIG);
    rc = append_was_done(c, &done);
    if (rc == -EALREADY)
        return append_ok(c, &done);
    if (rc < 0)
        return command_error(c, rc);
    if (account_mailbox(c->account, append->mailbox) == NULL)
        return append_error(c, -ENOENT);
    if (c->stream == NULL)
        return STEP_DONE;
    w = arena_zalloc(&c->arena, sizeof *w);
    rc = body_begin(c->backend->store, append->message.size, &w->writer);
    if (rc < 0)
        return append_error(c, rc);
    w->left = append->message.size;
    c->work = w;
    c->work_fini = append_fini;
    if (c->stream == NULL)
        return STEP_DONE;
    link_send(c->stream, link_frame_new(0), 0, 0); /* The ask. */
    return STEP_LITERAL;
}

/* ---- The message --------------------------------------------------------------------------------------- */

static void append_tail(struct command *c, struct append_work *w, struct slice more)
{
    char *all;

    if (more.size == 0 || more.size > APPEND_TAIL_SIZE_MAX - w->tail.size)
        return; /* Too long to be right: it will not parse. */
    all = arena_alloc(&c->arena, w->tail.size + more.size);
    if (w->tail.size > 0)
        memcpy(all, w->tail.data, w->tail.size);
    memcpy(all + w->tail.size, more.data, more.size);
    w->tail = slice_of(all, w->tail.size + more.size);
}

/* Takes every frame that is there. Suspends. */
static void append_frames(struct command *c, struct append_work *w)
{
    struct list *node;

    while ((node = list_pop_front(&c->frames)) != NULL) {
        struct link_frame *f = CONTAINER_OF(node, struct link_frame, link);
        struct slice data = link_frame_data(f);
        size_t size = (size_t)MIN((uint64_t)data.size, w->left);

        if (w->rc == 0 && size > 0)
            w->rc = body_write(w->writer, slice_first(data, size));
        w->left -= size;
        append_tail(c, w, slice_from(data, size));
        link_frame_release(f);
    }
}

/* ---- The change ---------------------------------------------------------------------------------------- */

static int stage_keywords(struct change *change, struct mailbox *m, const struct imap_flags *flags,
                          uint64_t *bits_out)
{
    uint64_t bits = 0;
    uint32_t index;

    for (uint32_t i = 0; i < flags->keyword_count; i++) {
        int rc = change_keyword(change, m, flags->keywords[i], &index);

        if (rc < 0)
            return rc == -ENOSPC ? -EMLINK : rc;
        bits |= 1ull << index;
    }
    *bits_out = bits;
    return 0;
}

static int append_stage(struct command *c, struct change *change, struct body *body, struct append_done *done)
{
    const struct imap_append_message *appended = &c->parsed.append.message;
    struct mailbox *m = account_mailbox(c->account, c->parsed.append.mailbox);
    struct change_message message = {
        .body = body,
        .flags = appended->flags.system,
        .internal_s = appended->has_date ? appended->date.utc_s : time_wall(),
        .zone_minutes = appended->has_date ? appended->date.zone_minutes : 0,
    };
    int rc;

    if (m == NULL)
        return -ENOENT;
    rc = stage_keywords(change, m, &appended->flags, &message.keywords);
    if (rc == 0)
        rc = change_append(change, m, &message, &done->uid);
    done->uidvalidity = m->uidvalidity;
    return rc;
}

static int append_change(struct command *c, struct body *body, struct append_done *done)
{
    char result[APPEND_RESULT_SIZE];
    struct change change;
    int rc = change_begin(&change, c->account, command_operation(c));

    if (rc == 0) {
        rc = append_stage(c, &change, body, done);
        put_u32(result, done->uidvalidity);
        put_u32(result + 4, done->uid);
        if (rc == 0)
            rc = change_commit(&change, slice_of(result, sizeof result));
    } else if (rc == -EALREADY) {
        append_repeat(change.result, done);
        rc = 0;
    }
    change_end(&change);
    return rc;
}

static enum command_step append_finish(struct command *c, struct append_work *w)
{
    struct append_done done = {0};
    struct body *body = NULL;
    int rc = w->rc;

    if (rc == 0)
        rc = body_finish(w->writer, &body);
    if (rc == 0) {
        w->writer = NULL;
        rc = append_change(c, body, &done);
        body_free(body);
    }
    return rc < 0 ? append_error(c, rc) : append_ok(c, &done);
}

enum command_step append_run(struct command *c)
{
    struct imap_append_message message = c->parsed.append.message;
    struct append_work *w = c->work;
    struct imap_parse_error error;

    if (w == NULL)
        return append_begin(c);
    append_frames(c, w);
    if (w->left > 0 || w->tail.size == 0)
        return c->stream == NULL || c->got_last ? STEP_DONE : STEP_LITERAL;
    switch (imap_parse_append_next(&c->arena, w->tail, &message, &error)) {
    case IMAP_APPEND_END:
        return append_finish(c, w);
    case IMAP_APPEND_MESSAGE:
        return command_bad(c, "MULTIAPPEND is not supported.");
    default:
        if (c->stream != NULL && !c->got_last)
            return STEP_LITERAL;
        imap_write_parse_error(command_writer(c), c->parsed.tag, &error);
        return STEP_DONE;
    }
}
