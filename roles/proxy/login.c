/* roles/proxy/login.c -- what the proxy answers without a backend: greeting, capabilities, TLS, and the words by which a client
 * says who he is (authenticate.c asks a director). */
#include "core/fiber.h"
#include "core/log.h"
#include "core/metrics.h"
#include "net/deflate.h"
#include "net/imap/grammar.h"
#include "net/sasl.h"
#include "roles/proxy/forwarded.h"
#include "roles/proxy/session.h"
#include "roles/words/capability.h"
#include <stdio.h>

#define LOGIN_PRIVACY "[PRIVACYREQUIRED] Plaintext authentication needs TLS"

static bool login_allowed(const struct session *s)
{
    return s->proxy->plaintext_always || session_secure(s);
}

void session_capability(struct session *s)
{
    if (s->user_size > 0) {
        s->features =
            MAX(s->features, (uint8_t)route_features(&s->proxy->route)); /* What was promised stays. */
        for (unsigned level = 0; level <= s->features; level++) {
            session_write(s, level > 0 ? " " : "");
            session_write(s, feature_capabilities[level]);
        }
        if (!conn_deflates(&s->conn)) /* RFC 4978, 4. */
            session_write(s, " COMPRESS=DEFLATE");
        return;
    }
    session_write(s, "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE");
    if (s->proxy->tls != NULL && s->conn.tls == NULL)
        session_write(s, " STARTTLS");
    session_write(s, login_allowed(s) ? " AUTH=PLAIN AUTH=LOGIN" : " LOGINDISABLED");
}

void session_greet(struct session *s)
{
    session_write(s, "* OK [CAPABILITY ");
    session_capability(s);
    session_write(s, "] Trireme ready\r\n");
}

/* ---- SASL ---------------------------------------------------------------------------------------------- */

void session_sasl_end(struct session *s)
{
    if (s->sasl == NULL)
        return;
    sasl_wipe(s->sasl);
    heap_free(s->proxy->heap, s->sasl);
    s->sasl = NULL;
    session_begun_less(s);
}

static void sasl_step(struct session *s, enum sasl_result result, struct slice challenge)
{
    switch (result) {
    case SASL_CHALLENGE:
        session_enter(s, SESSION_SASL);
        session_write(s, "+ ");
        conn_write(&s->conn, challenge);
        session_write(s, "\r\n");
        return;
    case SASL_DONE:
        session_login_ask(s, s->sasl->user, s->sasl->password);
        break;
    case SASL_CANCELLED:
        session_enter(s, SESSION_COMMAND);
        session_bad(s, "Authentication cancelled");
        break;
    case SASL_MALFORMED:
        session_enter(s, SESSION_COMMAND);
        session_bad(s, "Malformed SASL response");
        break;
    case SASL_REFUSED:
        session_enter(s, SESSION_COMMAND);
        session_reply(s, "NO", "[AUTHORIZATIONFAILED] Not allowed to act for another user");
        break;
    }
    session_sasl_end(s);
}

void session_sasl_line(struct session *s, struct slice line)
{
    struct slice challenge;
    enum sasl_result result = sasl_next(s->sasl, line, &challenge);

    sasl_step(s, result, challenge);
}

static void authenticate(struct session *s, const struct imap_authenticate *a)
{
    enum sasl_mechanism mechanism;
    struct slice challenge;
    enum sasl_result result;

    if (!login_allowed(s)) {
        session_reply(s, "NO", LOGIN_PRIVACY);
        return;
    }
    if (!sasl_mechanism_parse(a->mechanism, &mechanism)) {
        session_reply(s, "NO", "Unsupported authentication mechanism");
        return;
    }
    s->sasl = heap_alloc(s->proxy->heap, sizeof *s->sasl);
    /* The grammar has made "" of "=": an empty initial response is not none. */
    result = sasl_start(s->sasl, mechanism,
                        !a->has_initial       ? slice_of(NULL, 0)
                        : a->initial.size > 0 ? a->initial
                                              : SLICE("="),
                        &challenge);
    sasl_step(s, result, challenge);
}

/* ---- Commands ------------------------------------------------------------------------------------------ */

static void starttls(struct session *s)
{
    if (s->conn.tls != NULL || s->proxy->tls == NULL) {
        session_bad(s, s->conn.tls != NULL ? "TLS is already on" : "TLS is not configured");
        return;
    }
    session_reply(s, "OK", "Begin TLS negotiation now");
    session_enter(s, SESSION_HANDSHAKE);
    conn_await_hello(&s->conn, false);
}

static void logout(struct session *s)
{
    session_write(s, "* BYE Logging out\r\n");
    session_reply(s, "OK", "Logout completed");
    session_close(s);
}

static void identify(struct session *s, const struct imap_id *id)
{
    for (uint32_t i = 0; i < id->count; i++) {
        if (!id->pairs[i].nil)
            log_event(LOG_DEBUG, "client id", "sid=%llx name=%s value=%s", (unsigned long long)s->id,
                      log_quote(id->pairs[i].name), log_quote(id->pairs[i].value));
    }
    forwarded_by_id(s, id);
    session_write(s, "* ID (\"name\" \"Trireme\" \"version\" \"" TRIREME_VERSION "\")\r\n");
    session_reply(s, "OK", "ID completed");
}

/* RFC 5161, while nothing is selected: else a mailbox's HIGHESTMODSEQ may be due, which the backend has. */
static void enable(struct session *s, uint32_t names)
{
    bool condstore = (names & IMAP_ENABLE_CONDSTORE) != 0;

    s->token.flags |= condstore ? TOKEN_CONDSTORE : 0;
    session_write(s, condstore ? "* ENABLED CONDSTORE\r\n" : "* ENABLED\r\n");
    session_reply(s, "OK", "Enabled.");
}

/* RFC 4978. What comes behind this command is compressed, so nothing of it is looked at yet. */
static void compress(struct session *s, struct slice mechanism)
{
    uint64_t max = s->proxy->limits.compress_memory;

    if (!slice_eq_nocase(mechanism, SLICE("DEFLATE"))) {
        session_bad(s, "Unknown compression");
    } else if (conn_deflates(&s->conn)) {
        session_reply(s, "NO", "[COMPRESSIONACTIVE] DEFLATE is active already");
    } else if (deflate_memory() >= max || !heap_admits(s->proxy->heap)) {
        session_reply(s, "NO", "[LIMIT] Too many connections are compressed");
    } else {
        session_reply(s, "OK", "DEFLATE active");
        if (!conn_start_deflate(&s->conn)) /* Too late for a NO. */
            session_bye(s, "[UNAVAILABLE] No memory for compression");
    }
}

static void local_run(struct session *s, const struct imap_parsed *parsed)
{
    switch (parsed->command->id) {
    case IMAP_CAPABILITY:
        session_write(s, "* CAPABILITY ");
        session_capability(s);
        session_write(s, "\r\n");
        session_reply(s, "OK", "Capability completed");
        break;
    case IMAP_NOOP:
        session_reply(s, "OK", "NOOP completed");
        break;
    case IMAP_LOGOUT:
        logout(s);
        break;
    case IMAP_ID:
        identify(s, &parsed->id);
        break;
    case IMAP_STARTTLS:
        starttls(s);
        break;
    case IMAP_AUTHENTICATE:
        authenticate(s, &parsed->authenticate);
        break;
    case IMAP_LOGIN:
        if (login_allowed(s))
            session_login_ask(s, parsed->login.user, parsed->login.password);
        else
            session_reply(s, "NO", LOGIN_PRIVACY);
        break;
    case IMAP_IDLE:
        session_idle_begin(s);
        break;
    case IMAP_ENABLE:
        enable(s, parsed->enable);
        break;
    case IMAP_COMPRESS:
        compress(s, parsed->compress);
        break;
    default: /* In the table for its framing; not offered by CAPABILITY. */
        session_bad(s, "Unknown command");
    }
}

void session_local(struct session *s, const struct imap_command *command, struct slice text)
{
    const struct imap_parse_options options = {0};
    struct arena *arena = &s->proxy->arena;
    struct imap_parsed parsed;
    struct imap_parse_error error;

    if (imap_parse(arena, text, &options, &parsed, &error)) {
        local_run(s, &parsed);
    } else {
        char line[256];

        snprintf(line, sizeof line, "%s%s%s%s", error.code != NULL ? "[" : "",
                 error.code != NULL ? error.code : "", error.code != NULL ? "] " : "", error.text);
        if (error.no)
            session_reply(s, "NO", line);
        else
            session_bad(s, line);
    }
    if (imap_command_has(command,
                         IMAP_HAS_SECRET)) { /* The input is on loan to us, and consumed by this command. */
        bytes_wipe((void *)(uintptr_t)text.data, text.size);
        arena_wipe(arena);
    } else {
        arena_reset(arena);
    }
}
