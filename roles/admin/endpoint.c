#include "core/metrics.h"
#include "core/shard_call.h"
#include "roles/admin/admin.h"
#include "roles/words/control.h"
#include <stdio.h>

static void ask_serves(void *arg)
{
    *(bool *)arg = control_self() != NULL && control_self()->serves;
}

unsigned admin_serving(struct admin *a)
{
    struct node *node = a->shard->node;
    unsigned count = 0;

    for (unsigned i = 0; i < node->shard_count; i++) {
        bool serves = false;

        shard_call(node->shards[i], ask_serves, &serves);
        count += serves;
    }
    return count;
}

bool admin_ready(struct admin *a)
{
    const struct node *node = a->shard->node;

    return admin_serving(a) == node->shard_count && !__atomic_load_n(&node->stopping, __ATOMIC_RELAXED) &&
           !a->leaving && !a->taking;
}

static void ask_lacks(void *arg)
{
    *(const char **)arg = control_self() != NULL ? control_self()->lacks() : NULL;
}

const char *admin_lacks(struct admin *a)
{
    struct node *node = a->shard->node;
    const char *lacks = NULL;

    for (unsigned i = 0; lacks == NULL && i < node->shard_count; i++)
        shard_call(node->shards[i], ask_lacks, &lacks);
    return lacks;
}

static void metrics_get(struct admin *a, struct slice argument, struct reply *r)
{
    r->type = "text/plain; version=0.0.4; charset=utf-8";
    writer_text(&r->writer, "# HELP trireme_build_info Of the running program\n"
                            "# TYPE trireme_build_info gauge\n"
                            "trireme_build_info{version=\"" TRIREME_VERSION "\"} 1\n");
    metrics_write(a->shard->node, &r->writer);
}

/* That it answers at all is the answer: this shard's loop turns. */
static void health_get(struct admin *a, struct slice argument, struct reply *r)
{
    writer_text(&r->writer, "ok\n");
}

/* What `ctl upgrade` tells of an upgrade that has failed. */
static const char *anew_text(const struct admin *a, char text[64])
{
    text[0] = '\0';
    if (a->anew && a->lost_count == ADMIN_LOST_ALL)
        snprintf(text, 64, ", begun anew, all sessions have ended");
    else if (a->anew)
        snprintf(text, 64, ", begun anew, sessions lost: %llu", (unsigned long long)a->lost_count);
    return text;
}

static void ready_get(struct admin *a, struct slice argument, struct reply *r)
{
    bool ready = admin_ready(a);
    const char *lacks = admin_lacks(a);
    char text[128], anew[64];

    if (!ready) {
        reply_error(r, 503,
                    __atomic_load_n(&a->shard->node->stopping, __ATOMIC_RELAXED) ? "stopping" : "starting");
        return;
    }
    snprintf(text, sizeof text, "%s%s", lacks != NULL ? lacks : "ready", anew_text(a, anew));
    if (lacks != NULL)
        reply_error(r, 503, text);
    else
        writer_printf(&r->writer, "%s\n", text);
}

static const struct endpoint {
    struct slice path;
    admin_command_fn *run;
    bool post;  /* A command; else what GET and HEAD are for. */
    bool local; /* Names users, or changes something: by the Unix socket alone. */
    bool at_once;
} endpoints[] = {
    {{"/metrics", 8}, metrics_get, false, false, true},
    {{"/healthz", 8}, health_get, false, false, true},
    {{"/readyz", 7}, ready_get, false, false, false},
    {{"/ctl/status", 11}, status_command, true, false, false},
    {{"/ctl/who", 8}, who_command, true, true, false},
    {{"/ctl/why", 8}, why_command, true, true, false},
    {{"/ctl/kick", 9}, kick_command, true, true, false},
    {{"/ctl/cluster-init", 17}, cluster_init_command, true, true, false},
    {{"/ctl/cluster-place", 18}, cluster_place_command, true, true, false},
    {{"/ctl/cluster-unplace", 20}, cluster_unplace_command, true, true, false},
    {{"/ctl/cluster-exceptions", 23}, cluster_exceptions_command, true, true, false},
    {{"/ctl/log-level", 14}, log_level_command, true, true, false},
    {{"/ctl/reload", 11}, reload_command, true, true, false},
    {{"/ctl/upgrade", 12}, upgrade_command, true, true, false},
};

static const struct endpoint *endpoint_find(struct slice path)
{
    for (size_t i = 0; i < ARRAY_COUNT(endpoints); i++) {
        if (slice_eq(path, endpoints[i].path))
            return &endpoints[i];
    }
    return NULL;
}

bool admin_answers_at_once(const struct http_request *q)
{
    const struct endpoint *e = endpoint_find(q->path);

    return e == NULL || e->at_once;
}

void admin_answer(struct admin_connection *c, struct reply *r)
{
    const struct http_request *q = &c->request;
    const struct endpoint *e = endpoint_find(q->path);

    if (e == NULL)
        reply_error(r, 404, "there is no such path");
    else if (e->post != (q->method == HTTP_POST))
        reply_error(r, 405, e->post ? "use POST" : "use GET");
    else if (e->local && !c->local)
        reply_error(r, 403, "only by the Unix socket (admin.socket)");
    else
        e->run(c->admin, q->body, r);
}
