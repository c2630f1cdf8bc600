/* core/config_private.h -- what the parts of the configuration share.
 *
 * config_words.c texts that are numbers, sizes, durations and choices; config_value.c values of one key, and what is wrong with
 * them; config_file.c YAML; config.c the whole: its life, the command line, the environment, and reading. */
#pragma once
#include "core/config.h"
#include "core/text.h"
#include <stdarg.h>

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

/* ---- config_words.c ------------------------------------------------------------------------------------ */

bool config_bool_parse(struct slice text, uint64_t *value_out);
/* Is `word` one of the words that `choices` separates by `|`? Its index in *index_out. */
bool config_choice_find(const char *choices, struct slice word, size_t *index_out);
size_t config_choice_count(const char *choices);

/* ---- config_value.c ------------------------------------------------------------------------------------ */

/* Text for a message: printable ASCII stays, everything else becomes a question mark, and it is cut. */
void config_printable(struct slice s, char *out, size_t size);
bool config_wrong_at_v(const struct place *place, struct slice key, struct config_error *error,
                       const char *format, va_list args);
bool config_wrong_at(const struct place *place, struct slice key, struct config_error *error,
                     const char *format, ...) PRINTF_LIKE(4, 5);
struct place config_place_of(const struct config *c, const struct value *v);
const struct config_key *config_key_find(const struct config *c, struct slice name);
const struct value *config_value_of(const struct config *c, const char *name, enum config_type type);
void config_value_clear(struct value *v);
/* What is wrong with a text whatever its type, or NULL. */
const char *config_text_fault(struct slice text);
/* One scalar, or one item of a list. */
bool config_item_add(const struct config_key *key, struct value *v, struct slice text,
                     const struct place *place, struct config_error *error);
/* A record's field: `fields` of them were reserved by record_begin(). */
bool config_field_set(const struct config_key *key, struct value *v, struct slice field, struct slice text,
                      const struct place *place, struct config_error *error);
bool config_record_begin(const struct config_key *key, struct value *v, const struct place *place,
                         struct config_error *error);
/* An item without names of fields: its first field. */
bool config_plain_add(const struct config_key *key, struct value *v, struct slice text,
                      const struct place *place, struct config_error *error);
/* A whole value in one text. */
bool config_text_add(const struct config_key *key, struct value *v, struct slice text,
                     const struct place *place, struct config_error *error);
/* Finds the key and clears its value for a new one. NULL with *error set: unknown, unsupported, or given
 * twice in the file. */
const struct config_key *config_value_begin(struct config *c, struct slice name, const struct place *place,
                                            struct value **v_out, struct config_error *error);
bool config_value_set(struct config *c, struct slice name, struct slice text, const struct place *place,
                      struct config_error *error);
