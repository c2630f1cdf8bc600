/* core/config_file.c -- the file: YAML. */
#include "core/config_private.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <yaml.h>

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

    if (config_text_fault(text) != NULL || text.size == 0 || at + text.size + 2 > sizeof r->key)
        return config_wrong_at(&r->place, text, r->error, "unknown key");
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
        if (config_text_fault(text) != NULL || text.size == 0 || text.size >= sizeof r->field)
            return config_wrong_at(&r->place, reader_key(r), r->error, "has a record with an unknown field");
        memcpy(r->field, text.data, text.size);
        r->field[text.size] = '\0';
        return true;
    }
    if (r->in_record) {
        struct slice field = slice_str(r->field);

        if (!config_field_set(r->list_key, r->list_value, field, empty ? SLICE("") : text, &r->place,
                              r->error))
            return false;
        r->field[0] = '\0';
        return true;
    }
    if (r->in_list) {
        if (r->list_key->type == CONFIG_RECORDS && r->list_key->plain)
            return config_plain_add(r->list_key, r->list_value, text, &r->place, r->error);
        if (r->list_key->type == CONFIG_RECORDS)
            return config_wrong_at(&r->place, reader_key(r), r->error,
                                   "wants a list of maps with the fields %s", r->list_key->choices);
        return config_item_add(r->list_key, r->list_value, text, &r->place, r->error);
    }
    if (r->depth == 0) {
        if (empty)
            return true; /* A document of comments alone. */
        return config_wrong_at(&r->place, SLICE(""), r->error, "wants 'key: value' lines");
    }
    if (!r->have_key)
        return on_key(r, text);
    r->have_key = false;
    if (empty && config_key_find(r->c, reader_key(r)) != NULL)
        return config_wrong_at(&r->place, reader_key(r), r->error, "has no value");
    return config_value_set(r->c, reader_key(r), text, &r->place, r->error);
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
        return config_wrong_at(&r->place, reader_key(r), r->error, "is nested too deeply");
    if (r->in_list) {
        if (r->list_key->type != CONFIG_RECORDS)
            return config_wrong_at(&r->place, reader_key(r), r->error,
                                   "wants a list of plain values, not of maps");
        r->in_record = true;
        r->field[0] = '\0';
        return config_record_begin(r->list_key, r->list_value, &r->place, r->error);
    }
    if (r->depth > 0 && !r->have_key)
        return config_wrong_at(&r->place, reader_key(r), r->error, "a key must be plain text");
    if (r->depth == CONFIG_DEPTH_MAX)
        return config_wrong_at(&r->place, reader_key(r), r->error, "is nested too deeply");
    if (r->depth > 0 && !is_prefix(r->c, reader_key(r))) {
        const struct config_key *key = config_key_find(r->c, reader_key(r));

        if (key == NULL)
            return config_wrong_at(&r->place, reader_key(r), r->error, "unknown key");
        if (key->type == CONFIG_UNSUPPORTED)
            return config_wrong_at(&r->place, reader_key(r), r->error, "not supported by this version");
        return config_wrong_at(&r->place, reader_key(r), r->error, "wants a value, not keys of its own");
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
        return config_wrong_at(&r->place, reader_key(r), r->error, "a list has no place here");
    r->have_key = false;
    r->list_key = config_value_begin(r->c, reader_key(r), &r->place, &r->list_value, r->error);
    if (r->list_key == NULL)
        return false;
    if (r->list_key->type != CONFIG_LIST && r->list_key->type != CONFIG_RECORDS)
        return config_wrong_at(&r->place, reader_key(r), r->error, "wants one value, not a list");
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
        return config_wrong_at(&r->place, reader_key(r), r->error,
                               "anchors (&) and aliases (*) are not supported");
    if (tagged)
        return config_wrong_at(&r->place, reader_key(r), r->error, "tags (!) are not supported");
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (r->done)
            return config_wrong_at(&r->place, SLICE(""), r->error,
                                   "a second document (---) has no place here");
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
        return config_wrong_at(&r.place, SLICE(""), error, "the file is larger than 1 MiB");
    free(c->file);
    c->file = strdup(name);
    ASSERT(c->file != NULL);
    if (!yaml_parser_initialize(&parser))
        return config_wrong_at(&r.place, SLICE(""), error, "no memory to parse it");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text.data, text.size);
    while (ok && !end) {
        yaml_event_t event;

        if (!yaml_parser_parse(&parser, &event)) {
            r.place.line = (unsigned)parser.problem_mark.line + 1;
            ok = config_wrong_at(&r.place, SLICE(""), error, "not valid YAML: %s",
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
        return config_wrong_at(&place, SLICE(""), error, "cannot be opened: %s", strerror(errno));
    }
    while (size < space && (n = read(fd, text + size, space - size)) > 0)
        size += (size_t)n;
    ok = n >= 0 ? config_parse(c, path, slice_of(text, size), error)
                : config_wrong_at(&place, SLICE(""), error, "cannot be read: %s", strerror(errno));
    close(fd);
    bytes_wipe(text, size); /* It may hold auth.static_password. */
    free(text);
    return ok;
}
