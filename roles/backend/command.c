#include "roles/backend/command.h"
#include "core/io.h"
#include "core/log.h"
#include "core/metrics.h"
#include "net/imap/framer.h"
#include "roles/backend/snapshot.h"
#include "roles/words/timing.h"
#include <errno.h>

static command_fn *const handlers[IMAP_COMMAND_COUNT] = {
    [IMAP_NOOP] = noop_run,
    [IMAP_CHECK] = noop_run,
    [IMAP_ENABLE] = enable_run,
    [IMAP_SELECT] = select_run,
    [IMAP_EXAMINE] = select_run,
    [IMAP_CLOSE] = close_run,
    [IMAP_UNSELECT] = unselect_run,
    [IMAP_STATUS] = status_run,
    [IMAP_CREATE] = create_run,
    [IMAP_DELETE] = delete_run,
    [IMAP_RENAME] = rename_run,
    [IMAP_SUBSCRIBE] = subscribe_run,
    [IMAP_UNSUBSCRIBE] = unsubscribe_run,
    [IMAP_NAMESPACE] = namespace_run,
    [IMAP_LIST] = list_run,
    [IMAP_LSUB] = lsub_run,
    [IMAP_FETCH] = fetch_run,
    [IMAP_UID_FETCH] = fetch_run,
    [IMAP_STORE] = store_run,
    [IMAP_UID_STORE] = store_run,
    [IMAP_SEARCH] = search_run,
    [IMAP_UID_SEARCH] = search_run,
    [IMAP_COPY] = copy_run,
    [IMAP_UID_COPY] = copy_run,
    [IMAP_MOVE] = move_run,
    [IMAP_UID_MOVE] = move_run,
    [IMAP_EXPUNGE] = expunge_run,
    [IMAP_UID_EXPUNGE] = uid_expunge_run,
    [IMAP_APPEND] = append_run,
};

/* ---- Life ---------------------------------------------------------------------------------------------- */

static void frames_release(struct list *frames)
{
    struct list *node;

    while ((node = list_pop_front(frames)) != NULL)
        link_frame_release(CONTAINER_OF(node, struct link_frame, link));
}

static void command_free(struct command *c)
{
    struct backend *b = c->backend;

    ASSERT(c->stream == NULL && c->account == NULL);
    if (c->work_fini != NULL)
        c->work_fini(c);
    link_writer_fini(&c->out);
    frames_release(&c->frames);
    link_frame_release(c->open);
    arena_fini(&c->arena);
    list_remove(&c->link);
    slab_give(&b->commands, c);
    backend_record_gone(b);
}

static void command_timed(const struct command *c)
{
    enum metric_command class = c->sync_only ? METRIC_COMMAND_SYNC : imap_command_metric(c->parsed.command);

    metric_elapsed(&shard_self()->metrics->backend_time[class], c->began_ns, time_ns());
}

/* The answer is written: it goes out with the session's new token. */
static void command_end(struct command *c)
{
    struct imap_reply reply = {.token = c->token, .flags = c->bye ? IMAP_REPLY_BYE : 0};
    char trailer[HEAD_SIZE_SMALL];

    if (c->stream != NULL && c->reset) {
        link_stream_reset(c->stream);
    } else if (c->stream != NULL) {
        link_writer_end(&c->out, slice_of(trailer, imap_reply_encode(&reply, trailer)));
        command_timed(c);
    }
    c->stream = NULL;
    c->out.stream = NULL;
    command_free(c);
}

/* ---- Running ------------------------------------------------------------------------------------------- */

static enum command_step command_refuse(struct command *c, const struct imap_parse_error *error)
{
    imap_write_parse_error(command_writer(c), c->parsed.tag, error);
    return STEP_DONE;
}

/* Parses at the first call. False: refused. */
static bool command_prepare(struct command *c)
{
    struct imap_parse_options options = {.utf8 = command_utf8(c)};
    struct imap_parse_error error;
    unsigned state = c->token.mailbox_id != 0 ? IMAP_IN_SELECTED : IMAP_IN_DESELECTED;
    const struct imap_command *command;

    if (c->sync_only || c->parsed.command != NULL)
        return true;
    if (!imap_parse(&c->arena, c->text, &options, &c->parsed, &error)) {
        c->parsed.command = NULL;
        command_refuse(c, &error);
        return false;
    }
    command = c->parsed.command;
    if (handlers[command->id] == NULL) {
        command_bad(c, "Unknown command.");
        return false;
    }
    if ((command->states & state) == 0) {
        command_bad(c, "No mailbox selected.");
        return false;
    }
    return c->stream != NULL || command_is(c, IMAP_HAS_MUTATES);
}

static enum command_step command_step(struct command *c)
{
    enum command_step step;

    if (!command_prepare(c))
        return STEP_DONE;
    if (snapshot_open(c) != SNAPSHOT_OK) {
        c->reset = c->reset || c->half;
        return STEP_DONE;
    }
    if (c->sync_only) {
        step = STEP_DONE;
        if (snapshot_sync(c, SYNC_ALL) < 0) /* Whoever idles must not believe that it was told all. */
            step = command_bye(c, "Temporary failure; please log in again.");
    } else {
        step = handlers[c->parsed.command->id](c);
    }
    snapshot_close(c);
    return step;
}

static void command_go(struct command *c);

static void command_run(void *arg)
{
    struct command *c = arg;
    enum command_step step;

    c->fiber = fiber_self();
    c->state = COMMAND_RUNNING;
    if (c->out.frame == NULL)
        link_writer_resume(&c->out, c->stream);
    step = command_step(c);
    c->fiber = NULL;
    if (step == STEP_DONE || c->stream == NULL) {
        command_end(c);
    } else if (step == STEP_PARK) {
        link_writer_flush(&c->out);
        link_writer_fini(&c->out); /* A parked command keeps no window. */
        c->state = COMMAND_PARKED;
        if (!command_starved(c))
            command_go(c);
    } else {
        c->state = COMMAND_LITERAL;
        if (!list_empty(&c->frames))
            command_go(c);
    }
}

static void command_fiber_free(struct fiber_waiter *w)
{
    command_go(CONTAINER_OF(w, struct command, waiter));
}

static bool command_is_bulk(const struct command *c)
{
    const struct imap_command *command = c->parsed.command;

    return command != NULL && (command->id == IMAP_FETCH || command->id == IMAP_UID_FETCH ||
                               command->id == IMAP_SEARCH || command->id == IMAP_UID_SEARCH);
}

/* Runs it as soon as there is a fiber. A long answer's continuations wait behind short commands. */
static void command_go(struct command *c)
{
    enum run_class class = command_is_bulk(c) ? RUN_BULK : RUN_INTERACTIVE;

    c->state = COMMAND_QUEUED;
    if (fiber_start("imap", class, command_run, c) != NULL) {
        c->state = COMMAND_RUNNING;
        return;
    }
    c->waiter.free_done = command_fiber_free;
    fiber_when_free(&c->waiter);
}

/* ---- Receiving ----------------------------------------------------------------------------------------- */

/* All of the command's text, or of the APPEND family all before the message? */
static bool text_is_whole(const struct command *c)
{
    struct imap_framer framer;
    struct imap_frame frame;

    if (c->got_last)
        return true;
    imap_framer_init(&framer, &imap_framer_session);
    do {
        imap_framer_next(&framer, c->text, &frame);
    } while (frame.kind == IMAP_FRAME_CONTINUE && frame.consumed == 0);
    return frame.kind == IMAP_FRAME_LITERAL;
}

/* A second frame of text: from here on the text is gathered. False: longer than any command may be. */
static bool text_add(struct command *c, struct slice more)
{
    char *all;

    if (more.size > IMAP_COMMAND_SIZE_MAX - MIN(c->text.size, (size_t)IMAP_COMMAND_SIZE_MAX))
        return false;
    all = arena_alloc(&c->arena, c->text.size + more.size);
    memcpy(all, c->text.data, c->text.size);
    memcpy(all + c->text.size, more.data, more.size);
    c->text = slice_of(all, c->text.size + more.size);
    return true;
}

static void command_on_text(struct command *c, struct link_frame *f)
{
    bool fits = text_add(c, link_frame_data(f));

    link_frame_release(f);
    if (!fits) {
        link_stream_reset(c->stream);
        c->stream = NULL;
        c->out.stream = NULL;
        command_free(c);
    } else if (text_is_whole(c)) {
        command_go(c);
    }
}

static void command_on_frame(struct link_stream *s, struct link_frame *f)
{
    struct command *c = s->owner;

    c->got_last = s->got_last;
    c->began_ns = time_ns();
    if (c->state == COMMAND_RECEIVING) {
        command_on_text(c, f);
        return;
    }
    list_push_back(&c->frames, &f->link);
    if (c->state == COMMAND_LITERAL)
        command_go(c);
}

static void command_on_credit(struct link_stream *s)
{
    struct command *c = s->owner;

    if (c->state == COMMAND_PARKED)
        command_go(c);
}

static bool command_changes(const struct command *c)
{
    return c->parsed.command == NULL || command_is(c, IMAP_HAS_MUTATES);
}

/* The proxy has gone. What runs and only reads is told to stop; what waits for it ends; what changes
 * something and was received whole goes on. */
static void command_on_lost(struct link_stream *s)
{
    struct command *c = s->owner;

    c->stream = NULL;
    c->out.stream = NULL;
    switch (c->state) {
    case COMMAND_RUNNING:
        if (c->fiber != NULL && !command_changes(c))
            fiber_cancel(c->fiber);
        break;
    case COMMAND_QUEUED:
        break;
    case COMMAND_LITERAL: /* Its handler gives the unfinished message up. */
        command_go(c);
        break;
    default:
        command_free(c);
    }
}

static const struct link_stream_ops command_ops = {command_on_frame, command_on_credit, command_on_lost};

/* `r` NULL: not understood, or no room. */
static void stream_refuse(struct link_stream *s, const struct imap_request *r)
{
    struct link_referral referral;

    if (r == NULL) {
        link_stream_refuse(s, LINK_LOST_REFUSED);
    } else if (!member_serves(r->user)) {
        referral = member_referral_of(r->user);
        link_stream_refer(s, &referral);
    } else {
        link_stream_refuse(s, LINK_LOST_TICKET);
    }
}

void command_serve(struct link_stream *s, struct link_frame *open)
{
    struct backend *b = backend_self();
    struct command *c = b->stopping || !heap_admits(b->heap) ? NULL : slab_take(&b->commands);
    bool known = c != NULL && imap_request_decode(link_frame_head(open), &c->request);

    if (known)
        c->claim = member_claim(&c->request.ticket, c->request.user);
    if (!known || !member_serves(c->request.user) || member_claim_revoked(&c->claim)) {
        stream_refuse(s, known ? &c->request : NULL);
        if (c != NULL)
            slab_give(&b->commands, c);
        link_frame_release(open);
        return;
    }
    c->backend = b;
    c->stream = s;
    c->open = open;
    c->token = c->request.token;
    c->text = link_frame_data(open);
    c->sync_only = open->header.kind == LINK_SYNC;
    c->got_last = s->got_last;
    c->began_ns = time_ns();
    s->ops = &command_ops;
    s->owner = c;
    list_init(&c->frames);
    list_push_back(&b->command_list, &c->link);
    arena_init(&c->arena, b->heap);
    link_writer_init(&c->out, s);
    c->state = COMMAND_RECEIVING;
    if (text_is_whole(c))
        command_go(c);
}

static void command_cut(struct command *c)
{
    struct link_stream *s = c->stream;

    if (s == NULL)
        return;
    command_on_lost(s);
    link_stream_reset(s);
}

void command_end_revoked(struct backend *b)
{
    list_each_safe(node, &b->command_list)
    {
        struct command *c = CONTAINER_OF(node, struct command, link);

        if (member_claim_revoked(&c->claim))
            command_cut(c);
    }
}

bool command_acts_for(const struct backend *b, uint64_t user)
{
    list_each(node, &b->command_list)
    {
        if (CONTAINER_OF(node, struct command, link)->claim.user == user)
            return true;
    }
    return false;
}

void command_stop_all(struct backend *b)
{
    list_each_safe(node, &b->command_list)
    {
        command_cut(CONTAINER_OF(node, struct command, link));
    }
}

/* ---- Tagged lines -------------------------------------------------------------------------------------- */

static void command_line(struct command *c, enum imap_status_word word, const char *code, const char *text)
{
    imap_write_status(command_writer(c), c->parsed.tag, word, code, slice_str(text));
}

/* How much of what is new this command may show (RFC 3501 7.4.1, and the reader's next command: RULES of
 * DESIGN 3). */
static enum sync_extent command_sync_extent(const struct command *c)
{
    if (!command_is(c, IMAP_HAS_SYNCS))
        return SYNC_QUIET;
    switch (c->parsed.command->id) {
    case IMAP_APPEND: /* What they add or expunge themselves is their answer. */
    case IMAP_COPY:
    case IMAP_UID_COPY:
    case IMAP_EXPUNGE:
    case IMAP_UID_EXPUNGE:
    case IMAP_MOVE:
    case IMAP_UID_MOVE:
        return SYNC_ALL;
    default:
        return c->request.more_follows ? SYNC_QUIET : SYNC_ALL;
    }
}

enum command_step command_ok(struct command *c, const char *code, const char *text)
{
    uint64_t highest;

    if (c->account != NULL)
        (void)snapshot_sync(c, command_sync_extent(c)); /* An error leaves the horizons: nothing is lost. */
    highest = snapshot_highest_modseq(c);
    if (c->modseq_shown > highest) {
        /* More was shown than was told of: a client that caches must begin again below (RFC 7162 3.1.2.1). */
        const char *lower = arena_printf(&c->arena, "HIGHESTMODSEQ %llu", (unsigned long long)highest);

        if (code == NULL)
            code = lower;
        else
            imap_write_status(command_writer(c), (struct slice){0}, IMAP_OK, lower, SLICE("Highest."));
    }
    command_line(c, IMAP_OK, code, text);
    return STEP_DONE;
}

enum command_step command_no(struct command *c, const char *code, const char *text)
{
    command_line(c, IMAP_NO, code, text);
    return STEP_DONE;
}

enum command_step command_bad(struct command *c, const char *text)
{
    command_line(c, IMAP_BAD, NULL, text);
    return STEP_DONE;
}

enum command_step command_bye(struct command *c, const char *text)
{
    imap_write_status(command_writer(c), (struct slice){0}, IMAP_BYE, "UNAVAILABLE", slice_str(text));
    c->bye = true;
    return STEP_DONE;
}

/* Of a change that was asked for before, NO would also say that it was not executed then. These say it: they come when its
 * operation id was looked for and not found. */
static bool error_is_answer(const struct command *c, int rc)
{
    return !c->request.again || rc == -EINPROGRESS || rc == -E2BIG || rc == -EOVERFLOW || rc == -EDQUOT ||
           rc == -ENOSPC;
}

enum command_step command_error(struct command *c, int rc)
{
    if (!error_is_answer(c, rc)) {
        c->reset = true; /* He asks again. */
        return STEP_DONE;
    }
    switch (rc) {
    case -EINPROGRESS: /* Whether it was done is not known now: neither OK nor NO would be true. */
        return command_bye(c, "The store has failed; please log in again.");
    case -EBADMSG:
        return command_no(c, "SERVERBUG", "Stored mail is damaged; the operator has been told.");
    case -E2BIG:
    case -EOVERFLOW:
        return command_no(c, "LIMIT", "Too many messages at once.");
    case -EDQUOT:
        return command_no(c, "LIMIT", "Too many mailboxes.");
    case -ENOSPC:
        shard_self()->metrics->commands_unavailable++;
        return command_no(c, "UNAVAILABLE", "The disk is full; please try again later.");
    default:
        shard_self()->metrics->commands_unavailable++;
        return command_no(c, "UNAVAILABLE", "Temporary failure; please try again later.");
    }
}

/* ---- What handlers share ------------------------------------------------------------------------------- */

_Static_assert(sizeof(struct id128) == OPERATION_ID_SIZE, "an operation id is what the store keeps");

const struct id128 *command_operation(const struct command *c)
{
    const struct id128 *id = (const void *)c->request.operation_id;

    return id128_is_zero(id) ? NULL : id;
}

void command_condstore_enable(struct command *c)
{
    if (command_condstore(c))
        return;
    c->token.flags |= TOKEN_CONDSTORE;
    if (c->mailbox != NULL)
        imap_write_status(
            command_writer(c), (struct slice){0}, IMAP_OK,
            arena_printf(&c->arena, "HIGHESTMODSEQ %llu", (unsigned long long)snapshot_highest_modseq(c)),
            SLICE("Highest."));
}

/* `strict`: a number that no message has is the client's mistake. */
static int add_seqs(struct command *c, const struct uid_set *seqs, bool strict, struct uid_set *uids_out)
{
    uint32_t count = view_count(&c->view);
    int rc = 0;

    for (uint32_t i = 0; i < seqs->range_count && rc == 0; i++) {
        struct uid_range range = seqs->ranges[i];

        if (range.last > count && strict)
            return -EINVAL;
        if (range.first > count)
            return 0;
        rc = uid_set_add(uids_out, view_at(&c->view, range.first)->uid,
                         view_at(&c->view, MIN(range.last, count))->uid);
    }
    return rc;
}

/* What came after the session's snapshot is not its business yet: a range ends where the snapshot ends. */
static int add_uids(struct command *c, const struct uid_set *uids, struct uid_set *uids_out)
{
    uint32_t last = view_last_uid(&c->view);
    int rc = 0;

    for (uint32_t i = 0; i < uids->range_count && uids->ranges[i].first <= last && rc == 0; i++)
        rc = uid_set_add(uids_out, uids->ranges[i].first, MIN(uids->ranges[i].last, last));
    return rc;
}

static int set_resolve(struct command *c, const struct imap_set *set, bool uid, bool strict,
                       struct uid_set *uids_out)
{
    struct uid_set named;
    int rc;

    uid_set_init(uids_out, c->backend->heap, 0);
    if (set->saved)
        return -EINVAL;
    uid_set_init(&named, c->backend->heap, 0);
    rc = imap_set_resolve(set, uid ? view_last_uid(&c->view) : view_count(&c->view), &named);
    if (rc == 0)
        rc = uid ? add_uids(c, &named, uids_out) : add_seqs(c, &named, strict, uids_out);
    uid_set_fini(&named);
    return rc;
}

int command_set_uids(struct command *c, const struct imap_set *set, struct uid_set *uids_out)
{
    return set_resolve(c, set, c->parsed.command->uid, true, uids_out);
}

int command_set_search(struct command *c, const struct imap_set *set, bool uid, struct uid_set *uids_out)
{
    return set_resolve(c, set, uid, false, uids_out);
}

enum command_step command_set_error(struct command *c, int rc)
{
    if (rc == -EINVAL)
        return command_bad(c, "Invalid message set.");
    if (rc == -E2BIG)
        return command_bad(c, "Message set has too many ranges.");
    return command_error(c, rc);
}

void message_walk_init(struct message_walk *w, const struct uid_set *uids)
{
    *w = (struct message_walk){.uids = uids};
}

const struct message *message_walk_next(struct message_walk *w, struct view *v, uint32_t *seq_out)
{
    const struct uid_set *uids = w->uids;
    const struct message *m;

    while (w->range_index < uids->range_count) {
        uint32_t before = w->uid = MAX(w->uid, uids->ranges[w->range_index].first);

        m = view_next(v, &w->uid, seq_out);
        if (m == NULL)
            return NULL;
        if (m->uid <= uids->ranges[w->range_index].last)
            return m;
        w->uid = MAX(before, m->uid); /* Of a later range, perhaps: look at it again. */
        while (w->range_index < uids->range_count && uids->ranges[w->range_index].last < w->uid)
            w->range_index++;
    }
    return NULL;
}

const struct message *command_next_message(struct command *c, struct message_walk *w, uint32_t *seq_out,
                                           bool *park_out)
{
    struct message_walk before = *w;
    const struct message *m = message_walk_next(w, &c->view, seq_out);

    *park_out = m != NULL && UNLIKELY(command_starved(c));
    if (!*park_out)
        return m;
    *w = before;
    return NULL;
}

const struct imap_keywords *command_keywords(struct command *c)
{
    uint32_t count = c->mailbox->keyword_count;
    struct slice *names;

    if (c->keywords.count == count)
        return &c->keywords;
    names = arena_alloc(&c->arena, MAILBOX_KEYWORD_COUNT_MAX * sizeof *names);
    for (uint32_t i = 0; i < count; i++)
        names[i] = arena_copy(&c->arena, mailbox_keyword(c->mailbox, i));
    c->keywords = (struct imap_keywords){names, count};
    return &c->keywords;
}

void command_announce_keywords(struct command *c)
{
    uint32_t count = c->mailbox->keyword_count;

    if (c->token.keyword_count == count)
        return;
    imap_write_mailbox_flags(command_writer(c), command_keywords(c), command_read_only(c),
                             count < MAILBOX_KEYWORD_COUNT_MAX);
    c->token.keyword_count = (uint16_t)count;
}

uint32_t command_flags_of(const struct command *c, const struct message *m)
{
    bool recent = m->uid >= c->token.recent_first && m->uid <= c->token.recent_last;

    return m->flags | (recent ? MAIL_RECENT : 0);
}

void command_write_flags(struct command *c, const struct message *m, uint32_t seq)
{
    struct imap_flag_line line = {.seq = seq, .keywords = m->keywords, .system = command_flags_of(c, m)};

    command_announce_keywords(c);
    if (c->parsed.command != NULL && c->parsed.command->uid)
        line.uid = m->uid;
    if (command_condstore(c)) {
        line.modseq = m->changed;
        c->modseq_shown = MAX(c->modseq_shown, m->changed);
    }
    imap_write_flag_line(command_writer(c), &line, command_keywords(c));
}

const char *command_set_code(struct command *c, const char *name, const struct uid_set *set)
{
    size_t size = strlen(name) + 2 + (size_t)set->range_count * sizeof "4294967295:4294967295,";
    char *text = arena_alloc(&c->arena, size + WRITER_NEED_MAX);
    struct writer w;

    writer_fixed(&w, text, size + WRITER_NEED_MAX);
    writer_slice(&w, slice_str(name));
    writer_char(&w, ' ');
    uid_set_write(set, &w);
    writer_char(&w, '\0');
    return text;
}
