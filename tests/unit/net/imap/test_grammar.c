#include "net/imap/grammar.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* The last parse; its memory lives until the next one. */
static struct {
    struct heap *heap;
    struct arena arena;
    char *text;
    struct imap_parsed p;
    struct imap_parse_error error;
} last;

static int setup(void **state)
{
    last.heap = heap_create("test", 0);
    arena_init(&last.arena, last.heap);
    return 0;
}

static int teardown(void **state)
{
    free(last.text);
    arena_fini(&last.arena);
    heap_destroy(last.heap);
    return 0;
}

static bool parse(struct slice text, bool utf8)
{
    struct imap_parse_options options = {.utf8 = utf8};

    free(last.text);
    arena_reset(&last.arena);
    last.text = malloc(text.size > 0 ? text.size : 1); /* Exactly: a byte too far is seen. */
    memcpy(last.text, text.data, text.size);
    return imap_parse(&last.arena, slice_of(last.text, text.size), &options, &last.p, &last.error);
}

static bool is_append(struct slice text)
{
    return slice_starts_nocase(text, SLICE("a APPEND")) || slice_starts_nocase(text, SLICE("a REPLACE"));
}

/* Good whole, with CRLF and with LF, and cut at every byte it is BAD, however it ends. */
static void good_slice(struct slice command)
{
    char line[4096];

    assert_true(command.size + 3 < sizeof line);
    for (size_t cut = 0; cut < command.size; cut++) {
        if (parse(slice_first(command, cut), false))
            fail_msg("cut at %zu of: %s", cut, command.data);
        assert_non_null(last.error.text);
    }
    memcpy(line, command.data, command.size);
    if (!is_append(command)) {
        memcpy(line + command.size, "\n", 1);
        if (!parse(slice_of(line, command.size + 1), false))
            fail_msg("%s: %s at %u", command.data, last.error.text, last.error.offset);
        memcpy(line + command.size, "\r\n", 2);
        assert_false(parse(slice_of(line, command.size + 1), false));
        command.size += 2;
    }
    if (!parse(slice_of(line, command.size), false))
        fail_msg("%s: %s at %u", command.data, last.error.text, last.error.offset);
}

static void bad_slice(struct slice command, const char *text)
{
    char line[4096];

    memcpy(line, command.data, command.size);
    memcpy(line + command.size, "\r\n", 2);
    if (parse(slice_of(line, command.size + 2), false))
        fail_msg("taken: %s", command.data);
    assert_string_equal(last.error.text, text);
}

static bool same(struct slice s, const char *text)
{
    return slice_eq(s, slice_str(text));
}

#define GOOD(command)      good_slice(SLICE(command))
#define BAD(command, text) bad_slice(SLICE(command), text)
#define SAME(s, text)      assert_true(same(s, text))

static void test_heads(void **state)
{
    GOOD("a NOOP");
    assert_int_equal(last.p.command->id, IMAP_NOOP);
    GOOD("A.1]x noop  ");
    SAME(last.p.tag, "A.1]x");
    GOOD("a uid Fetch 1 FLAGS");
    assert_int_equal(last.p.command->id, IMAP_UID_FETCH);
    GOOD("a LOGOUT");
    GOOD("a CHECK");
    GOOD("a CLOSE");
    GOOD("a EXPUNGE");
    GOOD("a IDLE");
    GOOD("a NAMESPACE");
    GOOD("a UNSELECT");
    GOOD("a STARTTLS");
    GOOD("a CAPABILITY");
    GOOD("a COMPRESS DEFLATE");
    SAME(last.p.compress, "DEFLATE");
    BAD("", "Missing arguments");
    BAD("*", "Invalid tag");
    BAD("a FROB x", "Unknown command");
    SAME(last.p.tag, "a");
    assert_null(last.p.command);
    BAD("a UID NOOP", "Unknown command");
    BAD("a NOTIFY NONE", "Unknown command");
    BAD("a NOOP x", "Too many arguments");
    assert_int_equal(last.p.command->id, IMAP_NOOP);
    BAD("a UID EXPUNGE", "Missing arguments");
}

static void test_strings(void **state)
{
    GOOD("a LOGIN fred secret");
    SAME(last.p.login.user, "fred");
    SAME(last.p.login.password, "secret");
    GOOD("a LOGIN \"fr\\\"e\\\\d\" \"\"");
    SAME(last.p.login.user, "fr\"e\\d");
    assert_int_equal(last.p.login.password.size, 0);
    GOOD("a LOGIN {4}\r\nf\r\nd {2+}\r\n\"\\");
    SAME(last.p.login.user, "f\r\nd");
    SAME(last.p.login.password, "\"\\");
    assert_int_equal(last.p.literal_count, 2);
    GOOD("a LOGIN \"fr\xc3\xa9\\x\" a]b");
    SAME(last.p.login.user, "fr\xc3\xa9x");
    GOOD("a LOGIN {0}\r\n x");
    BAD("a LOGIN fred", "Missing arguments");
    BAD("a LOGIN fr\xe9 x", "8-bit data in atom");
    BAD("a LOGIN \"fred x", "Quoted string without end");
    BAD("a LOGIN \"fred\\", "Quoted string without end");
    BAD("a LOGIN fr\"ed\" x", "Invalid arguments");
    BAD("a LOGIN fred(x", "Invalid arguments");
    BAD("a LOGIN ~{3}\r\nabc x", "Invalid arguments");
    BAD("a LOGIN {3\r\nabc x", "Invalid literal");
    BAD("a LOGIN {99}\r\nabc x", "Invalid literal");
    BAD("a LOGIN {3}\r\na\0c x", "NUL in literal");
    BAD("a LOGIN a b c", "Too many arguments");
}

static void test_authenticate(void **state)
{
    GOOD("a AUTHENTICATE plain");
    SAME(last.p.authenticate.mechanism, "plain");
    assert_false(last.p.authenticate.has_initial);
    GOOD("a AUTHENTICATE PLAIN AGZyZWQ=");
    SAME(last.p.authenticate.initial, "AGZyZWQ=");
    assert_true(last.p.authenticate.has_initial);
    GOOD("a AUTHENTICATE PLAIN =");
    assert_true(last.p.authenticate.has_initial);
    assert_int_equal(last.p.authenticate.initial.size, 0);
    BAD("a AUTHENTICATE PLAIN !!!!", "Invalid initial response");
    BAD("a AUTHENTICATE PLAIN abc!", "Too many arguments");
    BAD("a AUTHENTICATE", "Missing arguments");
}

static void test_id(void **state)
{
    char many[2048] = "a ID (";

    GOOD("a ID NIL");
    assert_int_equal(last.p.id.count, 0);
    GOOD("a ID ()");
    GOOD("a ID (\"name\" {3}\r\nfoo \"version\" nil)");
    assert_int_equal(last.p.id.count, 2);
    SAME(last.p.id.pairs[0].name, "name");
    SAME(last.p.id.pairs[0].value, "foo");
    assert_false(last.p.id.pairs[0].nil);
    assert_true(last.p.id.pairs[1].nil);
    BAD("a ID (\"name\")", "Invalid arguments");
    BAD("a ID x", "List or NIL expected");
    BAD("a ID (\"x\" ((\"y\")))", "Atom expected");
    BAD("a ID (\"x\" {4}\r\na\r\nb)", "Control characters in ID");
    BAD("a ID (\"1234567890123456789012345678901\" \"y\")", "ID parameter too long");
    for (int i = 0; i < 31; i++)
        strcat(many, "\"k\" \"v\" ");
    strcat(many, ")");
    bad_slice(slice_str(many), "Too many ID parameters");
}

static void test_mailboxes(void **state)
{
    char name[3200];

    GOOD("a DELETE inbox");
    SAME(last.p.mailbox.mailbox, "INBOX");
    GOOD("a SUBSCRIBE \"Entw&APw-rfe/a b\"");
    SAME(last.p.mailbox.mailbox, "Entw\xc3\xbcrfe/a b");
    GOOD("a UNSUBSCRIBE {5+}\r\na&-b/");
    SAME(last.p.mailbox.mailbox, "a&b/");
    GOOD("a RENAME Inbox \"Inbox/x\"");
    SAME(last.p.rename.from, "INBOX");
    SAME(last.p.rename.to, "INBOX/x");
    GOOD("a DELETE \"\"");
    BAD("a DELETE \"Entw\xc3\xbcrfe\"", "Mailbox name is not valid modified UTF-7");
    assert_true(last.error.no);
    assert_string_equal(last.error.code, "CANNOT");
    BAD("a DELETE &x-y", "Mailbox name is not valid modified UTF-7");
    BAD("a DELETE {3}\r\na\nb", "Mailbox name is not valid modified UTF-7");
    BAD("a DELETE", "Missing arguments");
    BAD("a RENAME x", "Missing arguments");
    assert_true(parse(SLICE("a DELETE \"Entw\xc3\xbcrfe & Co\"\r\n"), true));
    SAME(last.p.mailbox.mailbox, "Entw\xc3\xbcrfe & Co");
    assert_false(parse(SLICE("a DELETE \"Entw\xfcrfe\"\r\n"), true));
    memset(name, 'x', sizeof name);
    memcpy(name, "a DELETE ", 9);
    bad_slice(slice_of(name, 9 + 1001), "Mailbox name is too long");
    bad_slice(slice_of(name, 9 + 3001), "Mailbox name is too long");
    good_slice(slice_of(name, 9 + 1000));
}

static void test_select(void **state)
{
    GOOD("a SELECT INBOX");
    assert_false(last.p.select.condstore);
    GOOD("a EXAMINE x (CONDSTORE)");
    assert_true(last.p.select.condstore);
    GOOD("a SELECT x (QRESYNC (67890007 20050715194045000 41,43:211,214:541))");
    assert_true(last.p.select.qresync);
    assert_int_equal(last.p.select.uidvalidity, 67890007);
    assert_int_equal(last.p.select.modseq, 20050715194045000);
    SAME(last.p.select.known_uids.text, "41,43:211,214:541");
    GOOD("a SELECT x (QRESYNC (1 2 3:4 (1,3 2,5)) condstore)");
    SAME(last.p.select.match_seqs.text, "1,3");
    SAME(last.p.select.match_uids.text, "2,5");
    assert_true(last.p.select.condstore);
    GOOD("a SELECT x (QRESYNC (1 2 (1 3)))");
    assert_int_equal(last.p.select.known_uids.text.size, 0);
    GOOD("a SELECT x (QRESYNC (1 2))");
    BAD("a SELECT x (FOO)", "Unknown SELECT parameter");
    BAD("a SELECT x (QRESYNC (1))", "Invalid arguments");
    BAD("a SELECT x (QRESYNC (1 2 0))", "Invalid message set");
    BAD("a SELECT x (CONDSTORE", "')' expected");
    BAD("a SELECT x CONDSTORE", "'(' expected");
    BAD("a SELECT x (QRESYNC (4294967296 2))", "Invalid number");
}

static void test_create_enable(void **state)
{
    GOOD("a CREATE a/b");
    assert_false(last.p.create.trailing_separator);
    GOOD("a CREATE a/b/");
    assert_true(last.p.create.trailing_separator);
    SAME(last.p.create.mailbox, "a/b");
    GOOD("a CREATE x (USE (\\Sent \\drafts))");
    assert_int_equal(last.p.create.special_use, IMAP_USE_SENT | IMAP_USE_DRAFTS);
    GOOD("a CREATE x (USE (\\Nonsense))");
    assert_int_equal(last.p.create.special_use, IMAP_USE_OTHER);
    GOOD("a CREATE x (USE ())");
    BAD("a CREATE x (USE Sent)", "'(' expected");
    BAD("a CREATE x (FOO)", "Unknown CREATE parameter");
    GOOD("a ENABLE CONDSTORE X-FOO utf8=accept IMAP4rev2");
    assert_int_equal(last.p.enable, IMAP_ENABLE_CONDSTORE | IMAP_ENABLE_UTF8_ACCEPT | IMAP_ENABLE_IMAP4REV2);
    BAD("a ENABLE", "Missing arguments");
}

static void test_list(void **state)
{
    GOOD("a LIST \"\" *");
    assert_false(last.p.list.extended);
    SAME(last.p.list.patterns[0], "*");
    GOOD("a LIST \"\" \"\"");
    assert_int_equal(last.p.list.pattern_count, 1);
    assert_int_equal(last.p.list.patterns[0].size, 0);
    GOOD("a LSUB x/ %&AOk-%");
    SAME(last.p.list.reference, "x/");
    SAME(last.p.list.patterns[0], "%\xc3\xa9%");
    GOOD(
        "a LIST (SUBSCRIBED RECURSIVEMATCH special-use REMOTE) \"\" (a% \"b c\" {1}\r\nd) RETURN (SUBSCRIBED "
        "CHILDREN SPECIAL-USE STATUS (MESSAGES UNSEEN HIGHESTMODSEQ))");
    assert_true(last.p.list.extended);
    assert_int_equal(last.p.list.select_options, IMAP_LIST_SUBSCRIBED | IMAP_LIST_RECURSIVEMATCH |
                                                     IMAP_LIST_SPECIAL_USE | IMAP_LIST_REMOTE);
    assert_int_equal(last.p.list.return_options,
                     IMAP_LIST_SUBSCRIBED | IMAP_LIST_CHILDREN | IMAP_LIST_SPECIAL_USE | IMAP_LIST_STATUS);
    assert_int_equal(last.p.list.status_items,
                     IMAP_STATUS_MESSAGES | IMAP_STATUS_UNSEEN | IMAP_STATUS_HIGHESTMODSEQ);
    assert_int_equal(last.p.list.pattern_count, 3);
    SAME(last.p.list.patterns[2], "d");
    GOOD("a LIST () \"\" x RETURN ()");
    assert_true(last.p.list.extended);
    BAD("a LIST (RECURSIVEMATCH) \"\" x", "RECURSIVEMATCH needs another selection option");
    BAD("a LIST (FOO) \"\" x", "Unknown LIST selection option");
    BAD("a LIST \"\" x RETURN (FOO)", "Unknown LIST return option");
    BAD("a LIST \"\" x FOO", "RETURN expected");
    BAD("a LIST \"\" ()", "Mailbox pattern expected");
    BAD("a LSUB \"\" (x)", "Mailbox pattern expected");
    BAD("a LIST \"\"", "Missing arguments");
}

static void test_status(void **state)
{
    GOOD("a STATUS inbox (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ SIZE deleted)");
    SAME(last.p.status.mailbox, "INBOX");
    assert_int_equal(last.p.status.items, 255);
    GOOD("a STATUS x (SIZE )");
    BAD("a STATUS x ()", "Unknown status item");
    BAD("a STATUS x (FOO)", "Unknown status item");
    BAD("a STATUS x MESSAGES", "'(' expected");
}

static void test_sets(void **state)
{
    static const char *const wrong[] = {"0", "1,", ",1", "1:", ":", "1::2", "4294967296", "1:0", "**", "01"};
    struct uid_set set;

    GOOD("a COPY 1:3,7,*:9,4294967295 x");
    SAME(last.p.copy.set.text, "1:3,7,*:9,4294967295");
    uid_set_init(&set, last.heap, 0);
    assert_int_equal(imap_set_resolve(&last.p.copy.set, 12, &set), 0);
    assert_int_equal(set.range_count, 4);
    assert_true(uid_set_has(&set, 11));
    uid_set_fini(&set);
    GOOD("a UID MOVE $ inbox");
    assert_true(last.p.copy.set.saved);
    SAME(last.p.copy.mailbox, "INBOX");
    GOOD("a UID EXPUNGE 4,*");
    SAME(last.p.expunge.text, "4,*");
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        char command[64];

        snprintf(command, sizeof command, "a COPY %s x", wrong[i]);
        bad_slice(slice_str(command), "Invalid message set");
    }
    BAD("a COPY $,1 x", "Invalid arguments");
}

static void test_store(void **state)
{
    char many[1024] = "a STORE 1 FLAGS (";

    GOOD("a STORE 1 FLAGS (\\Seen \\deleted foo Foo bar)");
    assert_int_equal(last.p.store.mode, IMAP_STORE_REPLACE);
    assert_int_equal(last.p.store.flags.system, MAIL_SEEN | MAIL_DELETED);
    assert_int_equal(last.p.store.flags.keyword_count, 2);
    SAME(last.p.store.flags.keywords[1], "bar");
    GOOD("a UID STORE 1:* (UNCHANGEDSINCE 9223372036854775807) -flags.silent ()");
    assert_int_equal(last.p.store.mode, IMAP_STORE_REMOVE);
    assert_true(last.p.store.silent);
    assert_true(last.p.store.unchanged_since);
    assert_true(last.p.store.modseq == INT64_MAX);
    GOOD("a STORE 1 FLAGS (\\Seen )");
    GOOD("a STORE 1 +FLAGS \\Flagged $Forwarded NIL");
    assert_int_equal(last.p.store.mode, IMAP_STORE_ADD);
    assert_int_equal(last.p.store.flags.keyword_count, 2);
    BAD("a STORE 1 FLAGS (\\Recent)", "Invalid system flag");
    BAD("a STORE 1 FLAGS (\\Foo)", "Invalid system flag");
    BAD("a STORE 1 FLAGS (\\)", "Atom expected");
    BAD("a STORE 1 FLAGS (a", "')' expected");
    BAD("a STORE 1 FLAGS", "Missing arguments");
    BAD("a STORE 1 *FLAGS (x)", "Unknown STORE item");
    BAD("a STORE 1 (UNCHANGEDSINCE 9223372036854775808) FLAGS (x)", "Invalid number");
    BAD("a STORE 1 (FOO 1) FLAGS (x)", "Unknown STORE modifier");
    BAD("a STORE 1 FLAGS (12345678901234567890123456789012345678901234567890123456789012345)",
        "Invalid keyword");
    for (int i = 0; i < 65; i++)
        sprintf(many + strlen(many), "k%d%s", i, i < 64 ? " " : ")");
    bad_slice(slice_str(many), "Too many keywords");
}

static void test_fetch(void **state)
{
    GOOD("a FETCH 1:* ALL");
    assert_int_equal(last.p.fetch.items, IMAP_FETCH_FLAGS | IMAP_FETCH_INTERNALDATE | IMAP_FETCH_RFC822_SIZE |
                                             IMAP_FETCH_ENVELOPE);
    GOOD("a FETCH 1 fast");
    GOOD("a FETCH 1 FULL");
    assert_true(last.p.fetch.items & IMAP_FETCH_BODY);
    GOOD("a UID FETCH 1 (FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODY BODYSTRUCTURE MODSEQ UID)");
    assert_int_equal(last.p.fetch.items, 255);
    assert_int_equal(last.p.fetch.section_count, 0);
    GOOD("a UID FETCH 1 FLAGS (CHANGEDSINCE 12 VANISHED)");
    assert_int_equal(last.p.fetch.items, IMAP_FETCH_UID | IMAP_FETCH_FLAGS | IMAP_FETCH_MODSEQ);
    assert_true(last.p.fetch.changed_since && last.p.fetch.vanished && last.p.fetch.modseq == 12);
    GOOD("a FETCH 1 (RFC822 RFC822.HEADER RFC822.TEXT)");
    assert_int_equal(last.p.fetch.section_count, 3);
    assert_true(last.p.fetch.sets_seen);
    GOOD("a FETCH 1 RFC822.HEADER");
    assert_false(last.p.fetch.sets_seen);
    BAD("a FETCH 1 FLAGS (VANISHED CHANGEDSINCE 1)", "VANISHED needs UID FETCH and CHANGEDSINCE");
    BAD("a UID FETCH 1 FLAGS (VANISHED)", "VANISHED needs UID FETCH and CHANGEDSINCE");
    BAD("a FETCH 1 ()", "FETCH item expected");
    BAD("a FETCH 1 (FOO)", "Unknown FETCH item");
    BAD("a FETCH 1 (ALL)", "Unknown FETCH item");
    BAD("a FETCH 1 FLAGS UID", "'(' expected");
    BAD("a FETCH 1 (FLAGS", "')' expected");
    BAD("a FETCH 1 ((FLAGS))", "FETCH item expected");
    BAD("a FETCH 1", "Missing arguments");
}

static void test_sections(void **state)
{
    const struct imap_section *s;
    char many[4096] = "a FETCH 1 (";

    GOOD("a FETCH 1 BODY[]");
    assert_true(last.p.fetch.sets_seen);
    GOOD("a FETCH 1 (BODY.PEEK[1.2.HEADER.FIELDS.NOT (From \"to\" {2+}\r\nCc)]<0.2048> binary[3] "
         "BINARY.SIZE[1.1] "
         "BODY[4.MIME] BODY.PEEK[TEXT]<7.9223372036854775807>)");
    assert_int_equal(last.p.fetch.section_count, 5);
    s = &last.p.fetch.sections[0];
    assert_int_equal(s->kind, IMAP_SECTION_BODY);
    assert_int_equal(s->section.kind, SECTION_HEADER_FIELDS_NOT);
    assert_int_equal(s->section.depth, 2);
    assert_int_equal(s->section.numbers[1], 2);
    assert_int_equal(s->field_count, 3);
    SAME(s->fields[2], "Cc");
    assert_true(s->peek && s->partial && s->offset == 0 && s->size == 2048);
    s = &last.p.fetch.sections[1];
    assert_int_equal(s->kind, IMAP_SECTION_BINARY);
    assert_false(s->peek);
    s = &last.p.fetch.sections[2];
    assert_int_equal(s->kind, IMAP_SECTION_BINARY_SIZE);
    s = &last.p.fetch.sections[3];
    assert_int_equal(s->section.kind, SECTION_MIME);
    s = &last.p.fetch.sections[4];
    assert_true(s->size == INT64_MAX);
    BAD("a FETCH 1 BODY[MIME]", "Invalid section");
    BAD("a FETCH 1 BODY[0]", "Invalid section");
    BAD("a FETCH 1 BODY[1.]", "Invalid section");
    BAD("a FETCH 1 BODY[FOO]", "Invalid section");
    BAD("a FETCH 1 BODY[HEADER.FIELDS]", "Invalid arguments");
    BAD("a FETCH 1 BODY[HEADER.FIELDS ()]", "String expected");
    BAD("a FETCH 1 BODY[HEADER.FIELDS (\"\")]", "Empty header field name");
    BAD("a FETCH 1 BODY[1", "']' expected");
    BAD("a FETCH 1 BODY[]<0.0>", "Invalid partial range");
    BAD("a FETCH 1 BODY[]<0>", "Invalid arguments");
    BAD("a FETCH 1 BODY[]<0.9223372036854775808>", "Invalid number");
    BAD("a FETCH 1 BINARY[TEXT]", "Invalid BINARY section");
    BAD("a FETCH 1 BINARY.SIZE[1]<0.1>", "Too many arguments");
    BAD("a FETCH 1 BODY.PEEK", "Unknown FETCH item");
    BAD("a FETCH 1 RFC822[]", "Unknown FETCH item");
    for (int i = 0; i < 129; i++)
        sprintf(many + strlen(many), "BODY[]<%d.1>%s", i, i < 128 ? " " : ")");
    bad_slice(slice_str(many), "Too many sections");
}

/* The tree as text: kinds as letters, ! for negation. */
static void tree(const struct imap_search_key *key, char *out)
{
    for (; key != NULL; key = key->next) {
        if (key->negated)
            strcat(out, "!");
        if (key->kind == IMAP_SEARCH_AND || key->kind == IMAP_SEARCH_OR) {
            strcat(out, key->kind == IMAP_SEARCH_AND ? "and(" : "or(");
            tree(key->first, out);
            strcat(out, ")");
        } else if (key->kind == IMAP_SEARCH_FLAG) {
            strncat(out, mail_flag_name(key->flag).data + 1, 2);
        } else if (key->kind == IMAP_SEARCH_SEQ) {
            strncat(out, key->set.text.data, key->set.text.size);
        } else {
            sprintf(out + strlen(out), "k%d", key->kind);
        }
        if (key->next != NULL)
            strcat(out, " ");
    }
}

static void check_tree(const char *keys, const char *expected)
{
    char command[512], out[512] = "";

    snprintf(command, sizeof command, "a SEARCH %s", keys);
    good_slice(slice_str(command));
    tree(last.p.search.key, out);
    assert_string_equal(out, expected);
}

static void test_search_tree(void **state)
{
    check_tree("SEEN", "and(Se)");
    check_tree("UNSEEN 1:3 DELETED", "and(!Se 1:3 De)");
    check_tree("NOT SEEN", "and(!Se)");
    check_tree("NOT NOT SEEN", "and(Se)");
    check_tree("NOT UNSEEN", "and(Se)");
    check_tree("OR SEEN DRAFT", "and(or(Se Dr))");
    check_tree("OR SEEN OR DRAFT DELETED 1", "and(or(Se Dr De) 1)");
    check_tree("OR OR SEEN DRAFT DELETED 1", "and(or(Se Dr De) 1)");
    check_tree("OR NOT OR SEEN DRAFT DELETED 1", "and(or(!or(Se Dr) De) 1)");
    check_tree("(SEEN DRAFT)", "and(and(Se Dr))");
    check_tree("NOT (SEEN (DRAFT)) OR (1 2) (3)", "and(!and(Se and(Dr)) or(and(1 2) and(3)))");
    check_tree("OR (OR 1 2) 3 ( 4 )  5", "and(or(and(or(1 2)) 3) and(4) 5)");
}

static void test_search_keys(void **state)
{
    const struct imap_search_key *k;

    GOOD("a UID SEARCH NEW OLD RECENT KEYWORD foo UNKEYWORD bar ALL");
    k = last.p.search.key->first;
    assert_int_equal(k->kind, IMAP_SEARCH_AND);
    assert_int_equal(k->first->kind, IMAP_SEARCH_RECENT);
    assert_true(k->first->next->negated && k->first->next->flag == MAIL_SEEN);
    k = k->next;
    assert_true(k->kind == IMAP_SEARCH_RECENT && k->negated);
    k = k->next->next->next;
    assert_true(k->kind == IMAP_SEARCH_KEYWORD && k->negated);
    SAME(k->text, "bar");
    GOOD("a SEARCH SINCE 1-Feb-1994 SENTBEFORE \"02-Feb-1994\" LARGER 4294967296 OLDER 60 HEADER X-Y \"\"");
    k = last.p.search.key->first;
    assert_true(k->kind == IMAP_SEARCH_SINCE && k->day == 8797);
    k = k->next;
    assert_true(k->kind == IMAP_SEARCH_SENTBEFORE && k->day == 8798);
    k = k->next;
    assert_true(k->kind == IMAP_SEARCH_LARGER && k->number == 4294967296);
    k = k->next;
    assert_true(k->kind == IMAP_SEARCH_OLDER && k->number == 60);
    k = k->next;
    SAME(k->field, "X-Y");
    assert_int_equal(k->text.size, 0);
    GOOD("a SEARCH CHARSET utf-8 FROM {3}\r\n\xe2\x82\xac UID 1:* $ MODSEQ \"/flags/\\\\draft\" all 620");
    k = last.p.search.key->first;
    SAME(k->field, "From");
    SAME(k->text, "\xe2\x82\xac");
    assert_true(last.p.search.uses_modseq);
    k = k->next;
    assert_int_equal(k->kind, IMAP_SEARCH_UID);
    k = k->next;
    assert_true(k->set.saved);
    assert_true(k->next->number == 620);
    GOOD("a SEARCH RETURN (MIN COUNT SAVE) ALL");
    assert_true(last.p.search.extended);
    assert_int_equal(last.p.search.returns, IMAP_RETURN_MIN | IMAP_RETURN_COUNT | IMAP_RETURN_SAVE);
    GOOD("a SEARCH RETURN () CHARSET US-ASCII ALL");
    assert_int_equal(last.p.search.returns, IMAP_RETURN_ALL);
}

static void check_nesting(const char *before, const char *middle, const char *after, int count,
                          const char *error)
{
    char command[4096] = "a SEARCH ";

    for (int i = 0; i < count; i++)
        strcat(command, before);
    strcat(command, middle);
    for (int i = 0; i < count; i++)
        strcat(command, after);
    strcat(command, "\r\n");
    assert_int_equal(parse(slice_str(command), false), error == NULL);
    if (error != NULL)
        assert_string_equal(last.error.text, error);
}

static void test_search_bounds(void **state)
{
    check_nesting("(", "ALL", ")", 32, NULL);
    check_nesting("(", "ALL", ")", 33, "Search keys nested too deeply");
    check_nesting("NOT ", "ALL", "", 1000, NULL);
    check_nesting("NOT ", "ALL", "", 1001, NULL);
    assert_true(last.p.search.key->first->negated);
    check_nesting("1 ", "ALL", "", 1023, NULL);
    check_nesting("1 ", "ALL", "", 1024, "Too many search keys");
    check_nesting("OR 1 ", "2", "", 500, NULL);
    check_nesting("OR ", "1", " 2", 500, NULL);
    check_nesting("NOT OR 1 ", "2", "", 32, NULL);
    check_nesting("NOT OR 1 ", "2", "", 33, "Search keys nested too deeply");
}

static void test_search_bad(void **state)
{
    BAD("a SEARCH", "Missing arguments");
    BAD("a SEARCH ()", "Search key expected");
    BAD("a SEARCH (ALL", "Search key expected");
    BAD("a SEARCH ALL)", "Unbalanced ')'");
    BAD("a SEARCH (OR ALL)", "Search key expected");
    BAD("a SEARCH OR ALL", "Search key expected");
    BAD("a SEARCH NOT", "Missing arguments");
    BAD("a SEARCH (ALL)ALL", "Invalid arguments");
    BAD("a SEARCH FOO", "Unknown search key");
    BAD("a SEARCH ON 31-Feb-1994", "Invalid date");
    BAD("a SEARCH OLDER 0", "Invalid number");
    BAD("a SEARCH RETURN (FOO) ALL", "Unknown SEARCH return option");
    BAD("a SEARCH CHARSET KOI8-R ALL", "Unknown charset");
    assert_true(last.error.no);
    assert_string_equal(last.error.code, "BADCHARSET (US-ASCII UTF-8)");
    BAD("a SEARCH LARGER 9223372036854775808", "Invalid number");
    BAD("a SEARCH 0", "Invalid message set");
}

static void test_append(void **state)
{
    GOOD("a APPEND inbox {310}\r\n");
    SAME(last.p.append.mailbox, "INBOX");
    assert_int_equal(last.p.append.message.size, 310);
    assert_true(last.p.append.message.sync);
    assert_false(last.p.append.message.has_date);
    GOOD("a APPEND {3+}\r\na b (\\Seen foo) \"17-Jul-1996 02:44:25 -0700\" ~{12+}\r\n");
    SAME(last.p.append.mailbox, "a b");
    assert_int_equal(last.p.append.message.flags.system, MAIL_SEEN);
    assert_true(last.p.append.message.has_date);
    assert_int_equal(last.p.append.message.date.utc_s, 837596665);
    assert_int_equal(last.p.append.message.date.zone_minutes, -420);
    assert_true(last.p.append.message.binary && !last.p.append.message.sync);
    GOOD("a APPEND x () UTF8 (~{3}\r\n");
    assert_true(last.p.append.message.utf8);
    GOOD("a REPLACE 4 x {3}\r\n");
    assert_int_equal(last.p.append.replaced, 4);
    BAD("a APPEND x", "Missing arguments");
    BAD("a APPEND x (\\Recent) {3}", "Invalid system flag");
    BAD("a APPEND x \"nonsense\" {3}", "Invalid date");
    BAD("a APPEND x {3}\r\n", "Message literal expected");
    BAD("a APPEND x {3}\r\nabc", "Message literal expected");
    BAD("a APPEND x hello", "Message literal expected");
    BAD("a APPEND x CATENATE (URL \"u\")", "CATENATE is not supported");
    BAD("a APPEND x UTF8 ({3}", "literal8 expected");
    BAD("a REPLACE 0 x {3}", "Invalid number");
}

static enum imap_append_result next(const char *text, struct imap_append_message *message)
{
    return imap_parse_append_next(&last.arena, slice_str(text), message, &last.error);
}

static void test_append_next(void **state)
{
    struct imap_append_message m = {0};

    assert_int_equal(next("\r\n", &m), IMAP_APPEND_END);
    assert_int_equal(next("\n", &m), IMAP_APPEND_END);
    assert_int_equal(next(" (\\Draft) {7+}\r\n", &m), IMAP_APPEND_MESSAGE);
    assert_int_equal(m.size, 7);
    assert_int_equal(m.flags.system, MAIL_DRAFT);
    assert_int_equal(next(" UTF8 (~{7}\r\n", &m), IMAP_APPEND_MESSAGE);
    assert_int_equal(next("\r\n", &m), IMAP_APPEND_BAD);
    assert_int_equal(next(")\r\n", &m), IMAP_APPEND_END);
    m.utf8 = false;
    assert_int_equal(next(")\r\n", &m), IMAP_APPEND_BAD);
    assert_int_equal(next("{3}\r\n", &m), IMAP_APPEND_BAD);
    assert_int_equal(next("", &m), IMAP_APPEND_BAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads),         cmocka_unit_test(test_strings),
        cmocka_unit_test(test_authenticate),  cmocka_unit_test(test_id),
        cmocka_unit_test(test_mailboxes),     cmocka_unit_test(test_select),
        cmocka_unit_test(test_create_enable), cmocka_unit_test(test_list),
        cmocka_unit_test(test_status),        cmocka_unit_test(test_sets),
        cmocka_unit_test(test_store),         cmocka_unit_test(test_fetch),
        cmocka_unit_test(test_sections),      cmocka_unit_test(test_search_tree),
        cmocka_unit_test(test_search_keys),   cmocka_unit_test(test_search_bounds),
        cmocka_unit_test(test_search_bad),    cmocka_unit_test(test_append),
        cmocka_unit_test(test_append_next),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
