/* core/config.c -- the whole: its life, the command line, the environment, and reading. */
#include "core/config_private.h"
#include <stdlib.h>

/* ---- Life ---------------------------------------------------------------------------------------------- */

struct config *config_new(const struct config_key *keys, size_t key_count)
{
    struct config *c = calloc(1, sizeof *c + key_count * sizeof c->values[0]);
    struct place place = {SOURCE_DEFAULT, "default", 0};
    struct config_error error;

    if (c == NULL)
        return NULL;
    c->keys = keys;
    c->key_count = key_count;
    for (size_t i = 0; i < key_count; i++) {
        bool ok = keys[i].fallback == NULL ||
                  config_text_add(&keys[i], &c->values[i], slice_str(keys[i].fallback), &place, &error);

        ASSERT(ok);
    }
    return c;
}

void config_free(struct config *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < c->key_count; i++)
        config_value_clear(&c->values[i]);
    free(c->file);
    free(c);
}

/* ---- Command line and environment ---------------------------------------------------------------------- */

bool config_set(struct config *c, const char *assignment, struct config_error *error)
{
    struct place place = {SOURCE_SET, "--set", 0};
    struct slice text = slice_str(assignment);
    size_t equals = slice_find(text, '=');

    if (equals == text.size)
        return config_wrong_at(&place, text, error, "wants KEY=VALUE");
    return config_value_set(c, slice_first(text, equals), slice_from(text, equals + 1), &place, error);
}

/* TRIREME_LIMITS_LINE_SIZE is limits.line_size: `.` and `_` both became `_`. */
static bool env_matches(struct slice env, const char *key)
{
    struct slice name = slice_str(key);

    if (env.size != name.size)
        return false;
    for (size_t i = 0; i < name.size; i++) {
        char want = name.data[i];

        if (want == '.')
            want = '_';
        else if (want >= 'a' && want <= 'z')
            want = (char)(want - 'a' + 'A');
        if (env.data[i] != want)
            return false;
    }
    return true;
}

/* TRIREME_SERVICE_HOST, TRIREME_PROXY_PORT_143_TCP_ADDR: what Kubernetes puts into every pod. */
static bool env_is_service(const char *name)
{
    size_t size = strlen(name);

    return strstr(name, "SERVICE_HOST") != NULL || strstr(name, "SERVICE_PORT") != NULL ||
           strstr(name, "PORT_") != NULL || (size >= 4 && strcmp(name + size - 4, "PORT") == 0);
}

bool config_environment(struct config *c, char *const *environment, struct config_error *error)
{
    const size_t prefix_size = strlen(CONFIG_ENV_PREFIX);

    for (; *environment != NULL; environment++) {
        struct slice text = slice_str(*environment), name;
        size_t equals = slice_find(text, '='), i = 0;
        char variable[KEY_SIZE_MAX];
        struct place place = {SOURCE_ENVIRONMENT, variable, 0};

        if (strncmp(*environment, CONFIG_ENV_PREFIX, prefix_size) != 0 || equals == text.size)
            continue;
        config_printable(slice_first(text, equals), variable, sizeof variable);
        name = slice_from(slice_first(text, equals), prefix_size);
        while (i < c->key_count && !env_matches(name, c->keys[i].name))
            i++;
        if (i == c->key_count) {
            if (env_is_service(variable + prefix_size))
                continue;
            place.name = "environment";
            return config_wrong_at(&place, slice_str(variable), error, "unknown key");
        }
        if (!config_value_set(c, slice_str(c->keys[i].name), slice_from(text, equals + 1), &place, error))
            return false;
    }
    return true;
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

bool config_is_set(const struct config *c, const char *name)
{
    const struct config_key *key = config_key_find(c, slice_str(name));

    ASSERT(key != NULL);
    return c->values[key - c->keys].source != SOURCE_DEFAULT;
}

static uint64_t number_of(const struct config *c, const char *key, enum config_type type)
{
    const struct value *v = config_value_of(c, key, type);

    ASSERT(v->present); /* Numbers have a default, or config_is_set() was asked first. */
    return v->number;
}

bool config_bool(const struct config *c, const char *key)
{
    return number_of(c, key, CONFIG_BOOL) != 0;
}

uint64_t config_u64(const struct config *c, const char *key)
{
    return number_of(c, key, CONFIG_U64);
}

uint64_t config_size(const struct config *c, const char *key)
{
    return number_of(c, key, CONFIG_SIZE);
}

uint64_t config_duration_ms(const struct config *c, const char *key)
{
    return number_of(c, key, CONFIG_DURATION);
}

const char *config_string(const struct config *c, const char *key)
{
    const struct value *v = config_value_of(c, key, CONFIG_STRING);

    return v->present ? v->items[0] : NULL;
}

size_t config_list_count(const struct config *c, const char *key)
{
    return config_value_of(c, key, CONFIG_LIST)->item_count;
}

const char *config_list_item(const struct config *c, const char *key, size_t index)
{
    const struct value *v = config_value_of(c, key, CONFIG_LIST);

    ASSERT(index < v->item_count);
    return v->items[index];
}

size_t config_record_count(const struct config *c, const char *name)
{
    const struct config_key *key = config_key_find(c, slice_str(name));

    return config_value_of(c, name, CONFIG_RECORDS)->item_count / config_choice_count(key->choices);
}

const char *config_record_field(const struct config *c, const char *name, size_t index, const char *field)
{
    const struct value *v = config_value_of(c, name, CONFIG_RECORDS);
    const struct config_key *key = config_key_find(c, slice_str(name));
    size_t fields = config_choice_count(key->choices), at;
    bool known = config_choice_find(key->choices, slice_str(field), &at);

    ASSERT(known);
    ASSERT(index < v->item_count / fields);
    at += index * fields;
    return v->items[at][0] != '\0' ? v->items[at] : NULL;
}

bool config_wrong(const struct config *c, const char *name, struct config_error *error, const char *format,
                  ...)
{
    const struct config_key *key = config_key_find(c, slice_str(name));
    struct place place;
    va_list args;

    ASSERT(key != NULL);
    place = config_place_of(c, &c->values[key - c->keys]);
    va_start(args, format);
    config_wrong_at_v(&place, slice_str(name), error, format, args);
    va_end(args);
    return false;
}
