#include "roles/options.h"
#include "core/log.h"
#include "roles/settings.h"
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

#define HOST_NAME_SIZE 256

const char options_usage[] = "usage: trireme --role=ROLE[,ROLE]... [--config FILE] [--set KEY=VALUE]...\n"
                             "       trireme check --config FILE [--set KEY=VALUE]...\n"
                             "       trireme ctl [--socket PATH | --admin ADDR] COMMAND [--json]\n"
                             "       trireme hash-password [--scheme S]\n"
                             "       trireme --version | --help\n";

int options_wrong(const char *what, const char *argument)
{
    fprintf(stderr, "trireme: %s%s\n%s", what, argument, options_usage);
    return EX_USAGE;
}

/* `--name=VALUE` or `--name VALUE`. 1: it is this option, and *value_out is set. 0: it is not. -1: no value. */
static int option_take(const char *name, int argc, char **argv, int *i, const char **value_out)
{
    size_t size = strlen(name);

    if (strncmp(argv[*i], name, size) != 0)
        return 0;
    if (argv[*i][size] == '=') {
        *value_out = argv[*i] + size + 1;
        return 1;
    }
    if (argv[*i][size] != '\0')
        return 0;
    if (*i + 1 >= argc)
        return -1;
    *value_out = argv[++*i];
    return 1;
}

static int option_set(struct options *o, const char *assignment)
{
    if (o->set_count == OPTIONS_SETS_MAX)
        return options_wrong("too many --set", "");
    o->sets[o->set_count++] = assignment;
    return 0;
}

static int option_role(struct options *o, const char *role)
{
    free(o->role);
    o->role = NULL;
    return asprintf(&o->role, "role=%s", role) < 0 ? EX_OSERR : 0;
}

/* One argument, or two. 0, or an exit status. */
static int option_parse(struct options *o, int argc, char **argv, int *i)
{
    const char *value = NULL, *argument = argv[*i];
    int rc;

    if (*i == 1 && strcmp(argument, "check") == 0) {
        o->check = true;
        return 0;
    }
    rc = option_take("--config", argc, argv, i, &o->config_file);
    if (rc > 0)
        return 0;
    if (rc == 0 && (rc = option_take("--set", argc, argv, i, &value)) > 0)
        return option_set(o, value);
    if (rc == 0 && (rc = option_take("--role", argc, argv, i, &value)) > 0)
        return option_role(o, value);
    return options_wrong(rc == 0 ? "unknown argument: " : "no value for ", argument);
}

int options_parse(struct options *o, int argc, char **argv)
{
    int rc = 0;

    o->argc = argc;
    o->argv = argv;
    for (int i = 1; rc == 0 && i < argc; i++)
        rc = option_parse(o, argc, argv, &i);
    return rc;
}

void options_free(struct options *o)
{
    free(o->role);
}

/* ---- Configuration ------------------------------------------------------------------------------------- */

/* A node is named for its host unless somebody names it. */
static bool node_name(struct config *c, struct config_error *error)
{
    char assignment[HOST_NAME_SIZE + 8] = "node=";

    if (config_string(c, "node") != NULL)
        return true;
    if (gethostname(assignment + 5, HOST_NAME_SIZE) < 0 || assignment[5] == '\0')
        strcpy(assignment + 5, "localhost");
    return config_set(c, assignment, error);
}

static bool config_read(struct config *c, const struct options *o, const struct slice *file,
                        struct config_error *error)
{
    if (o->config_file != NULL && (file != NULL ? !config_parse(c, o->config_file, *file, error)
                                                : !config_load(c, o->config_file, error)))
        return false;
    if (!config_environment(c, environ, error))
        return false;
    for (size_t i = 0; i < o->set_count; i++) {
        if (!config_set(c, o->sets[i], error))
            return false;
    }
    if (o->role != NULL && !config_set(c, o->role, error))
        return false;
    return settings_check(c, error) && node_name(c, error);
}

static void log_configure(const struct config *c)
{
    enum log_level level = LOG_INFO;
    bool known = log_level_parse(slice_str(config_string(c, "log.level")), &level);

    ASSERT(known); /* The table of keys allows nothing else. */
    log_set_level(level);
    log_set_json(strcmp(config_string(c, "log.format"), "json") == 0);
}

struct config *options_config(const struct options *o, const struct slice *file, int *status_out)
{
    struct config *c = config_new(settings_keys, settings_key_count);
    struct config_error error;

    *status_out = EX_OSERR;
    if (c == NULL)
        return NULL;
    if (!config_read(c, o, file, &error)) {
        fprintf(stderr, "trireme: %s\n", error.text);
        *status_out = EX_CONFIG;
        config_free(c);
        return NULL;
    }
    log_configure(c);
    return c;
}
