/* roles/ctl.c -- a short process of its own with one blocking connection: there is no shard here and no door, so
 * it speaks to libc, as roles/hash_password.c does. */
#include "roles/ctl.h"
#include "core/io.h"
#include "net/http/http.h"
#include "roles/ctl_certificates.h"
#include "roles/settings.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#define TIMEOUT_S         30
#define UPGRADE_TIMEOUT_S 240
#define ANEW              "begun anew, " /* Of /readyz. */
#define SUCCESSOR_MS      60000
#define SUCCESSOR_STEP_MS 20
/* For its answer. A server that was killed may be woken once more for a connection, in place of the one that listens; the next
 * connection wakes that one, and it takes both. */
#define SUCCESSOR_ANSWER_S 2
#define ARGUMENT_MAX       1024
#define REPLY_HEAD_MAX     4096
#define DEFAULT_SOCKET     "ctl.sock"

struct ctl {
    int timeout_s;
    const char *socket, *admin, *config_file;
    const char *certificates, *nodes; /* Of `cluster init` without a server. */
    const char *words[4];             /* The command. */
    int word_count;
    char joined[1100]; /* Two arguments, with a space between them. */
    bool json;
    char path[4096]; /* Of the socket, when it comes from the configuration. */
};

static const struct command {
    const char *first, *second; /* Words; NULL: one only. */
    const char *path;
    int arguments; /* At most; all of them, unless `optional`. */
    bool optional;
    const char *help;
} commands[] = {
    {"status", NULL, "/ctl/status", 0, false, "status               what the server is and does"},
    {"who", NULL, "/ctl/who", 1, true, "who [MASK|IP]        sessions: of users, or from a network"},
    {"why", NULL, "/ctl/why", 1, false, "why USER             where a user's mail is served"},
    {"kick", NULL, "/ctl/kick", 1, false, "kick USER|MASK|IP    ends sessions; they may come again"},
    {"cluster", "init", "/ctl/cluster-init", 0, false,
     "cluster init         deals the partitions to the backends, once; ask a director\n"
     "  cluster init --certificates DIR --nodes NAME:ROLE[+ROLE],...\n"
     "                       makes the cluster's authority and the nodes' certificates that are missing in "
     "DIR"},
    {"cluster", "place", "/ctl/cluster-place", 2, false,
     "cluster place USER BACKEND\n"
     "                       a user without mail is served by that backend; ask a director"},
    {"cluster", "unplace", "/ctl/cluster-unplace", 1, false,
     "cluster unplace USER ... where all of his partition are, again"},
    {"cluster", "exceptions", "/ctl/cluster-exceptions", 0, false,
     "cluster exceptions   users who are placed alone"},
    {"log", "level", "/ctl/log-level", 1, false, "log level LEVEL      debug, info, warn or error"},
    {"reload", NULL, "/ctl/reload", 0, false,
     "reload               reads the passwd-file, certificates and keys again, as SIGHUP does"},
    {"upgrade", NULL, "/ctl/upgrade", 0, false,
     "upgrade              hands all sessions to a new process of the executable that is there now"},
};

static int usage(const char *what, const char *argument)
{
    fprintf(
        stderr,
        "trireme ctl: %s%s\nusage: trireme ctl [--socket PATH | --admin ADDR:PORT | --config FILE] COMMAND "
        "[--json]\n",
        what, argument);
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++)
        fprintf(stderr, "  %s\n", commands[i].help);
    return EX_USAGE;
}

/* ---- Arguments ------------------------------------------------------------------------------------------ */

/* `--name VALUE` or `--name=VALUE`. */
static bool option(const char *name, int argc, char **argv, int *i, const char **value_out)
{
    size_t size = strlen(name);

    if (strncmp(argv[*i], name, size) != 0)
        return false;
    if (argv[*i][size] == '=') {
        *value_out = argv[*i] + size + 1;
        return true;
    }
    if (argv[*i][size] != '\0' || *i + 1 >= argc)
        return false;
    *value_out = argv[++*i];
    return true;
}

static int arguments_parse(struct ctl *ctl, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (option("--socket", argc, argv, &i, &ctl->socket) ||
            option("--admin", argc, argv, &i, &ctl->admin) ||
            option("--config", argc, argv, &i, &ctl->config_file) ||
            option("--certificates", argc, argv, &i, &ctl->certificates) ||
            option("--nodes", argc, argv, &i, &ctl->nodes))
            continue;
        if (strcmp(argv[i], "--json") == 0)
            ctl->json = true;
        else if (argv[i][0] == '-' && argv[i][1] == '-')
            return usage("unknown or incomplete argument: ", argv[i]);
        else if (ctl->word_count == (int)ARRAY_COUNT(ctl->words))
            return usage("too many arguments", "");
        else
            ctl->words[ctl->word_count++] = argv[i];
    }
    return 0;
}

/* 0 and *command_out, *argument_out; or an exit status. */
static int command_find(struct ctl *ctl, const struct command **command_out, const char **argument_out)
{
    const char *first = ctl->word_count > 0 ? ctl->words[0] : "";

    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        const struct command *c = &commands[i];
        int used = c->second != NULL ? 2 : 1;

        if (strcmp(first, c->first) != 0)
            continue;
        if (used == 2 && (ctl->word_count < 2 || strcmp(ctl->words[1], c->second) != 0))
            continue;
        if (ctl->word_count > used + c->arguments || (!c->optional && ctl->word_count < used + c->arguments))
            return usage("wrong number of arguments for ", c->first);
        *command_out = c;
        *argument_out = ctl->word_count > used ? ctl->words[used] : "";
        if (c->arguments == 2) {
            snprintf(ctl->joined, sizeof ctl->joined, "%s %s", ctl->words[used], ctl->words[used + 1]);
            *argument_out = ctl->joined;
        }
        return strlen(*argument_out) <= ARGUMENT_MAX ? 0 : usage("the argument is too long", "");
    }
    return usage(first[0] != '\0' ? "this version does not know: " : "no command", first);
}

/* ---- Whom to ask ---------------------------------------------------------------------------------------- */

/* The socket that a server with this configuration would open. */
static int socket_of_config(struct ctl *ctl)
{
    struct config *c = config_new(settings_keys, settings_key_count);
    struct config_error error;
    const char *path;
    int rc = 0, size = 0;

    if (c == NULL)
        return EX_OSERR;
    if ((ctl->config_file != NULL && !config_load(c, ctl->config_file, &error)) ||
        !config_environment(c, environ, &error)) {
        fprintf(stderr, "trireme ctl: %s\n", error.text);
        rc = EX_CONFIG;
    } else {
        path = config_string(c, "admin.socket");
        path = path != NULL ? path : DEFAULT_SOCKET;
        size = path[0] == '/'
                   ? snprintf(ctl->path, sizeof ctl->path, "%s", path)
                   : snprintf(ctl->path, sizeof ctl->path, "%s/%s", config_string(c, "data"), path);
        ctl->socket = ctl->path;
        if (size < 0 || (size_t)size >= sizeof ctl->path)
            rc = usage("the socket's path is too long", "");
    }
    config_free(c);
    return rc;
}

/* A socket's address has 107 bytes; a long path is reached from its own directory, which nothing else here
 * minds. */
static int unix_connect(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *slash = strrchr(path, '/');
    char directory[4096];
    int fd;

    if (strlen(path) >= sizeof addr.sun_path && slash != NULL && slash > path) {
        snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
        if (chdir(directory) < 0)
            return -errno;
        path = slash + 1;
    }
    if (strlen(path) >= sizeof addr.sun_path)
        return -ENAMETOOLONG;
    strcpy(addr.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof addr) < 0) {
        int rc = -errno;

        close(fd);
        return rc;
    }
    return fd;
}

static int tcp_connect(const struct net_addr *to)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(to->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(to->port)};
    bool is_v6 = to->family == AF_INET6;
    int fd = socket(to->family, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

    if (fd < 0)
        return -errno;
    memcpy(&v4.sin_addr, to->ip, 4);
    memcpy(&v6.sin6_addr, to->ip, 16);
    rc = is_v6 ? connect(fd, (const struct sockaddr *)(const void *)&v6, sizeof v6)
               : connect(fd, (const struct sockaddr *)(const void *)&v4, sizeof v4);
    if (rc < 0) {
        rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* 0 and a descriptor, or an exit status after a line that says what to look at. */
static int server_connect(struct ctl *ctl, int *fd_out)
{
    const struct timeval timeout = {.tv_sec = ctl->timeout_s};
    const char *where = ctl->admin != NULL ? ctl->admin : ctl->socket;
    struct net_addr addr;
    int fd;

    if (ctl->admin != NULL && !net_addr_parse(slice_str(ctl->admin), &addr))
        return usage("not ADDR:PORT: ", ctl->admin);
    fd = ctl->admin != NULL ? tcp_connect(&addr) : unix_connect(ctl->socket);
    if (fd == -EACCES || fd == -EPERM) {
        fprintf(stderr, "trireme ctl: %s: %s (ask as root, or as the server's user)\n", where, strerror(-fd));
        return EX_NOPERM;
    }
    if (fd < 0) {
        fprintf(stderr, "trireme ctl: no server answers at %s: %s\n", where, strerror(-fd));
        return EX_UNAVAILABLE;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    *fd_out = fd;
    return 0;
}

/* ---- One request ---------------------------------------------------------------------------------------- */

static int broken(const char *what)
{
    fprintf(stderr, "trireme ctl: %s\n", what);
    return EX_UNAVAILABLE;
}

static bool request_send(int fd, const struct ctl *ctl, const struct command *c, const char *argument)
{
    char text[ARGUMENT_MAX + 512];
    int size =
        snprintf(text, sizeof text,
                 "POST %s%s HTTP/1.1\r\nHost: trireme\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                 c->path, ctl->json ? "?json" : "", strlen(argument), argument);

    return send(fd, text, (size_t)size, MSG_NOSIGNAL) == size;
}

/* The status of a reply whose head is whole; 0: it is none. */
static unsigned reply_status(const char *head)
{
    unsigned status;

    return sscanf(head, "HTTP/1.1 %3u ", &status) == 1 ? status : 0;
}

static int exit_status_of(unsigned status, const char *path)
{
    switch (status) {
    case 200:
        return EX_OK;
    case 400:
        return EX_USAGE;
    case 403:
        return EX_NOPERM;
    case 404:
        return strcmp(path, "/ctl/why") == 0 || strcmp(path, "/ctl/cluster-place") == 0 ||
                       strcmp(path, "/ctl/cluster-unplace") == 0
                   ? EX_NOUSER
                   : EX_PROTOCOL;
    case 422:
        return EX_DATAERR;
    case 503:
        return EX_UNAVAILABLE;
    default:
        return EX_PROTOCOL;
    }
}

/* Content-Length of the reply; the server always sends it. */
static bool reply_size(const char *head, unsigned long long *size_out)
{
    const char *at = strstr(head, "\r\nContent-Length: ");

    return at != NULL && sscanf(at, "\r\nContent-Length: %llu", size_out) == 1;
}

/* An error goes to standard error, for a script that reads the output. */
static int reply_print(int fd, const char *path)
{
    char buffer[REPLY_HEAD_MAX + 1], *body = NULL;
    unsigned long long left;
    unsigned status;
    size_t size = 0;
    FILE *out;

    while (body == NULL) {
        ssize_t n = size < REPLY_HEAD_MAX ? recv(fd, buffer + size, REPLY_HEAD_MAX - size, 0) : -1;

        if (n <= 0)
            return broken("the server did not answer");
        size += (size_t)n;
        buffer[size] = '\0';
        body = strstr(buffer, "\r\n\r\n");
    }
    status = reply_status(buffer);
    if (status == 0 || !reply_size(buffer, &left))
        return broken("that is no Trireme server");
    out = status == 200 ? stdout : stderr;
    body += 4;
    size -= (size_t)(body - buffer);
    for (;;) {
        size_t part = (size_t)MIN(left, (unsigned long long)size);

        fwrite(body, 1, part, out);
        left -= part;
        if (left == 0)
            break;
        ssize_t n = recv(fd, buffer, REPLY_HEAD_MAX, 0);
        if (n <= 0)
            return broken("the answer was cut short");
        body = buffer;
        size = (size_t)n;
    }
    return fflush(out) == 0 ? exit_status_of(status, path) : EX_IOERR;
}

/* Whether this is asked of no server: then *status_out is the exit status. */
static bool without_server(const struct ctl *ctl, const struct command *command, int *status_out)
{
    if (ctl->certificates == NULL && ctl->nodes == NULL)
        return false;
    if (strcmp(command->path, "/ctl/cluster-init") != 0 || ctl->certificates == NULL || ctl->nodes == NULL)
        *status_out = usage("--certificates and --nodes go together, with cluster init", "");
    else if (ctl->socket != NULL || ctl->admin != NULL || ctl->config_file != NULL)
        *status_out = usage("certificates are made without a server: no --socket, --admin or --config", "");
    else
        *status_out = ctl_certificates(ctl->certificates, ctl->nodes, ctl->json);
    return true;
}

/* It serves, though it may lack a director. */
static bool successor_serves(const char *head)
{
    unsigned status = reply_status(head);

    return status == 200 ||
           (status == 503 && strstr(head, "starting") == NULL && strstr(head, "stopping") == NULL);
}

/* `what` has become of the sessions: the end of the server's line. */
static int broken_anew(char *what)
{
    char text[256];

    what[strcspn(what, "\"\r\n")] = '\0';
    snprintf(text, sizeof text,
             "the new server has died before it served; the old executable was started anew: %s", what);
    return broken(text);
}

/* The old process has given everything away; whoever answers here next is the new one. */
static int successor_wait(struct ctl *ctl)
{
    static const char request[] = "GET /readyz HTTP/1.1\r\nHost: trireme\r\nConnection: close\r\n\r\n";
    const struct timespec pause = {.tv_nsec = SUCCESSOR_STEP_MS * 1000000};

    ctl->timeout_s = SUCCESSOR_ANSWER_S;
    for (int ms = 0; ms < SUCCESSOR_MS; ms += SUCCESSOR_STEP_MS) {
        char head[512], *anew;
        ssize_t size = -1;
        int fd, rc = server_connect(ctl, &fd);

        if (rc != 0)
            return rc;
        if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == (ssize_t)sizeof request - 1)
            size = recv(fd, head, sizeof head - 1, 0);
        if (size < 0 && errno == EAGAIN)
            ms += SUCCESSOR_ANSWER_S * 1000;
        close(fd);
        if (size > 0) {
            head[size] = '\0';
            anew = strstr(head, ANEW);
            if (successor_serves(head) && anew != NULL)
                return broken_anew(anew + sizeof ANEW - 1);
            if (successor_serves(head))
                return EX_OK;
        }
        (void)nanosleep(&pause, NULL);
    }
    return broken("the new server does not serve; the log says why");
}

int ctl_main(int argc, char **argv)
{
    struct ctl ctl = {.timeout_s = TIMEOUT_S};
    const struct command *command = NULL;
    const char *argument = "";
    int fd = -1, rc;

    rc = arguments_parse(&ctl, argc, argv);
    if (rc == 0)
        rc = command_find(&ctl, &command, &argument);
    if (rc == 0 && without_server(&ctl, command, &rc))
        return rc;
    if (rc == 0 && (ctl.socket != NULL) + (ctl.admin != NULL) + (ctl.config_file != NULL) > 1)
        rc = usage("--socket, --admin and --config exclude each other", "");
    if (rc == 0 && ctl.socket == NULL && ctl.admin == NULL)
        rc = socket_of_config(&ctl);
    if (rc == 0 && strcmp(command->path, "/ctl/upgrade") == 0)
        ctl.timeout_s = UPGRADE_TIMEOUT_S;
    if (rc == 0)
        rc = server_connect(&ctl, &fd);
    if (rc != 0)
        return rc;
    rc = request_send(fd, &ctl, command, argument) ? reply_print(fd, command->path)
                                                   : broken("the server did not take the request");
    close(fd);
    return rc == EX_OK && strcmp(command->path, "/ctl/upgrade") == 0 ? successor_wait(&ctl) : rc;
}
