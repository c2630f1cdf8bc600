/* net/conn_output.h -- what a connection has been given to send: blocks of its own, and loans. Private to net/conn*.c.
 * Owner:  one connection. Memory: the shard's heap; nothing once it is freed. */
#pragma once
#include "core/heap.h"
#include "net/conn.h"
#include <sys/uio.h>

struct conn_piece { /* A block, or a loan. */
    struct conn_piece *next;
    const char *data; /* Not yet sent (TLS: not yet sealed). */
    uint32_t size;
    uint32_t room;              /* A block: behind data + size. */
    void (*release)(void *arg); /* NULL: a block. */
    void *arg;
    char bytes[];
};

struct conn_output {
    struct heap *heap;
    bool secret; /* Blocks are overwritten as they are consumed. */
    struct conn_piece *first, *last;
    uint32_t queued;       /* Plaintext bytes that the kernel has not taken. */
    uint32_t sending;      /* Those of them that the send in flight carries. */
    uint32_t vector_count; /* 0: the send in flight is `cipher`. */
    struct tls_output cipher;
    struct iovec vector[CONN_VECTOR_MAX];
};

struct conn_output *conn_output_new(struct heap *h);
/* Gives loans back. NULL is allowed. */
void conn_output_free(struct conn_output *out);
/* Copies. */
void conn_output_write(struct conn_output *out, struct slice data);
/* Until release(arg). */
void conn_output_lend(struct conn_output *out, struct slice data, void (*release)(void *arg), void *arg);
/* `size` bytes of the first piece are done with. */
void conn_output_consume(struct conn_output *out, size_t size);
/* Gives loans of no bytes back that stand in front. */
void conn_output_trim(struct conn_output *out);
