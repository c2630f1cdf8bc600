/* storage/view.c -- snapshots of a mailbox. The living messages with created <= A are a prefix of the array
 * (UID order is the order of creation); the tombstones that are still visible ("ghosts") are a small array
 * beside it. Every question is about the two merged by UID. */
#include "storage/view.h"

#include "storage/account_state.h"

#include <errno.h>

#define CHANGED_STEP_MAX 4096

/* Living messages with created <= A. */
static uint32_t live_prefix(const struct mailbox *m, uint64_t appends)
{
    const struct message *live = m->private->live;
    uint32_t low = 0, high = m->message_count;

    if (high == 0 || live[high - 1].created <= appends)
        return high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (live[middle].created <= appends)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void message_swap(struct message *a, struct message *b)
{
    struct message c = *a;

    *a = *b;
    *b = c;
}

/* Moves messages[at] down to its place in a heap of `count`, the largest UID on top. */
static void heap_sift(struct message *messages, uint32_t at, uint32_t count)
{
    for (uint32_t child = 2 * at + 1; child < count; at = child, child = 2 * at + 1) {
        if (child + 1 < count && messages[child].uid < messages[child + 1].uid)
            child++;
        if (messages[at].uid >= messages[child].uid)
            return;
        message_swap(&messages[at], &messages[child]);
    }
}

/* By UID. In place: a heap sort; most often one expunge made them, and they are in order. */
static void messages_sort(struct message *messages, uint32_t count)
{
    uint32_t i = 1;

    while (i < count && messages[i - 1].uid < messages[i].uid)
        i++;
    if (i >= count)
        return;
    for (i = count / 2; i > 0; i--)
        heap_sift(messages, i - 1, count);
    for (i = count - 1; i > 0; i--) {
        message_swap(&messages[0], &messages[i]);
        heap_sift(messages, 0, i);
    }
}

static void ghosts_drop(struct mailbox *m, struct view_ghosts *g)
{
    g->users--;
    if (g->users == 0 && m->private->ghosts != g)
        heap_free(m->private->account->store->heap, g);
}

/* Tombstones with expunged > E, by UID, for all A: those appended later are behind those of any smaller A. */
static struct view_ghosts *ghosts_make(struct mailbox *m, uint64_t expunges)
{
    struct mailbox_private *p = m->private;
    struct account *a = p->account;
    const struct message *first = mailbox_tombstone_since(m, expunges, 0);
    uint32_t count = first != NULL ? (uint32_t)(p->dead + p->dead_start + p->dead_count - first) : 0;
    size_t size = sizeof(struct view_ghosts) + count * sizeof(struct message);
    struct view_ghosts *g =
        p->view_count > 0 ? account_grow(a, NULL, 0, size) : heap_try_alloc(a->store->heap, size);

    if (g == NULL)
        return NULL;
    *g = (struct view_ghosts){.expunges = expunges, .generation = p->generation, .count = count};
    if (count > 0) {
        memcpy(g->messages, first, count * sizeof *first);
        messages_sort(g->messages, count);
    }
    if (p->ghosts != NULL && p->ghosts->users == 0)
        heap_free(a->store->heap, p->ghosts);
    p->ghosts = g;
    return g;
}

/* Views of sessions that stand alike share one array; what was made before the last change is made anew. */
static int ghosts_take(struct view *v)
{
    struct mailbox *m = v->mailbox;
    struct view_ghosts *g = m->private->ghosts, *old = v->ghosts;

    if (mailbox_tombstone_since(m, v->expunges, 0) == NULL)
        g = NULL;
    else if (g == NULL || g->generation != m->private->generation || g->expunges != v->expunges)
        g = ghosts_make(m, v->expunges);
    if (g == NULL && mailbox_tombstone_since(m, v->expunges, 0) != NULL)
        return -ENOMEM;
    if (g != NULL)
        g->users++;
    if (old != NULL)
        ghosts_drop(m, old);
    v->ghosts = g;
    return 0;
}

static int view_refresh(struct view *v)
{
    int rc = ghosts_take(v);

    if (rc < 0)
        return rc;
    v->live_count = live_prefix(v->mailbox, v->appends);
    v->ghost_count = 0;
    if (v->ghosts != NULL) { /* A prefix here too: UID order is the order of creation. */
        v->ghost_count = v->ghosts->count;
        while (v->ghost_count > 0 && v->ghosts->messages[v->ghost_count - 1].created > v->appends)
            v->ghost_count--;
    }
    v->generation = v->mailbox->private->generation;
    v->hint = 0;
    return 0;
}

int view_open(struct view *v, struct account *a, struct mailbox *m, uint64_t appends, uint64_t expunges)
{
    int rc;

    if (appends > a->modseq || expunges > a->modseq)
        return -EINVAL;
    if (expunges < m->floor)
        return -ESTALE;
    *v = (struct view){.account = a, .mailbox = m, .appends = appends, .expunges = expunges};
    rc = view_refresh(v);
    if (rc == 0)
        m->private->view_count++;
    return rc;
}

void view_close(struct view *v)
{
    if (v->mailbox == NULL)
        return;
    if (v->ghosts != NULL)
        ghosts_drop(v->mailbox, v->ghosts);
    ASSERT(v->mailbox->private->view_count > 0);
    v->mailbox->private->view_count--;
    v->mailbox = NULL;
}

/* Whatever was committed since the last call. While it is open its memory does not depend on the budget. */
static void view_sync(struct view *v)
{
    int rc;

    if (LIKELY(v->generation == v->mailbox->private->generation))
        return;
    rc = view_refresh(v);
    ASSERT(rc == 0);
}

uint32_t view_count(struct view *v)
{
    view_sync(v);
    return v->live_count + v->ghost_count;
}

/* Visible living messages, and ghosts, with smaller UIDs. */
static uint32_t live_rank(const struct view *v, uint32_t uid)
{
    return MIN(mailbox_message_find(v->mailbox, uid), v->live_count);
}

static uint32_t ghost_rank(const struct view *v, uint32_t uid)
{
    uint32_t low = 0, high = v->ghost_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (v->ghosts->messages[middle].uid < uid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t view_rank(struct view *v, uint32_t uid)
{
    view_sync(v);
    return live_rank(v, uid) + ghost_rank(v, uid);
}

/* At these ranks: the one with the smaller UID; NULL: neither. */
static const struct message *merged_at(const struct view *v, uint32_t live, uint32_t ghost)
{
    const struct message *l = live < v->live_count ? &v->mailbox->private->live[live] : NULL;
    const struct message *g = ghost < v->ghost_count ? &v->ghosts->messages[ghost] : NULL;

    if (l == NULL || g == NULL)
        return l != NULL ? l : g;
    return l->uid < g->uid ? l : g;
}

const struct message *view_at(struct view *v, uint32_t seq)
{
    uint32_t low = 0, high, rank = seq - 1;

    view_sync(v);
    if (seq == 0 || rank >= v->live_count + v->ghost_count)
        return NULL;
    high = MIN(rank, v->ghost_count);
    /* The number of ghosts before it: the largest g such that ghost g - 1 has a smaller UID than living rank
     * - g + 1. */
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2, live = rank - middle;

        if (live >= v->live_count ||
            v->ghosts->messages[middle - 1].uid < v->mailbox->private->live[live].uid)
            low = middle;
        else
            high = middle - 1;
    }
    return merged_at(v, rank - low, low);
}

const struct message *view_find(struct view *v, uint32_t uid)
{
    const struct message *found;

    view_sync(v);
    found = merged_at(v, live_rank(v, uid), ghost_rank(v, uid));
    return found != NULL && found->uid == uid ? found : NULL;
}

uint32_t view_seq(struct view *v, uint32_t uid)
{
    return view_find(v, uid) != NULL ? live_rank(v, uid) + ghost_rank(v, uid) + 1 : 0;
}

uint32_t view_last_uid(struct view *v)
{
    uint32_t live = 0, ghost = 0;

    view_sync(v);
    if (v->live_count > 0)
        live = v->mailbox->private->live[v->live_count - 1].uid;
    if (v->ghost_count > 0)
        ghost = v->ghosts->messages[v->ghost_count - 1].uid;
    return MAX(live, ghost);
}

/* Where the last step ended, the next one goes on without a search. */
static uint32_t live_rank_near(struct view *v, uint32_t uid)
{
    const struct message *live = v->mailbox->private->live;
    uint32_t at = v->hint;

    if (at > v->live_count || (at > 0 && live[at - 1].uid >= uid) ||
        (at < v->live_count && live[at].uid < uid))
        at = live_rank(v, uid);
    v->hint = at;
    return at;
}

const struct message *view_next(struct view *v, uint32_t *uid, uint32_t *seq_out)
{
    const struct message *found;
    uint32_t live, ghost;

    view_sync(v);
    live = live_rank_near(v, *uid);
    ghost = v->ghost_count > 0 ? ghost_rank(v, *uid) : 0;
    found = merged_at(v, live, ghost);
    if (found == NULL)
        return NULL;
    if (live < v->live_count && found == &v->mailbox->private->live[live])
        v->hint = live + 1;
    *seq_out = live + ghost + 1;
    *uid = found->uid + 1;
    return found;
}

/* ---- The difference to now ----------------------------------------------------------------------------- */

uint32_t view_gone_count(struct view *v)
{
    view_sync(v);
    return v->ghost_count;
}

const struct message *view_gone_at(struct view *v, uint32_t index, uint32_t *seq_out)
{
    view_sync(v);
    if (index >= v->ghost_count)
        return NULL;
    *seq_out = live_rank(v, v->ghosts->messages[index].uid) + index + 1;
    return &v->ghosts->messages[index];
}

uint32_t view_new_count(struct view *v, uint32_t *first_uid_out)
{
    const struct mailbox *m = v->mailbox;

    view_sync(v);
    *first_uid_out = v->live_count < m->message_count ? m->private->live[v->live_count].uid : 0;
    return m->message_count - v->live_count;
}

/* UIDs between which everything lies that changed after `since`; false: nothing did. */
static bool changed_bounds(const struct mailbox *m, uint64_t since, uint32_t *first, uint32_t *last)
{
    const struct mailbox_private *p = m->private;
    uint32_t count = MIN(p->flag_change_count, (uint32_t)RECENT_CHANGE_COUNT);

    *first = 0;
    *last = UINT32_MAX;
    if (m->highest <= since)
        return false;
    if (since < p->flag_changes_since)
        return true;
    *first = UINT32_MAX;
    *last = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (p->flag_changes[i].modseq <= since)
            continue;
        *first = MIN(*first, p->flag_changes[i].first);
        *last = MAX(*last, p->flag_changes[i].last);
    }
    return *first <= *last;
}

const struct message *view_next_changed(struct view *v, uint64_t since, uint32_t *uid, uint32_t *seq_out,
                                        bool *more_out)
{
    const struct message *live;
    uint32_t first, last, known;
    bool changed;

    view_sync(v);
    *more_out = false;
    changed = changed_bounds(v->mailbox, since, &first, &last);
    /* Those appended after `since` have changed, too, as far as they are visible. */
    known = live_prefix(v->mailbox, since);
    if (!changed && known >= v->live_count)
        return NULL;
    live = v->mailbox->private->live;
    if (known < v->live_count) {
        first = changed ? MIN(first, live[known].uid) : live[known].uid;
        last = UINT32_MAX;
    }
    *uid = MAX(*uid, first);
    for (uint32_t i = live_rank_near(v, *uid), step = 0; i < v->live_count && live[i].uid <= last;
         i++, step++) {
        if (step == CHANGED_STEP_MAX) {
            *more_out = true;
            return NULL;
        }
        *uid = live[i].uid + 1;
        if (live[i].changed > since) {
            v->hint = i + 1;
            *seq_out = i + ghost_rank(v, live[i].uid) + 1;
            return &live[i];
        }
    }
    return NULL;
}
