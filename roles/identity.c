#include "roles/identity.h"
#include <errno.h>
#include <fts.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

bool identity_find(const struct config *c, struct identity *id, struct config_error *error)
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

static bool is_he_already(const struct identity *id)
{
    return id->uid == 0 || geteuid() == id->uid;
}

int identity_give_data(const struct identity *id)
{
    char *roots[] = {(char *)(uintptr_t)id->data, NULL};
    FTSENT *entry;
    int rc = 0;
    FTS *walk;

    if (is_he_already(id))
        return 0;
    walk = fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
    if (walk == NULL)
        return -errno;
    while (rc == 0 && (errno = 0, entry = fts_read(walk)) != NULL) {
        const struct stat *st = entry->fts_statp;

        if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS)
            rc = -entry->fts_errno;
        else if (entry->fts_info != FTS_DP && (st->st_uid != id->uid || st->st_gid != id->gid) &&
                 lchown(entry->fts_path, id->uid, id->gid) < 0)
            rc = -errno;
    }
    if (rc == 0 && errno != 0)
        rc = -errno;
    fts_close(walk);
    return rc;
}

int identity_become(const struct identity *id)
{
    if (is_he_already(id))
        return 0;
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* Afterwards he may not. */
    if (initgroups(id->user, id->gid) < 0 || setresgid(id->gid, id->gid, id->gid) < 0 ||
        setresuid(id->uid, id->uid, id->uid) < 0)
        return -errno;
    return 0;
}
