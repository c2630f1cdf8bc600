/* A process in the sandbox that a configuration's roles get, by the same functions that put the server into it, which then does
 * what an intruder would: one attempt a process, since some end it.
 *
 *     sandbox_probe THREAD ATTEMPT ARGUMENT KEY=VALUE...      THREAD: main, shard, helper
 *
 * Prints "result N", N >= 0 or -errno: of a call by ring, what the ring says. Exit status 0, or death by SIGSYS. */
#include "core/config.h"
#include "core/fiber.h"
#include "core/io.h"
#include "core/node.h"
#include "core/scheduler.h"
#include "core/uring/uring.h"
#include "roles/confinement.h"
#include "roles/settings.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static const char *thread_name, *attempt_name, *argument;
static struct confinement confinement;

/* ---- By system calls ----------------------------------------------------------------------------------- */

static long result(long value)
{
    return value < 0 ? -errno : value;
}

static long try_open(void)
{
    return result(syscall(SYS_openat, AT_FDCWD, argument, O_RDONLY));
}

static long try_write(void)
{
    return result(syscall(SYS_openat, AT_FDCWD, argument, O_WRONLY | O_CREAT, 0600));
}

static long try_socket_tcp(void)
{
    return result(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static long try_socket_udp(void)
{
    return result(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

static long try_socket_unix(void)
{
    return result(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static long try_mptcp(void)
{
    return result(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 262));
}

static long try_bind(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};

    return result(bind(0, (const struct sockaddr *)(const void *)&addr, sizeof addr));
}

static long try_connect(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument))};

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return result(connect(0, (const struct sockaddr *)(const void *)&addr, sizeof addr));
}

static long try_sendto(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument))};

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return result(sendto(0, "x", 1, MSG_FASTOPEN, (const struct sockaddr *)(const void *)&addr, sizeof addr));
}

static long try_setsockopt(void)
{
    int on = 1;

    return result(setsockopt(0, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on));
}

static long try_exec(void)
{
    char *const none[] = {NULL};

    return result(execve("/bin/true", none, none));
}

static long try_fork(void)
{
    return result(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
}

static long try_ptrace(void)
{
    return result(ptrace(PTRACE_TRACEME, 0, 0, 0));
}

static long try_process_vm(void)
{
    char byte;
    struct iovec here = {&byte, 1}, there = {&byte, 1};

    return result(process_vm_readv(getppid(), &here, 1, &there, 1, 0));
}

static long try_ring(void)
{
    struct io_uring_params params = {.flags = 0};

    return result(syscall(SYS_io_uring_setup, 4, &params));
}

static long try_exec_memory(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? -errno : 0;
}

static long try_kill(void)
{
    return result(kill(getppid(), 0));
}

static long try_setuid(void)
{
    return result(syscall(SYS_setresuid, 0, 0, 0));
}

static long try_unknown(void) /* Harmless and on no list. */
{
    return result(syscall(SYS_getrusage, 0, NULL));
}

static long try_nothing(void)
{
    return 0;
}

/* ---- By the ring --------------------------------------------------------------------------------------- */

static long try_ring_open(void)
{
    struct file f;
    int rc = file_open(argument, O_RDONLY, 0, &f);

    if (rc == 0)
        file_close(f);
    return rc;
}

static long try_ring_write(void)
{
    struct file f;
    int rc = file_open(argument, O_WRONLY | O_CREAT, 0600, &f);

    if (rc == 0)
        file_close(f);
    return rc;
}

struct waiting {
    struct io_connect connect;
    struct fiber *fiber;
};

static void connected(struct io_op *op)
{
    fiber_wake(CONTAINER_OF(op, struct waiting, connect.op)->fiber, 0);
}

static long try_ring_connect(void)
{
    struct waiting w = {.fiber = fiber_self()};

    w.connect.op.done = connected;
    w.connect.peer = (struct net_addr){.ip = {127, 0, 0, 1}, .family = AF_INET};
    w.connect.peer.port = (uint16_t)atoi(argument);
    io_connect(&w.connect);
    (void)fiber_suspend();
    return w.connect.op.res;
}

/* On a ring made at the start and used only now, an operation of its own. */
static long raw(void (*prepare)(struct io_uring_sqe *sqe))
{
    struct shard_private *p = shard_self()->private;
    struct io_uring_cqe *cqe;
    struct io_uring *ring;
    long res;

    res = ring_create(p, false);
    if (res < 0)
        return res;
    ring = &p->rings[p->ring_count - 1]->uring;
    prepare(io_uring_get_sqe(ring));
    res = io_uring_submit_and_wait(ring, 1);
    if (res < 0 || io_uring_peek_cqe(ring, &cqe) < 0)
        return -EIO;
    res = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return res;
}

static void prepare_open(struct io_uring_sqe *sqe)
{
    io_uring_prep_openat(sqe, AT_FDCWD, argument, O_RDONLY, 0);
}

static void prepare_socket(struct io_uring_sqe *sqe)
{
    io_uring_prep_socket(sqe, AF_INET, SOCK_DGRAM, 0, 0);
}

static void prepare_async(struct io_uring_sqe *sqe)
{
    io_uring_prep_nop(sqe);
    sqe->flags |= IOSQE_ASYNC;
}

static void prepare_nop(struct io_uring_sqe *sqe)
{
    io_uring_prep_nop(sqe);
}

/* Connects without being asked for it by connect(2), where the kernel lets clients do so. */
static int fast_socket = -1;
static struct sockaddr_in fast_peer;
static struct iovec fast_piece = {"x", 1};
static struct msghdr fast_message = {
    .msg_name = &fast_peer, .msg_namelen = sizeof fast_peer, .msg_iov = &fast_piece, .msg_iovlen = 1};

static void prepare_fast_message(struct io_uring_sqe *sqe)
{
    io_uring_prep_sendmsg(sqe, fast_socket, &fast_message, MSG_FASTOPEN);
}

static void prepare_fast_send(struct io_uring_sqe *sqe)
{
    io_uring_prep_send(sqe, fast_socket, "x", 1, MSG_FASTOPEN);
    sqe->addr2 = (uint64_t)(uintptr_t)&fast_peer; /* liburing 2.3 has no word for it. */
    sqe->addr_len = sizeof fast_peer;
}

static void prepare_fast_zero_copy(struct io_uring_sqe *sqe)
{
    prepare_fast_send(sqe);
    sqe->opcode = IORING_OP_SEND_ZC;
}

static long fast_open(void (*prepare)(struct io_uring_sqe *sqe))
{
    fast_peer.sin_family = AF_INET;
    fast_peer.sin_port = htons((uint16_t)atoi(argument));
    fast_peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fast_socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fast_socket < 0 ? -errno : raw(prepare);
}

static long try_table_fast_message(void)
{
    return fast_open(prepare_fast_message);
}

static long try_table_fast_send(void)
{
    return fast_open(prepare_fast_send);
}

static long try_table_fast_zero_copy(void)
{
    return fast_open(prepare_fast_zero_copy);
}

static long try_fast_option(void)
{
    int on = 1;

    fast_socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return result(setsockopt(fast_socket, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on));
}

static long try_table_open(void)
{
    return raw(prepare_open);
}

static long try_table_socket(void)
{
    return raw(prepare_socket);
}

static long try_table_async(void)
{
    return raw(prepare_async);
}

static long try_table_nop(void)
{
    return raw(prepare_nop);
}

static long try_table_register(void)
{
    long res = raw(prepare_nop);
    const struct shard_private *p = shard_self()->private;
    int fd = 0;

    return res < 0 ? res
                   : uring_register(&p->rings[p->ring_count - 1]->uring, IORING_REGISTER_EVENTFD, &fd, 1);
}

static const struct attempt {
    const char *name;
    long (*run)(void);
} attempts[] = {
    {"open", try_open},
    {"write", try_write},
    {"socket_tcp", try_socket_tcp},
    {"socket_udp", try_socket_udp},
    {"socket_unix", try_socket_unix},
    {"mptcp", try_mptcp},
    {"bind", try_bind},
    {"connect", try_connect},
    {"sendto", try_sendto},
    {"setsockopt", try_setsockopt},
    {"exec", try_exec},
    {"fork", try_fork},
    {"ptrace", try_ptrace},
    {"process_vm", try_process_vm},
    {"ring", try_ring},
    {"exec_memory", try_exec_memory},
    {"kill", try_kill},
    {"setuid", try_setuid},
    {"unknown", try_unknown},
    {"nothing", try_nothing},
    {"ring_open", try_ring_open},
    {"ring_write", try_ring_write},
    {"ring_connect", try_ring_connect},
    {"fast_option", try_fast_option},
    {"table_fast_message", try_table_fast_message},
    {"table_fast_send", try_table_fast_send},
    {"table_fast_zero_copy", try_table_fast_zero_copy},
    {"table_open", try_table_open},
    {"table_socket", try_table_socket},
    {"table_async", try_table_async},
    {"table_nop", try_table_nop},
    {"table_register", try_table_register},
};

static void attempt(void *arg)
{
    char text[32];
    int size;

    (void)arg;
    for (size_t i = 0; i < ARRAY_COUNT(attempts); i++) {
        if (strcmp(attempts[i].name, attempt_name) != 0)
            continue;
        size = snprintf(text, sizeof text, "result %ld\n", attempts[i].run());
        if (write(STDOUT_FILENO, text, (size_t)size) < 0)
            abort();
        return;
    }
    abort();
}

/* ---- The node ------------------------------------------------------------------------------------------ */

static void body(void *arg)
{
    struct shard *s = arg;

    if (strcmp(thread_name, "shard") == 0)
        attempt(NULL);
    else if (helper_call(attempt, NULL) < 0)
        abort();
    node_stop(s->node);
}

static int start(struct shard *s)
{
    if (strcmp(thread_name, "main") == 0)
        return 0;
    return fiber_start("probe", RUN_INTERACTIVE, body, s) != NULL ? 0 : -EAGAIN;
}

static void stop(struct shard *s)
{
    (void)s;
}

static void ready(struct node *node, void *arg)
{
    (void)arg;
    if (strcmp(thread_name, "main") == 0) {
        attempt(NULL);
        node_stop(node);
    }
}

static int confine(void *arg)
{
    return confinement_enter(arg);
}

static int seal(void *arg)
{
    return confinement_seal(arg);
}

int main(int argc, char **argv)
{
    static const struct node_ops ops = {start, stop};
    struct config *c = config_new(settings_keys, settings_key_count);
    struct config_error error;
    struct node_options options = {.ops = &ops,
                                   .config = c,
                                   .shard_count = 1,
                                   .helper_count = 1,
                                   .ready = ready,
                                   .confine = confine,
                                   .seal = seal,
                                   .arg = &confinement};
    char text[NODE_ERROR_MAX];
    int rc;

    if (argc < 4)
        return 2;
    thread_name = argv[1];
    attempt_name = argv[2];
    argument = argv[3];
    for (int i = 4; i < argc; i++) {
        if (!config_set(c, argv[i], &error)) {
            fprintf(stderr, "%s\n", error.text);
            return 2;
        }
    }
    if (confinement_plan(c, &confinement) != 0)
        return 2;
    options.data = config_string(c, "data");
    options.ring_rights = confinement_ring_rights(&confinement);
    options.sockets_max = 200000; /* More than the main ring has: a spare is there. */
    rc = node_run(&options, text);
    if (rc < 0)
        fprintf(stderr, "%s\n", text);
    confinement_fini(&confinement);
    config_free(c);
    return rc < 0 ? 3 : 0;
}
