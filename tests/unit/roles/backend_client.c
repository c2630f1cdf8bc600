#include "tests/unit/roles/backend_client.h"
#include "core/config.h"
#include "core/node.h"
#include "roles/role.h"
#include "roles/settings.h"
#include "roles/words/expunge_run.h"
#include "storage/store.h"
#include <ftw.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- The node ------------------------------------------------------------------------------------------ */

static char directory[64];
static int failures;
static void (*test_body)(void);

void check_failed(const char *file, int line, const char *what, const char *got)
{
    fprintf(stderr, "%s:%d: %s\n%s\n", file, line, what, got);
    failures++;
}

static void body_run(void *arg)
{
    struct shard *s = arg;

    test_body();
    node_stop(s->node);
}

static int start(struct shard *s)
{
    const struct store_config config = {.node_name = "test", .segment_size = 1 << 20};
    struct store *store;
    int rc = link_start();

    if (rc == 0)
        rc = store_open(&config, &store);
    if (rc == 0)
        rc = role_backend.start(s);
    if (rc < 0)
        return rc;
    return fiber_start("test", RUN_INTERACTIVE, body_run, s) != NULL ? 0 : -1;
}

static void stop(struct shard *s)
{
    role_backend.stop(s);
    store_close(store_self());
    settle(); /* Frames go home. */
    link_stop();
}

int backend_test_again(void (*body)(void))
{
    static const struct node_ops ops = {start, stop};
    struct config *c = config_new(settings_keys, settings_key_count);
    struct node_options options = {.config = c,
                                   .ops = &ops,
                                   .data = directory,
                                   .shard_count = 1,
                                   .helper_count = 1,
                                   .memory = 1u << 30,
                                   .stop_timeout_ms = 5000};
    char error[NODE_ERROR_MAX] = "";
    int rc;

    failures = 0;
    test_body = body;
    rc = node_run(&options, error);
    config_free(c);
    if (rc < 0)
        fprintf(stderr, "node: %s (%d)\n", error, rc);
    return rc < 0 ? 1000 : failures;
}

int backend_test_keep(void (*body)(void))
{
    snprintf(directory, sizeof directory, "/tmp/trireme-backend-XXXXXX");
    return mkdtemp(directory) != NULL ? backend_test_again(body) : 1000;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void backend_test_remove(void)
{
    (void)nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

int backend_test(void (*body)(void))
{
    int result = backend_test_keep(body);

    backend_test_remove();
    return result;
}

void settle(void)
{
    for (int i = 0; i < 3; i++)
        (void)fiber_sleep_ms(1);
}

/* ---- A session ----------------------------------------------------------------------------------------- */

void client_init(struct client *c, const char *user)
{
    static uint64_t nonce;

    *c = (struct client){.user = user, .nonce = ++nonce};
    list_init(&c->frames);
    c->capacity = 65536;
    c->text = malloc(c->capacity);
    c->text[0] = '\0';
}

static void frames_release(struct client *c)
{
    struct list *node;

    while ((node = list_pop_front(&c->frames)) != NULL)
        link_frame_release(CONTAINER_OF(node, struct link_frame, link));
}

void client_fini(struct client *c)
{
    frames_release(c);
    free(c->text);
}

static void client_wake(struct client *c)
{
    struct fiber *f = c->waiter;

    c->waiter = NULL;
    if (f != NULL)
        fiber_wake(f, 0);
}

static void client_gather(struct client *c, struct slice data)
{
    if (c->size + data.size + 1 > c->capacity) {
        c->capacity = (c->size + data.size + 1) * 2;
        c->text = realloc(c->text, c->capacity);
    }
    memcpy(c->text + c->size, data.data, data.size);
    c->size += data.size;
    c->text[c->size] = '\0';
}

static void client_gather_runs(struct client *c, struct slice runs)
{
    struct expunge_run run = {0};
    char line[32];

    for (; runs.size > 0; runs = slice_from(runs, EXPUNGE_RUN_SIZE)) {
        CHECK(expunge_run_decode(runs, &run));
        for (uint32_t i = 0; i < run.count; i++)
            client_gather(c, slice_of(line, (size_t)sprintf(line, "* %u EXPUNGE\r\n", run.last - i)));
    }
}

static void on_frame(struct link_stream *s, struct link_frame *f)
{
    struct client *c = s->owner;
    struct imap_reply reply;

    if (f->header.type == LINK_DATA && f->header.size == 0)
        c->asked = true;
    if (f->header.flags & LINK_HOLD)
        c->held = true;
    if ((f->header.flags & LINK_RUNS) != 0)
        client_gather_runs(c, link_frame_data(f));
    else if (f->header.size > 0)
        client_gather(c, link_frame_data(f));
    if (f->header.type == LINK_END) {
        c->ended = true;
        c->stream = NULL;
        CHECK(imap_reply_decode(link_frame_head(f), &reply));
        c->token = reply.token;
        c->bye = (reply.flags & IMAP_REPLY_BYE) != 0;
    }
    if (c->keeps_frames && f->header.type == LINK_DATA)
        list_push_back(&c->frames, &f->link);
    else
        link_frame_release(f);
    client_wake(c);
}

static void on_credit(struct link_stream *s)
{
    client_wake(s->owner);
}

static void on_lost(struct link_stream *s)
{
    struct client *c = s->owner;

    c->lost = true;
    c->ended = true;
    c->stream = NULL;
    client_wake(c);
}

static const struct link_stream_ops client_ops = {on_frame, on_credit, on_lost};

static void client_wait(struct client *c)
{
    c->waiter = fiber_self();
    (void)fiber_suspend();
}

static bool is_append(const char *command)
{
    return strstr(command, " APPEND ") != NULL;
}

void client_begin(struct client *c, enum link_kind kind, const char *command)
{
    struct imap_request request = {
        .token = c->token, .more_follows = c->more_follows, .user = slice_str(c->user)};
    char head[HEAD_SIZE_SMALL];
    size_t text_size = strlen(command);
    char *text = malloc(text_size + 3);
    size_t sent;

    memcpy(request.operation_id, &c->nonce, sizeof c->nonce);
    memcpy(request.operation_id + sizeof c->nonce, &c->operation, sizeof c->operation);
    c->operation++;
    frames_release(c);
    c->size = 0;
    c->text[0] = '\0';
    c->lost = c->ended = c->asked = c->held = c->bye = false;
    snprintf(text, text_size + 3, "%s%s", command, kind == LINK_IMAP ? "\r\n" : "");
    text_size = strlen(text);
    sent = MIN(text_size, 8192u);
    c->stream =
        link_open(link_to_shard(shard_self()), kind, slice_of(head, imap_request_encode(&request, head)),
                  slice_of(text, sent), sent == text_size && !is_append(command), &client_ops, c);
    while (sent < text_size) { /* A long command comes in more than one frame. */
        size_t size = MIN(text_size - sent, 8192u);
        struct link_frame *f = link_frame_new(size);

        memcpy(f->payload, text + sent, size);
        sent += size;
        link_send(c->stream, f, size, sent == text_size && !is_append(command) ? LINK_LAST : 0);
    }
    free(text);
}

void client_finish(struct client *c)
{
    while (!c->ended)
        client_wait(c);
}

void client_say(struct client *c, const char *command)
{
    client_begin(c, LINK_IMAP, command);
    client_finish(c);
}

void client_sync(struct client *c)
{
    client_begin(c, LINK_SYNC, "");
    client_finish(c);
}

static void send_piece(struct client *c, struct slice piece, unsigned flags)
{
    struct link_frame *f = link_frame_new(piece.size);

    memcpy(f->payload, piece.data, piece.size);
    link_send(c->stream, f, piece.size, flags);
}

void client_append(struct client *c, const char *command, struct slice literal)
{
    client_begin(c, LINK_IMAP, command);
    while (!c->ended && !c->asked)
        client_wait(c);
    for (size_t at = 0; !c->ended && at < literal.size; at += 16000) {
        while (!c->ended && link_credit(c->stream) <= 0)
            client_wait(c);
        if (!c->ended)
            send_piece(c, slice_of(literal.data + at, MIN(literal.size - at, 16000u)), 0);
    }
    if (!c->ended)
        send_piece(c, SLICE("\r\n"), LINK_LAST);
    client_finish(c);
}

void client_expect(struct client *c, const char *expected, const char *file, int line)
{
    if (strcmp(c->text, expected) != 0)
        check_failed(file, line, expected, c->text);
}

/* ---- A delivery ---------------------------------------------------------------------------------------- */

struct delivered {
    struct fiber *waiter;
    unsigned code;
    bool ended;
};

static void delivery_on_frame(struct link_stream *s, struct link_frame *f)
{
    struct delivered *d = s->owner;
    struct deliver_reply reply;

    CHECK(f->header.type == LINK_END);
    CHECK(deliver_reply_decode(link_frame_head(f), &reply));
    d->code = reply.code;
    d->ended = true;
    link_frame_release(f);
    if (d->waiter != NULL)
        fiber_wake(d->waiter, 0);
}

static void delivery_on_credit(struct link_stream *s)
{
}

static void delivery_on_lost(struct link_stream *s)
{
    struct delivered *d = s->owner;

    d->ended = true;
    if (d->waiter != NULL)
        fiber_wake(d->waiter, 0);
}

unsigned deliver(const char *user, const char *folder, uint64_t operation, struct slice message)
{
    static const struct link_stream_ops ops = {delivery_on_frame, delivery_on_credit, delivery_on_lost};
    struct deliver_request request = {.user = slice_str(user),
                                      .folder = slice_str(folder),
                                      .return_path = SLICE("sender@example.org"),
                                      .recipient = slice_str(user),
                                      .received = SLICE("Received: from test by test\r\n")};
    struct delivered d = {0};
    char *head = malloc(HEAD_SIZE_MAX);
    size_t first = MIN(message.size, 4000u);
    struct link_stream *s;

    memcpy(request.operation_id, &operation, sizeof operation);
    request.operation_id[15] = operation != 0 ? 2 : 0;
    s = link_open(link_to_shard(shard_self()), LINK_DELIVER,
                  slice_of(head, deliver_request_encode(&request, head)), slice_first(message, first),
                  first == message.size, &ops, &d);
    free(head);
    while (first < message.size) { /* Within a window: a few frames. */
        size_t size = MIN(message.size - first, 16000u);
        struct link_frame *f = link_frame_new(size);

        memcpy(f->payload, message.data + first, size);
        first += size;
        link_send(s, f, size, first == message.size ? LINK_LAST : 0);
    }
    if (!d.ended) {
        d.waiter = fiber_self();
        (void)fiber_suspend();
    }
    settle();
    return d.code;
}
