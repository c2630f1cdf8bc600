/* tests/unit/storage/store_model.h -- what tests of the store share: short words for common steps, and a
 * description of an account as text, by which two states are compared. Everything runs on a fiber of the fake
 * door. */
#pragma once
#include "core/fiber.h"
#include "storage/change.h"
#include "storage/store.h"
#include "storage/view.h"

#include <stdio.h>
#include <stdlib.h>

/* On a fiber cmocka's own longjmp() would leave the wrong stack. */
#define CHECK(x) ((x) ? (void)0 : check_failed(__FILE__, __LINE__, #x))
#define CHECK_RC(call, wanted)                                                                               \
    do {                                                                                                     \
        long rc_ = (long)(call), wanted_ = (wanted);                                                         \
        if (rc_ != wanted_) {                                                                                \
            fprintf(stderr, "%s:%d: %s: %ld, not %ld\n", __FILE__, __LINE__, #call, rc_, wanted_);           \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)
NORETURN void check_failed(const char *file, int line, const char *what);

struct store *test_store_open(void);
/* With a small segment, few accounts and so on: what the test sets before. */
extern struct store_config test_config;
struct account *test_account(struct store *store, const char *user);

/* Appends a message of `size` bytes made from `number`; its UID, or -errno. */
long test_append(struct account *a, const char *mailbox, unsigned number, size_t size,
                 const struct id128 *operation);
/* Does the message with this UID hold the bytes of `number`? 1, 0, or -errno. */
int test_body_is(struct account *a, const char *mailbox, uint32_t uid, unsigned number, size_t size);
int test_flags(struct account *a, const char *mailbox, uint32_t first, uint32_t last, enum flags_how how,
               uint32_t flags, const char *keyword);
int test_expunge(struct account *a, const char *mailbox, uint32_t first, uint32_t last);
int test_copy(struct account *a, const char *from, const char *to, uint32_t first, uint32_t last, bool move);
int test_create(struct account *a, const char *name);
int test_delete(struct account *a, const char *name);
int test_rename(struct account *a, const char *from, const char *to);
int test_subscribe(struct account *a, const char *name, bool subscribe);
struct id128 test_id(uint64_t number);

/* Everything that can be seen of an account (malloc). */
char *test_describe(struct account *a);
