#include "roles/admin/reply.h"
#include "core/log.h"

#define REPLY_FIRST_SIZE 16384

static void reply_more(struct writer *w)
{
    struct reply *r = CONTAINER_OF(w, struct reply, writer);
    size_t used = writer_used(w), size = (size_t)(w->end - w->start);
    char *bigger = NULL;

    if (!r->full && size < REPLY_MAX) {
        size = size > 0 ? size * 2 : REPLY_FIRST_SIZE;
        bigger = w->start != NULL ? heap_try_realloc(r->heap, w->start, size) : heap_try_alloc(r->heap, size);
    }
    if (bigger == NULL) {
        if (!r->full && w->start != NULL)
            heap_free(r->heap, w->start);
        r->full = true;
        w->start = w->at = r->scratch;
        w->end = r->scratch + sizeof r->scratch;
        return;
    }
    w->start = bigger;
    w->at = bigger + used;
    w->end = bigger + size;
}

void reply_init(struct reply *r, struct heap *h, bool json)
{
    *r = (struct reply){.writer = {.more = reply_more}, .heap = h, .status = 200, .json = json};
    r->type = json ? "application/json" : "text/plain; charset=utf-8";
}

void reply_fini(struct reply *r)
{
    if (!r->full && r->writer.start != NULL)
        heap_free(r->heap, r->writer.start);
    r->writer.start = NULL;
}

struct slice reply_text(const struct reply *r)
{
    return r->full ? slice_of(NULL, 0) : slice_of(r->writer.start, writer_used(&r->writer));
}

/* ---- Fields -------------------------------------------------------------------------------------------- */

static void put_text(struct reply *r, const char *text)
{
    writer_slice(&r->writer, slice_str(text));
}

static void put_name(struct reply *r, const char *name)
{
    if (!r->first && r->json)
        writer_char(&r->writer, ',');
    else if (!r->first)
        writer_char(&r->writer, r->separator);
    r->first = false;
    if (r->json)
        writer_printf(&r->writer, "\"%s\":", name);
    else
        writer_printf(&r->writer, "%s=", name);
}

void reply_begin(struct reply *r, char separator)
{
    r->first = true;
    r->separator = separator;
    if (r->json)
        writer_char(&r->writer, '{');
}

void reply_end(struct reply *r)
{
    put_text(r, r->json ? "}\n" : "\n");
}

void reply_array(struct reply *r, const char *name)
{
    if (r->json) {
        put_name(r, name);
        writer_char(&r->writer, '[');
    }
    r->first = true;
}

void reply_array_end(struct reply *r)
{
    if (r->json)
        writer_char(&r->writer, ']');
    r->first = !r->json;
}

void reply_record(struct reply *r)
{
    if (r->json)
        put_text(r, r->first ? "{" : ",{");
    r->first = true;
}

void reply_record_end(struct reply *r)
{
    writer_char(&r->writer, r->json ? '}' : '\n');
    r->first = false;
}

void reply_u64(struct reply *r, const char *name, uint64_t value)
{
    put_name(r, name);
    writer_u64(&r->writer, value);
}

void reply_hex(struct reply *r, const char *name, uint64_t value)
{
    put_name(r, name);
    writer_printf(&r->writer, r->json ? "\"%llx\"" : "%llx", (unsigned long long)value);
}

void reply_bool(struct reply *r, const char *name, bool value)
{
    put_name(r, name);
    put_text(r, value ? "true" : "false");
}

/* log_quote() gives bare words, or a JSON string. */
void reply_slice(struct reply *r, const char *name, struct slice value)
{
    const char *quoted = log_quote(value);
    bool bare = r->json && quoted[0] != '"';

    put_name(r, name);
    if (bare)
        writer_char(&r->writer, '"');
    put_text(r, quoted);
    if (bare)
        writer_char(&r->writer, '"');
}

void reply_error(struct reply *r, unsigned status, const char *text)
{
    reply_fini(r);
    reply_init(r, r->heap, r->json);
    r->status = status;
    if (r->json) {
        reply_begin(r, ' ');
        reply_slice(r, "error", slice_str(text));
        reply_end(r);
    } else {
        put_text(r, text);
        writer_char(&r->writer, '\n');
    }
}
