#include "bench/measure.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUCKET_LOG    0.0198026272961797 /* log(1.02) */
#define PROCESSES_MAX 8192

double clock_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

void latency_add(struct latencies *l, double us)
{
    int bucket = us <= 1 ? 0 : (int)(log(us) / BUCKET_LOG);

    l->buckets[MIN(bucket, LATENCY_BUCKETS - 1)]++;
    l->count++;
}

double latency_quantile(const struct latencies *l, double q)
{
    uint64_t wanted = (uint64_t)((double)l->count * q), seen = 0;

    for (int i = 0; i < LATENCY_BUCKETS; i++) {
        seen += l->buckets[i];
        if (seen > wanted)
            return exp((i + 0.5) * BUCKET_LOG);
    }
    return 0;
}

bool server_parse(struct server *s, const char *text)
{
    char *copy = strdup(text), *rest = copy;

    for (char *item; (item = strsep(&rest, ",")) != NULL && s->count < LAYERS_MAX;) {
        char *equals = strchr(item, '='), *number = equals != NULL ? equals + 1 : item;

        snprintf(s->roots[s->count].layer, sizeof s->roots[0].layer, "%.*s",
                 equals != NULL ? (int)(equals - item) : 6, equals != NULL ? item : "server");
        s->roots[s->count].pid = atoi(number);
        if (s->roots[s->count++].pid <= 0) {
            free(copy);
            return false;
        }
    }
    free(copy);
    return s->count > 0;
}

struct process {
    int pid, parent;
    double own_ticks, children_ticks;
};

static bool process_read(int pid, struct process *p)
{
    unsigned long user, system;
    long children_user, children_system;
    char path[64], text[1024], *at;
    FILE *f;
    size_t size;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    f = fopen(path, "re");
    if (f == NULL)
        return false;
    size = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[size] = '\0';
    at = strrchr(text, ')'); /* The name may hold anything. */
    if (at == NULL || sscanf(at + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld",
                             &p->parent, &user, &system, &children_user, &children_system) != 5)
        return false;
    p->pid = pid;
    p->own_ticks = (double)(user + system);
    p->children_ticks = (double)(children_user + children_system);
    return true;
}

static int processes_read(struct process *list)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    int count = 0;

    while (dir != NULL && (entry = readdir(dir)) != NULL && count < PROCESSES_MAX) {
        int pid = atoi(entry->d_name);

        if (pid > 0 && process_read(pid, &list[count]))
            count++;
    }
    if (dir != NULL)
        closedir(dir);
    return count;
}

/* Is `pid` the root or below it? */
static bool descends(const struct process *list, int count, int pid, int root)
{
    for (int depth = 0; depth < 16 && pid > 1; depth++) {
        int parent = 0;

        if (pid == root)
            return true;
        for (int i = 0; i < count; i++) {
            if (list[i].pid == pid)
                parent = list[i].parent;
        }
        pid = parent;
    }
    return false;
}

/* The whole answer into `text`, as far as it fits. */
static void metrics_read(unsigned port, char *text, size_t text_size)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t size = 0;
    ssize_t n;

    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0 &&
        write(fd, request, strlen(request)) == (ssize_t)strlen(request)) {
        while (size + 1 < text_size && (n = read(fd, text + size, text_size - 1 - size)) > 0)
            size += (size_t)n;
    }
    if (fd >= 0)
        close(fd);
    text[size] = '\0';
}

double server_metric(const struct server *s, const char *name)
{
    static char text[1 << 20];
    size_t size = strlen(name);
    double sum = -1;

    if (s->admin_port == 0)
        return sum;
    metrics_read(s->admin_port, text, sizeof text);
    for (const char *at = text; (at = strstr(at, name)) != NULL; at += size) {
        const char *end = at[size] == '{' ? strchr(at, '}') + 1 : at + size;

        if ((at == text || at[-1] == '\n') && *end == ' ')
            sum = MAX(sum, 0) + strtod(end, NULL);
    }
    return sum;
}

void server_cpu_us(const struct server *s, double cpu_us_out[LAYERS_MAX])
{
    static struct process list[PROCESSES_MAX];
    double us_per_tick = 1e6 / (double)sysconf(_SC_CLK_TCK);
    int count = processes_read(list);

    for (unsigned r = 0; r < s->count; r++) {
        cpu_us_out[r] = 0;
        for (int i = 0; i < count; i++) {
            if (descends(list, count, list[i].pid, s->roots[r].pid))
                cpu_us_out[r] += (list[i].own_ticks + list[i].children_ticks) * us_per_tick;
        }
    }
}

/* Of the last line that begins with `name`, which says what its unit is. */
static uint64_t line_number(const char *path, const char *name)
{
    uint64_t value = 0;
    char line[256];
    FILE *f = fopen(path, "re");

    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0)
            value = strtoull(line + strlen(name), NULL, 10);
    }
    if (f != NULL)
        fclose(f);
    return value;
}

/* The number that follows `name`. 0: there is none. */
static double number_of(const char *directory, const char *file, const char *name)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", directory, file);
    return (double)line_number(path, name);
}

double group_kernel_bytes(const char *directory)
{
    double first = number_of(directory, "memory.kmem.usage_in_bytes", "");

    if (first > 0)
        return first + number_of(directory, "memory.kmem.tcp.usage_in_bytes", "");
    return number_of(directory, "memory.stat", "kernel ") + number_of(directory, "memory.stat", "sock ");
}

static uint64_t field_kib(int pid, const char *file, const char *name)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    return line_number(path, name);
}

void kernel_memory_read(struct kernel_memory *m)
{
    static const char path[] = "/proc/meminfo";

    *m = (struct kernel_memory){.slab_kib = line_number(path, "Slab:"),
                                .page_tables_kib = line_number(path, "PageTables:"),
                                .stacks_kib = line_number(path, "KernelStack:"),
                                .percpu_kib = line_number(path, "Percpu:"),
                                .tcp_kib = tcp_memory_kib(),
                                .available_kib = line_number(path, "MemAvailable:")};
}

void server_rss_layers(const struct server *s, bool pss, uint64_t kib_out[LAYERS_MAX])
{
    static struct process list[PROCESSES_MAX];
    int count = processes_read(list);

    for (unsigned r = 0; r < s->count; r++) {
        kib_out[r] = 0;
        for (int i = 0; i < count; i++) {
            if (!descends(list, count, list[i].pid, s->roots[r].pid))
                continue;
            kib_out[r] += pss ? field_kib(list[i].pid, "smaps_rollup", "Pss:")
                              : field_kib(list[i].pid, "status", "VmRSS:");
        }
    }
}

uint64_t server_rss_kib(const struct server *s, bool pss)
{
    uint64_t kib[LAYERS_MAX], sum = 0;

    server_rss_layers(s, pss, kib);
    for (unsigned r = 0; r < s->count; r++)
        sum += kib[r];
    return sum;
}

uint64_t tcp_memory_kib(void)
{
    FILE *f = fopen("/proc/net/sockstat", "re");
    unsigned long long pages = 0;
    char line[256];

    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *at = strncmp(line, "TCP:", 4) == 0 ? strstr(line, " mem ") : NULL;

        if (at != NULL)
            pages = strtoull(at + 5, NULL, 10);
    }
    if (f != NULL)
        fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
}
