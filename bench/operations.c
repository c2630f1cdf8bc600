#include "bench/bench.h"

static unsigned any_message(struct worker *w)
{
    return 1 + (unsigned)worker_random(w, w->exists > 0 ? w->exists : 1);
}

static void send_noop(struct worker *w)
{
    client_printf(&w->client, "x NOOP\r\n");
}

static void send_select(struct worker *w)
{
    client_printf(&w->client, "x SELECT INBOX\r\n");
}

static void send_fetch_list(struct worker *w)
{
    client_printf(&w->client, "x FETCH 1:* (UID FLAGS)\r\n");
}

static void send_fetch_envelope(struct worker *w)
{
    client_printf(&w->client, "x FETCH %u (ENVELOPE BODYSTRUCTURE)\r\n", any_message(w));
}

static void send_fetch_body(struct worker *w)
{
    client_printf(&w->client, "x FETCH %u BODY.PEEK[]\r\n", any_message(w));
}

static void send_search(struct worker *w)
{
    client_printf(&w->client, "x SEARCH UNSEEN\r\n");
}

static void
send_store(struct worker *w) /* Always a change: a flag that is there already would cost nothing. */
{
    unsigned n = 1 + (unsigned)(w->sequence / 2 % (w->exists > 0 ? w->exists : 1));

    client_printf(&w->client, "x STORE %u %cFLAGS (\\Flagged)\r\n", n, w->sequence++ % 2 == 0 ? '+' : '-');
}

static void send_append(struct worker *w)
{
    client_printf(&w->client, "x APPEND INBOX {%u+}\r\n", w->bench->options.size);
    client_write(&w->client, w->bench->message, w->bench->options.size);
    client_write(&w->client, "\r\n", 2);
}

/* The session goes back to IDLE behind it. */
static void send_noop_idle(struct worker *w)
{
    client_printf(&w->client, "DONE\r\nx NOOP\r\ni IDLE\r\n");
}

static void send_lmtp(struct worker *w)
{
    client_printf(&w->client, "MAIL FROM:<bench@example.org>\r\nRCPT TO:<u%u@example.org>\r\nDATA\r\n",
                  (unsigned)worker_random(w, w->bench->options.users));
}

const struct operation operations[] = {
    {"login", "connect, LOGIN, LOGOUT, close", .reconnect = true},
    {"noop", "NOOP on a selected mailbox", .send = send_noop},
    {"select", "SELECT INBOX again", .messages = 10000, .size = 1024, .send = send_select},
    {"fetch-list", "FETCH 1:* (UID FLAGS)", .messages = 10000, .size = 1024, .send = send_fetch_list},
    {"fetch-envelope", "FETCH n (ENVELOPE BODYSTRUCTURE)", .messages = 500, .size = 20480,
     .send = send_fetch_envelope},
    {"fetch-body", "FETCH n BODY.PEEK[]", .messages = 500, .size = 20480, .send = send_fetch_body},
    {"noop-asleep", "NOOP of sessions that were silent for 2.5 s", .connections = 2000, .pause_us = 2500000,
     .send = send_noop},
    {"noop-idle", "DONE, NOOP and IDLE of sessions that were in IDLE for 4 s", .idle = true,
     .connections = 400, .pause_us = 4000000, .send = send_noop_idle},
    {"pipe", "FETCH n BODY.PEEK[] of large bodies: CPU a GB", .bulk = true, .messages = 2, .size = 10 << 20,
     .send = send_fetch_body},
    {"search", "SEARCH UNSEEN", .messages = 10000, .size = 1024, .send = send_search},
    {"store", "STORE n +FLAGS, -FLAGS", .messages = 500, .size = 1024, .send = send_store},
    {"append", "APPEND to INBOX", .size = 10240, .send = send_append},
    {"lmtp", "one delivery to one recipient", .lmtp = true, .size = 10240, .send = send_lmtp},
    {"slow-readers", "NOOP, FETCH of a list and of 20 KiB, while --stuck others stop reading --size bytes",
     .connections = 100, .messages = 100, .size = 10 << 20, .pause_us = 20000, .send = slow_readers_send,
     .run = slow_readers_run},
    {"sessions", "memory of --count idle sessions: selected, in IDLE", .idle = true, .run = swarm_run},
    {"wake", "from a mail's 250 to EXISTS at --count idle sessions, --rate mails a second", .idle = true,
     .size = 2048, .line = wake_line, .run = wake_run},
    {"upgrade",
     "--count sessions that idle, FETCH and APPEND while the server is replaced: dropped, wrong bytes",
     .idle = true, .size = 65536, .run = upgrade_run},
    {"flood", "--count clients that hold tickets come back at once, to --port2", .run = flood_run},
    {"hostile", "honest logins while --stuck others do not log in, in several ways (--mix: one)",
     .reconnect = true, .pause_us = 100000, .run = hostile_run},
    {"bare", "a server that accepts on --host and polls for --seconds, and does nothing else",
     .run = bare_run},
    {"relay",
     "a server that accepts on --port, passes bytes to and from --port2 for --seconds, and does nothing else",
     .run = relay_run},
};
const size_t operation_count = ARRAY_COUNT(operations);
