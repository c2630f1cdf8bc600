/* bench/main.c -- trireme-bench: measures any server of the protocol. One JSON object a line. */
#include "bench/bench.h"
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CONNECTIONS_MAX 19000   /* Descriptors of one process. */
#define COUNT_MAX       4000000 /* Sessions, which get processes as they need. */
#define SIMULATED       "-sim"  /* What the other program's name ends with. */

static void usage(FILE *to)
{
    fprintf(to,
            "Usage: trireme-bench NAME --host H --port P [--tls] [--resume] [--lmtp-port P] [--users N]\n"
            "           [--password W] [--connections N] [--seconds S] [--size BYTES] [--messages N] "
            "[--stuck N]\n"
            "           [--count N] [--transport socket|sim] [--bare] [--rate MAILS]\n"
            "           [--port2 P] [--admin-port P] [--mix NAME] [--addresses N]\n"
            "           [--server-pids [LAYER=]PID,...] [--server-group DIRECTORY] [--pace N] [--json]\n\n"
            "Users are u0 to uN-1. CPU time and memory are read from /proc of the server's "
            "processes.\n\nNAME:\n");
    for (size_t i = 0; i < operation_count; i++)
        fprintf(to, "  %-15s %s\n", operations[i].name, operations[i].help);
}

static unsigned number(const char *name, const char *text, unsigned long max)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*text == '\0' || *end != '\0' || value > max) {
        fprintf(stderr, "trireme-bench: --%s wants a number up to %lu, not '%s'\n", name, max, text);
        exit(64);
    }
    return (unsigned)value;
}

static const struct operation *operation_find(const char *name)
{
    for (size_t i = 0; i < operation_count; i++) {
        if (strcmp(operations[i].name, name) == 0)
            return &operations[i];
    }
    fprintf(stderr, "trireme-bench: no benchmark '%s'\n", name);
    usage(stderr);
    exit(64);
}

enum {
    OPT_HOST = 256,
    OPT_PORT,
    OPT_TLS,
    OPT_RESUME,
    OPT_LMTP_PORT,
    OPT_USERS,
    OPT_PASSWORD,
    OPT_CONNECTIONS,
    OPT_SECONDS,
    OPT_SIZE,
    OPT_MESSAGES,
    OPT_STUCK,
    OPT_COUNT,
    OPT_TRANSPORT,
    OPT_BARE,
    OPT_RATE,
    OPT_MIX,
    OPT_PORT2,
    OPT_ADMIN_PORT,
    OPT_PIDS,
    OPT_GROUP,
    OPT_PACE,
    OPT_ADDRESSES,
    OPT_JSON,
    OPT_HELP
};

static const struct option long_options[] = {
    {"host", 1, NULL, OPT_HOST},
    {"port", 1, NULL, OPT_PORT},
    {"tls", 0, NULL, OPT_TLS},
    {"resume", 0, NULL, OPT_RESUME},
    {"lmtp-port", 1, NULL, OPT_LMTP_PORT},
    {"users", 1, NULL, OPT_USERS},
    {"password", 1, NULL, OPT_PASSWORD},
    {"connections", 1, NULL, OPT_CONNECTIONS},
    {"seconds", 1, NULL, OPT_SECONDS},
    {"size", 1, NULL, OPT_SIZE},
    {"messages", 1, NULL, OPT_MESSAGES},
    {"stuck", 1, NULL, OPT_STUCK},
    {"count", 1, NULL, OPT_COUNT},
    {"transport", 1, NULL, OPT_TRANSPORT},
    {"bare", 0, NULL, OPT_BARE},
    {"rate", 1, NULL, OPT_RATE},
    {"mix", 1, NULL, OPT_MIX},
    {"port2", 1, NULL, OPT_PORT2},
    {"admin-port", 1, NULL, OPT_ADMIN_PORT},
    {"server-pids", 1, NULL, OPT_PIDS},
    {"server-group", 1, NULL, OPT_GROUP},
    {"pace", 1, NULL, OPT_PACE},
    {"addresses", 1, NULL, OPT_ADDRESSES},
    {"json", 0, NULL, OPT_JSON},
    {"help", 0, NULL, OPT_HELP},
    {0},
};

static void option_set(struct options *o, int option)
{
    switch (option) {
    case OPT_HOST:
        o->host = optarg;
        break;
    case OPT_PORT:
        o->port = number("port", optarg, 65535);
        break;
    case OPT_TLS:
        o->tls = true;
        break;
    case OPT_RESUME:
        o->resume = true;
        break;
    case OPT_LMTP_PORT:
        o->lmtp_port = number("lmtp-port", optarg, 65535);
        break;
    case OPT_USERS:
        o->users = number("users", optarg, 10000000);
        break;
    case OPT_PASSWORD:
        o->password = optarg;
        break;
    case OPT_CONNECTIONS:
        o->connections = number("connections", optarg, CONNECTIONS_MAX);
        break;
    case OPT_SECONDS:
        o->seconds = strtod(optarg, NULL);
        break;
    case OPT_SIZE:
        o->size = number("size", optarg, 50 << 20);
        break;
    case OPT_MESSAGES:
        o->messages = number("messages", optarg, 1000000);
        break;
    case OPT_STUCK:
        o->stuck = number("stuck", optarg, CONNECTIONS_MAX);
        break;
    case OPT_COUNT:
        o->connections = number("count", optarg, COUNT_MAX);
        break;
    case OPT_TRANSPORT:
        if (strcmp(optarg, "socket") == 0)
            break;
        fprintf(stderr, "trireme-bench: --transport wants 'socket' or 'sim'\n");
        exit(64);
    case OPT_BARE:
        o->bare = true;
        break;
    case OPT_RATE:
        o->rate = number("rate", optarg, 100000);
        break;
    case OPT_MIX:
        o->mix = optarg;
        break;
    case OPT_PORT2:
        o->port2 = number("port2", optarg, 65535);
        break;
    case OPT_ADMIN_PORT:
        o->server.admin_port = number("admin-port", optarg, 65535);
        break;
    case OPT_PIDS:
        if (server_parse(&o->server, optarg))
            break;
        fprintf(stderr, "trireme-bench: --server-pids wants [LAYER=]PID,...\n");
        exit(64);
    case OPT_GROUP:
        o->group = optarg;
        break;
    case OPT_PACE:
        o->pace = number("pace", optarg, CONNECTIONS_MAX);
        break;
    case OPT_ADDRESSES:
        o->addresses = number("addresses", optarg, 65000);
        break;
    case OPT_JSON: /* The only format. */
        break;
    case OPT_HELP:
        usage(stdout);
        exit(0);
    default:
        usage(stderr);
        exit(64);
    }
}

/* Another program beside this one: it has another door to the kernel. It takes the options that are not about a server. */
static int simulated(int argc, char **argv)
{
    static char path[4096];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - sizeof SIMULATED);
    char **passed = calloc((size_t)argc + 1, sizeof *passed);
    int count = 0;

    if (size <= 0 || passed == NULL)
        return 71;
    strcpy(path + size, SIMULATED);
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--transport") == 0 && i + 1 < argc)
            i++;
        else if (strncmp(argv[i], "--transport=", 12) != 0 && strcmp(argv[i], "sessions") != 0)
            passed[count++] = argv[i];
    }
    execv(path, passed);
    perror(path);
    return 71;
}

static bool asks_simulated(int argc, char **argv)
{
    bool sessions = false, sim = false;

    for (int i = 1; i < argc; i++) {
        sessions = sessions || strcmp(argv[i], "sessions") == 0;
        sim = sim || strcmp(argv[i], "--transport=sim") == 0 ||
              (i + 1 < argc && strcmp(argv[i], "--transport") == 0 && strcmp(argv[i + 1], "sim") == 0);
    }
    return sessions && sim;
}

int main(int argc, char **argv)
{
    static struct bench bench = {
        .options = {
            .host = "127.0.0.1", .password = "pass", .users = 100, .seconds = 5, .stuck = 1000, .rate = 100}};
    struct options *o = &bench.options;
    bool sized = false, counted = false;

    if (asks_simulated(argc, argv))
        return simulated(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        option_set(o, option);
        sized = sized || option == OPT_SIZE;
        counted = counted || option == OPT_MESSAGES;
    }
    if (optind + 1 != argc) {
        usage(stderr);
        return 64;
    }
    o->operation = operation_find(argv[optind]);
    if (o->connections == 0)
        o->connections = o->operation->connections > 0 ? o->operation->connections : 16;
    if (!o->operation->idle && o->operation->run != flood_run && o->connections > CONNECTIONS_MAX) {
        fprintf(stderr, "trireme-bench: --count is for sessions\n");
        return 64;
    }
    o->size = sized ? o->size : o->operation->size;
    o->messages = counted ? o->messages : o->operation->messages;
    if (o->users == 0 || o->connections == 0 || (o->operation->lmtp ? o->lmtp_port : o->port) == 0 ||
        (o->operation->size > 0 && o->size < 256)) {
        fprintf(stderr,
                "trireme-bench: --users, --connections and a port must not be 0; --size is at least 256\n");
        return 64;
    }
    return bench_run(&bench);
}
