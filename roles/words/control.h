/* roles/words/control.h -- what an operator may ask of the roles of a process. Whoever starts the roles hangs the
 * table on each shard once all of them serve there; the admin role asks through it and knows none of them.
 * Everything here runs on the shard that is asked, from its loop, and does not suspend; what it is given belongs
 * to the asker, on another shard. */
#pragma once
#include "core/net_prefix.h"
#include "core/shard.h"
#include "roles/revocations.h"
#include "roles/words/place.h"
#include "roles/words/request.h"

#define CONTROL_ROWS   64   /* Of one answer. */
#define CONTROL_VISITS 4096 /* Sessions looked at in one go: the loop has other work. */
#define CONTROL_NAME   64   /* Of a node, with its end. */

struct control_session {
    uint64_t id;
    struct net_addr peer;
    const char *protocol, *state;           /* Literals. */
    uint64_t commands, bytes_in, bytes_out; /* LMTP: commands are messages. */
    uint32_t shard;
    bool tls, selected, asleep;
    uint8_t user_size; /* 0: not logged in. */
    char user[USER_SIZE_MAX];
};

/* A walk over the sessions of a shard, a page at a time; one walk at a time. */
struct control_page {
    struct slice mask; /* Of users; `*` any characters, `?` one. Empty: everybody, logged in or not. */
    struct net_prefix network; /* Of peers, if it has a family. */
    bool exact;                /* `mask` is one user's canonical name. */
    bool kick;                 /* Whoever matches is told BYE. */
    bool go_on;                /* From where the last page ended. */
    bool more;                 /* Ask again. */
    uint32_t count;
    struct control_session rows[CONTROL_ROWS];
};

/* How revocations name users in a process with all roles. */
static inline uint64_t control_user_hash(struct slice user)
{
    return place_self()->user(user);
}

struct control_user {
    struct slice name; /* As somebody wrote it. */
    int rc;            /* 0: known; -ENOENT; -EAGAIN: ask later. */
    bool disabled;
    uint8_t size;
    char canonical[USER_SIZE_MAX];
};

struct control_route {
    struct slice user; /* Canonical. */
    bool known;        /* Somebody here knows where his mail is: */
    uint16_t partition;
    char node[CONTROL_NAME];
    bool exception;        /* He is placed alone, or is to be: */
    char to[CONTROL_NAME]; /* There, when `node` has let go of him; "": he is where he shall be. */
    int shard;             /* Of this process; -1: another process has it. */
};

struct control_cluster {
    /* Deal the partitions as soon as every backend has said its name; false: do not, or no more. */
    bool deal;
    bool here; /* A director of a cluster runs here: */
    bool dealt;
    bool twice;               /* Two backends have one name. */
    bool settled;             /* What was decided is on the disk, and on its way to the backends. */
    uint32_t backends, known; /* Of the configuration; that have said their names; */
    uint32_t up;              /* that are heard now, and serve. */
};

/* A user is placed alone, or not any more; asked with `begin` once, and then until it is done or refused. */
struct control_place {
    struct slice user; /* Canonical. */
    struct slice node; /* Of the table; empty: where the hash says. */
    bool begin;
    /* -ENOSYS: no director of a cluster; -EAGAIN: not dealt; -ENOENT: no such node; -EALREADY: he is no exception, and is where the hash
     * says; -EHOSTUNREACH: that node is not there; -EBUSY, -ENOSPC: too many are on their way, are placed alone. */
    int rc;
    bool done;             /* He is there, durably. */
    bool refused;          /* He stays where he is: he has mail there. */
    char at[CONTROL_NAME]; /* Where he is now. */
};

struct control_exception {
    char at[CONTROL_NAME], to[CONTROL_NAME];
    uint8_t user_size;
    char user[USER_SIZE_MAX];
};

struct control_exceptions {
    uint32_t from; /* 0; then as it was left. */
    bool here;     /* A director of a cluster runs here. */
    bool more;     /* Ask again. */
    uint32_t count;
    struct control_exception rows[CONTROL_ROWS];
};

struct control_account {
    struct slice user; /* Canonical. */
    uint64_t modseq;   /* 0: no mail, ever. */
    bool loaded;
};

struct control {
    /* The shard does what its roles are for. Before, a director can deal the partitions, and nothing else is to be asked. */
    bool serves;
    void (*sessions)(struct control_page *page);
    void (*user)(struct control_user *user);
    void (*route)(struct control_route *route);          /* On shard 0. */
    void (*cluster)(struct control_cluster *cluster);    /* On shard 0. */
    void (*place)(struct control_place *place);          /* On shard 0. */
    void (*exceptions)(struct control_exceptions *page); /* On shard 0. */
    /* On shard 0: his sessions on all proxies end, at their next command at the latest. False: no director of a cluster is here. */
    bool (*revoke)(struct slice user);
    /* Sessions end that are older than their user's revocation. All that there are, by control_user_hash(). In a process with all roles;
     * elsewhere proxies hear of them by LINK_TABLE. */
    void (*revoked)(const struct revocations *revoked);
    void (*account)(struct control_account *account); /* On the account's shard. */
    /* Why what this shard does is of no use to those who come now, in words; NULL: it is. */
    const char *(*lacks)(void);
};

/* NULL: this shard does not serve yet, or no more; see `serves`. */
static inline const struct control *control_self(void)
{
    return shard_self()->slot[SLOT_CONTROL];
}

bool control_mask_matches(struct slice mask, struct slice user);
