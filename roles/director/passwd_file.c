#include "roles/director/passwd_file.h"
#define XXH_INLINE_ALL
#include <xxhash.h>

#define FIELD_PASSWORD 1
#define FIELD_EXTRA    7
#define ANY_TRIES      16

/* Extra fields of Dovecot that change who may log in, from where, or as whom. */
static const char *const refused_extras[] = {
    "allow_nets",  "allow_real_nets", "host", "hostip", "login_user",  "master",
    "master_user", "nopassword",      "pass", "proxy",  "proxy_maybe", "user",
    "delay_until",
};

struct passwd_table *passwd_table_new(struct heap *heap, char *text, size_t size, uint64_t seed)
{
    struct passwd_table *t;
    uint32_t lines = 1, buckets = 16;

    ASSERT(size <= PASSWD_FILE_SIZE_MAX);
    for (const char *p = text; (p = memchr(p, '\n', size - (size_t)(p - text))) != NULL; p++)
        lines++;
    while (buckets < 2 * (uint64_t)lines)
        buckets *= 2;
    t = heap_try_alloc(heap, sizeof *t);
    if (t == NULL)
        return NULL;
    *t = (struct passwd_table){.heap = heap, .text_size = size, .entry_limit = lines, .seed = seed};
    t->bucket_mask = buckets - 1;
    t->entries = heap_try_alloc(heap, lines * sizeof t->entries[0]);
    t->buckets = heap_try_alloc(heap, buckets * sizeof t->buckets[0]);
    if (t->entries == NULL || t->buckets == NULL) {
        passwd_table_free(t);
        return NULL;
    }
    memset(t->buckets, 0, buckets * sizeof t->buckets[0]);
    t->text = text;
    return t;
}

void passwd_table_free(struct passwd_table *t)
{
    if (t == NULL)
        return;
    heap_unmap_secret(t->heap, t->text);
    heap_free(t->heap, t->entries);
    heap_free(t->heap, t->buckets);
    heap_free(t->heap, t);
}

/* The n-th field between colons; empty when there is none. The last one that anybody asks for holds the rest. */
static struct slice field(struct slice line, unsigned n)
{
    size_t end;

    for (unsigned i = 0; i < n; i++) {
        end = slice_find(line, ':');
        if (end == line.size)
            return SLICE("");
        line = slice_from(line, end + 1);
    }
    return n == FIELD_EXTRA ? line : slice_first(line, slice_find(line, ':'));
}

static const char *extras_parse(struct slice extra, bool *nologin_out)
{
    while (extra.size > 0) {
        size_t end = slice_find(extra, ' ');
        struct slice word = slice_first(extra, end), name = slice_first(word, slice_find(word, '='));

        if (slice_eq(name, SLICE("nologin")))
            *nologin_out = true;
        for (size_t i = 0; i < ARRAY_COUNT(refused_extras); i++) {
            if (slice_eq(name, slice_str(refused_extras[i])))
                return "an extra field that this version does not support";
        }
        extra = slice_from(extra, end < extra.size ? end + 1 : end);
    }
    return NULL;
}

/* NULL, or what is wrong with the line. entry->user is as it stands there. */
static const char *line_parse(struct slice line, struct passwd_entry *entry)
{
    struct slice password = field(line, FIELD_PASSWORD);
    const char *fault;

    *entry = (struct passwd_entry){.user = field(line, 0)};
    entry->line = slice_from(line, entry->user.size);
    fault = extras_parse(field(line, FIELD_EXTRA), &entry->disabled);
    if (fault != NULL)
        return fault;
    if (password.size > 0 && password.data[0] == '!') {
        entry->disabled = true;
        password = slice_from(password, 1);
    }
    if (password.size == 0 || slice_eq(password, SLICE("*")))
        return NULL;
    fault = password_hash_parse(password, &entry->password);
    entry->has_password = fault == NULL;
    return fault;
}

static struct slice line_at(const struct passwd_table *t, size_t offset)
{
    struct slice rest = slice_of(t->text + offset, t->text_size - offset);
    struct slice line = slice_first(rest, slice_find(rest, '\n'));

    if (line.size > 0 && line.data[line.size - 1] == '\r')
        line.size--;
    return line;
}

/* The bucket that holds this user, or the free one where he would be. Half of all buckets are free. */
static uint32_t *bucket_find(const struct passwd_table *t, struct slice user)
{
    uint64_t hash = XXH3_64bits_withSeed(user.data, user.size, t->seed);

    for (uint64_t i = hash;; i++) {
        uint32_t *bucket = &t->buckets[i & t->bucket_mask];

        if (*bucket == 0 || slice_eq(field(line_at(t, t->entries[*bucket - 1]), 0), user))
            return bucket;
    }
}

static const char *line_add(struct passwd_table *t, size_t offset, struct slice line)
{
    struct passwd_entry entry;
    struct user_name user;
    const char *fault;
    uint32_t *bucket;

    if (line.size > PASSWD_LINE_SIZE_MAX)
        return "longer than 4096 bytes";
    fault = line_parse(line, &entry);
    if (!user_name_parse(entry.user, &user))
        return "not a user name";
    memcpy(t->text + offset, user.bytes, user.size); /* Normalised from here on. */
    bucket = bucket_find(t, user_name_slice(&user));
    if (*bucket != 0)
        return "the user has an earlier line, which counts";
    ASSERT(t->entry_count < t->entry_limit);
    t->entries[t->entry_count++] = (uint32_t)offset;
    *bucket = t->entry_count;
    t->good_count += fault == NULL;
    return fault;
}

bool passwd_table_build(struct passwd_table *t, unsigned line_count,
                        void (*bad)(void *arg, uint32_t line_number, const char *why), void *arg)
{
    for (; line_count > 0 && t->built < t->text_size; line_count--) {
        struct slice rest = slice_of(t->text + t->built, t->text_size - t->built);
        size_t offset = t->built, end = slice_find(rest, '\n');
        struct slice line = line_at(t, offset);
        const char *fault = NULL;

        t->built += end < rest.size ? end + 1 : end;
        t->line_number++;
        if (line.size > 0 && line.data[0] != '#')
            fault = line_add(t, offset, line);
        if (fault == NULL)
            continue;
        t->bad_count++;
        bad(arg, t->line_number, fault);
    }
    return t->built < t->text_size;
}

void passwd_table_entry(const struct passwd_table *t, uint32_t index, struct passwd_entry *entry_out)
{
    bool broken = line_parse(line_at(t, t->entries[index]), entry_out) != NULL;

    entry_out->broken = broken;
}

bool passwd_table_find(const struct passwd_table *t, const struct user_name *user,
                       struct passwd_entry *entry_out)
{
    uint32_t bucket = *bucket_find(t, user_name_slice(user));

    if (bucket == 0)
        return false;
    passwd_table_entry(t, bucket - 1, entry_out);
    return true;
}

bool passwd_table_any(const struct passwd_table *t, uint64_t number, struct passwd_entry *entry_out)
{
    for (unsigned i = 0; i < MIN(t->entry_count, ANY_TRIES); i++) {
        passwd_table_entry(t, (uint32_t)((number + i) % t->entry_count), entry_out);
        if (entry_out->has_password)
            return true;
    }
    return false;
}
