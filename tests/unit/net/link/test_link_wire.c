/* The codec of the wire; and links over real sockets on loopback: a node that asks itself, over a connection to its own
 * listener, with a second shard to pass streams on to. */
#include "core/fiber.h"
#include "core/io.h"
#include "core/node.h"
#include "net/link/header.h"
#include "net/link/link_state.h"
#include "net/link/wire_state.h"
#include "net/listener.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/lib/on_fiber.h"

/* ---- The codec ----------------------------------------------------------------------------------------- */

static const struct link_header good_headers[] = {
    {.type = LINK_OPEN,
     .kind = LINK_IMAP,
     .flags = LINK_FROM_OPENER | LINK_LAST,
     .stream = 5,
     .value = 4095,
     .size = 300,
     .trailer_size = 200},
    {.type = LINK_DATA, .flags = LINK_HOLD | LINK_RUNS, .stream = 65535, .size = LINK_PAYLOAD_MAX},
    {.type = LINK_DATA, .flags = LINK_FROM_OPENER | LINK_LAST},
    {.type = LINK_END, .flags = LINK_LAST, .size = 70, .trailer_size = 66},
    {.type = LINK_RESET, .flags = LINK_FROM_OPENER, .stream = 1},
    {.type = LINK_RESET, .stream = 1, .value = LINK_LOST_TICKET},
    {.type = LINK_CREDIT, .stream = 1, .value = LINK_WINDOW},
    {.type = LINK_PING},
    {.type = LINK_HELLO, .size = 30},
};

static void test_header_good(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(good_headers); i++) {
        const struct link_header *good = &good_headers[i];
        char wire[LINK_HEADER_SIZE];
        struct link_header back;

        link_header_encode(good, wire);
        assert_true(link_header_decode(wire, &back));
        assert_int_equal(back.stream, good->stream);
        assert_int_equal(back.value, good->value);
        assert_int_equal(back.size, good->size);
        assert_int_equal(back.trailer_size, good->trailer_size);
        assert_int_equal(back.type, good->type);
        assert_int_equal(back.kind, good->kind);
        assert_int_equal(back.flags, good->flags);
    }
}

static void test_header_bad(void **state)
{
    static const struct link_header bad[] = {
        {.type = 0},
        {.type = LINK_HELLO + 1},
        {.type = LINK_OPEN, .kind = 1}, /* Not from an opener. */
        {.type = LINK_OPEN, .kind = 1, .flags = LINK_FROM_OPENER, .value = 65536},
        {.type = LINK_DATA, .kind = 1},
        {.type = LINK_DATA, .size = LINK_PAYLOAD_MAX + 1},
        {.type = LINK_DATA, .stream = LINK_STREAMS_MAX},
        {.type = LINK_DATA, .flags = 8},
        {.type = LINK_OPEN, .kind = 1, .flags = LINK_FROM_OPENER | LINK_RUNS},
        {.type = LINK_END, .flags = LINK_LAST | LINK_FROM_OPENER},
        {.type = LINK_END, .flags = LINK_LAST, .size = 1, .trailer_size = 2},
        {.type = LINK_END},
        {.type = LINK_RESET, .value = LINK_LOST_COUNT},
        {.type = LINK_RESET, .size = 1},
        {.type = LINK_RESET, .value = LINK_LOST_ELSEWHERE, .size = LINK_REFERRAL_SIZE + 1},
        {.type = LINK_RESET,
         .value = LINK_LOST_ELSEWHERE,
         .size = LINK_REFERRAL_SIZE,
         .flags = LINK_FROM_OPENER},
        {.type = LINK_RESET, .value = LINK_LOST_TICKET, .size = LINK_REFERRAL_SIZE},
        {.type = LINK_CREDIT},
        {.type = LINK_CREDIT, .value = LINK_WINDOW + 1},
        {.type = LINK_PING, .stream = 1},
        {.type = LINK_HELLO, .size = LINK_HELLO_MAX + 1},
    };
    char wire[LINK_HEADER_SIZE];
    struct link_header back;

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        link_header_encode(&bad[i], wire);
        assert_false(link_header_decode(wire, &back));
    }
    link_header_encode(&good_headers[0], wire);
    wire[3] = 1;
    assert_false(link_header_decode(wire, &back));
}

static void test_hello(void **state)
{
    struct link_hello hello = {.version = 3,
                               .version_oldest = 1,
                               .lane = LINK_LANE_BULK,
                               .node = {.instance = 77,
                                        .features = 513,
                                        .roles = LINK_ROLE_PROXY,
                                        .name = "p1.example.org"}},
                      back;
    char bytes[LINK_HELLO_MAX + 8] = {0};
    size_t size = link_hello_encode(&hello, bytes);

    assert_true(link_hello_decode(slice_of(bytes, size), &back));
    assert_int_equal(back.version, 3);
    assert_int_equal(back.version_oldest, 1);
    assert_int_equal(back.lane, LINK_LANE_BULK);
    assert_true(back.node.instance == 77);
    assert_int_equal(back.node.roles, LINK_ROLE_PROXY);
    assert_string_equal(back.node.name, "p1.example.org");
    assert_true(link_hello_decode(slice_of(bytes, size + 8), &back)); /* A later version says more. */
    assert_int_equal(back.node.features, 513);
    for (size_t cut = 0; cut < size; cut++) {
        bool before = cut >= size - 2; /* The release before ends here. */

        assert_int_equal(link_hello_decode(slice_of(bytes, cut), &back), before);
        assert_true(!before || back.node.features == LINK_FEATURES_UNSAID);
    }
    bytes[size - 3] = '\n';
    assert_false(link_hello_decode(slice_of(bytes, size), &back));
    bytes[size - 3] = 'g';
    bytes[16] = 0; /* No role. */
    assert_false(link_hello_decode(slice_of(bytes, size), &back));
}

/* ---- Who serves, and who asks -------------------------------------------------------------------------- */

static uint16_t port;

struct served { /* Echoes what it gets, and ends with a trailer; or does what the head says. */
    struct link_stream *stream;
    uint64_t bytes;
    bool silent; /* Never answers. */
};

static struct served served[4];
static unsigned served_count, served_lost;
static struct listener listener;

static void served_frame(struct link_stream *s, struct link_frame *f)
{
    struct served *v = s->owner;
    struct slice data = link_frame_data(f);

    v->bytes += data.size;
    if (!v->silent && data.size > 0) {
        struct link_frame *back = link_frame_new(data.size);

        memcpy(back->payload, data.data, data.size);
        link_send(s, back, data.size, 0);
    }
    link_frame_release(f);
    if (s->got_last && !v->silent)
        link_end(s, NULL, 0, SLICE("done"));
}

static unsigned served_credited;

static void served_credit(struct link_stream *s)
{
    served_credited++;
}

/* As much as there is credit for. */
static void served_flood(struct link_stream *s)
{
    while (link_credit(s) > 0)
        link_send(s, link_frame_new(LINK_PAYLOAD_MAX), LINK_PAYLOAD_MAX, 0);
}

static void served_gone(struct link_stream *s)
{
    served_lost++;
}

static const struct link_stream_ops served_ops = {served_frame, served_credit, served_gone};

static void serve(struct link_stream *s, struct link_frame *open)
{
    struct served *v = &served[served_count++ % ARRAY_COUNT(served)];
    struct link_node from;
    bool refuse = slice_eq(link_frame_head(open), SLICE("refuse"));
    bool refer = slice_eq(link_frame_head(open), SLICE("refer"));

    CHECK(link_frame_origin(open, &from) && strcmp(from.name, "asker") == 0);
    if (refuse) {
        link_frame_release(open);
        link_stream_refuse(s, LINK_LOST_ELSEWHERE);
        return;
    }
    if (refer) {
        link_frame_release(open);
        link_stream_refer(s, &(struct link_referral){.epoch = 7ull << 40, .partition = 4095});
        return;
    }
    *v = (struct served){.stream = s, .silent = slice_eq(link_frame_head(open), SLICE("silent"))};
    s->ops = &served_ops;
    s->owner = v;
    if (slice_eq(link_frame_head(open), SLICE("flood"))) {
        v->silent = true;
        served_flood(s);
    }
    served_frame(s, open);
}

static unsigned shard_of(enum link_kind kind, uint16_t route)
{
    return route;
}

static void accepted(struct listener *l, struct sock sock, const struct net_addr *peer)
{
    wires_accept(sock, peer);
}

#define KEPT                                                                                                 \
    1 /* Frames that a reader keeps before he looks at them: more would be more than a first window. */

struct asked {
    struct link_stream *stream;
    uint64_t bytes, sum;
    struct list kept;
    unsigned kept_count;
    unsigned in_place; /* Frames that lay where they were received. */
    bool holds;        /* Reads nothing. */
    bool ended, lost, trailer_good;
    enum link_lost why;
    struct link_referral referral;
};

static void kept_read(struct asked *a, unsigned left)
{
    for (; a->kept_count > left; a->kept_count--) {
        struct link_frame *f = CONTAINER_OF(list_pop_front(&a->kept), struct link_frame, link);
        struct slice data = link_frame_data(f);

        for (size_t i = 0; i < data.size; i++)
            a->sum += (uint8_t)data.data[i];
        a->bytes += data.size;
        link_frame_release(f);
    }
}

static void asked_frame(struct link_stream *s, struct link_frame *f)
{
    struct asked *a = s->owner;

    if (f->header.type == LINK_END) {
        a->ended = true;
        a->trailer_good = slice_eq(link_frame_head(f), SLICE("done"));
    }
    a->in_place += f->space != NULL;
    list_push_back(&a->kept, &f->link);
    a->kept_count++;
    kept_read(a, a->ended ? 0 : a->holds ? UINT32_MAX : KEPT);
}

static void asked_credit(struct link_stream *s)
{
}

static void asked_lost(struct link_stream *s)
{
    struct asked *a = s->owner;

    a->lost = true;
    a->why = s->why;
    a->referral = s->referral;
}

static const struct link_stream_ops asked_ops = {asked_frame, asked_credit, asked_lost};

static bool done(const struct asked *a)
{
    return a->ended || a->lost;
}

static void wait_for(const struct asked *a, unsigned seconds)
{
    for (unsigned i = 0; i < seconds * 200 && !done(a); i++)
        (void)fiber_sleep_ms(5);
}

static void ask(struct asked *a, struct link_target to, const char *head, const char *data, bool last)
{
    *a = (struct asked){.bytes = 0};
    list_init(&a->kept);
    a->stream = link_open(to, LINK_IMAP, slice_str(head), slice_str(data), last, &asked_ops, a);
    CHECK(a->stream != NULL);
}

static void test_small(struct link_target to)
{
    struct asked a;

    ask(&a, to, "echo", "hello", true);
    wait_for(&a, 10);
    CHECK(a.ended && a.bytes == 5 && a.trailer_good);
}

/* Much more than a window, both ways at once. `budget`: with none of it left for what lies where it was received. */
static void test_bulk(struct link_target to, uint64_t budget)
{
    struct link_state *links = link_state();
    uint64_t sent = 0, sum = 0, before = links->budget;
    struct asked a;

    links->budget = budget;
    to.bulk = true;
    ask(&a, to, "echo", "", false);
    while (sent < 40 * LINK_WINDOW && !done(&a)) {
        size_t size = 1 + (sent * 7919) % LINK_PAYLOAD_MAX;
        struct link_frame *f;

        if (link_credit(a.stream) <= 0) {
            (void)fiber_sleep_ms(1);
            continue;
        }
        f = link_frame_new(size);
        for (size_t i = 0; i < size; i++)
            sum += (uint8_t)(f->payload[i] = (char)(sent + i * 31));
        link_send(a.stream, f, size, 0);
        sent += size;
    }
    CHECK(!done(&a));
    if (!done(&a))
        link_send(a.stream, link_frame_new(0), 0, LINK_LAST);
    wait_for(&a, 20);
    CHECK(a.ended && a.bytes == sent && a.sum == sum);
    CHECK((a.in_place > 0) == (budget > 0) && links->held == 0);
    links->budget = before;
}

/* Who answers at length may do so in large steps from the beginning. Not who is to be sent much first. */
static void test_granted(struct link_target to)
{
    for (int i = 0; i <= 2; i++) {
        unsigned count = served_count, lost = served_lost;
        struct asked a;

        to.bulk = i > 0;
        ask(&a, to, "silent", "", i < 2);
        for (unsigned n = 0; n < 200 && served_count == count; n++)
            (void)fiber_sleep_ms(5);
        (void)fiber_sleep_ms(50);
        CHECK(served_count == count + 1 && link_state()->share == LINK_WINDOW);
        CHECK(served[count % ARRAY_COUNT(served)].stream->window ==
              (i == 1 ? LINK_WINDOW : LINK_WINDOW_FIRST));
        link_stream_reset(a.stream);
        for (unsigned n = 0; n < 200 && served_lost == lost; n++)
            (void)fiber_sleep_ms(5);
    }
}

/* He has used up the first window before the grant is there, and is not read: the grant alone wakes him. */
static void test_granted_late(struct link_target to)
{
    unsigned credited = served_credited;
    struct asked a;

    to.bulk = true;
    ask(&a, to, "flood", "", true);
    a.holds = true;
    for (unsigned i = 0; i < 200 && served_credited == credited; i++)
        (void)fiber_sleep_ms(5);
    CHECK(served_credited == credited + 1 && a.kept_count >= 2);
    link_stream_reset(a.stream);
    kept_read(&a, 0);
    (void)fiber_sleep_ms(50);
}

static void test_refused(struct link_target to)
{
    struct asked a;

    ask(&a, to, "refuse", "", true);
    wait_for(&a, 10);
    CHECK(a.lost && a.why == LINK_LOST_ELSEWHERE && a.referral.epoch == 0);
}

/* A node of the release before is told that it is elsewhere, and no more: it would take more for no frame of the link. */
static void test_referred(struct link_target to, uint16_t version)
{
    struct asked a;

    list_each(it, &wires_self()->list)
    {
        struct link_wire *w = CONTAINER_OF(it, struct link_wire, entry);

        if (version > 0)
            w->version = version;
    }
    ask(&a, to, "refer", "", true);
    wait_for(&a, 10);
    CHECK(a.lost && a.why == LINK_LOST_ELSEWHERE);
    CHECK(a.referral.epoch == (version == 2 ? 0 : 7ull << 40) &&
          a.referral.partition == (version == 2 ? 0 : 4095));
    test_small(to); /* The connection goes on. */
}

static void test_given_up(struct link_target to)
{
    struct asked a, b;
    unsigned lost = served_lost;

    ask(&a, to, "silent", "", true);
    (void)fiber_sleep_ms(50);
    link_stream_reset(a.stream);
    ask(&b, to, "echo", "after", true);
    wait_for(&b, 10);
    CHECK(b.ended && b.bytes == 5);
    (void)fiber_sleep_ms(50);
    CHECK(served_lost == lost + 1 && !done(&a));
}

/* Nobody listens: what was never sent is refused, within five seconds. */
static void test_unsent(void)
{
    struct net_addr nowhere = {.ip = {127, 0, 0, 1}, .port = 1, .family = 2};
    struct link_target to = {.peer = link_peer_dial(&nowhere, SLICE("x"), LINK_ROLE_BACKEND, NULL, NULL)};
    uint64_t begin = time_ms();
    struct asked a;

    ask(&a, to, "echo", "", true);
    wait_for(&a, 10);
    CHECK(a.lost && a.why == LINK_LOST_REFUSED && time_ms() - begin <= LINK_UNSENT_MS + LINK_PING_MS + 500);
}

/* The node there is not the one that was meant. */
static void test_other_node(const struct net_addr *addr)
{
    struct link_target to = {.peer = link_peer_dial(addr, SLICE("another"), LINK_ROLE_BACKEND, NULL, NULL)};

    (void)fiber_sleep_ms(200);
    CHECK(!link_peer_up(to.peer));
}

static unsigned stayed, left; /* Words that their owners heard. */

static void changed(struct link_peer *p, bool up)
{
    (*(unsigned *)link_peer_owner(p))++;
}

/* Both hear that the wire is up; that it ends with the node, only who has not left. */
static void test_owner_leaves(const struct net_addr *addr)
{
    struct link_peer *p = link_peer_dial(addr, SLICE("asker"), LINK_ROLE_BACKEND, changed, &left);

    (void)link_peer_dial(addr, SLICE("asker"), LINK_ROLE_BACKEND, changed, &stayed);
    for (unsigned ms = 0; ms < 10000 && (stayed == 0 || left == 0); ms += 10)
        (void)fiber_sleep_ms(10);
    CHECK(stayed == 1 && left == 1);
    link_peer_leave(p);
}

/* ---- The node ------------------------------------------------------------------------------------------ */

static void body_run(void *arg)
{
    struct shard *s = arg;
    struct net_addr addr = {.ip = {127, 0, 0, 1}, .port = port, .family = 2};
    struct link_target to = {.peer = link_peer_dial(&addr, SLICE("asker"), LINK_ROLE_BACKEND, NULL, NULL)};

    for (to.route = 0; to.route < 2;
         to.route++) { /* Served by the shard that the wire came to, and passed on. */
        test_small(to);
        test_bulk(to, link_state()->budget);
        test_bulk(to, 0);
        if (to.route == 0) { /* In memory it holds at once. */
            test_granted(to);
            test_granted_late(to);
        }
        test_refused(to);
        test_referred(to, to.route > 0 ? LINK_VERSION : 0); /* As they have agreed. */
        test_referred(to, 2);
        test_referred(to, LINK_VERSION);
        test_given_up(to);
    }
    to.route = 7; /* No shard of this node. */
    test_refused(to);
    test_other_node(&addr);
    test_unsent();
    test_owner_leaves(&addr);
    node_stop(s->node);
}

static int start(struct shard *s)
{
    const struct wires_config config = {
        .self = {.instance = 1, .roles = LINK_ROLE_ALL, .name = "asker"},
        .shard = shard_of,
    };
    struct net_addr addr = {.ip = {127, 0, 0, 1}, .family = 2};
    int rc = link_start();

    link_serve(LINK_IMAP, serve);
    if (rc < 0 || s->index > 0)
        return rc;
    wires_start(&config);
    listener.accepted = accepted;
    rc = listener_start(&listener, &addr);
    if (rc == 0)
        rc = io_listen_port(listener.sock, &port);
    if (rc < 0)
        return rc;
    return fiber_start("test", RUN_INTERACTIVE, body_run, s) != NULL ? 0 : -1;
}

static void stop(struct shard *s)
{
    if (s->index == 0) {
        listener_stop(&listener);
        wires_stop();
        listener_wait(&listener);
    }
    link_serve(LINK_IMAP, NULL);
    (void)fiber_sleep_ms(50); /* Frames go home. */
    link_stop();
}

static void test_wire(void **state)
{
    static const struct node_ops ops = {start, stop};
    const struct node_options options = {
        .ops = &ops, .shard_count = 2, .helper_count = 1, .memory = 1u << 30, .stop_timeout_ms = 5000};
    char error[NODE_ERROR_MAX] = "";

    assert_int_equal(node_run(&options, error), 0);
    assert_int_equal(failures, 0);
    assert_int_equal(stayed, 2);
    assert_int_equal(left, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_good),
        cmocka_unit_test(test_header_bad),
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_wire),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
