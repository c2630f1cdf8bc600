/* Users who are placed alone: what backends hear of them, and when. */
#include "roles/director/cluster_state.h"
#include "roles/director/control.h"
#include "tests/unit/core/fake_door.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { HOME, OTHER, NODES };
enum { NOTHING, AWAY, HERE };

static struct shard *shard;
static struct cluster *cluster;
static struct link_stream streams[NODES];
static struct link_frame *frame; /* The last that was sent. */
static size_t frame_size;

/* ---- What surrounds it --------------------------------------------------------------------------------- */

struct link_frame *link_frame_new(size_t size)
{
    free(frame);
    frame = calloc(1, sizeof *frame + size);
    assert_non_null(frame);
    frame->payload = frame->bytes;
    return frame;
}

void link_send(struct link_stream *s, struct link_frame *f, size_t size, unsigned flags)
{
    frame_size = size;
}

int64_t link_credit(struct link_stream *s)
{
    return 1;
}

int64_t time_wall_ms(void) /* The log's. */
{
    return 0;
}

/* ---- Tests --------------------------------------------------------------------------------------------- */

static int setup(void **state)
{
    static const char *const names[] = {"b1", "b2"};

    shard = fake_shard_begin();
    cluster = heap_zalloc(shard->heap, sizeof *cluster);
    cluster->shard = shard;
    cluster->running = cluster->view.ready = true;
    cluster->table.version = 1;
    cluster->table.node_count = cluster->member_count = NODES; /* All partitions are the first one's. */
    cluster->members = heap_zalloc(shard->heap, NODES * sizeof *cluster->members);
    for (int i = 0; i < NODES; i++) {
        memcpy(cluster->table.nodes[i].name, names[i], 3);
        cluster->members[i].stream = &streams[i];
        cluster->members[i].node = i;
        cluster->members[i].places = true;
    }
    fiber_queue_init(&cluster->wake);
    shard->slot[SLOT_CLUSTER] = cluster;
    return 0;
}

static int teardown(void **state)
{
    heap_free(shard->heap, cluster->placements);
    heap_free(shard->heap, cluster->members);
    heap_free(shard->heap, cluster);
    shard->slot[SLOT_CLUSTER] = NULL;
    free(frame);
    frame = NULL;
    fake_shard_end(shard);
    return 0;
}

static void place(const char *node)
{
    struct control_place p = {.user = SLICE("u"), .node = slice_str(node), .begin = true};

    director_control_place(&p);
    assert_int_equal(p.rc, 0);
}

static void save(void)
{
    cluster->table.version++;
    cluster_exceptions_saving(cluster);
}

/* What that backend hears of him. */
static int told(int node)
{
    struct member_placed word;

    cluster->members[node].placed_due = true;
    cluster_exceptions_tell(cluster, &cluster->members[node]);
    assert_true(member_placed_decode(slice_of(frame->payload, frame_size), &word));
    if (word.count == 0)
        return NOTHING;
    return word.entries[0].here == EXCEPTION_HERE ? HERE : AWAY;
}

static void answers(int node)
{
    cluster->members[node].answer = (struct member_answer){.version = cluster->table.version};
    cluster->members[node].answered = true;
    cluster_exceptions_settle(cluster);
}

static void test_there_and_back(void **state)
{
    place("b2");
    assert_true(told(HOME) == NOTHING && told(OTHER) == NOTHING);
    save();
    assert_true(told(HOME) == AWAY && told(OTHER) == NOTHING);
    answers(HOME);
    save();
    assert_true(told(HOME) == AWAY && told(OTHER) == HERE);
    place("b1");
    save();
    assert_true(told(HOME) == AWAY && told(OTHER) == AWAY);
    answers(OTHER);
    save();
    assert_true(told(HOME) == NOTHING && told(OTHER) == NOTHING);
}

/* While something else is being written: as long as the disk does not have what was said last, all is as it was. */
static void test_not_written(void **state)
{
    place("b2");
    save();
    answers(HOME);
    save();
    place("b1");
    assert_true(told(HOME) == AWAY && told(OTHER) == HERE);
    save();
    assert_true(told(HOME) == AWAY && told(OTHER) == AWAY);
    place("b2");
    assert_true(told(HOME) == AWAY && told(OTHER) == HERE);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {TEST(test_there_and_back), TEST(test_not_written)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
