/* roles/proxy/login.c -- what the proxy answers without a backend: greeting, capabilities, TLS, who the
 * client is. */
#include "core/fiber.h"
#include "core/log.h"
#include "core/metrics.h"
#include "net/imap/grammar.h"
#include "net/sasl.h"
#include "roles/proxy/session.h"
#include "roles/words/capability.h"
#include <stdio.h>

#define LOGIN_FAILED  "[AUTHENTICATIONFAILED] Authentication failed"
#define LOGIN_LATER   "[UNAVAILABLE] Cannot check the login now, try again later"
#define LOGIN_PRIVACY "[PRIVACYREQUIRED] Plaintext authentication needs TLS"

static bool login_allowed(const struct session *s)
{
    return s->proxy->plaintext_always || session_secure(s);
}

static void capability_write(struct session *s)
{
    if (s->user_size > 0) {
        session_write(s, backend_capabilities);
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
    capability_write(s);
    session_write(s, "] Trireme ready\r\n");
}

/* ---- The director's answer
 * --------------------------------------------------------------------------------- */

static void login_accept(struct session *s, const struct login_reply *reply)
{
    ASSERT(reply->user.size > 0 && reply->user.size <= sizeof s->user);
    memcpy(s->user, reply->user.data, reply->user.size);
    s->user_size = (uint8_t)reply->user.size;
    s->partition = reply->partition;
    s->ticket = reply->ticket;
    s->bad_count = 0;
    s->proxy->shard->metrics->sessions++;
    imap_framer_set_limits(&s->framer, &imap_framer_session);
    conn_write(&s->conn, session_tag(s));
    session_write(s, " OK [CAPABILITY ");
    capability_write(s);
    session_write(s, "] Logged in\r\n");
    session_ready(s);
}

void session_login_refuse(struct session *s)
{
    enum login_result result = s->login.result;

    session_reply(s, "NO", result == LOGIN_UNAVAILABLE ? LOGIN_LATER : LOGIN_FAILED);
    s->bad_count += result != LOGIN_UNAVAILABLE;
    if (s->bad_count >= s->proxy->limits.bad_prelogin) {
        session_bye(s, "Too many failed logins");
        return;
    }
    session_deadline(s, s->proxy->limits.login_timeout_ms);
    session_ready(s);
}

static void login_fail(struct session *s, enum login_result result, uint32_t delay_ms)
{
    s->login = (struct login_reply){.result = result};
    if (delay_ms == 0) {
        session_login_refuse(s);
        return;
    }
    session_busy(s, SESSION_DELAY);
    session_deadline(s, delay_ms);
}

static void on_login_frame(struct link_stream *stream, struct link_frame *f)
{
    struct session *s = stream->owner;
    struct login_reply reply;

    if (f->header.type == LINK_END) {
        s->stream = NULL;
        session_timed(s);
        if (!login_reply_decode(link_frame_head(f), &reply))
            login_fail(s, LOGIN_UNAVAILABLE, 0);
        else if (reply.result == LOGIN_OK)
            login_accept(s, &reply);
        else
            login_fail(s, reply.result, reply.delay_ms);
    }
    link_frame_release(f);
}

static void on_login_credit(struct link_stream *stream)
{
}

static void on_login_lost(struct link_stream *stream)
{
    struct session *s = stream->owner;

    s->stream = NULL;
    login_fail(s, LOGIN_UNAVAILABLE, 0);
}

static const struct link_stream_ops login_ops = {on_login_frame, on_login_credit, on_login_lost};

static void login_ask(struct session *s, struct slice user, struct slice password)
{
    struct login_request request = {.secure = session_secure(s), .user = user, .password = password};
    char head[HEAD_SIZE_SMALL];
    size_t size;

    session_busy(s, SESSION_LOGIN);
    session_time(s, METRIC_COMMAND_LOGIN);
    if (user.size == 0 || user.size > USER_SIZE_MAX || password.size == 0 ||
        password.size > PASSWORD_SIZE_MAX) {
        login_fail(s, LOGIN_REFUSED, 0);
        return;
    }
    size = login_request_encode(&request, head);
    s->stream = link_open(route_director(&s->proxy->route, user), LINK_LOGIN, slice_of(head, size),
                          slice_of(NULL, 0), true, &login_ops, s);
    bytes_wipe(head, size);
    if (s->stream == NULL)
        login_fail(s, LOGIN_UNAVAILABLE, 0);
}

/* ---- SASL
 * -------------------------------------------------------------------------------------------------- */

void session_sasl_end(struct session *s)
{
    if (s->sasl == NULL)
        return;
    sasl_wipe(s->sasl);
    heap_free(s->proxy->heap, s->sasl);
    s->sasl = NULL;
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
        login_ask(s, s->sasl->user, s->sasl->password);
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

/* ---- Commands
 * ----------------------------------------------------------------------------------------------- */

static void starttls(struct session *s)
{
    if (s->conn.tls != NULL || s->proxy->tls == NULL) {
        session_bad(s, s->conn.tls != NULL ? "TLS is already on" : "TLS is not configured");
        return;
    }
    session_reply(s, "OK", "Begin TLS negotiation now");
    session_enter(s, SESSION_HANDSHAKE);
    conn_start_tls(&s->conn, s->proxy->tls, SLICE("imap"));
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
    session_write(s, "* ID (\"name\" \"Trireme\" \"version\" \"" TRIREME_VERSION "\")\r\n");
    session_reply(s, "OK", "ID completed");
}

static void local_run(struct session *s, const struct imap_parsed *parsed)
{
    switch (parsed->command->id) {
    case IMAP_CAPABILITY:
        session_write(s, "* CAPABILITY ");
        capability_write(s);
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
            login_ask(s, parsed->login.user, parsed->login.password);
        else
            session_reply(s, "NO", LOGIN_PRIVACY);
        break;
    case IMAP_IDLE:
        session_idle_begin(s);
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
