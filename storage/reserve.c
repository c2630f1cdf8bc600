/* storage/reserve.c -- space kept for the day when the disk is full: then it is given back, so that expunging
 * can still be written, and new mail is refused until the space could be taken again. */
#include "core/log.h"
#include "storage/store_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

static char *reserve_path(const struct store *store, char path[STREAM_PATH_MAX])
{
    snprintf(path, STREAM_PATH_MAX, "reserve/%04x", store->stream.number);
    return path;
}

static void report_full(struct store *store)
{
    if (!store->full)
        log_event(LOG_ERROR, "store: disk is full, mail is refused; make space", "stream=%u wanted_mib=%llu",
                  store->stream.number, (unsigned long long)(store->config.reserve_size >> 20));
    store->full = true;
}

int reserve_find(struct store *store)
{
    char path[STREAM_PATH_MAX];
    struct file_info info;
    int rc = file_stat(reserve_path(store, path), &info);

    store->reserve_held = rc == 0 && info.size >= store->config.reserve_size;
    return rc == -ENOENT ? 0 : rc;
}

int reserve_take(struct store *store)
{
    char path[STREAM_PATH_MAX];
    struct file file;
    int rc;

    if (store->reserve_held)
        return 0;
    rc = file_open(reserve_path(store, path), O_RDWR | O_CREAT, 0600, &file);
    if (rc == 0) {
        rc = file_allocate(file, 0, store->config.reserve_size);
        file_close(file);
    }
    if (rc == 0) {
        store->reserve_held = true;
        if (store->full)
            log_event(LOG_WARN, "store: there is space again, mail is accepted", "stream=%u",
                      store->stream.number);
        store->full = false;
        return 0;
    }
    if (rc != -ENOSPC)
        return rc;
    if (file_unlink(reserve_path(store, path)) < 0) /* Half of it may be there, and helps nobody. */
        log_event(LOG_WARN, "store: reserve was not removed", "path=%s", path);
    report_full(store);
    return 0;
}

bool reserve_release(struct store *store)
{
    char path[STREAM_PATH_MAX];

    report_full(store);
    if (!store->reserve_held || file_unlink(reserve_path(store, path)) < 0)
        return false;
    store->reserve_held = false;
    return true;
}
