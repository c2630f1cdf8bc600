#include "roles/proxy/status.h"
#include "core/metrics.h"
#include "roles/proxy/session.h"
#include "roles/words/timing.h"

#define WORDS_MAX  256 /* Of a question, without its tag. */
#define ANSWER_MAX 512 /* Untagged and tagged line, while they come. */

static const struct slice completed = {" OK Status completed.\r\n", 23};

struct status {
    struct map_node node; /* By the user's number. */
    struct list link;
    struct session *asker; /* It waits for its answer still; NULL: here it is. */
    uint64_t at;           /* Where the account stood, */
    uint32_t age;          /* as the feed said in that life. */
    uint32_t user;
    uint32_t size;        /* Of all of it. */
    uint16_t token_flags; /* The session's: what its answers look like. */
    uint16_t words_size, answer_size;
    char bytes[]; /* The words, and the untagged line behind them. */
};

static struct slice words_of(const struct status *st)
{
    return slice_of(st->bytes, st->words_size);
}

static struct status *status_of(struct map_node *node)
{
    return CONTAINER_OF(node, struct status, node);
}

static void put(struct statuses *t, struct status *st)
{
    map_insert(&t->by_user, &st->node, st->user);
    list_push_back(&t->all, &st->link);
    t->bytes += st->size;
}

static void take(struct statuses *t, struct status *st)
{
    map_remove(&t->by_user, &st->node);
    list_remove(&st->link);
    t->bytes -= st->size;
}

static void drop(struct statuses *t, struct status *st)
{
    if (st->asker != NULL)
        st->asker->status = NULL;
    take(t, st);
    heap_free(t->by_user.heap, st);
}

void statuses_forget(struct statuses *t, uint32_t user)
{
    struct map_node *node;

    while ((node = map_first(&t->by_user, user)) != NULL)
        drop(t, status_of(node));
}

void session_status_drop(struct session *s)
{
    if (s->status != NULL)
        drop(&s->proxy->statuses, s->status);
}

static bool has_recent(struct slice text)
{
    return memmem(text.data, text.size, "RECENT", 6) != NULL;
}

/* ---- The question -------------------------------------------------------------------------------------- */

/* Where the account stands, if s has been shown no more and no less of its mailbox; 0: it has, or nobody knows. */
static uint64_t stands_at(struct session *s)
{
    const struct token *t = &s->token;
    uint64_t at = session_watch(s) ? subscriber_at(&s->proxy->subscriptions, &s->subscriber) : 0;

    if (t->mailbox_id != 0 && (t->appends != at || t->expunges != at || t->flag_changes != at))
        return 0;
    return at;
}

/* NULL: there is none. */
static struct status *find(const struct session *s, struct slice words, unsigned *count_out)
{
    struct map_node *node = map_first(&s->proxy->statuses.by_user, s->subscriber.user);

    *count_out = 0;
    for (; node != NULL; node = map_next(node), ++*count_out) {
        struct status *st = status_of(node);

        if (st->asker == NULL && st->token_flags == s->token.flags && slice_eq(words_of(st), words))
            return st;
    }
    return NULL;
}

static void ask(struct session *s, struct slice words, uint64_t at)
{
    struct statuses *t = &s->proxy->statuses;
    uint32_t size = (uint32_t)(sizeof(struct status) + words.size + ANSWER_MAX);
    struct status *st;

    while (t->bytes + size > t->bytes_max && !list_empty(&t->all))
        drop(t, CONTAINER_OF(t->all.next, struct status, link));
    st = heap_admits(s->proxy->heap) ? heap_try_alloc(s->proxy->heap, size) : NULL;
    if (st == NULL)
        return;
    *st = (struct status){.asker = s,
                          .at = at,
                          .age = user_at(&s->proxy->users, s->subscriber.user)->age,
                          .user = s->subscriber.user,
                          .size = size,
                          .token_flags = s->token.flags,
                          .words_size = (uint16_t)words.size};
    memcpy(st->bytes, words.data, words.size);
    put(t, st);
    s->status = st;
}

static void reply(struct session *s, const struct status *st, const struct imap_frame *frame)
{
    struct metrics *m = s->proxy->shard->metrics;

    m->commands++;
    m->statuses_known++;
    session_time(s, imap_command_metric(frame->command));
    conn_write(&s->conn, slice_of(st->bytes + st->words_size, st->answer_size));
    conn_write(&s->conn, session_tag(s));
    conn_write(&s->conn, completed);
    session_timed(s);
    session_deadline(s, s->proxy->limits.session_idle_ms);
    session_command_done(s);
}

bool session_status_begin(struct session *s, const struct imap_frame *frame)
{
    struct slice words = slice_from(frame->text, frame->tag.size);
    struct status *st;
    unsigned count;
    uint64_t at;

    if (words.size > WORDS_MAX || frame->literal_count > 0 || has_recent(words))
        return false;
    at = stands_at(s);
    if (at == 0)
        return false;
    st = find(s, words, &count);
    if (st != NULL && st->at == at && st->age == user_at(&s->proxy->users, s->subscriber.user)->age) {
        /* What was acknowledged before may be on its way here. */
        if (!shard_heard_all() || s->proxy->stopping)
            return false;
        reply(s, st, frame);
        return true;
    }
    if (st != NULL)
        drop(&s->proxy->statuses, st);
    if (st != NULL || count < STATUS_USER_MAX)
        ask(s, words, at);
    return false;
}

/* ---- The answer ---------------------------------------------------------------------------------------- */

/* Size of the untagged line, if that is all there is beside the tagged one; 0: it cannot be kept. */
static size_t untagged_size(const struct session *s, struct slice answer)
{
    size_t around = s->tag_size + completed.size, size;
    struct slice line, items;

    if (answer.size <= around)
        return 0;
    size = answer.size - around;
    line = slice_first(answer, size);
    items = slice_from(line, slice_after_last(line, '('));
    if (!slice_starts_nocase(line, SLICE("* STATUS ")) || slice_find(line, '\n') != size - 1 ||
        !slice_eq(slice_first(slice_from(answer, size), s->tag_size), session_tag(s)) ||
        !slice_eq(slice_from(answer, size + s->tag_size), completed))
        return 0;
    return has_recent(items) ? 0 : size;
}

/* It was one for the asker; from now on it is for all. */
static void keep(struct session *s, struct status *st, size_t size)
{
    struct statuses *t = &s->proxy->statuses;
    uint32_t whole = (uint32_t)(sizeof *st + st->words_size + size);
    struct status *smaller;

    take(t, st);
    smaller = heap_try_realloc(t->by_user.heap, st, whole);
    st = smaller != NULL ? smaller : st;
    st->size = smaller != NULL ? whole : st->size;
    st->asker = NULL;
    st->answer_size = (uint16_t)size;
    s->status = NULL;
    list_init(&st->link);
    put(t, st);
}

void session_status_heard(struct session *s, const struct link_frame *f)
{
    struct slice data = link_frame_data(f);
    struct status *st = s->status;
    struct imap_reply reply;
    size_t size;

    if (st == NULL)
        return;
    if ((f->header.flags & (LINK_RUNS | LINK_HOLD)) != 0 || st->answer_size + data.size > ANSWER_MAX) {
        session_status_drop(s);
        return;
    }
    if (data.size > 0)
        memcpy(st->bytes + st->words_size + st->answer_size, data.data, data.size);
    st->answer_size += (uint16_t)data.size;
    if (f->header.type != LINK_END)
        return;
    size = untagged_size(s, slice_of(st->bytes + st->words_size, st->answer_size));
    if (size > 0 && imap_reply_decode(link_frame_head(f), &reply) && reply.flags == 0 &&
        reply.token.flags == s->token.flags && reply.token.mailbox_id == s->token.mailbox_id)
        keep(s, st, size);
    else
        session_status_drop(s);
}

/* ---- Life ---------------------------------------------------------------------------------------------- */

void statuses_init(struct statuses *t, struct heap *h)
{
    map_init(&t->by_user, h);
    list_init(&t->all);
    t->bytes = 0;
    t->bytes_max = heap_streaming(h) / STATUS_BYTES_PART;
}

void statuses_fini(struct statuses *t)
{
    while (!list_empty(&t->all))
        drop(t, CONTAINER_OF(t->all.next, struct status, link));
    map_fini(&t->by_user);
}
