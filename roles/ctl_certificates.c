/* roles/ctl_certificates.c -- no shard here and no door, as in roles/ctl.c. */
#include "roles/ctl_certificates.h"
#include "net/link/link.h"
#include "roles/authority.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#define FILE_SIZE_MAX 65536 /* Of an authority made elsewhere, too. */
#define FILES_MAX     3

struct run {
    const char *directory;
    struct authority authority;
    struct authority_pem cert; /* The authority's. */
    bool json;
    unsigned node_count; /* Printed so far. */
};

struct file_of { /* One of a new directory. */
    const char *name;
    const struct authority_pem *pem;
};

/* ---- Words ---------------------------------------------------------------------------------------------- */

static int wrong(int status, const char *what, const char *name, const char *more)
{
    fprintf(stderr, "trireme ctl: %s%s%s\n", name, what, more);
    return status;
}

static int failed(const char *path)
{
    return wrong(EX_CANTCREAT, ": ", path, strerror(errno));
}

static bool path_make(char out[PATH_MAX], const char *directory, const char *name)
{
    int size = snprintf(out, PATH_MAX, "%s/%s", directory, name);

    if (size > 0 && size < PATH_MAX)
        return true;
    errno = ENAMETOOLONG;
    return false;
}

/* ---- Files ---------------------------------------------------------------------------------------------- */

/* -1 and errno, or the size; a file that is longer is E2BIG. */
static ssize_t file_get(const char *directory, const char *name, char out[FILE_SIZE_MAX])
{
    char path[PATH_MAX];
    size_t size = 0;
    ssize_t got = -1;
    int fd = path_make(path, directory, name) ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    if (fd < 0)
        return -1;
    while (size < FILE_SIZE_MAX && (got = read(fd, out + size, FILE_SIZE_MAX - size)) > 0)
        size += (size_t)got;
    if (size == FILE_SIZE_MAX) {
        errno = E2BIG;
        got = -1;
    }
    (void)close(fd);
    return got < 0 ? -1 : (ssize_t)size;
}

static bool file_put(const char *directory, const struct file_of *f)
{
    char path[PATH_MAX];
    int fd =
        path_make(path, directory, f->name) ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    bool good;

    if (fd < 0)
        return false;
    good = write(fd, f->pem->text, f->pem->size) == (ssize_t)f->pem->size && fsync(fd) == 0;
    return close(fd) == 0 && good;
}

static bool directory_flush(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0;

    if (fd >= 0)
        (void)close(fd);
    return good;
}

static void directory_drop(const char *path, const struct file_of *files, size_t count)
{
    char file[PATH_MAX];
    int error = errno;

    for (size_t i = 0; i < count; i++) {
        if (path_make(file, path, files[i].name))
            (void)unlink(file);
    }
    (void)rmdir(path);
    errno = error;
}

/* All of it or nothing, and durable; not over one that has something in it. */
static bool directory_put(const char *parent, const char *name, const struct file_of *files, size_t count)
{
    char making[PATH_MAX], path[PATH_MAX];
    bool good = true;

    if (!path_make(making, parent, ".new-XXXXXX") || !path_make(path, parent, name) ||
        mkdtemp(making) == NULL)
        return false;
    for (size_t i = 0; good && i < count; i++)
        good = file_put(making, &files[i]);
    if (!good || !directory_flush(making) || rename(making, path) < 0) {
        directory_drop(making, files, count);
        return false;
    }
    return directory_flush(parent);
}

static bool is_there(const char *parent, const char *name)
{
    char path[PATH_MAX];
    struct stat st;

    return path_make(path, parent, name) && lstat(path, &st) == 0;
}

/* ---- The authority -------------------------------------------------------------------------------------- */

static int ca_make(struct run *r)
{
    struct authority_pem key = {.size = 0};
    const struct file_of files[] = {{"ca.pem", &r->cert}, {"ca.key", &key}};
    int rc = 0;

    if (!authority_make(&r->authority) || !authority_write(&r->authority, &r->cert, &key))
        rc = wrong(EX_OSERR, "", "cannot make a key", "");
    else if (!directory_put(r->directory, "ca", files, ARRAY_COUNT(files)))
        rc = failed(r->directory);
    bytes_wipe(&key, sizeof key);
    return rc;
}

static int ca_load(struct run *r, const char *path)
{
    static const char keep[] =
        ": has no ca.pem and ca.key that belong together and may sign: bring both back, or "
        "begin with an empty directory and give every node a new certificate";
    struct authority_pem key;
    char cert_text[FILE_SIZE_MAX], key_text[FILE_SIZE_MAX];
    ssize_t cert_size = file_get(path, "ca.pem", cert_text), key_size = file_get(path, "ca.key", key_text);
    bool good;

    good = cert_size >= 0 && key_size >= 0 &&
           authority_parse(slice_of(cert_text, (size_t)cert_size), slice_of(key_text, (size_t)key_size),
                           &r->authority) &&
           authority_write(&r->authority, &r->cert, &key);
    bytes_wipe(key_text, sizeof key_text);
    bytes_wipe(&key, sizeof key);
    return good ? 0 : wrong(EX_DATAERR, keep, path, "");
}

static int ca_have(struct run *r)
{
    char path[PATH_MAX];

    if (mkdir(r->directory, 0700) < 0 && errno != EEXIST)
        return failed(r->directory);
    if (!path_make(path, r->directory, "ca"))
        return failed(r->directory);
    return is_there(r->directory, "ca") ? ca_load(r, path) : ca_make(r);
}

/* ---- Nodes ---------------------------------------------------------------------------------------------- */

struct member {
    char name[AUTHORITY_NAME_MAX + 1];
    const char *roles_text; /* As it was given: up to the next ',' or the end. */
    int roles_size;
    uint8_t roles;
};

static uint8_t role_of(struct slice text)
{
    if (slice_eq(text, SLICE("proxy")))
        return LINK_ROLE_PROXY;
    if (slice_eq(text, SLICE("director")))
        return LINK_ROLE_DIRECTOR;
    return slice_eq(text, SLICE("backend")) ? LINK_ROLE_BACKEND : 0;
}

/* NAME:ROLE[+ROLE]... */
static bool node_parse(struct slice text, struct member *out)
{
    size_t colon = slice_find(text, ':');
    struct slice roles;

    if (colon == text.size || colon > AUTHORITY_NAME_MAX)
        return false;
    *out = (struct member){.roles = 0};
    memcpy(out->name, text.data, colon);
    roles = slice_from(text, colon + 1);
    out->roles_text = roles.data;
    out->roles_size = (int)roles.size;
    while (roles.size > 0) {
        size_t size = slice_find(roles, '+');
        uint8_t role = role_of(slice_first(roles, size));

        if (role == 0 || size + 1 == roles.size)
            return false;
        out->roles |= role;
        roles = slice_from(roles, MIN(size + 1, roles.size));
    }
    return out->roles != 0 && strcmp(out->name, "ca") != 0 && authority_name_good(out->name);
}

static int node_make(struct run *r, const struct member *n)
{
    struct authority_pem cert, key = {.size = 0};
    const struct file_of files[FILES_MAX] = {
        {"cluster.pem", &cert}, {"cluster.key", &key}, {"ca.pem", &r->cert}};
    int rc = 0;

    if (!authority_issue(&r->authority, n->name, n->roles, &cert, &key))
        rc = wrong(EX_OSERR, ": cannot make its certificate", n->name, "");
    else if (!directory_put(r->directory, n->name, files, FILES_MAX))
        rc = failed(r->directory);
    bytes_wipe(&key, sizeof key);
    return rc;
}

static int node_keep(const struct run *r, const struct member *n, int *days_out)
{
    char path[PATH_MAX], cert[FILE_SIZE_MAX];
    ssize_t size = path_make(path, r->directory, n->name) ? file_get(path, "cluster.pem", cert) : -1;

    if (size >= 0 &&
        authority_issued(&r->authority, slice_of(cert, (size_t)size), n->name, n->roles, days_out))
        return 0;
    return wrong(EX_DATAERR,
                 ": is not this node's, with these roles and from this authority: move it away first", path,
                 "");
}

static void node_print(struct run *r, const struct member *n, bool made, int days)
{
    if (r->json)
        printf("%s{\"node\":\"%s\",\"roles\":\"%.*s\",\"made\":%s,\"days\":%d}", r->node_count > 0 ? "," : "",
               n->name, n->roles_size, n->roles_text, made ? "true" : "false", days);
    else
        printf("node=%s roles=%.*s made=%s days=%d directory=%s/%s\n", n->name, n->roles_size, n->roles_text,
               made ? "true" : "false", days, r->directory, n->name);
    r->node_count++;
}

static int node_have(struct run *r, const struct member *n)
{
    bool made = !is_there(r->directory, n->name);
    int days = AUTHORITY_NODE_DAYS;
    int rc = made ? node_make(r, n) : node_keep(r, n, &days);

    if (rc == 0)
        node_print(r, n, made, days);
    return rc;
}

/* Calls each() for every node of the list, or says what is wrong with it. */
static int nodes_each(struct run *r, const char *list, int (*each)(struct run *r, const struct member *n))
{
    struct slice rest = slice_str(list);
    int rc = 0;

    do {
        size_t size = slice_find(rest, ',');
        char text[AUTHORITY_NAME_MAX + 64];
        struct member n;

        if (!node_parse(slice_first(rest, size), &n)) {
            snprintf(text, sizeof text, "'%.*s'", (int)MIN(size, (size_t)100), rest.data);
            return wrong(EX_USAGE,
                         " is not NAME:ROLE[+ROLE], such as proxy1:proxy: roles are proxy, director and "
                         "backend, names are of letters, digits, '.', '-' and '_'",
                         text, "");
        }
        rc = each(r, &n);
        rest = slice_from(rest, MIN(size + 1, rest.size));
    } while (rc == 0 && rest.size > 0);
    return rc;
}

static int node_look(struct run *r, const struct member *n)
{
    return 0;
}

static void end_print(const struct run *r)
{
    if (r->json)
        printf("]}\n");
    else
        printf("\nCopy what is in %s/NAME to the node NAME: cluster.pem, cluster.key and ca.pem, for its "
               "cluster.cert, "
               "cluster.key and cluster.ca;\nreadable by the server's user alone. Keep %s/ca away from the "
               "nodes: "
               "who has ca.key can be any of them.\n",
               r->directory, r->directory);
}

int ctl_certificates(const char *directory, const char *nodes, bool json)
{
    struct run r = {.directory = directory, .json = json};
    int rc = nodes_each(&r, nodes, node_look); /* A mistake in the list makes nothing. */

    (void)umask(077);
    if (rc == 0)
        rc = ca_have(&r);
    if (rc == 0) {
        if (json)
            printf("{\"nodes\":[");
        rc = nodes_each(&r, nodes, node_have);
        if (rc == 0 || json)
            end_print(&r);
    }
    authority_fini(&r.authority);
    return rc == 0 && fflush(stdout) != 0 ? EX_IOERR : rc;
}
