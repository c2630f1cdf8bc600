#include "roles/proxy/control.h"
#include "core/io.h"
#include "roles/proxy/lmtp_session.h"
#include "roles/proxy/proxy.h"
#include "roles/proxy/session.h"

static const char *const state_names[] = {
    [SESSION_PROXY_HEADER] = "proxy_header",
    [SESSION_HANDSHAKE] = "handshake",
    [SESSION_COMMAND] = "command",
    [SESSION_SASL] = "sasl",
    [SESSION_LOGIN] = "login",
    [SESSION_DELAY] = "delay",
    [SESSION_RUN] = "run",
    [SESSION_ASK] = "ask",
    [SESSION_LITERAL] = "literal",
    [SESSION_IDLE] = "idle",
    [SESSION_CLOSING] = "closing",
};

static const char *const lmtp_state_names[] = {
    [LMTP_AT_PROXY_HEADER] = "proxy_header",
    [LMTP_AT_HANDSHAKE] = "handshake",
    [LMTP_AT_COMMAND] = "command",
    [LMTP_AT_LOOKUP] = "lookup",
    [LMTP_AT_BODY] = "body",
    [LMTP_AT_REPLIES] = "replies",
    [LMTP_AT_CLOSING] = "closing",
};

static bool user_matches(struct slice user, const struct control_page *page)
{
    if (page->mask.size == 0)
        return true;
    if (page->exact)
        return slice_eq(page->mask, user);
    return user.size > 0 && control_mask_matches(page->mask, user);
}

static bool session_matches(const struct session *s, const struct control_page *page)
{
    if (s->state == SESSION_CLOSING)
        return false;
    if (page->network.family != 0)
        return net_prefix_contains(&page->network, &s->conn.peer);
    return user_matches(session_user(s), page);
}

static void session_show(const struct session *s, struct control_session *row)
{
    *row = (struct control_session){
        .id = s->id,
        .protocol = "imap",
        .peer = s->conn.peer,
        .state = state_names[s->state],
        .commands = s->commands,
        .bytes_in = s->conn.bytes_in,
        .bytes_out = s->conn.bytes_out,
        .shard = s->proxy->shard->index,
        .tls = s->conn.tls != NULL,
        .selected = s->token.mailbox_id != 0,
        .user_size = s->user_size,
    };
    memcpy(row->user, s->user, s->user_size);
}

static void session_visit(struct session *s, struct control_page *page)
{
    if (!session_matches(s, page))
        return;
    session_show(s, &page->rows[page->count++]);
    if (page->kick)
        session_kick(s);
}

/* Nobody logs in by LMTP: a mask of users is not meant for it. */
static void lmtp_visit(struct lmtp_session *l, struct control_page *page)
{
    bool matches =
        page->network.family != 0 ? net_prefix_contains(&page->network, &l->conn.peer) : page->mask.size == 0;

    if (l->state == LMTP_AT_CLOSING || !matches)
        return;
    page->rows[page->count++] = (struct control_session){
        .id = l->id,
        .protocol = "lmtp",
        .peer = l->conn.peer,
        .state = lmtp_state_names[l->state],
        .commands = l->messages,
        .bytes_in = l->conn.bytes_in,
        .bytes_out = l->conn.bytes_out,
        .shard = l->proxy->shard->index,
        .tls = l->conn.tls != NULL,
    };
    if (page->kick)
        lmtp_kick(l);
}

/* ---- Those who sleep ----------------------------------------------------------------------------------- */

static bool sleeper_matches(const struct sleepers *t, uint32_t id, const struct packed *packed,
                            const struct control_page *page)
{
    struct slice user = sleepers_user(t, id);

    if (page->network.family != 0)
        return net_prefix_contains(&page->network, &packed->conn.peer);
    return user_matches(user, page);
}

static void sleeper_show(const struct sleepers *t, uint32_t id, const struct packed *packed,
                         struct control_session *row)
{
    static const char *const names[] = {[PACKED_PROXY_HEADER] = "proxy_header",
                                        [PACKED_COMMAND] = "command",
                                        [PACKED_IDLE] = "idle",
                                        [PACKED_HANDSHAKE] = "handshake"};
    struct slice user = sleepers_user(t, id);

    *row = (struct control_session){
        .id = packed->id,
        .protocol = "imap",
        .peer = packed->conn.peer,
        .state = names[packed->state],
        .commands = packed->commands,
        .bytes_in = packed->conn.bytes_in,
        .bytes_out = packed->conn.bytes_out,
        .shard = t->proxy->shard->index,
        .asleep = true,
        .tls = packed->conn.tls_size > 0,
        .selected = packed->token.mailbox_id != 0,
        .user_size = (uint8_t)user.size,
    };
    if (user.size > 0)
        memcpy(row->user, user.data, user.size);
}

static void sleeper_visit(struct sleepers *t, uint32_t id, struct control_page *page)
{
    struct packed packed;

    sleepers_look(t, id, &packed);
    if (sleeper_matches(t, id, &packed, page)) {
        sleeper_show(t, id, &packed, &page->rows[page->count++]);
        if (page->kick)
            sleepers_kick(t, id);
    }
    bytes_wipe(&packed, sizeof packed);
}

/* ---- Walks --------------------------------------------------------------------------------------------- */

static struct proxy_walk *walk_begin(struct proxy *p, bool go_on)
{
    struct proxy_walk *w = &p->walk;

    if (!go_on || w->until_ms == 0)
        *w = (struct proxy_walk){0};
    w->until_ms = time_ms() + PROXY_WALK_MS;
    return w;
}

/* The next sleeper; RECORD_NONE: from now on it is among those who are awake. */
static uint32_t walk_sleeper(struct proxy *p, struct proxy_walk *w)
{
    uint32_t id = w->at == NULL ? sleepers_next(&p->sleepers, w->sleeper) : RECORD_NONE;

    if (id != RECORD_NONE)
        w->sleeper = id + 1;
    else if (w->at == NULL)
        w->at = p->session_list.next;
    return id;
}

/* NULL: there are no more. */
static struct session *walk_session(struct proxy *p, struct proxy_walk *w)
{
    struct session *s = CONTAINER_OF(w->at, struct session, link);

    if (w->lmtp || w->at == &p->session_list)
        return NULL;
    w->at = w->at->next;
    return s;
}

/* The same, behind them. */
static struct lmtp_session *walk_lmtp(struct proxy *p, struct proxy_walk *w)
{
    struct lmtp_session *l;

    if (!w->lmtp)
        w->at = p->lmtp_list.next;
    w->lmtp = true;
    l = CONTAINER_OF(w->at, struct lmtp_session, link);
    if (w->at == &p->lmtp_list)
        return NULL;
    w->at = w->at->next;
    return l;
}

/* Whoever could not sleep meanwhile. */
static void walk_end(struct proxy *p, struct proxy_walk *w)
{
    w->until_ms = 0;
    list_each(it, &p->session_list)
    {
        struct session *s = CONTAINER_OF(it, struct session, link);

        if (s->drowsy)
            conn_rest(&s->conn);
        s->drowsy = false;
    }
}

static bool page_has_room(const struct control_page *page, unsigned visits)
{
    return page->count < CONTROL_ROWS && visits < CONTROL_VISITS;
}

static bool visit_next(struct proxy *p, struct proxy_walk *w, struct control_page *page)
{
    uint32_t id = walk_sleeper(p, w);
    struct session *s = id == RECORD_NONE ? walk_session(p, w) : NULL;
    struct lmtp_session *l = id == RECORD_NONE && s == NULL ? walk_lmtp(p, w) : NULL;

    if (id != RECORD_NONE)
        sleeper_visit(&p->sleepers, id, page);
    if (s != NULL)
        session_visit(s, page);
    if (l != NULL)
        lmtp_visit(l, page);
    return id != RECORD_NONE || s != NULL || l != NULL;
}

void proxy_control_sessions(struct control_page *page)
{
    struct proxy *p = shard_self()->slot[SLOT_PROXY];
    struct proxy_walk *w;

    page->count = 0;
    page->more = p != NULL;
    if (p == NULL)
        return;
    w = walk_begin(p, page->go_on);
    for (unsigned visits = 0; page->more && page_has_room(page, visits); visits++)
        page->more = visit_next(p, w, page);
    if (!page->more)
        walk_end(p, w);
}

void proxy_control_revoked(const struct revocations *revoked)
{
    struct proxy *p = shard_self()->slot[SLOT_PROXY];

    if (p != NULL)
        revoked_take_all(p, revoked);
}

const char *proxy_control_lacks(void)
{
    const struct proxy *p = shard_self()->slot[SLOT_PROXY];

    return p != NULL ? route_lacks(&p->route) : NULL;
}
