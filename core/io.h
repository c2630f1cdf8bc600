/* core/io.h -- the one door to what a program cannot control: sockets, files, time, randomness.
 *
 * Two implementations, chosen at link time: core/uring/ (io_uring, direct descriptors) and core/sim/ (a seeded,
 * deterministic world of nodes, networks and disks). Everything acts on the current shard (shard_self()).
 *
 * Two shapes. Sockets are asynchronous: a `struct io_op` inside its owner, completed from the loop, never inside
 * the call that submitted it; each submitted operation completes exactly once, also when cancelled or when its
 * socket is shut down. Files are for fibers: the call suspends and returns the result.
 * Errors are -errno. */
#pragma once
#include "core/base.h"
#include <sys/uio.h>

struct shard;

/* ---- Addresses ----------------------------------------------------------------------------------------- */

struct net_addr {
    uint8_t ip[16]; /* IPv4 in the first four bytes. */
    uint16_t port;  /* Host order. */
    uint8_t family; /* AF_INET or AF_INET6; AF_UNIX: without address or port; 0: none. */
};

/* "127.0.0.1:143", "[::1]:143", "*:143". False: not an address. */
MUST_CHECK bool net_addr_parse(struct slice text, struct net_addr *addr_out);
#define NET_ADDR_TEXT_MAX 56
/* Writes text and NUL; returns buffer. */
char *net_addr_format(const struct net_addr *a, char buffer[NET_ADDR_TEXT_MAX]);
bool net_addr_is_loopback(const struct net_addr *a);
/* RFC 4291 2.5.5.2: an IPv4 peer of an IPv6 listener. His address is in the last four bytes. */
bool net_addr_is_mapped(const struct net_addr *a);
bool net_addr_same_host(const struct net_addr *a, const struct net_addr *b);
/* The same address and port. (The struct has padding: memcmp() would compare that, too.) */
bool net_addr_same(const struct net_addr *a, const struct net_addr *b);
/* What one subscriber of a network has of its addresses: 4 bytes of IPv4 (mapped, too), 8 of IPv6. Borrows a. */
struct slice net_addr_subscriber(const struct net_addr *a);

/* ---- Operations ---------------------------------------------------------------------------------------- */

struct io_op {
    void (*done)(struct io_op *op); /* Set by the owner before submission; called from the loop. */
    int32_t res;                    /* Result: >= 0, or -errno. */
    bool in_flight;                 /* From submission until just before done() is called. */
    bool recv_owned;                /* A received buffer is on loan: io_recv_release() is due. */
    uint16_t recv_buffer;           /* Private. */
    uint32_t index;                 /* Private: place in the shard's table of operations. */
    struct slice data;              /* io_recv: the bytes received, on loan. */
};

/* Asks for an early end. The operation still completes, with -ECANCELED or with what it had already done. */
void io_cancel(struct io_op *op);

/* ---- Sockets ------------------------------------------------------------------------------------------- */

/* A direct descriptor: ring of this shard, slot in its table, generation of the slot. Never an int. */
struct sock {
    uint32_t slot;
    uint16_t ring;
    uint16_t generation;
};
#define SOCK_NONE ((struct sock){UINT32_MAX, 0, 0})
static inline bool sock_valid(struct sock s)
{
    return s.slot != UINT32_MAX;
}

/* Listens with SO_REUSEPORT: each shard has its own. The process may have been started with it (node_options.listeners);
 * else it is opened here. At start; may block shortly. */
MUST_CHECK int io_listen(const struct net_addr *addr, struct sock *listener_out);
/* The same for a Unix socket that only this process's user may connect to (mode 0600). The path is absolute, or
 * relative to the node's `data` directory; a socket that nobody listens on any more is replaced.
 * -EADDRINUSE: somebody does, or it is another kind of file. Peers of its connections have the family AF_UNIX and no address. -EAFNOSUPPORT:
 * the simulator has none. */
MUST_CHECK int io_listen_unix(const char *path, struct sock *listener_out);
/* The port that the kernel chose for port 0. */
MUST_CHECK int io_listen_port(struct sock listener, uint16_t *port_out);

struct io_accept {
    struct io_op op; /* res: 0, or -errno (-ENFILE: no slot free; retry later). */
    struct sock sock;
    struct net_addr peer;
    char address_space[32]; /* Private: the kernel writes the peer here. */
    uint32_t address_size;
};
/* One shot: keeps the peer's address. Several may be in flight on one listener. */
void io_accept(struct sock listener, struct io_accept *a);

struct io_connect {
    struct io_op op; /* res: 0, or -errno. */
    struct sock sock;
    struct net_addr peer; /* Set by the owner. */
    char address_space[32];
    int fd, slot; /* Private: on its way into the table. */
};
void io_connect(struct io_connect *c);

/* Waits until the socket can be read, or the peer has closed: what an idle connection has armed. Completes once;
 * res: a poll(2) mask. Takes the place of a watch of the socket, which then tells nothing any more. */
void io_poll(struct sock s, struct io_op *op);
/* The same for an owner that keeps no operation while it waits: the socket remembers `cookie` until fired(cookie,
 * res) of io_watch_with(). Takes the place of a poll in flight, whose operation then counts as never submitted (it
 * must not have been cancelled). Neither change of places asks anything of the kernel. One a socket; io_close() ends
 * it. Not behind io_shutdown(). */
void io_watch(struct sock s, uint32_t cookie);
/* Once, before the shard's first io_watch(). fired() is called from the loop. */
void io_watch_with(void (*fired)(uint32_t cookie, int32_t res));
/* Receives into a buffer of the shard's ring: res > 0 and op->data on loan until io_recv_release(); 0: end of
 * stream; -ENOBUFS: all buffers are out, ask again after a turn. What an active connection has armed. */
void io_recv(struct sock s, struct io_op *op);
void io_recv_release(struct io_op *op);
/* Receives into `space` of the owner's, which lives until done(): for a peer that sends more at a time than one of the
 * ring's buffers takes. res as io_recv(), op->data within `space`, and nothing to release. */
void io_recv_into(struct sock s, struct io_op *op, void *space, size_t size);
/* Sends all of it or fails. One in flight a socket. The vector and its bytes live until done(). */
void io_send(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count);
/* The same for what its owner need not hear of soon: that all of it went out at once makes no turn of its own. It is
 * told soon when it is awaited, else with what happens next, mostly with the next receive on that socket. Everything else (the kernel has no room for all of it now, an error) is told as io_send() tells it. */
void io_send_quiet(struct sock s, struct io_op *op, const struct iovec *vector, unsigned count);
/* Its owner waits for it by now: it is told like any other send. Nothing if it is not in flight. */
void io_send_awaited(struct io_op *op);
/* A few bytes for an owner that keeps no operation either. All of them leave at once, before what is sent on that socket later; or, if
 * the kernel has no room for them now, that is the end of the connection, and whoever polls, watches or receives hears of it. Copies. */
#define IO_WORD_MAX 128
void io_send_word(struct sock s, struct slice word);
/* Ends both directions: every operation in flight on it completes soon. */
void io_shutdown(struct sock s);
/* No operation may be in flight on it; a watch may. */
void io_close(struct sock s);

/* ---- Sockets that go to another process: fibers only, each call suspends ------------------------------- */

#define PASS_SOCKETS_MAX 64
#define PASS_SIZE_MAX    (48 * 1024)

/* One message with `count` sockets, at most PASS_SOCKETS_MAX, through `fd`: an end of a socketpair(2) of SOCK_SEQPACKET that the process was
 * given. The sockets stay open here as well; the receiver has them as soon as it is sent. 0; -EPIPE, -ECONNRESET: nobody is at
 * the other end; -errno: it was not sent. */
MUST_CHECK int pass_send(int fd, struct slice message, const struct sock *socks, unsigned count);
/* Waits for one, of at most `size` bytes. Its size; 0: the other end is closed; -ENFILE and the like: it is lost, and its sockets
 * are closed here. */
MUST_CHECK ssize_t pass_receive(int fd, void *message, size_t size, struct sock socks[PASS_SOCKETS_MAX],
                                unsigned *count_out);
void pass_close(int fd);

/* ---- Files: fibers only, each call suspends; 0 or -errno ----------------------------------------------- */

struct file {
    uint32_t slot; /* UINT32_MAX: none. */
};
#define FILE_NONE ((struct file){UINT32_MAX})
static inline bool file_valid(struct file f)
{
    return f.slot != UINT32_MAX;
}

/* flags and mode as open(2). The path is absolute, or relative to the node's `data` directory. */
MUST_CHECK int file_open(const char *path, int flags, mode_t mode, struct file *file_out);
void file_close(struct file f); /* Does not suspend. */
/* Bytes read (short only at the end of the file), or -errno. */
MUST_CHECK ssize_t file_read(struct file f, void *data, size_t size, uint64_t offset);
/* Writes all of it, or fails: then nothing is known about that range. */
MUST_CHECK int file_write(struct file f, const struct iovec *vector, unsigned count, uint64_t offset);
/* fdatasync(2). After a failure what was written since the last success is lost: never retry, write it anew. */
MUST_CHECK int file_flush(struct file f);
/* A write and the flush after it, submitted as one chain. */
MUST_CHECK int file_write_flush(struct file f, const struct iovec *vector, unsigned count, uint64_t offset);
MUST_CHECK int file_size(struct file f, uint64_t *size_out);
/* Has the file of that name changed? Equal in all three: no. */
struct file_info {
    uint64_t size, inode;
    int64_t modified_ns;
};
MUST_CHECK int file_stat(const char *path, struct file_info *info_out);
MUST_CHECK int file_truncate(struct file f, uint64_t size);
/* Reserves space, so that a later write does not change the file's size. */
MUST_CHECK int file_allocate(struct file f, uint64_t offset, uint64_t size);
MUST_CHECK int file_rename(const char *from, const char *to);
MUST_CHECK int file_unlink(const char *path);
MUST_CHECK int dir_make(const char *path, mode_t mode); /* 0 also when it is there. */
/* Makes names in the directory durable. */
MUST_CHECK int dir_flush(const char *path);
/* Calls each(arg, name) for every name but "." and "..", sorted bytewise. */
MUST_CHECK int dir_list(const char *path, void (*each)(void *arg, const char *name), void *arg);
/* Takes the exclusive lock that says 'one process owns this directory', for the life of the process, or until dir_unlock_all().
 * -EBUSY: another holds it. */
MUST_CHECK int dir_lock(const char *path);
/* Nothing below them is open here any more: another process may have them. */
void dir_unlock_all(void);

/* ---- Time and randomness ------------------------------------------------------------------------------- */

/* Monotonic, ns; read once a turn of the loop. Only differences mean anything. */
uint64_t time_ns(void);
static inline uint64_t time_ms(void)
{
    return time_ns() / 1000000;
}
/* Seconds since 1970, from the wall clock: for dates that people read, never for order or for deadlines. */
int64_t time_wall(void);
int64_t time_wall_ms(void);
/* Cryptographically strong, except in the simulator, where it is the seed's. */
void random_bytes(void *data, size_t size);
uint64_t random_u64(void);
