#include "tests/sim/imap.h"
#include "tests/sim/message.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define VIOLATION(c, format, ...)                                                                            \
    sim_violation((c)->world, "u%u %s: " format, (c)->account,                                               \
                  (c)->selected != NULL ? (c)->selected->name : "-", __VA_ARGS__)

void imap_init(struct imap *c, struct ledger *ledger, unsigned account, uint32_t patience_ms)
{
    memset(c, 0, sizeof *c);
    c->world = ledger->world;
    c->ledger = ledger;
    c->account = account;
    talk_init(&c->talk, patience_ms);
}

void imap_close(struct imap *c)
{
    struct heap *heap = shard_self()->heap;

    talk_abort(&c->talk);
    heap_free(heap, c->view);
    heap_free(heap, c->response);
    heap_free(heap, c->found);
    c->view = NULL;
    c->response = NULL;
    c->found = NULL;
    c->count = c->capacity = c->response_capacity = c->found_count = c->found_capacity = 0;
    c->selected = NULL;
    c->no_expunge = c->selecting = c->bye = false;
}

/* ---- Tokens of a response ----------------------------------------------------------------------------- */

static bool take(struct slice *s, const char *text)
{
    struct slice t = slice_str(text);

    if (!slice_starts_nocase(*s, t))
        return false;
    *s = slice_from(*s, t.size);
    return true;
}

static bool take_number(struct slice *s, uint64_t *value_out)
{
    size_t n = 0;

    while (n < s->size && s->data[n] >= '0' && s->data[n] <= '9')
        n++;
    if (n == 0 || !slice_to_u64(slice_first(*s, n), UINT64_MAX, value_out))
        return false;
    *s = slice_from(*s, n);
    return true;
}

/* A quoted string without escapes, a literal, or NIL. */
static bool take_string(struct slice *s, struct slice *text_out)
{
    uint64_t size;

    if (take(s, "NIL")) {
        *text_out = slice_of(NULL, 0);
        return true;
    }
    if (take(s, "\"")) {
        size_t end = slice_find(*s, '"');

        if (end == s->size)
            return false;
        *text_out = slice_first(*s, end);
        *s = slice_from(*s, end + 1);
        return true;
    }
    if (!take(s, "{") || !take_number(s, &size) || !take(s, "}\r\n") || size > s->size)
        return false;
    *text_out = slice_first(*s, size);
    *s = slice_from(*s, size);
    return true;
}

static bool take_flags(struct slice *s, unsigned *flags_out)
{
    unsigned flags = 0;

    if (!take(s, "("))
        return false;
    while (!take(s, ")")) {
        size_t end = 0;

        while (end < s->size && s->data[end] != ' ' && s->data[end] != ')')
            end++;
        if (end == s->size)
            return false;
        for (unsigned f = 0; f < FLAG_COUNT; f++)
            if (slice_eq_nocase(slice_first(*s, end), slice_str(ledger_flag_names[f])))
                flags |= 1u << f;
        *s = slice_from(*s, end);
        (void)take(s, " ");
    }
    *flags_out = flags;
    return true;
}

static bool take_item(struct slice *s, struct imap_fetched *f)
{
    uint64_t number;
    size_t end;

    if (take(s, "UID ")) {
        if (!take_number(s, &number))
            return false;
        f->uid = (uint32_t)number;
        return true;
    }
    if (take(s, "FLAGS ")) {
        f->has_flags = true;
        return take_flags(s, &f->flags);
    }
    if (take(s, "MODSEQ ("))
        return take_number(s, &f->modseq) && take(s, ")");
    if (take(s, "RFC822.SIZE "))
        return take_number(s, &f->size);
    if (!take(s, "BODY["))
        return false;
    end = slice_find(*s, ']');
    if (end == s->size)
        return false;
    *s = slice_from(*s, end + 1);
    if (take(s, "<") && (!take_number(s, &number) || !take(s, ">")))
        return false;
    f->has_body = true;
    return take(s, " ") && take_string(s, &f->body);
}

bool imap_set_each(struct slice set, void (*each)(void *arg, uint32_t number), void *arg)
{
    do {
        uint64_t first, last;

        if (!take_number(&set, &first))
            return false;
        last = first;
        if (take(&set, ":") && !take_number(&set, &last))
            return false;
        if (last < first || last - first > 1000000)
            return false;
        for (; first <= last; first++)
            each(arg, (uint32_t)first);
    } while (take(&set, ","));
    return set.size == 0;
}

/* ---- Reading ------------------------------------------------------------------------------------------ */

static int response_add(struct imap *c, struct slice bytes, const char *end)
{
    size_t need = c->response_size + bytes.size + strlen(end);

    if (need > c->response_capacity) {
        char *bigger = heap_try_realloc(shard_self()->heap, c->response, need * 2);

        if (bigger == NULL)
            return -ENOMEM;
        c->response = bigger;
        c->response_capacity = need * 2;
    }
    memcpy(c->response + c->response_size, bytes.data, bytes.size);
    memcpy(c->response + c->response_size + bytes.size, end, strlen(end));
    c->response_size = need;
    return 0;
}

/* Size of the literal that the line announces; false: none. */
static bool literal_at_end(struct slice line, uint64_t *size_out)
{
    size_t at = line.size;

    if (at == 0 || line.data[at - 1] != '}')
        return false;
    for (at--; at > 0 && line.data[at - 1] >= '0' && line.data[at - 1] <= '9';)
        at--;
    return at > 0 && line.data[at - 1] == '{' &&
           slice_to_u64(slice_of(line.data + at, line.size - 1 - at), TALK_SIZE_MAX / 2, size_out);
}

/* One response, literals and all, without the last CRLF. */
static int response_read(struct imap *c, struct slice *response_out)
{
    struct slice piece;
    uint64_t size;
    int rc;

    c->response_size = 0;
    while ((rc = talk_line(&c->talk, &piece)) == 0) {
        bool literal = literal_at_end(piece, &size);

        rc = response_add(c, piece, literal ? "\r\n" : "");
        if (rc == 0 && !literal) {
            *response_out = slice_of(c->response, c->response_size);
            return 0;
        }
        if (rc == 0)
            rc = talk_bytes(&c->talk, size, &piece);
        if (rc == 0)
            rc = response_add(c, piece, "");
        if (rc < 0)
            break;
    }
    return rc;
}

/* ---- The view ----------------------------------------------------------------------------------------- */

struct view_message *imap_view_find(struct imap *c, uint32_t uid)
{
    for (size_t k = 0; k < c->count; k++)
        if (c->view[k].uid == uid)
            return &c->view[k];
    return NULL;
}

static int view_exists(struct imap *c, uint64_t count)
{
    if (count < c->count && !c->selecting) {
        VIOLATION(c, "%llu EXISTS after %zu, without EXPUNGE", (unsigned long long)count, c->count);
        return -EPROTO;
    }
    if (count > LEDGER_IDS)
        return -EPROTO;
    if (count > c->capacity) {
        struct view_message *bigger =
            heap_try_realloc(shard_self()->heap, c->view, (count + 64) * sizeof *c->view);

        if (bigger == NULL)
            return -ENOMEM;
        c->view = bigger;
        c->capacity = count + 64;
    }
    if (count > c->count)
        memset(c->view + c->count, 0, (count - c->count) * sizeof *c->view);
    c->count = count;
    return 0;
}

static int view_expunge(struct imap *c, uint64_t sequence)
{
    uint32_t uid;

    if (c->no_expunge) {
        VIOLATION(c, "%llu EXPUNGE during a command with sequence numbers", (unsigned long long)sequence);
        return -EPROTO;
    }
    if (sequence == 0 || sequence > c->count) {
        VIOLATION(c, "%llu EXPUNGE of %zu", (unsigned long long)sequence, c->count);
        return -EPROTO;
    }
    uid = c->view[sequence - 1].uid;
    if (uid != 0 && c->selected != NULL)
        ledger_expunge_shown(c->selected, uid);
    c->count--;
    memmove(&c->view[sequence - 1], &c->view[sequence], (c->count - sequence + 1) * sizeof *c->view);
    return 0;
}

/* UIDs rise with sequence numbers. */
static bool view_uid_fits(const struct imap *c, size_t place, uint32_t uid)
{
    for (size_t k = place; k > 0; k--)
        if (c->view[k - 1].uid != 0) {
            if (c->view[k - 1].uid >= uid)
                return false;
            break;
        }
    for (size_t k = place + 1; k < c->count; k++)
        if (c->view[k].uid != 0) {
            if (c->view[k].uid <= uid)
                return false;
            break;
        }
    return true;
}

static int view_fetched(struct imap *c, struct imap_fetched *f)
{
    struct view_message *v;
    struct instance *i;

    if (f->sequence == 0 || f->sequence > c->count) {
        VIOLATION(c, "%u FETCH of %zu", f->sequence, c->count);
        return -EPROTO;
    }
    v = &c->view[f->sequence - 1];
    if (f->uid != 0 && v->uid == 0) {
        if (!view_uid_fits(c, f->sequence - 1, f->uid)) {
            VIOLATION(c, "message %u has UID %u, out of order", f->sequence, f->uid);
            return -EPROTO;
        }
        v->uid = f->uid;
    }
    if (f->uid != 0 && v->uid != f->uid) {
        VIOLATION(c, "message %u is UID %u, and the response says %u", f->sequence, v->uid, f->uid);
        return -EPROTO;
    }
    f->uid = v->uid;
    if (f->has_body && message_id_parse(f->body, &f->id)) {
        v->id = f->id;
        if (v->uid != 0 && ledger_show(c->selected, v->uid, v->id) == NULL)
            return -EPROTO;
    }
    if (f->has_flags) {
        v->flags = f->flags;
        v->flags_known = true;
    }
    i = v->uid != 0 ? ledger_find(c->selected, v->uid) : NULL;
    if (i != NULL && f->has_flags && v->asked)
        ledger_flags_shown(c->selected, i, f->flags, c->asked_ns);
    if (i != NULL && f->modseq != 0)
        ledger_modseq_shown(c->selected, i, f->modseq, c->asked_ns);
    v->answered = true;
    return 0;
}

/* ---- Responses ---------------------------------------------------------------------------------------- */

static int on_fetch(struct imap *c, uint64_t sequence, struct slice s)
{
    struct imap_fetched f = {.sequence = (uint32_t)sequence};
    struct slice all = s;
    int rc;

    do {
        if (!take_item(&s, &f)) {
            VIOLATION(c, "FETCH that cannot be read: %.*s", (int)MIN(all.size, 200), all.data);
            return -EPROTO;
        }
    } while (take(&s, " "));
    if (!take(&s, ")") || s.size != 0) {
        VIOLATION(c, "FETCH that does not end: %.*s", (int)MIN(all.size, 200), all.data);
        return -EPROTO;
    }
    if (c->selected == NULL)
        return 0;
    rc = view_fetched(c, &f);
    if (rc == 0 && c->fetched != NULL)
        c->fetched(c, &f);
    return rc;
}

static void on_code(struct imap *c, struct slice s)
{
    struct slice code = slice_first(s, slice_find(s, ']'));
    uint64_t number;

    if (slice_starts_nocase(code, SLICE("APPENDUID ")) || slice_starts_nocase(code, SLICE("COPYUID ")))
        snprintf(c->code, sizeof c->code, "%.*s", (int)code.size, code.data);
    else if (take(&code, "UIDVALIDITY ") && take_number(&code, &number))
        c->uidvalidity = (uint32_t)number;
    else if (take(&code, "UIDNEXT ") && take_number(&code, &number))
        c->uidnext = (uint32_t)number;
    else if (take(&code, "HIGHESTMODSEQ ") && take_number(&code, &number))
        c->highest = number;
    else if (c->selecting && take(&code, "CLOSED"))
        c->count = 0;
}

static int on_search(struct imap *c, struct slice s)
{
    uint64_t number;

    c->found_count = 0;
    while (take(&s, " ") && take_number(&s, &number)) {
        if (c->found_count == c->found_capacity) {
            size_t capacity = c->found_capacity * 2 + 64;
            uint32_t *bigger = heap_try_realloc(shard_self()->heap, c->found, capacity * sizeof *c->found);

            if (bigger == NULL)
                return -ENOMEM;
            c->found = bigger;
            c->found_capacity = capacity;
        }
        c->found[c->found_count++] = (uint32_t)number;
    }
    return 0;
}

/* * STATUS name (MESSAGES n UIDNEXT n UIDVALIDITY n HIGHESTMODSEQ n) */
static int on_status(struct imap *c, struct slice s)
{
    uint64_t number;

    s = slice_from(s, slice_find(s, '('));
    if (!take(&s, "("))
        return -EPROTO;
    do {
        if (take(&s, "MESSAGES ") && take_number(&s, &number))
            c->status_messages = (uint32_t)number;
        else if (take(&s, "UIDNEXT ") && take_number(&s, &number))
            c->uidnext = (uint32_t)number;
        else if (take(&s, "UIDVALIDITY ") && take_number(&s, &number))
            c->uidvalidity = (uint32_t)number;
        else if (take(&s, "HIGHESTMODSEQ ") && take_number(&s, &number))
            c->highest = number;
        else
            return -EPROTO;
    } while (take(&s, " "));
    return 0;
}

static int on_untagged(struct imap *c, struct slice s)
{
    uint64_t number;

    if (take(&s, "OK [") || take(&s, "NO [") || take(&s, "PREAUTH [")) {
        on_code(c, s);
        return 0;
    }
    if (take(&s, "BYE ")) {
        c->bye = true;
        snprintf(c->bye_text, sizeof c->bye_text, "%.*s", (int)s.size, s.data);
        return 0;
    }
    if (take(&s, "SEARCH"))
        return on_search(c, s);
    if (take(&s, "STATUS "))
        return on_status(c, s);
    if (!take_number(&s, &number))
        return 0; /* CAPABILITY, FLAGS, LIST, OK without a code. */
    if (take(&s, " EXISTS"))
        return view_exists(c, number);
    if (take(&s, " EXPUNGE"))
        return view_expunge(c, number);
    if (take(&s, " FETCH ("))
        return on_fetch(c, number, s);
    return 0;
}

/* 0: untagged; 1: the tagged response in *result; 2: a continuation. */
static int response_next(struct imap *c, int *result)
{
    struct slice s;
    char tag[16];
    int rc = response_read(c, &s);

    if (rc < 0)
        return rc;
    if (take(&s, "* "))
        return on_untagged(c, s);
    if (take(&s, "+ ") || take(&s, "+"))
        return 2;
    snprintf(tag, sizeof tag, "a%u ", c->tag);
    if (!take(&s, tag)) {
        VIOLATION(c, "not a response: %.*s", (int)MIN(s.size, 200), s.data);
        return -EPROTO;
    }
    if (take(&s, "OK ")) {
        if (take(&s, "["))
            on_code(c, s);
        *result = IMAP_OK;
        return 1;
    }
    *result = IMAP_NO;
    if (!take(&s, "NO ")) {
        VIOLATION(c, "a command was answered %.*s", (int)MIN(s.size, 200), s.data);
        return -EPROTO;
    }
    if (take(&s, "["))
        snprintf(c->code, sizeof c->code, "%.*s", (int)slice_find(s, ']'), s.data);
    return 1;
}

/* ---- Commands ----------------------------------------------------------------------------------------- */

/* Of a command, or of a part of it, that ended so. */
static int judged(struct imap *c, int rc)
{
    if (c->judge != NULL)
        c->judge(c, rc);
    return rc;
}

static int send_line(struct imap *c, const char *format, va_list args)
{
    char line[IMAP_COMMAND_MAX];
    int size = snprintf(line, sizeof line, "a%u ", ++c->tag);

    size += vsnprintf(line + size, sizeof line - (size_t)size - 2, format, args);
    ASSERT(size < (int)sizeof line - 2);
    memcpy(line + size, "\r\n", 2);
    c->code[0] = '\0';
    c->asked_ns = sim_now_ns(c->world);
    c->talk.heard_ns = 0;
    return talk_send(&c->talk, slice_of(line, (size_t)size + 2));
}

int imap_send(struct imap *c, const char *format, ...)
{
    va_list args;
    int rc;

    va_start(args, format);
    rc = send_line(c, format, args);
    va_end(args);
    return rc < 0 ? judged(c, rc) : rc;
}

int imap_finish(struct imap *c)
{
    int rc, result = IMAP_NO;

    do
        rc = response_next(c, &result);
    while (rc == 0 || rc == 2);
    c->no_expunge = c->selecting = false;
    for (size_t k = 0; k < c->count; k++)
        c->view[k].asked = false;
    return judged(c, rc < 0 ? rc : result);
}

int imap_command(struct imap *c, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)send_line(c, format, args); /* If that fails, there may be word of why. */
    va_end(args);
    return imap_finish(c);
}

int imap_continuation(struct imap *c)
{
    int rc, result = IMAP_NO;

    do
        rc = response_next(c, &result);
    while (rc == 0);
    if (rc == 1 && result == IMAP_OK) {
        VIOLATION(c, "%s", "OK before the literal");
        return -EPROTO;
    }
    c->talk.heard_ns = 0; /* Of the answer nothing, so far. */
    if (rc == 2)
        return 0;
    return judged(c, rc < 0 ? rc : IMAP_NO);
}

int imap_untagged(struct imap *c, uint32_t timeout_ms)
{
    int result, rc = talk_wait(&c->talk, timeout_ms);

    if (rc == 0)
        rc = response_next(c, &result);
    if (rc > 0) {
        VIOLATION(c, "%s", "a tagged response or continuation that nobody asked for");
        return -EPROTO;
    }
    if (rc == 0 && c->bye)
        rc = -ECONNRESET;
    return rc < 0 && rc != -ETIMEDOUT ? judged(c, rc) : rc;
}

int imap_connect(struct imap *c, const struct net_addr *to)
{
    memset(c->told, 0, sizeof c->told);
    return talk_connect(&c->talk, to);
}

int imap_login(struct imap *c)
{
    struct slice greeting;
    int rc = response_read(c, &greeting);

    if (rc < 0)
        return rc;
    if (!take(&greeting, "* OK"))
        return IMAP_NO;
    return imap_command(c, "LOGIN u%u secret", c->account);
}

/* ---- What it was told of a mailbox --------------------------------------------------------------------- */

static size_t number_of(const struct imap *c, const struct ledger_mailbox *m)
{
    return (size_t)(m - c->ledger->mailboxes[c->account]);
}

void imap_numbers_shown(struct imap *c, struct ledger_mailbox *m, uint64_t asked_ns, uint64_t late_ns)
{
    size_t k = number_of(c, m);

    if (c->uidnext != 0 && c->uidnext < c->told[k].uidnext)
        VIOLATION(c, "UIDNEXT was %u for this connection and is %u", c->told[k].uidnext, c->uidnext);
    if (c->highest != 0 && c->highest < c->told[k].highest)
        VIOLATION(c, "HIGHESTMODSEQ was %llu for this connection and is %llu",
                  (unsigned long long)c->told[k].highest, (unsigned long long)c->highest);
    c->told[k].uidnext = MAX(c->told[k].uidnext, c->uidnext);
    c->told[k].highest = MAX(c->told[k].highest, c->highest);
    ledger_numbers_shown(m, c->uidvalidity, c->uidnext, c->highest, asked_ns - MIN(late_ns, asked_ns));
}

void imap_uid_shown(struct imap *c, const struct ledger_mailbox *m, uint32_t uid)
{
    size_t k = number_of(c, m);

    c->told[k].uidnext = MAX(c->told[k].uidnext, uid + 1);
}

/* ---- Select, learn ------------------------------------------------------------------------------------ */

static int learn(struct imap *c, size_t first, bool by_uid)
{
    static const char items[] = "(UID FLAGS MODSEQ RFC822.SIZE BODY.PEEK[HEADER.FIELDS (" MESSAGE_FIELD ")])";

    for (size_t k = first; k < c->count; k++) {
        c->view[k].asked = true;
        c->view[k].answered = false;
    }
    c->no_expunge = !by_uid;
    if (by_uid)
        return imap_command(c, "UID FETCH 1:* %s", items);
    return imap_command(c, "FETCH %zu:%zu %s", first + 1, c->count, items);
}

static size_t first_unknown(const struct imap *c)
{
    size_t first = 0;

    while (first < c->count && c->view[first].uid != 0 && c->view[first].id != 0)
        first++;
    return first;
}

bool imap_ignorant(const struct imap *c)
{
    return first_unknown(c) < c->count;
}

int imap_learn(struct imap *c)
{
    return imap_ignorant(c) ? learn(c, first_unknown(c), false) : IMAP_OK;
}

static int check_fresh(struct imap *c, uint64_t asked_ns)
{
    uint32_t *uids = heap_alloc(shard_self()->heap, (c->count + 1) * sizeof *uids);
    bool known = true;

    for (size_t k = 0; k < c->count; k++) {
        uids[k] = c->view[k].uid;
        known = known && c->view[k].uid != 0 && c->view[k].id != 0;
    }
    if (known)
        ledger_check(c->selected, uids, c->count, asked_ns);
    else if (!c->ledger->rot)
        VIOLATION(c, "%s", "messages without a UID or a number after FETCH 1:*");
    heap_free(shard_self()->heap, uids);
    return IMAP_OK;
}

int imap_select(struct imap *c, struct ledger_mailbox *m)
{
    uint64_t asked_ns = sim_now_ns(c->world);
    int rc;

    c->selected = m;
    c->selecting = true;
    c->count = 0;
    c->uidvalidity = c->uidnext = 0;
    c->highest = 0;
    rc = imap_command(c, "SELECT %s (CONDSTORE)", m->name);
    if (rc != IMAP_OK) {
        c->selected = NULL;
        c->count = 0;
        return rc;
    }
    imap_numbers_shown(c, m, asked_ns, 0);
    if (c->count > 0)
        rc = learn(c, 0, false);
    return rc == IMAP_OK ? check_fresh(c, asked_ns) : rc;
}
