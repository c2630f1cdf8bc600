/* tests/sim/cluster_rogue.c -- a proxy that somebody else has taken over. It has links, and a certificate where there are some; it
 * asks the director for recipients, as it may, and shows what it got for them to backends: to read, or for another user. No
 * backend may answer that (I-9). */
#include "core/fiber.h"
#include "net/link/wire.h"
#include "roles/words/request.h"
#include "tests/sim/cluster.h"
#include <errno.h>
#include <stdio.h>

#define NAME      "p9"
#define PAUSE_MS  1500
#define POLL_MS   50
#define ANSWER_MS 6000

struct rogue { /* On its fiber's stack. */
    struct mail *mail;
    struct link_stream *stream; /* NULL: it has ended. */
    struct login_reply reply;   /* Of the last lookup. */
    bool known;
};

static void on_credit(struct link_stream *s)
{
}

static void on_lost(struct link_stream *s)
{
    ((struct rogue *)s->owner)->stream = NULL;
}

static void on_looked_up(struct link_stream *s, struct link_frame *f)
{
    struct rogue *r = s->owner;

    if (f->header.type == LINK_END) {
        r->known = login_reply_decode(link_frame_head(f), &r->reply) && r->reply.result == LOGIN_OK;
        r->stream = NULL;
    }
    link_frame_release(f);
}

static void on_answer(struct link_stream *s, struct link_frame *f)
{
    struct rogue *r = s->owner;

    sim_violation(r->mail->world, "a backend has answered a command without a ticket for it");
    if (f->header.type == LINK_END)
        r->stream = NULL;
    link_frame_release(f);
}

static const struct link_stream_ops lookup_ops = {on_looked_up, on_credit, on_lost},
                                    command_ops = {on_answer, on_credit, on_lost};

static void wait_end(struct rogue *r)
{
    for (unsigned ms = 0; r->stream != NULL && ms < ANSWER_MS; ms += POLL_MS)
        (void)fiber_sleep_ms(POLL_MS);
    if (r->stream != NULL)
        link_stream_reset(r->stream);
    r->stream = NULL;
}

static void look_up(struct rogue *r, struct link_peer *director, const char *user)
{
    struct login_request request = {.lookup = true, .user = slice_str(user)};
    struct link_target to = {.peer = director};
    char head[HEAD_SIZE_SMALL];

    r->known = false;
    r->stream = link_open(to, LINK_LOOKUP, slice_of(head, login_request_encode(&request, head)),
                          slice_of(NULL, 0), true, &lookup_ops, r);
    wait_end(r);
}

/* What is worth something for a delivery to `user` alone. */
static void misuse(struct rogue *r, struct link_peer *backend, const char *user)
{
    struct imap_request request = {.user = slice_str(user), .ticket = r->reply.ticket};
    struct link_target to = {.peer = backend, .route = r->reply.partition};
    char head[HEAD_SIZE_SMALL];

    if (random_u64() % 4 == 0)
        memset(&request.ticket, 0, sizeof request.ticket);
    r->stream = link_open(to, LINK_IMAP, slice_of(head, imap_request_encode(&request, head)),
                          SLICE("r1 SELECT INBOX\r\n"), true, &command_ops, r);
    wait_end(r);
}

static void links_begin(const struct cluster *cl)
{
    struct wires_config config = {.self = {.name = NAME, .roles = LINK_ROLE_PROXY, .instance = random_u64()}};
    const struct tls_pair pair = {.cert = SLICE(NAME " proxy"), .key = SLICE("key")};
    char error[TLS_ERROR_MAX];
    int rc = link_start();

    if (rc == 0 && cl->tls)
        rc = tls_context_create_node(&pair, SLICE("ca"), false, &config.tls_client, error);
    ASSERT(rc == 0);
    wires_start(&config);
}

static struct link_peer *dial(const struct cluster_server *s, uint8_t role)
{
    struct net_addr addr;
    char text[32];

    snprintf(text, sizeof text, "%s:%u", s->ip, CLUSTER_LINK_PORT);
    ASSERT(net_addr_parse(slice_str(text), &addr));
    return link_peer_dial(&addr, slice_of(NULL, 0), role, NULL, NULL);
}

void cluster_rogue_run(void *arg)
{
    struct rogue r = {.mail = arg};
    const struct cluster *cl = r.mail->cluster;
    unsigned first = r.mail->proxy_count;
    struct link_peer *director, *backends[CLUSTER_BACKENDS_MAX];

    links_begin(cl);
    director = dial(&cl->servers[first], LINK_ROLE_DIRECTOR);
    for (unsigned k = 0; k < cl->backend_count; k++)
        backends[k] = dial(&cl->servers[first + 1 + k], LINK_ROLE_BACKEND);
    for (;;) {
        char user[8];

        snprintf(user, sizeof user, "u%u", (unsigned)(random_u64() % LEDGER_ACCOUNTS));
        look_up(&r, director, user);
        for (unsigned k = 0; r.known && k < cl->backend_count; k++)
            misuse(&r, backends[k], user);
        if (fiber_sleep_ms(1 + (uint32_t)(random_u64() % PAUSE_MS)) < 0)
            return;
    }
}
