/* LIST, LSUB, NAMESPACE (RFC 3501 6.3.8, RFC 2342, 5258, 5819, 6154).
 *
 * All names are copied first: matching them may yield, and the list may change meanwhile. Then those that
 * match become entries, and these are written, which may wait for credit between any two. */
#include "roles/backend/command.h"
#include "roles/backend/pattern.h"
#include <errno.h>

#define LIST_VISIT_UNITS 256 /* Of fiber_work(): a name looked up, or written. */

struct list_entry {
    struct list_entry *next;
    struct slice name;
    uint32_t attributes; /* enum imap_list_attribute */
    uint32_t special_use;
    bool child_info;
};

struct list_work {
    struct slice *names; /* Sorted bytewise, but INBOX first. */
    uint32_t name_count;
    struct pattern *patterns;
    uint32_t pattern_count;
    struct list_entry *first, **end;                 /* The cursor is `first`. */
    struct slice superiors[MAILBOX_LEVEL_COUNT_MAX]; /* The last one made an entry, by level. */
};

static bool is_lsub(const struct command *c)
{
    return c->parsed.command->id == IMAP_LSUB;
}

static bool lists_subscriptions(const struct command *c)
{
    return is_lsub(c) || (c->parsed.list.select_options & IMAP_LIST_SUBSCRIBED) != 0;
}

/* What the client wants to see beside the name; a plain LIST shows what old clients know to read. */
static bool wants(const struct command *c, enum imap_list_option option)
{
    const struct imap_list *list = &c->parsed.list;

    return !list->extended || (list->return_options & option) != 0 || (list->select_options & option) != 0;
}

/* ---- Names --------------------------------------------------------------------------------------------- */

static void gather_names(struct command *c, struct list_work *w)
{
    bool subscriptions = lists_subscriptions(c);
    uint32_t count = subscriptions ? account_subscription_count(c->account) : c->account->mailbox_count;

    w->names = arena_alloc(&c->arena, count * sizeof *w->names);
    w->name_count = count;
    for (uint32_t i = 0; i < count; i++)
        w->names[i] = arena_copy(&c->arena, subscriptions ? account_subscription_at(c->account, i)
                                                          : mailbox_name(account_mailbox_at(c->account, i)));
}

static int name_compare(struct slice a, struct slice b)
{
    int order = memcmp(a.data, b.data, MIN(a.size, b.size));

    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

/* Is a name below `name` among those gathered? Only asked of subscriptions: sorted, INBOX too. */
static bool has_listed_children(struct command *c, const struct list_work *w, struct slice name)
{
    struct slice below = slice_str(arena_printf(&c->arena, "%.*s/", (int)name.size, name.data));
    uint32_t low = 0, high = w->name_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (name_compare(w->names[middle], below) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < w->name_count && w->names[low].size > below.size &&
           memcmp(w->names[low].data, below.data, below.size) == 0;
}

/* ---- Matching ------------------------------------------------------------------------------------------ */

static void patterns_init(struct command *c, struct list_work *w)
{
    const struct imap_list *list = &c->parsed.list;

    w->patterns = arena_alloc(&c->arena, list->pattern_count * sizeof *w->patterns);
    for (uint32_t i = 0; i < list->pattern_count; i++) {
        struct slice pattern = list->patterns[i];
        size_t size = list->reference.size + pattern.size;
        char *text = arena_alloc(&c->arena, size);

        if (list->reference.size > 0)
            memcpy(text, list->reference.data, list->reference.size);
        if (pattern.size > 0)
            memcpy(text + list->reference.size, pattern.data, pattern.size);
        if (pattern_init(&w->patterns[w->pattern_count], &c->arena, slice_of(text, size)))
            w->pattern_count++;
    }
}

static bool name_matches(struct list_work *w, struct slice name)
{
    for (uint32_t i = 0; i < w->pattern_count; i++)
        if (pattern_match(&w->patterns[i], name))
            return true;
    return false;
}

/* The name and each level above it are matched. */
static uint32_t match_work(const struct list_work *w, struct slice name)
{
    uint32_t words = 0, levels = 1;

    for (uint32_t i = 0; i < w->pattern_count; i++)
        words += w->patterns[i].word_count;
    for (size_t i = 0; i < name.size; i++)
        levels += name.data[i] == MAILBOX_SEPARATOR;
    return levels * (LIST_VISIT_UNITS + words * (uint32_t)name.size * 2);
}

/* ---- Entries ------------------------------------------------------------------------------------------- */

static struct list_entry *entry_add(struct command *c, struct list_work *w, struct slice name)
{
    const struct imap_list *list = &c->parsed.list;
    struct mailbox *m = account_mailbox(c->account, name);
    struct list_entry *e = arena_zalloc(&c->arena, sizeof *e);

    e->name = name;
    *w->end = e;
    w->end = &e->next;
    if (is_lsub(c))
        return e;
    if (m == NULL)
        e->attributes |= list->extended ? IMAP_ATTR_NONEXISTENT : IMAP_ATTR_NOSELECT;
    if (wants(c, IMAP_LIST_CHILDREN))
        e->attributes |=
            account_has_children(c->account, name) ? IMAP_ATTR_HASCHILDREN : IMAP_ATTR_HASNOCHILDREN;
    if (list->extended && wants(c, IMAP_LIST_SUBSCRIBED) && account_subscribed(c->account, name))
        e->attributes |= IMAP_ATTR_SUBSCRIBED;
    if (m != NULL && wants(c, IMAP_LIST_SPECIAL_USE))
        e->special_use = m->special_use;
    return e;
}

/* A level that is only there because something is below it: for LIST as a name that can't be selected, for
 * LSUB when the name below does not match, for RECURSIVEMATCH as one with a subscription below. */
static void add_superior(struct command *c, struct list_work *w, struct slice superior, bool name_listed)
{
    bool recursive = (c->parsed.list.select_options & IMAP_LIST_RECURSIVEMATCH) != 0;
    bool subscribed = lists_subscriptions(c) && account_subscribed(c->account, superior);
    struct list_entry *e;

    if (subscribed || !name_matches(w, superior))
        return;
    if (is_lsub(c)) {
        if (name_listed)
            return;
        e = entry_add(c, w, superior);
        e->attributes |= IMAP_ATTR_NOSELECT;
    } else if (lists_subscriptions(c)) {
        if (!recursive)
            return;
        e = entry_add(c, w, superior);
        e->child_info = true;
    } else if (account_mailbox(c->account, superior) == NULL &&
               (c->parsed.list.select_options & IMAP_LIST_SPECIAL_USE) == 0) {
        (void)entry_add(c, w, superior);
    } else {
        return;
    }
}

static void add_superiors(struct command *c, struct list_work *w, struct slice name, bool name_listed)
{
    unsigned level = 0;

    for (size_t i = 0; i < name.size && level < MAILBOX_LEVEL_COUNT_MAX; i++) {
        struct slice superior = slice_first(name, i);

        if (name.data[i] != MAILBOX_SEPARATOR)
            continue;
        if (!slice_eq(w->superiors[level], superior)) {
            w->superiors[level] = superior;
            add_superior(c, w, superior, name_listed);
        }
        level++;
    }
}

static void add_name(struct command *c, struct list_work *w, struct slice name)
{
    const struct imap_list *list = &c->parsed.list;
    bool listed = name_matches(w, name);
    struct list_entry *e;

    add_superiors(c, w, name, listed);
    if (!listed)
        return;
    if ((list->select_options & IMAP_LIST_SPECIAL_USE) != 0) {
        struct mailbox *m = account_mailbox(c->account, name);

        if (m == NULL || m->special_use == 0)
            return;
    }
    e = entry_add(c, w, name);
    if ((list->select_options & IMAP_LIST_RECURSIVEMATCH) != 0 && lists_subscriptions(c))
        e->child_info = has_listed_children(c, w, name);
}

static int list_prepare(struct command *c)
{
    struct list_work *w = arena_zalloc(&c->arena, sizeof *w);
    int rc = 0;

    c->work = w;
    w->end = &w->first;
    if ((c->parsed.list.status_items & IMAP_STATUS_HIGHESTMODSEQ) != 0)
        command_condstore_enable(c);
    gather_names(c, w);
    patterns_init(c, w);
    for (uint32_t i = 0; i < w->name_count && rc == 0; i++) {
        add_name(c, w, w->names[i]);
        rc = fiber_work(match_work(w, w->names[i]));
    }
    return rc;
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

static void entry_write(struct command *c, const struct list_entry *e)
{
    struct imap_list_line line = {
        .word = is_lsub(c) ? "LSUB" : "LIST",
        .attributes = e->attributes,
        .special_use = e->special_use,
        .separator = MAILBOX_SEPARATOR,
        .mailbox = e->name,
        .child_info = e->child_info,
    };
    struct mailbox *m;

    imap_write_list(command_writer(c), &line, command_utf8(c));
    if ((c->parsed.list.return_options & IMAP_LIST_STATUS) == 0)
        return;
    m = account_mailbox(c->account, e->name);
    if (m != NULL)
        status_write(c, m, c->parsed.list.status_items);
}

static enum command_step list_names(struct command *c)
{
    struct list_work *w;
    int rc;

    if (c->work == NULL) {
        rc = list_prepare(c);
        if (rc < 0)
            return command_error(c, rc);
    }
    for (w = c->work; w->first != NULL; w->first = w->first->next) {
        if (command_starved(c))
            return STEP_PARK;
        entry_write(c, w->first);
        rc = fiber_work(LIST_VISIT_UNITS);
        if (rc < 0)
            return command_error(c, rc);
    }
    return command_ok(c, NULL, is_lsub(c) ? "Lsub completed." : "List completed.");
}

enum command_step list_run(struct command *c)
{
    const struct imap_list *list = &c->parsed.list;
    struct imap_list_line root = {
        .word = "LIST", .attributes = IMAP_ATTR_NOSELECT, .separator = MAILBOX_SEPARATOR};

    if (list->extended || list->pattern_count != 1 || list->patterns[0].size != 0)
        return list_names(c);
    imap_write_list(command_writer(c), &root, command_utf8(c)); /* The question for the separator. */
    return command_ok(c, NULL, "List completed.");
}

enum command_step lsub_run(struct command *c)
{
    return list_names(c);
}

enum command_step namespace_run(struct command *c)
{
    writer_text(command_writer(c), "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n");
    return command_ok(c, NULL, "Namespace completed.");
}
