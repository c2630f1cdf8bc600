/* tests/unit/roles/backend_client.h -- a node of one shard with the store and the backend, and sessions that
 * talk to it as a proxy does: over a link, a token with each command, nothing else kept. All of it runs on a
 * fiber of that shard. */
#pragma once
#include "core/fiber.h"
#include "net/link/link.h"
#include "roles/words/request.h"
#include <stdio.h>

/* Runs `body` on a fiber of a fresh node in a fresh directory; returns how many CHECKs failed. */
int backend_test(void (*body)(void));
/* In three: the first run keeps its directory, the next ones begin with what is in it. */
int backend_test_keep(void (*body)(void));
int backend_test_again(void (*body)(void));
void backend_test_remove(void);

void check_failed(const char *file, int line, const char *what, const char *got);
#define CHECK(x) ((x) ? (void)0 : check_failed(__FILE__, __LINE__, #x, ""))

struct client {
    const char *user;
    struct token token;
    uint64_t nonce, operation; /* The operation id; the number counts up. */
    bool more_follows;
    bool bye;
    bool keeps_frames; /* Gives no credit: see client_begin(). */

    /* Of the last command. */
    char *text; /* NUL-terminated. */
    size_t size, capacity;
    bool lost, ended, asked, held;
    struct list frames;
    struct link_stream *stream;
    struct fiber *waiter;
};

void client_init(struct client *c, const char *user);
void client_fini(struct client *c);

/* One command, CRLF added; the answer is in c->text. `literal` (may be NULL) is what an ask gets. */
void client_say(struct client *c, const char *command);
void client_append(struct client *c, const char *command, struct slice literal);
void client_sync(struct client *c);
/* In two halves, for what must be seen in between. */
void client_begin(struct client *c, enum link_kind kind, const char *command);
void client_finish(struct client *c);
/* Lets everything run that can. */
void settle(void);

/* Says, and compares the whole answer. */
#define SAY(c, command, expected)                                                                            \
    do {                                                                                                     \
        client_say((c), (command));                                                                          \
        client_expect((c), (expected), __FILE__, __LINE__);                                                  \
    } while (0)
#define HAS(c, part)                                                                                         \
    (strstr((c)->text, (part)) != NULL ? (void)0 : check_failed(__FILE__, __LINE__, part, (c)->text))
#define HAS_NOT(c, part)                                                                                     \
    (strstr((c)->text, (part)) == NULL ? (void)0 : check_failed(__FILE__, __LINE__, "not " part, (c)->text))
void client_expect(struct client *c, const char *expected, const char *file, int line);

/* One delivery; the reply's code. */
unsigned deliver(const char *user, const char *folder, uint64_t operation, struct slice message);
