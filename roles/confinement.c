#include "roles/confinement.h"
#include "core/log.h"
#include "core/node.h"
#include "net/link/link.h"
#include "roles/settings.h"
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

/* ---- Directories --------------------------------------------------------------------------------------- */

static int directory_add(struct confinement *out, char *path, bool writable)
{
    size_t at = out->profile.directory_count;

    ASSERT(at < CONFINEMENT_DIRECTORIES_MAX);
    if (path == NULL)
        return EX_OSERR;
    out->texts[at] = path;
    out->directories[at] = (struct sandbox_directory){path, writable};
    out->profile.directory_count++;
    return 0;
}

/* Its directory, since it is replaced by a rename; and the one where a symbolic link to it leads now. */
static int passwd_add(const struct config *c, struct confinement *out)
{
    const char *path = config_string(c, "auth.passwd_file");
    char *text, *real;
    int rc;

    if (path == NULL || path[0] != '/') /* Relative: it is below `data`. */
        return 0;
    if (access(path, R_OK) < 0) {
        fprintf(stderr,
                "trireme: auth.passwd_file: cannot read %s: %s (it is read as the user that the server "
                "becomes)\n",
                path, strerror(errno));
        return EX_CONFIG;
    }
    text = strdup(path);
    real = realpath(path, NULL);
    rc = directory_add(out, text != NULL ? dirname(text) : NULL, false);
    return rc == 0 ? directory_add(out, real != NULL ? dirname(real) : NULL, false) : rc;
}

/* ---- Ports --------------------------------------------------------------------------------------------- */

static void port_add(struct confinement *out, const char *text)
{
    struct net_addr addr;
    bool known = net_addr_parse(slice_str(text), &addr);

    ASSERT(known); /* settings_check() has seen it. */
    out->ports[out->profile.port_count++] = addr.port;
}

/* A director is told in its configuration where the backends are. A proxy is told by a director, later, when its sandbox can be made
 * no wider: so their ports are known beforehand, by `link.ports` or because all links of the cluster have the directors' ports. */
static int ports_add(const struct config *c, uint8_t roles, struct confinement *out)
{
    size_t directors = config_list_count(c, "directors"), backends = config_record_count(c, "backends");
    size_t named = config_list_count(c, "link.ports");
    bool asks = (roles & LINK_ROLE_PROXY) != 0 && (roles & LINK_ROLE_DIRECTOR) == 0;

    out->ports = calloc(directors + backends + named + 1, sizeof *out->ports);
    if (out->ports == NULL)
        return EX_OSERR;
    for (size_t i = 0; i < directors; i++)
        port_add(out, config_list_item(c, "directors", i));
    for (size_t i = 0; i < backends; i++)
        port_add(out, config_record_field(c, "backends", i, "addr"));
    for (size_t i = 0; i < named; i++)
        out->ports[out->profile.port_count++] = (uint16_t)atoi(config_list_item(c, "link.ports", i));
    out->profile.connect = asks || (roles & LINK_ROLE_DIRECTOR) != 0;
    return 0;
}

/* ---- All of it ----------------------------------------------------------------------------------------- */

int confinement_plan(const struct config *c, struct confinement *out)
{
    const char *wanted = config_string(c, "sandbox");
    uint8_t roles = settings_roles(c);
    int rc = 0;

    *out =
        (struct confinement){.off = strcmp(wanted, "off") == 0, .required = strcmp(wanted, "required") == 0};
    out->profile.files = (roles & (LINK_ROLE_DIRECTOR | LINK_ROLE_BACKEND)) != 0;
    if (out->profile.files)
        rc = directory_add(out, strdup(config_string(c, "data")), true);
    if (rc == 0 && (roles & LINK_ROLE_DIRECTOR) != 0)
        rc = passwd_add(c, out);
    if (rc == 0 && roles != LINK_ROLE_ALL)
        rc = ports_add(c, roles, out);
    return rc;
}

void confinement_fini(struct confinement *c)
{
    for (size_t i = 0; i < ARRAY_COUNT(c->texts); i++)
        free(c->texts[i]);
    free(c->ports);
}

unsigned confinement_ring_rights(const struct confinement *c)
{
    if (c->off)
        return 0;
    return NODE_RING_RESTRICTED | (c->profile.files ? NODE_RING_FILES : 0) |
           (c->profile.connect ? NODE_RING_CONNECT : 0);
}

int confinement_enter(struct confinement *c)
{
    int rc;

    if (c->off) {
        log_event(LOG_WARN, "the sandbox is off", "key=sandbox");
        return 0;
    }
    c->profile.directories = c->directories;
    c->profile.ports = c->ports;
    if (geteuid() == 0)
        log_event(LOG_WARN, "the server runs as root, without root's capabilities", "hint=set_user");
    rc = sandbox_enter(&c->profile, c->missing);
    if (rc < 0)
        log_event(LOG_ERROR, "the sandbox cannot be entered", "error=%s hint=sandbox:_off", log_error(rc));
    return rc;
}

int confinement_seal(struct confinement *c)
{
    if (c->off)
        return 0;
    sandbox_seal(&c->profile, c->missing);
    if (c->missing[0] == '\0')
        return 0;
    log_event(c->required ? LOG_ERROR : LOG_WARN, "the sandbox is not complete", "missing=%s", c->missing);
    return c->required ? -EPERM : 0;
}
