#include "roles/admin/admin.h"
#include "core/config.h"
#include "core/heap.h"
#include "core/io.h"
#include "core/log.h"
#include <errno.h>

#define STOP_POLL_MS   10
#define ANSWER_ALL_MS  500
#define SEND_PIECE     (128 * 1024)
#define QUEUED_MAX     (256 * 1024)
#define HEAD_SIZE      512
#define DEFAULT_SOCKET "ctl.sock"

/* ---- A connection --------------------------------------------------------------------------------------- */

static void connection_free(struct admin_connection *c)
{
    timer_cancel(&c->timer);
    list_remove(&c->link);
    c->admin->counts[c->local] -= !c->ending;
    slab_give(&c->admin->connections, c);
}

static void reply_head(struct admin_connection *c, const struct reply *r, size_t size, bool keep_alive)
{
    char head[HEAD_SIZE];
    struct writer w;

    writer_fixed(&w, head, sizeof head);
    http_reply_head(&w, r->status, r->type, size, keep_alive);
    conn_write(&c->conn, slice_of(head, writer_used(&w)));
}

/* A fiber waits while much of it is unsent; what is answered at once is less than that. */
static void reply_send(struct admin_connection *c, const struct reply *r, bool keep_alive)
{
    struct slice text = reply_text(r);

    reply_head(c, r, text.size, keep_alive);
    if (c->request.method == HTTP_HEAD)
        return;
    while (text.size > 0 && !c->closed) {
        size_t size = MIN(text.size, (size_t)SEND_PIECE);

        conn_write(&c->conn, slice_first(text, size));
        text = slice_from(text, size);
        while (fiber_self() != NULL && !c->closed && conn_queued(&c->conn) > QUEUED_MAX)
            (void)fiber_queue_wait(&c->sent, 0);
    }
}

static void connection_ready(struct admin_connection *c)
{
    timer_set(&c->timer, ADMIN_IDLE_MS);
    conn_resume(&c->conn);
}

static void request_run(void *arg)
{
    struct admin_connection *c = arg;
    struct heap *heap = c->admin->shard->heap;
    struct reply *r = heap_alloc(heap, sizeof *r);
    bool keep_alive = c->request.keep_alive && !c->admin->stopping;

    reply_init(r, heap, slice_eq(c->request.query, SLICE("json")));
    admin_answer(c, r);
    if (r->full)
        reply_error(r, 500, "the answer is too large");
    reply_send(c, r, keep_alive);
    reply_fini(r);
    heap_free(heap, r);
    c->running = false;
    if (c->closed)
        connection_free(c);
    else if (keep_alive)
        connection_ready(c);
    else
        conn_close(&c->conn);
}

static void refuse(struct admin_connection *c, unsigned status)
{
    struct reply r;

    reply_init(&r, c->admin->shard->heap, false);
    reply_error(&r, status, http_status_text(status));
    reply_head(c, &r, reply_text(&r).size, false);
    conn_write(&c->conn, reply_text(&r));
    reply_fini(&r);
    conn_close(&c->conn);
}

/* The input is on loan: a copy lives as long as the fiber. */
static void request_keep(struct admin_connection *c, const struct http_request *r, struct slice in)
{
    ptrdiff_t moved = c->bytes - in.data;

    ASSERT(in.size <= sizeof c->bytes);
    memcpy(c->bytes, in.data, in.size);
    c->request = *r;
    c->request.path.data += moved;
    c->request.query.data += moved;
    c->request.body.data += moved;
}

static size_t on_data(struct conn *conn, struct slice in)
{
    struct admin_connection *c = CONTAINER_OF(conn, struct admin_connection, conn);
    struct http_request request;
    unsigned status;
    size_t size;

    if (c->running)
        return 0;
    switch (http_request_next(in, &request, &size, &status)) {
    case HTTP_MORE:
        return 0;
    case HTTP_BAD:
        refuse(c, status);
        return in.size;
    case HTTP_WHOLE:
        break;
    }
    request_keep(c, &request, slice_first(in, size));
    timer_set(&c->timer, ADMIN_IDLE_MS);
    list_remove(&c->link);
    list_push_back(&c->admin->connection_list, &c->link);
    c->running = true;
    conn_pause(conn);
    if (conn_queued(conn) == 0 && admin_answers_at_once(&c->request)) {
        request_run(c);
    } else if (fiber_start("admin", RUN_INTERACTIVE, request_run, c) == NULL) {
        c->running = false;
        refuse(c, 503);
    }
    return size;
}

static void on_sent(struct conn *conn)
{
    struct admin_connection *c = CONTAINER_OF(conn, struct admin_connection, conn);

    timer_set(&c->timer, ADMIN_IDLE_MS);
    fiber_queue_wake_all(&c->sent, 0);
}

static void on_ended(struct conn *conn, int why)
{
    struct admin_connection *c = CONTAINER_OF(conn, struct admin_connection, conn);

    if (why == -EMSGSIZE)
        refuse(c, 413);
    else if (why != 0 || !c->running) /* Who has sent all his requests may still read the answer. */
        conn_close(conn);
}

static void on_closed(struct conn *conn)
{
    struct admin_connection *c = CONTAINER_OF(conn, struct admin_connection, conn);

    c->closed = true;
    if (c->running)
        fiber_queue_wake_all(&c->sent, 0);
    else
        connection_free(c);
}

static const struct conn_ops admin_conn_ops = {
    .data = on_data, .sent = on_sent, .ended = on_ended, .closed = on_closed};

/* Silence, or a reader that is stuck. */
static void on_timer(struct timer *t)
{
    conn_abort(&CONTAINER_OF(t, struct admin_connection, timer)->conn);
}

static void make_room(struct admin *a, bool local)
{
    list_each(it, &a->connection_list)
    {
        struct admin_connection *c = CONTAINER_OF(it, struct admin_connection, link);

        if (c->local != local || c->ending)
            continue;
        c->ending = true;
        a->counts[local]--;
        conn_abort(&c->conn);
        return;
    }
}

static void on_accepted(struct listener *l, struct sock sock, const struct net_addr *peer)
{
    struct admin *a = l->owner;
    struct admin_connection *c;

    if (a->counts[l->flag] == (l->flag ? ADMIN_LOCAL_MAX : ADMIN_TCP_MAX))
        make_room(a, l->flag);
    c = slab_take(&a->connections);
    if (c == NULL) {
        io_close(sock);
        return;
    }
    c->admin = a;
    c->local = l->flag;
    a->counts[c->local]++;
    fiber_queue_init(&c->sent);
    timer_init(&c->timer, on_timer);
    list_push_back(&a->connection_list, &c->link);
    conn_init(&c->conn, sock, peer, ADMIN_REQUEST_MAX, &admin_conn_ops);
    timer_set(&c->timer, ADMIN_IDLE_MS);
}

/* ---- The role ------------------------------------------------------------------------------------------- */

static struct listener *listener_new(struct admin *a)
{
    struct listener *l = &a->listeners[a->listener_count];

    if (a->listener_count == ADMIN_LISTENERS_MAX)
        return NULL;
    l->owner = a;
    l->accepted = on_accepted;
    return l;
}

static int listen_tcp(struct admin *a, const char *text)
{
    struct listener *l = listener_new(a);
    struct net_addr addr;
    int rc = -E2BIG;

    if (l != NULL)
        rc = net_addr_parse(slice_str(text), &addr) ? listener_start(l, &addr) : -EINVAL;
    if (rc < 0) {
        log_event(LOG_ERROR, "cannot listen", "key=admin.listen address=%s error=%s", text, log_error(rc));
        return rc;
    }
    a->listener_count++;
    if (!net_addr_is_loopback(&addr))
        log_event(LOG_WARN, "metrics and health are open to a network",
                  "address=%s hint=no_password_is_asked", text);
    return 0;
}

static int listen_unix(struct admin *a, const char *path)
{
    struct listener *l = listener_new(a);
    int rc = l != NULL ? listener_start_unix(l, path) : -E2BIG;

    if (rc < 0) {
        log_event(LOG_ERROR, "cannot listen", "key=admin.socket path=%s error=%s", log_quote(slice_str(path)),
                  log_error(rc));
        return rc;
    }
    l->flag = true;
    a->listener_count++;
    return 0;
}

static int listen_all(struct admin *a)
{
    const struct config *config = a->shard->node->config;
    const char *path = config_string(config, "admin.socket");
    int rc = listen_unix(a, path != NULL ? path : DEFAULT_SOCKET);

    for (size_t i = 0; rc == 0 && i < config_list_count(config, "admin.listen"); i++)
        rc = listen_tcp(a, config_list_item(config, "admin.listen", i));
    return rc;
}

static void connections_end(struct admin *a)
{
    list_each(it, &a->connection_list)
    {
        struct admin_connection *c = CONTAINER_OF(it, struct admin_connection, link);

        if (!c->closed)
            conn_abort(&c->conn);
    }
}

void admin_drain(struct shard *s)
{
    struct admin *a = s->slot[SLOT_ADMIN];

    while (a != NULL && admin_serving(a) > 0) {
        if (fiber_sleep_ms(STOP_POLL_MS) < 0)
            break;
    }
}

static bool answering(const struct admin *a)
{
    list_each(it, &a->connection_list)
    {
        const struct admin_connection *c = CONTAINER_OF(it, struct admin_connection, link);

        if (!c->closed && (c->running || conn_queued(&c->conn) > 0))
            return true;
    }
    return false;
}

void admin_answer_all(struct shard *s)
{
    const struct admin *a = s->slot[SLOT_ADMIN];

    for (unsigned ms = 0; a != NULL && ms < ANSWER_ALL_MS && answering(a); ms += STOP_POLL_MS) {
        if (fiber_sleep_ms(STOP_POLL_MS) < 0)
            break;
    }
}

static void admin_stop(struct shard *s)
{
    struct admin *a = s->slot[SLOT_ADMIN];

    if (a == NULL)
        return;
    a->stopping = true;
    for (unsigned i = 0; i < a->listener_count; i++)
        listener_stop(&a->listeners[i]);
    connections_end(a);
    while (!list_empty(&a->connection_list)) {
        if (fiber_sleep_ms(1) < 0)
            break;
    }
    for (unsigned i = 0; i < a->listener_count; i++)
        listener_wait(&a->listeners[i]);
    s->slot[SLOT_ADMIN] = NULL;
    slab_fini(&a->connections);
    heap_free(s->heap, a);
}

static int admin_start(struct shard *s)
{
    struct admin *a;
    int rc;

    if (s->index != 0)
        return 0;
    a = heap_zalloc(s->heap, sizeof *a);
    a->shard = s;
    a->started_ms = time_ms();
    slab_init(&a->connections, s->heap, sizeof(struct admin_connection),
              ADMIN_TCP_MAX + ADMIN_LOCAL_MAX + ADMIN_ENDING_MAX);
    list_init(&a->connection_list);
    turn_init(&a->walk);
    s->slot[SLOT_ADMIN] = a;
    rc = listen_all(a);
    if (rc < 0)
        admin_stop(s);
    return rc;
}

const struct role role_admin = {"admin", admin_start, admin_stop};
