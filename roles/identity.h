/* roles/identity.h -- whom the process becomes: `user` and `group`. The supervisor stays who it is; the server that it starts
 * becomes that user before it reads anything but the configuration.
 * Owner: the process's first thread, before there is another. */
#pragma once
#include "core/config.h"
#include <sys/types.h>

struct identity {
    uid_t uid; /* 0: nobody else. */
    gid_t gid;
    const char *user, *data; /* The configuration's. */
};

/* False, and what is wrong: no such user, or not ours to become. */
MUST_CHECK bool identity_find(const struct config *c, struct identity *id, struct config_error *error);
/* Gives him what is below `data`: a server that ran as root has left files of root's. 0 or -errno. */
MUST_CHECK int identity_give_data(const struct identity *id);
/* For good. 0 or -errno. */
MUST_CHECK int identity_become(const struct identity *id);
