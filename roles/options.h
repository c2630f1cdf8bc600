/* roles/options.h -- the command line of a server, and the configuration that comes of it. Supervisor and server read both
 * alike: the one from the file, the other from the bytes that it was given.
 * Owner: the process's first thread, before there is a shard. Memory: strings are the command line's own. */
#pragma once
#include "core/config.h"

#define OPTIONS_SETS_MAX 256

struct options {
    const char *config_file;
    char *role; /* "role=...", as --set takes it. */
    const char *sets[OPTIONS_SETS_MAX];
    size_t set_count;
    bool check;
    char **argv;
    int argc;
};

extern const char options_usage[];

/* 0, or an exit status after a line on standard error. */
int options_parse(struct options *o, int argc, char **argv);
void options_free(struct options *o);
int options_wrong(const char *what, const char *argument);

/* NULL after a line on standard error, with the exit status in *status_out. `file`: the configuration file's bytes; NULL: read
 * it. */
struct config *options_config(const struct options *o, const struct slice *file, int *status_out);
