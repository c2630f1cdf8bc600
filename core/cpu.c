#include "core/cpu.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_MAX        16384 /* Of a file of /proc that is read whole. */
#define LINE_SIZE_MAX   4096
#define MOUNT_SIZE_MAX  128
#define GROUP_SIZE_MAX  384 /* Kubernetes' are some 220 long. */
#define PATH_SIZE_MAX   600
#define MEMORY_NO_LIMIT (1ull << 60) /* What version 1 says without a limit is near 2^63. */

/* ---- Sets ---------------------------------------------------------------------------------------------- */

static bool set_has(const struct cpu_set_bits *s, unsigned cpu)
{
    return cpu < CPU_NUMBER_MAX && (s->words[cpu / 64] >> cpu % 64 & 1) != 0;
}

static unsigned set_count(const struct cpu_set_bits *s)
{
    unsigned count = 0;

    for (size_t i = 0; i < ARRAY_COUNT(s->words); i++)
        count += (unsigned)__builtin_popcountll(s->words[i]);
    return count;
}

static void set_keep(struct cpu_set_bits *s, const struct cpu_set_bits *other)
{
    for (size_t i = 0; i < ARRAY_COUNT(s->words); i++)
        s->words[i] &= other->words[i];
}

/* "0-3" or "8". */
static bool range_parse(struct slice text, struct cpu_set_bits *set)
{
    size_t dash = slice_find(text, '-');
    uint64_t first, last;

    if (!slice_to_u64(slice_first(text, dash), CPU_NUMBER_MAX - 1, &first))
        return false;
    last = first;
    if (dash < text.size && !slice_to_u64(slice_from(text, dash + 1), CPU_NUMBER_MAX - 1, &last))
        return false;
    if (last < first)
        return false;
    for (uint64_t cpu = first; cpu <= last; cpu++)
        set->words[cpu / 64] |= 1ull << cpu % 64;
    return true;
}

static struct slice trim(struct slice s)
{
    while (s.size > 0 && strchr(" \t\n", s.data[0]) != NULL)
        s = slice_from(s, 1);
    while (s.size > 0 && strchr(" \t\n", s.data[s.size - 1]) != NULL)
        s.size--;
    return s;
}

static bool set_parse(struct slice text, struct cpu_set_bits *set_out)
{
    struct cpu_set_bits set = {.words = {0}};

    while (text.size > 0) {
        size_t comma = slice_find(text, ',');

        if (!range_parse(trim(slice_first(text, comma)), &set))
            return false;
        text = slice_from(text, MIN(comma + 1, text.size));
    }
    *set_out = set;
    return set_count(&set) > 0;
}

/* "0-3,8" into `text`, cut with "..." when it does not fit. */
static void set_format(const struct cpu_set_bits *s, char *text, size_t size)
{
    size_t at = 0;

    text[0] = '\0';
    for (unsigned first = 0, last; first < CPU_NUMBER_MAX; first = last + 1) {
        last = first;
        if (!set_has(s, first))
            continue;
        while (set_has(s, last + 1))
            last++;
        if (at + 16 > size) {
            snprintf(text + at, size - at, "...");
            return;
        }
        at += (size_t)snprintf(text + at, size - at, last > first ? "%s%u-%u" : "%s%u", at > 0 ? "," : "",
                               first, last);
    }
}

/* ---- Files --------------------------------------------------------------------------------------------- */

/* At most size - 1 bytes, NUL-terminated. */
static ssize_t read_text(const char *root, const char *path, char *text, size_t size)
{
    char full[PATH_SIZE_MAX];
    ssize_t got, used = 0;
    int fd;

    if ((size_t)snprintf(full, sizeof full, "%s%s", root, path) >= sizeof full)
        return -ENAMETOOLONG;
    fd = open(full, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    while ((size_t)used < size - 1 && (got = read(fd, text + used, size - 1 - (size_t)used)) > 0)
        used += got;
    close(fd);
    text[used] = '\0';
    return used;
}

/* The value behind "name:" at the start of a line. */
static struct slice field(const char *text, const char *name)
{
    size_t size = strlen(name);
    const char *line = text;

    while (line != NULL) {
        if (strncmp(line, name, size) == 0 && line[size] == ':') {
            line += size + 1;
            return trim(slice_of(line, strcspn(line, "\n")));
        }
        line = strchr(line, '\n');
        if (line != NULL)
            line++;
    }
    return slice_of(NULL, 0);
}

/* ---- Control groups ------------------------------------------------------------------------------------ */

struct group {
    char mount[MOUNT_SIZE_MAX]; /* Where the hierarchy is mounted. */
    char path[GROUP_SIZE_MAX];  /* The process's group in it, below `mount`. */
};

/* One line of /proc/self/mountinfo (proc(5)), cut in place: "36 35 98:0 ROOT MOUNT options ... - TYPE SOURCE
 * SUPER". */
static bool mount_fields(char *line, char **root, char **mount, char **type, char **super)
{
    char *at = line, *tail = strstr(line, " - ");

    if (tail == NULL)
        return false;
    *tail = '\0';
    tail += 3;
    for (int i = 0; i < 3; i++) {
        at = strchr(at, ' ');
        if (at == NULL)
            return false;
        at++;
    }
    *root = strsep(&at, " ");
    *mount = strsep(&at, " ");
    *type = strsep(&tail, " ");
    (void)strsep(&tail, " ");
    *super = tail;
    return *mount != NULL && *type != NULL && *super != NULL;
}

static bool list_has(const char *list, const char *word)
{
    size_t size = strlen(word);

    while (list != NULL) {
        if (strncmp(list, word, size) == 0 && (list[size] == '\0' || list[size] == ','))
            return true;
        list = strchr(list, ',');
        if (list != NULL)
            list++;
    }
    return false;
}

/* A group's path in its hierarchy, seen through the mount, whose root may be a group itself (a container's). */
static void group_path(struct group *g, const char *mount_root, const char *path)
{
    size_t size = strcmp(mount_root, "/") == 0 ? 0 : strlen(mount_root);

    if (strncmp(path, mount_root, size) != 0 || strstr(path, "/..") != NULL)
        path = "";
    else
        path += size;
    snprintf(g->path, sizeof g->path, "%s", strcmp(path, "/") == 0 ? "" : path);
}

static bool group_mount(const char *root, const char *controller, char *mount_root, size_t size,
                        struct group *g)
{
    static _Thread_local char line[LINE_SIZE_MAX];
    char full[PATH_SIZE_MAX];
    bool found = false;
    FILE *f;

    snprintf(full, sizeof full, "%s/proc/self/mountinfo", root);
    f = fopen(full, "re");
    if (f == NULL)
        return false;
    while (!found && fgets(line, sizeof line, f) != NULL) {
        char *from, *mount, *type, *super;

        line[strcspn(line, "\n")] = '\0';
        if (!mount_fields(line, &from, &mount, &type, &super))
            continue;
        found = controller == NULL ? strcmp(type, "cgroup2") == 0
                                   : strcmp(type, "cgroup") == 0 && list_has(super, controller);
        if (found) {
            snprintf(mount_root, size, "%s", from);
            snprintf(g->mount, sizeof g->mount, "%s", mount);
        }
    }
    fclose(f);
    return found;
}

/* The process's group: of a version 1 controller, or (NULL) of version 2. False: there is no such hierarchy. */
static bool group_find(const char *root, const char *controller, struct group *g)
{
    static _Thread_local char text[TEXT_MAX], mount_root[PATH_SIZE_MAX];
    char *rest = text, *line;

    if (read_text(root, "/proc/self/cgroup", text, sizeof text) < 0 ||
        !group_mount(root, controller, mount_root, sizeof mount_root, g))
        return false;
    while ((line = strsep(&rest, "\n")) != NULL) {
        char *number = strsep(&line, ":"), *controllers = strsep(&line, ":");

        if (line == NULL || number == NULL)
            continue;
        if (controller == NULL ? strcmp(number, "0") == 0 && controllers[0] == '\0'
                               : list_has(controllers, controller)) {
            group_path(g, mount_root, line);
            return true;
        }
    }
    return false;
}

/* Calls `look` for the group and all above it. */
static void group_walk(const char *root, struct group *g,
                       void (*look)(const char *root, const char *dir, void *arg), void *arg)
{
    char dir[PATH_SIZE_MAX];

    for (;;) {
        char *slash;

        snprintf(dir, sizeof dir, "%s%s", g->mount, g->path);
        look(root, dir, arg);
        slash = strrchr(g->path, '/');
        if (slash == NULL)
            return;
        *slash = '\0';
    }
}

static bool group_text(const char *root, const char *dir, const char *file, char text[128])
{
    char path[PATH_SIZE_MAX];

    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, file) >= sizeof path)
        return false;
    return read_text(root, path, text, 128) > 0;
}

static bool group_number(const char *root, const char *dir, const char *file, uint64_t *value_out)
{
    char text[128];

    return group_text(root, dir, file, text) && slice_to_u64(trim(slice_str(text)), UINT64_MAX, value_out);
}

static void quota_lower(struct cpu_limits *l, uint64_t quota, uint64_t period)
{
    if (period > 0 && quota < UINT64_MAX / 1000)
        l->quota_milli = MIN(l->quota_milli, quota * 1000 / period);
}

static void look_quota_v1(const char *root, const char *dir, void *arg) /* -1, no limit, is no number. */
{
    uint64_t quota, period;

    if (group_number(root, dir, "cpu.cfs_quota_us", &quota) &&
        group_number(root, dir, "cpu.cfs_period_us", &period))
        quota_lower(arg, quota, period);
}

static void look_quota_v2(const char *root, const char *dir, void *arg) /* "max 100000" or "150000 100000". */
{
    uint64_t quota, period;
    struct slice text;
    char buffer[128];
    size_t blank;

    if (!group_text(root, dir, "cpu.max", buffer))
        return;
    text = trim(slice_str(buffer));
    blank = slice_find(text, ' ');
    if (blank < text.size && slice_to_u64(slice_first(text, blank), UINT64_MAX, &quota) &&
        slice_to_u64(slice_from(text, blank + 1), UINT64_MAX, &period))
        quota_lower(arg, quota, period);
}

static void memory_lower(struct cpu_limits *l, const char *root, const char *dir, const char *file)
{
    uint64_t limit;

    if (group_number(root, dir, file, &limit) && limit < MEMORY_NO_LIMIT)
        l->memory_limit = MIN(l->memory_limit, limit);
}

static void look_memory_v1(const char *root, const char *dir, void *arg)
{
    memory_lower(arg, root, dir, "memory.limit_in_bytes");
}

static void look_memory_v2(const char *root, const char *dir, void *arg)
{
    memory_lower(arg, root, dir, "memory.max");
    memory_lower(arg, root, dir, "memory.high"); /* Above it the group is slowed down until it is useless. */
}

static void keep_listed(const char *root, const char *path, struct cpu_limits *l)
{
    static _Thread_local char text[TEXT_MAX];
    struct cpu_set_bits set;

    if (read_text(root, path, text, sizeof text) > 0 && set_parse(trim(slice_str(text)), &set))
        set_keep(&l->allowed, &set);
}

static void keep_cpuset(const char *root, const struct group *g, const char *file, struct cpu_limits *l)
{
    char path[PATH_SIZE_MAX];

    if ((size_t)snprintf(path, sizeof path, "%s%s/%s", g->mount, g->path, file) < sizeof path)
        keep_listed(root, path, l);
}

static void detect_groups(const char *root, struct cpu_limits *l)
{
    static _Thread_local struct group g;

    if (group_find(root, "cpuset", &g))
        keep_cpuset(root, &g, "cpuset.effective_cpus", l);
    if (group_find(root, "cpu", &g))
        group_walk(root, &g, look_quota_v1, l);
    if (group_find(root, "memory", &g))
        group_walk(root, &g, look_memory_v1, l);
    if (group_find(root, NULL, &g)) {
        keep_cpuset(root, &g, "cpuset.cpus.effective", l);
        group_walk(root, &g, look_quota_v2, l);
    }
    if (group_find(root, NULL, &g)) /* The walk has consumed the path. */
        group_walk(root, &g, look_memory_v2, l);
}

int cpu_detect(const char *root, struct cpu_limits *limits_out)
{
    static _Thread_local char text[TEXT_MAX];
    struct cpu_limits l = {.quota_milli = UINT64_MAX, .memory_limit = UINT64_MAX};
    struct slice value;
    uint64_t kib;
    ssize_t rc;

    rc = read_text(root, "/proc/self/status", text, sizeof text);
    if (rc < 0)
        return (int)rc;
    if (!set_parse(field(text, "Cpus_allowed_list"), &l.allowed))
        return -EINVAL;
    rc = read_text(root, "/proc/meminfo", text, sizeof text);
    if (rc < 0)
        return (int)rc;
    value = field(text, "MemAvailable");
    if (!slice_to_u64(slice_first(value, slice_find(value, ' ')), UINT64_MAX / 1024, &kib))
        return -EINVAL;
    l.memory_free = kib * 1024;
    keep_listed(root, "/sys/devices/system/cpu/online", &l);
    detect_groups(root, &l);
    l.allowed_count = set_count(&l.allowed);
    if (l.allowed_count == 0)
        return -EINVAL;
    l.usable_count = l.allowed_count;
    if (l.quota_milli != UINT64_MAX)
        l.usable_count = (unsigned)MIN((uint64_t)l.usable_count, MAX(l.quota_milli / 1000, (uint64_t)1));
    *limits_out = l;
    return 0;
}

/* ---- Claims -------------------------------------------------------------------------------------------- */

static int claim_dir_open(const char *dir, mode_t mode)
{
    if (mkdir(dir, mode) == 0)
        (void)chmod(dir, mode); /* The umask would keep other users out of a shared one. */
    return open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static int claim_dir_below(const char *parent)
{
    char dir[PATH_SIZE_MAX];

    if ((size_t)snprintf(dir, sizeof dir, "%s/trireme", parent) >= sizeof dir - 4)
        return -1;
    (void)mkdir(dir, 0755);
    strcat(dir, "/cpu");
    if (access(parent, W_OK) < 0 && access(dir, W_OK) < 0)
        return -1;
    return claim_dir_open(dir, 0755);
}

static int claim_dir_default(void)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    int fd = claim_dir_below("/run");

    if (fd < 0 && runtime != NULL && runtime[0] == '/')
        fd = claim_dir_below(runtime);
    return fd >= 0 ? fd : claim_dir_open("/tmp/trireme-cpu", 01777);
}

/* A descriptor that holds the lock, -EBUSY, or -errno. */
static int claim_cpu(int dir_fd, unsigned cpu)
{
    char name[16];
    int fd, rc;

    snprintf(name, sizeof name, "%u", cpu);
    /* First without O_CREAT: in a sticky directory that is refused for a file of somebody else. */
    fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        fd = openat(dir_fd, name, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
    close(fd);
    return rc;
}

/* ---- The plan ------------------------------------------------------------------------------------------ */

struct wish {
    struct cpu_set_bits cpus; /* To choose from. */
    unsigned count;           /* How many of them. */
    bool at_most;             /* auto: fewer will do. */
    bool named;               /* A list: exactly these. */
};

static void describe(const struct cpu_limits *l, char *text, size_t size)
{
    char list[128];

    set_format(&l->allowed, list, sizeof list);
    if (l->quota_milli == UINT64_MAX)
        snprintf(text, size, "affinity and cpuset allow CPUs %s, no quota", list);
    else
        snprintf(text, size, "affinity and cpuset allow CPUs %s, the quota is %llu.%02llu CPUs", list,
                 (unsigned long long)(l->quota_milli / 1000),
                 (unsigned long long)(l->quota_milli % 1000 / 10));
}

static bool wish_parse(const struct cpu_limits *l, const char *cores, struct wish *w)
{
    uint64_t count;

    *w = (struct wish){.cpus = l->allowed, .count = l->usable_count};
    if (strcmp(cores, "auto") == 0) {
        w->at_most = true;
        return true;
    }
    if (slice_to_u64(slice_str(cores), CPU_NUMBER_MAX, &count) && count > 0) {
        w->count = (unsigned)count;
        return true;
    }
    if (strpbrk(cores, "-,") != NULL && set_parse(slice_str(cores), &w->cpus)) {
        w->count = set_count(&w->cpus);
        w->named = true;
        return true;
    }
    return false;
}

bool cpu_cores_valid(const char *cores)
{
    static const struct cpu_limits none;
    struct wish w;

    return wish_parse(&none, cores, &w);
}

static int wish_check(const struct cpu_limits *l, const char *cores, const struct wish *w,
                      char error[CPU_ERROR_MAX])
{
    struct cpu_set_bits both = w->cpus;
    char reason[256];

    describe(l, reason, sizeof reason);
    set_keep(&both, &l->allowed);
    if (w->count > l->usable_count) {
        snprintf(error, CPU_ERROR_MAX, "cores: %.64s asks for %u CPUs, and this process may use %u (%s)",
                 cores, w->count, l->usable_count, reason);
        return -EINVAL;
    }
    if (set_count(&both) < w->count) {
        snprintf(error, CPU_ERROR_MAX, "cores: %.64s asks for %u CPUs, of which this process may use %u (%s)",
                 cores, w->count, set_count(&both), reason);
        return -EINVAL;
    }
    return 0;
}

/* Takes the lowest of the wished-for CPUs that nobody holds. */
static int plan_take(const struct wish *w, int dir_fd, struct cpu_plan *plan)
{
    for (unsigned cpu = 0; cpu < CPU_NUMBER_MAX && plan->count < w->count; cpu++) {
        int fd = -1;

        if (!set_has(&w->cpus, cpu))
            continue;
        if (dir_fd >= 0)
            fd = claim_cpu(dir_fd, cpu);
        if (fd == -EBUSY)
            continue;
        if (dir_fd >= 0 && fd < 0)
            return fd;
        plan->cpus[plan->count] = cpu;
        plan->claims[plan->count++] = fd;
    }
    return plan->count == w->count || (w->at_most && plan->count > 0) ? 0 : -EBUSY;
}

static int plan_fill(const struct wish *w, const char *cores, bool shared, const char *claim_dir,
                     struct cpu_plan *plan, char error[CPU_ERROR_MAX])
{
    int dir_fd = -1, rc;

    if (!shared) {
        dir_fd = claim_dir != NULL ? claim_dir_open(claim_dir, 0755) : claim_dir_default();
        rc = dir_fd < 0 ? -errno : 0;
        if (rc < 0) {
            snprintf(error, CPU_ERROR_MAX, "cores: CPUs cannot be claimed in a directory: %s", strerror(-rc));
            return rc;
        }
    }
    rc = plan_take(w, dir_fd, plan);
    if (dir_fd >= 0)
        close(dir_fd);
    if (rc == -EBUSY)
        snprintf(
            error, CPU_ERROR_MAX,
            "cores: %.64s asks for %u CPUs, and %u are free: other Trireme processes have claimed the rest "
            "(cores.shared: true lets processes share CPUs)",
            cores, w->at_most ? 1 : w->count, plan->count);
    else if (rc < 0)
        snprintf(error, CPU_ERROR_MAX, "cores: a CPU cannot be claimed: %s", strerror(-rc));
    return rc;
}

int cpu_plan_make(const struct cpu_limits *limits, const char *cores, bool shared, const char *claim_dir,
                  struct cpu_plan *plan_out, char error_out[CPU_ERROR_MAX])
{
    struct cpu_plan plan = {.count = 0};
    struct wish w;
    int rc;

    if (!wish_parse(limits, cores, &w)) {
        snprintf(error_out, CPU_ERROR_MAX, "cores: \"%.64s\" is not " CPU_CORES_WANTED, cores);
        return -EINVAL;
    }
    rc = wish_check(limits, cores, &w, error_out);
    if (rc < 0)
        return rc;
    plan.cpus = calloc(w.count, sizeof *plan.cpus);
    plan.claims = calloc(w.count, sizeof *plan.claims);
    if (plan.cpus == NULL || plan.claims == NULL) {
        snprintf(error_out, CPU_ERROR_MAX, "cores: no memory");
        rc = -ENOMEM;
    } else {
        rc = plan_fill(&w, cores, shared, claim_dir, &plan, error_out);
    }
    if (rc < 0)
        cpu_plan_fini(&plan);
    else
        *plan_out = plan;
    return rc;
}

void cpu_plan_fini(struct cpu_plan *plan)
{
    for (unsigned i = 0; i < plan->count; i++) {
        if (plan->claims[i] >= 0)
            close(plan->claims[i]);
    }
    free(plan->cpus);
    free(plan->claims);
    *plan = (struct cpu_plan){.count = 0};
}

int memory_plan_make(const struct cpu_limits *limits, uint64_t wanted, uint64_t *budget_out,
                     char error_out[CPU_ERROR_MAX])
{
    uint64_t have = MIN(limits->memory_limit, limits->memory_free);

    if (wanted > have) {
        snprintf(error_out, CPU_ERROR_MAX, "memory: %llu MiB asked for, and there are %llu MiB (%s)",
                 (unsigned long long)(wanted >> 20), (unsigned long long)(have >> 20),
                 limits->memory_limit <= limits->memory_free ? "the control group's limit"
                                                             : "free on the machine");
        return -EINVAL;
    }
    *budget_out = wanted > 0 ? wanted : have / 10 * 8;
    return 0;
}
