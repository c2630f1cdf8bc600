/* roles/backend/member_placed.c -- users who are placed alone, as far as this backend is concerned: what a director says, made durable and answered.
 *
 * Who is told to leave is refused on all shards first; then what was under way of him has ended; then there is an account or there is none,
 * and nobody can make one any more. */
#include "core/io.h"
#include "core/log.h"
#include "core/shard_call.h"
#include "roles/backend/backend.h"
#include "roles/backend/member_state.h"
#include "roles/words/place.h"
#include "storage/store.h"
#include <errno.h>

#define LEAVE_POLL_MS 5
#define LEAVE_WAIT_MS 3000 /* For what is under way of a user who is to leave. */
#define AGAIN_MS      200  /* Until what could not be written is tried again. */

static void placed_forget(struct member *m, struct placed_word **word)
{
    heap_free(m->shard->heap, *word);
    *word = NULL;
}

void member_placed_add(struct member *m, const struct member_placed *piece)
{
    struct placed_word *word;

    if (piece->first) {
        placed_forget(m, &m->placed_coming);
        m->placed_coming = heap_zalloc(m->shard->heap, sizeof *m->placed_coming);
        m->placed_coming->version = piece->version;
    }
    word = m->placed_coming;
    if (word == NULL || word->version != piece->version || piece->count > EXCEPTIONS_MAX - word->count)
        return;
    for (unsigned i = 0; i < piece->count; i++, word->count++) {
        word->users[word->count].here = piece->entries[i].here == EXCEPTION_HERE;
        word->users[word->count].name_size = (uint8_t)piece->entries[i].user.size;
        memcpy(word->users[word->count].name, piece->entries[i].user.data, piece->entries[i].user.size);
    }
    if (!piece->last)
        return;
    placed_forget(m, &m->placed_next);
    m->placed_next = word;
    m->placed_coming = NULL;
}

/* ---- Who leaves ------------------------------------------------------------------------------------------ */

struct leaving {
    struct slice user;
    uint64_t hash;
    bool known; /* Its shard serves. */
    bool busy, account;
};

static void ask_leaving(void *arg) /* On the user's shard. */
{
    struct backend *b = backend_self();
    struct leaving *l = arg;

    l->known = b != NULL && !b->stopping;
    if (!l->known)
        return;
    l->busy = command_acts_for(b, l->hash) || deliver_acts_for(b, l->hash);
    l->account = store_user_modseq(b->store, l->user) != 0;
}

/* 0: he may; -EEXIST: he has mail here, or goes on making some; -ECANCELED. */
static int leave_wait(struct member *m, struct leaving *l)
{
    unsigned shard = place_self()->shard(partition_of(m->view.secret, l->user));
    uint32_t ms = 0;

    for (;;) {
        shard_call(m->shard->node->shards[shard], ask_leaving, l);
        if (l->known && (l->account || !l->busy))
            return l->account ? -EEXIST : 0;
        if (m->revoked) /* They do not wait for him. */
            member_revoked_take(m);
        if (m->stopping || m->shard->node->stopping || fiber_sleep_ms(LEAVE_POLL_MS) < 0)
            return -ECANCELED;
        ms += l->known ? LEAVE_POLL_MS : 0;
        if (ms >= LEAVE_WAIT_MS)
            return -EEXIST;
    }
}

static struct slice word_user(const struct placed_word *word, uint32_t i)
{
    return slice_of(word->users[i].name, word->users[i].name_size);
}

/* As the word says it, before anybody was asked whether he can leave. */
static void placed_from(const struct member *m, const struct placed_word *word, struct exceptions *out)
{
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < word->count; i++) {
        struct slice user = word_user(word, i);
        uint64_t hash = partition_user(m->view.secret, user);

        if (exceptions_find(out, hash) == NULL)
            exceptions_put(out, i, hash, (uint16_t)partition_of(m->view.secret, user),
                           word->users[i].here ? EXCEPTION_HERE : EXCEPTION_AWAY);
    }
}

static bool is_away(const struct exceptions *e, uint64_t user)
{
    const struct exception *entry = exceptions_find(e, user);

    return entry != NULL && entry->node == EXCEPTION_AWAY;
}

/* He stays as he was. */
static void stays(struct exceptions *next, const struct exceptions *before, uint32_t place, uint64_t user)
{
    const struct exception *e = exceptions_find(before, user);
    uint16_t partition = next->entries[place].partition;

    exceptions_drop(next, place);
    if (e != NULL)
        exceptions_put(next, place, user, partition, e->node);
}

/* Asks for all who are to leave and have not. 0 or -ECANCELED. */
static int placed_leave(struct member *m, const struct placed_word *word, const struct exceptions *before,
                        struct member_answer *answer)
{
    struct exceptions *next = &m->view.placed;

    for (uint32_t i = 0; i < word->count; i++) {
        struct leaving l = {.user = word_user(word, i)};
        int rc;

        l.hash = partition_user(m->view.secret, l.user);
        if (!next->entries[i].used || word->users[i].here || is_away(before, l.hash))
            continue;
        rc = leave_wait(m, &l);
        if (rc == -ECANCELED || (rc < 0 && answer->refused_count == MEMBER_REFUSED_MAX))
            return -ECANCELED;
        if (rc < 0) {
            answer->refused[answer->refused_count++] = l.hash;
            stays(next, before, i, l.hash);
        }
    }
    return 0;
}

static void answer_tell(struct member *m, const struct member_answer *answer)
{
    list_each_safe(it, &m->director_list)
    {
        struct member_director *d = CONTAINER_OF(it, struct member_director, link);
        struct link_frame *f;

        if (link_credit(d->stream) <= 0)
            continue;
        f = link_frame_new(MEMBER_SIZE_MAX);
        link_send(d->stream, f, member_answer_encode(answer, f->payload), 0);
    }
}

/* What the disk has failed to take may be there all the same: so it stays in force, and is tried again. */
static int placed_keep(struct member *m, const struct placed_word *word, struct member_answer *answer)
{
    struct exceptions *before = heap_alloc(m->shard->heap, sizeof *before);
    int rc;

    *before = m->view.placed;
    placed_from(m, word, &m->view.placed);
    member_spread(m);
    rc = placed_leave(m, word, before, answer);
    if (rc < 0)
        m->view.placed = *before;
    else
        m->placed_unsaved = m->placed_unsaved || !exceptions_same(before, &m->view.placed);
    heap_free(m->shard->heap, before);
    if (rc == 0)
        m->view.epoch = MAX(m->view.epoch, word->version);
    member_spread(m);
    if (rc < 0 || !m->placed_unsaved)
        return rc;
    m->placed_version = word->version;
    rc = member_file_save(m);
    m->placed_unsaved = rc < 0;
    return rc;
}

void member_placed_take(struct member *m)
{
    struct placed_word *word = m->placed_next;
    struct member_answer answer = {.version = word->version};
    int rc = -ESTALE;

    m->placed_next = NULL;
    while (!(m->joined && place_self() != NULL) && !m->stopping && !m->shard->node->stopping) {
        if (m->revoked)
            member_revoked_take(m);
        /* The store is being opened; and member_joined() writes the same file. */
        (void)fiber_sleep_ms(MEMBER_POLL_MS);
    }
    if (word->version < m->placed_version)
        log_event(LOG_ERROR, "a director's word is refused", "why=\"%s\"",
                  "its table is older than what is known here; restore it from a newer backup");
    else if (m->joined && place_self() != NULL && !m->stopping)
        rc = placed_keep(m, word, &answer);
    if (rc == 0)
        answer_tell(m, &answer);
    if (rc == 0 || rc == -ESTALE || rc == -ECANCELED || m->placed_next != NULL) {
        heap_free(m->shard->heap, word);
        return;
    }
    m->placed_next = word; /* The disk failed. */
    (void)fiber_sleep_ms(AGAIN_MS);
}

void member_placed_fini(struct member *m)
{
    placed_forget(m, &m->placed_coming);
    placed_forget(m, &m->placed_next);
}
