/* IMAP commands at the backend: what a session is told, and what its token makes of it. */
#include "core/io.h"
#include "core/shard.h"
#include "tests/unit/roles/backend_client.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define MESSAGE                                                                                              \
    "From: Anna <anna@example.org>\r\nTo: bert@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"      \
    "Date: Mon, 7 Feb 1994 21:52:25 -0800\r\nMessage-ID: <1@example.org>\r\n\r\nHello world.\r\n"

static struct client a, b;

static void append(struct client *c, const char *mailbox, const char *flags)
{
    char command[256];

    snprintf(command, sizeof command, "t APPEND %s (%s) \" 7-Feb-1994 21:52:25 -0800\" {%zu}", mailbox, flags,
             sizeof MESSAGE - 1);
    client_append(c, command, SLICE(MESSAGE));
    HAS(c, "t OK [APPENDUID ");
}

static void two_sessions(void (*body)(void))
{
    client_init(&a, "anna");
    client_init(&b, "anna");
    body();
    client_fini(&a);
    client_fini(&b);
}

/* ---- Basics -------------------------------------------------------------------------------------------- */

static void basics(void)
{
    SAY(&a, "t NOOP", "t OK NOOP completed.\r\n");
    SAY(&a, "t FETCH 1 FLAGS", "t BAD No mailbox selected.\r\n");
    client_say(&a, "t FROBNICATE");
    HAS(&a, "t BAD ");
    client_say(&a, "t SELECT nothing");
    HAS(&a, "t NO [NONEXISTENT]");
    client_say(&a, "t SELECT INBOX");
    HAS(&a, "* FLAGS (");
    HAS(&a, "* 0 EXISTS\r\n* 0 RECENT\r\n");
    HAS(&a, "[UIDVALIDITY ");
    HAS(&a, "[UIDNEXT 1]");
    HAS(&a, "[PERMANENTFLAGS (");
    HAS(&a, "[HIGHESTMODSEQ ");
    HAS(&a, "t OK [READ-WRITE] ");
    HAS_NOT(&a, "UNSEEN");
    CHECK(a.token.mailbox_id != 0);
    append(&a, "INBOX", "");
    HAS(&a, "* 1 EXISTS\r\n* 1 RECENT\r\n");
    SAY(&a, "t FETCH 1 (UID FLAGS)", "* 1 FETCH (UID 1 FLAGS (\\Recent))\r\nt OK Fetch completed.\r\n");
    SAY(&a, "t FETCH 1 (RFC822.SIZE INTERNALDATE)",
        "* 1 FETCH (INTERNALDATE \"07-Feb-1994 21:52:25 -0800\" RFC822.SIZE 174)\r\nt OK Fetch "
        "completed.\r\n");
    SAY(&a, "t FETCH 2 FLAGS", "t BAD Invalid message set.\r\n");
    client_say(&a, "t SELECT INBOX");
    HAS(&a, "* OK [CLOSED]");
    HAS(&a, "[UNSEEN 1]");
    HAS(&a, "* 0 RECENT");
    SAY(&a, "t UNSELECT", "t OK Unselect completed.\r\n");
    CHECK(a.token.mailbox_id == 0);
    client_say(&a, "t STATUS INBOX (MESSAGES RECENT UIDNEXT UNSEEN SIZE DELETED)");
    HAS(&a, "* STATUS INBOX (MESSAGES 1 RECENT 0 UIDNEXT 2 UNSEEN 1 ");
    SAY(&a, "t ENABLE CONDSTORE X-THING", "* ENABLED CONDSTORE\r\nt OK Enabled.\r\n");
    SAY(&a, "t ENABLE QRESYNC", "* ENABLED\r\nt OK Enabled.\r\n");
}

/* ---- Two sessions -------------------------------------------------------------------------------------- */

static void select_both(unsigned count)
{
    client_say(&a, "t SELECT INBOX");
    while (count-- > 0)
        append(&a, "INBOX", "");
    client_say(&a, "t SELECT INBOX");
    client_say(&b, "t SELECT INBOX");
}

/* EXPUNGE is never told during FETCH, STORE and SEARCH by sequence number, and always before other tagged
 * lines. */
static void expunges(void)
{
    select_both(4);
    SAY(&a, "t STORE 1,3 +FLAGS.SILENT (\\Deleted)", "t OK Store completed.\r\n");
    SAY(&a, "t EXPUNGE", "* 3 EXPUNGE\r\n* 1 EXPUNGE\r\nt OK Expunge completed.\r\n");
    SAY(&a, "t FETCH 1:* UID", "* 1 FETCH (UID 2)\r\n* 2 FETCH (UID 4)\r\nt OK Fetch completed.\r\n");
    /* b still sees four, and can still read what it sees. */
    SAY(&b, "t FETCH 1:* UID",
        "* 1 FETCH (UID 1)\r\n* 2 FETCH (UID 2)\r\n* 3 FETCH (UID 3)\r\n* 4 FETCH (UID 4)\r\nt OK Fetch "
        "completed.\r\n");
    SAY(&b, "t SEARCH ALL", "* SEARCH 1 2 3 4\r\nt OK Search completed.\r\n");
    client_say(&b, "t FETCH 3 BODY.PEEK[TEXT]");
    HAS(&b, "* 3 FETCH (BODY[TEXT] {14}\r\nHello world.\r\n)\r\nt OK");
    SAY(&b, "t STORE 2:3 +FLAGS (\\Flagged)",
        "* 2 FETCH (FLAGS (\\Flagged))\r\nt OK [EXPUNGEISSUED] Store completed.\r\n");
    SAY(&b, "t COPY 1,3 Trash", "* 3 EXPUNGE\r\n* 1 EXPUNGE\r\nt OK [EXPUNGEISSUED] Copy completed.\r\n");
    SAY(&b, "t FETCH 1:* FLAGS",
        "* 1 FETCH (FLAGS (\\Flagged))\r\n* 2 FETCH (FLAGS ())\r\nt OK Fetch completed.\r\n");
    SAY(&a, "t NOOP", "* 1 FETCH (FLAGS (\\Flagged))\r\nt OK NOOP completed.\r\n");
    SAY(&a, "t NOOP", "t OK NOOP completed.\r\n");
    client_sync(&b);
    CHECK(b.size == 0);
}

/* UID forms move the horizons. */
static void uid_forms(void)
{
    select_both(3);
    client_say(&a, "t UID STORE 2 +FLAGS.SILENT \\Deleted");
    client_say(&a, "t UID EXPUNGE 1:2");
    SAY(&a, "t UID EXPUNGE 1:2", "t OK Expunge completed.\r\n");
    append(&a, "INBOX", "\\Seen");
    SAY(&b, "t UID FETCH 1:* FLAGS",
        "* 1 FETCH (UID 1 FLAGS ())\r\n* 2 FETCH (UID 2 FLAGS (\\Deleted))\r\n* 3 FETCH (UID 3 FLAGS ())\r\n"
        "* 2 EXPUNGE\r\n* 3 EXISTS\r\nt OK Fetch completed.\r\n");
    SAY(&b, "t UID FETCH 4 FLAGS", "* 3 FETCH (UID 4 FLAGS (\\Seen))\r\nt OK Fetch completed.\r\n");
    SAY(&b, "t UID FETCH 100:* UID", "* 3 FETCH (UID 4)\r\nt OK Fetch completed.\r\n");
    SAY(&b, "t UID SEARCH SEEN", "* SEARCH 4\r\nt OK Search completed.\r\n");
    SAY(&b, "t UID STORE 2 +FLAGS \\Seen", "t OK Store completed.\r\n");
}

/* More commands wait behind this one: renumbering is left to them. */
static void pipelined(void)
{
    select_both(2);
    client_say(&a, "t STORE 1 +FLAGS.SILENT \\Deleted");
    client_say(&a, "t EXPUNGE");
    b.more_follows = true;
    SAY(&b, "t NOOP", "t OK NOOP completed.\r\n");
    b.more_follows = false;
    SAY(&b, "t FETCH 2 UID", "* 2 FETCH (UID 2)\r\nt OK Fetch completed.\r\n");
    SAY(&b, "t NOOP", "* 1 EXPUNGE\r\nt OK NOOP completed.\r\n");
    /* A LINK_SYNC tells the same. */
    append(&a, "INBOX", "");
    client_sync(&b);
    CHECK(strcmp(b.text, "* 2 EXISTS\r\n") == 0);
    CHECK(b.ended && !b.bye);
}

static void seen(void)
{
    select_both(1);
    client_say(&b, "t FETCH 1 BODY.PEEK[HEADER.FIELDS (subject)]");
    HAS(&b,
        "* 1 FETCH (BODY[HEADER.FIELDS (subject)] {40}\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n)\r\n");
    SAY(&b, "t FETCH 1 BODY[TEXT]<6.5>",
        "* 1 FETCH (BODY[TEXT]<6> {5}\r\nworld)\r\n* 1 FETCH (FLAGS (\\Seen))\r\nt OK Fetch completed.\r\n");
    SAY(&b, "t FETCH 1 (FLAGS BODY[TEXT]<0.1>)",
        "* 1 FETCH (FLAGS (\\Seen) BODY[TEXT]<0> {1}\r\nH)\r\nt OK Fetch completed.\r\n");
    SAY(&a, "t NOOP", "* 1 FETCH (FLAGS (\\Seen))\r\nt OK NOOP completed.\r\n");
    SAY(&a, "t STORE 1 -FLAGS \\Seen", "* 1 FETCH (FLAGS ())\r\nt OK Store completed.\r\n");
    client_say(&b, "t EXAMINE INBOX");
    HAS(&b, "t OK [READ-ONLY]");
    HAS(&b, "[PERMANENTFLAGS ()]");
    SAY(&b, "t FETCH 1 BODY[1]<0.1>", "* 1 FETCH (BODY[1]<0> {1}\r\nH)\r\nt OK Fetch completed.\r\n");
    SAY(&b, "t FETCH 1 (BODY[2] RFC822.TEXT)",
        "* 1 FETCH (BODY[2] NIL RFC822.TEXT {14}\r\nHello world.\r\n)\r\nt OK Fetch completed.\r\n");
    SAY(&b, "t STORE 1 +FLAGS \\Seen", "t NO [READ-ONLY] Mailbox is read-only.\r\n");
    SAY(&b, "t EXPUNGE", "t NO [READ-ONLY] Mailbox is read-only.\r\n");
    client_say(&b, "t FETCH 1 (ENVELOPE BODYSTRUCTURE)");
    HAS(&b, "ENVELOPE (\"Mon, 7 Feb 1994 21:52:25 -0800\" \"=?utf-8?q?Gr=C3=BC=C3=9Fe?=\"");
    HAS(&b, "BODYSTRUCTURE (\"text\" \"plain\" ");
}

static void keywords(void)
{
    select_both(2);
    client_say(&a, "t STORE 1 +FLAGS (Work \\Seen)");
    HAS(&a, "* FLAGS (");
    HAS(&a, "Work");
    HAS(&a, "* 1 FETCH (FLAGS (\\Seen Work))");
    client_say(&b, "t FETCH 1:2 FLAGS");
    HAS(&b, "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft Work)\r\n* OK [PERMANENTFLAGS (");
    HAS(&b, "* 1 FETCH (FLAGS (\\Seen Work))\r\n* 2 FETCH (FLAGS ())\r\n");
    SAY(&b, "t SEARCH KEYWORD work", "* SEARCH 1\r\nt OK Search completed.\r\n");
    SAY(&b, "t SEARCH UNKEYWORD nothing", "* SEARCH 1 2\r\nt OK Search completed.\r\n");
    /* b has been told nothing of message 1's change but what FETCH showed: it is told now, with others'
     * changes. */
    SAY(&b, "t STORE 2 FLAGS.SILENT (\\Draft)",
        "* 1 FETCH (FLAGS (\\Seen Work))\r\nt OK Store completed.\r\n");
    SAY(&b, "t STORE 1:2 -FLAGS (Work none)",
        "* 1 FETCH (FLAGS (\\Seen))\r\n* 2 FETCH (FLAGS (\\Draft))\r\nt OK Store completed.\r\n");
}

static void condstore(void)
{
    char command[128];
    unsigned long long modseq;

    select_both(3);
    client_say(&a, "t FETCH 1:* (MODSEQ)");
    HAS(&a, "* OK [HIGHESTMODSEQ ");
    HAS(&a, "* 3 FETCH (MODSEQ (");
    modseq = strtoull(strstr(a.text, "* 3 FETCH (MODSEQ (") + 19, NULL, 10);
    client_say(&b, "t STORE 2 +FLAGS \\Flagged");
    HAS_NOT(&b, "MODSEQ");
    snprintf(command, sizeof command, "t STORE 1,2 (UNCHANGEDSINCE %llu) +FLAGS.SILENT (\\Seen)", modseq);
    client_say(&a, command);
    HAS(&a, "* 1 FETCH (MODSEQ (");
    HAS(&a, "* 2 FETCH (MODSEQ (");
    HAS(&a, "FLAGS (\\Flagged");
    HAS(&a, "t OK [MODIFIED 2] ");
    snprintf(command, sizeof command, "t FETCH 1:* (FLAGS) (CHANGEDSINCE %llu)", modseq);
    client_say(&b, command);
    HAS(&b, "* 1 FETCH (");
    HAS(&b, "* 2 FETCH (");
    HAS_NOT(&b, "* 3 FETCH (");
    snprintf(command, sizeof command, "t SEARCH MODSEQ %llu", modseq + 1);
    client_say(&b, command);
    HAS(&b, "* SEARCH 1 2 (MODSEQ ");
    client_say(&b, "t STATUS INBOX (HIGHESTMODSEQ)");
    HAS(&b, "(HIGHESTMODSEQ ");
    /* What is shown past what was told of is taken back by the tagged line. */
    client_say(&a, "t STORE 3 +FLAGS.SILENT \\Deleted");
    client_say(&a, "t UID EXPUNGE 3");
    client_say(&a, "t STORE 1 +FLAGS.SILENT \\Answered");
    client_say(&b, "t FETCH 1 (FLAGS MODSEQ)");
    HAS(&b, "\r\nt OK [HIGHESTMODSEQ ");
    client_say(&b, "t NOOP");
    HAS(&b, "* 3 EXPUNGE\r\n");
    HAS(&b, "* 1 FETCH (MODSEQ (");
}

static void copies(void)
{
    select_both(3);
    client_say(&a, "t COPY 1:2 Archive");
    HAS(&a, "t OK [COPYUID ");
    HAS(&a, " 1:2 1:2] Copy completed.");
    SAY(&a, "t COPY 1 nowhere", "t NO [TRYCREATE] Mailbox doesn't exist.\r\n");
    client_say(&a, "t UID MOVE 2 Trash");
    HAS(&a, "* OK [COPYUID ");
    HAS(&a, " 2 1] Moved UIDs.\r\n* 2 EXPUNGE\r\nt OK Move completed.\r\n");
    a.operation--; /* The answer was lost: the same again. */
    client_say(&a, "t UID MOVE 2 Trash");
    HAS(&a, " 2 1] Moved UIDs.\r\nt OK Move completed.\r\n");
    client_say(&a, "t STATUS Trash (MESSAGES)");
    HAS(&a, "* STATUS Trash (MESSAGES 1)");
    a.operation--;
    client_say(&a, "t STATUS Archive (MESSAGES)");
    HAS(&a, "* STATUS Archive (MESSAGES 2)");
    client_say(&a, "t COPY 1 INBOX");
    HAS(&a, "* 3 EXISTS\r\n");
    HAS(&a, " 1 4] Copy completed.");
    SAY(&b, "t NOOP", "* 2 EXPUNGE\r\n* 3 EXISTS\r\nt OK NOOP completed.\r\n");
}

static void operations(void)
{
    struct token before;

    select_both(1);
    before = a.token;
    append(&a, "INBOX", "");
    HAS(&a, " 2] Append completed.");
    a.operation--; /* Lost: asked again from the token before. */
    a.token = before;
    append(&a, "INBOX", "");
    HAS(&a, "* 2 EXISTS\r\n");
    HAS(&a, " 2] Append completed.");
    CHECK(!a.asked);
    SAY(&a, "t SEARCH ALL", "* SEARCH 1 2\r\nt OK Search completed.\r\n");
    CHECK(deliver("anna", "", 77, SLICE("A: b\r\n\r\nbody\r\n")) == 250);
    CHECK(deliver("anna", "", 77, SLICE("A: b\r\n\r\nbody\r\n")) == 250);
    SAY(&a, "t NOOP", "* 3 EXISTS\r\n* 1 RECENT\r\nt OK NOOP completed.\r\n");
    CHECK(deliver("anna", "", 78, SLICE("A: b\r\n\r\nbody\r\n")) == 250);
    client_sync(&a);
    HAS(&a, "* 4 EXISTS\r\n");
    client_say(&a, "t CREATE once");
    a.operation--;
    SAY(&a, "t CREATE once", "t OK Create completed.\r\n");
    SAY(&a, "t CREATE once", "t NO [ALREADYEXISTS] Mailbox already exists.\r\n");
}

/* ---- Appending ----------------------------------------------------------------------------------------- */

static void appends(void)
{
    static char big[300000];

    client_say(&a, "t SELECT INBOX");
    client_append(&a, "t APPEND nowhere {10}", SLICE("0123456789"));
    HAS(&a, "t NO [TRYCREATE]");
    CHECK(!a.asked);
    client_append(&a, "t APPEND INBOX {99999999999}", SLICE("x"));
    HAS(&a, "t NO [TOOBIG]");
    CHECK(!a.asked);
    client_append(&a, "t APPEND INBOX ~{3}", SLICE("x\r\n"));
    HAS(&a, "t NO [UNKNOWN-CTE]");
    client_append(&a, "t APPEND INBOX {3}", SLICE("x\r\n {4}"));
    HAS(&a, "t BAD");
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : (char)('a' + i % 26);
    client_append(&a, "t APPEND INBOX (\\Seen Big) {300000+}", slice_of(big, sizeof big));
    HAS(&a, "* 1 EXISTS\r\n");
    client_say(&a, "t FETCH 1 (FLAGS BODY.PEEK[])");
    HAS(&a, "* 1 FETCH (FLAGS (\\Seen \\Recent Big) BODY[] {300000}\r\n");
    CHECK(memcmp(strstr(a.text, "{300000}\r\n") + 10, big, sizeof big) == 0);
    /* A window that nobody empties: the answer is parked, and goes on at the byte. */
    client_say(&b, "t SELECT INBOX");
    b.keeps_frames = true;
    client_begin(&b, LINK_IMAP, "t FETCH 1 (UID BODY.PEEK[] BODY.PEEK[]<7.5>)");
    (void)fiber_sleep_ms(100);
    CHECK(!b.ended && b.size > 100000 && b.size < 200000);
    b.keeps_frames = false;
    for (struct list *n = list_pop_front(&b.frames); n != NULL; n = list_pop_front(&b.frames))
        link_frame_release(CONTAINER_OF(n, struct link_frame, link));
    client_finish(&b);
    HAS(&b, "* 1 FETCH (UID 1 BODY[] {300000}\r\n");
    CHECK(memcmp(strstr(b.text, "{300000}\r\n") + 10, big, sizeof big) == 0);
    HAS(&b, " BODY[]<7> {5}\r\nhijkl)\r\nt OK Fetch completed.\r\n");
    /* The proxy goes away in the middle of a message, and in the middle of an answer. */
    client_begin(&a, LINK_IMAP, "t APPEND INBOX {1000}");
    while (!a.asked)
        (void)fiber_yield();
    link_stream_reset(a.stream);
    b.keeps_frames = true;
    client_begin(&b, LINK_IMAP, "t FETCH 1 BODY.PEEK[]");
    settle();
    link_stream_reset(b.stream);
    settle();
    SAY(&a, "t NOOP", "t OK NOOP completed.\r\n");
}

/* A command of many frames. */
static void long_command(void)
{
    char *command = malloc(70000);
    size_t size = (size_t)sprintf(command, "t UID FETCH ");

    select_both(3);
    while (size < 60000)
        size += (size_t)sprintf(command + size, "1,3,");
    sprintf(command + size, "2 UID");
    SAY(&a, command,
        "* 1 FETCH (UID 1)\r\n* 2 FETCH (UID 2)\r\n* 3 FETCH (UID 3)\r\nt OK Fetch completed.\r\n");
    free(command);
}

/* ---- Tokens -------------------------------------------------------------------------------------------- */

static void bad_tokens(void)
{
    struct token good;

    select_both(1);
    good = a.token;
    a.token.history[3] ^= 1;
    client_say(&a, "t NOOP");
    HAS(&a, "* BYE [UNAVAILABLE]");
    CHECK(a.bye);
    a.token = good;
    a.token.appends += 1000;
    client_say(&a, "t NOOP");
    CHECK(a.bye);
    a.token = good;
    a.token.mailbox_id = 12345;
    client_sync(&a);
    CHECK(a.bye);
    a.token = good;
    a.token.uidvalidity++;
    client_say(&a, "t FETCH 1 FLAGS");
    CHECK(a.bye);
    a.token = good;
    a.token.keyword_count = 65535;
    client_say(&a, "t FETCH 1 FLAGS");
    CHECK(a.bye);
    a.token = good;
    a.token.recent_first = 7;
    a.token.recent_last = 3;
    client_say(&a, "t NOOP");
    a.token = good;
    SAY(&a, "t NOOP", "t OK NOOP completed.\r\n");
    a.user = "";
    client_say(&a, "t NOOP");
    HAS(&a, "t NO [UNAVAILABLE]");
    a.user = "anna";
}

/* A mailbox that is deleted while it is selected empties, and is not left. */
static void deleted_while_selected(void)
{
    client_say(&a, "t CREATE gone");
    append(&a, "gone", "");
    client_say(&b, "t SELECT gone");
    HAS(&b, "* 1 EXISTS");
    SAY(&a, "t DELETE gone", "t OK Delete completed.\r\n");
    SAY(&b, "t FETCH 1 UID", "* 1 FETCH (UID 1)\r\nt OK Fetch completed.\r\n");
    SAY(&b, "t NOOP", "* 1 EXPUNGE\r\n* 0 RECENT\r\nt OK NOOP completed.\r\n");
    SAY(&b, "t CLOSE", "t OK Close completed.\r\n");
    client_say(&b, "t SELECT gone");
    HAS(&b, "t NO [NONEXISTENT]");
}

static void closing(void)
{
    select_both(2);
    client_say(&a, "t STORE 1 +FLAGS \\Deleted");
    SAY(&a, "t CLOSE", "t OK Close completed.\r\n");
    CHECK(a.token.mailbox_id == 0);
    SAY(&b, "t NOOP", "* 1 EXPUNGE\r\nt OK NOOP completed.\r\n");
}

/* ---- SEARCH -------------------------------------------------------------------------------------------- */

static void searches(void)
{
    client_say(&a, "t SELECT INBOX");
    append(&a, "INBOX", "\\Seen");
    CHECK(deliver("anna", "", 1,
                  SLICE("From: Zoe <z@example.com>\r\nSubject: second\r\n\thalf\r\nDate: 1 Jan 2020 00:00:00 "
                        "+0000\r\n"
                        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
                        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
                        "U2Now7ZuZXMgV2V0dGVy\r\n--b\r\nContent-Type: application/x-thing\r\n\r\n"
                        "binary\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nAction: "
                        "failed\r\n--b--\r\n")) == 250);
    append(&a, "INBOX", "\\Flagged");
    SAY(&a, "t SEARCH FROM anna", "* SEARCH 1 3\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH NOT FROM anna", "* SEARCH 2\r\nt OK Search completed.\r\n");
    client_say(&a, "t SEARCH CHARSET UTF-8 SUBJECT {6+}\r\nGR\xc3\x9c\xc3\x9f");
    HAS(&a, "* SEARCH 1 3\r\n");
    client_say(&a, "t SEARCH CHARSET UTF-8 BODY {7+}\r\nsch\xc3\xb6ne");
    HAS(&a, "* SEARCH 2\r\n");
    SAY(&a, "t SEARCH BODY binary", "* SEARCH\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH BODY \"action: failed\"", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH SUBJECT \"second half\"", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH SUBJECT \"second \t half\"", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH TEXT x-thing", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH BODY zoe", "* SEARCH\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH TEXT zoe", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH HEADER return-path \"\"", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH SENTBEFORE 1-Jan-2000", "* SEARCH 1 3\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH SENTON 1-Jan-2020", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH ON 7-Feb-1994", "* SEARCH 1 3\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH SINCE 8-Feb-1994", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH LARGER 180 UNSEEN", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH SMALLER 180 UID 2:*", "* SEARCH 3\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH OR SEEN FLAGGED", "* SEARCH 1 3\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH NOT (OR SEEN FLAGGED)", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH 2:* OR TEXT zoe SEEN", "* SEARCH 2\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH NEW", "* SEARCH 2 3\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH RETURN (MIN MAX COUNT) ALL",
        "* ESEARCH (TAG \"t\") MIN 1 MAX 3 COUNT 3\r\nt OK Search completed.\r\n");
    SAY(&a, "t UID SEARCH RETURN () UNSEEN",
        "* ESEARCH (TAG \"t\") UID ALL 2:3\r\nt OK Search completed.\r\n");
    SAY(&a, "t UID SEARCH RETURN (ALL MIN) DRAFT", "* ESEARCH (TAG \"t\") UID\r\nt OK Search completed.\r\n");
    SAY(&a, "t SEARCH OR 4 3:9", "* SEARCH 3\r\nt OK Search completed.\r\n");
}

/* ---- Delivery ------------------------------------------------------------------------------------------ */

static void deliveries(void)
{
    CHECK(deliver("anna", "aRCHIVE", 0, SLICE("Subject: x\r\n\r\nno line end")) == 250);
    CHECK(deliver("anna", "nowhere", 0, SLICE("Subject: y\r\n\r\n.\r\n")) == 250);
    client_say(&a, "t SELECT Archive");
    SAY(&a, "t FETCH 1 BODY.PEEK[]",
        "* 1 FETCH (BODY[] {109}\r\nReturn-Path: <sender@example.org>\r\nDelivered-To: anna\r\n"
        "Received: from test by test\r\nSubject: x\r\n\r\nno line end)\r\nt OK Fetch completed.\r\n");
    client_say(&a, "t SELECT INBOX");
    HAS(&a, "* 1 EXISTS\r\n* 1 RECENT\r\n");
    client_say(&a, "t FETCH 1 BODY.PEEK[TEXT]");
    HAS(&a, "{3}\r\n.\r\n)");
}

/* One node a scenario. */
#define SCENARIO(name)                                                                                       \
    static void name##_run(void)                                                                             \
    {                                                                                                        \
        two_sessions(name);                                                                                  \
    }                                                                                                        \
    static void test_##name(void **state)                                                                    \
    {                                                                                                        \
        assert_int_equal(backend_test(name##_run), 0);                                                       \
    }

SCENARIO(basics)
SCENARIO(expunges)
SCENARIO(uid_forms)
SCENARIO(pipelined)
SCENARIO(seen)
SCENARIO(keywords)
SCENARIO(condstore)
SCENARIO(copies)
SCENARIO(operations)
SCENARIO(appends)
SCENARIO(long_command)
SCENARIO(bad_tokens)
SCENARIO(deleted_while_selected)
SCENARIO(closing)
SCENARIO(searches)
SCENARIO(deliveries)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_basics),
        cmocka_unit_test(test_expunges),
        cmocka_unit_test(test_uid_forms),
        cmocka_unit_test(test_pipelined),
        cmocka_unit_test(test_seen),
        cmocka_unit_test(test_keywords),
        cmocka_unit_test(test_condstore),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_operations),
        cmocka_unit_test(test_appends),
        cmocka_unit_test(test_long_command),
        cmocka_unit_test(test_bad_tokens),
        cmocka_unit_test(test_deleted_while_selected),
        cmocka_unit_test(test_closing),
        cmocka_unit_test(test_searches),
        cmocka_unit_test(test_deliveries),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
