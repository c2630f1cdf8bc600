#include "core/config.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yaml.h>

#define KEY_SIZE_MAX 96 /* Dotted; the longest known key is far shorter. */

enum source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_SET };

/* A value is a sequence of NUL-terminated items: one for a scalar, the fields of all records, one after
 * another, for records (fields_count each; "" stands for absent). */
struct value {
    enum source source;
    unsigned line;   /* In the file. */
    bool present;    /* False: no default, and nobody set it. */
    uint64_t number; /* BOOL, U64, SIZE, DURATION. */
    char **items;
    size_t item_count;
};

struct config {
    const struct config_key *keys;
    size_t key_count;
    char *file; /* Name of the file, for messages. */
    struct value values[];
};

/* Where a value comes from, for messages. */
struct place {
    enum source source;
    const char *name;
    unsigned line;
};

/* ---- Words --------------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static struct slice trim(struct slice s)
{
    while (s.size > 0 && is_space(s.data[0]))
        s = slice_from(s, 1);
    while (s.size > 0 && is_space(s.data[s.size - 1]))
        s.size--;
    return s;
}

struct unit {
    const char *suffix;
    uint64_t factor;
};

/* `units` ends with a NULL suffix. */
static bool number_with_unit(struct slice text, const struct unit *units, uint64_t *value_out)
{
    size_t digits = 0;
    struct slice suffix;
    uint64_t number;

    while (digits < text.size && text.data[digits] >= '0' && text.data[digits] <= '9')
        digits++;
    if (!slice_to_u64(slice_first(text, digits), UINT64_MAX, &number))
        return false;
    suffix = trim(slice_from(text, digits));
    for (const struct unit *u = units; u->suffix != NULL; u++) {
        if (!slice_eq(suffix, slice_str(u->suffix)))
            continue;
        if (number > UINT64_MAX / u->factor)
            return false;
        *value_out = number * u->factor;
        return true;
    }
    return false;
}

bool config_size_parse(struct slice text, uint64_t *bytes_out)
{
    static const struct unit units[] = {{"", 1},
                                        {"B", 1},
                                        {"KiB", UINT64_C(1) << 10},
                                        {"MiB", UINT64_C(1) << 20},
                                        {"GiB", UINT64_C(1) << 30},
                                        {"TiB", UINT64_C(1) << 40},
                                        {NULL, 0}};

    return number_with_unit(text, units, bytes_out);
}

bool config_duration_parse(struct slice text, uint64_t *ms_out)
{
    static const struct unit units[] = {{"ms", 1},          {"s", 1000},         {"min", 60 * 1000},
                                        {"h", 3600 * 1000}, {"d", 86400 * 1000}, {NULL, 0}};

    if (slice_eq(text, SLICE("0"))) {
        *ms_out = 0;
        return true;
    }
    return number_with_unit(text, units, ms_out);
}

static bool bool_parse(struct slice text, uint64_t *value_out)
{
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};

    for (size_t i = 0; i < ARRAY_COUNT(yes); i++) {
        if (slice_eq_nocase(text, slice_str(yes[i])) || slice_eq_nocase(text, slice_str(no[i]))) {
            *value_out = slice_eq_nocase(text, slice_str(yes[i]));
            return true;
        }
    }
    return false;
}

/* Is `word` one of the words that `choices` separates by `|`? Its index in *index_out. */
static bool choice_find(const char *choices, struct slice word, size_t *index_out)
{
    struct slice rest = slice_str(choices);

    for (size_t index = 0;; index++) {
        size_t end = slice_find(rest, '|');

        if (slice_eq(slice_first(rest, end), word)) {
            *index_out = index;
            return true;
        }
        if (end == rest.size)
            return false;
        rest = slice_from(rest, end + 1);
    }
}

static size_t choice_count(const char *choices)
{
    size_t count = 1;

    for (const char *p = choices; *p != '\0'; p++)
        count += *p == '|';
    return count;
}

/* ---- Errors -------------------------------------------------------------------------------------------- */

/* Text for a message: printable ASCII stays, everything else becomes a question mark, and it is cut. */
static void printable(struct slice s, char *out, size_t size)
{
    size_t n = MIN(s.size, size - 1);

    for (size_t i = 0; i < n; i++)
        out[i] = s.data[i] >= ' ' && s.data[i] <= '~' ? s.data[i] : '?';
    out[n] = '\0';
}

static bool wrong_at_v(const struct place *place, struct slice key, struct config_error *error,
                       const char *format, va_list args)
{
    char key_text[KEY_SIZE_MAX + 1];
    int n;

    printable(key, key_text, sizeof key_text);
    if (place->source == SOURCE_FILE)
        n = snprintf(error->text, sizeof error->text, "%.200s:%u: ", place->name, place->line);
    else
        n = snprintf(error->text, sizeof error->text, "%.200s: ", place->name);
    if (key.size > 0)
        n += snprintf(error->text + n, sizeof error->text - (size_t)n, "%s: ", key_text);
    vsnprintf(error->text + n, sizeof error->text - (size_t)n, format, args);
    return false;
}

PRINTF_LIKE(4, 5)
static bool wrong_at(const struct place *place, struct slice key, struct config_error *error,
                     const char *format, ...)
{
    va_list args;

    va_start(args, format);
    wrong_at_v(place, key, error, format, args);
    va_end(args);
    return false;
}

static struct place place_of(const struct config *c, const struct value *v)
{
    static const char *const names[] = {"default", "", "environment", "--set"};

    return (struct place){v->source, v->source == SOURCE_FILE ? c->file : names[v->source], v->line};
}

/* ---- Values -------------------------------------------------------------------------------------------- */

static const struct config_key *key_find(const struct config *c, struct slice name)
{
    for (size_t i = 0; i < c->key_count; i++) {
        if (slice_eq(slice_str(c->keys[i].name), name))
            return &c->keys[i];
    }
    return NULL;
}

static const struct value *value_of(const struct config *c, const char *name, enum config_type type)
{
    const struct config_key *key = key_find(c, slice_str(name));

    ASSERT(key != NULL);
    ASSERT(key->type == type);
    return &c->values[key - c->keys];
}

static void value_clear(struct value *v)
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

/* What is wrong with a text whatever its type, or NULL. */
static const char *text_fault(struct slice text)
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
        ok = bool_parse(text, number_out);
    else if (key->type == CONFIG_U64)
        ok = slice_to_u64(text, UINT64_MAX, number_out);
    else if (key->type == CONFIG_SIZE)
        ok = config_size_parse(text, number_out);
    else
        ok = config_duration_parse(text, number_out);
    if (!ok) {
        char shown[64];

        printable(text, shown, sizeof shown);
        return wrong_at(place, slice_str(key->name), error, "'%s' is not %s", shown, wanted[key->type]);
    }
    if (*number_out < key->min)
        return wrong_at(place, slice_str(key->name), error, "is below the least value, %llu%s",
                        (unsigned long long)key->min, key->type == CONFIG_DURATION ? "ms" : "");
    if (key->max != 0 && *number_out > key->max)
        return wrong_at(place, slice_str(key->name), error, "is above the greatest value, %llu%s",
                        (unsigned long long)key->max, key->type == CONFIG_DURATION ? "ms" : "");
    return true;
}

/* One scalar, or one item of a list. */
static bool item_add(const struct config_key *key, struct value *v, struct slice text,
                     const struct place *place, struct config_error *error)
{
    const char *fault = text_fault(text);
    size_t index;

    if (fault != NULL)
        return wrong_at(place, slice_str(key->name), error, "%s", fault);
    if (v->item_count == CONFIG_LIST_COUNT_MAX)
        return wrong_at(place, slice_str(key->name), error, "has more than %d items", CONFIG_LIST_COUNT_MAX);
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
            return wrong_at(place, slice_str(key->name), error, "is empty");
        if (key->choices != NULL && !choice_find(key->choices, text, &index)) {
            char shown[64];

            printable(text, shown, sizeof shown);
            return wrong_at(place, slice_str(key->name), error, "'%s' is not one of %s", shown, key->choices);
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

/* A record's field: `fields` of them were reserved by record_begin(). */
static bool field_set(const struct config_key *key, struct value *v, struct slice field, struct slice text,
                      const struct place *place, struct config_error *error)
{
    const char *fault = text_fault(text);
    char shown[64];
    size_t index, at;
    char *copy;

    printable(field, shown, sizeof shown);
    if (!choice_find(key->choices, field, &index))
        return wrong_at(place, slice_str(key->name), error, "'%s' is not one of the fields %s", shown,
                        key->choices);
    if (text.size == 0)
        fault = "is empty";
    if (fault != NULL)
        return wrong_at(place, slice_str(key->name), error, "field '%s' %s", shown, fault);
    at = v->item_count - choice_count(key->choices) + index;
    if (v->items[at][0] != '\0')
        return wrong_at(place, slice_str(key->name), error, "field '%s' is given twice", shown);
    copy = strndup(text.data, text.size);
    ASSERT(copy != NULL);
    free(v->items[at]);
    v->items[at] = copy;
    return true;
}

static bool record_begin(const struct config_key *key, struct value *v, const struct place *place,
                         struct config_error *error)
{
    size_t fields = choice_count(key->choices);

    if (v->item_count + fields > CONFIG_LIST_COUNT_MAX)
        return wrong_at(place, slice_str(key->name), error, "has too many records");
    for (size_t i = 0; i < fields; i++)
        value_add(v, SLICE(""));
    v->present = true;
    return true;
}

/* An item without names of fields: its first field. */
static bool plain_add(const struct config_key *key, struct value *v, struct slice text,
                      const struct place *place, struct config_error *error)
{
    struct slice choices = slice_str(key->choices);

    return record_begin(key, v, place, error) &&
           field_set(key, v, slice_first(choices, slice_find(choices, '|')), text, place, error);
}

/* `1, 3` */
static bool plain_split(const struct config_key *key, struct value *v, struct slice text,
                        const struct place *place, struct config_error *error)
{
    for (;;) {
        size_t comma = slice_find(text, ',');

        if (!plain_add(key, v, trim(slice_first(text, comma)), place, error))
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

        if (!record_begin(key, v, place, error))
            return false;
        for (;;) {
            size_t comma = slice_find(record, ',');
            struct slice pair = trim(slice_first(record, comma));
            size_t equals = slice_find(pair, '=');

            if (equals == pair.size)
                return wrong_at(place, slice_str(key->name), error,
                                "is not written as 'field=value,...; ...'");
            if (!field_set(key, v, trim(slice_first(pair, equals)), trim(slice_from(pair, equals + 1)), place,
                           error))
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

        if (!item_add(key, v, trim(slice_first(text, end)), place, error))
            return false;
        if (end == text.size)
            return true;
        text = slice_from(text, end + 1);
    }
}

/* A whole value in one text. */
static bool text_add(const struct config_key *key, struct value *v, struct slice text,
                     const struct place *place, struct config_error *error)
{
    const char *fault = text_fault(text);

    if (fault != NULL)
        return wrong_at(place, slice_str(key->name), error, "%s", fault);
    if (key->type == CONFIG_LIST)
        return list_split(key, v, text, place, error);
    if (key->type == CONFIG_RECORDS && key->plain && slice_find(text, '=') == text.size)
        return plain_split(key, v, text, place, error);
    if (key->type == CONFIG_RECORDS)
        return records_split(key, v, text, place, error);
    return item_add(key, v, key->type == CONFIG_STRING ? text : trim(text), place, error);
}

/* Finds the key and clears its value for a new one. NULL with *error set: unknown, unsupported, or given
 * twice in the file. */
static const struct config_key *value_begin(struct config *c, struct slice name, const struct place *place,
                                            struct value **v_out, struct config_error *error)
{
    const struct config_key *key = key_find(c, name);
    struct value *v;

    if (key == NULL) {
        wrong_at(place, name, error, "unknown key");
        return NULL;
    }
    if (key->type == CONFIG_UNSUPPORTED) {
        wrong_at(place, name, error, "not supported by this version");
        return NULL;
    }
    v = &c->values[key - c->keys];
    ASSERT(v->source <= place->source); /* Sources are read from the weakest to the strongest. */
    if (v->source == SOURCE_FILE && place->source == SOURCE_FILE) {
        wrong_at(place, name, error, "given twice; first in line %u", v->line);
        return NULL;
    }
    value_clear(v);
    v->source = place->source;
    v->line = place->line;
    *v_out = v;
    return key;
}

static bool value_set(struct config *c, struct slice name, struct slice text, const struct place *place,
                      struct config_error *error)
{
    struct value *v;
    const struct config_key *key = value_begin(c, name, place, &v, error);

    return key != NULL && text_add(key, v, text, place, error);
}

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
                  text_add(&keys[i], &c->values[i], slice_str(keys[i].fallback), &place, &error);

        ASSERT(ok);
    }
    return c;
}

void config_free(struct config *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < c->key_count; i++)
        value_clear(&c->values[i]);
    free(c->file);
    free(c);
}

/* ---- The file ------------------------------------------------------------------------------------------ */

/* The events of libyaml, read by a machine without recursion: a stack of the maps that are open, as the
 * dotted name so far. A list may stand only where a key of the type LIST or RECORDS is. */
struct reader {
    struct config *c;
    struct config_error *error;
    struct place place;
    char key[KEY_SIZE_MAX];                /* Dotted name of the map that is open, and of the key in it. */
    size_t key_size[CONFIG_DEPTH_MAX + 1]; /* Its length at each depth. */
    unsigned depth;                        /* Maps open; 0 before the document's own. */
    bool have_key;                         /* A key was read, its value comes. */
    bool in_list, in_record, done;
    const struct config_key *list_key;
    struct value *list_value;
    char field[32]; /* Of the record. */
};

static struct slice reader_key(const struct reader *r)
{
    return slice_of(r->key, strlen(r->key));
}

static bool on_key(struct reader *r, struct slice text)
{
    size_t at = r->key_size[r->depth];

    if (text_fault(text) != NULL || text.size == 0 || at + text.size + 2 > sizeof r->key)
        return wrong_at(&r->place, text, r->error, "unknown key");
    if (at > 0)
        r->key[at++] = '.';
    memcpy(r->key + at, text.data, text.size);
    r->key[at + text.size] = '\0';
    r->have_key = true;
    return true;
}

static bool on_scalar(struct reader *r, const yaml_event_t *event)
{
    struct slice text = slice_of(event->data.scalar.value, event->data.scalar.length);
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    bool empty = plain && (text.size == 0 || slice_eq(text, SLICE("~")) || slice_eq(text, SLICE("null")));

    if (r->in_record && r->field[0] == '\0') {
        if (text_fault(text) != NULL || text.size == 0 || text.size >= sizeof r->field)
            return wrong_at(&r->place, reader_key(r), r->error, "has a record with an unknown field");
        memcpy(r->field, text.data, text.size);
        r->field[text.size] = '\0';
        return true;
    }
    if (r->in_record) {
        struct slice field = slice_str(r->field);

        if (!field_set(r->list_key, r->list_value, field, empty ? SLICE("") : text, &r->place, r->error))
            return false;
        r->field[0] = '\0';
        return true;
    }
    if (r->in_list) {
        if (r->list_key->type == CONFIG_RECORDS && r->list_key->plain)
            return plain_add(r->list_key, r->list_value, text, &r->place, r->error);
        if (r->list_key->type == CONFIG_RECORDS)
            return wrong_at(&r->place, reader_key(r), r->error, "wants a list of maps with the fields %s",
                            r->list_key->choices);
        return item_add(r->list_key, r->list_value, text, &r->place, r->error);
    }
    if (r->depth == 0) {
        if (empty)
            return true; /* A document of comments alone. */
        return wrong_at(&r->place, SLICE(""), r->error, "wants 'key: value' lines");
    }
    if (!r->have_key)
        return on_key(r, text);
    r->have_key = false;
    if (empty && key_find(r->c, reader_key(r)) != NULL)
        return wrong_at(&r->place, reader_key(r), r->error, "has no value");
    return value_set(r->c, reader_key(r), text, &r->place, r->error);
}

/* Does any known key begin with this name and a dot? */
static bool is_prefix(const struct config *c, struct slice name)
{
    for (size_t i = 0; i < c->key_count; i++) {
        struct slice known = slice_str(c->keys[i].name);

        if (known.size > name.size && known.data[name.size] == '.' &&
            slice_eq(slice_first(known, name.size), name))
            return true;
    }
    return false;
}

static bool on_map_start(struct reader *r)
{
    if (r->in_record)
        return wrong_at(&r->place, reader_key(r), r->error, "is nested too deeply");
    if (r->in_list) {
        if (r->list_key->type != CONFIG_RECORDS)
            return wrong_at(&r->place, reader_key(r), r->error, "wants a list of plain values, not of maps");
        r->in_record = true;
        r->field[0] = '\0';
        return record_begin(r->list_key, r->list_value, &r->place, r->error);
    }
    if (r->depth > 0 && !r->have_key)
        return wrong_at(&r->place, reader_key(r), r->error, "a key must be plain text");
    if (r->depth == CONFIG_DEPTH_MAX)
        return wrong_at(&r->place, reader_key(r), r->error, "is nested too deeply");
    if (r->depth > 0 && !is_prefix(r->c, reader_key(r))) {
        const struct config_key *key = key_find(r->c, reader_key(r));

        if (key == NULL)
            return wrong_at(&r->place, reader_key(r), r->error, "unknown key");
        if (key->type == CONFIG_UNSUPPORTED)
            return wrong_at(&r->place, reader_key(r), r->error, "not supported by this version");
        return wrong_at(&r->place, reader_key(r), r->error, "wants a value, not keys of its own");
    }
    r->key_size[r->depth + 1] = r->depth == 0 ? 0 : strlen(r->key);
    r->depth++;
    r->have_key = false;
    return true;
}

static bool on_map_end(struct reader *r)
{
    if (r->in_record) {
        r->in_record = false;
        return true;
    }
    r->depth--;
    r->key[r->key_size[r->depth]] = '\0';
    return true;
}

static bool on_list_start(struct reader *r)
{
    if (r->in_list || !r->have_key)
        return wrong_at(&r->place, reader_key(r), r->error, "a list has no place here");
    r->have_key = false;
    r->list_key = value_begin(r->c, reader_key(r), &r->place, &r->list_value, r->error);
    if (r->list_key == NULL)
        return false;
    if (r->list_key->type != CONFIG_LIST && r->list_key->type != CONFIG_RECORDS)
        return wrong_at(&r->place, reader_key(r), r->error, "wants one value, not a list");
    r->list_value->present = true; /* An empty list is a value. */
    r->in_list = true;
    return true;
}

static bool on_event(struct reader *r, const yaml_event_t *event)
{
    bool anchored = false, tagged = false;

    r->place.line = (unsigned)event->start_mark.line + 1;
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        anchored = event->data.scalar.anchor != NULL;
        tagged = event->data.scalar.tag != NULL;
        break;
    case YAML_MAPPING_START_EVENT:
        anchored = event->data.mapping_start.anchor != NULL;
        tagged = event->data.mapping_start.tag != NULL;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchored = event->data.sequence_start.anchor != NULL;
        tagged = event->data.sequence_start.tag != NULL;
        break;
    default:
        break;
    }
    if (anchored || event->type == YAML_ALIAS_EVENT)
        return wrong_at(&r->place, reader_key(r), r->error, "anchors (&) and aliases (*) are not supported");
    if (tagged)
        return wrong_at(&r->place, reader_key(r), r->error, "tags (!) are not supported");
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (r->done)
            return wrong_at(&r->place, SLICE(""), r->error, "a second document (---) has no place here");
        return true;
    case YAML_DOCUMENT_END_EVENT:
        r->done = true;
        return true;
    case YAML_SCALAR_EVENT:
        return on_scalar(r, event);
    case YAML_MAPPING_START_EVENT:
        return on_map_start(r);
    case YAML_MAPPING_END_EVENT:
        return on_map_end(r);
    case YAML_SEQUENCE_START_EVENT:
        return on_list_start(r);
    case YAML_SEQUENCE_END_EVENT:
        r->in_list = false;
        return true;
    default:
        return true;
    }
}

bool config_parse(struct config *c, const char *name, struct slice text, struct config_error *error)
{
    struct reader r = {.c = c, .error = error, .place = {SOURCE_FILE, name, 1}};
    yaml_parser_t parser;
    bool ok = true, end = false;

    if (text.size > CONFIG_FILE_SIZE_MAX)
        return wrong_at(&r.place, SLICE(""), error, "the file is larger than 1 MiB");
    free(c->file);
    c->file = strdup(name);
    ASSERT(c->file != NULL);
    if (!yaml_parser_initialize(&parser))
        return wrong_at(&r.place, SLICE(""), error, "no memory to parse it");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text.data, text.size);
    while (ok && !end) {
        yaml_event_t event;

        if (!yaml_parser_parse(&parser, &event)) {
            r.place.line = (unsigned)parser.problem_mark.line + 1;
            ok = wrong_at(&r.place, SLICE(""), error, "not valid YAML: %s",
                          parser.problem != NULL ? parser.problem : "no memory");
            break;
        }
        ok = on_event(&r, &event);
        end = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return ok;
}

bool config_load(struct config *c, const char *path, struct config_error *error)
{
    struct place place = {SOURCE_SET, path, 0}; /* Without a line. */
    size_t size = 0, space = CONFIG_FILE_SIZE_MAX + 1;
    char *text = malloc(space);
    ssize_t n = 1;
    bool ok;
    int fd;

    ASSERT(text != NULL);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        free(text);
        return wrong_at(&place, SLICE(""), error, "cannot be opened: %s", strerror(errno));
    }
    while (size < space && (n = read(fd, text + size, space - size)) > 0)
        size += (size_t)n;
    ok = n >= 0 ? config_parse(c, path, slice_of(text, size), error)
                : wrong_at(&place, SLICE(""), error, "cannot be read: %s", strerror(errno));
    close(fd);
    bytes_wipe(text, size); /* It may hold auth.static_password. */
    free(text);
    return ok;
}

/* ---- Command line and environment ---------------------------------------------------------------------- */

bool config_set(struct config *c, const char *assignment, struct config_error *error)
{
    struct place place = {SOURCE_SET, "--set", 0};
    struct slice text = slice_str(assignment);
    size_t equals = slice_find(text, '=');

    if (equals == text.size)
        return wrong_at(&place, text, error, "wants KEY=VALUE");
    return value_set(c, slice_first(text, equals), slice_from(text, equals + 1), &place, error);
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
        printable(slice_first(text, equals), variable, sizeof variable);
        name = slice_from(slice_first(text, equals), prefix_size);
        while (i < c->key_count && !env_matches(name, c->keys[i].name))
            i++;
        if (i == c->key_count) {
            if (env_is_service(variable + prefix_size))
                continue;
            place.name = "environment";
            return wrong_at(&place, slice_str(variable), error, "unknown key");
        }
        if (!value_set(c, slice_str(c->keys[i].name), slice_from(text, equals + 1), &place, error))
            return false;
    }
    return true;
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

bool config_is_set(const struct config *c, const char *name)
{
    const struct config_key *key = key_find(c, slice_str(name));

    ASSERT(key != NULL);
    return c->values[key - c->keys].source != SOURCE_DEFAULT;
}

static uint64_t number_of(const struct config *c, const char *key, enum config_type type)
{
    const struct value *v = value_of(c, key, type);

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
    const struct value *v = value_of(c, key, CONFIG_STRING);

    return v->present ? v->items[0] : NULL;
}

size_t config_list_count(const struct config *c, const char *key)
{
    return value_of(c, key, CONFIG_LIST)->item_count;
}

const char *config_list_item(const struct config *c, const char *key, size_t index)
{
    const struct value *v = value_of(c, key, CONFIG_LIST);

    ASSERT(index < v->item_count);
    return v->items[index];
}

size_t config_record_count(const struct config *c, const char *name)
{
    const struct config_key *key = key_find(c, slice_str(name));

    return value_of(c, name, CONFIG_RECORDS)->item_count / choice_count(key->choices);
}

const char *config_record_field(const struct config *c, const char *name, size_t index, const char *field)
{
    const struct value *v = value_of(c, name, CONFIG_RECORDS);
    const struct config_key *key = key_find(c, slice_str(name));
    size_t fields = choice_count(key->choices), at;
    bool known = choice_find(key->choices, slice_str(field), &at);

    ASSERT(known);
    ASSERT(index < v->item_count / fields);
    at += index * fields;
    return v->items[at][0] != '\0' ? v->items[at] : NULL;
}

bool config_wrong(const struct config *c, const char *name, struct config_error *error, const char *format,
                  ...)
{
    const struct config_key *key = key_find(c, slice_str(name));
    struct place place;
    va_list args;

    ASSERT(key != NULL);
    place = place_of(c, &c->values[key - c->keys]);
    va_start(args, format);
    wrong_at_v(&place, slice_str(name), error, format, args);
    va_end(args);
    return false;
}
