#include "net/http/http.h"
#include "core/text.h"

struct headers { /* Those that matter. */
    struct slice host, length, connection;
    unsigned host_count, length_count;
    bool coded; /* Transfer-Encoding. */
};

static const struct {
    struct slice name;
    enum http_method method;
} methods[] = {{{"GET", 3}, HTTP_GET}, {{"HEAD", 4}, HTTP_HEAD}, {{"POST", 4}, HTTP_POST}};

static const struct {
    unsigned status;
    const char *text;
} statuses[] = {
    {200, "OK"},
    {400, "Bad Request"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {409, "Conflict"},
    {413, "Content Too Large"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {503, "Service Unavailable"},
    {505, "HTTP Version Not Supported"},
};

static bool is_token(struct slice s)
{
    for (size_t i = 0; i < s.size; i++) {
        char c = s.data[i];

        if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
              (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL)))
            return false;
    }
    return s.size > 0;
}

/* Printable ASCII without blanks; RFC 9112 3.2.1 allows less. */
static bool is_target(struct slice s)
{
    for (size_t i = 0; i < s.size; i++) {
        if (s.data[i] <= ' ' || s.data[i] >= 0x7f || s.data[i] == '#')
            return false;
    }
    return s.size > 0 && s.data[0] == '/';
}

/* 0, or a status. */
static unsigned request_line(struct slice line, struct http_request *r)
{
    size_t method_size = slice_find(line, ' '), target_size, query;
    struct slice method = slice_first(line, method_size), target;
    size_t i = 0;

    if (method_size == line.size || !is_token(method))
        return 400;
    line = slice_from(line, method_size + 1);
    target_size = slice_find(line, ' ');
    if (target_size == line.size)
        return 400;
    target = slice_first(line, target_size);
    line = slice_from(line, target_size + 1);
    if (!slice_eq(line, SLICE("HTTP/1.1")) && !slice_eq(line, SLICE("HTTP/1.0")))
        return line.size > 5 && memcmp(line.data, "HTTP/", 5) == 0 ? 505 : 400;
    while (i < ARRAY_COUNT(methods) && !slice_eq(method, methods[i].name))
        i++;
    if (i == ARRAY_COUNT(methods))
        return 501;
    if (!is_target(target))
        return 400;
    r->method = methods[i].method;
    r->keep_alive = line.data[7] == '1';
    query = slice_find(target, '?');
    r->path = slice_first(target, query);
    r->query = slice_from(target, MIN(query + 1, target.size));
    return 0;
}

static bool header_line(struct slice line, struct headers *h)
{
    size_t colon = slice_find(line, ':');
    struct slice name = slice_first(line, colon), value;

    if (colon == line.size ||
        !is_token(name)) /* A blank before the colon is no token, nor is a folded line. */
        return false;
    value = slice_trim(slice_from(line, colon + 1));
    for (size_t i = 0; i < value.size; i++) {
        if ((value.data[i] >= 0 && value.data[i] < ' ' && value.data[i] != '\t') || value.data[i] == 0x7f)
            return false;
    }
    if (slice_eq_nocase(name, SLICE("Content-Length"))) {
        h->length = value;
        h->length_count++;
    } else if (slice_eq_nocase(name, SLICE("Transfer-Encoding"))) {
        h->coded = true;
    } else if (slice_eq_nocase(name, SLICE("Connection"))) {
        h->connection = value;
    } else if (slice_eq_nocase(name, SLICE("Host"))) {
        h->host_count++;
    }
    return true;
}

/* The next line without its CRLF. False: a bare LF or CR. */
static bool line_next(struct slice *head, struct slice *line_out)
{
    size_t end = slice_find(*head, '\n');

    if (end == head->size || end == 0 || head->data[end - 1] != '\r')
        return false;
    *line_out = slice_first(*head, end - 1);
    *head = slice_from(*head, end + 1);
    return slice_find(*line_out, '\r') == line_out->size;
}

/* `head` ends with the last header's CRLF. 0, or a status. */
static unsigned head_parse(struct slice head, struct http_request *r, uint64_t *body_size_out)
{
    struct headers h = {.coded = false};
    unsigned count = 0, status;
    struct slice line;

    if (!line_next(&head, &line))
        return 400;
    status = request_line(line, r);
    if (status != 0)
        return status;
    while (head.size > 0) {
        if (++count > HTTP_HEADERS_MAX)
            return 431;
        if (!line_next(&head, &line) || !header_line(line, &h))
            return 400;
    }
    if (h.coded)
        return 501;
    if (h.length_count > 1 || h.host_count > 1 || (r->keep_alive && h.host_count == 0))
        return 400;
    if (h.length_count == 1 && !slice_to_u64(h.length, UINT64_MAX, body_size_out))
        return 400;
    if (*body_size_out > HTTP_BODY_MAX)
        return 413;
    if (slice_eq_nocase(h.connection, SLICE("close")))
        r->keep_alive = false;
    return 0;
}

/* Where the head ends: behind the first empty line. False: not there. */
static bool head_end(struct slice in, size_t *size_out)
{
    const char *end = memmem(in.data, in.size, "\r\n\r\n", 4);

    if (end == NULL)
        return false;
    *size_out = (size_t)(end - in.data) + 4;
    return true;
}

enum http_result http_request_next(struct slice in, struct http_request *request_out, size_t *size_out,
                                   unsigned *status_out)
{
    struct http_request r = {.method = HTTP_GET};
    uint64_t body_size = 0;
    size_t head_size;
    unsigned status;

    if (in.size == 0)
        return HTTP_MORE;
    if (!head_end(slice_first(in, MIN(in.size, (size_t)HTTP_HEAD_MAX)), &head_size)) {
        *status_out = 431;
        return in.size >= HTTP_HEAD_MAX ? HTTP_BAD : HTTP_MORE;
    }
    status = head_parse(slice_first(in, head_size - 2), &r, &body_size);
    if (status != 0) {
        *status_out = status;
        return HTTP_BAD;
    }
    if (in.size - head_size < body_size)
        return HTTP_MORE;
    r.body = slice_first(slice_from(in, head_size), body_size);
    *request_out = r;
    *size_out = head_size + body_size;
    return HTTP_WHOLE;
}

const char *http_status_text(unsigned status)
{
    for (size_t i = 0; i < ARRAY_COUNT(statuses); i++) {
        if (statuses[i].status == status)
            return statuses[i].text;
    }
    return "Unknown";
}

void http_reply_head(struct writer *w, unsigned status, const char *type, uint64_t size, bool keep_alive)
{
    writer_printf(w,
                  "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %llu\r\n"
                  "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: %s\r\n\r\n",
                  status, http_status_text(status), type, (unsigned long long)size,
                  keep_alive ? "keep-alive" : "close");
}
