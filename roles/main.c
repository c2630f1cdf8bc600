/* roles/main.c -- the process: options, configuration, what it may use of the machine, and then the node.
 *
 * Until node_run() there is no shard, so this file may use libc; afterwards only ready() and what it calls
 * run here, on the first thread. */
#include "core/cpu.h"
#include "core/log.h"
#include "core/node.h"
#include "core/notify.h"
#include "net/link/link.h"
#include "roles/admin/admin.h"
#include "roles/ctl.h"
#include "roles/director/passdb.h"
#include "roles/hash_password.h"
#include "roles/role.h"
#include "roles/settings.h"
#include <errno.h>
#include <ftw.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#define SETS_MAX          256
#define CHOWN_FILES_OPEN  32
#define HOST_NAME_SIZE    256
#define PORT_WAIT_MS      2000
#define PORT_WAIT_STEP_MS 20
#define STOP_MORE_MS      5000 /* After the clients' time: for the store, to write what it has. */

struct options {
    const char *config_file;
    char *role; /* "role=...", as --set takes it. */
    const char *sets[SETS_MAX];
    size_t set_count;
    bool check;
};

struct identity { /* Whom to become; uid 0: stay. */
    uid_t uid;
    gid_t gid;
    const char *user, *data;
    bool failed;
};

/* ---- Words to the operator ----------------------------------------------------------------------------- */

static const char usage_text[] = "usage: trireme --role=ROLE[,ROLE]... [--config FILE] [--set KEY=VALUE]...\n"
                                 "       trireme check --config FILE [--set KEY=VALUE]...\n"
                                 "       trireme ctl [--socket PATH | --admin ADDR] COMMAND [--json]\n"
                                 "       trireme hash-password [--scheme S]\n"
                                 "       trireme --version | --help\n";

static int usage_wrong(const char *what, const char *argument)
{
    fprintf(stderr, "trireme: %s%s\n%s", what, argument, usage_text);
    return EX_USAGE;
}

static int help(void)
{
    fputs(usage_text, stdout);
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

static int config_bad(const char *text)
{
    fprintf(stderr, "trireme: %s\n", text);
    return EX_CONFIG;
}

/* ---- Options ------------------------------------------------------------------------------------------- */

/* `--name=VALUE` or `--name VALUE`. 1: it is this option, and *value_out is set. 0: it is not. -1: no value.
 */
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
    if (o->set_count == SETS_MAX)
        return usage_wrong("too many --set", "");
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
    return usage_wrong(rc == 0 ? "unknown argument: " : "no value for ", argument);
}

static int options_parse(struct options *o, int argc, char **argv)
{
    int rc = 0;

    for (int i = 1; rc == 0 && i < argc; i++)
        rc = option_parse(o, argc, argv, &i);
    return rc;
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

static bool config_read(struct config *c, const struct options *o, struct config_error *error)
{
    if (o->config_file != NULL && !config_load(c, o->config_file, error))
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

/* ---- Whom the process becomes -------------------------------------------------------------------------- */

static bool identity_find(const struct config *c, struct identity *id, struct config_error *error)
{
    const char *user = config_string(c, "user"), *group = config_string(c, "group");
    const struct passwd *p;
    const struct group *g;

    *id = (struct identity){.uid = 0, .user = user, .data = config_string(c, "data")};
    if (user == NULL)
        return true;
    p = getpwnam(user);
    if (p == NULL)
        return config_wrong(c, "user", error, "there is no user '%.64s'", user);
    id->uid = p->pw_uid;
    id->gid = p->pw_gid;
    if (group != NULL) {
        g = getgrnam(group);
        if (g == NULL)
            return config_wrong(c, "group", error, "there is no group '%.64s'", group);
        id->gid = g->gr_gid;
    }
    if (geteuid() != 0 && (geteuid() != id->uid || getegid() != id->gid))
        return config_wrong(c, "user", error, "only root can become another user");
    return true;
}

static const struct identity *chown_identity; /* nftw() hands nothing through. */

static int chown_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    if (st->st_uid == chown_identity->uid && st->st_gid == chown_identity->gid)
        return 0;
    return lchown(path, chown_identity->uid, chown_identity->gid);
}

/* What was made below `data` during the start belongs to root, and must be the server's own before it stops
 * being root. 0 or -errno. */
static int identity_become(const struct identity *id)
{
    if (id->uid == 0 || geteuid() == id->uid)
        return 0;
    chown_identity = id;
    if (nftw(id->data, chown_one, CHOWN_FILES_OPEN, FTW_PHYS | FTW_MOUNT) != 0)
        return -errno;
    if (initgroups(id->user, id->gid) < 0 || setresgid(id->gid, id->gid, id->gid) < 0 ||
        setresuid(id->uid, id->uid, id->uid) < 0)
        return -errno;
    return 0;
}

/* ---- The server ---------------------------------------------------------------------------------------- */

static void notify_reloading(void)
{
    struct timespec now;
    char text[96];

    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%lld",
             (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    (void)notify_manager(text);
}

static void server_reload(struct shard *s)
{
    notify_reloading();
    if (s->slot[SLOT_DIRECTOR] != NULL)
        passdb_reload(s);
    (void)notify_manager("READY=1");
}

static void server_ready(struct node *node, void *arg)
{
    struct identity *id = arg;
    bool heard = node->shards[0]->slot[SLOT_ADMIN] != NULL; /* Else it has said why. */
    int rc = heard ? identity_become(id) : 0;

    if (rc < 0)
        log_event(LOG_ERROR, "cannot become the user of the configuration", "user=%s error=%s",
                  log_quote(slice_str(id->user)), log_quote(slice_str(strerrordesc_np(-rc))));
    if (!heard || rc < 0) {
        id->failed = true;
        node_stop(node);
        return;
    }
    puts("trireme: ready");
    fflush(stdout);
    (void)notify_manager("READY=1\nSTATUS=serving");
}

/* The operator is heard from the first moment to the last. If he cannot be, server_ready() ends the server: the
 * shards open the store in step, and stop in step, so none of them can go alone. */
static int server_start(struct shard *s)
{
    int heard = role_admin.start(s), rc = role_ops.start(s);

    if (rc < 0 && heard == 0)
        role_admin.stop(s);
    return rc;
}

static void server_stop(struct shard *s)
{
    if (s->index == 0)
        (void)notify_manager("STOPPING=1\nSTATUS=ending");
    role_ops.stop(s);
    admin_drain(s);
    role_admin.stop(s);
}

/* Everybody's mail is in this process: no core file, no debugger of the same user. */
static void process_harden(void)
{
#ifdef TRIREME_RELEASE
    const struct rlimit none = {0, 0};

    (void)setrlimit(RLIMIT_CORE, &none);
    (void)prctl(PR_SET_DUMPABLE, 0);
#endif
}

static int data_make(const char *path)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        fprintf(stderr, "trireme: data: %s: %s\n", path, strerror(errno));
        return EX_CONFIG;
    }
    return 0;
}

/* The kernel closes the listeners of a process that was killed a moment after its end: so long it is waited for. */
static int port_check(void *arg, const char *key, const char *text, const struct net_addr *addr)
{
    const struct timespec pause = {0, PORT_WAIT_STEP_MS * 1000000};
    int rc = node_check_listen(addr);

    for (int waited = 0; rc == -EADDRINUSE && waited < PORT_WAIT_MS; waited += PORT_WAIT_STEP_MS) {
        (void)nanosleep(&pause, NULL);
        rc = node_check_listen(addr);
    }
    if (rc < 0)
        fprintf(stderr, "trireme: %s: cannot listen on %s: %s\n", key, text, strerror(-rc));
    return rc < 0 ? EX_OSERR : 0;
}

/* I-1: no more CPUs and no more memory than there really are. */
static int resources_plan(const struct config *c, struct cpu_plan *cpus, uint64_t *memory)
{
    const char *wanted = config_string(c, "memory");
    char error[CPU_ERROR_MAX];
    struct cpu_limits limits;
    uint64_t bytes = 0; /* auto */
    int rc = cpu_detect("", &limits);

    if (rc < 0) {
        fprintf(stderr, "trireme: cannot tell what CPUs and memory there are: %s\n", strerror(-rc));
        return EX_OSERR;
    }
    if (strcmp(wanted, "auto") != 0 && !config_size_parse(slice_str(wanted), &bytes))
        return config_bad("memory: is not a size"); /* settings_check() has seen it. */
    if (memory_plan_make(&limits, bytes, memory, error) < 0 ||
        cpu_plan_make(&limits, config_string(c, "cores"), config_bool(c, "cores.shared"), NULL, cpus, error) <
            0)
        return config_bad(error);
    return 0;
}

static bool file_check(const struct config *c, const char *key, const char *path)
{
    struct config_error error;

    if (path == NULL || access(path, R_OK) == 0)
        return true;
    (void)config_wrong(c, key, &error, "cannot read %.200s: %s", path, strerror(errno));
    (void)config_bad(error.text);
    return false;
}

/* What the configuration names must be there at the start; later it may be missing for a while. */
static bool files_check(const struct config *c)
{
    static const char *const keys[] = {"tls.cert", "tls.key", "auth.passwd_file"};

    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        if (!file_check(c, keys[i], config_string(c, keys[i])))
            return false;
    }
    for (size_t i = 0; i < config_record_count(c, "tls.sni"); i++) {
        if (!file_check(c, "tls.sni", config_record_field(c, "tls.sni", i, "cert")) ||
            !file_check(c, "tls.sni", config_record_field(c, "tls.sni", i, "key")))
            return false;
    }
    return true;
}

static int node_start(const struct config *c, const struct cpu_plan *cpus, uint64_t memory,
                      struct identity *id)
{
    const struct node_ops ops = {server_start, server_stop};
    const struct node_options options = {
        .config = c,
        .ops = &ops,
        .data = config_string(c, "data"),
        .cpus = cpus->cpus,
        .shard_count = cpus->count,
        .helper_count = (unsigned)config_u64(c, "helpers"),
        .memory = memory,
        .stop_timeout_ms = (uint32_t)config_duration_ms(c, "shutdown.grace") + STOP_MORE_MS,
        .ready = server_ready,
        .reload = server_reload,
        .arg = id,
    };
    char error[NODE_ERROR_MAX];
    int rc = log_start();

    if (rc == 0)
        rc = node_run(&options, error);
    log_stop();
    if (rc < 0 && error[0] != '\0')
        fprintf(stderr, "trireme: %s\n", error);
    if (rc == -EKEYREJECTED) /* Certificates: the log says which. */
        return EX_CONFIG;
    return rc < 0 || id->failed ? EX_OSERR : 0;
}

static int server_run(const struct config *c, struct identity *id)
{
    char error[NODE_ERROR_MAX];
    struct cpu_plan cpus;
    uint64_t memory;
    int rc;

    if (node_check_kernel(error) < 0) {
        fprintf(stderr, "trireme: %s\n", error);
        return EX_UNAVAILABLE;
    }
    rc = files_check(c) ? data_make(config_string(c, "data")) : EX_CONFIG;
    if (rc == 0)
        rc = resources_plan(c, &cpus, &memory);
    if (rc != 0)
        return rc;
    rc = settings_each_listener(c, port_check, NULL);
    if (rc != 0)
        goto end;
    log_event(LOG_INFO, "starting", "version=%s cores=%u memory_mib=%llu", TRIREME_VERSION, cpus.count,
              (unsigned long long)(memory >> 20));
    rc = node_start(c, &cpus, memory, id);
end:
    cpu_plan_fini(&cpus);
    return rc;
}

static int server_main(const struct options *o)
{
    struct config *c = config_new(settings_keys, settings_key_count);
    struct config_error error;
    struct identity id;
    int rc;

    if (c == NULL)
        return EX_OSERR;
    if (!config_read(c, o, &error) || !identity_find(c, &id, &error))
        rc = config_bad(error.text);
    else if (o->check)
        rc = 0;
    else {
        log_configure(c);
        process_harden();
        rc = server_run(c, &id);
    }
    config_free(c);
    return rc;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    struct options options = {.config_file = NULL};
    int rc;

    if (strcmp(command, "--version") == 0)
        return puts("trireme " TRIREME_VERSION) < 0 ? EX_IOERR : 0;
    if (strcmp(command, "--help") == 0)
        return help();
    if (strcmp(command, "hash-password") == 0)
        return hash_password_main(argc - 1, argv + 1);
    if (strcmp(command, "ctl") == 0)
        return ctl_main(argc - 1, argv + 1);
    rc = options_parse(&options, argc, argv);
    if (rc == 0 && options.check && options.config_file == NULL)
        rc = usage_wrong("check needs --config FILE", "");
    if (rc == 0 && argc == 1)
        rc = usage_wrong("nothing to do", "");
    if (rc == 0)
        rc = server_main(&options);
    free(options.role);
    return rc;
}
