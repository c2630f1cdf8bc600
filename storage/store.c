/* storage/store.c -- opening, closing, partitions, watches.
 *
 * All shards of a node open their stores together: shard 0 locks the directory, all read what the last run
 * left, and only when all have read does any of them write.
 *
 *     shard 0:  lock, key --LOCKED--> all        all: recover --SCANNED--> shard 0        shard 0 --OPEN-->
 * all: write */
#include "storage/store_state.h"

#include "core/log.h"
#include "storage/account.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#define SEGMENT_SIZE_DEFAULT    (64u * 1024 * 1024)
#define CHECKPOINT_SIZE_DEFAULT (64u * 1024 * 1024)
#define ACCOUNT_COUNT_DEFAULT   10000
#define TOMBSTONE_COUNT_DEFAULT 65536
#define TOMBSTONE_AGE_DEFAULT_S (7u * 24 * 3600)
#define MESSAGE_SIZE_DEFAULT    (100u * 1024 * 1024)

static const char format_line[] = "trireme 1\n";

static void config_set(struct store *store, const struct store_config *config)
{
    struct store_config *c = &store->config;

    *c = *config;
    snprintf(store->node_name, sizeof store->node_name, "%s",
             config->node_name != NULL ? config->node_name : "");
    c->node_name = store->node_name;
    c->segment_size = c->segment_size != 0 ? c->segment_size : SEGMENT_SIZE_DEFAULT;
    c->segment_size = MAX(MIN(c->segment_size, (uint64_t)SEGMENT_SIZE_MAX), (uint64_t)SEGMENT_SIZE_MIN);
    c->checkpoint_size = c->checkpoint_size != 0 ? c->checkpoint_size : CHECKPOINT_SIZE_DEFAULT;
    c->reserve_size = c->reserve_size != 0 ? c->reserve_size : c->segment_size;
    c->account_count_max = c->account_count_max != 0 ? c->account_count_max : ACCOUNT_COUNT_DEFAULT;
    c->tombstone_count_max = c->tombstone_count_max != 0 ? c->tombstone_count_max : TOMBSTONE_COUNT_DEFAULT;
    c->tombstone_age_s = c->tombstone_age_s != 0 ? c->tombstone_age_s : TOMBSTONE_AGE_DEFAULT_S;
    c->message_size_max = c->message_size_max != 0 ? c->message_size_max : MESSAGE_SIZE_DEFAULT;
    c->message_size_max = MIN(c->message_size_max, (uint64_t)UINT32_MAX);
}

/* A message of another shard may be here before this shard's own start. */
static struct store *store_of(struct shard *s)
{
    struct store *store = s->slot[SLOT_STORE];

    if (store != NULL)
        return store;
    store = heap_zalloc(s->heap, sizeof *store);
    store->shard = s;
    store->heap = s->heap;
    store->partitions = heap_zalloc(s->heap, STORE_PARTITION_COUNT * sizeof *store->partitions);
    store->stream.file = FILE_NONE;
    fiber_queue_init(&store->phase_changed);
    fiber_queue_init(&store->drained);
    list_init(&store->segment_files);
    list_init(&store->unused);
    map_init(&store->accounts, s->heap);
    s->slot[SLOT_STORE] = store;
    return store;
}

struct store *store_self(void)
{
    struct store *store = shard_self()->slot[SLOT_STORE];

    return store != NULL && store->phase == STORE_OPEN ? store : NULL;
}

/* ---- Partitions ---------------------------------------------------------------------------------------- */

static void secret_make(struct store *store)
{
    for (unsigned i = 0; i < STORE_SECRET_SIZE / 8; i++)
        put_u64(store->secret + i * 8, XXH3_64bits_withSeed(store->key, STORE_KEY_SIZE, i));
}

struct id128 store_account_id(const struct store *store, struct slice user)
{
    XXH128_hash_t hash = XXH3_128bits_withSecret(user.data, user.size, store->secret, STORE_SECRET_SIZE);
    struct id128 id;

    put_u64(id.bytes, hash.low64);
    put_u64(id.bytes + 8, hash.high64);
    if (id128_is_zero(&id))
        id.bytes[15] = 1;
    return id;
}

unsigned store_partition(const struct store *store, struct slice user)
{
    struct id128 id = store_account_id(store, user);

    return (unsigned)(get_u64(id.bytes) & (STORE_PARTITION_COUNT - 1));
}

unsigned store_partition_shard(const struct store *store, unsigned partition)
{
    return partition % store->shard->node->shard_count;
}

uint64_t store_partition_epoch(const struct store *store, unsigned partition)
{
    ASSERT(partition < STORE_PARTITION_COUNT);
    return store->partitions[partition].served ? store->partitions[partition].epoch : 0;
}

struct slice store_cluster_key(const struct store *store)
{
    return slice_of(store->key, STORE_KEY_SIZE);
}

static int heads_commit(struct store *store, const struct pack *p)
{
    struct commit_record record = {
        .type = RECORD_HEADS, .directory = DIRECTORY_HEADS, .meta = slice_of(p->data, p->size)};
    struct commit c = {.records = &record, .record_count = 1};

    return p->error != 0 ? p->error : stream_commit(&store->stream, &c);
}

/* Takes every partition that this shard serves: epoch + 1, durable before anything else of them. */
static int heads_take(struct store *store)
{
    uint32_t count = 0;
    struct pack p;
    int rc;

    pack_init(&p, store->heap, 1024 * 1024);
    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++)
        count += store->partitions[i].served;
    pack_u32(&p, (uint32_t)strlen(store->node_name));
    pack_put(&p, store->node_name, strlen(store->node_name));
    pack_u32(&p, count);
    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++) {
        if (!store->partitions[i].served)
            continue;
        pack_u32(&p, i);
        pack_u64(&p, ++store->partitions[i].epoch);
    }
    rc = count > 0 ? heads_commit(store, &p) : 0;
    pack_fini(&p);
    return rc;
}

/* ---- The data directory -------------------------------------------------------------------------------- */

/* Bytes of a small file; -ENOENT; -EBADMSG: it is larger. */
static int small_file_read(const char *path, char *data, size_t size_max, size_t *size_out)
{
    struct file file;
    ssize_t got;
    int rc = file_open(path, O_RDONLY, 0, &file);

    if (rc < 0)
        return rc;
    got = file_read(file, data, size_max, 0);
    file_close(file);
    if (got < 0)
        return (int)got;
    *size_out = (size_t)got;
    return 0;
}

/* The whole file or none of it, durable but for its name: dir_flush() follows. */
static int small_file_write(const char *path, const void *data, size_t size)
{
    struct iovec vector = {(void *)(uintptr_t)data, size};
    char temporary[STREAM_PATH_MAX];
    struct file file;
    int rc;

    snprintf(temporary, sizeof temporary, "%s.new", path);
    rc = file_open(temporary, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    if (rc < 0)
        return rc;
    rc = file_write_flush(file, &vector, 1, 0);
    file_close(file);
    return rc < 0 ? rc : file_rename(temporary, path);
}

/* A key that is lost makes every account unknown: it is never made anew where mail may be. */
static int key_load(struct store *store, bool is_new)
{
    char bytes[STORE_KEY_SIZE + 8];
    size_t size = 0;
    int rc = small_file_read("key", bytes, sizeof bytes, &size);

    if (rc == -ENOENT && is_new) {
        random_bytes(bytes, STORE_KEY_SIZE);
        if (store->config.cluster_key != NULL)
            memcpy(bytes, store->config.cluster_key, STORE_KEY_SIZE);
        put_u64(bytes + STORE_KEY_SIZE, XXH3_64bits(bytes, STORE_KEY_SIZE));
        size = sizeof bytes;
        rc = small_file_write("key", bytes, sizeof bytes);
    }
    if (rc == 0 &&
        (size != sizeof bytes || get_u64(bytes + STORE_KEY_SIZE) != XXH3_64bits(bytes, STORE_KEY_SIZE)))
        rc = -EBADMSG;
    if (rc == 0)
        memcpy(store->key, bytes, STORE_KEY_SIZE);
    else
        log_event(LOG_ERROR, "store: the cluster key can't be read; restore `key` from a backup", "error=%s",
                  log_error(rc));
    bytes_wipe(bytes, sizeof bytes);
    if (rc == 0 && store->config.cluster_key != NULL &&
        memcmp(store->key, store->config.cluster_key, STORE_KEY_SIZE) != 0) {
        log_event(LOG_ERROR, "store: the data directory is of another cluster, or of a server with all roles",
                  "hint=name_an_empty_directory_or_its_own_director");
        return -EKEYREJECTED;
    }
    return rc;
}

static int directories_make(void)
{
    static const char *const names[] = {"streams", "checkpoints", "objects", "reserve"};
    int rc = 0;

    for (size_t i = 0; i < ARRAY_COUNT(names) && rc == 0; i++)
        rc = dir_make(names[i], 0700);
    return rc == 0 ? dir_flush(".") : rc;
}

static int format_check(bool *is_new)
{
    char bytes[sizeof format_line + 1];
    size_t size = 0;
    int rc = small_file_read("format", bytes, sizeof bytes, &size);

    *is_new = rc == -ENOENT;
    if (rc == -ENOENT)
        return 0;
    if (rc == 0 && (size != sizeof format_line - 1 || memcmp(bytes, format_line, size) != 0)) {
        log_event(LOG_ERROR, "store: the data directory has a format that this version does not know",
                  "known=\"trireme 1\"");
        return -EPROTONOSUPPORT;
    }
    return rc;
}

/* Shard 0. The format is written last: where it is, the key is. */
static int directory_open(struct store *store)
{
    bool is_new;
    int rc = dir_lock(".");

    if (rc < 0) {
        log_event(LOG_ERROR,
                  rc == -EBUSY ? "store: the data directory is used by another process"
                               : "store: the data directory can't be locked",
                  "error=%s", log_error(rc));
        return rc;
    }
    rc = format_check(&is_new);
    if (rc == 0)
        rc = key_load(store, is_new);
    if (rc == 0)
        rc = directories_make();
    if (rc == 0 && is_new) {
        rc = small_file_write("format", format_line, sizeof format_line - 1);
        if (rc == 0)
            rc = dir_flush(".");
    }
    return rc;
}

/* ---- The start, in step -------------------------------------------------------------------------------- */

static void phase_set(struct store *store, enum store_phase phase, int result)
{
    store->phase = phase;
    store->phase_result = result;
    fiber_queue_wake_all(&store->phase_changed, 0);
}

static int phase_wait(struct store *store, enum store_phase phase)
{
    int rc = 0;

    while (store->phase < phase && store->phase_result == 0 && rc == 0)
        rc = fiber_queue_wait(&store->phase_changed, 0);
    return rc < 0 ? rc : store->phase_result;
}

static void locked_deliver(struct shard_message *m)
{
    struct store_step *step = CONTAINER_OF(m, struct store_step, message);
    struct store *store = store_of(shard_self());

    memcpy(store->key, step->key, STORE_KEY_SIZE);
    phase_set(store, STORE_LOCKED, step->result);
}

static void go_deliver(struct shard_message *m)
{
    phase_set(store_of(shard_self()), STORE_SCANNED, CONTAINER_OF(m, struct store_step, message)->result);
}

/* From shard 0 to all others. The steps' memory goes with the heap: nobody knows when the last one has
 * arrived. */
static void step_broadcast(struct store *store, void (*deliver)(struct shard_message *m), int result)
{
    struct node *node = store->shard->node;
    struct store_step *steps;

    if (node->shard_count == 1)
        return;
    steps = heap_zalloc(store->heap, node->shard_count * sizeof *steps);
    for (unsigned i = 1; i < node->shard_count; i++) {
        steps[i].message.deliver = deliver;
        steps[i].result = result;
        memcpy(steps[i].key, store->key, STORE_KEY_SIZE);
        shard_send(node->shards[i], &steps[i].message);
    }
}

/* On shard 0: when all have read, all may write. */
static void scanned_count(struct store *store, int result)
{
    if (result < 0)
        store->scan_result = result;
    if (++store->scanned_count < store->shard->node->shard_count)
        return;
    step_broadcast(store, go_deliver, store->scan_result);
    phase_set(store, STORE_SCANNED, store->scan_result);
}

static void scanned_deliver(struct shard_message *m)
{
    scanned_count(store_of(shard_self()), CONTAINER_OF(m, struct store_step, message)->result);
}

static int start_locked(struct store *store)
{
    int rc;

    if (store->shard->index != 0)
        return phase_wait(store, STORE_LOCKED);
    rc = directory_open(store);
    step_broadcast(store, locked_deliver, rc);
    return rc;
}

static int start_scanned(struct store *store)
{
    int rc = recovery_run(store);

    if (store->shard->index == 0) {
        scanned_count(store, rc);
    } else {
        store->step.message.deliver = scanned_deliver;
        store->step.result = rc;
        shard_send(store->shard->node->shards[0], &store->step.message);
    }
    return rc < 0 ? rc : phase_wait(store, STORE_SCANNED);
}

/* ---- Streams ------------------------------------------------------------------------------------------- */

/* This shard's stream goes on; those of shards that this run does not have are closed off. */
static int streams_open(struct store *store)
{
    unsigned index = store->shard->index, count = store->shard->node->shard_count;
    struct stream_end own = {.segment_next = 1};
    char path[STREAM_PATH_MAX];
    int rc = 0;

    for (unsigned i = 0; i < store->end_count && rc == 0; i++) {
        const struct stream_end *e = &store->ends[i];

        if (e->stream == index)
            own = *e;
        else if (e->stream >= count && e->stream % count == index && e->segment != 0 && !e->untouched)
            rc = stream_seal(store, (uint16_t)e->stream, e->segment_next, e->segment, e->offset, e->sequence);
    }
    if (rc == 0)
        rc = dir_make(stream_directory_path(path, (uint16_t)index), 0700);
    if (rc == 0)
        rc = dir_flush("streams");
    return rc < 0 ? rc
                  : stream_open(&store->stream, store, (uint16_t)index, own.segment_next, own.segment,
                                own.offset, own.sequence);
}

static int store_start(struct store *store)
{
    int rc = start_locked(store);

    if (rc < 0)
        return rc;
    secret_make(store);
    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++)
        store->partitions[i].served = store_partition_shard(store, i) == store->shard->index;
    rc = start_scanned(store);
    store->stream.number = (uint16_t)store->shard->index; /* Names the reserve. */
    if (rc == 0)
        rc = reserve_find(store); /* With a full disk it is what the stream goes on in. */
    if (rc == 0)
        rc = streams_open(store);
    if (rc == 0)
        rc = heads_take(store);
    if (rc == 0)
        rc = reserve_take(store);
    return rc;
}

static void store_free(struct store *store)
{
    struct heap *h = store->heap;

    stream_close(&store->stream);
    segment_files_close(store);
    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++)
        account_table_fini(&store->partitions[i].table, h);
    heap_free(h, store->partitions);
    heap_free(h, store->ends);
    map_fini(&store->accounts);
    store->shard->slot[SLOT_STORE] = NULL;
    heap_free(h, store);
}

int store_open(const struct store_config *config, struct store **store_out)
{
    struct store *store = store_of(shard_self());
    int rc;

    config_set(store, config);
    rc = store_start(store);
    if (rc < 0) {
        /* Other shards' messages may still come: the rest goes with the heap. */
        stream_close(&store->stream);
        segment_files_close(store);
        return rc;
    }
    phase_set(store, STORE_OPEN, 0);
    *store_out = store;
    return 0;
}

void store_close(struct store *store)
{
    fiber_mask();
    store->phase = STORE_CLOSING;
    while (store->open_count > 0 || store->checkpointing)
        (void)fiber_queue_wait(&store->drained, 0);
    accounts_trim(store, true);
    if (!store->stream.failed && checkpoint_write(store) < 0)
        log_event(LOG_WARN, "store: no checkpoint, the next start takes longer", "shard=%u",
                  store->shard->index);
    store_free(store);
    fiber_unmask();
}

/* ---- Checkpoints --------------------------------------------------------------------------------------- */

static void checkpoint_run(void *arg)
{
    struct store *store = arg;
    int rc = checkpoint_write(store);

    if (rc < 0)
        log_event(LOG_WARN, "store: checkpoint was not written", "shard=%u error=%s", store->shard->index,
                  log_error(rc));
    store->checkpointing = false;
    fiber_queue_wake_all(&store->drained, 0);
}

void store_checkpoint_if_due(struct store *store)
{
    uint64_t due = MAX(store->config.checkpoint_size, 4 * store->checkpoint_size);

    if (store->checkpointing || store->phase != STORE_OPEN || store->checkpoint_bytes < due)
        return;
    store->checkpointing = true;
    if (fiber_start("store checkpoint", RUN_BULK, checkpoint_run, store) == NULL)
        store->checkpointing = false; /* Asked again after the next change. */
}

/* ---- Watches ------------------------------------------------------------------------------------------- */

uint64_t store_account_hash(const struct store *store, struct slice user)
{
    struct id128 id = store_account_id(store, user);

    return get_u64(id.bytes + 8);
}

uint64_t store_user_modseq(const struct store *store, struct slice user)
{
    struct id128 id = store_account_id(store, user);
    const struct partition *p = &store->partitions[get_u64(id.bytes) & (STORE_PARTITION_COUNT - 1)];
    struct account_entry e;

    return account_table_find(&p->table, &id, &e) ? e.modseq : 0;
}

void store_watch(struct store *store, store_watch_fn *changed, void *arg)
{
    store->changed = changed;
    store->changed_arg = arg;
}

void store_notify(struct store *store, const struct id128 *id, const struct store_change *change)
{
    if (store->changed != NULL)
        store->changed((unsigned)(get_u64(id->bytes) & (STORE_PARTITION_COUNT - 1)), get_u64(id->bytes + 8),
                       change, store->changed_arg);
}
