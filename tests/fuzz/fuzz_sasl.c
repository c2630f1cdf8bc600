/* SASL: lines of a login, the first of them perhaps the initial response; and base64 both ways. */
#include "net/base64.h"
#include "net/sasl.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct slice take_line(struct slice *in)
{
    size_t at = slice_find(*in, '\n');
    struct slice line = slice_first(*in, at);

    *in = slice_from(*in, MIN(at + 1, in->size));
    return line;
}

static void check_base64(struct slice text)
{
    char *out = malloc(text.size + 1), *again;
    size_t size;

    if (base64_decode(text, out, text.size, &size)) {
        again = malloc(BASE64_SIZE(size) + 1);
        if (!slice_eq(slice_of(again, base64_encode(slice_of(out, size), again)), text))
            abort(); /* One text for one value. */
        free(again);
    }
    free(out);
}

static void check_result(const struct sasl *s, enum sasl_result result)
{
    const char *bytes = (const char *)s;

    if (result == SASL_DONE) {
        if (s->user.size == 0 || s->user.size > SASL_USER_MAX || s->password.size == 0 ||
            s->password.size > SASL_PASSWORD_MAX || slice_find(s->user, '\0') < s->user.size)
            abort();
        return;
    }
    for (size_t i = 0; result != SASL_CHALLENGE && i < sizeof *s; i++) {
        if (bytes[i] != 0)
            abort(); /* Not wiped. */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice in = slice_of(data, size), challenge, initial = slice_of(NULL, 0);
    enum sasl_mechanism mechanism;
    enum sasl_result result;
    struct sasl s;

    if (!sasl_mechanism_parse(take_line(&in), &mechanism))
        mechanism = size % 2 == 0 ? SASL_PLAIN : SASL_LOGIN;
    if (in.size > 0 && in.data[0] == '>') {
        in = slice_from(in, 1);
        initial = take_line(&in);
        check_base64(initial);
    }
    result = sasl_start(&s, mechanism, initial, &challenge);
    check_result(&s, result);
    while (result == SASL_CHALLENGE && in.size > 0) {
        struct slice line = take_line(&in);

        check_base64(line);
        result = sasl_next(&s, line, &challenge);
        check_result(&s, result);
    }
    sasl_wipe(&s);
    return 0;
}
