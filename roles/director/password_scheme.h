/* roles/director/password_scheme.h -- password hashes as Dovecot writes them: `{SCHEME}hash`, or a bare hash
 * of crypt(3).
 *
 *   {PLAIN} {CLEARTEXT}                     the password itself
 *   {CRYPT} {SHA256-CRYPT} {SHA512-CRYPT} {BLF-CRYPT} {MD5-CRYPT} {DES-CRYPT}      what crypt(3) knows,
 * yescrypt too {ARGON2I} {ARGON2ID}                    RFC 9106, in its encoded form
 *
 * Pure functions; no memory of their own but what crypt and Argon2 take. */
#pragma once
#include "core/base.h"

#define PASSWORD_MAX      1024
#define PASSWORD_HASH_MAX 512
/* What an Argon2 hash may ask for: helper threads take it beside the memory budget. */
#define PASSWORD_ARGON2_KIB_MAX (256 * 1024)

enum password_kind { PASSWORD_PLAIN, PASSWORD_CRYPT, PASSWORD_ARGON2I, PASSWORD_ARGON2ID };

struct password_hash {
    enum password_kind kind;
    struct slice hash; /* Without the {SCHEME}; points into what was parsed. */
};

/* NULL, or what is wrong with it, as a literal. */
MUST_CHECK const char *password_hash_parse(struct slice text, struct password_hash *hash_out);

/* Everything that one verification touches: 34 KiB, so on no fiber's stack. Holds copies; wipe it afterwards. */
struct password_job;
size_t password_job_size(void);
/* False: too long, or a NUL in the password; nobody has such a one. */
MUST_CHECK bool password_job_set(struct password_job *j, const struct password_hash *hash,
                                 struct slice password);
/* Computes, for milliseconds: on a helper thread. `arg` is the job. */
void password_job_run(void *arg);
bool password_job_right(const struct password_job *j);

/* Makes "{SCHEME}hash" of a password, with a new salt. For the operator's command; blocks. 0, -EINVAL (no
 * such scheme), -errno. `scheme` in any case of letters; NULL: the best one. */
#define PASSWORD_TEXT_MAX (PASSWORD_MAX + 32)
MUST_CHECK int password_hash_make(const char *scheme, const char *password, const uint8_t salt[16],
                                  char text_out[PASSWORD_TEXT_MAX]);
