/* A passwd-file: built line by line, then every name that is in it is found again. The bytes before the first
 * line are also tried as a user name and as a hash. */
#include "roles/director/passwd_file.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void bad(void *arg, uint32_t line_number, const char *why)
{
    ASSERT(line_number > 0 && why[0] != '\0');
}

static void look_up(const struct passwd_table *t)
{
    struct passwd_entry entry;
    struct user_name user;

    for (uint32_t i = 0; i < t->entry_count; i++) {
        struct slice rest = slice_of(t->text + t->entries[i], t->text_size - t->entries[i]);
        size_t end = 0;

        while (end < rest.size && strchr(":\r\n", rest.data[end]) == NULL)
            end++;
        ASSERT(user_name_parse(slice_first(rest, end), &user));
        ASSERT(passwd_table_find(t, &user, &entry));
        ASSERT(slice_eq(entry.user, user_name_slice(&user)));
    }
    if (passwd_table_any(t, t->text_size, &entry))
        ASSERT(entry.has_password);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct heap *heap = heap_create("fuzz", 0);
    char *text = heap_try_map_secret(heap, size + 1);
    struct slice first = slice_first(slice_of(data, size), slice_find(slice_of(data, size), '\n'));
    struct passwd_table *t;
    struct password_hash hash;
    struct user_name user;

    ASSERT(text != NULL);
    if (size > 0)
        memcpy(text, data, size);
    t = passwd_table_new(heap, text, size, size);
    ASSERT(t != NULL);
    while (passwd_table_build(t, 3, bad, NULL))
        ;
    look_up(t);
    if (user_name_parse(first, &user))
        ASSERT(user.size == first.size);
    if (password_hash_parse(first, &hash) == NULL)
        ASSERT(hash.hash.size > 0 && hash.hash.size <= PASSWORD_HASH_MAX);
    passwd_table_free(t);
    heap_destroy(heap);
    return 0;
}
