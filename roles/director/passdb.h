/* roles/director/passdb.h -- who exists, and whether a password is right.
 *
 * Two sources, from the configuration: a passwd-file in Dovecot's format (roles/director/passwd_file.h), or
 * one static password that fits every user name (for tests).
 *
 * The file is read on shard 0, into one immutable table that all shards read; a changed file (looked at, at
 * most once a second, when somebody logs in) or passdb_reload() reads it again, and a file that is wrong is
 * named in the log and leaves the table as it was. Each shard remembers the passwords that were right as
 * keyed MACs for auth.cache_ttl; a wrong password never displaces one, and a changed entry in the file ends
 * it at once.
 *
 * Owner:  one a shard, opened by the director's start and closed by its stop.
 * Memory: shard 0 owns the table; the others hand it back by message.
 * Bounds: PASSWD_FILE_SIZE_MAX, auth.cache_size entries a shard; hashes run on helper threads, whose queue is
 *         bounded: -EAGAIN. */
#pragma once
#include "roles/director/digest.h"
#include "roles/director/password_scheme.h"
#include "roles/director/user_name.h"

struct passdb;
struct shard;

struct passdb_result {
    struct user_name user;
    uint64_t fingerprint; /* Keyed hash of the user's entry: changes when password or flags do. */
    bool disabled;        /* May not log in (extra field `nologin`, or a hash that begins with !); mail still
                             arrives. */
    bool any_user;        /* Accepted by auth.static_password, not by an entry. */
};

/* Fiber. Reads the settings auth.* of the node's configuration and waits for the first table. 0, or -errno
 * after a line in the log that says what is wrong. `key`: of fingerprints and of the caches' MACs, the same on all shards. */
MUST_CHECK int passdb_open(struct shard *s, const uint8_t key[DIGEST_SIZE], struct passdb **p_out);
/* Nobody may be inside passdb_verify(). Wipes the cache. `p` may be NULL. */
void passdb_close(struct passdb *p);

/* Fiber; suspends. `user` as the client wrote it. 0: right, and *out is set.
 * -EACCES: wrong password or no such user, which take the same time. -EPERM: right password of a disabled
 * user. -EAGAIN: ask later (the helpers' queue is full, no memory). -ECANCELED. The caller wipes its copy of
 * the password, and answers a failure no sooner than passdb_failure_delay_ms() after it arrived, with a
 * timer, not with a fiber. */
MUST_CHECK int passdb_verify(struct passdb *p, struct slice user, struct slice password,
                             struct passdb_result *out);

/* For deliveries; does not suspend. 0 and *out (disabled users too), -ENOENT: no such user, -EAGAIN: ask
 * later. */
MUST_CHECK int passdb_exists(struct passdb *p, struct slice user, struct passdb_result *out);

uint32_t passdb_failure_delay_ms(const struct passdb *p);

/* On shard 0, when it is open: from now on the file is looked at each second, and changed() is called for each user whose entry is
 * another after that, or gone; from a fiber. NULL: no more. */
void passdb_watch(struct shard *s, void (*changed)(struct slice user));

/* On shard 0: the file is read again soon, changed or not. The answer is a line in the log. */
void passdb_reload(struct shard *s);
