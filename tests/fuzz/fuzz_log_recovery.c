/* What a start reads: a segment of a commit stream, with its checksums as they are or made right, and the
 * records of an account. First byte: which. */
#include "core/metrics.h"
#include "core/shard.h"
#include "storage/account_state.h"
#include "storage/view.h"
#include <errno.h>
#include <stdlib.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#define NONCE       0x1234
#define SEGMENT_MAX (256 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- A segment ----------------------------------------------------------------------------------------- */

struct segment {
    struct segment_scan scan;
    char *bytes;
    uint32_t size, last_end;
    uint64_t last_sequence;
};

static ssize_t segment_read(struct segment_scan *scan, void *out, size_t size, uint32_t offset)
{
    struct segment *s = CONTAINER_OF(scan, struct segment, scan);

    if (offset >= s->size)
        return 0;
    size = MIN(size, s->size - offset);
    memcpy(out, s->bytes + offset, size);
    return (ssize_t)size;
}

static int segment_batch(struct segment_scan *scan, const struct batch_header *h, const char *directory)
{
    struct segment *s = CONTAINER_OF(scan, struct segment, scan);

    ASSERT(h->sequence > s->last_sequence && h->offset >= s->last_end && h->offset + h->size <= s->size);
    s->last_sequence = h->sequence;
    s->last_end = h->offset + h->size;
    for (uint32_t i = 0; i < h->directory_count; i++)
        (void)directory_entry_decode(directory + i * DIRECTORY_ENTRY_SIZE);
    return 0;
}

static void segment_rot(struct segment_scan *scan, uint32_t offset, uint32_t size, bool named)
{
    ASSERT(size > 0 && offset + size <= MAX(scan->end, scan->file_size));
    (void)named;
}

/* Makes the checksums right wherever something looks like a batch, so that the rest of the scan is reached.
 */
static void segment_seal(struct segment *s)
{
    struct batch_header h;

    for (uint32_t at = SEGMENT_BATCH_OFFSET; at + BATCH_HEADER_SIZE <= s->size; at += BATCH_ALIGN) {
        uint32_t head;

        if (!batch_header_decode(s->bytes + at, false, &h) || h.offset != at ||
            (uint64_t)at + h.size > s->size)
            continue;
        head = BATCH_HEADER_SIZE + h.directory_count * DIRECTORY_ENTRY_SIZE;
        h.data_checksum = XXH3_64bits_withSeed(s->bytes + at + head, h.size - 2 * head, NONCE);
        batch_header_encode(&h, false, NONCE,
                            slice_of(s->bytes + at + BATCH_HEADER_SIZE, head - BATCH_HEADER_SIZE),
                            s->bytes + at);
        if (s->bytes[at + 60] % 4 == 0)
            continue; /* A batch without its footer. */
        memcpy(s->bytes + at + h.size - head, s->bytes + at + BATCH_HEADER_SIZE, head - BATCH_HEADER_SIZE);
        batch_header_encode(&h, true, NONCE,
                            slice_of(s->bytes + at + BATCH_HEADER_SIZE, head - BATCH_HEADER_SIZE),
                            s->bytes + at + h.size - BATCH_HEADER_SIZE);
    }
}

/* `data` is laid out from the first batch's place on, a byte of it at the end of each sector that is left
 * out. */
static void segment(const uint8_t *data, size_t size, bool sealed, bool ended)
{
    struct segment s = {.size = (uint32_t)MIN(size + SEGMENT_BATCH_OFFSET, (size_t)SEGMENT_MAX)};
    char *window = malloc(SCAN_WINDOW_SIZE), *directory = malloc(SCAN_DIRECTORY_SIZE);

    s.bytes = calloc(1, s.size + 1);
    memcpy(s.bytes + SEGMENT_BATCH_OFFSET, data, s.size - SEGMENT_BATCH_OFFSET);
    if (sealed)
        segment_seal(&s);
    s.scan = (struct segment_scan){.header = {.nonce = NONCE},
                                   .file_size = s.size,
                                   .end = ended ? s.size / BATCH_ALIGN * BATCH_ALIGN : 0,
                                   .read = segment_read,
                                   .batch = segment_batch,
                                   .rot = segment_rot,
                                   .window = window,
                                   .directory = directory};
    ASSERT(segment_scan_run(&s.scan, SEGMENT_BATCH_OFFSET, 0) == 0);
    ASSERT(s.scan.end_out >= SEGMENT_BATCH_OFFSET && s.scan.sequence_out == s.last_sequence);
    free(s.bytes);
    free(window);
    free(directory);
}

/* ---- An account ---------------------------------------------------------------------------------------- */

static void look(struct account *a)
{
    for (uint32_t i = 0; i < a->private->mailbox_count; i++) {
        struct mailbox *m = a->private->mailboxes[i];
        uint32_t uid = 0, seq, last = 0;
        const struct message *msg;
        struct view v;

        if (view_open(&v, a, m, a->modseq, m->floor) != 0)
            continue;
        while ((msg = view_next(&v, &uid, &seq)) != NULL) {
            ASSERT(msg->uid > last && view_at(&v, seq)->uid == msg->uid);
            last = msg->uid;
        }
        ASSERT(view_count(&v) >= m->message_count || a->modseq > 0);
        view_close(&v);
        if (m->unseen_count > 0 && m->unseen_count <= m->message_count)
            (void)mailbox_first_unseen(m);
    }
}

/* Records, each: two bytes of size, then whether it is a snapshot's part, then the operations. */
static void account(const uint8_t *data, size_t size)
{
    struct metrics metrics = {0};
    struct shard shard = {.metrics = &metrics};
    struct store store = {.shard = &shard, .config = {.tombstone_count_max = 8, .tombstone_age_s = 100}};
    struct id128 id = {{1}};
    struct change_head head = {.account = id, .wall_ms = 1000};
    struct account *a;
    int rc = 0;

    store.heap = heap_create("fuzz", 64 * 1024 * 1024);
    shard.heap = store.heap;
    a = account_new(&store, &id, SLICE("user"));
    while (size >= 3 && rc == 0) {
        size_t part = MIN(size - 3, (size_t)get_u16(data));
        char *payload = calloc(1, CHANGE_HEAD_SIZE + part);

        head.part = data[2] % 2;
        head.modseq += head.part == 0 ? 1 : data[2] / 2;
        if (part > 0)
            memcpy(payload + CHANGE_HEAD_SIZE, data + 3, part);
        rc = account_apply(a, &head, slice_of(payload, CHANGE_HEAD_SIZE + part), NULL);
        ASSERT(rc == 0 || rc == -EBADMSG || rc == -ENOMEM);
        free(payload);
        data += 3 + part;
        size -= 3 + part;
        if (rc == 0)
            look(a);
    }
    account_free(a);
    heap_destroy(store.heap);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct segment_header header;
    struct record_header record;
    struct change_head head;

    if (size == 0)
        return 0;
    if (size > SEGMENT_HEADER_SIZE) {
        if (record_header_decode((const char *)data + 1, &record))
            ASSERT(record.meta_size <= record.size - RECORD_HEADER_SIZE);
        if (segment_header_decode((const char *)data + 1, &header))
            ASSERT(size > SEGMENT_HEADER_SIZE);
        if (change_head_decode(slice_of(data + 1, size - 1), &head))
            ASSERT(head.result_size <= size - 1 - CHANGE_HEAD_SIZE);
    }
    if (data[0] % 2 == 0)
        account(data + 1, size - 1);
    else
        segment(data + 1, size - 1, data[0] & 2, data[0] & 4);
    return 0;
}
