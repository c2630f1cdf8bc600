#include "core/sandbox.h"
#include "core/sanitizer.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A sanitizer opens files, forks and traces its own process to write a report. */
#if defined(HAVE_ASAN) || defined(HAVE_TSAN)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static void add_missing(char missing[SANDBOX_MISSING_MAX], const char *what)
{
    size_t at = strlen(missing);

    snprintf(missing + at, SANDBOX_MISSING_MAX - at, "%s%s", at > 0 ? "," : "", what);
}

/* ---- Capabilities -------------------------------------------------------------------------------------- */

static void drop_capabilities(char missing[SANDBOX_MISSING_MAX])
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2];

    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* Who may not do this has none to drop. */
    memset(none, 0, sizeof none);
    if (syscall(__NR_capset, &head, none) < 0)
        add_missing(missing, "capabilities");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        add_missing(missing, "no_new_privs");
}

/* ---- Landlock: the kernel's user API, of which older headers have only the beginning ------------------- */

struct ruleset { /* struct landlock_ruleset_attr */
    uint64_t fs, net, scoped;
};

struct net_rule { /* struct landlock_net_port_attr */
    uint64_t access, port;
};

#define RULE_NET_PORT   2
#define NET_BIND_TCP    (UINT64_C(1) << 0)
#define NET_CONNECT_TCP (UINT64_C(1) << 1)
#define FS_TRUNCATE     (UINT64_C(1) << 14)
#define FS_ALL_1        (LANDLOCK_ACCESS_FS_REFER - 1)
#define SCOPE_ALL       UINT64_C(3) /* Abstract Unix sockets; signals to other processes. */
#define ABI_REFER       2
#define ABI_TRUNCATE    3
#define ABI_NET         4
#define ABI_IOCTL       5
#define ABI_SCOPE       6

static uint64_t fs_rights(int abi)
{
    static const struct {
        int abi;
        uint64_t right;
    } later[] = {
        {ABI_REFER, LANDLOCK_ACCESS_FS_REFER}, {ABI_TRUNCATE, FS_TRUNCATE}, {ABI_IOCTL, UINT64_C(1) << 15}};
    uint64_t rights = FS_ALL_1;

    for (size_t i = 0; i < ARRAY_COUNT(later); i++)
        rights |= abi >= later[i].abi ? later[i].right : 0;
    return rights;
}

static int allow_directory(int ruleset, int abi, const struct sandbox_directory *d)
{
    static const uint64_t writable = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR |
                                     LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |
                                     LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                                     LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REFER | FS_TRUNCATE;
    struct landlock_path_beneath_attr rule = {
        .allowed_access = fs_rights(abi) & (d->writable ? writable : LANDLOCK_ACCESS_FS_READ_FILE),
        .parent_fd = open(d->path, O_PATH | O_DIRECTORY | O_CLOEXEC)};
    int rc = 0;

    if (rule.parent_fd < 0)
        return -errno;
    if (syscall(__NR_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        rc = -errno;
    close(rule.parent_fd);
    return rc;
}

static int allow_ports(int ruleset, const struct sandbox_profile *profile)
{
    for (size_t i = 0; i < profile->port_count; i++) {
        struct net_rule rule = {.access = NET_CONNECT_TCP, .port = profile->ports[i]};

        if (syscall(__NR_landlock_add_rule, ruleset, RULE_NET_PORT, &rule, 0) < 0)
            return -errno;
    }
    return 0;
}

static int landlock_fill(int ruleset, int abi, const struct sandbox_profile *profile)
{
    int rc = abi >= ABI_NET ? allow_ports(ruleset, profile) : 0;

    for (size_t i = 0; rc == 0 && i < profile->directory_count; i++)
        rc = allow_directory(ruleset, abi, &profile->directories[i]);
    if (rc == 0 && syscall(__NR_landlock_restrict_self, ruleset, 0) < 0)
        rc = -errno;
    return rc;
}

static int landlock(const struct sandbox_profile *profile, char missing[SANDBOX_MISSING_MAX])
{
    int abi = (int)syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct ruleset handled = {.fs = fs_rights(abi),
                              .net = abi < ABI_NET ? 0 : NET_BIND_TCP | NET_CONNECT_TCP,
                              .scoped = abi < ABI_SCOPE ? 0 : SCOPE_ALL};
    int ruleset, rc;

    if (abi < 1 || SANITIZED) {
        add_missing(missing, "landlock");
        return 0;
    }
    if (abi < ABI_NET)
        add_missing(missing, "landlock_tcp");
    ruleset = (int)syscall(__NR_landlock_create_ruleset, &handled,
                           abi < ABI_NET     ? offsetof(struct ruleset, net)
                           : abi < ABI_SCOPE ? offsetof(struct ruleset, scoped)
                                             : sizeof handled,
                           0);
    if (ruleset < 0)
        return -errno;
    rc = landlock_fill(ruleset, abi, profile);
    close(ruleset);
    return rc;
}

int sandbox_enter(const struct sandbox_profile *profile, char missing[SANDBOX_MISSING_MAX])
{
    tzset(); /* Reads a file at the first question about a date, which would come too late. */
    drop_capabilities(missing);
    return landlock(profile, missing);
}

/* ---- seccomp ------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define AUDIT_ARCH_HERE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define AUDIT_ARCH_HERE AUDIT_ARCH_AARCH64
#endif

#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000u
#endif

#define PROGRAM_MAX 512

struct program {
    struct sock_filter at[PROGRAM_MAX];
    unsigned count;
};

/* What every turn of a shard's loop does comes first; the kernel remembers the answers that depend on the number alone. */
static const int calls_always[] = {
    __NR_io_uring_enter,
    __NR_futex,
    __NR_write,
    __NR_read,
#ifdef __NR_poll
    __NR_poll,
#endif
    __NR_ppoll,
    __NR_madvise,
    __NR_munmap,
    __NR_mremap,
    __NR_brk,
    __NR_close,
    __NR_getrandom,
    __NR_clock_gettime,
    __NR_clock_nanosleep,
    __NR_nanosleep,
    __NR_restart_syscall,
    __NR_rt_sigprocmask,
    __NR_rt_sigreturn,
    __NR_rt_sigaction,
    __NR_sigaltstack,
    __NR_sched_yield,
    __NR_io_uring_register,
    __NR_recvmsg,
    __NR_writev,
    __NR_sysinfo,
    __NR_sched_getaffinity,
    __NR_getpid,
    __NR_gettid,
    __NR_exit,
    __NR_exit_group,
    __NR_listen,
    /* A thread's own beginning: it may not have come far yet. */
    __NR_rseq,
    __NR_set_robust_list,
};

/* libc reads directories by these, and locks `data`; Landlock says where. */
static const int calls_files[] = {__NR_openat,     __NR_getdents64, __NR_flock,
                                  __NR_newfstatat, __NR_fstat,      __NR_fcntl};

/* None of these is ever called by what is in the process. */
static const int calls_kill[] = {
    __NR_execve,
    __NR_execveat,
    __NR_clone,
    __NR_clone3,
    __NR_ptrace,
    __NR_process_vm_readv,
    __NR_process_vm_writev,
    __NR_io_uring_setup,
    __NR_openat,
    __NR_openat2,
    __NR_open_by_handle_at,
    __NR_socket,
    __NR_connect,
    __NR_bind,
    __NR_accept,
    __NR_accept4,
    __NR_sendto,
    __NR_sendmsg,
    __NR_sendmmsg,
    __NR_socketpair,
    __NR_kill,
    __NR_tkill,
    __NR_pidfd_open,
    __NR_pidfd_getfd,
    __NR_pidfd_send_signal,
    __NR_mount,
    __NR_umount2,
    __NR_pivot_root,
    __NR_chroot,
    __NR_unshare,
    __NR_setns,
    __NR_bpf,
    __NR_perf_event_open,
    __NR_userfaultfd,
    __NR_keyctl,
    __NR_add_key,
    __NR_request_key,
    __NR_memfd_create,
    __NR_setuid,
    __NR_setgid,
    __NR_setresuid,
    __NR_setresgid,
    __NR_setreuid,
    __NR_setregid,
    __NR_setgroups,
    __NR_capset,
    __NR_init_module,
    __NR_finit_module,
    __NR_kexec_load,
    __NR_personality,
    __NR_unlinkat,
    __NR_renameat,
    __NR_renameat2,
    __NR_linkat,
    __NR_symlinkat,
    __NR_mkdirat,
    __NR_mknodat,
    __NR_truncate,
    __NR_fchmodat,
    __NR_fchownat,
    __NR_pkey_mprotect,
    __NR_setsockopt,
    __NR_tgkill,
#ifdef __NR_open
    __NR_open,
    __NR_creat,
    __NR_fork,
    __NR_vfork,
    __NR_unlink,
    __NR_rename,
    __NR_link,
    __NR_symlink,
    __NR_mkdir,
    __NR_rmdir,
    __NR_mknod,
    __NR_chmod,
    __NR_chown,
    __NR_modify_ldt,
    __NR_iopl,
    __NR_ioperm,
#endif
};

#define DATA(member)      ((uint32_t)offsetof(struct seccomp_data, member))
#define ARGUMENT(i)       (DATA(args) + 8u * (i)) /* Its lower half: little-endian. */
#define ARGUMENT_UPPER(i) (ARGUMENT(i) + 4u)

static void put(struct program *p, uint16_t code, uint32_t k, uint8_t if_true, uint8_t if_false)
{
    ASSERT(p->count < PROGRAM_MAX);
    p->at[p->count++] = (struct sock_filter){code, if_true, if_false, k};
}

static void put_load(struct program *p, uint32_t offset)
{
    put(p, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

static void put_return(struct program *p, uint32_t action)
{
    put(p, BPF_RET | BPF_K, action, 0, 0);
}

static void put_calls(struct program *p, const int *calls, size_t count, uint32_t action)
{
    for (size_t i = 0; i < count; i++) {
        put(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1);
        put_return(p, action);
    }
}

/* Memory, but none that can be executed: allowed when argument 2 has no PROT_EXEC. */
static void put_memory_call(struct program *p, int call)
{
    put(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 4);
    put_load(p, ARGUMENT(2));
    put(p, BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 1, 0);
    put_return(p, SECCOMP_RET_ALLOW);
    put_return(p, SECCOMP_RET_KILL_PROCESS);
}

#define CHECKED_MAX 3

/* The `count` arguments from `first` on must each be one of two values, else the process ends. */
static void put_checked_call(struct program *p, int call, unsigned first, unsigned count,
                             const uint32_t values[][2])
{
    put(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, (uint8_t)(4 * count + 1));
    for (unsigned i = 0; i < count; i++) {
        put_load(p, ARGUMENT(first + i));
        put(p, BPF_JMP | BPF_JEQ | BPF_K, values[i][0], 2, 0);
        put(p, BPF_JMP | BPF_JEQ | BPF_K, values[i][1], 1, 0);
        put_return(p, SECCOMP_RET_KILL_PROCESS);
    }
    put_return(p, SECCOMP_RET_ALLOW);
}

/* TCP over IP alone, since Landlock knows no ports of anything else; and its two options (socket_options()). */
static void put_connect_calls(struct program *p)
{
    static const uint32_t tcp[][2] = {
        {AF_INET, AF_INET6}, {SOCK_STREAM | SOCK_CLOEXEC, SOCK_STREAM | SOCK_CLOEXEC}, {0, 0}};
    static const uint32_t options[][2] = {{IPPROTO_TCP, IPPROTO_TCP}, {TCP_NODELAY, TCP_NOTSENT_LOWAT}};

    put_checked_call(p, __NR_socket, 0, 3, tcp);
    put_checked_call(p, __NR_setsockopt, 1, 2, options);
}

static void program_make(struct program *p, const struct sandbox_profile *profile)
{
    const uint32_t self[][2] = {{(uint32_t)getpid(), (uint32_t)getpid()}};
    static const uint32_t set_name[][2] = {{PR_SET_NAME, PR_SET_NAME}};
    static const uint32_t passing[][2] = {{MSG_NOSIGNAL | MSG_DONTWAIT, MSG_NOSIGNAL | MSG_DONTWAIT}};

    put_load(p, DATA(arch));
    put(p, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_HERE, 1, 0);
    put_return(p, SECCOMP_RET_KILL_PROCESS);
    put_load(p, DATA(nr));
    put_calls(p, calls_always, ARRAY_COUNT(calls_always), SECCOMP_RET_ALLOW);
    if (profile->files)
        put_calls(p, calls_files, ARRAY_COUNT(calls_files), SECCOMP_RET_ALLOW);
    put_memory_call(p, __NR_mmap);
    put_memory_call(p, __NR_mprotect);
    put_checked_call(p, __NR_tgkill, 0, 1, self); /* abort() */
    put_checked_call(p, __NR_prctl, 0, 1, set_name);
    put_checked_call(p, __NR_sendmsg, 2, 1,
                     passing); /* passing.c. Without MSG_FASTOPEN it connects to nobody. */
    if (profile->connect)
        put_connect_calls(p);
    put_calls(p, calls_kill, ARRAY_COUNT(calls_kill), SECCOMP_RET_KILL_PROCESS);
    put_return(p, SECCOMP_RET_ERRNO | ENOSYS);
}

void sandbox_seal(const struct sandbox_profile *profile, char missing[SANDBOX_MISSING_MAX])
{
    static struct program p;
    struct sock_fprog program;

    p.count = 0;
    program_make(&p, profile);
    program = (struct sock_fprog){(unsigned short)p.count, p.at};
    if (SANITIZED || syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        add_missing(missing, "seccomp");
}
