#include "roles/proxy/control.h"
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

void proxy_control_sessions(struct control_page *page)
{
    struct proxy *p = shard_self()->slot[SLOT_PROXY];
    struct list *it;
    unsigned visits = 0;

    page->count = 0;
    page->more = false;
    if (p == NULL)
        return;
    it = page->go_on && p->walks[PROXY_WALK_OPERATOR] != NULL ? p->walks[PROXY_WALK_OPERATOR]
                                                              : p->session_list.next;
    while (it != &p->session_list && page->count < CONTROL_ROWS && visits++ < CONTROL_VISITS) {
        struct session *s = CONTAINER_OF(it, struct session, link);

        it = it->next;
        if (!session_matches(s, page))
            continue;
        session_show(s, &page->rows[page->count++]);
        if (page->kick)
            session_kick(s);
    }
    page->more = it != &p->session_list;
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
