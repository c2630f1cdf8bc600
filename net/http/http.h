/* net/http/http.h -- HTTP/1.1 as an operator's endpoint needs it (RFC 9112): GET, HEAD and POST with
 * Content-Length, keep-alive. What it does not read it refuses: no transfer codings, no folded header lines, no
 * second Content-Length, no absolute targets, nothing that a peer in front could understand differently.
 * Memory: pure; a request points into the input.
 * Bounds: HTTP_HEAD_MAX and HTTP_BODY_MAX bytes, HTTP_HEADERS_MAX lines. */
#pragma once
#include "core/writer.h"

#define HTTP_HEAD_MAX    8192 /* Request line and headers. */
#define HTTP_HEADERS_MAX 64
#define HTTP_BODY_MAX    4096

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST };

struct http_request {
    enum http_method method;
    struct slice path;  /* Begins with '/', as sent: nothing is decoded. */
    struct slice query; /* Behind '?'; empty: none. */
    struct slice body;
    bool keep_alive;
};

enum http_result {
    HTTP_MORE,  /* Not all there yet: offer it again with what follows. */
    HTTP_WHOLE, /* *request_out and *size_out are set. */
    HTTP_BAD,   /* *status_out says why; the connection ends after the reply. */
};

/* `in`: all bytes since the end of the last request. */
MUST_CHECK enum http_result http_request_next(struct slice in, struct http_request *request_out,
                                              size_t *size_out, unsigned *status_out);

/* Status line and headers, with the empty line. `type`: of the content. At most WRITER_NEED_MAX bytes. */
void http_reply_head(struct writer *w, unsigned status, const char *type, uint64_t size, bool keep_alive);
const char *http_status_text(unsigned status);
