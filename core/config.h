/* core/config.h -- configuration values: a table of known keys, filled from a YAML file, the environment and
 * the command line, typed, with errors that name place, key and fault.
 *
 * Nested keys of the file become dotted (`imap: {listen: ...}` is imap.listen); a dotted key may also be
 * written as it is. `--set KEY=VALUE` wins over the environment (TRIREME_IMAP_LISTEN), that over the file,
 * that over the default. A value is parsed when it is set, so an error still knows its line.
 *
 * Owner:  the process; made before the node, read-only afterwards: every shard may read it.
 * Memory: strings live until config_free().
 * Bounds: CONFIG_*_MAX. YAML anchors, aliases, tags and further documents are refused.
 * Errors: false, and one sentence in *error. Asking for a key that is not in the table, or by another type,
 * is a broken invariant. */
#pragma once
#include "core/base.h"

#define CONFIG_FILE_SIZE_MAX  (1024 * 1024)
#define CONFIG_DEPTH_MAX      8
#define CONFIG_VALUE_SIZE_MAX 4096
#define CONFIG_LIST_COUNT_MAX 1024
#define CONFIG_ENV_PREFIX     "TRIREME_"

enum config_type {
    CONFIG_BOOL,     /* true, false, yes, no, on, off */
    CONFIG_U64,      /* A number. */
    CONFIG_SIZE,     /* Bytes: 8192, 64KiB, 10MiB, 8GiB, 1TiB. */
    CONFIG_DURATION, /* Milliseconds: 500ms, 30s, 5min, 2h, 7d. A bare number but 0 is refused. */
    CONFIG_STRING,
    CONFIG_LIST,        /* A YAML list, or comma-separated. */
    CONFIG_RECORDS,     /* A YAML list of maps, or `a=1,b=2; a=3,b=4`. `choices` names the fields. */
    CONFIG_UNSUPPORTED, /* Known by name, and refused: this version does not have it. */
};

struct config_key {
    const char *name;
    enum config_type type;
    const char *fallback; /* The default, as one would write it; NULL: unset. */
    const char *help;
    uint64_t min, max;   /* U64, SIZE, DURATION (ms). max 0: none. */
    const char *choices; /* STRING, LIST: what a value may be, by `|`. RECORDS: names of fields, by `|`. */
    /* RECORDS: an item without names of fields is the first field alone; such may be comma-separated. */
    bool plain;
};

struct config;

#define CONFIG_ERROR_MAX 768
struct config_error {
    char text[CONFIG_ERROR_MAX]; /* "FILE:LINE: KEY: what is wrong" */
};

/* `keys` outlives the configuration. NULL: no memory. A default that does not parse is a broken invariant. */
struct config *config_new(const struct config_key *keys, size_t key_count);
void config_free(struct config *c);

/* All of it or, after an error, an unusable configuration. `name` is for messages. */
MUST_CHECK bool config_parse(struct config *c, const char *name, struct slice text,
                             struct config_error *error);
/* Reads the file itself, in a blocking way: at the start of a process. */
MUST_CHECK bool config_load(struct config *c, const char *path, struct config_error *error);
/* "KEY=VALUE", as after --set. The last one wins. */
MUST_CHECK bool config_set(struct config *c, const char *assignment, struct config_error *error);
/* All TRIREME_* variables of `environment`. An unknown one is an error, unless it looks like what Kubernetes
 * makes of a service of that name (..._SERVICE_HOST, ..._PORT_143_TCP). */
MUST_CHECK bool config_environment(struct config *c, char *const *environment, struct config_error *error);

/* Set by anybody, rather than the default? */
bool config_is_set(const struct config *c, const char *key);
bool config_bool(const struct config *c, const char *key);
uint64_t config_u64(const struct config *c, const char *key);
uint64_t config_size(const struct config *c, const char *key);
uint64_t config_duration_ms(const struct config *c, const char *key);
/* NUL-terminated. NULL: unset, without a default. */
const char *config_string(const struct config *c, const char *key);
size_t config_list_count(const struct config *c, const char *key);
const char *config_list_item(const struct config *c, const char *key, size_t index);
size_t config_record_count(const struct config *c, const char *key);
/* NULL: this record does not have that field. */
const char *config_record_field(const struct config *c, const char *key, size_t index, const char *field);

/* Writes "PLACE: KEY: ..." for what only a look at several keys finds. Returns false, for `return
 * config_wrong()`. */
bool config_wrong(const struct config *c, const char *key, struct config_error *error, const char *format,
                  ...) PRINTF_LIKE(4, 5);

/* Text to number, as in values: for other places where people write them. */
MUST_CHECK bool config_size_parse(struct slice text, uint64_t *bytes_out);
MUST_CHECK bool config_duration_parse(struct slice text, uint64_t *ms_out);
