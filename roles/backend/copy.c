/* COPY and MOVE (RFC 3501 6.4.7, RFC 4315 3, RFC 6851): one change, and COPYUID from what it was recorded
 * with. */
#include "roles/backend/command.h"
#include <errno.h>

/* What an operation id remembers, and what is answered: uidvalidity and first UID there, then the ranges
 * here. */
struct copy_done {
    uint32_t uidvalidity, first_uid;
    struct uid_set copied;
};

#define COPY_RESULT_HEAD 8

static struct slice copy_result(struct command *c, const struct copy_done *done)
{
    size_t ranges_size = done->copied.range_count * sizeof(struct uid_range);
    char *result;

    if (ranges_size > CHANGE_RESULT_SIZE_MAX - COPY_RESULT_HEAD)
        return (struct slice){0}; /* A repeat is then answered without COPYUID. */
    result = arena_alloc(&c->arena, COPY_RESULT_HEAD + ranges_size);
    put_u32(result, done->uidvalidity);
    put_u32(result + 4, done->first_uid);
    if (ranges_size > 0)
        memcpy(result + COPY_RESULT_HEAD, done->copied.ranges, ranges_size);
    return slice_of(result, COPY_RESULT_HEAD + ranges_size);
}

static int copy_repeat(struct slice result, struct copy_done *done)
{
    int rc = 0;

    if (result.size < COPY_RESULT_HEAD)
        return 0;
    done->uidvalidity = get_u32(result.data);
    done->first_uid = get_u32(result.data + 4);
    for (size_t at = COPY_RESULT_HEAD; at + sizeof(struct uid_range) <= result.size && rc == 0;
         at += sizeof(struct uid_range)) {
        uint32_t first = get_u32(result.data + at), last = get_u32(result.data + at + 4);

        if (first > 0 && first <= last)
            rc = uid_set_add(&done->copied, first, last);
    }
    return rc;
}

/* The destination is looked up inside the change: it may have gone while this fiber waited its turn. */
static int copy_stage(struct command *c, struct change *change, const struct uid_set *uids, bool move,
                      struct copy_done *done)
{
    struct mailbox *to = account_mailbox(c->account, c->parsed.copy.mailbox);

    if (to == NULL)
        return -ENOENT;
    done->uidvalidity = to->uidvalidity;
    return move ? change_move(change, c->mailbox, uids, to, &done->copied, &done->first_uid)
                : change_copy(change, c->mailbox, uids, to, &done->copied, &done->first_uid);
}

static int copy_change(struct command *c, const struct uid_set *uids, bool move, struct copy_done *done)
{
    struct change change;
    int rc = change_begin(&change, c->account, command_operation(c));

    if (rc == 0) {
        rc = copy_stage(c, &change, uids, move, done);
        if (rc == 0)
            rc = change_commit(&change, copy_result(c, done));
    } else if (rc == -EALREADY) {
        rc = copy_repeat(change.result, done);
    }
    change_end(&change);
    return rc;
}

/* `COPYUID validity source-set destination-set`; NULL: nothing was copied. */
static const char *copyuid_code(struct command *c, const struct copy_done *done)
{
    uint64_t count = uid_set_count(&done->copied);
    const char *name;

    if (count == 0)
        return NULL;
    name = arena_printf(&c->arena, "COPYUID %u", done->uidvalidity);
    name = command_set_code(c, name, &done->copied);
    if (count == 1)
        return arena_printf(&c->arena, "%s %u", name, done->first_uid);
    return arena_printf(&c->arena, "%s %u:%u", name, done->first_uid,
                        (uint32_t)(done->first_uid + count - 1));
}

/* Of what was named and is visible: some was expunged by others, so it was not copied. */
static bool copy_gone(struct command *c, const struct uid_set *uids)
{
    uint32_t seq;

    for (uint32_t i = 0; i < view_gone_count(&c->view); i++)
        if (uid_set_has(uids, view_gone_at(&c->view, i, &seq)->uid))
            return true;
    return false;
}

static enum command_step copy_answer(struct command *c, const struct copy_done *done, bool move, bool gone)
{
    const char *code = copyuid_code(c, done);

    if (move && code != NULL) { /* Before the EXPUNGEs of what moved (RFC 6851 4.3). */
        imap_write_status(command_writer(c), (struct slice){0}, IMAP_OK, code, SLICE("Moved UIDs."));
        code = NULL;
    }
    if (code == NULL && gone)
        code = "EXPUNGEISSUED";
    return command_ok(c, code, move ? "Move completed." : "Copy completed.");
}

static enum command_step copy(struct command *c, bool move)
{
    struct copy_done done = {0};
    struct uid_set uids;
    enum command_step step;
    bool gone;
    int rc;

    uid_set_init(&done.copied, c->backend->heap, 0);
    rc = command_set_uids(c, &c->parsed.copy.set, &uids);
    if (rc < 0) {
        step = command_set_error(c, rc);
    } else {
        gone = copy_gone(c, &uids);
        rc = copy_change(c, &uids, move, &done);
        if (rc == -ENOENT)
            step = command_no(c, "TRYCREATE", "Mailbox doesn't exist.");
        else
            step = rc < 0 ? command_error(c, rc) : copy_answer(c, &done, move, gone);
    }
    uid_set_fini(&uids);
    uid_set_fini(&done.copied);
    return step;
}

enum command_step copy_run(struct command *c)
{
    return copy(c, false);
}

enum command_step move_run(struct command *c)
{
    if (command_read_only(c))
        return command_no(c, "READ-ONLY", "Mailbox is read-only.");
    return copy(c, true);
}
