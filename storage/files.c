/* storage/files.c -- segments open for reading, and records read out of them. */
#include "core/log.h"
#include "storage/store_state.h"

#include <errno.h>
#include <fcntl.h>

static void segment_file_free(struct store *store, struct segment_file *f)
{
    list_remove(&f->link);
    store->segment_file_count--;
    if (file_valid(f->file))
        file_close(f->file);
    heap_free(store->heap, f);
}

/* Closes what nobody uses, oldest first, down to the limit; those in use go when they are put back. */
static void segment_files_trim(struct store *store, unsigned count_max)
{
    list_each_safe(it, &store->segment_files)
    {
        struct segment_file *f = CONTAINER_OF(it, struct segment_file, link);

        if (store->segment_file_count <= count_max)
            return;
        if (f->users == 0)
            segment_file_free(store, f);
    }
}

static struct segment_file *segment_file_find(struct store *store, uint16_t stream, uint32_t segment)
{
    list_each(it, &store->segment_files)
    {
        struct segment_file *f = CONTAINER_OF(it, struct segment_file, link);

        if (f->segment == segment && f->stream == stream && f->error == 0)
            return f;
    }
    return NULL;
}

static int segment_file_open(struct store *store, uint16_t stream, uint32_t segment,
                             struct segment_file **file_out)
{
    struct segment_file *f = heap_zalloc(store->heap, sizeof *f);
    char path[STREAM_PATH_MAX];

    f->file = FILE_NONE;
    f->stream = stream;
    f->segment = segment;
    f->users = 1;
    f->opening = true;
    fiber_queue_init(&f->opened);
    list_push_back(&store->segment_files, &f->link);
    store->segment_file_count++;
    segment_files_trim(store, SEGMENT_FILE_MAX);
    f->error = file_open(stream_segment_path(path, stream, segment), O_RDONLY, 0, &f->file);
    if (f->error < 0)
        f->file = FILE_NONE;
    f->opening = false;
    fiber_queue_wake_all(&f->opened, 0);
    *file_out = f;
    return f->error;
}

int segment_file_get(struct store *store, uint16_t stream, uint32_t segment, struct segment_file **file_out)
{
    struct segment_file *f = segment_file_find(store, stream, segment);
    int rc = 0;

    if (f == NULL) {
        rc = segment_file_open(store, stream, segment, &f);
    } else {
        f->users++;
        list_remove(&f->link);
        list_push_back(&store->segment_files, &f->link);
        while (f->opening && rc == 0)
            rc = fiber_queue_wait(&f->opened, 0);
        if (rc == 0)
            rc = f->error;
    }
    if (rc < 0) {
        segment_file_put(store, f);
        return rc;
    }
    *file_out = f;
    return 0;
}

void segment_file_put(struct store *store, struct segment_file *f)
{
    ASSERT(f->users > 0);
    f->users--;
    if (f->users == 0 && (f->error != 0 || store->segment_file_count > SEGMENT_FILE_MAX))
        segment_file_free(store, f);
}

void segment_files_close(struct store *store)
{
    segment_files_trim(store, 0);
}

void store_report_rot(struct store *store, const struct record_location *at, const char *what)
{
    char path[STREAM_PATH_MAX];

    store->shard->metrics->checksum_errors++;
    log_event(LOG_ERROR, "store: what is read is not what was written; restore it from a backup",
              "file=%s offset=%u size=%u what=\"%s\"", stream_segment_path(path, at->stream, at->segment),
              at->offset, at->size, what);
}

static bool record_matches(const struct record_location *at, unsigned type_mask, const char *data)
{
    struct record_header h;

    return record_header_decode(data, &h) && h.size == at->size &&
           h.meta_size == at->size - RECORD_HEADER_SIZE && h.type < 32 && (type_mask >> h.type & 1) != 0 &&
           record_check(data, at, slice_of(data + RECORD_HEADER_SIZE, h.meta_size));
}

int record_read(struct store *store, const struct record_location *at, unsigned type_mask, char **data_out)
{
    struct segment_file *f;
    char *data;
    ssize_t got;
    int rc;

    if (at->size < RECORD_HEADER_SIZE || at->size > BATCH_SIZE_MAX)
        return -EBADMSG;
    rc = segment_file_get(store, at->stream, at->segment, &f);
    if (rc == -ENOENT) {
        store_report_rot(store, at, "segment missing");
        return -EBADMSG;
    }
    if (rc < 0)
        return rc;
    data = heap_try_alloc(store->heap, at->size);
    got = data != NULL ? file_read(f->file, data, at->size, at->offset) : -ENOMEM;
    segment_file_put(store, f);
    rc = got < 0 ? (int)got : 0;
    if (rc == 0 && ((size_t)got < at->size || !record_matches(at, type_mask, data))) {
        store_report_rot(store, at, "record");
        rc = -EBADMSG;
    }
    if (rc < 0) {
        heap_free(store->heap, data);
        return rc;
    }
    *data_out = data;
    return 0;
}
