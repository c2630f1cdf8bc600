/* core/base.h -- the few words that every file uses: assertions, slices, byte order, containers. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#define MUST_CHECK                    __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a)             __attribute__((format(printf, f, a)))
#define NORETURN                      __attribute__((noreturn))
#define LIKELY(x)                     __builtin_expect(!!(x), 1)
#define UNLIKELY(x)                   __builtin_expect(!!(x), 0)
#define ARRAY_COUNT(a)                (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))
#define MIN(a, b)                     ((a) < (b) ? (a) : (b))
#define MAX(a, b)                     ((a) > (b) ? (a) : (b))

/* Ours: a broken invariant. On in release too. Dumps the shard's trace ring, then aborts. No byte from the
 * network or from a disk may reach one. */
#define ASSERT(x) (LIKELY(x) ? (void)0 : assert_failed(__FILE__, __LINE__, #x))
NORETURN void assert_failed(const char *file, int line, const char *what);

/* Bytes that somebody else owns. `data` may be NULL when `size` is 0; never NUL-terminated. */
struct slice {
    const char *data;
    size_t size;
};

#define SLICE(literal) ((struct slice){(literal), sizeof(literal) - 1})

static inline struct slice slice_of(const void *data, size_t size)
{
    return (struct slice){data, size};
}

static inline struct slice slice_str(const char *text)
{
    return (struct slice){text, strlen(text)};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* ASCII letters compare without case, whatever the locale says. */
bool slice_eq_nocase(struct slice a, struct slice b);
bool slice_starts_nocase(struct slice s, struct slice prefix);

static inline struct slice slice_from(struct slice s, size_t offset)
{
    ASSERT(offset <= s.size);
    /* NULL + 0 is undefined in C. */
    return (struct slice){offset > 0 ? s.data + offset : s.data, s.size - offset};
}

static inline struct slice slice_first(struct slice s, size_t size)
{
    ASSERT(size <= s.size);
    return (struct slice){s.data, size};
}

/* Offset of the first `c`, or s.size. */
static inline size_t slice_find(struct slice s, char c)
{
    const char *p = s.size > 0 ? memchr(s.data, c, s.size) : NULL;

    return p != NULL ? (size_t)(p - s.data) : s.size;
}

/* Offset behind the last `c`, or 0. */
static inline size_t slice_after_last(struct slice s, char c)
{
    const char *p = s.size > 0 ? memrchr(s.data, c, s.size) : NULL;

    return p != NULL ? (size_t)(p + 1 - s.data) : 0;
}

/* Decimal digits alone, no sign, no blanks, <= max. False: not a number, or too large. */
MUST_CHECK bool slice_to_u64(struct slice s, uint64_t max, uint64_t *value_out);

/* Little-endian, unaligned: what disk and wire formats use. */
#define BYTES_LE(bits)                                                                                       \
    static inline uint##bits##_t get_u##bits(const void *p)                                                  \
    {                                                                                                        \
        uint##bits##_t v;                                                                                    \
        memcpy(&v, p, sizeof v);                                                                             \
        return v;                                                                                            \
    }                                                                                                        \
    static inline void put_u##bits(void *p, uint##bits##_t v)                                                \
    {                                                                                                        \
        memcpy(p, &v, sizeof v);                                                                             \
    }
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "disk and wire formats are little-endian");
BYTES_LE(16)
BYTES_LE(32)
BYTES_LE(64)
#undef BYTES_LE

/* Overwrites secrets so that the compiler cannot leave it out. */
void bytes_wipe(void *data, size_t size);
/* Equal? In a time that depends on `size` alone. */
MUST_CHECK bool bytes_equal_secret(const void *a, const void *b, size_t size);
