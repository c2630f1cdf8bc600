#include "roles/director/passdb.h"
#include "core/config.h"
#include "core/fiber.h"
#include "core/heap.h"
#include "core/io.h"
#include "core/list.h"
#include "core/log.h"
#include "core/metrics.h"
#include "core/shard.h"
#include "roles/director/digest.h"
#include "roles/director/login_cache.h"
#include "roles/director/passwd_file.h"
#include <errno.h>
#include <fcntl.h>

#define CHECK_INTERVAL_MS 1000
#define READ_SIZE         (256 * 1024)
#define BUILD_LINES       256
#define BUILD_WORK_A_LINE 64
#define BAD_LINES_TOLD    10
#define SETTLE_S          2 /* A file whose last line is not ended may still be written. */

/* ---- The table and who holds it ---------------------------------------------------------------------------
 *
 *     shard k                                   shard 0
 *     request (SUBSCRIBE, CHECK) ---->          loader: reads the file on a fiber
 *     <---- request, so that it can be used again
 *     <---- offer: here is the table
 *     offer, with the table held before  ---->  loader: frees a table that nobody holds */

struct table { /* Immutable once offered; `holder_count` is the loader's. */
    struct passwd_table *users;
    uint8_t key[DIGEST_SIZE]; /* Of fingerprints and of the caches' MACs. */
    unsigned holder_count;
};

struct offer { /* One a subscriber, on shard 0. */
    struct shard_message message;
    struct list link;
    struct passdb *to;
    struct shard *to_shard;
    struct shard *home;
    struct table *table;    /* Offered; on the way back: what was held before. NULL: none. */
    const struct table *at; /* The last one that was offered. */
    int rc;                 /* The file could not be read. */
    bool in_flight;
};

enum request_kind { REQUEST_SUBSCRIBE, REQUEST_CHECK };

struct request {
    struct shard_message message;
    struct passdb *passdb;
    struct shard *home;
    enum request_kind kind;
    bool in_flight;
};

struct loader { /* On shard 0, in SLOT_PASSDB. */
    struct shard *shard;
    const char *path;
    struct table *current;
    struct list offers;
    struct fiber_waiter waiter;
    uint8_t key[DIGEST_SIZE];
    uint64_t checked_ms;
    struct file_info seen; /* Of the file that `current` was read from. */
    int rc;                /* Of the last reading. */
    bool busy, forced;     /* A fiber reads; whatever the file's time says. */
    bool read_once;
    void (*changed)(struct slice user); /* NULL: nobody wants to know. */
    struct timer watch;
};

/* One verification in flight; others who bring the same user and password wait for it. */
struct flight {
    struct list link;
    uint8_t mac[DIGEST_SIZE];
    struct fiber_queue waiters;
};

struct passdb {
    struct shard *shard;
    const char *static_password; /* NULL: the file counts. */
    struct table *table;
    struct login_cache cache;
    struct list flights;
    struct request request;
    struct fiber_queue opening;
    uint64_t checked_ms;
    uint32_t failure_delay_ms;
    int open_rc;
    bool opened;
    uint8_t key[DIGEST_SIZE]; /* Of all tables, and without a file. */
};

/* ---- The loader ---------------------------------------------------------------------------------------- */

static void offer_send(struct loader *l, struct offer *o);

static void table_drop(struct loader *l, struct table *t)
{
    if (t == NULL || --t->holder_count > 0)
        return;
    passwd_table_free(t->users);
    heap_unmap_secret(l->shard->heap, t);
}

static void offer_returned(struct shard_message *m)
{
    struct offer *o = CONTAINER_OF(m, struct offer, message);
    struct loader *l = shard_self()->slot[SLOT_PASSDB];

    o->in_flight = false;
    table_drop(l, o->table);
    o->table = NULL;
    if (o->at != l->current)
        offer_send(l, o);
}

static void offer_taken(struct shard_message *m)
{
    struct offer *o = CONTAINER_OF(m, struct offer, message);
    struct passdb *p = o->to;
    struct table *before = p->table;

    if (o->rc == 0) {
        p->table = o->table;
        o->table = before;
    }
    p->open_rc = o->rc;
    p->opened = true;
    fiber_queue_wake_all(&p->opening, 0);
    o->message.deliver = offer_returned;
    shard_send(o->home, &o->message);
}

static void offer_send(struct loader *l, struct offer *o)
{
    if (o->in_flight || !l->read_once)
        return;
    o->table = l->current;
    o->at = l->current;
    o->rc = l->current != NULL ? 0 : l->rc;
    if (l->current != NULL)
        l->current->holder_count++;
    o->in_flight = true;
    o->message.deliver = offer_taken;
    shard_send(o->to_shard, &o->message);
}

struct bad_lines {
    const char *path;
    unsigned count;
};

static void line_bad(void *arg, uint32_t line_number, const char *why)
{
    struct bad_lines *bad = arg;

    if (bad->count++ < BAD_LINES_TOLD)
        log_event(LOG_WARN, "passwd-file: a line is not understood", "file=%s line=%u reason=%s",
                  log_quote(slice_str(bad->path)), (unsigned)line_number, log_quote(slice_str(why)));
}

static int text_read(struct file f, char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = file_read(f, text + at, MIN(size - at, READ_SIZE), at);

        if (n < 0)
            return (int)n;
        if (n == 0)
            return -EAGAIN; /* It became shorter while it was read: somebody writes it. */
        at += (size_t)n;
    }
    return 0;
}

/* The whole file into one block; size 0 gives a block, too. */
static int file_text(struct loader *l, char **text_out, size_t *size_out)
{
    uint64_t size;
    struct file f;
    char *text;
    int rc;

    rc = file_open(l->path, O_RDONLY, 0, &f);
    if (rc < 0)
        return rc;
    rc = file_size(f, &size);
    if (rc < 0)
        goto close;
    rc = -EFBIG;
    if (size > PASSWD_FILE_SIZE_MAX)
        goto close;
    rc = -ENOMEM;
    text = heap_try_map_secret(l->shard->heap, size + 1);
    if (text == NULL)
        goto close;
    rc = text_read(f, text, size);
    if (rc == 0) {
        *text_out = text;
        *size_out = size;
    } else {
        heap_unmap_secret(l->shard->heap, text);
    }
close:
    file_close(f);
    return rc;
}

static int table_build(struct passwd_table *users, struct bad_lines *bad)
{
    while (passwd_table_build(users, BUILD_LINES, line_bad, bad)) {
        int rc = fiber_work(BUILD_LINES * BUILD_WORK_A_LINE);

        if (rc < 0)
            return rc;
    }
    return 0;
}

/* One who rewrites the file in place must not make all others' mail bounce meanwhile. */
static bool is_half_written(const struct file_info *info, const char *text, size_t size)
{
    return size > 0 && text[size - 1] != '\n' && time_wall() - info->modified_ns / 1000000000 < SETTLE_S;
}

static int table_read(struct loader *l, const struct file_info *info, struct table **table_out)
{
    struct heap *heap = l->shard->heap;
    struct bad_lines bad = {l->path, 0};
    struct passwd_table *users;
    struct table *t;
    size_t size = 0;
    char *text = NULL;
    int rc;

    rc = file_text(l, &text, &size);
    if (rc < 0)
        return rc;
    users = l->current != NULL && is_half_written(info, text, size)
                ? NULL
                : passwd_table_new(heap, text, size, random_u64());
    if (users == NULL) {
        heap_unmap_secret(heap, text);
        return -EAGAIN;
    }
    rc = table_build(users, &bad);
    if (rc == 0 && l->current != NULL && users->good_count == 0)
        rc = -ENODATA; /* Truncated, or no passwd-file at all. */
    t = rc == 0 ? heap_try_map_secret(heap, sizeof *t) : NULL;
    if (t == NULL) {
        passwd_table_free(users);
        return rc < 0 ? rc : -ENOMEM;
    }
    t->users = users;
    t->holder_count = 1; /* The loader itself. */
    memcpy(t->key, l->key, sizeof t->key);
    log_event(LOG_INFO, "passwd-file read", "file=%s users=%u not_understood=%u",
              log_quote(slice_str(l->path)), users->good_count, bad.count);
    *table_out = t;
    return 0;
}

static void entries_compare(struct loader *l, const struct passwd_table *before,
                            const struct passwd_table *now)
{
    struct passwd_entry a, b;
    struct user_name user;

    for (uint32_t i = 0; i < before->entry_count; i++) {
        passwd_table_entry(before, i, &a);
        if (l->changed != NULL && user_name_parse(a.user, &user) &&
            (!passwd_table_find(now, &user, &b) || !slice_eq(a.line, b.line)))
            l->changed(a.user);
        if (i % BUILD_LINES == 0 && fiber_work(BUILD_LINES * BUILD_WORK_A_LINE) < 0)
            return;
    }
}

static void load(struct loader *l)
{
    struct table *t = NULL, *before = NULL;
    struct file_info info;

    l->rc = file_stat(l->path, &info);
    if (l->rc == 0 && l->read_once && !l->forced && memcmp(&info, &l->seen, sizeof info) == 0)
        return;
    l->forced = false;
    if (l->rc == 0)
        l->rc = table_read(l, &info, &t);
    l->read_once = true;
    if (l->rc < 0) {
        log_event(LOG_ERROR, "passwd-file cannot be read", "file=%s error=%s kept=%s",
                  log_quote(slice_str(l->path)), log_error(l->rc), l->current != NULL ? "yes" : "no");
    } else {
        before = l->current;
        l->current = t;
        l->seen = info;
    }
    list_each(it, &l->offers)
    {
        struct offer *o = CONTAINER_OF(it, struct offer, link);

        if (o->at != l->current || l->current == NULL)
            offer_send(l, o);
    }
    if (before != NULL && l->changed != NULL) /* Nobody is let in by the old one any more. */
        entries_compare(l, before->users, t->users);
    table_drop(l, before);
}

static void load_run(void *arg)
{
    struct loader *l = arg;

    do {
        load(l);
    } while (l->forced && l->rc == 0); /* Asked for again meanwhile. */
    l->checked_ms = time_ms();
    l->busy = false;
}

static void load_start(struct fiber_waiter *w)
{
    struct loader *l = CONTAINER_OF(w, struct loader, waiter);

    if (fiber_start("passwd-file", RUN_BULK, load_run, l) == NULL)
        fiber_when_free(&l->waiter);
}

static void load_soon(struct loader *l)
{
    if (l->busy)
        return;
    l->busy = true;
    load_start(&l->waiter);
}

static void on_watch(struct timer *t)
{
    struct loader *l = CONTAINER_OF(t, struct loader, watch);

    load_soon(l);
    timer_set(&l->watch, CHECK_INTERVAL_MS);
}

static struct loader *loader_get(struct shard *s)
{
    struct loader *l = s->slot[SLOT_PASSDB];

    if (l != NULL)
        return l;
    l = heap_try_map_secret(s->heap, sizeof *l);
    ASSERT(l != NULL); /* At the start, when the budget is all there. */
    l->shard = s;
    l->path = config_string(s->node->config, "auth.passwd_file");
    list_init(&l->offers);
    list_init(&l->waiter.link);
    l->waiter.free_done = load_start;
    timer_init(&l->watch, on_watch);
    s->slot[SLOT_PASSDB] = l;
    return l;
}

static void subscribe(struct loader *l, struct request *r)
{
    struct offer *o = heap_zalloc(l->shard->heap, sizeof *o);

    o->to = r->passdb;
    o->to_shard = r->home;
    o->home = l->shard;
    list_push_back(&l->offers, &o->link);
    offer_send(l, o);
}

static void request_returned(struct shard_message *m)
{
    CONTAINER_OF(m, struct request, message)->in_flight = false;
}

static void request_arrived(struct shard_message *m)
{
    struct request *r = CONTAINER_OF(m, struct request, message);
    struct loader *l = loader_get(shard_self());
    bool due = !l->read_once || time_ms() - l->checked_ms >= CHECK_INTERVAL_MS;

    if (r->kind == REQUEST_SUBSCRIBE) {
        memcpy(l->key, r->passdb->key, sizeof l->key);
        subscribe(l, r);
    }
    if (due)
        load_soon(l);
    r->message.deliver = request_returned;
    shard_send(r->home, &r->message);
}

static void request_send(struct passdb *p, enum request_kind kind)
{
    struct request *r = &p->request;

    if (r->in_flight)
        return;
    r->in_flight = true;
    r->kind = kind;
    r->message.deliver = request_arrived;
    shard_send(p->shard->node->shards[0], &r->message);
}

/* ---- A shard's own half -------------------------------------------------------------------------------- */

int passdb_open(struct shard *s, const uint8_t key[DIGEST_SIZE], struct passdb **p_out)
{
    const struct config *c = s->node->config;
    struct passdb *p = heap_try_map_secret(s->heap, sizeof *p);
    int rc = 0;

    if (p == NULL)
        return -ENOMEM;
    p->shard = s;
    p->request.passdb = p;
    p->request.home = s;
    p->static_password = config_string(c, "auth.static_password");
    p->failure_delay_ms = (uint32_t)config_duration_ms(c, "auth.failure_delay");
    list_init(&p->flights);
    fiber_queue_init(&p->opening);
    login_cache_init(&p->cache, s->heap, (uint32_t)config_u64(c, "auth.cache_size"),
                     config_duration_ms(c, "auth.cache_ttl"));
    memcpy(p->key, key, sizeof p->key);
    if (p->static_password == NULL && config_string(c, "auth.passwd_file") != NULL) {
        request_send(p, REQUEST_SUBSCRIBE);
        while (rc == 0 && !p->opened)
            rc = fiber_queue_wait(&p->opening, 0);
        rc = rc == 0 ? p->open_rc : rc;
    }
    /* After a failure the node ends: shard 0 still knows this passdb, so it stays where it is. */
    if (rc == 0)
        *p_out = p;
    return rc;
}

void passdb_close(struct passdb *p)
{
    if (p == NULL)
        return;
    login_cache_fini(&p->cache);
    bytes_wipe(p->key, sizeof p->key);
}

uint32_t passdb_failure_delay_ms(const struct passdb *p)
{
    return p->failure_delay_ms;
}

void passdb_reload(struct shard *s)
{
    struct loader *l = s->slot[SLOT_PASSDB];

    if (l == NULL)
        return; /* There is no file. */
    l->forced = true;
    load_soon(l);
}

void passdb_watch(struct shard *s, void (*changed)(struct slice user))
{
    struct loader *l = s->slot[SLOT_PASSDB];

    if (l == NULL)
        return; /* There is no file. */
    l->changed = changed;
    if (changed != NULL)
        timer_set(&l->watch, CHECK_INTERVAL_MS);
    else
        timer_cancel(&l->watch);
}

static void check_sometimes(struct passdb *p)
{
    if (p->table == NULL || time_ms() - p->checked_ms < CHECK_INTERVAL_MS)
        return;
    p->checked_ms = time_ms();
    request_send(p, REQUEST_CHECK);
}

static bool find(struct passdb *p, const struct user_name *user, struct passwd_entry *entry)
{
    return p->table != NULL && passwd_table_find(p->table->users, user, entry);
}

static void fingerprint(const struct passdb *p, const struct passwd_entry *entry,
                        uint8_t digest_out[DIGEST_SIZE])
{
    struct slice parts[] = {SLICE("entry"), entry->line};

    digest_hmac(p->table->key, parts, ARRAY_COUNT(parts), digest_out);
}

static void result_of_entry(struct passdb *p, const struct user_name *user, const struct passwd_entry *entry,
                            struct passdb_result *out)
{
    uint8_t digest[DIGEST_SIZE];

    fingerprint(p, entry, digest);
    *out = (struct passdb_result){.user = *user, .fingerprint = get_u64(digest), .disabled = entry->disabled};
}

int passdb_exists(struct passdb *p, struct slice user, struct passdb_result *out)
{
    struct passwd_entry entry;
    struct user_name name;

    check_sometimes(p);
    if (!user_name_parse(user, &name))
        return -ENOENT;
    if (p->static_password != NULL) {
        *out = (struct passdb_result){.user = name, .any_user = true};
        return 0;
    }
    if (!find(p, &name, &entry))
        return -ENOENT;
    if (entry.broken)
        return -EAGAIN;
    result_of_entry(p, &name, &entry, out);
    return 0;
}

/* ---- Verification -------------------------------------------------------------------------------------- */

/* What one login is about; holds no pointer into the table, which may change while a helper computes. */
struct attempt {
    struct passdb_result result; /* If it is right. */
    uint8_t mac[DIGEST_SIZE];
    uint64_t tag;
    /* The user exists and has a password. Else another hash is computed, for the time that it takes. */
    bool known;
};

static void attempt_mac(const struct passdb *p, const struct user_name *user,
                        const uint8_t entry[DIGEST_SIZE], struct slice password, struct attempt *a)
{
    uint8_t tag[DIGEST_SIZE];
    struct slice parts[] = {SLICE("login"), slice_of(&user->size, 1), user_name_slice(user),
                            slice_of(entry, DIGEST_SIZE), password};
    struct slice tag_parts[] = {SLICE("user"), user_name_slice(user)};

    digest_hmac(p->table->key, parts, ARRAY_COUNT(parts), a->mac);
    digest_hmac(p->table->key, tag_parts, ARRAY_COUNT(tag_parts), tag);
    a->tag = get_u64(tag);
}

/* Runs the hash on a helper. 0: it was computed, and *right_out says. */
static int hash_compute(struct passdb *p, const struct password_hash *hash, struct slice password,
                        bool *right_out)
{
    struct heap *heap = p->shard->heap;
    struct password_job *job = heap_try_alloc(heap, password_job_size());
    int rc = -EACCES;

    if (job == NULL)
        return -EAGAIN;
    if (password_job_set(job, hash, password)) {
        p->shard->metrics->passdb_lookups++;
        rc = helper_call(password_job_run, job);
    }
    if (rc == 0)
        *right_out = password_job_right(job);
    bytes_wipe(job, password_job_size());
    heap_free(heap, job);
    return rc;
}

static struct flight *flight_find(struct passdb *p, const uint8_t mac[DIGEST_SIZE])
{
    list_each(it, &p->flights)
    {
        struct flight *f = CONTAINER_OF(it, struct flight, link);

        if (bytes_equal_secret(f->mac, mac, DIGEST_SIZE))
            return f;
    }
    return NULL;
}

/* 0: right. -EACCES: wrong. One computation for all who ask the same at the same time. */
static int hash_verify(struct passdb *p, const struct attempt *a, const struct password_hash *hash,
                       struct slice password)
{
    struct flight *other = flight_find(p, a->mac), own;
    bool right = false;
    int rc;

    if (other != NULL)
        return fiber_queue_wait(&other->waiters, 0);
    memcpy(own.mac, a->mac, sizeof own.mac);
    fiber_queue_init(&own.waiters);
    list_push_back(&p->flights, &own.link);
    rc = hash_compute(p, hash, password, &right);
    if (rc == 0 && (!right || !a->known))
        rc = -EACCES;
    list_remove(&own.link);
    fiber_queue_wake_all(&own.waiters, rc == -ECANCELED ? -EAGAIN : rc);
    return rc;
}

static int verify_entry(struct passdb *p, const struct user_name *user, struct slice password,
                        struct attempt *a)
{
    struct passwd_entry entry;
    uint8_t digest[DIGEST_SIZE], name_digest[DIGEST_SIZE];
    struct slice name_parts[] = {SLICE("unknown"), user_name_slice(user)};
    int rc;

    digest_hmac(p->table->key, name_parts, ARRAY_COUNT(name_parts), name_digest);
    a->known = find(p, user, &entry) && entry.has_password;
    if (!a->known && !passwd_table_any(p->table->users, get_u64(name_digest), &entry))
        return -EACCES; /* Nobody has a password. */
    fingerprint(p, &entry, digest);
    attempt_mac(p, user, digest, password, a);
    a->result =
        (struct passdb_result){.user = *user, .fingerprint = get_u64(digest), .disabled = entry.disabled};
    if (entry.password.kind == PASSWORD_PLAIN)
        return digest_equal_text(p->table->key, entry.password.hash, password) && a->known ? 0 : -EACCES;
    if (a->known && login_cache_has(&p->cache, a->tag, a->mac, time_ms()))
        return 0;
    rc = hash_verify(p, a, &entry.password, password);
    if (rc == 0)
        login_cache_put(&p->cache, a->tag, a->mac, time_ms());
    return rc;
}

int passdb_verify(struct passdb *p, struct slice user, struct slice password, struct passdb_result *out)
{
    struct attempt a = {.known = false};
    struct user_name name;
    int rc;

    check_sometimes(p);
    if (!user_name_parse(user, &name) || password.size == 0 || password.size > PASSWORD_MAX)
        return -EACCES;
    if (p->static_password != NULL) {
        if (!digest_equal_text(p->key, slice_str(p->static_password), password))
            return -EACCES;
        *out = (struct passdb_result){.user = name, .any_user = true};
        return 0;
    }
    if (p->table == NULL)
        return -EACCES;
    rc = verify_entry(p, &name, password, &a);
    if (rc < 0)
        return rc;
    if (a.result.disabled)
        return -EPERM;
    *out = a.result;
    return 0;
}
