/* core/config_value.c -- the values of one key, and what is wrong with them. */
#include "core/config_private.h"
#include <stdio.h>
#include <stdlib.h>

/* ---- Errors -------------------------------------------------------------------------------------------- */

void config_printable(struct slice s, char *out, size_t size)
{
    size_t n = MIN(s.size, size - 1);

    for (size_t i = 0; i < n; i++)
        out[i] = s.data[i] >= ' ' && s.data[i] <= '~' ? s.data[i] : '?';
    out[n] = '\0';
}

bool config_wrong_at_v(const struct place *place, struct slice key, struct config_error *error,
                       const char *format, va_list args)
{
    char key_text[KEY_SIZE_MAX + 1];
    int n;

    config_printable(key, key_text, sizeof key_text);
    if (place->source == SOURCE_FILE)
        n = snprintf(error->text, sizeof error->text, "%.200s:%u: ", place->name, place->line);
    else
        n = snprintf(error->text, sizeof error->text, "%.200s: ", place->name);
    if (key.size > 0)
        n += snprintf(error->text + n, sizeof error->text - (size_t)n, "%s: ", key_text);
    vsnprintf(error->text + n, sizeof error->text - (size_t)n, format, args);
    return false;
}

bool config_wrong_at(const struct place *place, struct slice key, struct config_error *error,
                     const char *format, ...)
{
    va_list args;

    va_start(args, format);
    config_wrong_at_v(place, key, error, format, args);
    va_end(args);
    return false;
}

struct place config_place_of(const struct config *c, const struct value *v)
{
    static const char *const names[] = {"default", "", "environment", "--set"};

    return (struct place){v->source, v->source == SOURCE_FILE ? c->file : names[v->source], v->line};
}

/* ---- Values -------------------------------------------------------------------------------------------- */

const struct config_key *config_key_find(const struct config *c, struct slice name)
{
    for (size_t i = 0; i < c->key_count; i++) {
        if (slice_eq(slice_str(c->keys[i].name), name))
            return &c->keys[i];
    }
    return NULL;
}

const struct value *config_value_of(const struct config *c, const char *name, enum config_type type)
{
    const struct config_key *key = config_key_find(c, slice_str(name));

    ASSERT(key != NULL);
    ASSERT(key->type == type);
    return &c->values[key - c->keys];
}

void config_value_clear(struct value *v)
{
    for (size_t i = 0; i < v->item_count; i++)
        free(v->items[i]);
    free(v->items);
    v->items = NULL;
    v->item_count = 0;
    v->present = false;
}

static void value_add(struct value *v, struct slice item)
{
    char **items = realloc(v->items, (v->item_count + 1) * sizeof *items);
    char *copy = malloc(item.size + 1);

    ASSERT(items != NULL && copy != NULL); /* A few KiB at the start of a process. */
    memcpy(copy, item.data != NULL ? item.data : "", item.size);
    copy[item.size] = '\0';
    items[v->item_count++] = copy;
    v->items = items;
}

const char *config_text_fault(struct slice text)
{
    if (text.size > CONFIG_VALUE_SIZE_MAX)
        return "longer than 4096 bytes";
    for (size_t i = 0; i < text.size; i++) {
        if ((unsigned char)text.data[i] < ' ' || text.data[i] == 0x7f)
            return "holds a control character";
    }
    return NULL;
}

static bool number_check(const struct config_key *key, struct slice text, uint64_t *number_out,
                         const struct place *place, struct config_error *error)
{
    static const char *const wanted[] = {
        [CONFIG_BOOL] = "true or false",
        [CONFIG_U64] = "a whole number",
        [CONFIG_SIZE] = "a size, such as 64KiB, 10MiB or 8GiB",
        [CONFIG_DURATION] = "a duration, such as 500ms, 30s, 5min or 2h",
    };
    bool ok;

    if (key->type == CONFIG_BOOL)
        ok = config_bool_parse(text, number_out);
    else if (key->type == CONFIG_U64)
        ok = slice_to_u64(text, UINT64_MAX, number_out);
    else if (key->type == CONFIG_SIZE)
        ok = config_size_parse(text, number_out);
    else
        ok = config_duration_parse(text, number_out);
    if (!ok) {
        char shown[64];

        config_printable(text, shown, sizeof shown);
        return config_wrong_at(place, slice_str(key->name), error, "'%s' is not %s", shown,
                               wanted[key->type]);
    }
    if (*number_out < key->min)
        return config_wrong_at(place, slice_str(key->name), error, "is below the least value, %llu%s",
                               (unsigned long long)key->min, key->type == CONFIG_DURATION ? "ms" : "");
    if (key->max != 0 && *number_out > key->max)
        return config_wrong_at(place, slice_str(key->name), error, "is above the greatest value, %llu%s",
                               (unsigned long long)key->max, key->type == CONFIG_DURATION ? "ms" : "");
    return true;
}

bool config_item_add(const struct config_key *key, struct value *v, struct slice text,
                     const struct place *place, struct config_error *error)
{
    const char *fault = config_text_fault(text);
    size_t index;

    if (fault != NULL)
        return config_wrong_at(place, slice_str(key->name), error, "%s", fault);
    if (v->item_count == CONFIG_LIST_COUNT_MAX)
        return config_wrong_at(place, slice_str(key->name), error, "has more than %d items",
                               CONFIG_LIST_COUNT_MAX);
    switch (key->type) {
    case CONFIG_BOOL:
    case CONFIG_U64:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
        if (!number_check(key, text, &v->number, place, error))
            return false;
        break;
    case CONFIG_STRING:
    case CONFIG_LIST:
        if (text.size == 0)
            return config_wrong_at(place, slice_str(key->name), error, "is empty");
        if (key->choices != NULL && !config_choice_find(key->choices, text, &index)) {
            char shown[64];

            config_printable(text, shown, sizeof shown);
            return config_wrong_at(place, slice_str(key->name), error, "'%s' is not one of %s", shown,
                                   key->choices);
        }
        break;
    case CONFIG_RECORDS:
    case CONFIG_UNSUPPORTED:
        break;
    }
    value_add(v, text);
    v->present = true;
    return true;
}

bool config_field_set(const struct config_key *key, struct value *v, struct slice field, struct slice text,
                      const struct place *place, struct config_error *error)
{
    const char *fault = config_text_fault(text);
    char shown[64];
    size_t index, at;
    char *copy;

    config_printable(field, shown, sizeof shown);
    if (!config_choice_find(key->choices, field, &index))
        return config_wrong_at(place, slice_str(key->name), error, "'%s' is not one of the fields %s", shown,
                               key->choices);
    if (text.size == 0)
        fault = "is empty";
    if (fault != NULL)
        return config_wrong_at(place, slice_str(key->name), error, "field '%s' %s", shown, fault);
    at = v->item_count - config_choice_count(key->choices) + index;
    if (v->items[at][0] != '\0')
        return config_wrong_at(place, slice_str(key->name), error, "field '%s' is given twice", shown);
    copy = strndup(text.data, text.size);
    ASSERT(copy != NULL);
    free(v->items[at]);
    v->items[at] = copy;
    return true;
}

bool config_record_begin(const struct config_key *key, struct value *v, const struct place *place,
                         struct config_error *error)
{
    size_t fields = config_choice_count(key->choices);

    if (v->item_count + fields > CONFIG_LIST_COUNT_MAX)
        return config_wrong_at(place, slice_str(key->name), error, "has too many records");
    for (size_t i = 0; i < fields; i++)
        value_add(v, SLICE(""));
    v->present = true;
    return true;
}

bool config_plain_add(const struct config_key *key, struct value *v, struct slice text,
                      const struct place *place, struct config_error *error)
{
    struct slice choices = slice_str(key->choices);

    return config_record_begin(key, v, place, error) &&
           config_field_set(key, v, slice_first(choices, slice_find(choices, '|')), text, place, error);
}

/* `1, 3` */
static bool plain_split(const struct config_key *key, struct value *v, struct slice text,
                        const struct place *place, struct config_error *error)
{
    for (;;) {
        size_t comma = slice_find(text, ',');

        if (!config_plain_add(key, v, slice_trim(slice_first(text, comma)), place, error))
            return false;
        if (comma == text.size)
            return true;
        text = slice_from(text, comma + 1);
    }
}

/* `a=1,b=2; a=3,b=4` */
static bool records_split(const struct config_key *key, struct value *v, struct slice text,
                          const struct place *place, struct config_error *error)
{
    for (;;) {
        size_t end = slice_find(text, ';');
        struct slice record = slice_first(text, end);

        if (!config_record_begin(key, v, place, error))
            return false;
        for (;;) {
            size_t comma = slice_find(record, ',');
            struct slice pair = slice_trim(slice_first(record, comma));
            size_t equals = slice_find(pair, '=');

            if (equals == pair.size)
                return config_wrong_at(place, slice_str(key->name), error,
                                       "is not written as 'field=value,...; ...'");
            if (!config_field_set(key, v, slice_trim(slice_first(pair, equals)),
                                  slice_trim(slice_from(pair, equals + 1)), place, error))
                return false;
            if (comma == record.size)
                break;
            record = slice_from(record, comma + 1);
        }
        if (end == text.size)
            return true;
        text = slice_from(text, end + 1);
    }
}

static bool list_split(const struct config_key *key, struct value *v, struct slice text,
                       const struct place *place, struct config_error *error)
{
    for (;;) {
        size_t end = slice_find(text, ',');

        if (!config_item_add(key, v, slice_trim(slice_first(text, end)), place, error))
            return false;
        if (end == text.size)
            return true;
        text = slice_from(text, end + 1);
    }
}

bool config_text_add(const struct config_key *key, struct value *v, struct slice text,
                     const struct place *place, struct config_error *error)
{
    const char *fault = config_text_fault(text);

    if (fault != NULL)
        return config_wrong_at(place, slice_str(key->name), error, "%s", fault);
    if (key->type == CONFIG_LIST)
        return list_split(key, v, text, place, error);
    if (key->type == CONFIG_RECORDS && key->plain && slice_find(text, '=') == text.size)
        return plain_split(key, v, text, place, error);
    if (key->type == CONFIG_RECORDS)
        return records_split(key, v, text, place, error);
    return config_item_add(key, v, key->type == CONFIG_STRING ? text : slice_trim(text), place, error);
}

const struct config_key *config_value_begin(struct config *c, struct slice name, const struct place *place,
                                            struct value **v_out, struct config_error *error)
{
    const struct config_key *key = config_key_find(c, name);
    struct value *v;

    if (key == NULL) {
        config_wrong_at(place, name, error, "unknown key");
        return NULL;
    }
    if (key->type == CONFIG_UNSUPPORTED) {
        config_wrong_at(place, name, error, "not supported by this version");
        return NULL;
    }
    v = &c->values[key - c->keys];
    ASSERT(v->source <= place->source); /* Sources are read from the weakest to the strongest. */
    if (v->source == SOURCE_FILE && place->source == SOURCE_FILE) {
        config_wrong_at(place, name, error, "given twice; first in line %u", v->line);
        return NULL;
    }
    config_value_clear(v);
    v->source = place->source;
    v->line = place->line;
    *v_out = v;
    return key;
}

bool config_value_set(struct config *c, struct slice name, struct slice text, const struct place *place,
                      struct config_error *error)
{
    struct value *v;
    const struct config_key *key = config_value_begin(c, name, place, &v, error);

    return key != NULL && config_text_add(key, v, text, place, error);
}
