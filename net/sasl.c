#include "net/sasl.h"
#include "core/mail/mutf7.h"
#include "net/base64.h"

enum login_step { LOGIN_USER, LOGIN_PASSWORD };

bool sasl_mechanism_parse(struct slice name, enum sasl_mechanism *mechanism_out)
{
    if (slice_eq_nocase(name, SLICE("PLAIN")))
        *mechanism_out = SASL_PLAIN;
    else if (slice_eq_nocase(name, SLICE("LOGIN")))
        *mechanism_out = SASL_LOGIN;
    else
        return false;
    return true;
}

void sasl_wipe(struct sasl *s)
{
    bytes_wipe(s, sizeof *s);
}

static enum sasl_result sasl_fail(struct sasl *s, enum sasl_result result)
{
    sasl_wipe(s);
    return result;
}

static bool user_valid(struct slice user)
{
    if (user.size == 0 || user.size > SASL_USER_MAX || !utf8_valid(user))
        return false;
    for (size_t i = 0; i < user.size; i++) {
        if ((uint8_t)user.data[i] < 0x20 || user.data[i] == 0x7f)
            return false;
    }
    return true;
}

static bool password_valid(struct slice password)
{
    return password.size > 0 && password.size <= SASL_PASSWORD_MAX &&
           slice_find(password, '\0') == password.size;
}

/* RFC 4616: [authzid] NUL authcid NUL passwd */
static enum sasl_result plain_response(struct sasl *s, struct slice response)
{
    struct slice authzid, user, password;
    size_t at = slice_find(response, '\0');

    if (at == response.size)
        return sasl_fail(s, SASL_MALFORMED);
    authzid = slice_first(response, at);
    response = slice_from(response, at + 1);
    at = slice_find(response, '\0');
    if (at == response.size)
        return sasl_fail(s, SASL_MALFORMED);
    user = slice_first(response, at);
    password = slice_from(response, at + 1);
    if (!user_valid(user) || !password_valid(password))
        return sasl_fail(s, SASL_MALFORMED);
    if (authzid.size > 0 && !slice_eq(authzid, user))
        return sasl_fail(s, SASL_REFUSED);
    s->user = user;
    s->password = password;
    return SASL_DONE;
}

static enum sasl_result login_response(struct sasl *s, struct slice response, struct slice *challenge_out)
{
    if (s->step == LOGIN_USER) {
        if (!user_valid(response))
            return sasl_fail(s, SASL_MALFORMED);
        s->user = response;
        s->step = LOGIN_PASSWORD;
        *challenge_out = SLICE("UGFzc3dvcmQ6"); /* "Password:" */
        return SASL_CHALLENGE;
    }
    if (!password_valid(response))
        return sasl_fail(s, SASL_MALFORMED);
    s->password = response;
    return SASL_DONE;
}

static enum sasl_result sasl_response(struct sasl *s, struct slice text, struct slice *challenge_out)
{
    char *out = s->bytes + s->used;
    size_t size, room = MIN(sizeof s->bytes - s->used, SASL_RESPONSE_MAX);

    if (text.size > SASL_LINE_MAX || !base64_decode(text, out, room, &size))
        return sasl_fail(s, SASL_MALFORMED);
    s->used += (uint32_t)size;
    return s->mechanism == SASL_PLAIN ? plain_response(s, slice_of(out, size))
                                      : login_response(s, slice_of(out, size), challenge_out);
}

enum sasl_result sasl_start(struct sasl *s, enum sasl_mechanism mechanism, struct slice initial,
                            struct slice *challenge_out)
{
    memset(s, 0, sizeof *s);
    s->mechanism = mechanism;
    if (initial.data == NULL) {
        *challenge_out = mechanism == SASL_PLAIN ? SLICE("") : SLICE("VXNlcm5hbWU6"); /* "Username:" */
        return SASL_CHALLENGE;
    }
    if (slice_eq(initial, SLICE("=")))
        initial.size = 0;
    return sasl_response(s, initial, challenge_out);
}

enum sasl_result sasl_next(struct sasl *s, struct slice line, struct slice *challenge_out)
{
    if (slice_eq(line, SLICE("*")))
        return sasl_fail(s, SASL_CANCELLED);
    return sasl_response(s, line, challenge_out);
}
