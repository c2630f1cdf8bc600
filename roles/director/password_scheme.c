#include "roles/director/password_scheme.h"
#include <argon2.h>
#include <crypt.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* RFC 9106's advice for a server that has many logins to check; 59 ms of one core. */
#define ARGON2_KIB        19456
#define ARGON2_PASSES     2
#define ARGON2_LANES      1
#define ARGON2_HASH_BYTES 32

static const struct scheme {
    const char *name;
    enum password_kind kind;
    const char *prefix; /* Of new hashes by crypt(3). */
} schemes[] = {
    {"CRYPT", PASSWORD_CRYPT, "$y$"},        {"PLAIN", PASSWORD_PLAIN, NULL},
    {"CLEARTEXT", PASSWORD_PLAIN, NULL},     {"SHA512-CRYPT", PASSWORD_CRYPT, "$6$"},
    {"SHA256-CRYPT", PASSWORD_CRYPT, "$5$"}, {"BLF-CRYPT", PASSWORD_CRYPT, "$2b$"},
    {"MD5-CRYPT", PASSWORD_CRYPT, "$1$"},    {"DES-CRYPT", PASSWORD_CRYPT, NULL},
    {"ARGON2ID", PASSWORD_ARGON2ID, NULL},   {"ARGON2I", PASSWORD_ARGON2I, NULL},
};

struct password_job {
    enum password_kind kind;
    bool right;
    size_t password_size;
    char password[PASSWORD_MAX + 1];
    char hash[PASSWORD_HASH_MAX + 1];
    struct crypt_data crypt;
};

static const struct scheme *scheme_find(struct slice name)
{
    for (size_t i = 0; i < ARRAY_COUNT(schemes); i++) {
        if (slice_eq_nocase(slice_str(schemes[i].name), name))
            return &schemes[i];
    }
    return NULL;
}

/* The `m=` of "$argon2id$v=19$m=19456,t=2,p=1$..."; 0: none, or not a number. */
static uint64_t argon2_memory_kib(struct slice hash)
{
    uint64_t kib = 0;

    for (size_t i = 0; i + 3 < hash.size; i++) {
        if (memcmp(hash.data + i, "$m=", 3) == 0) {
            struct slice rest = slice_from(hash, i + 3);

            return slice_to_u64(slice_first(rest, slice_find(rest, ',')), UINT32_MAX, &kib) ? kib : 0;
        }
    }
    return 0;
}

static const char *hash_fault(const struct password_hash *h)
{
    char text[PASSWORD_HASH_MAX + 1];
    uint64_t kib;

    if (h->hash.size == 0)
        return "an empty hash";
    if (h->hash.size > PASSWORD_HASH_MAX)
        return "a hash longer than 512 bytes";
    switch (h->kind) {
    case PASSWORD_PLAIN:
        return NULL;
    case PASSWORD_CRYPT:
        memcpy(text, h->hash.data, h->hash.size);
        text[h->hash.size] = '\0';
        return crypt_checksalt(text) == CRYPT_SALT_INVALID ? "a hash that crypt(3) does not know" : NULL;
    case PASSWORD_ARGON2I:
    case PASSWORD_ARGON2ID:
        kib = argon2_memory_kib(h->hash);
        if (kib == 0)
            return "a hash that is not Argon2's";
        return kib > PASSWORD_ARGON2_KIB_MAX ? "an Argon2 hash that wants more than 256 MiB" : NULL;
    }
    return "an unknown scheme";
}

const char *password_hash_parse(struct slice text, struct password_hash *hash_out)
{
    struct password_hash h = {PASSWORD_CRYPT, text};
    const char *fault;

    if (text.size > 0 && text.data[0] == '{') {
        size_t end = slice_find(text, '}');
        const struct scheme *s = end < text.size ? scheme_find(slice_of(text.data + 1, end - 1)) : NULL;

        if (s == NULL)
            return "an unknown scheme";
        h.kind = s->kind;
        h.hash = slice_from(text, end + 1);
    }
    fault = hash_fault(&h);
    if (fault == NULL)
        *hash_out = h;
    return fault;
}

size_t password_job_size(void)
{
    return sizeof(struct password_job);
}

bool password_job_set(struct password_job *j, const struct password_hash *hash, struct slice password)
{
    if (password.size > PASSWORD_MAX || slice_find(password, '\0') < password.size)
        return false;
    ASSERT(hash->hash.size <= PASSWORD_HASH_MAX);
    memset(j, 0, sizeof *j);
    j->kind = hash->kind;
    j->password_size = password.size;
    if (password.size > 0)
        memcpy(j->password, password.data, password.size);
    memcpy(j->hash, hash->hash.data, hash->hash.size);
    return true;
}

static bool crypt_right(struct password_job *j)
{
    const char *made = crypt_r(j->password, j->hash, &j->crypt);
    size_t size = strlen(j->hash);

    /* A made hash that begins with * is crypt's way to say no; no stored one can be equal to it. */
    return made != NULL && made[0] != '*' && strlen(made) == size && bytes_equal_secret(made, j->hash, size);
}

void password_job_run(void *arg)
{
    struct password_job *j = arg;

    switch (j->kind) {
    case PASSWORD_PLAIN: {
        size_t size = strlen(j->hash);

        j->right = size == j->password_size && bytes_equal_secret(j->password, j->hash, size);
        break;
    }
    case PASSWORD_CRYPT:
        j->right = crypt_right(j);
        break;
    case PASSWORD_ARGON2I:
    case PASSWORD_ARGON2ID:
        j->right = argon2_verify(j->hash, j->password, j->password_size,
                                 j->kind == PASSWORD_ARGON2I ? Argon2_i : Argon2_id) == ARGON2_OK;
        break;
    }
}

bool password_job_right(const struct password_job *j)
{
    return j->right;
}

static int crypt_make(const struct scheme *s, const char *password, const uint8_t salt[16],
                      char text_out[PASSWORD_TEXT_MAX])
{
    static const char salt_letters[] = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    char setting[CRYPT_GENSALT_OUTPUT_SIZE] = {salt_letters[salt[0] & 63], salt_letters[salt[1] & 63]};
    void *data = NULL;
    int data_size = 0, rc = -EINVAL;
    const char *made;

    /* DES has no prefix: its setting is two letters of salt. */
    if (s->prefix != NULL &&
        crypt_gensalt_rn(s->prefix, 0, (const char *)salt, 16, setting, sizeof setting) == NULL)
        return -errno;
    made = crypt_ra(password, setting, &data, &data_size);
    if (made != NULL && made[0] != '*') {
        snprintf(text_out, PASSWORD_TEXT_MAX, "{%s}%s", s->name, made);
        rc = 0;
    }
    if (data != NULL)
        bytes_wipe(data, (size_t)data_size);
    free(data);
    return rc;
}

static int argon2_make(const struct scheme *s, const char *password, const uint8_t salt[16],
                       char text_out[PASSWORD_TEXT_MAX])
{
    int n = snprintf(text_out, PASSWORD_TEXT_MAX, "{%s}", s->name);
    size_t size = PASSWORD_TEXT_MAX - (size_t)n;
    int rc;

    if (s->kind == PASSWORD_ARGON2I)
        rc = argon2i_hash_encoded(ARGON2_PASSES, ARGON2_KIB, ARGON2_LANES, password, strlen(password), salt,
                                  16, ARGON2_HASH_BYTES, text_out + n, size);
    else
        rc = argon2id_hash_encoded(ARGON2_PASSES, ARGON2_KIB, ARGON2_LANES, password, strlen(password), salt,
                                   16, ARGON2_HASH_BYTES, text_out + n, size);
    return rc == ARGON2_OK ? 0 : -ENOMEM;
}

int password_hash_make(const char *scheme, const char *password, const uint8_t salt[16],
                       char text_out[PASSWORD_TEXT_MAX])
{
    const struct scheme *s = scheme == NULL ? &schemes[0] : scheme_find(slice_str(scheme));

    if (s == NULL || strlen(password) > PASSWORD_MAX)
        return -EINVAL;
    if (s->kind == PASSWORD_CRYPT)
        return crypt_make(s, password, salt, text_out);
    if (s->kind != PASSWORD_PLAIN)
        return argon2_make(s, password, salt, text_out);
    snprintf(text_out, PASSWORD_TEXT_MAX, "{%s}%s", s->name, password);
    return 0;
}
