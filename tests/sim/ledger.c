#include "tests/sim/ledger.h"
#include <stdlib.h>

const char *const ledger_flag_names[FLAG_COUNT] = {"\\Deleted", "\\Flagged", "\\Answered", "\\Seen",
                                                   "$c0",       "$c1",       "$c2",        "$c3"};

static const char *const mailbox_names[LEDGER_MAILBOXES] = {"INBOX", "Work", "Other"};

struct ledger *ledger_new(struct sim_world *w)
{
    struct ledger *l = calloc(1, sizeof *l);

    ASSERT(l != NULL);
    l->world = w;
    l->next_id = 1;
    for (unsigned a = 0; a < LEDGER_ACCOUNTS; a++) {
        for (unsigned k = 0; k < LEDGER_CLIENTS; k++)
            l->folders[a][k].may = MAY_BE_UNSET;
        for (unsigned k = 0; k < LEDGER_MAILBOXES; k++) {
            struct ledger_mailbox *m = &l->mailboxes[a][k];

            m->ledger = l;
            m->name = mailbox_names[k];
            m->account = a;
            m->created = k == 0;
        }
    }
    return l;
}

void ledger_free(struct ledger *l)
{
    for (unsigned a = 0; a < LEDGER_ACCOUNTS; a++)
        for (unsigned k = 0; k < LEDGER_MAILBOXES; k++)
            free(l->mailboxes[a][k].instances);
    free(l);
}

uint32_t ledger_id(struct ledger *l)
{
    return l->next_id < LEDGER_IDS ? l->next_id++ : 0;
}

unsigned ledger_disk_faults(const struct ledger *l, unsigned account)
{
    return l->homes[account] != NULL ? sim_node_disk_faults(l->homes[account]) : 0;
}

#define VIOLATION(m, format, ...)                                                                            \
    sim_violation((m)->ledger->world, "u%u %s: " format, (m)->account, (m)->name, __VA_ARGS__)

/* ---- Messages that come -------------------------------------------------------------------------------- */

void ledger_place_begin(struct ledger_mailbox *m, uint32_t id, unsigned flags, bool copied)
{
    struct placing *p = &m->placings[id];

    if (p->allowed++ == 0)
        p->begun_ns = sim_now_ns(m->ledger->world);
    p->copied |= copied;
    p->flags = (uint8_t)flags;
}

void ledger_place_refused(struct ledger_mailbox *m, uint32_t id)
{
    struct placing *p = &m->placings[id];

    p->allowed--;
    if (p->known > p->allowed)
        VIOLATION(m, "message %u was refused and is there", id);
}

static size_t instance_place(const struct ledger_mailbox *m, uint32_t uid)
{
    size_t low = 0, high = m->count;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (m->instances[middle].uid < uid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct instance *ledger_find(struct ledger_mailbox *m, uint32_t uid)
{
    size_t place = instance_place(m, uid);

    return place < m->count && m->instances[place].uid == uid ? &m->instances[place] : NULL;
}

/* Does somebody expunge all that is \Deleted, or may still? */
static bool expunging_all(const struct ledger_mailbox *m)
{
    return m->expunging > 0 || sim_now_ns(m->ledger->world) < m->expunged_ns;
}

static struct instance *instance_add(struct ledger_mailbox *m, uint32_t uid, uint32_t id)
{
    const struct placing *p = &m->placings[id];
    size_t place = instance_place(m, uid);
    struct instance *i;

    if (m->count == m->capacity) {
        m->capacity = m->capacity * 2 + 64;
        m->instances = realloc(m->instances, m->capacity * sizeof *m->instances);
        ASSERT(m->instances != NULL);
    }
    i = &m->instances[place];
    memmove(i + 1, i, (m->count - place) * sizeof *i);
    m->count++;
    *i = (struct instance){
        .uid = uid, .id = id, .known_ns = sim_now_ns(m->ledger->world), .prefix_size = SIZE_MAX};
    for (unsigned f = 0; f < FLAG_COUNT; f++)
        i->may[f] = p->copied ? MAY_BE_ANY : p->flags >> f & 1 ? MAY_BE_SET : MAY_BE_UNSET;
    i->may[FLAG_SEEN] = MAY_BE_ANY; /* Anybody may have read it. */
    /* Copied with \Deleted, it may have been expunged before anybody knew of it. */
    i->dooms = i->expunges =
        (i->may[FLAG_DELETED] & MAY_BE_SET) && (expunging_all(m) || m->expunge_all_ns >= p->begun_ns);
    return i;
}

struct instance *ledger_show(struct ledger_mailbox *m, uint32_t uid, uint32_t id)
{
    struct instance *i = ledger_find(m, uid);
    struct placing *p;

    if (i != NULL) {
        if (i->id == id)
            return i;
        VIOLATION(m, "UID %u was message %u and is now message %u", uid, i->id, id);
        return NULL;
    }
    if (id == 0 || id >= LEDGER_IDS || m->placings[id].allowed == 0) {
        VIOLATION(m, "UID %u is message %u, which %s", uid, id,
                  id != 0 && id < LEDGER_IDS && m->placings[id].begun_ns != 0 ? "was refused"
                                                                              : "nobody put there");
        return NULL;
    }
    p = &m->placings[id];
    if (p->known == p->allowed) {
        VIOLATION(m, "message %u is there %u times: UID %u is one too many", id, p->known + 1u, uid);
        return NULL;
    }
    p->known++;
    return instance_add(m, uid, id);
}

struct instance *ledger_place_acknowledged(struct ledger_mailbox *m, uint32_t id, uint32_t uid)
{
    struct placing *p = &m->placings[id];

    p->owed++;
    p->owed_ns = sim_now_ns(m->ledger->world);
    return uid != 0 ? ledger_show(m, uid, id) : NULL;
}

/* ---- Flags --------------------------------------------------------------------------------------------- */

/* Who may change it. \Seen is everybody's, and only ever set. */
bool ledger_owns(unsigned client, uint32_t uid, unsigned flag)
{
    if (flag >= FLAG_OWN)
        return client == flag - FLAG_OWN;
    return flag != FLAG_SEEN && uid % LEDGER_CLIENTS == client;
}

void ledger_flag_begin(struct ledger_mailbox *m, struct instance *i, unsigned flag, bool set)
{
    i->may[flag] |= set ? MAY_BE_SET : MAY_BE_UNSET;
    /* An EXPUNGE of all that is \\Deleted, begun before and not over, may find it. */
    if (flag == FLAG_DELETED && set && expunging_all(m))
        ledger_doom_begin(i, true);
}

void ledger_flag_acknowledged(struct ledger *l, struct instance *i, unsigned flag, bool set)
{
    i->may[flag] = set ? MAY_BE_SET : MAY_BE_UNSET;
    i->settled_ns[flag] = sim_now_ns(l->world);
}

void ledger_flags_shown(struct ledger_mailbox *m, struct instance *i, unsigned flags, uint64_t asked_ns)
{
    for (unsigned f = 0; f < FLAG_COUNT; f++) {
        bool set = flags >> f & 1;

        if (i->settled_ns[f] >= asked_ns || (i->may[f] & (set ? MAY_BE_SET : MAY_BE_UNSET)))
            continue;
        VIOLATION(m, "UID %u (message %u) shows %s %s, which it cannot be", i->uid, i->id,
                  ledger_flag_names[f], set ? "set" : "unset");
    }
}

void ledger_modseq_shown(struct ledger_mailbox *m, struct instance *i, uint64_t modseq, uint64_t asked_ns)
{
    uint64_t now_ns = sim_now_ns(m->ledger->world);

    if (modseq < i->modseq && i->modseq_ns < asked_ns)
        VIOLATION(m, "MODSEQ of UID %u was %llu and is %llu", i->uid, (unsigned long long)i->modseq,
                  (unsigned long long)modseq);
    if (modseq > i->modseq) {
        i->modseq = modseq;
        i->modseq_ns = now_ns;
    }
    if (modseq > m->highest) {
        m->highest = modseq;
        m->highest_ns = now_ns;
    }
}

/* ---- Messages that go ---------------------------------------------------------------------------------- */

void ledger_doom_begin(struct instance *i, bool expunge)
{
    i->dooms++;
    i->expunges += expunge;
}

void ledger_doom_refused(struct instance *i, bool expunge)
{
    i->dooms--;
    i->expunges -= expunge;
}

void ledger_doom_acknowledged(struct ledger *l, struct instance *i)
{
    if (i->gone)
        return;
    i->gone = true;
    i->gone_ns = sim_now_ns(l->world);
}

void ledger_expunge_shown(struct ledger_mailbox *m, uint32_t uid)
{
    struct instance *i = ledger_find(m, uid);

    if (i == NULL)
        return;
    if (i->dooms == 0)
        VIOLATION(m, "UID %u (message %u) was expunged by nobody", uid, i->id);
    ledger_doom_acknowledged(m->ledger, i);
}

/* ---- Mailboxes ----------------------------------------------------------------------------------------- */

void ledger_numbers_shown(struct ledger_mailbox *m, uint32_t uidvalidity, uint32_t uidnext, uint64_t highest,
                          uint64_t asked_ns)
{
    uint64_t now_ns = sim_now_ns(m->ledger->world);

    if (uidvalidity != 0 && m->uidvalidity != 0 && uidvalidity != m->uidvalidity)
        VIOLATION(m, "UIDVALIDITY was %u and is %u", m->uidvalidity, uidvalidity);
    if (uidnext != 0 && uidnext < m->uidnext && m->uidnext_ns < asked_ns)
        VIOLATION(m, "UIDNEXT was %u and is %u", m->uidnext, uidnext);
    if (highest != 0 && highest < m->highest && m->highest_ns < asked_ns)
        VIOLATION(m, "HIGHESTMODSEQ was %llu and is %llu", (unsigned long long)m->highest,
                  (unsigned long long)highest);
    if (uidvalidity != 0)
        m->uidvalidity = uidvalidity;
    if (uidnext > m->uidnext) {
        m->uidnext = uidnext;
        m->uidnext_ns = now_ns;
    }
    if (highest > m->highest) {
        m->highest = highest;
        m->highest_ns = now_ns;
    }
}

static void check_owed(struct ledger_mailbox *m, uint64_t asked_ns)
{
    for (uint32_t id = 1; id < m->ledger->next_id; id++) {
        const struct placing *p = &m->placings[id];

        if (p->owed > p->known && p->owed_ns < asked_ns)
            VIOLATION(m, "message %u was acknowledged and is not there", id);
    }
}

void ledger_check(struct ledger_mailbox *m, const uint32_t *uids, size_t count, uint64_t asked_ns)
{
    size_t at = 0;

    for (size_t k = 0; k < m->count; k++) {
        struct instance *i = &m->instances[k];
        bool there;

        while (at < count && uids[at] < i->uid)
            at++;
        there = at < count && uids[at] == i->uid;
        if (there && i->gone && i->gone_ns < asked_ns)
            VIOLATION(m, "UID %u (message %u) was gone and is back", i->uid, i->id);
        if (there || i->gone || i->known_ns >= asked_ns)
            continue;
        if (i->dooms == 0)
            VIOLATION(m, "UID %u (message %u) was there and is lost", i->uid, i->id);
        ledger_doom_acknowledged(m->ledger, i);
    }
    check_owed(m, asked_ns);
}

struct whereabouts {
    unsigned instances, gone, expunges;
    bool deleted; /* One of them may have been \Deleted. */
    bool
        unseen; /* It may have come to a mailbox, and gone with all that was \Deleted there, before anybody saw it. */
};

static bool may_be_unseen(const struct ledger_mailbox *m, uint32_t id)
{
    const struct placing *p = &m->placings[id];

    return p->copied && p->allowed > p->known && m->expunge_all_ns >= p->begun_ns;
}

void ledger_check_account(struct ledger *l, unsigned account)
{
    struct whereabouts *all = calloc(LEDGER_IDS, sizeof *all);

    ASSERT(all != NULL);
    for (unsigned k = 0; k < LEDGER_MAILBOXES; k++) {
        const struct ledger_mailbox *m = &l->mailboxes[account][k];

        for (size_t n = 0; n < m->count; n++) {
            struct whereabouts *w = &all[m->instances[n].id];

            w->instances++;
            w->gone += m->instances[n].gone;
            w->expunges += m->instances[n].expunges;
            w->deleted |= (m->instances[n].may[FLAG_DELETED] & MAY_BE_SET) != 0;
        }
        for (uint32_t id = 1; id < l->next_id; id++)
            all[id].unseen |= may_be_unseen(m, id);
    }
    for (uint32_t id = 1; id < l->next_id; id++)
        if (all[id].instances > 0 && all[id].gone == all[id].instances && all[id].expunges == 0 &&
            !(all[id].unseen && all[id].deleted))
            sim_violation(l->world, "u%u: message %u was moved, and is nowhere", account, id);
    free(all);
}
