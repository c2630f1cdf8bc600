#include "roles/proxy/control.h"
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

static bool session_matches(const struct session *s, const struct control_page *page)
{
    if (s->state == SESSION_CLOSING)
        return false;
    if (page->network.family != 0)
        return net_prefix_contains(&page->network, &s->conn.peer);
    if (page->mask.size == 0)
        return true;
    if (page->exact)
        return slice_eq(page->mask, session_user(s));
    return s->user_size > 0 && control_mask_matches(page->mask, session_user(s));
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

void proxy_control_sessions(struct control_page *page)
{
    struct proxy *p = shard_self()->slot[SLOT_PROXY];
    struct list *it;

    page->count = 0;
    page->more = false;
    if (p == NULL)
        return;
    it = page->go_on ? p->walks[PROXY_WALK_OPERATOR] : NULL;
    if (it == NULL) {
        p->walk_lmtp = false;
        it = p->session_list.next;
    }
    for (unsigned visits = 0; page->count < CONTROL_ROWS && visits < CONTROL_VISITS; visits++) {
        struct list *at = it;

        if (at == &p->lmtp_list)
            break;
        if (at == &p->session_list) {
            p->walk_lmtp = true;
            it = p->lmtp_list.next;
            continue;
        }
        it = at->next;
        if (p->walk_lmtp)
            lmtp_visit(CONTAINER_OF(at, struct lmtp_session, link), page);
        else
            session_visit(CONTAINER_OF(at, struct session, link), page);
    }
    page->more = it != &p->lmtp_list;
    p->walks[PROXY_WALK_OPERATOR] = page->more ? it : NULL;
}

void proxy_control_revoked(struct control_revoked *r)
{
    struct proxy *p = shard_self()->slot[SLOT_PROXY];
    struct list *it;

    r->more = false;
    if (p == NULL)
        return;
    if (p->revoked == NULL)
        p->revoked = heap_alloc(p->heap, sizeof *p->revoked);
    if (!r->go_on)
        *p->revoked = *r->revoked;
    it = r->go_on && p->walks[PROXY_WALK_REVOKED] != NULL ? p->walks[PROXY_WALK_REVOKED]
                                                          : p->session_list.next;
    for (unsigned visits = 0; it != &p->session_list && visits < CONTROL_VISITS; visits++) {
        struct session *s = CONTAINER_OF(it, struct session, link);

        it = it->next;
        if (s->user_size > 0 && session_revoked(s))
            session_kick(s);
    }
    r->more = it != &p->session_list;
    p->walks[PROXY_WALK_REVOKED] = r->more ? it : NULL;
}
