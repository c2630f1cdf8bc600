/* roles/director/passwd_file.h -- a passwd-file in Dovecot's format, as one immutable table in memory.
 *
 *     # comment
 *     user:{SCHEME}hash:uid:gid:gecos:home:shell:extra
 *
 * All fields after the user are optional. Without a password a user gets mail but cannot log in; so does one
 * whose hash begins with `!` or who has the extra field `nologin`. Extra fields that would narrow or widen
 * what a login may do, and that this server does not know, make the line invalid: nothing is opened by not
 * understanding it. Whose line is invalid cannot log in, and is known to exist: his mail waits until the line
 * is mended, and is not returned. A user named twice keeps the first line.
 *
 * The text stays as it was read and an index of 4-byte offsets points into it: some 12 bytes a user beside
 * the text.
 * Owner:  one shard builds it; then it is read-only, and any shard may look things up. Memory: Takes the text
 *         (of the same heap). Wiped when freed: it may hold plain passwords. */
#pragma once
#include "core/heap.h"
#include "roles/director/password_scheme.h"
#include "roles/director/user_name.h"

#define PASSWD_FILE_SIZE_MAX (1024 * 1024 * 1024)
#define PASSWD_LINE_SIZE_MAX 4096

struct passwd_entry { /* Points into the table. */
    struct slice user;
    struct slice line; /* All that follows the user. */
    struct password_hash password;
    bool has_password;
    bool disabled;
    bool broken; /* The line was not understood. */
};

struct passwd_table {
    struct heap *heap;
    char *text;
    size_t text_size;
    uint32_t *entries; /* Offsets of lines. */
    uint32_t entry_count, entry_limit;
    uint32_t *buckets; /* 1 + index into entries, by hash of the user; 0: free. Linear probing. */
    uint32_t bucket_mask;
    uint64_t seed;
    size_t built; /* Bytes of text that are in the index. */
    uint32_t line_number, bad_count;
    uint32_t good_count; /* Entries that are not broken. */
};

/* Takes text, which heap_try_map_secret() has given. NULL: no memory, and then it is still the caller's. */
struct passwd_table *passwd_table_new(struct heap *heap, char *text, size_t size, uint64_t seed);
void passwd_table_free(struct passwd_table *t); /* NULL is allowed. */

/* Puts up to `line_count` lines into the index; false: that was all. bad() is called for each line that is
 * left out, or not understood. */
MUST_CHECK bool passwd_table_build(struct passwd_table *t, unsigned line_count,
                                   void (*bad)(void *arg, uint32_t line_number, const char *why), void *arg);

MUST_CHECK bool passwd_table_find(const struct passwd_table *t, const struct user_name *user,
                                  struct passwd_entry *entry_out);
/* Entry number `index`, below entry_count. */
void passwd_table_entry(const struct passwd_table *t, uint32_t index, struct passwd_entry *entry_out);
/* Some entry with a password, always the same for one `number`. False: there is none near it. */
MUST_CHECK bool passwd_table_any(const struct passwd_table *t, uint64_t number,
                                 struct passwd_entry *entry_out);
