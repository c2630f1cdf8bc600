/* How many messages parked commands keep open: the last to park, so many and no more, and none while memory is short. Every answer
 * goes on at its byte all the same. */
#include "core/heap.h"
#include "core/shard.h"
#include "roles/backend/backend.h"
#include "roles/backend/fetch.h"
#include "tests/unit/roles/backend_client.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define READERS (BACKEND_SOURCES_KEPT + 3)
#define SIZE    700000 /* Of the message: more than a few windows. */

static struct client readers[READERS];
static char message[SIZE];

static void message_append(void)
{
    struct client *c = &readers[0];

    for (size_t i = 0; i < SIZE; i++)
        message[i] = i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : (char)('a' + i % 26);
    client_init(c, "anna");
    client_say(c, "t SELECT INBOX");
    client_append(c, "t APPEND INBOX {700000+}", slice_of(message, SIZE));
    HAS(c, "* 1 EXISTS\r\n");
    client_fini(c);
}

/* Commands whose message is open. */
static unsigned open_count(const struct backend *b)
{
    unsigned count = 0;

    list_each(l, &b->command_list)
    {
        const struct fetch_work *w = CONTAINER_OF(l, struct command, link)->work;

        count += w != NULL && w->source.reader != NULL;
    }
    return count;
}

static bool is_kept(const struct backend *b, const struct client *c)
{
    list_each(l, &b->command_list)
    {
        const struct command *command = CONTAINER_OF(l, struct command, link);
        const struct fetch_work *w = command->work;

        if (memcmp(command->request.operation_id, &c->nonce, sizeof c->nonce) == 0)
            return w != NULL && list_linked(&w->kept) && w->source.reader != NULL;
    }
    return false;
}

static void frames_release(struct client *c)
{
    for (struct list *n = list_pop_front(&c->frames); n != NULL; n = list_pop_front(&c->frames))
        link_frame_release(CONTAINER_OF(n, struct link_frame, link));
}

/* Until its window is used up. */
static void parks(const struct client *c)
{
    size_t before;

    do {
        before = c->size;
        (void)fiber_sleep_ms(20);
    } while (c->size == 0 || c->size != before);
    CHECK(!c->ended && c->size < SIZE);
}

static void reads_the_rest(struct client *c)
{
    const char *begin;

    c->keeps_frames = false;
    frames_release(c);
    client_finish(c);
    begin = strstr(c->text, "BODY[] {700000}\r\n");
    CHECK(begin != NULL && memcmp(begin + 17, message, SIZE) == 0);
    HAS(c, ")\r\nt OK Fetch completed.\r\n");
    client_fini(c);
}

static void reader_begin(struct client *c)
{
    client_init(c, "anna");
    client_say(c, "t SELECT INBOX");
    c->keeps_frames = true;
    client_begin(c, LINK_IMAP, "t FETCH 1 BODY.PEEK[]");
    parks(c);
}

static void bounded(void)
{
    const struct backend *b = backend_self();

    message_append();
    for (unsigned i = 0; i < READERS; i++) {
        reader_begin(&readers[i]);
        CHECK(b->source_count == MIN(i + 1, (unsigned)BACKEND_SOURCES_KEPT));
        CHECK(open_count(b) == b->source_count);
    }
    for (unsigned i = 0; i < READERS; i++)
        CHECK(is_kept(b, &readers[i]) == (i >= READERS - BACKEND_SOURCES_KEPT));
    frames_release(&readers[0]); /* The oldest goes on: now it is the last. */
    parks(&readers[0]);
    CHECK(is_kept(b, &readers[0]) && !is_kept(b, &readers[READERS - BACKEND_SOURCES_KEPT]));
    CHECK(b->source_count == BACKEND_SOURCES_KEPT && open_count(b) == b->source_count);
    for (unsigned i = 0; i < READERS; i++)
        reads_the_rest(&readers[i]);
    CHECK(b->source_count == 0 && list_empty(&b->sources));
}

static void short_of_memory(void)
{
    const struct backend *b = backend_self();
    void *hold;

    message_append();
    reader_begin(&readers[0]);
    reader_begin(&readers[1]);
    CHECK(b->source_count == 2);
    hold = heap_try_alloc(b->heap, heap_streaming(b->heap) * 4 * 7 / 8 + 4096 - heap_used(b->heap));
    CHECK(hold != NULL && !heap_admits(b->heap));
    frames_release(&readers[0]);
    parks(&readers[0]);
    CHECK(b->source_count == 1 && open_count(b) == 1 && !is_kept(b, &readers[0]) && is_kept(b, &readers[1]));
    reads_the_rest(&readers[0]);
    heap_free(b->heap, hold);
    reads_the_rest(&readers[1]);
}

static void test_bounded(void **state)
{
    assert_int_equal(backend_test(bounded), 0);
}

static void test_short_of_memory(void **state)
{
    assert_int_equal(backend_test(short_of_memory), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_short_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
