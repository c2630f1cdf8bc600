/* Connections: plain, then under TLS. Built twice: with BoringSSL, and with the simulator's stand-in. */
#include "core/heap.h"
#include "core/metrics.h"
#include "net/conn.h"
#include "tests/unit/net/certificates.h"
#include "tests/unit/net/fd_door.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define INPUT_MAX  64
#define OUTPUT_MAX (4 * 1024 * 1024)

/* A session that takes lines and writes them back; words at the front of a line say what else it does. */
struct session {
    struct conn conn;
    struct tls_context *tls;
    struct slice alpn;
    unsigned data_count, sent_count, secured_count, ended_count, closed_count;
    int why;
    bool keep; /* Do not close when the peer has ended. */
    char server_name[64];
};

static struct session *session; /* In memory of its own, freed when it is closed, for the sanitizers. */
static struct session last;     /* Its counts, from then on. */
static int peer;
static unsigned loans_out;
static struct conn_space *held; /* Of the line "hold": where it lies. */
static struct slice held_line;

static void loan_back(void *arg)
{
    loans_out--;
    free(arg);
}

static void write_loan(struct conn *c, size_t size, char fill)
{
    char *data = malloc(size);

    memset(data, fill, size);
    loans_out++;
    conn_write_loan(c, slice_of(data, size), loan_back, data);
}

static void run_line(struct session *s, struct slice line)
{
    struct conn *c = &s->conn;

    conn_write(c, line);
    conn_write(c, SLICE("\n"));
    if (slice_eq(line, SLICE("pause")))
        conn_pause(c);
    else if (slice_eq(line, SLICE("hold")))
        held = conn_hold(c, held_line = line);
    else if (slice_eq(line, SLICE("rest")))
        conn_rest(c);
    else if (slice_eq(line, SLICE("close")))
        conn_close(c);
    else if (slice_eq(line, SLICE("abort")))
        conn_abort(c);
    else if (slice_eq(line, SLICE("loan")))
        write_loan(c, 20000, 'L');
    else if (slice_eq(line, SLICE("tls")))
        conn_start_tls(c, s->tls, s->alpn);
}

static size_t on_data(struct conn *c, struct slice in)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);
    size_t taken = 0;

    s->data_count++;
    while (taken < in.size && !c->paused && !c->closing && (c->tls == NULL || c->phase == 2)) {
        struct slice rest = slice_from(in, taken);
        size_t size = slice_find(rest, '\n');

        if (size == rest.size)
            break;
        run_line(s, slice_first(rest, size));
        taken += size + 1;
    }
    return taken;
}

static void on_sent(struct conn *c)
{
    CONTAINER_OF(c, struct session, conn)->sent_count++;
}

static void on_secured(struct conn *c)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);

    s->secured_count++;
    assert_true(tls_server_name(c->tls).size < sizeof s->server_name);
    memcpy(s->server_name, tls_server_name(c->tls).data, tls_server_name(c->tls).size);
    conn_write(c, SLICE("secured\n"));
}

static void on_ended(struct conn *c, int why)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);

    s->ended_count++;
    s->why = why;
    if (!s->keep)
        conn_close(c);
}

static void on_closed(struct conn *c)
{
    struct session *s = CONTAINER_OF(c, struct session, conn);

    s->closed_count++;
    last = *s;
    session = NULL;
    free(s);
}

static const struct conn_ops ops = {on_data, on_sent, on_secured, on_ended, on_closed, NULL};

/* ---- One that sleeps whenever it can ------------------------------------------------------------------- */

static struct conn_packed packed;
static unsigned slept, woken_by_bytes;
static const struct conn_ops sleepy_ops;

static void on_rested(struct conn *c)
{
    if (!conn_sleep(c, &packed))
        return;
    io_watch(packed.sock, ++slept);
    last = *CONTAINER_OF(c, struct session, conn);
    free(session);
    session = NULL;
}

static void wake(bool fired)
{
    session = calloc(1, sizeof *session);
    *session = last;
    memset(&session->conn, 0x55, sizeof session->conn);
    conn_wake(&session->conn, &packed, fired, INPUT_MAX, &sleepy_ops);
    memset(&packed, 0x55, sizeof packed);
}

static void on_watch(uint32_t cookie, int32_t res)
{
    assert_int_equal(cookie, slept);
    assert_true(res > 0);
    woken_by_bytes++;
    wake(true);
}

static unsigned hello_count;

static void on_hello(struct conn *c)
{
    hello_count++;
}

static const struct conn_ops sleepy_ops = {on_data,   on_sent,   on_secured, on_ended,
                                           on_closed, on_rested, on_hello};

static void open_session(void)
{
    struct net_addr nobody = {0};

    session = calloc(1, sizeof *session);
    last = (struct session){0};
    conn_init(&session->conn, door_pair(&peer), &nobody, INPUT_MAX, &ops);
    assert_int_equal(session->data_count, 0);
}

static void open_sleepy(void)
{
    slept = woken_by_bytes = 0;
    io_watch_with(on_watch);
    open_session();
    session->conn.ops = &sleepy_ops;
    conn_rest(&session->conn);
}

static int setup(void **state)
{
    door_start();
    return 0;
}

/* Everything that was taken was given back. */
static int teardown(void **state)
{
    assert_null(session);
    assert_int_equal(loans_out, 0);
    assert_int_equal(heap_used(shard_self()->heap), 0);
    close(peer);
    door_stop();
    return 0;
}

static void put(const char *text)
{
    assert_int_equal(send(peer, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void send_text(const char *text)
{
    put(text);
    door_settle(0);
}

/* All that has come at the peer. NULL: nothing, and the stream has ended. */
static const char *received(void)
{
    static char text[OUTPUT_MAX + 1];
    size_t size = 0;
    ssize_t rc;

    while ((rc = recv(peer, text + size, OUTPUT_MAX - size, 0)) > 0) {
        size += (size_t)rc;
        door_settle(0);
    }
    text[size] = '\0';
    return size == 0 && rc == 0 ? NULL : text;
}

static void hang_up(void)
{
    shutdown(peer, SHUT_WR);
    door_settle(0);
}

/* ---- Plain --------------------------------------------------------------------------------------------- */

/* While much comes a receive takes more than one of the ring's buffers; afterwards it has no memory of its own. */
static void test_bulk(void **state)
{
    const size_t size = 100000;
    char *many = malloc(size + 1);
    struct door_counts before;

    for (size_t i = 0; i < size; i++)
        many[i] = "noop\n"[i % 5];
    many[size] = '\0';
    door_recv_size = 16384;
    open_session();
    conn_receive_bulk(&session->conn);
    for (unsigned i = 0; i < 3; i++) {
        before = door_counts;
        send_text(many);
        assert_string_equal(received(), many);
        assert_int_equal(door_counts.recvs_into,
                         before.recvs_into + 2); /* The second waits for what comes. */
        assert_non_null(session->conn.space);
        send_text("noop\n");
        assert_string_equal(received(), "noop\n");
        assert_null(session->conn.space);
    }
    before = door_counts;
    send_text("noop\n");
    assert_string_equal(received(), "noop\n");
    assert_int_equal(door_counts.recvs_into, before.recvs_into);
    hang_up();
    door_recv_size = 4096;
    free(many);
}

/* What is held stays where it was received, whatever comes behind it, and when the connection is gone. */
static void test_hold(void **state)
{
    const size_t size = 100000;
    char *many = malloc(size + 1);

    for (size_t i = 0; i < size; i++)
        many[i] = "noop\n"[i % 5];
    many[size] = '\0';
    door_recv_size = 16384;
    open_session();
    conn_receive_bulk(&session->conn);
    send_text("hold\n");
    assert_string_equal(received(), "hold\n");
    assert_null(held); /* In a buffer of the ring. */
    send_text(many);
    assert_string_equal(received(), many);
    send_text("hold\n");
    assert_string_equal(received(), "hold\n");
    assert_non_null(held);
    assert_int_equal(held->held, 1);
    for (unsigned i = 0; i < 4; i++) {
        send_text(many);
        assert_string_equal(received(), many);
        assert_true(slice_eq(held_line, SLICE("hold")));
    }
    hang_up();
    assert_true(slice_eq(held_line, SLICE("hold")));
    conn_space_release(held);
    held = NULL;
    door_recv_size = 4096;
    free(many);
}

/* And what comes behind it has the rest of the same memory. */
static void test_hold_room(void **state)
{
    char many[40001];
    struct conn_space *first;

    memset(many, 'x', 40000);
    many[39999] = '\n';
    many[40000] = '\0';
    memcpy(many, "noop\nnoop\n", 10);
    door_recv_size = 16384;
    open_session();
    session->conn.input_max = 65536;
    conn_receive_bulk(&session->conn);
    send_text(many);
    assert_string_equal(received(), many);
    send_text("hold\n");
    assert_string_equal(received(), "hold\n");
    first = held;
    assert_non_null(first);
    assert_int_equal(first->used, 5); /* Nobody held what came before it: it lies in front. */
    conn_space_release(first);
    conn_carries_secrets(&session->conn, true);
    send_text(many);
    assert_string_equal(received(), many);
    assert_non_null(session->conn.space);
    send_text("hold\n");
    assert_string_equal(received(), "hold\n");
    assert_null(held); /* It is overwritten behind data(). */
    hang_up();
    door_recv_size = 4096;
}

static void test_round_trip_cost(void **state)
{
    struct door_counts before;

    open_session();
    conn_write(&session->conn, SLICE("hello\n"));
    door_settle(0);
    assert_string_equal(received(), "hello\n");
    assert_int_equal(door_counts.polls, 0);
    assert_int_equal(door_counts.recvs, 1);
    send_text("first\n");
    assert_string_equal(received(), "first\n");
    before = door_counts;
    for (unsigned i = 0; i < 10; i++) {
        send_text("noop\n");
        assert_string_equal(received(), "noop\n");
    }
    assert_int_equal(door_counts.polls, before.polls);
    assert_int_equal(door_counts.recvs, before.recvs + 10);
    assert_int_equal(door_counts.sends, before.sends + 10);
    assert_int_equal(door_counts.loans_max, 1);
    hang_up();
    assert_null(received());
    assert_int_equal(last.closed_count, 1);
    assert_int_equal(last.ended_count, 1);
    assert_int_equal(last.why, 0);
    assert_int_equal(last.conn.bytes_in, 6 + 50);
    assert_int_equal(last.conn.bytes_out, 6 + 6 + 50);
}

/* A short answer to somebody who will say more makes no turn when it has left; anything that waits for that does. */
static void test_short_answers(void **state)
{
    struct door_counts before;

    open_session();
    send_text("a\n"); /* The first: no timer runs yet that would end the wait. */
    before = door_counts;
    for (unsigned i = 0; i < 5; i++)
        send_text("b\n");
    assert_int_equal(door_counts.quiet_sends, before.quiet_sends + 5);
    assert_int_equal(door_counts.awaited, before.awaited);
    assert_int_equal(door_in_flight(), 2); /* The last one has not been told yet. */
    conn_write(&session->conn, SLICE("second\n"));
    door_settle(0);
    assert_int_equal(door_counts.awaited, before.awaited + 1); /* It waited for the one before. */
    assert_string_equal(received(), "a\nb\nb\nb\nb\nb\nsecond\n");
    before = door_counts;
    send_text("loan\n");
    send_text("rest\n");
    conn_write(&session->conn, SLICE("idle\n"));
    door_settle(0);
    send_text("a\n");
    door_advance(2 * CONN_QUIET_MS + 20); /* The quiet one gives its memory back. */
    assert_int_equal(door_in_flight(), 1);
    assert_int_equal(heap_used(shard_self()->heap), 0);
    send_text("a\n");
    send_text("close\n");
    assert_int_equal(last.closed_count, 1);
    assert_int_equal(loans_out, 0);
}

/* Whoever says nothing to a greeting is soon at rest; whoever answers has his time. */
static void test_quiet_soon(void **state)
{
    open_session();
    conn_rest_soon(&session->conn, 50);
    door_settle(0);
    assert_int_equal(door_counts.polls, 0);
    door_advance(70);
    assert_int_equal(door_counts.polls, 1);
    conn_rest_soon(&session->conn, 50);
    send_text("a\n");
    door_advance(CONN_QUIET_MS - 100);
    assert_int_equal(door_counts.polls, 1);
    door_advance(CONN_QUIET_MS + 20);
    assert_int_equal(door_counts.polls, 2);
    send_text("close\n");
}

/* A quiet connection goes back to its poll and keeps no memory; bytes in between put that off. */
static void test_quiet(void **state)
{
    open_session();
    send_text("a\n");
    assert_int_equal(door_counts.polls, 0);
    assert_true(heap_used(shard_self()->heap) > 0);
    for (unsigned i = 0; i < 5; i++) {
        door_advance(CONN_QUIET_MS - 100);
        send_text("b\n");
        assert_int_equal(door_counts.polls, 0);
    }
    door_advance(2 * CONN_QUIET_MS + 20);
    assert_int_equal(door_counts.polls, 1);
    assert_int_equal(door_counts.cancels, 1);
    assert_int_equal(heap_used(shard_self()->heap), 0);
    send_text("c\n");
    assert_int_equal(door_counts.polls, 1);
    send_text("rest\n");
    assert_int_equal(door_counts.polls, 2);
    assert_int_equal(heap_used(shard_self()->heap), 0);
    conn_write(&session->conn, SLICE("x"));
    door_settle(0);
    assert_int_equal(heap_used(shard_self()->heap), 0);
    assert_int_equal(door_in_flight(), 1);
    send_text("close\n");
    assert_string_equal(received(), "a\nb\nb\nb\nb\nb\nc\nrest\nxclose\n");
}

static void test_sleep(void **state)
{
    open_sleepy();
    conn_write(&session->conn, SLICE("hello\n"));
    door_settle(0);
    assert_null(session); /* Gone, with all that it had; one poll is left. */
    assert_int_equal(heap_used(shard_self()->heap), 0);
    assert_int_equal(slept, 1);
    assert_int_equal(door_counts.polls, 1);
    assert_string_equal(received(), "hello\n");

    send_text("a\n"); /* Bytes; it sleeps again when it has been quiet. */
    assert_int_equal(woken_by_bytes, 1);
    assert_non_null(session);
    assert_string_equal(received(), "a\n");
    door_advance(2 * CONN_QUIET_MS + 20);
    assert_null(session);
    assert_int_equal(slept, 2);
    assert_int_equal(door_counts.polls, 2);

    wake(false); /* Something else; the same poll serves awake and asleep. */
    assert_int_equal(door_in_flight(), 1);
    conn_write(&session->conn, SLICE("news\n"));
    door_settle(0);
    assert_null(session);
    assert_int_equal(door_counts.polls, 2);
    assert_int_equal(door_counts.cancels, 1);
    assert_string_equal(received(), "news\n");

    send_text("hal"); /* The beginning of a line is kept. */
    door_advance(2 * CONN_QUIET_MS + 20);
    assert_null(session);
    assert_int_equal(packed.input_size, 3);
    wake(false);
    conn_write(&session->conn, SLICE("!"));
    door_settle(0);
    assert_null(session);
    send_text("f\nrest\n");
    assert_string_equal(received(), "!half\nrest\n");
    assert_null(session);

    wake(false); /* Awake for no reason: its poll is an operation again. */
    conn_abort(&session->conn);
    door_settle(0);
    assert_null(session);
    assert_int_equal(last.closed_count, 1);
    assert_int_equal(door_in_flight(), 0);
}

/* The peer goes while it sleeps; then an owner ends one that sleeps without waking it. */
static void test_sleep_ends(void **state)
{
    open_sleepy();
    door_settle(0);
    assert_null(session);
    hang_up();
    assert_int_equal(woken_by_bytes, 1);
    assert_int_equal(last.ended_count, 1);
    assert_int_equal(last.closed_count, 1);
    close(peer);
    open_sleepy();
    door_settle(0);
    assert_null(session);
    io_close(packed.sock);
    assert_int_equal(door_in_flight(), 0);
}

static void test_one_send_a_turn(void **state)
{
    open_session();
    for (unsigned i = 0; i < 1000; i++)
        conn_write(&session->conn, SLICE("0123456789"));
    assert_int_equal(conn_queued(&session->conn), 10000);
    door_settle(0);
    assert_int_equal(door_counts.sends, 1);
    assert_int_equal(session->sent_count, 1);
    assert_int_equal(conn_queued(&session->conn), 0);
    assert_int_equal(strlen(received()), 10000);
    send_text("a\nb\nc\nloan\nd\n");
    assert_int_equal(door_counts.sends, 2);
    assert_int_equal(strlen(received()), 13 + 20000);
    conn_abort(&session->conn);
    door_settle(0);
}

/* While a send is out, blocks that it carries are written on. */
static void test_write_behind_send(void **state)
{
    open_session();
    door_hold_sends = true;
    for (unsigned i = 0; i < 26; i++) {
        char c = (char)('a' + i);

        conn_write(&session->conn, slice_of(&c, 1));
        if (i % 5 == 4)
            write_loan(&session->conn, 1, (char)('A' + i));
        door_settle(0);
    }
    assert_int_equal(door_counts.sends, 1);
    assert_int_equal(conn_queued(&session->conn), 31);
    door_hold_sends = false;
    door_settle(0);
    assert_int_equal(door_counts.sends, 2);
    assert_string_equal(received(), "abcdeEfghijJklmnoOpqrstTuvwxyYz");
    conn_close(&session->conn);
    door_settle(0);
}

static void test_input_kept(void **state)
{
    open_session();
    for (const char *c = "one\ntwo\nthree"; *c != '\0'; c++) {
        char text[2] = {*c, '\0'};

        send_text(text);
    }
    assert_string_equal(received(), "one\ntwo\n");
    send_text("\nfour\nfi");
    assert_string_equal(received(), "three\nfour\n");
    hang_up(); /* A line without its end is gone. */
    assert_null(received());
    assert_int_equal(last.why, 0);
}

static void test_input_limit(void **state)
{
    char line[2 * INPUT_MAX];

    open_session();
    memset(line, 'x', sizeof line);
    line[INPUT_MAX - 1] = '\0';
    send_text(line);
    assert_int_equal(session->ended_count, 0);
    send_text("\n");
    assert_int_equal(strlen(received()), INPUT_MAX);
    session->keep = true;
    send_text(line);
    send_text("x");
    assert_int_equal(session->ended_count, 1);
    assert_int_equal(session->why, -EMSGSIZE);
    conn_write(&session->conn, SLICE("too long\n")); /* He may still be told. */
    conn_close(&session->conn);
    door_settle(0);
    assert_string_equal(received(), "too long\n");
    assert_null(received());
}

static void test_pause(void **state)
{
    open_session();
    send_text("a\npause\nb\nc");
    assert_string_equal(received(), "a\npause\n");
    send_text("c\nd\n"); /* One receive is still armed. */
    send_text("e\n");
    assert_string_equal(received(), "");
    assert_int_equal(door_in_flight(), 0);
    conn_resume(&session->conn);
    assert_string_equal(received(), "");
    door_settle(0);
    assert_string_equal(received(), "b\ncc\nd\ne\n");
    send_text("pause\nx\n");
    conn_resume(&session->conn);
    conn_pause(&session->conn);
    door_settle(0);
    assert_string_equal(received(), "pause\n");
    hang_up(); /* Paused twice by now: the second receive found the end. */
    conn_resume(&session->conn);
    door_settle(0);
    assert_null(session);
}

/* While his request is worked on. Reset: at once. His side alone closed: he has his answer, and what he sent before; one that comes
 * neither whole nor in part for too long is not waited for. */
static void test_pause_peer_goes(void **state)
{
    open_session();
    send_text("pause\n");
    hang_up();
    door_advance(CONN_GONE_MS - 1000);
    assert_int_equal(session->ended_count, 0);
    conn_write(&session->conn, SLICE("some\n"));
    door_settle(0);
    door_advance(CONN_GONE_MS - 1000);
    assert_int_equal(session->ended_count, 0);
    conn_write(&session->conn, SLICE("more\n"));
    conn_resume(&session->conn);
    door_settle(0);
    assert_null(session);
    assert_int_equal(last.why, 0);
    assert_string_equal(received(), "pause\nsome\nmore\n");

    close(peer);
    open_session();
    send_text("pause\n");
    hang_up();
    door_advance(CONN_GONE_MS + 100);
    assert_null(session);
    assert_int_equal(last.why, 0);

    close(peer);
    open_session();
    send_text("pause\npause\nx\n");
    hang_up();
    door_advance(3 * CONN_GONE_MS); /* What he has still to be answered stands before his end. */
    assert_int_equal(session->ended_count, 0);
    conn_resume(&session->conn);
    door_settle(0);
    assert_string_equal(received(), "pause\npause\n");
    conn_resume(&session->conn);
    door_settle(0);
    assert_null(session);
    assert_string_equal(received(), "x\n");

    close(peer);
    open_session();
    send_text("pause\n");
    close(peer); /* With something unread: a reset. */
    peer = -1;
    door_settle(0);
    assert_null(session);
    assert_int_equal(last.why, -ECONNRESET);
}

static void test_loans(void **state)
{
    open_session();
    send_text("loan\n");
    assert_int_equal(loans_out, 0);
    assert_int_equal(strlen(received()), 20005);
    door_hold_sends = true;
    send_text("loan\nloan\nloan\n");
    assert_int_equal(loans_out, 3);
    conn_abort(&session->conn);
    write_loan(&session->conn, 5, 'x');
    assert_int_equal(loans_out, 4); /* Not from inside the call. */
    door_settle(0);
    assert_int_equal(loans_out, 0);
    assert_int_equal(last.closed_count, 1);
    open_session(); /* A second peer; the first is closed by the test's end. */
    conn_close(&session->conn);
    write_loan(&session->conn, 5, 'x');
    door_settle(0);
    assert_int_equal(loans_out, 0);
    assert_null(session);
}

static void test_slow_reader(void **state)
{
    open_session();
    session->keep = true;
    door_hold_sends = true;
    while (session->ended_count == 0) {
        conn_write(&session->conn, SLICE("0123456789012345678901234567890123456789"));
        assert_true(conn_queued(&session->conn) <= CONN_QUEUED_MAX);
        if (conn_queued(&session->conn) > CONN_QUEUED_MAX - 40)
            door_settle(0);
    }
    assert_int_equal(session->why, -ENOBUFS);
    conn_close(&session->conn);
    assert_non_null(session);
    door_settle(0);
    assert_null(session);
    assert_null(received());
}

static void test_close_deadline(void **state)
{
    unsigned recvs;

    open_session();
    door_hold_sends = true;
    send_text("close\n");
    conn_close(&session->conn);
    recvs = door_counts.recvs;
    door_advance(CONN_CLOSE_AT_ONCE_MS - 10);
    assert_int_equal(door_counts.recvs, recvs); /* Its last bytes would have left by now. */
    door_advance(20);
    assert_int_equal(door_counts.recvs, recvs + 1);
    door_advance(CONN_CLOSE_MS - CONN_CLOSE_AT_ONCE_MS - 30);
    assert_non_null(session);
    door_advance(40);
    assert_null(session);
    assert_int_equal(last.ended_count, 0);
}

static void say_bye(void)
{
    conn_write(&session->conn, SLICE("bye\n"));
    conn_linger(&session->conn);
    conn_close(&session->conn);
    door_settle(0);
}

/* The last words reach one who is still sending: the close is no reset. */
static void test_linger(void **state)
{
    char line[2 * INPUT_MAX] = {0};

    open_session();
    say_bye();
    for (unsigned i = 0; i < 3; i++) {
        send_text("not yet all\n");
        door_advance(CONN_LINGER_QUIET_MS - 10);
        assert_non_null(session);
    }
    door_advance(2 * CONN_LINGER_QUIET_MS);
    assert_null(session);
    assert_int_equal(last.data_count, 0);
    assert_string_equal(received(), "bye\n");
    assert_null(received());

    close(peer);
    open_session();
    session->keep = true;
    memset(line, 'x', sizeof line - 1);
    send_text(line);
    assert_int_equal(session->why, -EMSGSIZE);
    say_bye();
    send_text(line);
    assert_string_equal(received(), "bye\n");
    hang_up(); /* He has read it. */
    assert_null(session);
    assert_int_equal(last.ended_count, 1);
}

static void test_linger_ends(void **state)
{
    open_session();
    say_bye();
    for (unsigned i = 0; i < CONN_LINGER_MS / CONN_LINGER_QUIET_MS; i++) {
        assert_non_null(session);
        send_text("x");
        door_advance(CONN_LINGER_QUIET_MS);
    }
    assert_null(session);

    close(peer);
    open_session();
    session->keep = true;
    hang_up();
    say_bye(); /* He will send nothing. */
    assert_null(session);
}

static void test_peer_gone(void **state)
{
    open_session();
    session->keep = true;
    hang_up(); /* He has said all, and still reads. */
    assert_int_equal(session->ended_count, 1);
    conn_write(&session->conn, SLICE("the answer\n"));
    door_settle(0);
    assert_string_equal(received(), "the answer\n");
    close(peer);
    conn_write(&session->conn, SLICE("more\n"));
    door_settle(0);
    assert_int_equal(session->ended_count, 1); /* Once. */
    conn_write(&session->conn, SLICE("more\n"));
    conn_close(&session->conn);
    door_settle(0);
    assert_null(session);
    open_session();
    door_settle(0);
    close(peer);
    conn_write(&session->conn, SLICE("more\n"));
    door_settle(0);
    assert_null(session);
    assert_int_equal(last.ended_count, 1);
    open_session();
    conn_close(&session->conn);
    door_settle(0);
}

static void test_no_buffers(void **state)
{
    open_session();
    door_refuse_recvs = 3;
    send_text("a\n");
    assert_string_equal(received(), "a\n");
    assert_int_equal(door_counts.polls, 3);
    send_text("abort\n");
    assert_null(session);
}

static void test_early_close(void **state)
{
    open_session();
    conn_abort(&session->conn);
    assert_int_equal(session->closed_count, 0); /* Never inside the call. */
    door_settle(0);
    assert_null(session);
    close(peer);
    open_session();
    conn_write(&session->conn, SLICE("bye\n"));
    conn_close(&session->conn);
    conn_close(&session->conn);
    door_settle(0);
    assert_string_equal(received(), "bye\n");
    assert_null(received());
}

/* ---- TLS ----------------------------------------------------------------------------------------------- */

static struct tls_context *server_context, *client_context;
static struct tls *client;
static char ticket[TLS_TICKET_MAX];
static struct slice ticket_kept;
static char plain[OUTPUT_MAX + 1]; /* What came through the client. */
static size_t plain_size;
static bool client_secured, client_ended, client_failed;

static struct tls_ticket_keys ticket_keys;

static void client_send(struct tls_output *out)
{
    assert_int_equal(send(peer, out->data, out->size, MSG_NOSIGNAL), out->size);
    out->size = 0;
}

/* Runs both sides until nothing moves. */
static void client_run(void)
{
    static char cipher[65536];
    struct tls_output out = {0};
    bool more = true;

    door_settle(0);
    while (more) {
        ssize_t size = recv(peer, cipher, sizeof cipher, 0);
        struct slice in = slice_of(cipher, (size_t)MAX(size, 0)), text;
        enum tls_event event;

        while ((event = tls_feed(client, &in, &text, &out)) != TLS_WAIT && !client_ended && !client_failed) {
            client_secured |= event == TLS_SECURED;
            client_ended |= event == TLS_ENDED;
            client_failed |= event == TLS_FAILED;
            if (event == TLS_DATA) {
                assert_true(plain_size + text.size <= OUTPUT_MAX);
                memcpy(plain + plain_size, text.data, text.size);
                plain_size += text.size;
            }
        }
        more = size > 0 || out.size > 0;
        if (out.size > 0)
            client_send(&out);
        door_settle(0);
    }
    plain[plain_size] = '\0';
    tls_output_fini(&out);
}

static void client_open(const char *name, const char *alpn)
{
    client_secured = client_ended = client_failed = false;
    plain_size = 0;
    client = tls_connect(client_context, slice_str(name), slice_str(alpn), ticket_kept);
    assert_non_null(client);
    ticket_kept = slice_of(NULL, 0);
    client_run();
}

static void client_put(const char *text)
{
    struct tls_output out = {0};

    tls_seal(client, slice_str(text), &out);
    client_send(&out);
    tls_output_fini(&out);
    client_run();
}

static void client_close(void)
{
    struct slice t = tls_ticket(client);

    if (t.size > 0) {
        assert_true(t.size <= sizeof ticket);
        memcpy(ticket, t.data, t.size);
        ticket_kept = slice_of(ticket, t.size);
    }
    tls_free(client);
    client = NULL;
}

static int setup_tls(void **state)
{
    static const struct tls_pair pairs[] = {
        {.cert = SLICE(DEFAULT_CERT), .key = SLICE(DEFAULT_KEY)},
        {.name = SLICE("*.example.net"), .cert = SLICE(OTHER_CERT), .key = SLICE(OTHER_KEY)},
    };
    char error[TLS_ERROR_MAX];

    door_start();
    ticket_kept = slice_of(NULL, 0);
    ticket_keys.count = 0;
    tls_ticket_keys_add(&ticket_keys, (const uint8_t[TLS_TICKET_KEY_SIZE]){1});
    assert_int_equal(tls_context_create(pairs, 2, &ticket_keys, &server_context, error), 0);
    assert_int_equal(tls_context_create_client(SLICE(""), &client_context, error), 0);
    return 0;
}

static int teardown_tls(void **state)
{
    tls_context_release(server_context);
    tls_context_release(client_context);
    return teardown(state);
}

static void open_tls(void)
{
    open_session();
    session->tls = server_context;
    session->alpn = SLICE("imap");
    conn_start_tls(&session->conn, server_context, SLICE("imap"));
    conn_write(&session->conn, SLICE("never in clear\n"));
    door_settle(0);
}

/* ---- A ClientHello before all else --------------------------------------------------------------------- */

static const struct conn_ops patient_ops = {.data = on_data,
                                            .sent = on_sent,
                                            .secured = on_secured,
                                            .ended = on_ended,
                                            .closed = on_closed,
                                            .hello = on_hello};

static void open_patient(void)
{
    hello_count = 0;
    open_session();
    session->conn.ops = &patient_ops;
    conn_await_hello(&session->conn, false);
    door_settle(0);
}

/* Nothing is made for a client before his hello is whole, nor before the owner says so. */
static void test_hello_bytewise(void **state)
{
    struct slice in = {0}, text;
    struct tls_output out = {0};

    open_patient();
    client_secured = client_ended = client_failed = false;
    plain_size = 0;
    client = tls_connect(client_context, SLICE("mail.example.org"), SLICE("imap"), slice_of(NULL, 0));
    assert_int_equal(tls_feed(client, &in, &text, &out), TLS_WAIT);
    for (uint32_t i = 0; i < out.size; i++) {
        assert_int_equal(hello_count, 0);
        assert_true(session->conn.input_capacity <= i + 256);
        assert_int_equal(send(peer, out.data + i, 1, MSG_NOSIGNAL), 1);
        door_settle(0);
    }
    tls_output_fini(&out);
    assert_int_equal(hello_count, 1);
    assert_null(session->conn.tls);
    client_run();
    assert_false(client_secured);
    conn_accept_tls(&session->conn, server_context, SLICE("imap"));
    client_run();
    assert_true(client_secured);
    assert_null(session->conn.input);
    client_put("a\n");
    assert_string_equal(plain, "secured\na\n");
    client_put("close\n");
    assert_true(client_ended);
    assert_int_equal(hello_count, 1);
    client_close();
    close(peer);
}

static void refused(const char *bytes, size_t size)
{
    static char many[8000];

    open_patient();
    memcpy(many, bytes, MIN(size, sizeof many));
    assert_int_equal(send(peer, many, size, MSG_NOSIGNAL), size);
    door_settle(0);
    assert_null(session);
    assert_int_equal(last.why, -EPROTO);
    assert_int_equal(hello_count, 0);
    assert_int_equal(recv(peer, many, sizeof many, 0), 7); /* An alert, */
    assert_int_equal(many[0], 21);
    assert_true(recv(peer, many, sizeof many, 0) <= 0); /* and the end; what was not read makes it a reset. */
    close(peer);
}

static void test_hello_refused(void **state)
{
    static char fat[5000] = {22, 3, 1, 0x3f, 0x10, 1, 0, 0x3f, 0};

    refused("GET / HTTP/1.1\r\n\r\n", 18);
    refused(fat, sizeof fat);
}

/* The beginning of a hello waits asleep, in the record or beside it. */
static void hello_sleeps(size_t first, bool beside)
{
    struct slice in = {0}, text;
    struct tls_output out = {0};

    hello_count = 0;
    open_sleepy();
    conn_await_hello(&session->conn, false);
    door_settle(0);
    assert_null(session);
    client_secured = client_ended = client_failed = false;
    plain_size = 0;
    client = tls_connect(client_context, SLICE("mail.example.org"), SLICE("imap"), slice_of(NULL, 0));
    assert_int_equal(tls_feed(client, &in, &text, &out), TLS_WAIT);
    assert_int_equal(send(peer, out.data, first, MSG_NOSIGNAL), first);
    door_settle(0);
    assert_int_equal(woken_by_bytes, 1);
    assert_null(session); /* At once. */
    assert_true(packed.awaits_hello);
    assert_int_equal(packed.hello != NULL, beside);
    assert_int_equal(beside ? packed.hello_size : packed.input_size, first);
    assert_int_equal(send(peer, out.data + first, out.size - first, MSG_NOSIGNAL), out.size - first);
    tls_output_fini(&out);
    door_settle(0);
    assert_int_equal(hello_count, 1);
    conn_accept_tls(&session->conn, server_context, SLICE("imap"));
    client_run();
    assert_true(client_secured);
    client_put("close\n");
    client_close();
    close(peer);
}

static void test_hello_asleep(void **state)
{
    hello_sleeps(50, false);
    hello_sleeps(CONN_PACKED_INPUT_MAX, false);
    hello_sleeps(CONN_PACKED_INPUT_MAX + 1, true);
    hello_sleeps(200, true);
}

static void test_tls_implicit(void **state)
{
    open_tls();
    client_open("mail.example.org", "imap");
    assert_true(client_secured);
    assert_string_equal(plain, "secured\n");
    assert_string_equal(session->server_name, "mail.example.org");
    assert_int_equal(session->secured_count, 1);
    client_put("a\nb\n");
    assert_string_equal(plain, "secured\na\nb\n");
    client_put("close\n");
    assert_string_equal(plain, "secured\na\nb\nclose\n");
    assert_true(client_ended); /* By close_notify. */
    assert_null(session);
    assert_int_equal(shard_self()->metrics->tls_handshakes, 1);
    assert_int_equal(shard_self()->metrics->tls_resumed, 0);
    client_close();
}

static void test_starttls(void **state)
{
    open_session();
    session->tls = server_context;
    send_text("a\ntls\n");
    assert_string_equal(received(), "a\ntls\n");
    client_open("", "");
    assert_string_equal(plain, "secured\n");
    client_put("b\n");
    assert_string_equal(plain, "secured\nb\n");
    client_put("close\n");
    assert_null(session);
    client_close();
}

/* CVE-2011-0411 and its kin: what comes with STARTTLS, or before its answer has left, is never run. */
static void test_starttls_injection(void **state)
{
    open_session();
    session->tls = server_context;
    send_text("tls\nevil\n");
    assert_string_equal(received(), "tls\n");
    client_open("", "");
    assert_string_equal(plain, "secured\n");
    client_put("close\n");
    assert_string_equal(plain, "secured\nclose\n");
    client_close();
    close(peer);

    open_session();
    session->tls = server_context;
    door_hold_sends = true; /* The answer cannot leave; the attacker's segment comes meanwhile. */
    send_text("tls\n");
    send_text("evil\n");
    door_hold_sends = false;
    door_settle(0);
    assert_memory_equal(received(), "tls\n", 4);
    assert_null(session); /* It was taken for TLS, which it is not. */
    assert_int_equal(last.why, -EPROTO);
    close(peer);

    open_session(); /* Asked for from outside of data(), while half a line is kept and a receive is armed. */
    session->tls = server_context;
    send_text("a\nhalf");
    put("evil\n");
    door_hold_reads = true;
    conn_write(&session->conn, SLICE("tls\n"));
    conn_start_tls(&session->conn, server_context, SLICE(""));
    door_settle(0);
    assert_string_equal(received(), "a\n"); /* The answer waits for the end of that receive. */
    door_hold_reads = false;
    door_settle(0);
    assert_string_equal(received(), "tls\n");
    client_open("", "");
    assert_string_equal(plain, "secured\n");
    client_put("b\n");
    client_put("close\n");
    assert_string_equal(plain, "secured\nb\nclose\n");
    client_close();
}

static void test_tls_small_receives(void **state)
{
    static const size_t sizes[] = {1, 2, 5, 7, 1000};

    for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
        door_recv_size = sizes[i];
        ticket_kept = slice_of(NULL, 0);
        open_tls();
        client_open("x.example.net", "");
        client_put("a\nb\nclose\n");
        assert_string_equal(plain, "secured\na\nb\nclose\n");
        client_close();
        close(peer);
    }
    open_session();
    conn_abort(&session->conn);
    door_settle(0);
}

/* Records of all sizes, out of blocks and loans, and what is queued counts down to nothing. */
static void test_tls_bulk(void **state)
{
    size_t total = 8;

    open_tls();
    client_open("", "");
    for (size_t size = 1; size < 40000; size = size * 3 + 1) {
        char *text = malloc(size);

        memset(text, 'w', size);
        conn_write(&session->conn, slice_of(text, size));
        write_loan(&session->conn, size, 'L');
        free(text);
        total += 2 * size;
    }
    assert_int_equal(conn_queued(&session->conn),
                     total); /* Nobody has asked whether the first answer has left. */
    client_run();
    assert_int_equal(conn_queued(&session->conn), 0);
    assert_int_equal(plain_size, total);
    assert_true(session->sent_count > 1);
    for (unsigned i = 0; i < 100; i++)
        write_loan(&session->conn, 5000, 'B');
    client_run();
    assert_int_equal(plain_size, total + 500000);
    client_put("close\n");
    client_close();
}

static void test_tls_pause(void **state)
{
    open_tls();
    client_open("", "");
    client_put("pause\na\nb\n");
    client_put("c\n");
    client_put("d\n");
    assert_string_equal(plain, "secured\npause\n");
    conn_resume(&session->conn);
    client_run();
    assert_string_equal(plain, "secured\npause\na\nb\nc\nd\n");
    client_put("close\n");
    client_close();
}

static void test_tls_peer_closes(void **state)
{
    struct tls_output out = {0};

    open_tls();
    client_open("", "");
    tls_close_notify(client, &out);
    client_send(&out);
    tls_output_fini(&out);
    door_settle(0);
    assert_null(session);
    assert_int_equal(last.why, 0);
    client_close();
}

static void test_tls_garbage(void **state)
{
    static const char *const texts[] = {"GET / HTTP/1.0\r\n\r\n", "a NOOP\r\n", "\x16\x03\x01\x02",
                                        "\x80\x2e\x01\x03\x01", "\x17\x03\x03\x40\x01"};

    for (unsigned i = 0; i < ARRAY_COUNT(texts); i++) {
        open_tls();
        send_text(texts[i]);
        hang_up();
        assert_null(session);
        assert_int_equal(last.secured_count, 0);
        assert_int_equal(last.data_count, 0);
        close(peer);
    }
    open_tls();
    client_open("", "");
    put("\x17\x03\x03\x01\x01");
    for (unsigned i = 0; i < 257; i++)
        put("x");
    client_run();
    assert_true(client_failed); /* The alert came through. */
    assert_null(session);
    assert_int_equal(last.why, -EPROTO);
    assert_int_equal(last.data_count, 0);
    client_close();
}

static void test_alpn(void **state)
{
    open_tls();
    client_open("", "h2");
    assert_true(client_failed);
    assert_null(session);
    assert_int_equal(last.why, -EPROTO);
    assert_int_equal(last.secured_count, 0);
    assert_int_equal(shard_self()->metrics->tls_failed, 1);
    client_close();
}

static bool resumes(void)
{
    bool resumed;

    open_tls();
    client_open("", "");
    client_put("a\n");
    resumed = tls_resumed(client);
    assert_int_equal(tls_resumed(session->conn.tls), resumed);
    client_put("close\n");
    client_close();
    close(peer);
    return resumed;
}

static void rotate(void)
{
    static uint8_t key[TLS_TICKET_KEY_SIZE] = {1};

    key[0]++;
    tls_ticket_keys_add(&ticket_keys, key);
    tls_context_set_ticket_keys(server_context, &ticket_keys);
}

static void test_resumption(void **state)
{
    assert_false(resumes());
    assert_true(resumes());
    rotate();
    assert_true(resumes()); /* Under the key before; and it was renewed. */
    rotate();
    rotate();
    assert_true(resumes());
    tls_ticket_keys_add(&ticket_keys, ticket_keys.keys[2]); /* A known one moves to the front. */
    assert_int_equal(ticket_keys.count, 3);
    tls_context_set_ticket_keys(server_context, &ticket_keys);
    assert_true(resumes());
    rotate();
    rotate();
    rotate();
    assert_false(resumes());
    assert_int_equal(shard_self()->metrics->tls_resumed, 4);
    open_session();
    conn_abort(&session->conn);
    door_settle(0);
}

/* Ends in every phase of a handshake, by either side. */
static void test_tls_early_end(void **state)
{
    for (unsigned phase = 0; phase < 6; phase++) {
        ticket_kept = slice_of(NULL, 0);
        open_session();
        conn_start_tls(&session->conn, server_context, SLICE("imap"));
        if (phase % 3 > 0)
            door_settle(0);
        if (phase % 3 == 2)
            send_text("\x16\x03\x01");
        if (phase < 3)
            conn_close(&session->conn);
        else
            conn_abort(&session->conn);
        door_settle(0);
        assert_null(session);
        assert_int_equal(last.ended_count, 0);
        close(peer);
    }
    open_tls();
    hang_up();
    assert_null(session);
}

static void test_tls_quiet(void **state)
{
    uint64_t used;

    open_tls();
    client_open("", "");
    client_put("a\n");
    used = heap_used(shard_self()->heap);
    door_advance(2 * CONN_QUIET_MS + 20);
    assert_true(heap_used(shard_self()->heap) < used);
    client_put("b\n");
    assert_string_equal(plain, "secured\na\nb\n");
    client_put("close\n");
    client_close();
}

/* TLS sleeps, too: it is worth so many bytes, and goes on where it was. */
static void test_tls_sleep(void **state)
{
    open_tls();
    client_open("", "");
    session->conn.ops = &sleepy_ops;
    slept = woken_by_bytes = 0;
    io_watch_with(on_watch);
    for (unsigned i = 0; i < 3; i++) {
        client_put("rest\n");
        assert_null(session);
        assert_int_equal(packed.tls_size, 67);
        wake(false);
        conn_write(&session->conn, SLICE("news\n"));
        door_settle(0);
        assert_null(session);
    }
    client_run();
    assert_string_equal(plain, "secured\nrest\nnews\nrest\nnews\nrest\nnews\n");
    assert_int_equal(slept, 6);
    client_put("ha"); /* A part of a record is not at rest; plaintext that is not taken is. */
    door_advance(2 * CONN_QUIET_MS + 20);
    assert_null(session);
    assert_int_equal(packed.input_size, 2);
    client_put("lf\nclose\n");
    assert_true(client_ended);
    assert_null(session);
    client_close();
}

/* ---- Anything, in any order ---------------------------------------------------------------------------- */

static uint32_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525 + 1013904223;
    return (random_state >> 8) % n;
}

static bool random_sleeps, random_asleep, random_bulk;
static const struct conn_ops random_ops;

static void random_wake(bool fired)
{
    if (!random_asleep)
        return;
    random_asleep = false;
    conn_wake(&session->conn, &packed, fired, 100000, &random_ops);
    if (random_bulk)
        conn_receive_bulk(&session->conn);
}

static void random_watch(uint32_t cookie, int32_t res)
{
    random_wake(true);
}

static void random_rested(struct conn *c)
{
    if (!random_sleeps || random_below(2) == 0 || !conn_sleep(c, &packed))
        return;
    io_watch(packed.sock, 0);
    memset(c, 0x55, sizeof *c);
    random_asleep = true;
    slept++;
}

static uint8_t out_at, in_at; /* Bytes count up, so that a lost or doubled one shows. */
static size_t in_size;
static bool random_close;

static size_t random_data(struct conn *c, struct slice in)
{
    size_t taken = random_below(4) == 0 ? random_below((uint32_t)in.size + 1) : in.size;

    assert_false(c->paused);
    for (size_t i = 0; i < taken; i++)
        assert_int_equal((uint8_t)in.data[i], in_at++);
    in_size += taken;
    switch (random_below(12)) {
    case 0:
        conn_pause(c);
        break;
    case 1:
        conn_rest(c);
        break;
    case 2:
        conn_resume(c);
        break;
    }
    if (random_close && random_below(20) == 0)
        random_below(2) == 0 ? conn_close(c) : conn_abort(c);
    return taken;
}

static void random_nothing(struct conn *c)
{
}

static const struct conn_ops random_ops = {random_data, random_nothing, random_nothing,
                                           on_ended,    on_closed,      random_rested};

static void random_write(struct conn *c)
{
    size_t size = 1 + random_below(random_below(3) == 0 ? 9000 : 100);
    char *data = malloc(size);

    if (conn_queued(c) + size > CONN_QUEUED_MAX / 2) {
        free(data);
        return;
    }
    for (size_t i = 0; i < size; i++)
        data[i] = (char)out_at++;
    if (random_below(2) == 0) {
        conn_write(c, slice_of(data, size));
        free(data);
    } else {
        loans_out++;
        conn_write_loan(c, slice_of(data, size), loan_back, data);
    }
}

static struct tls_output client_out; /* Of the TLS client, not yet taken by the socket. */
static size_t given, came;
static uint8_t given_at, came_at;

static void random_flush(void)
{
    ssize_t size = send(peer, client_out.data, client_out.size, MSG_NOSIGNAL);

    if (size <= 0)
        return;
    memmove(client_out.data, client_out.data + size, client_out.size - (size_t)size);
    client_out.size -= (uint32_t)size;
}

static void random_give(void)
{
    char buffer[3000];
    ssize_t size = 1 + random_below(sizeof buffer);

    if (client != NULL && (!client_secured || client_out.size > 0))
        return;
    for (ssize_t i = 0; i < size; i++)
        buffer[i] = (char)(given_at + i);
    if (client != NULL)
        tls_seal(client, slice_of(buffer, (size_t)size), &client_out);
    else
        size = send(peer, buffer, (size_t)size, MSG_NOSIGNAL);
    given += (size_t)MAX(size, 0);
    given_at = (uint8_t)given;
}

static void random_check(struct slice text)
{
    for (size_t i = 0; i < text.size; i++)
        assert_int_equal((uint8_t)text.data[i], came_at++);
    came += text.size;
}

/* False: the end. */
static bool random_take(void)
{
    char buffer[8192];
    ssize_t size = recv(peer, buffer, random_below(sizeof buffer) + 1, 0);
    struct slice in = slice_of(buffer, (size_t)MAX(size, 0)), text;
    enum tls_event event = TLS_WAIT;

    if (client == NULL)
        random_check(in);
    while (client != NULL && (event = tls_feed(client, &in, &text, &client_out)) != TLS_WAIT) {
        client_secured |= event == TLS_SECURED;
        if (event == TLS_DATA)
            random_check(text);
        if (event == TLS_ENDED || event == TLS_FAILED)
            break;
    }
    assert_int_not_equal(event, TLS_FAILED);
    return size != 0;
}

static void random_step(void)
{
    door_hold_sends = random_below(4) == 0;
    door_recv_size = 1 + random_below(20000);
    door_refuse_recvs = random_below(10) == 0;
    switch (random_below(7)) {
    case 6:
        if (!random_asleep)
            conn_rest(&session->conn);
        break;
    case 0:
    case 1:
        random_wake(false);
        if (client == NULL || tls_state(session->conn.tls) == TLS_OPEN)
            random_write(&session->conn);
        break;
    case 2:
        random_give();
        break;
    case 3:
        random_take();
        break;
    case 4:
        random_wake(false);
        conn_resume(&session->conn);
        break;
    case 5:
        door_advance(10 * random_below(200));
        break;
    }
    random_flush();
    if (random_below(3) > 0)
        door_settle(0);
}

/* A session of so many steps. Unless `closing`, all that was given and written must arrive. */
static void random_run(uint32_t seed, bool closing, bool tls)
{
    struct net_addr nobody = {0};

    random_state = seed;
    out_at = in_at = given_at = came_at = 0;
    in_size = given = came = 0;
    random_close = closing;
    client_secured = false;
    session = calloc(1, sizeof *session);
    last = (struct session){0};
    conn_init(&session->conn, door_pair(&peer), &nobody, 100000, &random_ops);
    random_bulk = seed % 2 == 1;
    random_sleeps = seed % 3 != 0;
    random_asleep = false;
    io_watch_with(random_watch);
    if (random_bulk)
        conn_receive_bulk(&session->conn);
    if (tls) {
        client = tls_connect(client_context, SLICE("x"), SLICE(""), slice_of(NULL, 0));
        conn_start_tls(&session->conn, server_context, SLICE("imap"));
    }
    for (unsigned step = 0; step < 400 && session != NULL; step++)
        random_step();
    door_hold_sends = random_close = random_sleeps = false;
    door_refuse_recvs = 0;
    random_wake(false);
    for (unsigned step = 0; session != NULL && (in_size < given || conn_queued(&session->conn) > 0); step++) {
        assert_true(step < 10000);
        conn_resume(&session->conn);
        conn_rest(&session->conn); /* Asks after what was sent. */
        random_take();
        random_flush();
        door_settle(0);
    }
    if (session != NULL)
        conn_close(&session->conn);
    do
        door_settle(0);
    while (random_take() || session != NULL);
    if (!closing) {
        assert_int_equal(in_size, given);
        assert_int_equal((uint8_t)came, out_at);
    }
    tls_free(client);
    client = NULL;
    tls_output_fini(&client_out);
    assert_int_equal(loans_out, 0);
    close(peer);
}

static void test_random(void **state)
{
    slept = 0;
    for (uint32_t seed = 1; seed <= 300; seed++)
        random_run(seed, seed % 2 == 0, false);
    assert_true(slept > 300);
    peer = -1;
}

static void test_random_tls(void **state)
{
    slept = 0;
    for (uint32_t seed = 1; seed <= 100; seed++)
        random_run(seed, seed % 2 == 0, true);
    assert_true(slept > 100);
    peer = -1;
}

#define PLAIN(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TLS(name)   cmocka_unit_test_setup_teardown(name, setup_tls, teardown_tls)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PLAIN(test_round_trip_cost),
        PLAIN(test_bulk),
        PLAIN(test_hold),
        PLAIN(test_hold_room),
        PLAIN(test_short_answers),
        PLAIN(test_quiet),
        PLAIN(test_quiet_soon),
        PLAIN(test_sleep),
        PLAIN(test_sleep_ends),
        PLAIN(test_one_send_a_turn),
        PLAIN(test_write_behind_send),
        PLAIN(test_input_kept),
        PLAIN(test_input_limit),
        PLAIN(test_pause),
        PLAIN(test_pause_peer_goes),
        PLAIN(test_loans),
        PLAIN(test_slow_reader),
        PLAIN(test_close_deadline),
        PLAIN(test_linger),
        PLAIN(test_linger_ends),
        PLAIN(test_peer_gone),
        PLAIN(test_no_buffers),
        PLAIN(test_early_close),
        TLS(test_hello_bytewise),
        TLS(test_hello_refused),
        TLS(test_hello_asleep),
        TLS(test_tls_implicit),
        TLS(test_starttls),
        TLS(test_starttls_injection),
        TLS(test_tls_bulk),
        TLS(test_tls_small_receives),
        TLS(test_tls_pause),
        TLS(test_tls_garbage),
        TLS(test_tls_peer_closes),
        TLS(test_alpn),
        TLS(test_resumption),
        TLS(test_tls_early_end),
        TLS(test_tls_quiet),
        TLS(test_tls_sleep),
        PLAIN(test_random),
        TLS(test_random_tls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
