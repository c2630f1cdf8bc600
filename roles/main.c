/* roles/main.c -- the program: its commands. A server is a supervisor, and what it starts. */
#include "roles/ctl.h"
#include "roles/hash_password.h"
#include "roles/options.h"
#include "roles/process.h"
#include "roles/server.h"
#include "roles/settings.h"
#include "roles/supervisor/plan.h"
#include "roles/supervisor/supervisor.h"
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

static int help(void)
{
    fputs(options_usage, stdout);
    fputs("\nKeys of the configuration, nested in the YAML file; also --set KEY=VALUE, or TRIREME_KEY=VALUE "
          "in the\n"
          "environment. Their defaults in brackets.\n\n",
          stdout);
    for (size_t i = 0; i < settings_key_count; i++) {
        const struct config_key *k = &settings_keys[i];

        if (k->type != CONFIG_UNSUPPORTED)
            printf("  %-24s %s%s%s%s\n", k->name, k->help, k->fallback != NULL ? " [" : "",
                   k->fallback != NULL ? k->fallback : "", k->fallback != NULL ? "]" : "");
    }
    return 0;
}

static int serve(int argc, char **argv)
{
    const size_t size = strlen(PROCESS_HANDOVER_OPTION);
    bool handed = argc > 1 && strncmp(argv[1], PROCESS_HANDOVER_OPTION, size) == 0;
    struct options options = {.config_file = NULL};
    int rc = handed ? options_parse(&options, argc - 1, argv + 1) : options_parse(&options, argc, argv);

    if (rc == 0 && options.check && options.config_file == NULL)
        rc = options_wrong("check needs --config FILE", "");
    if (rc == 0 && argc == 1)
        rc = options_wrong("nothing to do", "");
    if (rc == 0 && options.check)
        rc = plan_check(&options);
    else if (rc == 0)
        rc = handed ? server_main(&options, atoi(argv[1] + size)) : supervisor_main(&options);
    options_free(&options);
    return rc;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";

    if (strcmp(command, "--version") == 0)
        return puts("trireme " TRIREME_VERSION) < 0 ? EX_IOERR : 0;
    if (strcmp(command, "--help") == 0)
        return help();
    if (strcmp(command, "hash-password") == 0)
        return hash_password_main(argc - 1, argv + 1);
    if (strcmp(command, "ctl") == 0)
        return ctl_main(argc - 1, argv + 1);
    return serve(argc, argv);
}
